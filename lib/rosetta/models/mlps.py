"""Where m_t of eq. 1 is: the MLP of each block, found from the model's structure. Nothing here knows a family by name.

m_t is what enters the output projection. Eq. 1, phi(W_in h + b_in), has no gate; for a gated MLP (Qwen's, Llama's) m_t is
taken to be act(gate) * up, the numbers by which the output weights are multiplied there, and may have either sign.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.nn.modules.conv import _ConvNd
from transformers.pytorch_utils import Conv1D


class Mlp(NamedTuple):
    """One MLP: the paths of its block and of its output projection in the model, the projection, and how many neurons.

    ``channels`` are those of the projection's input that are neurons: not all where it takes more than the MLP's.
    """

    block: str
    path: str
    projection: torch.nn.Module
    neurons: int
    channels: slice = slice(None)


class NoMlpFound(ValueError):
    """The structure of a model shows no MLP, or more than one, in a block, or something that is no MLP in its place."""


def find_mlps(model: torch.nn.Module) -> list[Mlp]:
    """The MLP of every block, in order of depth.

    The blocks are the longest list of modules of one class in which each holds exactly one *output projection*: a
    linear layer from m neurons to the width d of the block's norms, outside attention, with a sibling that leads from d
    to m.

    Refused, because eq. 1 asks for one vector of neurons at every position: mixtures of experts (a routed expert has
    no activation at the positions that it does not see, and a shared one is only part of the MLP) and state-space or
    convolutional mixers (their inner vector is a state, mixed over positions).

    Parameters
    ----------
    model : torch.nn.Module
        Any transformer; of a model with two towers pass one.

    Raises
    ------
    NoMlpFound
        With the model's class and the reason, or the linear layers of its first block.
    """
    candidates = []
    for path, blocks in _lists_of_blocks(model):
        if reason := _why_not(path, blocks):
            raise NoMlpFound(f"{type(model).__name__} {reason}")
        mlps = [_output_projections(f"{path}.{i}", block) for i, block in enumerate(blocks)]
        if all(len(of_block) == 1 for of_block in mlps):
            candidates.append([of_block[0] for of_block in mlps])
    if not candidates:
        raise NoMlpFound(_what_was_seen(model))
    longest = max(map(len, candidates))
    deepest = [mlps for mlps in candidates if len(mlps) == longest]
    if len(deepest) > 1:
        paths = ", ".join(mlps[0].path for mlps in deepest)
        raise NoMlpFound(f"{type(model).__name__} has several towers of {longest} blocks ({paths}); pass one of them")
    return deepest[0]


def as_released(model: torch.nn.Module, mlps: list[Mlp]) -> list[Mlp]:
    """What the authors' released script for pMF and DINOv3 reads: not m_t where an MLP is gated, but what enters it (I.1).

    It takes the first layer that has one of some names. In the gated MLPs of DINOv3's own code, its largest two sizes,
    that is a layer that leads *in*, ``w2``, so what is read is the block's normed input, as wide as the residual stream. MLPs
    without a gate are read as they should be.

    Parameters
    ----------
    model : torch.nn.Module
    mlps : list of Mlp
        Its MLPs, by `find_mlps`.
    """
    modules = dict(model.named_modules())
    read = []
    for mlp in mlps:
        parent, (neurons, width) = mlp.path.rpartition(".")[0], _shape(mlp.projection)
        inside = (
            (name, child) for name, child in modules[parent].named_children() if name != mlp.path[len(parent) + 1 :]
        )
        into = [(name, child) for name, child in inside if _shape(child) == (width, neurons)]
        gated = len(into) == 2  # gate and up
        read.append(Mlp(mlp.block, f"{parent}.{into[0][0]}", into[0][1], width) if gated else mlp)
    return read


def _lists_of_blocks(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """(path, list) of every list of modules of one class, the outer before the inner."""
    for path, module in model.named_modules():
        listed = isinstance(module, torch.nn.ModuleList | torch.nn.Sequential) and len(module) > 0
        if listed and len({type(block) for block in module}) == 1:
            yield path, module


def _why_not(path: str, blocks: torch.nn.Module) -> str | None:
    """What speaks against eq. 1 in a list of blocks; None if nothing does."""
    for index, block in enumerate(blocks):
        for name, module in block.named_modules():
            where = f"{path}.{index}.{name}".rstrip(".")
            experts = isinstance(module, torch.nn.ModuleList) and "expert" in name.lower()
            own = () if isinstance(module, _ConvNd) else module.parameters(recurse=False)
            fused = any(parameter.ndim > 2 and len(parameter) > 1 for parameter in own)  # [experts, ...]
            if experts or fused:
                return (
                    f"holds a mixture of experts ({where}): a routed expert has no activation at the positions that it "
                    "does not see, so eq. 1 defines no neurons to match"
                )
            if any(isinstance(child, _ConvNd) for child in module.children()) and hasattr(module, "A_log"):
                return (
                    f"holds a state-space mixer ({where}): its inner vector is a state mixed over positions, not the "
                    "m_t of an MLP, so eq. 1 defines no neurons to match"
                )
    return None


def _shape(module: torch.nn.Module) -> tuple[int, int] | None:
    """(inputs, outputs) of a linear layer; None for any other module."""
    if isinstance(module, torch.nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):  # GPT-2's linear layer, its weight transposed
        return module.weight.shape[0], module.weight.shape[1]
    return None


def _output_projections(block_path: str, block: torch.nn.Module) -> list[Mlp]:
    linears = {
        name: (module, shape)
        for name, module in block.named_modules()
        if (shape := _shape(module)) and not re.search(r"attn|attention", name, re.IGNORECASE)
    }
    widths = _norm_widths(block)
    mlps = []
    for name, (module, (neurons, width)) in linears.items():
        parent = name.rpartition(".")[0]
        # Some models write gate and up as one layer of twice the neurons.
        leads_in = any(
            other != name and other.rpartition(".")[0] == parent and shape in ((width, neurons), (width, 2 * neurons))
            for other, (_, shape) in linears.items()
        )
        # Which way the pair of layers leads is told by the norms; without any, by neurons being the more.
        leads_out = width in widths if widths else neurons > width
        if leads_in and leads_out:
            mlps.append(Mlp(block_path, f"{block_path}.{name}", module, neurons))
    return mlps


def _norm_widths(block: torch.nn.Module) -> set[int]:
    """The widths of a block's own norms, which act on the residual stream; of any within it, where it has none."""
    widths = {
        name: module.weight.shape[0]
        for name, module in block.named_modules()
        if "norm" in type(module).__name__.lower() and getattr(module, "weight", None) is not None
    }
    return {width for name, width in widths.items() if "." not in name} or set(widths.values())


def _what_was_seen(model: torch.nn.Module) -> str:
    lists = [(p, m) for p, m in model.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m)]
    message = (
        f"no MLPs found in {type(model).__name__}: no list of blocks each of which holds one pair of layers d -> m -> d"
    )
    if lists:
        path, blocks = max(lists, key=lambda item: len(item[1]))
        layers = {n: s for n, m in blocks[0].named_modules() if (s := _shape(m))}
        message += f". The first block of {path!r} is a {type(blocks[0]).__name__} with the linear layers {layers}"
    return message
