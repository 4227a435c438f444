"""Load and describe a model: from a local folder, the zoo's above all, or by its name on the model hub."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import transformers

from rosetta.models.mlps import find_mlps

ROOT = Path(__file__).resolve().parents[3]
transformers.utils.logging.disable_progress_bar()  # one bar for the run, none for the loading of each model


class ModelSpec(NamedTuple):
    """A model of a profile.

    ``source`` is a folder (relative to the kit, or absolute) or a hub name; ``revision`` pins the latter.
    ``layers`` and ``mlp_width`` are stated so that a curve can be laid out without loading anything, and checked
    when the model is loaded.
    """

    name: str
    source: str
    family: str
    layers: int
    mlp_width: int
    revision: str | None = None
    remote_code: bool = False

    @property
    def neurons(self) -> int:
        """Total number of MLP neurons, the x of Figure 3."""
        return self.layers * self.mlp_width

    @property
    def location(self) -> str:
        """What `from_pretrained` is given: a folder or a hub name; FileNotFoundError if it is a folder that is not there."""
        return located(self.source)


def located(source: str) -> str:
    """The folder of a model, or its hub name; FileNotFoundError if it is a folder that is not there."""
    folder = ROOT / source
    if folder.is_dir():
        return str(folder)
    if source.startswith(("zoo/", "/", ".")):  # "zoo/x" could be a hub name too, but never is one here
        raise FileNotFoundError(f"there is no folder {folder}; for a model of the zoo run `make zoo`")
    return source


def describe(source: str | Path, name: str | None = None, family: str = "mine") -> ModelSpec:
    """The `ModelSpec` of any model, its layers and neurons read off its structure; no weights are loaded.

    Parameters
    ----------
    source : str or Path
        A folder (relative to the kit, or absolute) or a hub name.
    name, family : str, optional
        For tables; by default the last part of the source.
    """
    config = transformers.AutoConfig.from_pretrained(located(str(source)))
    with torch.device("meta"):
        mlps = find_mlps(transformers.AutoModelForCausalLM.from_config(config))
    return ModelSpec(name or Path(source).name, str(source), family, len(mlps), mlps[0].neurons)


def load_tokenizer(spec: ModelSpec) -> transformers.PreTrainedTokenizerBase:
    """The model's own tokenizer."""
    return transformers.AutoTokenizer.from_pretrained(
        spec.location, revision=spec.revision, trust_remote_code=spec.remote_code
    )


def load(spec: ModelSpec, device: str = "cpu", dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The trained model, ready to be read from.

    Raises
    ------
    ValueError
        If dtype is float16 on a CPU (it is slower there by orders of magnitude).
    """
    if dtype == torch.float16 and str(device) == "cpu":
        raise ValueError("float16 on a CPU is slower by orders of magnitude; use float32 or bfloat16")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        spec.location, revision=spec.revision, trust_remote_code=spec.remote_code, dtype=dtype
    )
    return model.eval().requires_grad_(False).to(device)


def load_untrained(
    spec: ModelSpec, seed: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> torch.nn.Module:
    """The same architecture with its own random initialization (section 4.2), reproducible by its seed."""
    config = transformers.AutoConfig.from_pretrained(
        spec.location, revision=spec.revision, trust_remote_code=spec.remote_code
    )
    return from_config(config, seed, spec.remote_code).to(dtype).eval().requires_grad_(False).to(device)


def from_config(config: transformers.PretrainedConfig, seed: int, remote_code: bool = False) -> torch.nn.Module:
    """A model of this configuration, initialized from this seed; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=remote_code)


def fingerprint(spec: ModelSpec) -> str:
    """What tells this model's weights from others': the digest of a folder's files, but for what is written about it, name and revision for the hub."""
    folder = Path(spec.location)
    if not folder.is_dir():
        return f"{spec.source}@{spec.revision or 'main'}"
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file() and path.suffix != ".md"):
        digest.update(file.name.encode() + _file_digest(file, file.stat().st_mtime_ns, file.stat().st_size))
    return digest.hexdigest()[:16]


@cache
def _file_digest(path: Path, _mtime: int, _size: int) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def zoo_cards() -> list[dict]:
    """The cards of the embedded models (`zoo/models.json`)."""
    return json.loads((ROOT / "zoo" / "models.json").read_text(encoding="utf-8"))
