"""Machines that a run may have, and what each of their devices holds at its peak."""

import re
from collections.abc import Iterable
from math import inf
from typing import NamedTuple

import torch

from rosetta.matching.cost import Cost
from rosetta.matching.rates import PRESETS, Rates, calibrated
from rosetta.models.load import SPREAD
from rosetta.planning.sizes import size
from rosetta.profiles.profile import Profile
from rosetta.studies.amounts import (
    asked_per_batch,
    batch_bytes,
    canonical_positions,
    pieces_that_fit,
    positions_per_piece,
)  # fmt: skip


class Node(NamedTuple):
    """A machine: its name, how many devices of one kind it has, and their rates.

    Devices work in turn: of a model that is spread only one computes at a time, and tables are made on the first.
    """

    name: str
    devices: int
    rates: Rates

    @classmethod
    def named(cls, name: str) -> "Node":
        """``here``, this machine (its first GPU, or its CPU), or a preset's name, as ``H200`` or ``8xA100``.

        Raises
        ------
        ValueError
            On any other name.
        """
        if name == "here":
            gpus = torch.cuda.device_count()
            return cls(name, max(1, gpus), calibrated("cuda" if gpus else "cpu"))
        count, preset = re.fullmatch(r"(?:([1-9]\d*)x)?(.*)", name).groups()
        if preset not in PRESETS:
            raise ValueError(
                f"there is no node {name!r}; allowed are here, {', '.join(PRESETS)} and several, as 8xA100"
            )
        return cls(name, int(count or 1), PRESETS[preset])


class Load(NamedTuple):
    """What a device holds at a run's peak, in bytes.

    ``batch`` is activations while they are read, ``centred`` the float32 copies of them that are summed, ``tables`` what
    ``memory_gb`` is given for, ``lists`` the candidates, ``held`` activations that are kept for several matchings.
    """

    weights: float = 0
    batch: float = 0
    centred: float = 0
    tables: float = 0
    lists: float = 0
    held: float = 0

    @property
    def total(self) -> float:
        """All together."""
        return sum(self)

    def plus(self, **more: float) -> "Load":
        """With more of some."""
        return self._replace(**{part: getattr(self, part) + value for part, value in more.items()})


def sequences(profile: Profile, names: Iterable[str]) -> int:
    """How many sequences or images these models read at a time, as `Study.per_batch` has it; 0 where not one fits."""
    return min(asked_per_batch(profile, names), pieces_that_fit(profile, names))


def memory_bytes(profile: Profile) -> int:
    """A profile's ``memory_gb``."""
    return int(profile.memory_gb * 2**30)


def itemsize(profile: Profile) -> int:
    """Bytes of a number in a profile's precision."""
    return getattr(torch, profile.dtype).itemsize


def devices_of(profile: Profile, name: str, count: int) -> list[int]:
    """The numbers of the devices that hold a model, of so many."""
    device = profile.models[name].device or profile.device
    number = re.search(r"\d+$", device)
    return list(range(count)) if device == SPREAD else [int(number[0]) if number else 0]


def peak(profile: Profile, names: Iterable[str], node: Node, cost: Cost | None = None, held: float = 0) -> list[Load]:
    """What each device of a node holds at most while some models are read and, where a cost is given, matched.

    Parameters
    ----------
    profile : Profile
    names : iterable of str
        Of models that are in memory together.
    node : Node
    cost : Cost, optional
        Of their matching.
    held : float
        Bytes of activations that are kept for several matchings.

    Returns
    -------
    list of Load
        One more for each device that the profile names and the node has not.
    """
    names = list(names)
    places = {name: devices_of(profile, name, node.devices) for name in names}
    loads = [Load() for _ in range(max(node.devices, 1 + max(map(max, places.values()))))]
    count = max(1, sequences(profile, names))
    for name, devices in places.items():
        weights = size(profile.models[name]).parameters * itemsize(profile)
        for device in devices:
            loads[device] = loads[device].plus(weights=weights / len(devices))
        loads[devices[0]] = loads[devices[0]].plus(
            batch=batch_bytes(profile, name, count * positions_per_piece(profile, names))
        )
    if cost is not None:
        copies = _centred(profile, names, cost, count)
        loads[0] = loads[0].plus(centred=copies, tables=cost.memory, lists=cost.lists, held=held)
    return loads


def _centred(profile: Profile, names: list[str], cost: Cost, count: int) -> float:
    """Float32 copies of a batch: three of a side while it is centred and, where both sides' are multiplied, the other's one."""
    widths = cost.tile or [profile.models[name].neurons for name in names]
    other = min(widths) if cost.tile else 0
    return 4 * count * canonical_positions(profile, names) * (3 * max(widths) + other)


def missing(loads: list[Load], node: Node) -> tuple[int, float]:
    """The fullest device of a run, and how many bytes it lacks there; 0 where it fits."""
    absent = [inf if load.total else -inf for load in loads[node.devices :]]
    lack = [*(load.total - node.rates.capacity for load in loads[: node.devices]), *absent]
    worst = max(range(len(lack)), key=lack.__getitem__)
    return worst, max(0.0, lack[worst])
