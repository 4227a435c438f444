"""Sequences of text sampled i.i.d. from a whole corpus, as the paper samples them (4.1, G.1).

**What i.i.d. means here.** A draw takes a document with probability proportional to its length, and in it a sequence of so
many characters at a place drawn uniformly. Draws are independent of each other, so with replacement: two may overlap. A
sequence is of characters, not tokens: no tokenizer is needed to draw one, all models see the same, and a category's
expected share of the *tokens* of a sample is its share of the corpus's tokens. (Sequences of equally many tokens drawn by length
would have its share of the bytes, where code and digits, which take more tokens a byte, count for less.)

A document shorter than a sequence is ``skipped``, or read ``whole``: then it is drawn as often as if it were as long as a
sequence, so that its expected share of the sample is still its share of the corpus. The ends of a document lie in fewer
sequences than its middle does.

The sample is a stream of draws fixed by the seed, the corpus and the sequences' length: however much of it is read, by
however many processes, it begins with the same bytes. It ends when it is as long as the corpus, beyond which it
would repeat more than it adds.

**How.** One pass over each file lists the places and lengths of its documents, 16 bytes each, which is kept. Then the draws
are made in blocks; those of a block are sorted by place, read in order, given back in the order of the draws, and kept. A block
of a plain file reads its documents alone, of a compressed one or of a data set on the hub it takes another pass, which
parses its own documents only. Lengths cannot be known without the first pass: of a corpus too large for it, name some of its
shards (``paths`` or ``data_files``). If these hold a random part of it, as those of the Pile do, which was shuffled before it was
cut, a sample of them is one of the corpus but for what they happen to hold.
"""

import hashlib
import json
import logging
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from rosetta.results import keep, keep_file
from rosetta.sources.document import Document
from rosetta.sources.environment import environment_documents
from rosetta.sources.text import fields, in_file, in_hub, state

logger = logging.getLogger(__name__)

#: Draws that are made, read and kept together.
BLOCK = 8_192
SKIPPED, WHOLE = "skipped", "whole"


class Draws(NamedTuple):
    """Some draws, in their order: int64 [draws] each."""

    part: np.ndarray  # the number of the file
    place: np.ndarray  # of the document in it
    start: np.ndarray  # of the sequence in the document, in characters
    length: np.ndarray


def sequences(
    corpus: dict, seed: int, characters: int, keep_in: Path | None = None, short: str = SKIPPED, workers: int = 1
) -> Iterator[Document]:
    """Sequences of a corpus sampled i.i.d., in the order of their draws.

    Parameters
    ----------
    corpus : dict
        As `text.documents` takes it.
    seed : int
    characters : int
        Of a sequence.
    keep_in : Path, optional
        A folder in which the corpus's index and the sample are kept; without it both are made anew.
    short : {"skipped", "whole"}
        What becomes of documents shorter than a sequence. They are counted, and those without text are always skipped.
    workers : int
        Processes, which share out a corpus's files.

    Raises
    ------
    ValueError
        If no document can be drawn, a file is damaged, or it was changed while it was read.
    """
    each = partial(_each, workers)
    indices = each(partial(_index, corpus, keep_in), range(len(_parts(corpus))))
    _count(corpus, indices, characters, short)
    for number, draws in enumerate(drawn(indices, seed, characters, short)):
        read = partial(_read_block, corpus, keep_in, draws, each)
        if keep_in is None:
            found = read()
        else:
            made_with = state(corpus) | {"seed": seed, "characters": characters, "short": short, "block": number}
            path = Path(keep_in) / f"sample-{_digest(made_with)}.parquet"
            table = keep(path, made_with, lambda read=read: pd.DataFrame(read()))
            found = (Document(*row) for row in table.itertuples(index=False))
        yield from found


def drawn(indices: list[np.ndarray], seed: int, characters: int, short: str = SKIPPED) -> Iterator[Draws]:
    """The draws, in blocks of `BLOCK`, until they are as long as the corpus.

    Parameters
    ----------
    indices : list of int64 [documents, 2]
        For each file the places of its documents, and their lengths.
    seed, characters, short
        As `sequences` has them.
    """
    weights = partial(_weights, characters=characters, short=short)
    ends = np.cumsum([int(weights(index[:, 1]).sum()) for index in indices])
    left = sum(int(index[weights(index[:, 1]) > 0, 1].sum()) for index in indices)
    number = 0
    while left > 0:
        rng = np.random.default_rng(int(_digest([seed, number]), 16))
        at, where = rng.integers(ends[-1], size=BLOCK), rng.random(BLOCK)
        part = np.searchsorted(ends, at, side="right")
        place, lengths = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64)
        for i in np.unique(part):
            index, here = indices[i], np.flatnonzero(part == i)
            before = ends[i - 1] if i else 0
            row = np.searchsorted(weights(index[:, 1]).cumsum(), at[here] - before, side="right")
            place[here], lengths[here] = index[row].T
        start = (where * (np.maximum(lengths - characters, 0) + 1)).astype(np.int64)
        length = np.minimum(lengths, characters)
        count = 1 + int(np.searchsorted(length.cumsum(), left))
        yield Draws(*(column[:count] for column in (part, place, start, length)))
        left -= int(length[:count].sum())
        number += 1


