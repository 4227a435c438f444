"""The plan of a profile on a machine, and a refusal where a run does not fit."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from rosetta.matching.rates import GIB
from rosetta.models.load import SPREAD
from rosetta.planning import rest, runs
from rosetta.planning.nodes import Node
from rosetta.profiles.profile import Profile


class DoesNotFit(ValueError):
    """A run does not fit any of the machines; the message names it, the device, what is missing and what would do."""


class Plan(NamedTuple):
    """A profile on a machine: `runs.matchings`, `runs.stages` and `rest.others` of it."""

    profile: Profile
    node: Node
    matchings: pd.DataFrame
    stages: pd.DataFrame
    others: pd.DataFrame

    @property
    def lacking(self) -> pd.DataFrame:
        """The runs that do not fit: ``run, what, device, peak, missing``."""
        both = pd.concat([self.matchings.rename(columns={"variant": "what"}), self.others], ignore_index=True)
        return both.loc[both["missing"] > 0, ["run", "what", "device", "peak", "missing"]]


def plan(profile: Profile, node: Node) -> Plan:
    """Reckon all runs of a profile on a machine; nothing is loaded but configurations."""
    return Plan(profile, node, runs.matchings(profile, node), runs.stages(profile, node), rest.others(profile, node))


def check(plans: Sequence[Plan]) -> None:
    """DoesNotFit if a run of a profile fits none of the machines that it was planned for."""
    by_plan = [refusals(one) for one in plans]
    nowhere = set.intersection(*map(set, by_plan))
    if nowhere:
        raise DoesNotFit("\n".join(of[run] for of in by_plan for run in of if run in nowhere))


def refusals(one: Plan) -> dict[str, str]:
    """For each run that does not fit, where, by how much, and what would do; of its variants the one that lacks most."""
    worst = one.lacking.sort_values("missing", ascending=False, kind="stable").drop_duplicates("run").sort_index()
    return {row.run: _refusal(one, row) for row in worst.itertuples()}


def _refusal(one: Plan, row) -> str:
    has = f"{one.profile.path}: {row.run} ({row.what}) does not fit {one.node.name}"
    if row.device >= one.node.devices:
        return f"{has}, which has no device {row.device}"
    lacks = f"device {row.device} needs {row.peak / GIB:.1f} GiB, {row.missing / GIB:.1f} more than it has"
    return f"{has}: {lacks}; {remedy(one.profile, one.node, row.run)}"


def remedy(profile: Profile, node: Node, run: str) -> str:
    """The least change, of those that are tried, after which a run fits: less memory_gb, spread models, more devices."""
    for devices in (node.devices, *(n for n in (2, 4, 8, 16) if n > node.devices)):
        for spread in (False, True):
            if devices > node.devices and not spread:
                continue
            for part in (1, 2, 4, 8, 16):
                moved = _moved(profile, run.split(" + ")) if spread else {}
                changed = _changed(profile, moved, profile.memory_gb / part)
                if _fits(changed, node._replace(devices=devices), run):
                    words = [f"memory_gb: {changed.memory_gb:g}"] * (part > 1)
                    words += sorted({f"device: {device}{_of(profile, name)}" for name, device in moved.items()})
                    words += [f"{devices} such devices"] * (devices > node.devices)
                    return f"it would with {' and '.join(words)}"
    return "neither less memory_gb nor 16 such devices would do: take smaller models, contexts or budgets"


def _fits(profile: Profile, node: Node, run: str) -> bool:
    """Whether a run does in all its variants, and all else of this name."""
    pair = tuple(run.split(" + "))
    rows = [
        runs.matching(profile, pair, variant, node)
        for variant in (runs.draws(profile, pair) if pair in runs.matched(profile) else ())
    ]
    rest_of = rest.others(profile, node)
    return not any(row["missing"] for row in rows) and not rest_of.loc[rest_of["run"] == run, "missing"].any()


def _moved(profile: Profile, names: list[str]) -> dict[str, str]:
    """Models on devices of which they share less: those of language spread, of two of images the second on its own."""
    apart = {names[-1]: "cuda:1"} if profile.modality(names) == "images" else dict.fromkeys(names, SPREAD)
    return {name: device for name, device in apart.items() if profile.models[name].device != device}


def _of(profile: Profile, name: str) -> str:
    return f" of {name}" if profile.modality([name]) == "images" else ""


def _changed(profile: Profile, moved: dict[str, str], memory_gb: float) -> Profile:
    models = {name: spec._replace(device=moved.get(name, spec.device)) for name, spec in profile.models.items()}
    return profile.model_copy(update={"models": models, "memory_gb": memory_gb})
