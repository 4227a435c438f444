"""Functions with the language they are written in: the pool that data filtering selects from (5.3, Appendix F).

The paper takes CodeSearchNet (`codesearchnet`). The micro profile cuts functions, by rules of its own (`cutters`), from
the sources that the locked Python environment holds (`environment_functions`). The matching corpus is the environment's held-out
files; the pool takes only the others, so no neuron is chosen on text that it is then asked to filter.
"""

import gzip
import hashlib
import heapq
import json
import logging
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rosetta.sources import environment
from rosetta.sources.cutters import CUTTERS
from rosetta.sources.document import batched, normalize, read_text

logger = logging.getLogger(__name__)

#: CodeSearchNet leaves out shorter functions.
SHORTEST_LINES = 3
#: One file in ten is test text, by a second hash of its path.
TEST_ONE_IN = 10
CODESEARCHNET = "code-search-net/code_search_net"
CODESEARCHNET_LANGUAGES = ("go", "java", "javascript", "php", "python", "ruby")
# Of the corpus's Python a part, enough beside the other languages.
PYTHON = ("matplotlib", "networkx", "pandas", "scikit-learn", "tornado")
# What there is of JavaScript that is not minified.
JAVASCRIPT = (
    "docutils/docutils/writers/s5_html/themes/default/slides.js",
    "jupyterlab/jupyterlab/staging/",
    "matplotlib/matplotlib/backends/web_backend/js/",
    "scikit-learn/sklearn/utils/_repr_html/",
    "snakemake/snakemake/assets/data/vega-embed/vega-embed.js",
    "snakemake/snakemake/assets/data/vega-lite/vega-lite.js",
    "snakemake/snakemake/assets/data/vega/vega.js",
    "snakemake/snakemake/report/html_reporter/template/components/",
)
# Written by programs: thousands of functions that differ in little but a name.
GENERATED = re.compile(
    r"generated|\.pb\.h$|/(RedispatchFunctions|TensorBody)\.h$|/cython_(blas|lapack)\.|/_ufuncs\.", re.IGNORECASE
)


class Function(NamedTuple):
    """A function's text (NFC), its language, "train" or "test", and where it stands."""

    text: str
    language: str
    split: str
    source: str


def environment_functions() -> Iterator[Function]:
    """The functions of the environment's Python, C/C++, Cython and JavaScript files, one file in memory at a time.

    Docstrings, and comments before a function, are left out, as in CodeSearchNet. A nested function belongs to the
    outer one. Whole files are test text; their functions come first, then in the order of their paths.
    """
    for path, language, file in sorted(_files(), key=lambda item: (not is_test(item[0]), item[0])):
        text = read_text(file)
        pieces = CUTTERS[language](normalize(text)) if text else ()
        kept = (piece for piece in pieces if len(piece.strip().splitlines()) >= SHORTEST_LINES)
        for number, piece in enumerate(kept):
            yield Function(piece.strip() + "\n", language, "test" if is_test(path) else "train", f"{path}#{number}")


def is_test(path: str) -> bool:
    """True for the one path in ten whose functions are test text."""
    # Most JavaScript lies in three files; with this prefix one of them, the smallest, is test text.
    return int.from_bytes(hashlib.sha256(f"code_pool/{path}".encode()).digest()[:4], "big") % TEST_ONE_IN == 0


def _files() -> Iterator[tuple[str, str, Path]]:
    """(path, language, file) of every source file outside the matching corpus."""
    with_javascript = {path.partition("/")[0] for path in JAVASCRIPT}
    for name in sorted({*PYTHON, *environment.HEADERS, *environment.CYTHON, *with_javascript}):
        found = environment.distribution(name)
        if found is None:
            logger.warning("%s is not installed; the pool goes without its functions", name)
            continue
        for file in found.files or ():
            path = f"{name}/{file}"
            language = _language(name, str(file))
            if language and not environment.is_heldout(path):
                yield path, language, Path(file.locate())


