"""A model's files from the model hub: fetched as one commit, or had from its cache; and what to do where they cannot be had."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

#: What is said of a checkpoint of pickles; `{source}` is a folder or a hub name.
CONVERT = (
    "a pickle, which may run code when it is read; load it once where that is safe and write it with "
    "`model.save_pretrained(folder)`, which makes safetensors: python -c \"from transformers import AutoModelForCausalLM as M, "
    "AutoTokenizer as T; [kind.from_pretrained('{source}').save_pretrained('FOLDER') for kind in (M, T)]\". Then FOLDER is its source"
)  # fmt: skip
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
#: A commit, which never changes as a branch or a tag may.
COMMIT = re.compile(r"[0-9a-f]{40}")


class ModelRefused(ValueError):
    """A model cannot be had as it is; the message names it, what is wrong and what to do."""


def fetched(
    name: str, source: str, revision: str | None = None, weights: bool = False, remote_code: bool = False
) -> Path:
    """The folder of the hub's cache that holds a model at one commit, whose name it bears, fetched where it is not there.

    Parameters
    ----------
    name, source : str
        Of the model, for messages, and its name on the hub.
    revision : str, optional
        A commit, a branch or a tag; by default the main branch, as it is now.
    weights : bool
        The safetensors too, and not only what says what the model and its tokenizer are.
    remote_code : bool
        The model's own code too.

    Raises
    ------
    ModelRefused
        If it cannot be had, and what would help; or if `weights` are asked for and there are no safetensors.
    """
    wanted = ["*.json", "*.txt", "*.model", "*.jinja"] + ["*.safetensors"] * weights + ["*.py"] * remote_code
    with asking(name, source, revision):
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=wanted, ignore_patterns="*/*"))
    if weights and not any(folder.glob("*.safetensors")):
        raise ModelRefused(f"model {name}: {_without_safetensors(source, folder)}")
    return folder


def commit(source: str, revision: str | None = None) -> str | None:
    """The commit for which a hub name's revision stood when it was last fetched; None if it never was, or is a folder."""
    if revision and COMMIT.fullmatch(revision):
        return revision
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        return None
    kept = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=source, repo_type="model")
    ref = kept / "refs" / (revision or constants.DEFAULT_REVISION)
    return ref.read_text(encoding="utf-8").strip() if ref.is_file() else None


@contextmanager
def asking(name: str, source: str, revision: str | None = None) -> Iterator[None]:
    """While open, what the hub's client raises becomes a `ModelRefused` that says what would help."""
    try:
        yield
    except (OSError, HfHubHTTPError, EntryNotFoundError, HFValidationError) as error:
        raise ModelRefused(f"model {name}: {_why(error, source, revision)}") from error


def _why(error: Exception, source: str, revision: str | None) -> str:
    at = f" at revision {revision}" if revision else ""
    page = f"{constants.ENDPOINT}/{source}"
    if isinstance(error, GatedRepoError):
        return (
            f"{source} is given to those who accept its licence; accept it on {page}, and set HF_TOKEN to a token of the "
            "account that did"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{source} has no revision {revision}; {page}/commits/main lists its commits"
    if isinstance(error, HFValidationError):
        return f"{source} is neither a folder here nor a name on the model hub, which are owner/name"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, RepositoryNotFoundError) or status in (401, 403):
        return (
            f"the model hub shows no {source}; look whether {page} is spelled so, and if it is private, set HF_TOKEN to a "
            "token of an account that may read it"
        )
    if isinstance(error, LocalEntryNotFoundError):  # its kinds say that the hub was not reached
        off = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else f"{constants.ENDPOINT} cannot be reached"
        return (
            f"{off}, and the hub's cache, {constants.HF_HUB_CACHE}, does not hold all of {source}{at}. Fetch it where there is "
            f"a network (`hf download {source}{f' --revision {revision}' if revision else ''}`) and set HF_HOME to where it "
            "was put; or give the path of a folder that holds it as its source"
        )
    return f"{source}{at} cannot be had from the model hub: {error}"


def _without_safetensors(source: str, folder: Path) -> str:
    """What is said of a commit that holds none."""
    try:
        names = HfApi().list_repo_files(source, revision=folder.name)
    except (OSError, HfHubHTTPError):  # offline
        names = [file.name for file in folder.iterdir()]
    at = f"{source} at commit {folder.name}"
    if pickles := sorted(name for name in names if name.endswith(PICKLES) and "/" not in name):
        return f"{at} holds no safetensors, and {pickles[0]} is {CONVERT.format(source=source)}"
    return f"{at} holds no safetensors"