def _weights(lengths: np.ndarray, characters: int, short: str) -> np.ndarray:
    """How often a document of each length is drawn, in proportion."""
    if short == WHOLE:
        return np.where(lengths > 0, np.maximum(lengths, characters), 0)
    if short == SKIPPED:
        return np.where(lengths >= characters, lengths, 0)
    raise ValueError(f"short is {short!r}; allowed are {SKIPPED!r} and {WHOLE!r}")


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def _parts(corpus: dict) -> list[str | None]:
    """What is indexed by itself: each of the files, or all."""
    return list(corpus["paths"]) if corpus["kind"] == "files" else [None]


def _stored(
    corpus: dict, part: int, keep_in: Path | None, wanted: Iterable[int] | None = None
) -> Iterator[tuple[int, Document]]:
    """A part's documents as they are stored, whole, each with its place; or those that are wanted."""
    if corpus["kind"] == "files":
        yield from in_file(Path(corpus["paths"][part]), **fields(corpus), wanted=wanted)
        return
    if corpus["kind"] == "environment":
        found = enumerate(environment_documents(corpus.get("split", "heldout"), keep_in))
    else:
        found = in_hub(corpus)
    chosen = None if wanted is None else set(wanted)
    yield from ((place, document) for place, document in found if chosen is None or place in chosen)


def _index(corpus: dict, keep_in: Path | None, part: int) -> np.ndarray:
    """int64 [documents, 2]: the place of each document of a part, and its length, 0 for one without text."""

    def read() -> np.ndarray:
        numbers = array("q")
        for place, document in _stored(corpus, part, keep_in):
            numbers.extend((place, len(document.text) if document.text.strip() else 0))
        return np.frombuffer(numbers, np.int64).reshape(-1, 2)

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.save(file, read(), allow_pickle=False)

    if keep_in is None:
        return read()
    alone = corpus | {"paths": [corpus["paths"][part]]} if corpus["kind"] == "files" else corpus
    made_with = state(alone)
    path = keep_file(Path(keep_in) / f"index-{_digest(made_with)}.npy", made_with, write)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _count(corpus: dict, indices: list[np.ndarray], characters: int, short: str) -> None:
    """Say how many documents are short; ValueError if nothing is left."""
    lengths = np.concatenate([index[:, 1] for index in indices])
    empty, few = int((lengths == 0).sum()), int(((lengths > 0) & (lengths < characters)).sum())
    of = f"of the corpus's {len(lengths):,} documents {few:,} are shorter than a sequence of {characters:,} characters"
    if not _weights(lengths, characters, short).any():
        raise ValueError(
            f"the corpus {corpus} holds no text to sample: {of}, and are {short}; {empty:,} hold none"
            + ("; take shorter sequences, or read short documents whole" if few else "")
        )
    if few or empty:
        share = lengths[lengths < characters].sum() / lengths.sum()
        _say(
            f"{of}, with {share:.1%} of its text; they are {'read ' if short == WHOLE else ''}{short}; {empty:,} hold none"
        )


def _read_block(corpus: dict, keep_in: Path | None, draws: Draws, each: Callable) -> list[Document]:
    """The sequences of some draws, in their order."""
    parts = np.unique(draws.part).tolist()
    by_part = each(partial(_read_part, corpus, keep_in, draws), parts)
    found = dict(pair for of_part in by_part for pair in of_part)
    return [found[number] for number in range(len(draws.part))]


def _read_part(corpus: dict, keep_in: Path | None, draws: Draws, part: int) -> list[tuple[int, Document]]:
    """The sequences that lie in one part, each with the number of its draw."""
    numbers = defaultdict(list)
    for number in np.flatnonzero(draws.part == part).tolist():
        numbers[int(draws.place[number])].append(number)
    found = []
    for place, document in _stored(corpus, part, keep_in, sorted(numbers)):
        for number in numbers[place]:
            start, length = int(draws.start[number]), int(draws.length[number])
            text, source = document.text[start : start + length], f"{document.source}, from character {start}"
            found.append((number, document._replace(text=text, source=source)))
    if len(found) < sum(map(len, numbers.values())) or any(len(d.text) != draws.length[n] for n, d in found):
        raise ValueError(f"{_parts(corpus)[part] or corpus} was changed while it was read; run again")
    return found


def _each(workers: int, of: Callable, parts: Iterable[int]) -> list:
    """What a function gives for each part, in their order, by so many processes."""
    parts = list(parts)
    if min(workers, len(parts)) <= 1:
        return list(map(of, parts))
    with ProcessPoolExecutor(min(workers, len(parts))) as pool:
        return list(pool.map(of, parts))


def _digest(content) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@cache
def _say(warning: str) -> None:
    """Warn, once."""
    logger.warning(warning)
