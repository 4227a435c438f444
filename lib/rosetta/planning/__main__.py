"""A plan as text: what each run of a profile would take on some machines.

python -m rosetta.planning paper 8xA100 H200
"""

import sys
from collections.abc import Sequence

import pandas as pd

from rosetta.matching.cost import EXACT_SHARE, VERIFIED
from rosetta.matching.rates import GIB
from rosetta.planning import rest, runs
from rosetta.planning.nodes import Node
from rosetta.planning.plan import Plan, check, plan, refusals
from rosetta.planning.sizes import RULE, size
from rosetta.profiles.profile import Profile, ProfileError, load

#: Where a profile is planned for that does not fit this machine.
NODES = ("8xA100", "H200")
#: Appendix J: GPU-hours, A100s of 80 GB, eight for each pair and each training run; with parameters of the models.
REPORTED = {"matching of two models of about 100M": (1e8, 4.0), "matching of two models of about 30B": (3e10, 192.0)}
REPORTED_TRAINING = 4.0
#: Units of a column, the largest first.
FLOP = {"PFLOP": 1e15, "TFLOP": 1e12, "GFLOP": 1e9}
BYTES = {"TB": 1e12, "GB": 1e9, "MB": 1e6}
MEMORY = {"GiB": GIB, "MiB": 2**20}
TIME = {"hours": 3600, "minutes": 60, "seconds": 1}


def text(plans: Sequence[Plan]) -> str:
    """The plans of one profile for several machines, for people."""
    profile = plans[0].profile
    parts = [
        f"Plan of the profile {profile.name}: {len(runs.matched(profile))} pairs of {len(profile.models)} models, {profile.tokens:,} "
        f"tokens of context {profile.context}{_images(profile)}, {profile.dtype}, memory_gb {profile.memory_gb:g}.\n"
        "Nothing is loaded; positions are taken to be as many as tokens, at most, or as the canonical cells of images. "
        f"{_sizes(profile)}",
        _by_method(plans[0].stages),
    ]
    for one in plans:
        parts += [f"On {_described(one.node)}\n" + _table(_matchings(one)), _table(_others(one)), _sums(one)]
    disk = ", ".join(f"{what} {_amount(size, 1e9)} GB" for what, size in rest.disk(profile).items() if size)
    asked = int(plans[0].others["requests"].sum())
    parts.append(f"Disk: {disk}. Requests to a chat endpoint: {f'at most {asked:,}' if asked else 'none'}.")
    return "\n\n".join(parts)


def _images(profile: Profile) -> str:
    return f", {profile.images.count:,} images" if profile.images else ""


def _sizes(profile: Profile) -> str:
    estimated = [name for name, spec in profile.models.items() if size(spec).estimated]
    if not estimated:
        return "Sizes of models are those of their architectures."
    which = "all models'" if len(estimated) == len(profile.models) else f"those of {', '.join(estimated)}"
    return f"Sizes are estimated for want of an architecture, {which}: {RULE}."


def _described(node: Node) -> str:
    rates = node.rates
    return (
        f"{node.name}: {node.devices} x {rates.name} of {rates.capacity / GIB:.0f} GiB, working in turn; reckoned with "
        f"{_amount(rates.bfloat16, 1e12)} (bfloat16) and {_amount(rates.float32, 1e12)} (float32) TFLOP/s and "
        f"{_amount(rates.memory, 1e9)} GB/s"
    )


def _by_method(stages: pd.DataFrame) -> str:
    """A row a method of each run, a column a stage."""
    (flop, of_flop), (moved, of_moved) = _unit(stages["flop"], FLOP), _unit(stages["bytes"], BYTES)
    rows = []
    for (run, method, readings), group in stages.groupby(["run", "method", "readings"], sort=False):
        of = {one.stage: f"{_amount(one.flop, of_flop)} + {_amount(one.bytes, of_moved)}" for one in group.itertuples()}
        rows.append({"run": run, "method": method, "readings": readings, **of})
    title = f"Matching by each method, one draw, of text with its thinned twin: {flop} of products + {moved} moved by passes"
    return f"{title}\n{_table(pd.DataFrame(rows).fillna(''))}"


def _matchings(one: Plan) -> pd.DataFrame:
    table = one.matchings
    return pd.DataFrame({
        "run": table["run"], "": table["variant"], "draws": table["draws"],
        "neurons": [f"{a:,} x {b:,}" for a, b in zip(table["neurons_a"], table["neurons_b"], strict=True)],
        "positions": table["positions"].map(_whole), "method": table["method"], "rows": table["rows"].map(_whole),
        "exact": table["exact_share"].map(lambda share: f"{share:.2%}" if share else ""), "readings": table["readings"],
        **_work(table), **_column("tables", table["tables"], MEMORY), **_fits(table, one.node),
    })  # fmt: skip


def _others(one: Plan) -> pd.DataFrame:
    table = one.others
    return pd.DataFrame({
        "run": table["run"], "": table["what"], "tokens": table["tokens"].map(_whole),
        **({"images": table["images"].map(_whole)} if one.profile.images else {}), **_work(table),
        "requests": table["requests"].map(_whole), **_fits(table, one.node),
    })  # fmt: skip


def _work(table: pd.DataFrame) -> dict:
    return _column("", table["flop"], FLOP) | _column("", table["bytes"], BYTES)


