"""Where m_t of eq. 1 is: the MLP of each block, found from the model's structure. Nothing here knows a family by name."""

import re
from typing import NamedTuple

import torch
from transformers.pytorch_utils import Conv1D


class Mlp(NamedTuple):
    """One MLP: the paths of its block and of its output projection in the model, the projection, and how many neurons."""

    block: str
    path: str
    projection: torch.nn.Module
    neurons: int


class NoMlpFound(ValueError):
    """The structure of a model shows no MLP, or more than one, in a block."""


def find_mlps(model: torch.nn.Module) -> list[Mlp]:
    """The MLP of every block, in order of depth.

    The blocks are the longest list of modules of one class in which each holds exactly one *output projection*: a
    linear layer from m neurons to the width d, outside attention, with a sibling that leads from d to m.

    Parameters
    ----------
    model : torch.nn.Module
        Any transformer; of a model with two towers pass one.

    Raises
    ------
    NoMlpFound
        With the model's class and the linear layers of its first block.
    """
    candidates = []
    for path, blocks in model.named_modules():
        listed = isinstance(blocks, torch.nn.ModuleList | torch.nn.Sequential) and len(blocks) > 0
        if listed and len({type(block) for block in blocks}) == 1:
            by_block = [_output_projections(f"{path}.{i}", block) for i, block in enumerate(blocks)]
            if all(len(mlps) == 1 for mlps in by_block):
                candidates.append([mlps[0] for mlps in by_block])
    if not candidates:
        raise NoMlpFound(_what_was_seen(model))
    most = max(map(len, candidates))
    longest = [mlps for mlps in candidates if len(mlps) == most]
    if len(longest) > 1:
        towers = f"several towers of {most} blocks ({', '.join(mlps[0].path for mlps in longest)})"
        raise NoMlpFound(f"{type(model).__name__} has {towers}; pass one of them")
    return longest[0]


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
    mlps = []
    for name, (module, (neurons, width)) in linears.items():
        parent = name.rpartition(".")[0]
        # Some models write gate and up as one layer of twice the neurons.
        leads_in = any(
            other != name and other.rpartition(".")[0] == parent and shape in ((width, neurons), (width, 2 * neurons))
            for other, (_, shape) in linears.items()
        )
        if leads_in and neurons > width:
            mlps.append(Mlp(block_path, f"{block_path}.{name}", module, neurons))
    return mlps


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
