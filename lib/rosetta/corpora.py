"""Documents and where they come from.

A document is a piece of text with the subset and the category it belongs to, the five categories being those of
Table 4. Three sources share that shape: the *environment corpus* (real text that the locked Python environment
already holds, so the kit needs no network), local files, and a data set on the model hub (the Pile).
"""

import ast
import hashlib
import importlib.metadata
import io
import json
import logging
import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from rosetta.results import code_digest, keep, write_json

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

#: Environment subset -> category. There is no conversational text in a Python environment.
ENVIRONMENT_CATEGORIES = {
    "Python": "code",
    "C/C++": "code",
    "Cython": "code",
    "Arithmetic": "math",
    "Scientific docstrings": "formal/scientific",
    "Licences": "formal/scientific",
    "API docstrings": "general prose",
    "Package descriptions": "general prose",
}

#: Share of the environment corpus's bytes that each subset gets, as far as its text lasts.
ENVIRONMENT_SHARES = {
    "Python": 0.30,
    "C/C++": 0.15,
    "Cython": 0.05,
    "Arithmetic": 0.08,
    "Scientific docstrings": 0.20,
    "Licences": 0.02,
    "API docstrings": 0.15,
    "Package descriptions": 0.05,
}

# Named one by one, never "whatever is installed": adding a dependency to the kit must not change its corpus.
SCIENTIFIC = ("sympy", "scipy", "scikit-learn", "statsmodels", "networkx", "mpmath")
GENERAL = ("pandas", "matplotlib", "numpy", "sqlalchemy", "pygments", "ipython", "tornado", "pillow", "fonttools",
           "docutils", "setuptools", "jinja2", "rich", "torch", "transformers")  # fmt: skip
PYTHON_CODE = SCIENTIFIC + GENERAL[:-2]  # torch and transformers would drown the rest
HEADERS = ("torch", "pyarrow")
CYTHON = ("pyarrow", "scipy", "scikit-learn", "statsmodels", "numpy", "sqlalchemy")
DESCRIBED = tuple(sorted({*SCIENTIFIC, *GENERAL, *HEADERS} | {
    "anyio", "attrs", "beautifulsoup4", "bleach", "certifi", "cffi", "charset-normalizer", "click", "datasets",
    "filelock", "fsspec", "httpx", "huggingface-hub", "idna", "ipykernel", "ipywidgets", "jedi", "joblib", "jsonschema",
    "jupyterlab", "jupyter-client", "jupyter-server", "kiwisolver", "markdown-it-py", "mistune", "narwhals",
    "nbconvert", "nbformat", "open-clip-torch", "packaging", "papermill", "parso", "patsy", "pexpect", "platformdirs",
    "prometheus-client", "psutil", "pydantic", "pyparsing", "pyyaml", "pyzmq", "regex", "requests", "safetensors",
    "snakemake", "soupsieve", "sqlmodel", "tabulate", "threadpoolctl", "timm", "tinycss2", "tokenizers", "torchvision",
    "tqdm", "traitlets", "typer", "typing-extensions", "urllib3", "wcwidth", "websocket-client", "wrapt", "xxhash",
}))  # fmt: skip

#: A longer file is cut, at line ends, into documents of about this many characters.
DOCUMENT_CHARACTERS = 4_000
#: One file in ten is held out, by the hash of its path.
HELDOUT_ONE_IN = 10
ARITHMETIC_DOCUMENTS = 6_000


class Document(NamedTuple):
    """A text with its origin. ``source`` names the file (and part) it came from."""

    text: str
    subset: str
    category: str
    source: str


def normalize(text: str) -> str:
    """NFC form. Every text passes here once, before any tokenizer, so byte offsets mean the same to all of them."""
    return unicodedata.normalize("NFC", text)


