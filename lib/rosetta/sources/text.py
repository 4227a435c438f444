"""Any corpus that a profile describes: the environment's, local files, or a data set on the model hub (the Pile)."""

import json
import logging
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from rosetta.sources.document import PILE_CATEGORIES, Document, interleave, normalize, read_text
from rosetta.sources.environment import ENVIRONMENT_SHARES, distributions, environment_documents
from rosetta.sources.lines import LeftOut, holds_lines, lines

logger = logging.getLogger(__name__)

#: Subsets of the Pile that data sets on the hub lack by their cards. ``monology/pile-uncopyrighted`` is what the profiles read.
LACKING = {
    "monology/pile-uncopyrighted": ("Books3", "BookCorpus2", "OpenSubtitles", "YoutubeSubtitles", "OpenWebText2")
}
#: Characters. A document is tokenized whole; one of fifty megabytes would take all memory.
LONGEST = 1_000_000


def documents(corpus: dict, seed: int, keep_in: Path | None = None) -> Iterator[Document]:
    """The documents that a profile's ``corpus`` describes, in a seeded order.

    Parameters
    ----------
    corpus : dict
        ``kind: environment`` with a ``split``; ``kind: files`` with ``paths`` (text files, or JSON lines, see
        `from_files`); or ``kind: hub`` with a data set's name and the names of its text and subset fields.
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
        found = _shuffled(from_files(corpus["paths"], **fields(corpus)), seed)
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

    Of a data set on the hub they are known where its field is the Pile's, ``pile_set_name``; those that it lacks by its card
    (`LACKING`) are left out.
    """
    if corpus["kind"] == "environment":
        return tuple(ENVIRONMENT_SHARES)
    if corpus["kind"] == "hub":
        lacking = LACKING.get(corpus["dataset"], ())
        of_the_pile = corpus["subset"].rpartition(".")[2] == "pile_set_name"
        return tuple(name for name in PILE_CATEGORIES if name not in lacking) if of_the_pile else None
    paths = [Path(path) for path in corpus["paths"]]
    return None if any(".jsonl" in path.suffixes for path in paths) else tuple(path.stem for path in paths)


def _shuffled(documents: Iterable[Document], seed: int) -> list[Document]:
    documents = list(documents)
    random.Random(seed).shuffle(documents)
    return documents


def fields(corpus: dict) -> dict:
    """What a profile says of the documents in its files, as `from_files` takes it."""
    return {key: corpus[key] for key in ("category", "text", "subset") if corpus.get(key) is not None}


def state(corpus: dict) -> dict:
    """A profile's ``corpus`` with what its text depends on beside: versions, or sizes and times of files."""
    known = {}
    if corpus["kind"] == "environment":
        known["distributions"] = distributions()
    elif corpus["kind"] == "files":
        known["files"] = [[str(f), Path(f).stat().st_size, Path(f).stat().st_mtime_ns] for f in corpus["paths"]]
    return corpus | known


def from_files(
    paths: Iterable[str | Path], category: str = "general prose", text: str = "text", subset: str | None = None
) -> Iterator[Document]:
    """Documents from local files: one from each text file, one from each line of a ``.jsonl`` or ``.jsonl.zst`` file.

    What is not UTF-8 or not JSON, or has no text, or a subset or category that is no text, is left out: the first of each
    file are named in warnings, all are counted.

    Parameters
    ----------
    paths : iterable of str or Path
    category : str
        Of a text file, and of a line that has none and whose subset Table 4 does not list.
    text : str
        The field of a line that holds its text; ``a.b`` is a nested one.
    subset : str, optional
        The field of its subset, which every line must have then (the Pile's is ``meta.pile_set_name``); a subset that Table 4
        does not list is its own category. By default ``subset`` or, where a line has none, the file's name.

    Raises
    ------
    ValueError
        If a compressed file breaks off, or not one of a file's lines is a document.
    """
    for path in map(Path, paths):
        yield from (_cut(document) for _, document in in_file(path, category, text, subset))


