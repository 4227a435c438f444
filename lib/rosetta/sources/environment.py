"""The environment corpus: real text that the locked Python environment already holds, so the kit needs no network.

Python, C/C++ and Cython sources, docstrings, package descriptions, licences and generated arithmetic. Whole files are
held out, by the hash of their path.
"""

import ast
import hashlib
import importlib.metadata
import io
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pandas as pd

from rosetta.results import keep, write_json
from rosetta.sources.document import Document, normalize, read_text, split_at_lines

# Each subset's category, and the share of the corpus's bytes that it gets, as far as its text lasts. There is no
# conversational text in a Python environment.
_SUBSETS = {
    "Python": ("code", 0.30),
    "C/C++": ("code", 0.15),
    "Cython": ("code", 0.05),
    "Arithmetic": ("math", 0.08),
    "Scientific docstrings": ("formal/scientific", 0.20),
    "Licences": ("formal/scientific", 0.02),
    "API docstrings": ("general prose", 0.15),
    "Package descriptions": ("general prose", 0.05),
}
ENVIRONMENT_CATEGORIES = {subset: category for subset, (category, _) in _SUBSETS.items()}
ENVIRONMENT_SHARES = {subset: share for subset, (_, share) in _SUBSETS.items()}
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
LEFT_OUT_FOLDERS = {"tests", "test", "testing", "_vendor", "__pycache__"}


def is_heldout(path: str) -> bool:
    """True for the one path in ten that no zoo model was trained on."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big") % HELDOUT_ONE_IN == 0


def environment_documents(split: str = "heldout", keep_in: Path | None = None) -> list[Document]:
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
    frame = keep(path, {"distributions": distributions()}, lambda: pd.DataFrame(_read_environment(split)))
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
    names = sorted({*PYTHON_CODE, *GENERAL, *HEADERS, *CYTHON, *DESCRIBED})
    return {name: found.version if (found := distribution(name)) else None for name in names}


def distribution(name: str) -> importlib.metadata.Distribution | None:
    """An installed distribution; None for one that is missing."""
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None


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
    changed = []
    for name in sorted({*versions, *made_with}):
        version, recorded_one = versions.get(name), made_with.get(name)
        if version != recorded_one:
            changed.append(f"{name} {version or 'missing'} instead of {recorded_one or 'missing'}")
    because = "; ".join(changed) or "the versions are the same, so the files themselves differ (another platform?)"
    return [f"subset {subset} of the {split} split has other text than recorded ({because})" for subset in subsets]


def write_manifest(path: Path) -> None:
    """Record this environment's corpus, as `zoo/corpus.json` does for the zoo's."""
    splits = {split: manifest(environment_documents(split)) for split in ("heldout", "train")}
    write_json(path, {"distributions": distributions(), **splits})


def _environment_texts(heldout: bool) -> Iterator[tuple[str, str, str]]:
    """(subset, path, text) for every file of the environment corpus on one side of the split."""
    for name in distributions():
        found = distribution(name)
        if found is None:
            continue  # the manifest notices and names it
        for file in sorted(found.files or (), key=str):
            kind = file_kind(name, str(file))
            path = f"{name}/{_without_version(str(file))}"
            if kind is None or is_heldout(path) != heldout or (text := read_text(Path(file.locate()))) is None:
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
    if path.startswith("numpy/distutils/"):
        return None  # numpy has it for Python 3.11 only; the corpus is to be the same for all
    if LEFT_OUT_FOLDERS & set(parts) or parts[-1] in ("version.py", "__config__.py"):
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


def split_docstrings(source: str) -> tuple[str, str]:
    """Python source as (the code without its docstrings, the docstrings alone, blank lines between)."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return source, ""
    lines = list(io.StringIO(source, newline=""))  # Python's lines; splitlines would end one at a form feed too
    docstrings = []
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and (docstring := ast.get_docstring(node)):
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
        units = [("hours", 60, "minutes"), ("metres", 100, "centimetres"), ("weeks", 7, "days")]
        unit, factor, small = rng.choice(units)
        return f"How many {small} are there in {a} {unit}?\n{a * factor}"
    if kind == 6:
        return f"Is {a} a prime number?\n{all(a % divisor for divisor in range(2, a))}"
    return f"Calculate the greatest common divisor of {a} and {b}.\n{math.gcd(a, b)}"