def _fits(table: pd.DataFrame, node: Node) -> dict:
    lacking = table["missing"].map(lambda lack: f"lacks {lack / GIB:.1f} GiB" if lack else "yes")
    where = "on the fullest" if node.devices > 1 else "at the peak"
    return _column(where, table["peak"], MEMORY) | _column("", table["seconds"], TIME) | {"fits": lacking}


def _sums(one: Plan) -> str:
    by_variant = one.matchings.groupby("variant", sort=False)["seconds"].sum()
    by_variant["all else"] = one.others["seconds"].sum()
    unit, value = _unit(by_variant, TIME)
    told = ", ".join(f"{variant} {_amount(seconds, value)}" for variant, seconds in by_variant.items())
    lines = [f"{unit.capitalize()} on {one.node.name}: {told}."]
    screened = one.matchings[(one.matchings["variant"] == "trained") & (one.matchings["exact_share"] > 0)]
    if len(screened):
        lines.append(_uncertified(one, screened.loc[screened["flop"].idxmax(), "run"]))
    lines += _beside_appendix_j(one)
    return "\n".join([*lines, *(refusals(one).values() or [f"Every run fits {one.node.name}."])])


def _uncertified(one: Plan, run: str) -> str:
    """What sketches are taken to leave open, and what the largest run would take if it left nothing."""
    asked = one.profile.matching
    told = (
        f"Sketches are taken to verify {VERIFIED['sketch'][0]} candidates a neuron and to leave "
        f"{min(EXACT_SHARE, asked.exact_share):.2%} of a table to be done exactly"
    )
    if asked.exact_share >= EXACT_SHARE:
        return f"{told}, as much as was seen of the embedded models."
    certified = runs.candidates(one.profile, tuple(run.split(" + ")), "trained", EXACT_SHARE)["sketch"]
    return (
        f"{told}: exact_share; where they leave more, the neurons left open are in no pair. With {EXACT_SHARE:.0%}, as much as "
        f"was seen of the embedded models, {run} would take {certified.readings} readings and "
        f"{_amount(certified.seconds(one.node.rates), 3600)} hours."
    )


def _beside_appendix_j(one: Plan) -> list[str]:
    """The runs that Appendix J speaks of, its GPU-hours beside ours: those that the GPUs are held, working or not."""
    lines, trained = [], one.matchings[one.matchings["variant"] == "trained"].set_index("run")
    for what, (parameters, hours) in REPORTED.items():
        for pair in one.profile.pairs:
            if all(0.5 < size(one.profile.models[name]).parameters / parameters < 2 for name in pair):
                here = trained.loc[" + ".join(pair), "seconds"] / 3600
                held = f", {_amount(here * one.node.devices, 1)} GPU-hours" if one.node.devices > 1 else ""
                lines.append(
                    f"Appendix J, {what}: {hours:g} A100-hours; here {' + '.join(pair)}: {_amount(here, 1)} hours of work"
                    f"{held}."
                )
    learner = one.others[one.others["what"].str.startswith("continued pretraining")].iloc[0]
    if 0.5 < size(one.profile.models[learner.run]).parameters / 1.5e9 < 2:
        count = int(learner.what.split()[-2])
        each = learner.seconds / 3600 / count
        lines.append(
            f"Appendix J, continued pretraining of GPT2-1.5B: {REPORTED_TRAINING:g} A100-hours a run; here {_amount(each, 1)} on one."
        )
    return lines


def _column(name: str, values: pd.Series, units: dict[str, float]) -> dict[str, pd.Series]:
    """A column in the unit that suits it, which its title says."""
    unit, value = _unit(values, units)
    return {f"{unit} {name}".strip(): values.map(lambda one: _amount(one, value) if one else "")}


def _unit(values: pd.Series, units: dict[str, float]) -> tuple[str, float]:
    """The largest unit in which the largest value is 2 or more, or the smallest there is."""
    *fitting, smallest = [(name, value) for name, value in units.items() if values.max() >= 2 * value] + [
        list(units.items())[-1]
    ]
    return fitting[0] if fitting else smallest


def _whole(value: float) -> str:
    return f"{int(value):,}" if value else ""


def _amount(value: float, unit: float) -> str:
    """Three digits, and no exponent."""
    value = value / unit
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.001 else "0"


def _table(table: pd.DataFrame) -> str:
    """Columns side by side, words to the left and numbers to the right."""
    columns = {}
    for name, values in table.items():
        cells = [str(name), *map(str, values)]
        left = not any(cell.replace(",", "").replace(".", "").replace("%", "").isdigit() for cell in cells[1:])
        width = max(map(len, cells))
        columns[name] = [cell.ljust(width) if left else cell.rjust(width) for cell in cells]
    return "\n".join("  ".join(row).rstrip() for row in zip(*columns.values(), strict=True))


def main(arguments: Sequence[str]) -> int:
    """Print the plan of a profile on some machines; 1 if a run fits none of them, or what is asked for is not there."""
    name, *nodes = arguments or ["micro"]
    try:
        profile = load(name)
        if nodes:
            plans = [plan(profile, Node.named(node)) for node in nodes]
        else:
            plans = [plan(profile, Node.named("here"))]
            if len(plans[0].lacking):
                plans = [plan(profile, Node.named(node)) for node in NODES]
        print(text(plans))
        check(plans)
    except (ProfileError, ValueError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
