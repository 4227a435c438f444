"""Load and describe a model: from a local folder, the zoo's above all, or by its name on the model hub."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from safetensors import SafetensorError, safe_open

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
    widths = [mlp.neurons for mlp in mlps]
    if len(set(widths)) > 1:  # a model's size is its layers times their width, everywhere
        raise ModelRefused(
            f"model {name or source}: its layers have {widths} neurons; only layers of one width are counted"
        )
    return ModelSpec(name or Path(source).name, str(source), family, len(mlps), widths[0])


class ModelRefused(ValueError):
    """A model cannot be had as it is; the message names it, what is wrong and what to do."""


def load_tokenizer(spec: ModelSpec) -> transformers.PreTrainedTokenizerBase:
    """The model's own tokenizer; ModelRefused if its files are broken or not there."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            spec.location, revision=spec.revision, trust_remote_code=spec.remote_code
        )
    except OSError:
        raise
    except Exception as error:  # whatever the parser met
        raise ModelRefused(f"model {spec.name}: the tokenizer in {spec.location} cannot be read: {error}") from error
    if not tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"]:  # what comes where there are no files
        raise ModelRefused(f"model {spec.name}: {spec.location} holds no tokenizer; copy its tokenizer.json there")
    return tokenizer


def token_ids(tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    """Token ids of each text, without special tokens: one that is written out in a text stands for its letters."""
    for start in range(0, len(texts), 256):
        some = list(texts[start : start + 256])
        yield from tokenizer(some, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


def load(spec: ModelSpec, device: str = "cpu", dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The trained model, ready to be read from.

    Raises
    ------
    ValueError
        If dtype is float16 on a CPU (it is slower there by orders of magnitude).
    ModelRefused
        If there are no safetensors, a file of them is broken, or its weights are not those of the architecture: none
        missing, left over or of another shape. What is missing would be drawn at random, and measured.
    """
    if dtype == torch.float16 and str(device) == "cpu":
        raise ValueError("float16 on a CPU is slower by orders of magnitude; use float32 or bfloat16")
    _check_files(spec)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        spec.location, revision=spec.revision, trust_remote_code=spec.remote_code, dtype=dtype, use_safetensors=True,
        ignore_mismatched_sizes=True, output_loading_info=True,
    )  # fmt: skip
    _check_weights(spec, type(model).__name__, report)
    return model.eval().requires_grad_(False).to(device)


def _check_files(spec: ModelSpec) -> None:
    """ModelRefused if a local folder holds no safetensors, or one that cannot be read."""
    folder = Path(spec.location)
    if not folder.is_dir():
        return
    files = sorted(folder.glob("*.safetensors"))
    if not files and (pickles := sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt"))):
        raise ModelRefused(
            f"model {spec.name}: {pickles[0]} is a pickle, which may run code when it is read; load it once where that is "
            "safe and write it with `model.save_pretrained(folder)`, which makes safetensors"
        )
    for file in files:
        try:
            with safe_open(file, "pt") as tensors:
                tensors.keys()
        except SafetensorError as error:
            raise ModelRefused(
                f"model {spec.name}: {file} is no whole safetensors file ({error}); it may be cut short, or a pointer to a "
                "file that was not fetched; fetch it again"
            ) from error


def _check_weights(spec: ModelSpec, architecture: str, report: dict) -> None:
    """ModelRefused unless the checkpoint held the architecture's weights, neither more nor less."""
    # Tables that older checkpoints carried along; each model computes its own.
    surplus = [key for key in report["unexpected_keys"] if not re.search(r"inv_freq|masked_bias|attn\.bias$", key)]
    shapes = [f"{key} {tuple(there)} instead of {tuple(here)}" for key, there, here in report["mismatched_keys"]]
    wrong = [
        f"{len(keys)} {what} ({', '.join(sorted(keys)[:3])}{', …' if len(keys) > 3 else ''})"
        for what, keys in (("missing", report["missing_keys"]), ("left over", surplus), ("of another shape", shapes))
        if keys
    ]
    if wrong:
        raise ModelRefused(
            f"model {spec.name}: the weights in {spec.location} are not those of its architecture, {architecture}: {', '.join(wrong)}. "
            "Weights that are missing would be drawn at random and measured; fetch or convert the checkpoint again"
        )


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
    """What tells this model's weights from others': for the hub its name and revision.

    For a folder it is the digest of all its files but what is written about the model (``.md``).
    """
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