def _language(name: str, file: str) -> str | None:
    path = f"{name}/{file}"
    if path.endswith(".js"):
        return "JavaScript" if path.startswith(JAVASCRIPT) else None
    if GENERATED.search(path):
        return None
    kind = environment.file_kind(name, file)
    if kind == "py":
        return "Python" if name in PYTHON else None
    return kind if kind in CUTTERS else None


def codesearchnet(
    source: str | Path = CODESEARCHNET,
    languages: Sequence[str] = CODESEARCHNET_LANGUAGES,
    revision: str | None = None,
    dropped: Counter | None = None,
) -> Iterator[Function]:
    """The functions of CodeSearchNet's test and training partitions, streamed, test first.

    Parameters
    ----------
    source : str or Path
        A folder in the layout of its archives, ``<language>/final/jsonl/<partition>/*.jsonl.gz``, or the name of the
        data set on the hub (one configuration a language, fields ``func_code_string`` and ``func_code_url``).
    languages : sequence of str
    revision : str, optional
        Of the data set on the hub.
    dropped : Counter, optional
        Broken rows are counted here, as "broken row"; they are left out and named in a warning.

    Raises
    ------
    ValueError
        If the folder lacks a language, or a file of it is damaged.
    """
    dropped = Counter() if dropped is None else dropped
    local = Path(source).is_dir()
    code, url = ("code", "url") if local else ("func_code_string", "func_code_url")
    for split in ("test", "train"):
        for language in languages:
            for where, row in (_lines if local else _hub_rows)(source, language, split, revision):
                try:
                    row = json.loads(row) if local else row
                    text = normalize(row[code])
                    text.encode()
                except (ValueError, KeyError, TypeError) as error:  # no JSON, no such field, null, a lone surrogate
                    dropped["broken row"] += 1
                    logger.warning("left out %s: %s: %s", where, type(error).__name__, error)
                else:
                    yield Function(text, language, split, row.get(url) or where)


def _lines(folder: str | Path, language: str, split: str, _revision: None) -> Iterator[tuple[str, bytes]]:
    """Each line of a local copy, and where it stands."""
    files = sorted(Path(folder).glob(f"{language}/final/jsonl/{split}/*.jsonl.gz"))
    if not files:
        there = sorted({path.parts[-5] for path in Path(folder).glob("*/final/jsonl/*/*.jsonl.gz")})
        missing = f"{language}/final/jsonl/{split}/*.jsonl.gz"
        raise ValueError(f"{folder} has no {missing}; its languages are {', '.join(there) or 'none'}")
    for file in files:
        try:
            with gzip.open(file) as lines:
                yield from ((f"{file.name}, line {number}", line) for number, line in enumerate(lines, start=1))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{file} is damaged ({error}); fetch it again") from error


def _hub_rows(name: str, language: str, split: str, revision: str | None) -> Iterator[tuple[str, dict]]:
    """Each row of the data set on the hub, and where it stands."""
    import datasets  # slow to import, and only this source needs it

    stream = datasets.load_dataset(str(name), language, split=split, revision=revision, streaming=True)
    yield from ((f"{name}, {language} {split} row {number}", row) for number, row in enumerate(stream))


def deduplicate(functions: Iterable[Function], dropped: Counter | None = None) -> Iterator[Function]:
    """Functions without the empty ones and the repeats; one that is in both splits stays in the test split only.

    Two functions are the same if their texts are, runs of white space aside. The functions stream: a digest of 16 bytes
    is all that is remembered of each.

    Parameters
    ----------
    functions : iterable of Function
        The test split before the training split, as both sources give them.
    dropped : Counter, optional
        What was dropped is counted here by reason: "empty", "repeated", "in the test split". Logged at the end.

    Raises
    ------
    ValueError
        On a test function after a training function.
    """
    dropped = Counter() if dropped is None else dropped
    seen: dict[str, set[bytes]] = {"test": set(), "train": set()}
    for function in functions:
        if function.split == "test" and seen["train"]:
            raise ValueError(f"{function.source} of the test split comes after functions of the training split")
        words = " ".join(function.text.split())
        digest = hashlib.blake2b(words.encode(), digest_size=16).digest()
        if not words:
            dropped["empty"] += 1
        elif digest in seen[function.split]:
            dropped["repeated"] += 1
        elif digest in seen["test"]:
            dropped["in the test split"] += 1
        else:
            seen[function.split].add(digest)
            yield function
    logger.info("of the pool's functions were dropped: %s", dict(dropped) or "none")


