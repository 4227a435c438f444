"""A vision model, opened: where its neurons are, which of its tokens are cells, and how it is run."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import init_empty_weights
from torch import Tensor

from rosetta.models.load import ModelRefused, ModelSpec, drawn
from rosetta.models.mlps import Mlp


class Vision(NamedTuple):
    """An encoder or a generator, ready to be read.

    What enters an output projection is [B, tokens, channels], of which the last rows x columns tokens are the cells, row by
    row; or a map [B, channels, rows, columns].

    Attributes
    ----------
    model : torch.nn.Module
        The network that holds the MLPs.
    mlps : list of Mlp
        In order of depth.
    grid : (int, int)
        Rows and columns of cells.
    prefix : int or None
        Tokens before the cells, by the model's own count; None where they are as many as the text has.
    prepare : callable or None
        Of an encoder: pixels [B, h, w, 3], 0 to 255, uint8 or float -> its input [B, 3, H, W], by its own size and normalization.
    run : callable
        Of an encoder: prepared images -> its features. Of a generator: ``run(labels int64 [B], seeds) -> uint8 [B, h, w, 3]``
        on the model's device, each picture by its own seed whatever it is made with; of several steps the last one's
        activations count.
    classes : int or None
        Of a generator: how many labels there are.
    """

    model: torch.nn.Module
    mlps: list[Mlp]
    grid: tuple[int, int]
    prefix: int | None
    prepare: Callable | None
    run: Callable
    classes: int | None = None


def read_json(spec: ModelSpec, file: Path) -> dict[str, Any]:
    """A configuration; ModelRefused where it is no JSON, or no object."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelRefused(f"model {spec.name}: {file} is no whole JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ModelRefused(f"model {spec.name}: {file} holds no settings by name")
    return content


@contextmanager
def building(device: torch.device | str, seed: int | None) -> Iterator[None]:
    """While open, networks are made: on the ``meta`` device without memory, from a seed drawn on the CPU.

    Without a seed their parameters take no memory, nor the time to be drawn, until `load.fill` gives them; what they compute
    of themselves (tables of positions) is there.
    """
    if str(device) == "meta":
        made = torch.device("meta")
    else:
        made = init_empty_weights(include_buffers=False) if seed is None else drawn(seed)
    with made:
        yield


def settled(model: torch.nn.Module, device: torch.device | str, dtype: torch.dtype) -> torch.nn.Module:
    """A network on its device and in its precision, not for training."""
    return model.eval().requires_grad_(False).to(device, dtype)


class BadPicture(ValueError):
    """A generator's picture holds NaN or infinity."""


def check_labels(name: str, labels: Tensor, classes: int) -> None:
    """ValueError if a label is none of the generator's classes."""
    wrong = [label for label in torch.as_tensor(labels).tolist() if not 0 <= label < classes]
    if wrong:
        raise ValueError(f"model {name}: there is no class {wrong[0]}; its classes are 0 to {classes - 1}")


def noise(seeds: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Standard normal draws for each picture by its own seed, float32 [B, *shape], on the CPU: the same beside any others."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds])


def pictures(name: str, mlps: list[Mlp], make: Callable[[], Tensor], labels: Tensor, seeds: Sequence[int]) -> Tensor:
    """What a generator makes, in 8 bits: uint8 [B, h, w, 3].

    Parameters
    ----------
    name : str
        Of the model, for messages.
    mlps : list of Mlp
    make : callable
        ``make() -> [B, 3, h, w]`` from 0 (black) to 1; what lies beyond is cut off. Called again where a picture is broken.
    labels, seeds : sequence of int
        One a picture.

    Raises
    ------
    BadPicture
        NaN or infinity: the picture, and the first layer where there is any, are named.
    """
    made = make()
    broken = ~torch.isfinite(made).flatten(1).all(1)
    if broken.any():
        i = int(broken.nonzero()[0])
        raise BadPicture(
            f"model {name}: NaN or infinity in the picture of label {int(labels[i])}, seed {seeds[i]} "
            f"(number {i + 1} of {len(made)}); {_where_it_begins(mlps, make, i)}"
        )
    return made.float().clamp(0, 1).mul(255).round().to(torch.uint8).movedim(1, 3).contiguous()


def _where_it_begins(mlps: list[Mlp], make: Callable[[], Tensor], image: int) -> str:
    """Which layer is the first with NaN or infinity, for the picture of this number, when the batch is made again."""
    first: list[int] = []

    def hook_of(layer: int) -> Callable:
        def hook(_module, inputs):
            if not first and not torch.isfinite(inputs[0][image]).all():
                first.append(layer)

        return hook

    handles = [mlp.projection.register_forward_pre_hook(hook_of(layer)) for layer, mlp in enumerate(mlps)]
    try:
        make()
    finally:
        for handle in handles:
            handle.remove()
    return f"it begins in layer {first[0]}, {mlps[first[0]].path}" if first else "no layer's neurons have any"


def cells_of(name: str, pixels: int, patch: int) -> tuple[int, int]:
    """The grid of square images that are so many pixels on a side; ModelRefused where no whole patches fill it."""
    if pixels < patch or pixels % patch:
        raise ModelRefused(
            f"model {name}: images of {pixels} x {pixels} pixels are not made of whole patches of {patch} x {patch}; "
            f"it takes multiples of {patch}"
        )
    return pixels // patch, pixels // patch
