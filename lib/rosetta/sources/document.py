"""What a document is, and the order in which documents are read.

A document is a piece of text with the subset and the category it belongs to, the five categories being those of
Table 4. Every source gives that shape: the environment, local files, a data set on the model hub.
"""

import logging
import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)

CATEGORIES = ("code", "math", "formal/scientific", "general prose", "conversational")
#: Pile subset -> category (Table 4).
PILE_CATEGORIES = {
    "Github": "code",
    "DM Mathematics": "math",
    **dict.fromkeys(
        ("ArXiv", "PubMed Central", "PubMed Abstracts", "FreeLaw", "USPTO Backgrounds", "NIH ExPorter",
         "StackExchange", "PhilPapers"), "formal/scientific"),
    **dict.fromkeys(
        ("Pile-CC", "OpenWebText2", "Wikipedia (en)", "Books3", "Gutenberg (PG-19)", "EuroParl", "BookCorpus2"),
        "general prose"),
    **dict.fromkeys(
        ("OpenSubtitles", "Ubuntu IRC", "HackerNews", "Enron Emails", "YoutubeSubtitles"), "conversational"),
}  # fmt: skip


class Document(NamedTuple):
    """A text with its origin. ``source`` names the file (and part) it came from."""

    text: str
    subset: str
    category: str
    source: str


def normalize(text: str) -> str:
    """NFC form. Every text passes here once, before any tokenizer, so byte offsets mean the same to all of them."""
    return unicodedata.normalize("NFC", text)


def read_text(path: Path) -> str | None:
    """The text of a UTF-8 file; None, with a message, for one that is missing or is something else."""
    try:
        return path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except (UnicodeDecodeError, OSError) as error:
        logger.warning("left out %s: %s", path.name, error)
        return None


def split_at_lines(text: str, characters: int) -> Iterator[str]:
    """Cut a text at line ends into pieces of at least `characters` characters, the last one excepted."""
    piece, size = [], 0
    for line in text.splitlines(keepends=True):
        piece.append(line)
        size += len(line)
        if size >= characters:
            yield "".join(piece)
            piece, size = [], 0
    if piece:
        yield "".join(piece)


def interleave(
    documents: Iterable[Document], shares: dict[str, float], seed: int, repeat: bool = False
) -> Iterator[Document]:
    """Documents in a seeded order in which every prefix holds each subset's share of the bytes, as far as text lasts.

    Parameters
    ----------
    documents : iterable of Document
    shares : dict of str to float
        Subset to its share of the bytes; a subset that is not named, or has share 0, is left out.
    seed : int
    repeat : bool
        Begin a subset again when it is used up (training, more tokens than text); by default it drops out.
    """
    pools = defaultdict(list)
    for document in documents:
        if shares.get(document.subset, 0) > 0:
            pools[document.subset].append(document)
    queues = {}
    for subset in sorted(pools):
        random.Random(f"{seed}-{subset}").shuffle(pools[subset])
        queues[subset] = iter(pools[subset])
    used = Counter()
    while queues:
        subset = min(queues, key=lambda s: (used[s] / shares[s], s))  # the one furthest behind its share
        document = next(queues[subset], None)
        if document is not None:
            used[subset] += len(document.text.encode())
            yield document
        elif repeat:
            queues[subset] = iter(pools[subset])
        else:
            del queues[subset]


def excerpt(document: Document, characters: int | None, seed: int) -> Document:
    """A piece of at most `characters` characters that begins at a line of the document.

    Drawn by seed and text, so it does not matter where a file lies. With None the document itself.
    """
    if characters is None or len(document.text) <= characters:
        return document
    starts = [0] + [i + 1 for i, c in enumerate(document.text[:-characters]) if c == "\n"]
    start = random.Random(f"{seed}-{document.text}").choice(starts)
    return document._replace(text=document.text[start : start + characters])


def batched(items: Iterable, n: int) -> Iterator[list]:
    """Lists of n items, the last one shorter."""
    items = iter(items)
    while batch := list(islice(items, n)):
        yield batch
