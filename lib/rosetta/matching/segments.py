"""What models read at a time: a stream of documents cut into stretches that fit their contexts.

A `Segment` is read by two models and begins and ends where both tokenizers set a boundary; a `Window` is read by one.
"""

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from rosetta.matching.alignment import (
    TokenizerRefused,
    canonical_spans,
    overlapping_tokens,
    special_prefix,
    spelled_batch,
)
from rosetta.sources.document import Document, batched

logger = logging.getLogger(__name__)

#: So many documents that a tokenizer does not spell, and not one that it does: it is the tokenizer.
GIVE_UP_AFTER = 100


class Segment(NamedTuple):
    """A stretch of one document that fits both models' contexts and begins and ends at shared boundaries."""

    document: Document
    ids_a: list[int]
    ids_b: list[int]
    tokens_a: tuple[np.ndarray, np.ndarray]  # for each canonical span, its first token and the one after its last
    tokens_b: tuple[np.ndarray, np.ndarray]
    canonical: np.ndarray  # int64 [m, 2], bytes of the document

    def first(self, tokens: int) -> "Segment | None":
        """Its beginning up to the last shared boundary within so many tokens of A; None if there is none."""
        spans = int(np.searchsorted(self.tokens_a[1], tokens, side="right"))
        if not spans:
            return None
        (first_a, last_a), (first_b, last_b) = self.tokens_a, self.tokens_b
        ids = self.ids_a[: last_a[spans - 1]], self.ids_b[: last_b[spans - 1]]
        sides = (first_a[:spans], last_a[:spans]), (first_b[:spans], last_b[:spans])
        return Segment(self.document, *ids, *sides, self.canonical[:spans])


def segments(
    documents: Iterable[Document],
    tokenizer_a,
    tokenizer_b,
    context: int,
    per_document: int | None = None,
    chunk: int = 64,
) -> Iterator[Segment]:
    """Cut documents into stretches that both models can read whole.

    A document longer than the context gives several segments, in order; a document without text gives none; a
    canonical span of more tokens than the context belongs to no segment; a document that a tokenizer cannot spell is left
    out, and counted.

    Parameters
    ----------
    documents : iterable of Document
    tokenizer_a, tokenizer_b
    context : int
        Tokens that fit each model, special tokens included.
    per_document : int, optional
        At most so many segments of each document.
    chunk : int
        Documents tokenized together.
    """
    tokenizers = tokenizer_a, tokenizer_b
    rooms = [_room(tokenizer, context) for tokenizer in tokenizers]
    for document, of_a, of_b in _spelled_documents(documents, tokenizers, chunk):
        yield from _cut(document, *of_a, *of_b, *rooms, per_document)


def _room(tokenizer, context: int) -> int:
    """Tokens of text that fit a context."""
    room = context - len(special_prefix(tokenizer))
    if room < 1:
        raise ValueError(f"a context of {context} leaves no room for a token beside the special ones")
    return room


def _cut(document, ids_a, spans_a, ids_b, spans_b, room_a, room_b, per_document) -> Iterator[Segment]:
    canonical = canonical_spans(spans_a, spans_b)
    if not len(canonical):
        return
    first_a, last_a = overlapping_tokens(spans_a, canonical)
    first_b, last_b = overlapping_tokens(spans_b, canonical)
    start = given = 0
    while start < len(canonical) and given != per_document:
        # A space that a tokenizer adds before the text may be a token of its own; it overlaps no span, but is read.
        a, b = (first_a[start], first_b[start]) if start else (0, 0)
        end = min(np.searchsorted(last_a, a + room_a, side="right"), np.searchsorted(last_b, b + room_b, side="right"))
        if end <= start:  # one span alone is longer than the context
            start += 1
            continue
        span = slice(start, end)
        ids = ids_a[a : last_a[end - 1]], ids_b[b : last_b[end - 1]]
        tokens_a, tokens_b = (first_a[span] - a, last_a[span] - a), (first_b[span] - b, last_b[span] - b)
        yield Segment(document, *ids, tokens_a, tokens_b, canonical[span])
        start, given = end, given + 1


class Window(NamedTuple):
    """Consecutive tokens of one document that fit a model's context: what one model alone reads at a time."""

    document: Document
    ids: list[int]
    spans: np.ndarray  # int64 [n, 2], bytes of the document

    def first(self, tokens: int) -> "Window":
        """Its first tokens."""
        return Window(self.document, self.ids[:tokens], self.spans[:tokens])


def windows(
    documents: Iterable[Document], tokenizer, context: int, per_document: int | None = None, chunk: int = 64
) -> Iterator[Window]:
    """Cut documents, in order, into stretches of at most `context` tokens, special tokens included.

    Parameters
    ----------
    documents : iterable of Document
    tokenizer
    context : int
    per_document : int, optional
        At most so many windows of each document.
    chunk : int
        Documents tokenized together.
    """
    room = _room(tokenizer, context)
    for document, (ids, spans) in _spelled_documents(documents, (tokenizer,), chunk):
        for start in islice(range(0, len(ids), room), per_document):
            yield Window(document, ids[start : start + room], spans[start : start + room])


def _spelled_documents(documents: Iterable[Document], tokenizers: tuple, chunk: int) -> Iterator[tuple]:
    """(document, (ids, spans) of each tokenizer), for the documents that every tokenizer can spell.

    The others are left out, the first of them named, and all counted. TokenizerRefused where none can be spelled.
    """
    read = refused = 0
    try:
        for together in batched(documents, chunk):
            spelled = [spelled_batch(tokenizer, [document.text for document in together]) for tokenizer in tokenizers]
            for document, *of_document in zip(together, *spelled, strict=True):
                reasons = [reason for reason in of_document if isinstance(reason, TokenizerRefused)]
                if not reasons:
                    read += document.text != ""
                    yield document, *of_document
                    continue
                refused += 1
                if refused == 1:
                    logger.warning("left out %s: %s", document.source, reasons[0])
                    first = reasons[0]
                if not read and refused == GIVE_UP_AFTER:
                    raise first
        if refused and not read:
            raise first
    finally:
        if refused > 1:
            logger.warning("%d documents were left out that a tokenizer does not spell", refused)
