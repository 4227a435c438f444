"""The smoke profile with names, texts and functions that a browser, TeX or a shell would take for its own."""

import argparse
import ast
import gzip
import inspect
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import yaml
from scipy import stats

from rosetta import sources
from rosetta.models.load import ROOT
from rosetta.sources import cutters, environment

TRAPS = (
    "<img src=x onerror=window.pwned=1>", "<script>window.pwned=2</script>", "</script><script>window.pwned=3</script>",
    "[x](javascript:window.pwned=4)", r"$\href{javascript:window.pwned=5}{x}$", r"$\frac$", r"\ {} %s &lt; '\"`",
    "\u202eא\u200b",
)  # fmt: skip
CATEGORY = r"<img src=x onerror=window.pwned=6> $\frac$"
SUBSET = r"</script><script>window.pwned=7</script> $\frac$ {}"
#: A language is the name of a folder, so without a slash.
LANGUAGE = r"<img src=x onerror=window.pwned=8> $\frac$ {}"
#: In place of the profile's own names, wherever they stand: the worst that it allows.
NAMES = {
    "opt-32x2": "onerror", "qwen-48x3": "alert.1_-", "gpt2-32x2": "javascript", "opt": "ü-λ", "qwen": "script",
    "opt-qwen": "onerror.1", "pythia-opt": "σ.-_x",
}  # fmt: skip
#: Every point is a notebook of 15 seconds; two curves of two sizes and a collapsed one are enough to see them all.
LEFT_OUT = ("pythia-gpt2", "opt-pythia-gpt2")


def profile(folder: Path) -> Path:
    """Write corpus, pool and profile to a folder; the path of the last."""
    content = yaml.safe_load((ROOT / "profiles" / "smoke.yaml").read_text(encoding="utf-8"))
    content["curves"] = {name: points for name, points in content["curves"].items() if name not in LEFT_OUT}
    content = renamed(content)
    texts = folder / "texts.jsonl"
    texts.write_text("".join(json.dumps(row) + "\n" for row in documents()), encoding="utf-8")
    content["corpus"] = {"kind": "files", "paths": [str(texts)]}
    pool = {"kind": "codesearchnet", "source": str(write_pool(folder / "pool")), "languages": ["Python", LANGUAGE]}
    content["filtering"] |= {"pool": pool, "target": LANGUAGE, "labelled": SUBSET}
    path = folder / "hostile.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def renamed(value):
    """What a profile holds, with `NAMES`."""
    if isinstance(value, dict):
        return {NAMES.get(key, key): renamed(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return [renamed(inside) for inside in value]
    return NAMES.get(value, value) if isinstance(value, str) else value


def documents() -> Iterator[dict]:
    """Pieces of real text in four categories of the paper, and in one that it does not have."""
    code = "".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "lib" / "rosetta").rglob("*.py")))
    formal = "\n".join(inspect.getdoc(getattr(stats, name)) or "" for name in stats.__all__)
    kinds = {
        ("Python", "code"): sources.split_at_lines(code, 400),
        ("<b>Arithmetic</b>", "math"): map(environment.arithmetic, range(60)),
        (r"scipy $\frac$", "formal/scientific"): sources.split_at_lines(formal, 400),
        ("README", "general prose"): sources.split_at_lines((ROOT / "README.md").read_text(encoding="utf-8"), 300),
        (SUBSET, CATEGORY): sources.split_at_lines(page() + page("js"), 300),
    }
    for (subset, category), pieces in kinds.items():
        for text in itertools.islice(pieces, 60):
            yield {"text": trapped(text), "subset": subset, "category": category}


def page(part: str = "html") -> str:
    """The explorer's page: HTML, or its functions in JavaScript."""
    return (ROOT / "lib" / "rosetta" / "viewer" / f"page.{part}").read_text(encoding="utf-8")


def trapped(text: str) -> str:
    """A text with a trap at the end of its first and then of every sixth line."""
    traps = itertools.cycle(TRAPS)
    lines = text.splitlines()
    return "\n".join(f"{line} {next(traps)}" if i % 6 == 0 else line for i, line in enumerate(lines)) + "\n"


def write_pool(folder: Path) -> Path:
    """Functions in the layout of CodeSearchNet's archives."""
    functions = {
        "Python": [f for module in (argparse, ast) for f in cutters.python_functions(inspect.getsource(module))],
        LANGUAGE: list(cutters.javascript_functions(page("js"))),
    }
    for language, texts in functions.items():
        for split, some in {"test": texts[::2], "train": texts[1::2]}.items():
            rows = "".join(json.dumps({"code": trapped(text), "url": SUBSET}) + "\n" for text in some)
            path = folder / language / "final" / "jsonl" / split / "0.jsonl.gz"
            path.parent.mkdir(parents=True)
            path.write_bytes(gzip.compress(rows.encode()))
    return folder
