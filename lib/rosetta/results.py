"""Kept results: written whole or not at all, with the parameters that made them beside them.

A result is a file; next to ``counts.json`` lies ``counts.json.made-with.json``, which holds the parameters, what the
result owes to code (`made_by`) and the file's SHA-256. A result is used again only if all of it still agrees; otherwise it
is named in a message and made again.
"""

import ast
import errno
import glob
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

logger = logging.getLogger(__name__)

#: Part of a temporary file's name: several machines may share a folder.
HOST = re.sub(r"\W", "_", platform.node())
LIBRARY = Path(__file__).parent
#: What the libraries compute with and no module of this one imports.
BEHIND = ("tokenizers",)
#: What may have a docstring.
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Call ``write(temporary)`` and rename the temporary file to `path`: it is there whole or not at all.

    Raises
    ------
    OSError
        What the writer raised; a full disk is named with the path and the folder to make room in.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary = path.with_name(f".{HOST}-{os.getpid()}-{path.name}")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            message = f"no space left to write {path.name}; make room and run again"
            raise OSError(errno.ENOSPC, message, str(path.parent)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what processes of this machine that are no more have left of a file that they were writing."""
    for left in path.parent.glob(f".{HOST}-*-{glob.escape(path.name)}"):
        process = left.name.removeprefix(f".{HOST}-").removesuffix(f"-{path.name}")
        if process.isdigit() and not _is_running(int(process)):
            left.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8"))


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV for people and other programs, whole or not at all."""
    write_whole(path, lambda temporary: table.to_csv(temporary, index=False))


# ---------------------------------------------------------------------------------------------------------------------
# What a result owes to code


def made_by(module: str) -> dict[str, Any]:
    """What a result owes to the code of the module that makes it: part of the parameters of whatever is kept.

    Found, not listed: the module and every module of the library that it reaches through their imports, as one digest,
    comments, docstrings and layout aside; and the versions of Python and of the libraries that these modules import.
    Code from elsewhere, a notebook's cell for instance, adds nothing.

    Returns
    -------
    dict
        ``code`` and ``libraries``, or nothing.
    """
    if not _file(module):
        return {}
    sources = {name: _source(name) for name in reached(module)}
    code = hashlib.sha256(json.dumps({name: digest for name, (digest, _) in sources.items()}).encode())
    imported = frozenset().union(BEHIND, *(names for _, names in sources.values()))
    return {"code": code.hexdigest()[:16], "libraries": _versions(imported)}


def reached(module: str) -> list[str]:
    """The library's modules that one of them reaches through its imports, itself included, by name."""
    seen, waiting = set(), {module}
    while waiting:
        seen |= waiting
        waiting = {name for known in waiting for name in _source(known)[1] if _file(name)} - seen
    return sorted(seen)


def _source(module: str) -> tuple[str, frozenset[str]]:
    """The digest of a module's code, and the modules that it imports."""
    return _parsed(_file(module), _file(module).stat().st_mtime_ns)


@cache
def _parsed(file: Path, _mtime: int) -> tuple[str, frozenset[str]]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            imported |= {name if _file(name) else node.module for name in inside}
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), frozenset(imported)


def _file(module: str) -> Path | None:
    """The file of a module of the library, or of a folder's list of names; None for anything else."""
    return _file_in(LIBRARY, module)


@cache
def _file_in(library: Path, module: str) -> Path | None:
    top, *inside = module.split(".")
    path = library.joinpath(*inside)
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None) if top == library.name else None


def learn() -> dict[Path, int]:
    """Go through all of the library's code, and what is installed: processes forked from this one need not do so again.

    Returns
    -------
    dict of Path to int
        When each of the library's files was changed last.
    """
    found = _times()
    for file, time in found.items():
        _parsed(file, time)
    _distributions()
    return found


def _times() -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in LIBRARY.rglob("*.py")}


def changed(learnt: dict[Path, int]) -> bool:
    """Whether a file of the library is another one now, or there are others, than when they were learnt (`learn`)."""
    return learnt != _times()


@cache
def _distributions() -> dict[str, list[str]]:
    return importlib.metadata.packages_distributions()  # neither the library itself nor Python's own are there


@cache
def _versions(imported: frozenset[str]) -> dict[str, str]:
    distributions = _distributions()
    packages = {module.partition(".")[0] for module in imported}
    names = {name for package in packages for name in distributions.get(package, ())} - {LIBRARY.name}
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in sorted(names)}


# ---------------------------------------------------------------------------------------------------------------------
# Keeping


def keep(path: Path, parameters: dict, make: Callable[[], Any]) -> Any:
    """The result at `path`, made only if it is not there already, made with these very parameters.

    Parameters
    ----------
    path : Path
        ``.parquet`` keeps a DataFrame (with its ``attrs``), ``.json`` anything JSON can hold.
    parameters : dict
        All that the result depends on but code, which is added to it (`made_by`); plain JSON values.
    make : callable
        Called without arguments when the result has to be made.

    Returns
    -------
    object
        As read back from the file, so a first and a second run go on with the same thing.
    """
    path = Path(path)
    _keep(path, parameters | made_by(make.__module__), lambda temporary: _write(make(), path.suffix, temporary))
    return _read(path)


def keep_file(path: Path, parameters: dict, write: Callable[[Path], Any]) -> Path:
    """As `keep`, for any file: ``write(temporary)`` makes it, and its path is returned without reading it."""
    _keep(Path(path), parameters | made_by(write.__module__), write)
    return Path(path)


def _keep(path: Path, parameters: dict, write: Callable[[Path], Any]) -> None:
    reason = why_stale(path, parameters)
    if reason:
        if path.exists():
            logger.warning("%s %s; it is made again", path, reason)
        write_whole(path, write)
        vouch(path, parameters)


def vouch(path: Path, parameters: dict) -> None:
    """Record beside a file that is there, whole, what it was made with: what `why_stale` compares."""
    write_json(_beside(path), {"sha256": _sha256(path), "parameters": parameters})


def why_stale(path: Path, parameters: dict) -> str | None:
    """None if the file was made whole with these parameters, otherwise what is wrong with it."""
    parameters = json.loads(json.dumps(parameters))
    if not path.exists():
        return "is not there"
    try:
        beside = json.loads(_beside(path).read_text(encoding="utf-8"))
        made_with, sha256 = dict(beside["parameters"]), beside["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return "has no readable record of how it was made"
    if sha256 != _sha256(path):
        return "is not the file that was written (half-written, or changed by hand)"
    if made_with != parameters:
        changed = sorted(key for key in {*made_with, *parameters} if made_with.get(key) != parameters.get(key))
        return f"was made with another {', '.join(changed)}"
    return None


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".made-with.json")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(result: Any, suffix: str, path: Path) -> None:
    if suffix == ".parquet":
        result.to_parquet(path, index=False)
    elif suffix == ".json":
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    else:
        raise ValueError(f"results are kept as .parquet or .json, not as {suffix!r}")


def _read(path: Path) -> Any:
    return pd.read_parquet(path) if path.suffix == ".parquet" else json.loads(path.read_text(encoding="utf-8"))
