"""m_t of eq. 1: what enters each MLP's output projection, for every layer, position and neuron.

One mechanism for all architectures, and for texts as for images: a hook on each output projection reads its input.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from rosetta.models.mlps import Mlp
from rosetta.sources.document import batched


class BadActivations(ValueError):
    """NaN or infinity among the activations of a layer, or a layer that a forward pass does not go through."""


#: What a forward pass holds at its peak beside the activations that are kept, in layers of them.
LAYERS_BESIDE = 8


def peak_bytes(positions: int, layers: list[int], size: int) -> int:
    """Bytes of memory that reading a batch takes at its peak, the model itself aside; a bound, measured in benchmarks/reading.py.

    The activations that are kept, and `LAYERS_BESIDE` times the widest layer: what the model computes there, and what is
    pooled or resampled of it (six were seen, of each of four architectures). From six layers on that is at most 5 bytes per
    position and neuron in bfloat16.

    Parameters
    ----------
    positions : int
        Tokens, special ones included; of images the cells of the canonical grid, or of the model's own with the tokens before
        them, whichever are more.
    layers : list of int
        Neurons of each layer.
    size : int
        Bytes of a number in the model's precision.
    """
    return positions * size * (sum(layers) + LAYERS_BESIDE * max(layers))


@contextmanager
def capture(
    mlps: list[Mlp], take: Callable[[int, torch.Tensor], None] | None = None
) -> Iterator[dict[str, torch.Tensor]]:
    """While open, a forward pass hands each MLP's m_t to ``take(layer, m_t)`` as it enters the output projection.

    Without `take`, all are kept in the dict that is given, by the MLP's path: every layer of a batch at once.
    """
    seen: dict[str, torch.Tensor] = {}

    def keep(layer: int, m: torch.Tensor) -> None:
        seen[mlps[layer].path] = m

    def hook_of(layer):
        def hook(_module, inputs):
            (take or keep)(layer, inputs[0])

        return hook

    handles = [mlp.projection.register_forward_pre_hook(hook_of(layer)) for layer, mlp in enumerate(mlps)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def side_by_side(
    name: str,
    mlps: list[Mlp],
    run: Callable[[], Any],
    reduce: Callable[[int, torch.Tensor], torch.Tensor],
    where: Callable[[int], str] = lambda row: "",
) -> tuple[torch.Tensor, Any]:
    """What is made of each layer's activations in a forward pass, side by side: no more than one layer is held beside it.

    A layer that is gone through several times (a generator of several steps) counts as the last time has it.

    Parameters
    ----------
    name : str
        Of the model, for messages.
    mlps : list of Mlp
    run : callable
        The forward pass.
    reduce : callable
        ``reduce(layer, m_t) -> [rows, neurons of the layer]``.
    where : callable
        What a row is of, for messages: ``where(row) -> " on image 3"``.

    Returns
    -------
    acts : [rows, neurons]
        In the model's own precision.
    made : object
        What `run` returned.

    Raises
    ------
    BadActivations
        NaN or infinity, or a layer that was not gone through: the model and the layer are named.
    """
    ends = np.cumsum([mlp.neurons for mlp in mlps]).tolist()
    acts, seen = None, set()

    def take(layer: int, m: torch.Tensor) -> None:
        nonlocal acts
        part = reduce(layer, m)
        if acts is None:
            acts = torch.empty(len(part), ends[-1], dtype=m.dtype, device=part.device)
        acts[:, ends[layer] - mlps[layer].neurons : ends[layer]] = part
        seen.add(layer)

    with capture(mlps, take), torch.inference_mode():
        made = run()
    for layer, mlp in enumerate(mlps):
        if layer not in seen:
            raise BadActivations(f"{name}, layer {layer}: the forward pass does not go through {mlp.path}")
    if not torch.isfinite(acts.sum()):
        _name_what_is_not_finite(name, mlps, acts, where)
    return acts, made


def _name_what_is_not_finite(name: str, mlps: list[Mlp], acts: torch.Tensor, where: Callable[[int], str]) -> None:
    """BadActivations, if there is NaN or infinity; finite numbers may have a sum that is not."""
    for layer, part in enumerate(acts.split([mlp.neurons for mlp in mlps], dim=1)):
        broken = ~torch.isfinite(part).all(1)
        if broken.any():
            of = where(int(broken.nonzero()[0]))
            raise BadActivations(
                f"{name}, layer {layer}: NaN or infinity among the activations of {mlps[layer].path}{of}"
            )


def read_pieces(reader, pieces: Iterable, per_batch: int = 32) -> Iterator[tuple[Any, torch.Tensor]]:
    """Each piece with one model's activations on it, [positions, neurons]; memory holds one batch.

    Parameters
    ----------
    reader : texts.Reader, images.ImageReader or images.Generator
    pieces : iterable
        What the reader reads: windows of text, pictures, or wishes.
    per_batch : int
        Pieces read at a time.
    """
    for batch in batched(pieces, per_batch):
        yield from zip(batch, reader.parts(batch), strict=True)
