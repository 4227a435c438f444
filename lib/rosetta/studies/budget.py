"""A study's text, up to a number of tokens."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

#: Of a text of up to so many tokens the pieces are kept, at some 200 bytes a token, and not tokenized anew each time.
HELD_TOKENS = 1_000_000


class Budgeted:
    """A stream of text up to a number of tokens, with a progress bar; the same pieces each time it is gone through.

    Of up to `HELD_TOKENS` the pieces are kept once they have all been gone through.

    Parameters
    ----------
    stream : callable
        Gives the stream from its start.
    tokens : int
        The piece that reaches this number is the last.
    count : callable
        The tokens of a piece.
    exact : bool
        Cut a piece that would exceed the number (``piece.first``). Of a segment, which is cut where both tokenizers set a
        boundary, a few tokens may be missing then; the next pieces give them.

    Attributes
    ----------
    read : int
        Tokens that were read when they were last gone through to the end.
    """

    def __init__(self, stream: Callable[[], Iterator], tokens: int, count: Callable[[Any], int], exact: bool = False):
        self.stream, self.tokens, self.count, self.exact = stream, tokens, count, exact
        self.held: list = []
        self.read = 0

    def __iter__(self) -> Iterator:
        read, pieces = 0, []
        with tqdm(total=self.tokens, unit="token", unit_scale=True, leave=False) as bar:
            for piece in self.held or self.stream():
                if self.exact and read + self.count(piece) > self.tokens:
                    piece = piece.first(self.tokens - read)
                    if piece is None:
                        continue
                yield piece
                if self.tokens <= HELD_TOKENS:
                    pieces.append(piece)
                read += self.count(piece)
                bar.update(self.count(piece))
                if read >= self.tokens:
                    break
        self.held, self.read = pieces, read
        if not read:
            raise ValueError(
                "no stretch of the corpus fits the context and, for a pair, lies between boundaries that both tokenizers "
                "share"
            )
        if read < self.tokens:
            logger.warning("the corpus holds %d of the %d tokens asked for", read, self.tokens)
