"""What the README says beside each claim: sentences whose numbers, and whose verdicts, are those of the scorecard.

A row of its tables may stand on several claims. Its first words follow from their verdicts, and so do what its words about
directions say; no number stands in a template.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from rosetta.plots.style import label
from rosetta.studies.claims import filters, scaling, selectivity
from rosetta.studies.claims.claim import Absent, Claim, Tables, told

NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
#: Categories as the README calls them.
CATEGORIES = {"general prose": "prose", "formal/scientific": "formal text"}


class Row(NamedTuple):
    """A row of the README's tables: the paper's sentence, the claims it stands on, and what is said of them."""

    says: str
    claims: tuple[str, ...]
    sentence: Callable[[Tables, list[bool | None]], str]


def word(number: int) -> str:
    return NUMBERS[number] if number < len(NUMBERS) else f"{number:,}"


def lead(verdicts: list[bool | None], yes: str = "", stop: str = ".") -> str:
    """The first words of a row: none or `yes` where all its claims hold, and otherwise what does not, in bold."""
    if all(verdict is True for verdict in verdicts):
        return yes
    partly = "Half of it" if True in verdicts else "Not here"
    said = partly if False in verdicts else "Not measurable at this size"
    return f"**{said}{stop}**" if stop == "." else f"**{said}**{stop}"


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _ends(table: pd.DataFrame, column: str, form: str) -> str:
    """``0.55 [0.33, 0.77] (pythia-opt-qwen) to 0.76 [0.62, 0.90] (pythia-gpt2)``, the lowest and the highest."""
    rows = table.sort_values(column).iloc[[0, -1]][[column, f"{column}_low", f"{column}_high"]]
    return " to ".join(f"{told(*numbers, form)} ({curve})" for curve, *numbers in rows.itertuples())


# ---------------------------------------------------------------------------------------------------------------------
# Section 4


def law(tables: Tables, verdicts: list) -> str:
    fitted = scaling.raw(tables)
    sizes = " or ".join(str(n) for n in sorted(set(fitted["points"])))
    if verdicts[0] is True:
        return f"It does: R² {_ends(fitted, 'r2', '.3f')} over {word(len(fitted))} curves of {sizes} sizes."
    ends = tables["points"].sort_values("neurons").groupby("curve")["raw"].agg(["first", "last"])
    grow = (ends["last"] > ends["first"]).sum()
    said = f"It grows, from the smallest size to the largest, on {grow} of {len(ends)} curves; R² {_ends(fitted, 'r2', '.3f')}."
    few = fitted["points"].max()
    return _joined(lead(verdicts), said, f"{word(few).capitalize()} sizes do not tell a power law from another." if few < 5 else "")  # fmt: skip


def exponent(tables: Tables, verdicts: list) -> str:
    fitted = scaling.raw(tables)
    said = f"{_ends(fitted, 'alpha', '.2f')}. The interval lies below 1 for {(fitted['alpha_high'] < 1).sum()} of {len(fitted)} curves."
    return _joined(lead(verdicts, "Sublinear:"), said)


def of_three(tables: Tables, verdicts: list) -> str:
    rows = scaling.of_three(tables).itertuples()
    each = [
        f"{told(row.alpha, row.alpha_low, row.alpha_high)}, R² {told(row.r2, row.r2_low, row.r2_high, '.3f')} ({row.Index})"
        for row in rows
    ]
    return _joined(lead(verdicts), " and ".join(each) + ".")


def share(tables: Tables, verdicts: list) -> str:
    fitted = tables["share_fits"].query("count == 'raw'").set_index("curve")
    ends = tables["shares"].query("count == 'raw'").sort_values("neurons")
    name = tables.profile.k_curve if tables.part == "text" else tables.profile.images.k_curve
    first, last = (
        told(*row, ".1%") for row in ends[ends["curve"] == name].iloc[[0, -1]][["share", "low", "high"]].to_numpy()
    )
    said = f"the share goes as N to the power {_ends(fitted, 'alpha', '.2f')}; of {scaling.example(tables)} it is {first} to {last}."
    return _joined(lead(verdicts, "They are:"), said if verdicts[0] is True else said[0].upper() + said[1:])


def by_k(tables: Tables, verdicts: list) -> str:
    fitted = tables["fits_by_k"]
    rows = [f"{told(fit.alpha, fit.alpha_low, fit.alpha_high)} at k = {fit.k}" for fit in fitted.itertuples()]
    rises = "rising with k" if fitted["alpha"].is_monotonic_increasing else "by k"
    start = f"Sublinear, {rises}:" if verdicts[0] is True else f"{lead(verdicts)} {rises.capitalize()}:"
    return f"{start} {', '.join(rows)} ({scaling.example(tables)})."


def _null_ends(tables: Tables, null: str) -> str:
    points = tables["points"]
    pairs = points[points["curve"] == tables.profile.k_curve].sort_values("neurons").iloc[[0, -1]]
    columns = [f"{null}_mean", f"{null}_low", f"{null}_high"]
    counts = " to ".join(told(*row, ",.0f") for row in pairs[columns].to_numpy())
    return f"{scaling.example(tables)} {counts} pairs"


def untrained(tables: Tables, verdicts: list) -> str:
    points, trends = tables["points"], scaling.null_trends(tables, "untrained")
    fewer = f"Fewer than trained ones at {(points['untrained_mean'] < points['raw']).sum()} of {len(points)} points"
    two = trends[~trends.index.isin(scaling.of_three(tables).index)]
    grow = (two["alpha_low"] > 0).all()
    trained = points[points["curve"] == tables.profile.k_curve].sort_values("neurons")["raw"]
    of = ", but for two models their number grows too" if grow else ""
    said = f"{fewer}{of}: {_null_ends(tables, 'untrained')}, trained {trained.iloc[0]:,} to {trained.iloc[-1]:,}."
    return _joined(lead(verdicts), said)


def permuted(tables: Tables, verdicts: list) -> str:
    points = tables["points"]
    more = (points["permuted_mean"] > points["aligned_same"]).sum()
    said = f"More than aligned ones at {more} of {len(points)} points: {_null_ends(tables, 'permuted')}."
    return _joined(lead(verdicts), said)


def untrained_images(tables: Tables, verdicts: list) -> str:
    points = tables["points"]
    more, all_above = (points["untrained_mean"] > points["raw"]).sum(), (points["strict"] == points["raw"]).sum()
    start = lead(verdicts, "Few:", ", by count:")
    return (
        f"{start} more than trained ones at {more} of {len(points)} points. By correlation they do not reach them: above the "
        f"99.9th percentiles of *all three* nulls lie all trained pairs at {all_above} of {len(points)} points."
    )


def settles(tables: Tables, verdicts: list) -> str:
    sweep, unit = scaling.swept(tables)

    def kept(row: int, of: str, named: str) -> str:
        one = sweep.iloc[row]
        return f"{told(one.overlap, one.overlap_low, one.overlap_high, '.0%')} of {of} at {one[unit]:,.0f}{named} were"

    said = f"{kept(-1, 'the pairs', f' {unit}')} there at {sweep[unit].iloc[-2]:,.0f}; {kept(1, 'those', '')} at {sweep[unit].iloc[0]:,.0f}."
    return _joined(lead(verdicts, "It does:"), said)


def real(tables: Tables, verdicts: list) -> str:
    most, (both, either) = tables["real_and_generated"].iloc[-1], scaling.shared(tables)
    index = told(most.jaccard, *scaling.wilson(both, either)[1:])
    counts = f"{most.generated:.0f} over generated images, {most.real:.0f} over real ones"
    if verdicts[1] is True:
        return _joined(
            lead(verdicts, "They do:"), f"{counts}; a Jaccard index of {index}, where the paper has about 0.8."
        )
    few = f"but few are the same: a Jaccard index of {index}, where the paper has about 0.8."
    return _joined(lead(verdicts), f"{counts}; {few} The generator's images hold little of what the real ones do.")


# ---------------------------------------------------------------------------------------------------------------------
# Section 5


def _family(tables: Tables, name: str) -> pd.DataFrame:
    return tables[name].set_index("family")


def polarization(tables: Tables, verdicts: list) -> str:
    gaps, widening, effect = (tables[name] for name in ("gaps", "widening", "gain"))
    folded = effect[effect["gain"] == "folded in"]
    above, total, families = (gaps["gap"] > 0).sum(), len(gaps), list(widening["family"])
    start = "More selective than the others" if False not in verdicts[:2] else "**Not more selective than the others**"
    how = "at every size, " if above == total else "mostly, " if 2 * above > total else ""
    grows = (widening["low"] > 0).sum()
    shows = f"That the gap grows with size shows in {NUMBERS[grows] if grows else 'no'} {'family' if grows < 2 else 'families'} of {word(len(families))}"  # fmt: skip
    each = []
    for row in widening.itertuples():
        ends = gaps[gaps["family"] == row.family].sort_values("neurons").iloc[[0, -1]]
        first, last = (f"{end.gap:.2f} [{end.low:+.2f}, {end.high:+.2f}]" for end in ends.itertuples())
        each.append(f"{told(row.gap, row.low, row.high, '+.2f')} ({label(row.family)} {first} to {last})")
    return (
        f"{start}: {how}the gap is above 0 at {above} of {total} sizes of {word(len(families))} families, its interval at "
        f"{(gaps['low'] > 0).sum()} (within layers at {(gaps['layers_low'] > 0).sum()}; with the final norm's gain folded into W_U "
        f"the gap at {(folded['gap'] > 0).sum()}, its interval at {(folded['low'] > 0).sum()}). "
        f"{shows if grows == len(families) else f'**{shows}**'}: from the smallest size to the largest by {', '.join(each)}."
    )


def others(tables: Tables, verdicts: list) -> str:
    separation, floor = _family(tables, "separation"), tables["floor"]
    summary = tables["polarization"].query("population == 'other'").sort_values("neurons").groupby("family").tail(1)
    name = "other, per decade"
    slopes = separation[name]
    moves = {1: "They rise a little, too", -1: "They fall"}.get(
        slopes.map(np.sign).sum() / len(slopes), "They rise in some families and fall in others"
    )
    each = [
        f"{label(family)} {told(*separation.loc[family, [name, f'{name}, low', f'{name}, high']], '+.2f')}"
        for family in separation.index
    ]
    extremes = summary.sort_values("mean").iloc[[0, -1]].itertuples(index=False)
    largest = [f"{told(row.mean, row.low, row.high)} ({label(row.family)})" for row in extremes]
    floors, falls = [], True
    for family in separation.index:
        ends = floor[floor["family"] == family].sort_values("neurons").iloc[[0, -1]][["mean", "low", "high"]].to_numpy()
        falls &= bool(ends[1][0] < ends[0][0])
        floors.append(f"{label(family)} {told(*ends[0])} to {told(*ends[1])}")
    said = (
        f"{moves}: by {slopes.min():.2f} to {slopes.max():.2f} for a tenfold growth in neurons ({', '.join(each)}), to {' to '.join(largest)}. "
        f"{'What falls is the floor' if falls else 'The floor'}, the kurtosis of random directions{': ' if falls else ', is '}{', '.join(floors)}."
    )
    return _joined(lead(verdicts), said)


def _trends(table: pd.DataFrame, categories) -> str:
    rows = table.set_index("category")[["slope", "low", "high"]]
    return ", ".join(f"{CATEGORIES.get(c, c)} {told(*rows.loc[c], '+.2f')}" for c in categories if c in rows.index)


def firing(tables: Tables, verdicts: list) -> str:
    both = tables["firing_trends"].query("population == 'Rosetta'")
    ours, rest = (
        selectivity.firing_trends(tables, selectivity.FIRST, population) for population in ("Rosetta", "other")
    )
    surely = int(((both["low"] > 0) | (both["high"] < 0)).sum())
    none = "No trend of any category has an interval that excludes zero" if not surely else f"Of {len(both)} trends {surely} have intervals that exclude zero"  # fmt: skip
    first = label(ours.index[0])
    moved = sorted(rest[(rest["low"] > 0) | (rest["high"] < 0)]["category"], key=lambda c: CATEGORIES.get(c, c))
    control = (
        f"which the paper finds stable, do trend: {_trends(rest, moved)}"
        if moved
        else "as in the paper, do not trend either"
    )
    said = f"{none}: {_trends(ours, ('code', 'math', 'general prose'))} ({first}, for a tenfold growth). The other neurons, {control}."
    return _joined(lead(verdicts), said)


def depths(tables: Tables, verdicts: list) -> str:
    layers, held = selectivity.layers_of(tables), (tables["depths"].set_index("model") > 0).sum(axis=1).tolist()
    first = tables["depths"]["model"].iloc[0]
    who = f"{word(len(layers))} {label(tables.profile.models[first].family)} models"
    if held == layers and verdicts[0] is True:
        return f"They are: each of the {sum(layers)} layers of {who} holds some."
    bins = tables["depths"].shape[1] - 1
    return _joined(lead(verdicts, "They are:"), f"at each size of {who} {min(held)} to {max(held)} of {bins} bins of depth hold some.")  # fmt: skip


def depths_images(tables: Tables, verdicts: list) -> str:
    depths, layers = tables["depths"].set_index("model"), selectivity.layers_of(tables)
    held = (depths > 0).sum(axis=1).tolist()
    every = f"Every layer of the {word(len(layers))} towers holds some" if held == layers else f"{min(held)} to {max(held)} bins of depth hold some"  # fmt: skip
    return _joined(lead(verdicts), f"{every}; at the largest size {depths.iloc[-1, -1]:.0%} lie in the last layer.")


def filtering(tables: Tables, verdicts: list) -> str:
    table, alone = filters.rows(tables), tables["filters"].query("kind == 'neuron'")
    best = alone.loc[alone["f1"].idxmax()]

    def half(name: str) -> str:
        row = table.loc[name]
        return f"{row['mean']:.1f} ± {row.high - row['mean']:.1f}"

    ours, theirs = (told(*table.loc[name, ["f1", "f1_low", "f1_high"]]) for name in (filters.ROSETTA, filters.OTHER))
    good = {True: "about as good as", False: "worse than", None: "not told from"}[verdicts[0]]
    well = {True: "", False: " and does better", None: " and does as well"}[verdicts[2]]
    joint = "But" if verdicts[0] is True and verdicts[1] is not True else "Its"
    return _joined(
        lead(verdicts),
        f"Training on its choice is {good} on the true label: perplexity {half(filters.ROSETTA)} against {half(filters.ORACLE)}. {joint} F1 {ours}; "
        f"the non-Rosetta neuron of its layer {theirs}{well}; of {len(alone)} that qualify, the best {told(best.f1, best.f1_low, best.f1_high)}.",
    )


def judged(tables: Tables, verdicts: list) -> str:
    rates, gaps = tables["monosemanticity"], tables["judge_gaps"]
    each = []
    for family, of in rates.groupby("family", sort=False):
        for population in ("Rosetta", "other"):
            ends = of[of["population"] == population].sort_values("neurons").iloc[[0, -1]]
            first, last = (told(*row, ".0%") for row in ends[["rate", "low", "high"]].to_numpy())
            each.append(f"{label(family)}, {population} {first} to {last}")
    said = f"More of the Rosetta Neurons at {(gaps['gap'] > 0).sum()} of {len(gaps)} sizes, its interval at {(gaps['low'] > 0).sum()}; {'; '.join(each)}."  # fmt: skip
    return _joined(lead(verdicts), said)


# ---------------------------------------------------------------------------------------------------------------------
# The two tables

TEXT = (
    Row("The number of Rosetta Neurons grows as a power law of the number of neurons (3a).", ("law",), law),
    Row("The exponent is sublinear, about 0.5 to 0.7.", ("sublinear", "range"), exponent),
    Row("They are a shrinking fraction of all neurons (4.3).", ("share",), share),
    Row("The laws hold for neurons shared by three families.", ("collapsed",), of_three),
    Row("The exponent stays in a narrow sublinear range for any k of the mutual top-k (25).", ("k",), by_k),
    Row("Untrained networks give few matches, without a trend (4).", ("untrained",), untrained),
    Row("Permuted inputs give 20 to 100 matches, without a trend (26).", ("permuted",), permuted),
    Row("The set of matches settles as tokens grow (33).", ("settles",), settles),
    Row("Rosetta Neurons grow more selective with size, by the kurtosis of what they write to the vocabulary (6a, 28).",
        ("parted-6a", "parted-28", "widens-6a", "widens-28"), polarization),
    Row("The other neurons fall towards zero (6a, 28).", ("fall-6a", "fall-28"), others),
    Row("With size, Rosetta Neurons fire more on code and math, less on prose (7, 29, 30).",
        ("specializes-7", "specializes-30", "stable-29", "stable-30"), firing),
    Row("They are spread over all depths (31).", ("depths",), depths),
    Row("One Rosetta Neuron filters a language with F1 0.98; training on its choice is as good as on the true label (Table 1).",
        ("oracle", "recovers", "recovers-more"), filtering),
)  # fmt: skip
IMAGES = (
    Row("The number of Rosetta Neurons grows as a power law (3b).", ("law-images",), law),
    Row("The exponent is sublinear, about 0.5 to 0.7.", ("sublinear-images", "range-images"), exponent),
    Row("They are a shrinking fraction of all neurons (4.3).", ("share-images",), share),
    Row("The same for neurons shared by three models.", ("collapsed-images",), of_three),
    Row("A narrow sublinear range for any k (25).", ("k-images",), by_k),
    Row("Untrained networks give few matches, without a trend (4).", ("untrained-images",), untrained_images),
    Row("The set of matches settles by 50,000 images (34).", ("settles-images",), settles),
    Row("Real and generated images give about as many pairs of two encoders, largely the same (35).",
        ("real-count", "real-same"), real),
    Row("With size, more of the Rosetta Neurons are judged monosemantic, and fewer of the others (6b, 37).",
        ("judged-rise-6b", "judged-fall-6b", "judged-rise-37", "judged-fall-37"), judged),
    Row("Rosetta Neurons of OpenCLIP lie at many depths, in L/14 more of them early (32).", ("depths-images",), depths_images),
)  # fmt: skip


def cells(rows: tuple[Row, ...], part: str, tables: Tables, claims: dict[str, Claim]) -> list[tuple[str, str]]:
    """Each row of a table of the README: what the paper says, and what is said of it."""
    said = []
    for row in rows:
        try:
            sentence = row.sentence(tables.of(part), [claims[name].judge(tables).holds for name in row.claims])
        except Absent as absent:
            sentence = f"{str(absent).capitalize()}."
        said.append((row.says, sentence))
    return said
