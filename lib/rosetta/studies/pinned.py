"""Which commit of the model hub a run's models are of: the one at which each was first opened, whatever its branch is later."""

import json
from pathlib import Path

from rosetta.models.hub import commit
from rosetta.models.load import ModelSpec, files
from rosetta.results import write_json


def pinned(spec: ModelSpec, run: Path) -> ModelSpec:
    """A model as a run opens it: one of the hub by its commit, which is asked for once and kept in the run's folder.

    A folder, and a tag of open_clip, are as they are. Raises ModelRefused if the hub's cache does not hold the model and it
    cannot be fetched.
    """
    if Path(spec.location).is_dir() or (spec.kind == "open_clip" and "/" not in spec.source):
        return spec
    if not (found := kept(spec, run)):
        files(spec)  # what says what it is; from now on the cache knows the commit
        found = commit(spec.source, spec.revision)
        write_json(_file(spec, run), {"source": spec.source, "revision": spec.revision, "commit": found})
    return spec._replace(revision=found)


def kept(spec: ModelSpec, run: Path) -> str | None:
    """The commit at which a run opened a model; None of a folder, of what was not opened, or was under another revision."""
    file = _file(spec, run)
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return (
        content["commit"] if (content.get("source"), content.get("revision")) == (spec.source, spec.revision) else None
    )


def _file(spec: ModelSpec, run: Path) -> Path:
    return run / "models" / f"{spec.name}.json"