def mix(
    functions: Iterable[Function],
    target: str,
    share: float,
    tokens: int,
    count_tokens: Callable[[str], int],
    seed: int,
    split: str = "train",
) -> pd.DataFrame:
    """Draw a pool in which the target language is a minority of known size (the paper's: 6% of the tokens).

    Functions of one split are drawn at random, the target's until they hold `share` of the tokens, the others (in
    proportion to what there is of each language) until they hold the rest; each part exceeds its size by less than one
    function. No text is held in memory: what is drawn is known by its number in the stream.

    Parameters
    ----------
    functions : iterable of Function
    target : str
    share : float
        Between 0 and 1, both excluded.
    tokens : int
        Of the whole pool.
    count_tokens : callable
        Tokens of a text.
    seed : int
    split : {"train", "test"}

    Returns
    -------
    DataFrame
        ``number, language, source, tokens``, in the random order in which they were drawn.

    Raises
    ------
    ValueError
        If the pool lacks the target language, holds too few tokens, or `share` or `tokens` is out of range.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; it must lie between 0 and 1")
    if tokens < 1:
        raise ValueError(f"tokens is {tokens}; it must be at least 1")
    wanted = {True: share * tokens, False: (1 - share) * tokens}
    drawn: dict[bool, list[tuple]] = {True: [], False: []}  # heaps, the last in order on top
    held, languages = Counter(), set()
    for number, function in enumerate(functions):
        if function.split != split:
            continue
        languages.add(function.language)
        part = function.language == target
        heap = drawn[part]
        key = f"{seed} {function.source} {function.text}".encode()
        place = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
        if held[part] >= wanted[part] and place > -heap[0][0]:
            continue  # before its tokens are counted, which takes the time
        n = count_tokens(function.text)
        heapq.heappush(heap, (-place, n, number, function.language, function.source))
        held[part] += n
        while held[part] - heap[0][1] >= wanted[part]:
            held[part] -= heapq.heappop(heap)[1]
    if target not in languages:
        raise ValueError(f"the pool has no {target!r}; its languages are {', '.join(sorted(languages)) or 'none'}")
    for part, name in ((True, target), (False, f"languages other than {target}")):
        if held[part] < wanted[part]:
            raise ValueError(f"the pool needs {wanted[part]:.0f} tokens of {name}, but there are {held[part]}")
    rows = sorted(drawn[True] + drawn[False], key=lambda item: -item[0])
    pool = pd.DataFrame(rows, columns=["place", "tokens", "number", "language", "source"])
    return pool[["number", "language", "source", "tokens"]]


def write(functions: Iterable[Function], path: Path, rows: int = 2_000) -> None:
    """Write functions to a parquet file, `rows` in memory at a time."""
    schema = pa.schema([(field, pa.string()) for field in Function._fields])
    with pq.ParquetWriter(path, schema) as writer:
        for batch in batched(functions, rows):
            writer.write_table(pa.Table.from_pylist([function._asdict() for function in batch], schema))


def read(path: Path, numbers: Sequence[int] | None = None) -> Iterator[Function]:
    """The functions of a file that `write` wrote, streamed; given numbers, only those, in the file's order."""
    wanted = None if numbers is None else set(map(int, numbers))
    batches = pq.ParquetFile(path).iter_batches(2_000, columns=list(Function._fields))
    rows = (row for batch in batches for row in batch.to_pylist())
    for number, row in enumerate(rows):
        if wanted is None or number in wanted:
            yield Function(**row)