def is_heldout(path: str) -> bool:
    """True for the one path in ten that no zoo model was trained on."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big") % HELDOUT_ONE_IN == 0


# ---------------------------------------------------------------------------------------------------------------------
# The environment corpus


def environment(split: str = "heldout", keep_in: Path | None = None) -> list[Document]:
    """All documents of one split of the environment corpus, in an order fixed by their paths.

    Parameters
    ----------
    split : {"heldout", "train"}
        Whole files are held out, by the hash of their path.
    keep_in : Path, optional
        A folder in which the documents are kept, so that the environment is read only once.

    Raises
    ------
    ValueError
        On an unknown split.
    """
    if split not in ("heldout", "train"):
        raise ValueError(f"split is {split!r}; allowed are 'heldout' and 'train'")
    if keep_in is None:
        return _read_environment(split)
    path = Path(keep_in) / f"environment-{split}.parquet"
    frame = keep(
        path,
        {"distributions": distributions(), "code": code_digest("corpora")},
        lambda: pd.DataFrame(_read_environment(split)),
    )
    return [Document(*row) for row in frame.itertuples(index=False)]


def _read_environment(split: str) -> list[Document]:
    documents, seen = [], set()
    for subset, path, text in _environment_texts(split == "heldout"):
        for part, piece in enumerate(split_at_lines(normalize(text), DOCUMENT_CHARACTERS)):
            fingerprint = hashlib.sha256(piece.encode()).digest()
            if piece.strip() and fingerprint not in seen:  # licence texts, above all, come many times
                seen.add(fingerprint)
                documents.append(Document(piece, subset, ENVIRONMENT_CATEGORIES[subset], f"{path}#{part}"))
    return documents


@cache
def distributions() -> dict[str, str | None]:
    """The distributions that the environment corpus reads and their versions here; None for one that is missing."""
    versions = {}
    for name in sorted({*PYTHON_CODE, *GENERAL, *HEADERS, *CYTHON, *DESCRIBED}):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def manifest(documents: Iterable[Document]) -> dict[str, dict]:
    """Number of documents, bytes and SHA-256 of each subset."""
    digests, sizes, counts = defaultdict(hashlib.sha256), Counter(), Counter()
    for document in documents:
        data = document.text.encode()
        digests[document.subset].update(data)
        sizes[document.subset] += len(data)
        counts[document.subset] += 1
    return {s: {"documents": counts[s], "bytes": sizes[s], "sha256": digests[s].hexdigest()} for s in sorted(counts)}


def differences(split: str, documents: Iterable[Document], recorded: dict) -> list[str]:
    """How this environment's corpus differs from the one the zoo was trained on, in words; empty if it is the same.

    Parameters
    ----------
    split : str
    documents : iterable of Document
    recorded : dict
        What `zoo/corpus.json` holds.
    """
    here, there = manifest(documents), recorded[split]
    subsets = [subset for subset in sorted({*here, *there}) if here.get(subset) != there.get(subset)]
    if not subsets:
        return []
    versions, made_with = distributions(), recorded["distributions"]
    changed = [
        f"{name} {versions.get(name) or 'missing'} instead of {made_with.get(name) or 'missing'}"
        for name in sorted({*versions, *made_with})
        if versions.get(name) != made_with.get(name)
    ]
    because = "; ".join(changed) or "the versions are the same, so the files themselves differ (another platform?)"
    return [f"subset {subset} of the {split} split has other text than recorded ({because})" for subset in subsets]


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


def _environment_texts(heldout: bool) -> Iterator[tuple[str, str, str]]:
    """(subset, path, text) for every file of the environment corpus on one side of the split."""
    for name, version in distributions().items():
        if version is None:
            continue  # the manifest notices and names it
        distribution = importlib.metadata.distribution(name)
        for file in sorted(distribution.files or (), key=str):
            kind = file_kind(name, str(file))
            path = f"{name}/{_without_version(str(file))}"
            if kind is None or is_heldout(path) != heldout:
                continue
            text = read_text(Path(file.locate()))
            if text is None:
                continue
            if kind == "py":
                code, docstrings = split_docstrings(text)
                if name in PYTHON_CODE and code.strip():
                    yield "Python", path, code
                if docstrings:
                    yield "Scientific docstrings" if name in SCIENTIFIC else "API docstrings", path, docstrings
            elif kind == "Package descriptions":
                yield kind, path, text.partition("\n\n")[2]  # the description follows the header fields
            else:
                yield kind, path, text
    for index in range(ARITHMETIC_DOCUMENTS):
        path = f"arithmetic/{index}"
        if is_heldout(path) == heldout:
            yield "Arithmetic", path, arithmetic(index)


def file_kind(name: str, path: str) -> str | None:
    """What a file of a distribution is to the corpus: a subset, "py" for a Python module, or None."""
    parts = path.split("/")
    if {"tests", "test", "testing", "_vendor", "__pycache__"} & set(parts) or parts[-1] in (
        "version.py",
        "__config__.py",
    ):
        return None  # tests repeat themselves; generated files differ between platforms
    if path.endswith(".dist-info/METADATA"):
        return "Package descriptions" if name in DESCRIBED else None
    if ".dist-info/" in path:
        licence = "licen" in path.lower() or parts[-1].startswith(("COPYING", "NOTICE"))
        return "Licences" if licence and name in DESCRIBED else None
    if path.endswith(".py"):
        return "py" if name in PYTHON_CODE or name in GENERAL else None
    if path.endswith((".h", ".hpp", ".cuh")):
        generated = "/ATen/ops/" in path  # thousands of files that differ in one name
        return "C/C++" if name in HEADERS and not generated else None
    if path.endswith((".pyx", ".pxd", ".pxi")):
        return "Cython" if name in CYTHON else None
    return None


def _without_version(path: str) -> str:
    """`numpy-2.4.6.dist-info/METADATA` -> `dist-info/METADATA`, so that an update moves no file across the split."""
    head, _, rest = path.partition(".dist-info/")
    return f"dist-info/{rest}" if rest else head


def read_text(path: Path) -> str | None:
    """The text of a UTF-8 file; None, with a message, for one that is missing or is something else."""
    try:
        return path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except (UnicodeDecodeError, OSError) as error:
        logger.warning("left out %s: %s", path.name, error)
        return None


def split_docstrings(source: str) -> tuple[str, str]:
    """Python source as (the code without its docstrings, the docstrings alone, blank lines between)."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return source, ""
    lines = list(io.StringIO(source, newline=""))  # Python's lines; splitlines would end one at a form feed too
    docstrings = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = ast.get_docstring(node, clean=True)
        if docstring:
            literal = node.body[0]
            docstrings.append((literal.lineno, docstring))
            lines[literal.lineno - 1 : literal.end_lineno] = [""] * (literal.end_lineno - literal.lineno + 1)
    return "".join(lines), "\n\n".join(text for _, text in sorted(docstrings))


