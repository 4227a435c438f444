"""Kept results: written whole or not at all, with the parameters that made them beside them.

A result is a file; next to ``counts.json`` lies ``counts.json.made-with.json``, which holds the parameters and the
file's SHA-256. A result is used again only if both still agree; otherwise it is named in a message and made again.
"""

import ast
import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

logger = logging.getLogger(__name__)


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Call ``write(temporary)`` and rename the temporary file to `path`: it is there whole or not at all.

    Raises
    ------
    OSError
        What the writer raised; a full disk is named with the path and the folder to make room in.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OSError(
                errno.ENOSPC, f"no space left to write {path.name}; make room and run again", str(path.parent)
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8"))


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV for people and other programs, whole or not at all."""
    write_whole(path, lambda temporary: table.to_csv(temporary, index=False))


def code_digest(*modules: str) -> str:
    """What tells this version of some of the library's modules from another; comments, docstrings and layout aside.

    Part of the parameters of whatever those modules compute, so that no change of theirs leaves a stale result in use.
    """
    digest = hashlib.sha256()
    for module in modules:
        source = (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8")
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


def keep(path: Path, parameters: dict, make: Callable[[], Any]) -> Any:
    """The result at `path`, made only if it is not there already, made with these very parameters.

    Parameters
    ----------
    path : Path
        ``.parquet`` keeps a DataFrame (with its ``attrs``), ``.json`` anything JSON can hold.
    parameters : dict
        All that the result depends on; plain JSON values.
    make : callable
        Called without arguments when the result has to be made.

    Returns
    -------
    object
        As read back from the file, so a first and a second run go on with the same thing.
    """
    path = Path(path)
    return _read(keep_file(path, parameters, lambda temporary: _write(make(), path.suffix, temporary)))


def keep_file(path: Path, parameters: dict, write: Callable[[Path], Any]) -> Path:
    """As `keep`, for any file: ``write(temporary)`` makes it, and its path is returned without reading it."""
    path = Path(path)
    parameters = json.loads(json.dumps(parameters))
    reason = why_stale(path, parameters)
    if reason:
        if path.exists():
            logger.warning("%s %s; it is made again", path, reason)
        write_whole(path, write)
        vouch(path, parameters)
    return path


def vouch(path: Path, parameters: dict) -> None:
    """Record beside a file that is there, whole, what it was made with: what `why_stale` compares."""
    write_json(_beside(path), {"sha256": _sha256(path), "parameters": parameters})


def why_stale(path: Path, parameters: dict) -> str | None:
    """None if the file was made whole with these parameters, otherwise what is wrong with it."""
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
