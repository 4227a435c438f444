"""Any corpus that a profile describes: the environment's, local files, or a data set on the model hub (the Pile)."""

import json
import logging
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from rosetta.sources.document import PILE_CATEGORIES, Document, interleave, normalize, read_text
from rosetta.sources.environment import ENVIRONMENT_SHARES, environment_documents

logger = logging.getLogger(__name__)

#: Characters. A document is tokenized whole; one of fifty megabytes would take all memory.
LONGEST = 1_000_000


def documents(corpus: dict, seed: int, keep_in: Path | None = None) -> Iterator[Document]:
    """The documents that a profile's ``corpus`` describes, in a seeded order.

    Parameters
    ----------
    corpus : dict
        ``kind: environment`` with a ``split``; ``kind: files`` with ``paths`` (text files, or JSON lines with ``text``
        and perhaps ``subset``); or ``kind: hub`` with a data set's name and the names of its text and subset fields.
    seed : int
    keep_in : Path, optional
        See `environment_documents`.

    Raises
    ------
    ValueError
        If there is not one document with text.
    """
    kind = corpus["kind"]
    if kind == "environment":
        found = interleave(environment_documents(corpus.get("split", "heldout"), keep_in), ENVIRONMENT_SHARES, seed)
    elif kind == "files":
        found = _shuffled(from_files(corpus["paths"], corpus.get("category", "general prose")), seed)
    elif kind == "hub":
        found = from_hub(corpus, seed)
    else:
        raise ValueError(f"corpus.kind is {kind!r}; allowed are environment, files and hub")
    some = False
    for document in found:
        if document.text.strip():
            some = True
            yield document
    if not some:
        raise ValueError(f"the corpus {corpus} holds no document with text")


def subsets(corpus: dict) -> tuple[str, ...] | None:
    """The subsets of the documents that a profile's ``corpus`` describes; None where only reading them tells.

    Of a data set on the hub they are known where its field is the Pile's, ``pile_set_name``.
    """
    if corpus["kind"] == "environment":
        return tuple(ENVIRONMENT_SHARES)
    if corpus["kind"] == "hub":
        return tuple(PILE_CATEGORIES) if corpus["subset"].rpartition(".")[2] == "pile_set_name" else None
    paths = [Path(path) for path in corpus["paths"]]
    return None if any(path.suffix == ".jsonl" for path in paths) else tuple(path.stem for path in paths)


def _shuffled(documents: Iterable[Document], seed: int) -> list[Document]:
    documents = list(documents)
    random.Random(seed).shuffle(documents)
    return documents


def from_files(paths: Iterable[str | Path], category: str = "general prose") -> Iterator[Document]:
    """Documents from local files: one from each text file, one from each line of a ``.jsonl`` file.

    What is not UTF-8 or not JSON, or has no text, or a subset or category that is no text, is left out and named in a
    warning.
    """
    for path in map(Path, paths):
        if path.suffix != ".jsonl":
            text = read_text(path)
            if text is not None:
                yield _document(text, path.stem, category, str(path))
            continue
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    row = json.loads(line)
                    subset = row.get("subset", path.stem)
                    named = PILE_CATEGORIES.get(subset, row.get("category", category))
                    if not isinstance(subset, str) or not isinstance(named, str):
                        raise TypeError(f"subset {subset!r} and category {named!r} must be text")
                    yield _document(row["text"], subset, named, f"{path}#{number}")
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                    logger.warning("left out %s, line %d: %s: %s", path.name, number, type(error).__name__, error)


def from_hub(corpus: dict, seed: int) -> Iterator[Document]:
    """Documents streamed from a data set (the Pile), in the order of a seeded shuffle buffer.

    A subset that Table 4 does not list is its own category; a text without a UTF-8 form, or null, is left out.

    Raises
    ------
    ValueError
        If the data set breaks off: a file of it is damaged, or the connection fails.
    """
    import datasets  # slow to import, and only this source needs it

    stream = datasets.load_dataset(
        corpus["dataset"], data_files=corpus.get("data_files"), split=corpus.get("split", "train"),
        revision=corpus.get("revision"), streaming=True,
    ).shuffle(seed=seed, buffer_size=corpus.get("shuffle_buffer", 10_000))  # fmt: skip
    for number, row in enumerate(_unbroken(stream, corpus)):
        subset = _field(row, corpus["subset"])
        try:
            document = _document(
                _field(row, corpus["text"]),
                subset,
                PILE_CATEGORIES.get(subset, subset),
                f"{corpus['dataset']}#{number}",
            )
        except (UnicodeEncodeError, TypeError) as error:  # a lone surrogate; a null
            logger.warning("left out row %d of %s: %s", number, corpus["dataset"], error)
            continue
        yield document


def _unbroken(stream: Iterable[dict], corpus: dict) -> Iterator[dict]:
    """The rows of a stream; what it breaks off with, whatever that is, is raised with the data set's name."""
    rows, number = iter(stream), 0
    while True:
        try:
            row = next(rows, None)
        except Exception as error:
            files = f" ({corpus['data_files']})" if corpus.get("data_files") else ""
            raise ValueError(
                f"the data set {corpus['dataset']}{files} breaks off after row {number}: {type(error).__name__}: {error}; "
                "a file of it may be damaged: fetch it again"
            ) from error
        if row is None:
            return
        yield row
        number += 1


def _document(text: str, subset: str, category: str, source: str) -> Document:
    """A document in normal form, cut after `LONGEST` characters; UnicodeEncodeError if it has no UTF-8 form."""
    text = normalize(text)
    if len(text) > LONGEST:
        logger.warning("%s has %d characters; the first %d are read", source, len(text), LONGEST)
        text = text[:LONGEST]
    text.encode()
    return Document(text, subset, category, source)


def _field(row: dict, path: str) -> str:
    """``"meta.pile_set_name"`` of a nested row."""
    for key in path.split("."):
        if not isinstance(row, dict) or key not in row:
            there = sorted(row) if isinstance(row, dict) else repr(row)
            raise ValueError(f"the data set has no field {path!r}; a row has {there}")
        row = row[key]
    return row
