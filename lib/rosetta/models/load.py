"""Load and describe a model: from a local folder, the zoo's above all, or by its name on the model hub."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import get_balanced_memory
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open

from rosetta.models.hub import CONVERT, PICKLES, ModelRefused, fetched
from rosetta.models.mlps import find_mlps

ROOT = Path(__file__).resolve().parents[3]
#: The device of a model that is laid out over all GPUs, by accelerate; where there are none, over the CPU.
SPREAD = "spread"
#: What a model is, and so by which library it is opened; the encoders of images, then the generators.
KINDS = ("language", "open_clip", "transformers", "pmf", "sana", "flux", "onestep")
GENERATORS = KINDS[3:]
Device = str | torch.device | dict
transformers.utils.logging.disable_progress_bar()  # one bar for the run, none for the loading of each model


class ModelSpec(NamedTuple):
    """A model of a profile.

    ``source`` is a folder (relative to the kit, or absolute) or a hub name; ``revision`` pins the latter.
    ``layers`` and ``mlp_width`` are stated so that a curve can be laid out without loading anything, and checked
    when the model is loaded. ``device`` is where a profile puts this model, where it says so: a device, ``auto`` or
    `SPREAD`. ``hidden_size``, the width of the residual stream, is for planning alone. ``kind`` is one of `KINDS`;
    ``tag`` says which weights of an architecture, where its name does not: open_clip's tag, or the name of a pMF.
    ``image_size``, pixels on a side, is for encoders that take several sizes; by default their configuration's. ``grid``:
    cells on a side of its images, and ``classes``: of a generator, its labels, are stated as layers are.
    """

    name: str
    source: str
    family: str
    layers: int
    mlp_width: int
    revision: str | None = None
    remote_code: bool = False
    device: str | None = None
    hidden_size: int | None = None
    kind: str = "language"
    tag: str | None = None
    image_size: int | None = None
    grid: int | None = None
    classes: int | None = None

    @property
    def modality(self) -> str:
        """What it reads or makes: ``text`` or ``images``."""
        return "text" if self.kind == "language" else "images"

    @property
    def generates(self) -> bool:
        """Whether it makes the images that it is read on."""
        return self.kind in GENERATORS

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


def files(spec: ModelSpec, weights: bool = False) -> Path:
    """The folder of a model's files, or of those of the hub at one commit (`hub.fetched`), with or without weights."""
    folder = Path(spec.location)
    return folder if folder.is_dir() else fetched(spec.name, spec.source, spec.revision, weights, spec.remote_code)


def configuration(spec: ModelSpec) -> Path | None:
    """The ``config.json`` of a model, in its folder or in the hub's cache; None where it is not on this machine."""
    file = ROOT / spec.source / "config.json"
    if file.is_file():
        return file
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", spec.source):
        return None
    cached = try_to_load_from_cache(spec.source, "config.json", revision=spec.revision)
    return Path(cached) if isinstance(cached, str) else None


def describe(source: str | Path, name: str | None = None, family: str = "mine") -> ModelSpec:
    """The `ModelSpec` of any model, its layers and neurons read off its structure; no weights are loaded.

    Parameters
    ----------
    source : str or Path
        A folder (relative to the kit, or absolute) or a hub name.
    name, family : str, optional
        For tables; by default the last part of the source.
    """
    config = transformers.AutoConfig.from_pretrained(files(ModelSpec(name or str(source), str(source), family, 0, 0)))
    with torch.device("meta"):
        mlps = find_mlps(transformers.AutoModelForCausalLM.from_config(config))
    widths = [mlp.neurons for mlp in mlps]
    if len(set(widths)) > 1:  # a model's size is its layers times their width, everywhere
        raise ModelRefused(
            f"model {name or source}: its layers have {widths} neurons; only layers of one width are counted"
        )
    return ModelSpec(name or Path(source).name, str(source), family, len(mlps), widths[0])