def arithmetic(index: int) -> str:
    """One page of generated word problems of one kind, after the manner of the Pile's DM Mathematics."""
    rng = random.Random(f"arithmetic-{index}")
    kind = rng.randrange(8)
    return "\n".join(_problem(kind, rng) for _ in range(rng.randint(15, 40))) + "\n"


def _problem(kind: int, rng: random.Random) -> str:
    a, b, c = rng.randint(2, 99), rng.randint(2, 99), rng.randint(2, 12)
    x = rng.choice("xyzabnkt")
    if kind == 0:
        word, value = rng.choice([("sum", a + b), ("product", a * b), ("difference", a - b)])
        return rng.choice(["What is", "Calculate", "Work out"]) + f" the {word} of {a} and {b}.\n{value}"
    if kind == 1:
        return f"Solve {c}*{x} + {a} = {c * b + a} for {x}.\n{b}"
    if kind == 2:
        return f"Let f({x}) = {c}*{x}**2 - {a}*{x} + {b}. What is f({c})?\n{c**3 - a * c + b}"
    if kind == 3:
        numbers = [rng.randint(-50, 50) for _ in range(rng.randint(3, 6))]
        return f"Sort {', '.join(map(str, numbers))} in ascending order.\n{', '.join(map(str, sorted(numbers)))}"
    if kind == 4:
        return f"Calculate the remainder when {a * b + c} is divided by {a}.\n{(a * b + c) % a}"
    if kind == 5:
        unit, factor, small = rng.choice(
            [("hours", 60, "minutes"), ("metres", 100, "centimetres"), ("weeks", 7, "days")]
        )
        return f"How many {small} are there in {a} {unit}?\n{a * factor}"
    if kind == 6:
        verdict = a > 1 and all(a % d for d in range(2, int(a**0.5) + 1))
        return f"Is {a} a prime number?\n{verdict}"
    divisor = next(d for d in range(min(a, b), 0, -1) if a % d == 0 and b % d == 0)
    return f"Calculate the greatest common divisor of {a} and {b}.\n{divisor}"