def in_file(
    path: Path,
    category: str = "general prose",
    text: str = "text",
    subset: str | None = None,
    wanted: Iterable[int] | None = None,
) -> Iterator[tuple[int, Document]]:
    """The documents of one file, whole, each with its place (`lines.lines`), or those that are wanted; as `from_files`."""
    some = False
    if not holds_lines(path):
        content = read_text(path)
        if content is not None:
            yield 0, _document(content, path.stem, category, str(path))
        return
    left_out = LeftOut(path.name)
    for number, (place, line) in enumerate(lines(path, wanted), start=1):
        try:
            row = json.loads(line)
            if subset is None:
                of = row.get("subset", path.name.partition(".jsonl")[0])
                named = PILE_CATEGORIES.get(of, row.get("category", category))
            else:
                of = _field(row, subset)
                named = PILE_CATEGORIES.get(of, of)
            if not isinstance(of, str) or not isinstance(named, str):
                raise TypeError(f"subset {of!r} and category {named!r} must be text")
            where = f"#{number}" if wanted is None else f"@{place}"
            document = _document(_field(row, text), of, named, f"{path}{where}")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            left_out.add(f"line {number}", f"{type(error).__name__}: {error}")
            continue
        some = True
        yield place, document
    left_out.say()
    if left_out.count and not some:
        fields = f"text: {text}" + (f" and subset: {subset}" if subset else "")
        raise ValueError(
            f"{path}: none of its {left_out.count:,} lines is a document with the fields that the corpus names ({fields}); "
            f"{left_out.first}"
        )


def from_hub(corpus: dict, seed: int) -> Iterator[Document]:
    """Documents streamed from a data set (the Pile), in the order of a seeded shuffle buffer.

    A subset that Table 4 does not list is its own category; a text without a UTF-8 form, or null, is left out.

    The Pile itself is no longer distributed. What the profiles read, ``monology/pile-uncopyrighted``, lacks five of its
    subsets (`LACKING`). By the weights that Gao et al. (2020) give, these are a
    quarter of the Pile's bytes, half of those of general prose and more than half of those of conversational text; so
    shares of categories cannot be those of Table 4, and code, math and formal text weigh more.

    Raises
    ------
    ValueError
        If the data set cannot be reached, or breaks off: a file of it is damaged, or the connection fails.
    """
    return (_cut(document) for _, document in in_hub(corpus, seed))


def in_hub(corpus: dict, seed: int | None = None) -> Iterator[tuple[int, Document]]:
    """The documents of a data set on the hub, whole, each with the number of its row; shuffled if there is a seed."""
    import datasets  # slow to import, and only this source needs it

    name, left_out = corpus["dataset"], LeftOut(corpus["dataset"])
    try:
        stream = datasets.load_dataset(
            name, data_files=corpus.get("data_files"), split=corpus.get("split", "train"),
            revision=corpus.get("revision"), streaming=True,
        )  # fmt: skip
    except Exception as error:
        raise ValueError(
            f"the data set {name} cannot be opened: {type(error).__name__}: {error}. Without a network, put its files on this "
            f"machine and name them, corpus: {{kind: files, paths: [val.jsonl.zst], text: {corpus['text']}, subset: "
            f"{corpus['subset']}}}, or set HF_HOME to a cache that holds it; with one, HF_HUB_OFFLINE and "
            "HF_DATASETS_OFFLINE must not be 1"
        ) from error
    if seed is not None:
        stream = stream.shuffle(seed=seed, buffer_size=corpus.get("shuffle_buffer", 10_000))
    for number, row in enumerate(_unbroken(stream, corpus)):
        of = _field(row, corpus["subset"])
        try:
            document = _document(_field(row, corpus["text"]), of, PILE_CATEGORIES.get(of, of), f"{name}#{number}")
        except (UnicodeEncodeError, TypeError) as error:  # a lone surrogate; a null
            left_out.add(f"row {number}", error)
            continue
        yield number, document
    left_out.say()


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
    """A document in normal form; UnicodeEncodeError if it has no UTF-8 form."""
    text = normalize(text)
    text.encode()
    return Document(text, subset, category, source)


def _cut(document: Document) -> Document:
    """A document's first `LONGEST` characters."""
    if len(document.text) <= LONGEST:
        return document
    said = "%s has %d characters; the first %d are read"
    logger.warning(said, document.source, len(document.text), LONGEST)
    return document._replace(text=document.text[:LONGEST])


def _field(row: dict, path: str) -> str:
    """``"meta.pile_set_name"`` of a nested row."""
    for key in path.split("."):
        if not isinstance(row, dict) or key not in row:
            there = sorted(row) if isinstance(row, dict) else repr(row)
            raise ValueError(f"the data set has no field {path!r}; a row has {there}")
        row = row[key]
    return row