def load_tokenizer(spec: ModelSpec) -> transformers.PreTrainedTokenizerBase:
    """The model's own tokenizer; ModelRefused if its files are broken or not there."""
    folder = files(spec)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=spec.remote_code)
    except OSError:
        raise
    except Exception as error:  # whatever the parser met
        _ask_for_its_code(spec, error)
        raise ModelRefused(f"model {spec.name}: the tokenizer in {folder} cannot be read: {error}") from error
    if not tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"]:  # what comes where there are no files
        raise ModelRefused(f"model {spec.name}: {folder} holds no tokenizer; copy its tokenizer.json there")
    return tokenizer


def token_ids(tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    """Token ids of each text, without special tokens: one that is written out in a text stands for its letters."""
    for start in range(0, len(texts), 256):
        some = list(texts[start : start + 256])
        yield from tokenizer(some, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


def load(spec: ModelSpec, device: Device = "cpu", dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The trained model, ready to be read from.

    Parameters
    ----------
    spec : ModelSpec
        Its ``device`` is the profile's affair (`Study.device_of`) and not looked at here.
    device : str, torch.device or dict
        One device; `SPREAD`; or accelerate's ``device_map``, parts of the model to devices. Only on CPUs have the last two
        been tried, accelerate's moves between parts included; not on several GPUs.
    dtype : torch.dtype
        Of the weights; none is held in another.

    Raises
    ------
    ValueError
        If dtype is float16 on a CPU (it is slower there by orders of magnitude).
    ModelRefused
        If there are no safetensors, a file of them is broken, or its weights are not those of the architecture: none
        missing, left over or of another shape. What is missing would be drawn at random, and measured. Or if it is to be
        spread and does not fit the GPUs.
    """
    check_precision(device, dtype)
    folder = files(spec, weights=True)
    check_files(spec, folder)
    config = _config(spec, folder)
    device_map = "auto" if device == SPREAD else device if isinstance(device, dict) else None
    model, report = _auto(spec).from_pretrained(
        folder, config=config, trust_remote_code=spec.remote_code, dtype=dtype, use_safetensors=True,
        ignore_mismatched_sizes=True, output_loading_info=True, device_map=device_map,
    )  # fmt: skip
    check_weights(spec, type(model).__name__, report)
    model = model.eval().requires_grad_(False)
    if device_map is None:
        return model.to(device)
    _check_places(spec, getattr(model, "hf_device_map", {}))
    return model


def _config(spec: ModelSpec, folder: Path) -> transformers.PretrainedConfig:
    try:
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=spec.remote_code)
    except ValueError as error:
        _ask_for_its_code(spec, error)
        raise


def _ask_for_its_code(spec: ModelSpec, error: Exception) -> None:
    """ModelRefused where transformers asks whether a model's own code may run, which the profile has not said."""
    if "trust_remote_code" in str(error) and not spec.remote_code:
        raise ModelRefused(
            f"model {spec.name}: {spec.source} brings code of its own, which is not run unasked; read it, and if it may run, "
            "say remote_code: true in the profile, and as revision the commit that you read"
        ) from error


def _auto(spec: ModelSpec) -> type:
    return transformers.AutoModelForCausalLM if spec.kind == "language" else transformers.AutoModel


def check_precision(device: Device, dtype: torch.dtype) -> None:
    """ValueError for float16 on a CPU."""
    if dtype == torch.float16 and str(device) == "cpu":
        raise ValueError("float16 on a CPU is slower by orders of magnitude; use float32 or bfloat16")


def _place(spec: ModelSpec, model: torch.nn.Module, device: Device) -> torch.nn.Module:
    """A model that is in memory, on one device or its parts on several."""
    if device != SPREAD and not isinstance(device, dict):
        return model.to(device)
    if device == SPREAD:
        blocks = list(model._no_split_modules or ())  # what a block adds up must lie on one device
        room = get_balanced_memory(model, no_split_module_classes=blocks)
        device = infer_auto_device_map(model, room, no_split_module_classes=blocks)
    _check_places(spec, device)
    return dispatch_model(model, device)


def _check_places(spec: ModelSpec, places: dict[str, int | str | torch.device]) -> None:
    """ModelRefused if parts of a model that is spread would wait on the disk, or beside GPUs on the CPU."""
    kinds = {str(place) for place in places.values()}
    if "disk" in kinds or ("cpu" in kinds and len(kinds) > 1):
        left = [part for part, place in places.items() if str(place) in ("cpu", "disk")]
        raise ModelRefused(
            f"model {spec.name}: it does not fit the devices here: {len(left)} of its {len(places)} parts ({left[0]}, …) "
            "would be fetched anew for every batch; give it more GPUs, or device: cpu"
        )


def check_files(spec: ModelSpec, folder: Path) -> None:
    """ModelRefused if a local folder holds pickles and no safetensors, or one that cannot be read; nothing of a hub name."""
    if not folder.is_dir():
        return
    tensors = sorted(folder.glob("*.safetensors"))
    pickles = sorted(path for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles and not tensors:
        raise ModelRefused(f"model {spec.name}: {pickles[0]} is {CONVERT.format(source=folder)}")
    for file in tensors:
        try:
            with safe_open(file, "pt") as opened:
                opened.keys()
        except SafetensorError as error:
            raise ModelRefused(
                f"model {spec.name}: {file} is no whole safetensors file ({error}); it may be cut short, or a pointer to a "
                "file that was not fetched; fetch it again"
            ) from error


def fill(spec: ModelSpec, model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give a network its weights; ModelRefused unless they are all that it has, neither more nor less, each of its shape."""
    own = model.state_dict()
    both = own.keys() & tensors.keys()
    report = {
        "missing_keys": own.keys() - both,
        "unexpected_keys": tensors.keys() - both,
        "mismatched_keys": [(k, tensors[k].shape, own[k].shape) for k in both if tensors[k].shape != own[k].shape],
    }
    check_weights(spec, type(model).__name__, report)
    model.load_state_dict(tensors, assign=True)  # it may have been made without memory for them


def check_weights(spec: ModelSpec, architecture: str, report: Mapping) -> None:
    """ModelRefused unless the checkpoint held the architecture's weights, neither more nor less.

    ``report`` is what transformers and diffusers say after loading: ``missing_keys``, ``unexpected_keys``, and
    ``mismatched_keys`` (name, shape in the file, shape of the architecture).
    """
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
    spec: ModelSpec, seed: int, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> torch.nn.Module:
    """The same architecture with its own random initialization (section 4.2), reproducible by its seed.

    It is drawn in the precision that its configuration states, unless that is wider than `dtype`. `device` as for `load`.
    """
    config = _config(spec, files(spec))
    if dtype.itemsize < (config.dtype or torch.float32).itemsize:
        config.dtype = dtype
    model = from_config(config, seed, spec.remote_code, _auto(spec)).to(dtype)
    return _place(spec, model.eval().requires_grad_(False), device)


@contextmanager
def drawn(seed: int) -> Iterator[None]:
    """While open, torch draws from this seed; the global random state is then as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def from_config(
    config: transformers.PretrainedConfig,
    seed: int,
    remote_code: bool = False,
    auto: type = transformers.AutoModelForCausalLM,
) -> torch.nn.Module:
    """A model of this configuration, initialized from this seed; the global random state is left as it was."""
    with drawn(seed):
        return auto.from_config(config, trust_remote_code=remote_code)


def fingerprint(spec: ModelSpec) -> str:
    """What tells this model's weights from others': for the hub its name and revision.

    For a folder it is the digest of all its files, in folders within it too, but what is written about the model (``.md``)
    and what is hidden. Where a tag chooses among weights, it is part of both.
    """
    folder, tag = Path(spec.location), f":{spec.tag}" if spec.tag else ""
    if not folder.is_dir():
        return f"{spec.source}@{spec.revision or 'main'}{tag}"
    digest = hashlib.sha256(tag.encode())
    within = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    for name, file in sorted(within.items()):
        if file.is_file() and file.suffix != ".md" and not any(part.startswith(".") for part in Path(name).parts):
            digest.update(name.encode() + _file_digest(file, file.stat().st_mtime_ns, file.stat().st_size))
    return digest.hexdigest()[:16]


@cache
def _file_digest(path: Path, _mtime: int, _size: int) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def zoo_cards() -> list[dict]:
    """The cards of the embedded models (`zoo/models.json`)."""
    return json.loads((ROOT / "zoo" / "models.json").read_text(encoding="utf-8"))