# ---------------------------------------------------------------------------------------------------------------------
# Order


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
    """A piece of at most `characters` characters that begins at a line of the document, drawn by seed and source.

    With None the document itself.
    """
    if characters is None or len(document.text) <= characters:
        return document
    starts = [0] + [i + 1 for i, c in enumerate(document.text[:-characters]) if c == "\n"]
    start = random.Random(f"{seed}-{document.source}").choice(starts)
    return document._replace(text=document.text[start : start + characters])


# ---------------------------------------------------------------------------------------------------------------------
# Any corpus


def documents(corpus: dict, seed: int, keep_in: Path | None = None) -> Iterator[Document]:
    """The documents that a profile's ``corpus`` describes, in a seeded order.

    Parameters
    ----------
    corpus : dict
        ``kind: environment`` with a ``split``; ``kind: files`` with ``paths`` (text files, or JSON lines with ``text``
        and perhaps ``subset``); or ``kind: hub`` with a data set's name and the names of its text and subset fields.
    seed : int
    keep_in : Path, optional
        See `environment`.

    Raises
    ------
    ValueError
        If there is not one document with text.
    """
    kind = corpus["kind"]
    if kind == "environment":
        found = interleave(environment(corpus.get("split", "heldout"), keep_in), ENVIRONMENT_SHARES, seed)
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


def _shuffled(documents: Iterable[Document], seed: int) -> list[Document]:
    documents = list(documents)
    random.Random(seed).shuffle(documents)
    return documents


def from_files(paths: Iterable[str | Path], category: str = "general prose") -> Iterator[Document]:
    """Documents from local files: one from each text file, one from each line of a ``.jsonl`` file.

    What is not UTF-8 or not JSON is left out and named in a warning.
    """
    for path in map(Path, paths):
        if path.suffix != ".jsonl":
            text = read_text(path)
            if text is not None:
                yield Document(normalize(text), path.stem, category, str(path))
            continue
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                row = json.loads(line)
                text = normalize(row["text"])
                text.encode()
            except (ValueError, KeyError, TypeError) as error:
                logger.warning("left out %s, line %d: %s", path.name, number, error)
                continue
            subset = str(row.get("subset", path.stem))
            yield Document(text, subset, PILE_CATEGORIES.get(subset, row.get("category", category)), f"{path}#{number}")


def from_hub(corpus: dict, seed: int) -> Iterator[Document]:
    """Documents streamed from a data set (the Pile), in the order of a seeded shuffle buffer.

    A subset that Table 4 does not list is its own category; a text without a UTF-8 form, or null, is left out.
    """
    import datasets  # slow to import, and only this source needs it

    stream = datasets.load_dataset(
        corpus["dataset"], data_files=corpus.get("data_files"), split=corpus.get("split", "train"),
        revision=corpus.get("revision"), streaming=True,
    ).shuffle(seed=seed, buffer_size=corpus.get("shuffle_buffer", 10_000))  # fmt: skip
    for number, row in enumerate(stream):
        subset = _field(row, corpus["subset"])
        try:
            text = normalize(_field(row, corpus["text"]))
            text.encode()
        except (UnicodeEncodeError, TypeError) as error:  # a lone surrogate; a null
            logger.warning("left out row %d of %s: %s", number, corpus["dataset"], error)
            continue
        yield Document(text, subset, PILE_CATEGORIES.get(subset, subset), f"{corpus['dataset']}#{number}")


def _field(row: dict, path: str) -> str:
    """``"meta.pile_set_name"`` of a nested row."""
    for key in path.split("."):
        if not isinstance(row, dict) or key not in row:
            raise ValueError(
                f"the data set has no field {path!r}; a row has {sorted(row) if isinstance(row, dict) else row!r}"
            )
        row = row[key]
    return row


def write_manifest(path: Path) -> None:
    """Record this environment's corpus, as `zoo/corpus.json` does for the zoo's."""
    splits = {split: manifest(environment(split)) for split in ("heldout", "train")}
    write_json(path, {"distributions": distributions(), **splits})
