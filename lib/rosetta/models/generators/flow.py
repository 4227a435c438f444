"""pMF opened and run: its configuration, its checkpoint, and its one step."""

import pickle
import re
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file
from torch import Tensor

from rosetta.models.generators.pmf import PixelMeanFlow
from rosetta.models.hub import asking
from rosetta.models.load import ModelRefused, ModelSpec, check_files, fill
from rosetta.models.mlps import Mlp
from rosetta.models.opened import Vision, building, cells_of, check_labels, noise, pictures, read_json, settled


class Flow(NamedTuple):
    """A pMF's architecture, and how it is sampled: the keys of its ``config.json``.

    Attributes
    ----------
    image_size, patch_size, width, heads, mlp_width, shared, heads_of_u, bottleneck, classes : int
        As of `PixelMeanFlow`.
    noise_scale : float
        By which the noise is multiplied.
    omega, t_min, t_max : float
        The guidance with which it is sampled.
    """

    image_size: int
    patch_size: int
    width: int
    heads: int
    mlp_width: int
    shared: int
    heads_of_u: int
    bottleneck: int
    classes: int
    noise_scale: float
    omega: float
    t_min: float
    t_max: float


#: The authors' models, by the names of their checkpoints. (-L has 2,730 neurons a layer: only wider ones are rounded to 8.)
PUBLISHED = {
    "pMF-B-16": Flow(256, 16, 768, 12, 2_048, 8, 8, 128, 1_000, 1.0, 7.5, 0.1, 0.8),
    "pMF-L-16": Flow(256, 16, 1_024, 16, 2_730, 24, 8, 128, 1_000, 1.0, 7.0, 0.2, 0.7),
    "pMF-H-16": Flow(256, 16, 1_280, 16, 3_416, 40, 8, 256, 1_000, 2.0, 7.0, 0.2, 0.6),
}


def open_pmf(
    spec: ModelSpec,
    device: torch.device,
    dtype: torch.dtype,
    seed: int | None,
    omega: float | None = None,
    t_min: float | None = None,
    t_max: float | None = None,
) -> Vision:
    """A pMF that makes pictures in one step, from t = 1 to r = 0, in which what its network gives is the picture.

    Parameters
    ----------
    spec : ModelSpec
        Its source is a folder with ``config.json`` (the keys of `Flow`) and ``model.safetensors``; or a folder or hub name of
        checkpoints, ``{tag}.pt``, of the models of `PUBLISHED`, where `spec.tag` says which.
    device, dtype, seed
        As of `open_vision`. Untrained, every block passes on what it is given and the picture is grey: its vectors begin at 0.
    omega, t_min, t_max : float, optional
        Strength of the guidance, above 0, and the times between which it holds; by default the model's own.

    Raises
    ------
    ModelRefused
        If the configuration or the checkpoint is missing, broken, or not of this architecture.
    """
    flow = _flow(spec)
    given = {"omega": omega, "t_min": t_min, "t_max": t_max}
    flow = flow._replace(**{key: value for key, value in given.items() if value is not None})
    cells_of(spec.name, flow.image_size, flow.patch_size)
    with building(device, seed):
        network = PixelMeanFlow(*flow[: Flow._fields.index("noise_scale")])
    if seed is None and device.type != "meta":
        fill(spec, network, _checkpoint(spec))
    network = settled(network, device, dtype)
    mlps = pmf_mlps(network)

    def run(labels: Tensor, seeds) -> Tensor:
        check_labels(spec.name, labels, flow.classes)
        start = flow.noise_scale * noise(seeds, (3, flow.image_size, flow.image_size)).to(device, dtype)
        wanted = torch.as_tensor(labels).to(device)
        ones = torch.ones(len(start), device=device, dtype=dtype)  # h = t - r = 1
        numbers = (ones, flow.omega * ones, flow.t_min * ones, flow.t_max * ones)
        return pictures(spec.name, mlps, lambda: (network(start, *numbers, wanted) + 1) / 2, labels, seeds)

    return Vision(network, mlps, network.grid, network.prefix, None, run, flow.classes)


def pmf_mlps(network: PixelMeanFlow) -> list[Mlp]:
    """Of the shared blocks, then of those that lead to the image: two lists, so that `find_mlps` cannot tell."""
    named = [
        (f"{part}.{i}", block)
        for part in ("shared_blocks", "u_heads")
        for i, block in enumerate(getattr(network, part))
    ]
    return [Mlp(path, f"{path}.mlp.w2", block.mlp.w2, block.mlp.w2.in_features) for path, block in named]


def _flow(spec: ModelSpec) -> Flow:
    file = Path(spec.location) / "config.json"
    if not file.is_file():
        if spec.tag in PUBLISHED:
            return PUBLISHED[spec.tag]
        raise ModelRefused(
            f"model {spec.name}: there is no {file}, and its tag is {spec.tag!r}, not one of {', '.join(PUBLISHED)}"
        )
    content = read_json(spec, file)
    keys = set(content) - {"model_type"}
    if wrong := keys ^ set(Flow._fields):
        raise ModelRefused(
            f"model {spec.name}: {file} lacks or has too much: {', '.join(sorted(wrong))}; its keys are {', '.join(Flow._fields)}"
        )
    if wrong := [key for key in Flow._fields if not isinstance(content[key], int | float)]:
        raise ModelRefused(f"model {spec.name}: {file}: {', '.join(wrong)} must be numbers")
    return Flow(**{key: content[key] for key in Flow._fields})


def _checkpoint(spec: ModelSpec) -> dict[str, Tensor]:
    """A checkpoint's tensors by the network's own names."""
    folder = Path(spec.location)
    if not folder.is_dir():
        with asking(spec.name, spec.source, spec.revision):
            file = Path(hf_hub_download(spec.source, f"{spec.tag}.pt", revision=spec.revision))
    else:
        file = folder / ("model.safetensors" if (folder / "config.json").is_file() else f"{spec.tag}.pt")
    if not file.is_file():
        raise ModelRefused(f"model {spec.name}: there is no {file}")
    if file.suffix == ".safetensors":
        check_files(spec, file.parent)
        tensors = load_file(file)
    else:
        tensors = _tensors(spec, file)
    return {renamed(name): tensor for name, tensor in tensors.items() if not UNUSED.fullmatch(name)}


#: What the authors' checkpoints may hold beside the network: a table that is computed, and what serves training alone.
UNUSED = re.compile(r"(net\.)?(rope_freqs|v_heads\..*|v_final_layer\..*)")


def renamed(key: str) -> str:
    """A key of the authors' checkpoints by the network's own name: ``net.`` and the wrappers of their layers left out."""
    return re.sub(r"\._flax_(linear|embedding)\.", ".", key.removeprefix("net."))


def _tensors(spec: ModelSpec, file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint of torch's, of which nothing but tensors is read."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ModelRefused(f"model {spec.name}: {file} is no whole checkpoint of tensors alone: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ModelRefused(f"model {spec.name}: {file} is no dict of tensors by name, as the authors' checkpoints are")
    return content
