"""Vision models, ready to be read."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from rosetta.models.mlps import Mlp


class Vision(NamedTuple):
    """An encoder or a generator, ready to be read."""

    model: torch.nn.Module
    mlps: list[Mlp]
    grid: tuple[int, int]
    prefix: int | None
    prepare: Callable | None
    run: Callable
    classes: int | None = None
