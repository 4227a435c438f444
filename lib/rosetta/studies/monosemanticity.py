"""Is a neuron monosemantic? What judges say of both populations at every size, and how far to trust them (5.1, H, I.2).

Each function takes a `Study` whose profile has a section ``judging``; who is judged and by what stands in `studies.judged`.
"""

import logging
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats
from tqdm.auto import tqdm

from rosetta.neurons import surface, validation
from rosetta.neurons.judging import Evidence, Judge, Verdict, rate
from rosetta.profiles.judging import Oracle as Levels
from rosetta.results import keep
from rosetta.studies import properties
from rosetta.studies.judged import (
    Pictured,
    alive_neurons,
    by_number,
    cut,
    evidence,
    judge_of,
    judges,
    of_judge,
    pictures,
    populations,
    sample,
    strengths,
)
from rosetta.studies.matches import Study
from rosetta.studies.properties import OTHERS, ROSETTA

logger = logging.getLogger(__name__)

AUC = ("auc", "auc_low", "auc_high")

# ---------------------------------------------------------------------------------------------------------------------
# Verdicts


def verdicts(study: Study, name: str, pair: tuple[str, str]) -> pd.DataFrame:
    """What each judge says of the neurons that are drawn of a model, each side of a pair for itself.

    Returns
    -------
    DataFrame
        ``judge, images`` (how many were shown), ``population, trial, layer, unit, is_monosemantic`` (missing where a judge said
        nothing usable), ``description, score``.
    """
    judging, kinds = study.profile.judging, judges(study, name)
    asked = {kind: judge_of(study, kind, name, pair) for kind in kinds if kind == "chat"}
    amounts = {judging.images}
    if name == judging.by_images.pair[1]:
        amounts |= set(judging.by_images.images)

    def compute() -> pd.DataFrame:
        drawn = [
            (population, trial, *neuron)
            for population, trials in populations(study, name, pair).items()
            for trial, neurons in enumerate(trials)
            for neuron in neurons
        ]
        columns = pd.DataFrame(drawn, columns=["population", "trial", "layer", "unit"])
        shown = evidence(study, name, pair, [(layer, unit) for *_, layer, unit in drawn], max(amounts))
        tables = []
        for kind in kinds:
            judge = asked.get(kind) or judge_of(study, kind, name, pair)
            # Figure 36 is about the profile's own judge.
            for k in sorted(amounts if kind == judging.judge else {judging.images}):
                said = _said(judge.judge(cut(shown, k)))
                tables.append(pd.concat([columns.assign(judge=kind, images=k), said], axis=1))
        return pd.concat(tables, ignore_index=True)

    what = judging.model_dump(include={"seen", "trials", "neurons", "fewer", "seed"})
    parameters = study.parameters(pair) | what | {
        "images": sorted(amounts), "by": study.profile.images.rank, "matching": study.profile.matching.model_dump(),
        "judges": {kind: _depends_on(study, kind, asked.get(kind)) for kind in kinds},
    }  # fmt: skip
    path = study.folder / "neurons" / f"{pair[0]}--{pair[1]}.{name}.verdicts.parquet"
    table = keep(path, parameters, compute)
    if silent := table["is_monosemantic"].isna().sum():
        logger.warning(
            "%s verdicts of %s are missing; without the file %s they are asked for again", silent, name, path
        )
    return table


def _depends_on(study: Study, kind: str, judge: Judge | None) -> dict:
    return of_judge(study, kind) if judge is None else judge.parameters


def _said(some: Iterable[Verdict | None]) -> pd.DataFrame:
    table = pd.DataFrame([one or Verdict(None, "", np.nan) for one in some], columns=Verdict._fields)
    return table.astype({"is_monosemantic": "boolean", "description": str, "score": float})


def _verdicts(table: pd.DataFrame) -> list[Verdict | None]:
    """Rows as a judge gave them."""
    rows = table[list(Verdict._fields)].itertuples(index=False)
    return [None if pd.isna(row[0]) else Verdict(bool(row[0]), *row[1:]) for row in rows]


def _rate(table: pd.DataFrame) -> dict:
    """The share of monosemantic neurons among the verdicts of one judge, with both intervals."""
    found = rate([_verdicts(of_trial) for _, of_trial in table.groupby("trial")])
    return {
        "judged": found.judged, "left_out": found.left_out, "monosemantic": int(table["is_monosemantic"].sum()),
        "rate": found.pooled.mean, "low": found.pooled.low, "high": found.pooled.high, "trials": table["trial"].nunique(),
        "trials_low": found.by_trial.low, "trials_high": found.by_trial.high,
    }  # fmt: skip


def points(study: Study) -> list[tuple[str, str, tuple[str, str]]]:
    """(family, model, pair) of all models that are judged: Figure 6b's family first, then Figure 37's."""
    curves = study.profile.judging.curves
    return [
        (family, *point) for family, curve in curves.items() for point in study.profile.family_points(family, curve)
    ]


def rates(study: Study, judge: str | None = None) -> pd.DataFrame:
    """Figures 6b and 37: the share of either population that a judge, by default the profile's, calls monosemantic.

    Returns
    -------
    DataFrame
        ``family, model, neurons, population, judged, left_out, monosemantic, rate``; ``low, high``: Wilson's 95% interval over all
        judged; ``trials, trials_low, trials_high``: Student's over the trials, the paper's.
    """
    rows, judge = [], judge or study.profile.judging.judge
    for family, name, pair in tqdm(points(study), desc=f"neurons, judged by {judge}", leave=False):
        table, k = verdicts(study, name, pair), study.profile.judging.images
        table = table[(table["judge"] == judge) & (table["images"] == k)]
        of_model = {"family": family, "model": name, "neurons": study.profile.models[name].neurons}
        rows += [of_model | {"population": p} | _rate(table[table["population"] == p]) for p in (ROSETTA, OTHERS)]
    return pd.DataFrame(rows)


def descriptions(study: Study, pair: tuple[str, str]) -> dict[tuple[str, int, int], str]:
    """What the profile's judge says of neurons of a pair, for the explorer: by (model, layer, unit); of those that were drawn."""
    said = {}
    for _, name, judged_with in points(study):
        if judged_with == pair:
            table, judging = verdicts(study, name, pair), study.profile.judging
            table = table[(table["judge"] == judging.judge) & (table["images"] == judging.images)]
            said |= {(name, row.layer, row.unit): row.description for row in table.itertuples()}
    return said


def examples(study: Study, name: str, pair: tuple[str, str], images: int = 5) -> list[tuple[str, Evidence]]:
    """Of either population one neuron that the profile's judge calls monosemantic and one that it does not, if there are any.

    Each is the first that was drawn: what is said of it, and its strongest images.
    """
    table, judging = verdicts(study, name, pair), study.profile.judging
    table = table[(table["judge"] == judging.judge) & (table["images"] == judging.images)]
    first = table.dropna(subset="is_monosemantic").drop_duplicates(["population", "is_monosemantic"])
    first = first.sort_values(["population", "is_monosemantic"], ascending=[True, False])
    shown = evidence(study, name, pair, list(zip(first["layer"], first["unit"], strict=True)), images)
    return [
        (f"{one.neuron} ({row.population}): {'yes' if row.is_monosemantic else 'no'}, {row.description}", one)
        for row, one in zip(first.itertuples(), shown, strict=True)
    ]


def gaps(table: pd.DataFrame, keys: Sequence[str] = ("family", "model", "neurons")) -> pd.DataFrame:
    """By how much more Rosetta Neurons are monosemantic than others, and Newcombe's 95% interval of that: ``gap, low, high``.

    Parameters
    ----------
    table : DataFrame
        As `rates` or `by_images` gives it.
    keys : sequence of str
        A row for each.
    """
    from statsmodels.stats.proportion import confint_proportions_2indep

    rows = []
    for key, group in table.groupby(list(keys), sort=False):
        ours, others = (group[group["population"] == p].iloc[0] for p in (ROSETTA, OTHERS))
        low = high = np.nan
        if min(ours["judged"], others["judged"]):
            counts = ours["monosemantic"], ours["judged"], others["monosemantic"], others["judged"]
            low, high = confint_proportions_2indep(*counts, method="newcomb")
        rows.append((*key, ours["rate"] - others["rate"], low, high))
    return pd.DataFrame(rows, columns=[*keys, "gap", "low", "high"])


def by_images(study: Study) -> pd.DataFrame:
    """Figure 36: the rates of one model, the second of the profile's pair, by growing numbers of images.

    Returns
    -------
    DataFrame
        ``model, images, population``, and as `rates`. The neurons are the same throughout.
    """
    asked, judging = study.profile.judging.by_images, study.profile.judging
    table = verdicts(study, asked.pair[1], asked.pair)
    table = table[table["judge"] == judging.judge]
    return pd.DataFrame([
        {"model": asked.pair[1], "images": k, "population": p} | _rate(table[(table["images"] == k) & (table["population"] == p)])
        for k in sorted(set(asked.images)) for p in (ROSETTA, OTHERS)
    ])  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# How far to trust a judge


def table5(study: Study) -> pd.DataFrame:
    """Table 5 of each judge: how well it foretells which images that it was not shown make a random neuron fire.

    Returns
    -------
    DataFrame
        ``judge``, and as `validation.table5`; ``runs, judged, left_out``.
    """
    asked, judging = study.profile.judging.validation, study.profile.judging
    pair, name = asked.pair, asked.pair[1]
    kinds = judges(study, name)
    chat = judge_of(study, "chat", name, pair) if "chat" in kinds else None

    def compute() -> pd.DataFrame:
        of = f"{name}, all neurons that change"
        runs = sample(study, of, alive_neurons(study, name, pair), asked.runs, asked.neurons, "validation")
        shown, unseen = _questions(study, runs)
        tables = []
        for kind in kinds:
            judge = chat if kind == "chat" else judge_of(study, kind, name, pair)
            said = [judge.predict(*both) for both in zip(shown, unseen, strict=True)]
            table = validation.table5(said, [[one.fires for one in run] for run in unseen])
            tables.append(table.assign(judge=kind, **table.attrs))
        return pd.concat(tables, ignore_index=True)

    parameters = study.parameters(pair) | asked.model_dump() | {
        "seen": judging.seen, "images": judging.images, "by": study.profile.images.rank, "seed": judging.seed,
        "fewer": judging.fewer, "judges": {kind: _depends_on(study, kind, chat if kind == "chat" else None) for kind in kinds},
    }  # fmt: skip
    return keep(study.folder / "neurons" / f"{pair[0]}--{pair[1]}.{name}.validation.parquet", parameters, compute)


def _questions(study: Study, runs: list[list]) -> tuple[list[list], list[list]]:
    """Of each run the evidence on its neurons, and the images that judges have not seen of them."""
    asked, judging = study.profile.judging.validation, study.profile.judging
    pair, name = asked.pair, asked.pair[1]
    neurons = [neuron for run in runs for neuron in run]
    shown = evidence(study, name, pair, neurons, judging.images)
    of_all = strengths(study, name, pair, neurons).astype(float)
    chosen = []
    for number, (one, column) in enumerate(zip(shown, of_all.T, strict=True)):
        column[list(one.numbers)] += 1 + np.ptp(column)  # they stay the highest, whatever was rounded otherwise
        places = range(len(column))
        chosen.append(validation.held_out(column, places, judging.images, asked.each, (judging.seed, number)))
    some = by_number(pictures(study, name, pair), {number for one in chosen for number in one.numbers})
    unseen = [one._replace(images=Pictured(one.numbers, some, shown[0].images.show)) for one in chosen]
    ends = np.cumsum([len(run) for run in runs])
    slices = [slice(end - len(run), end) for run, end in zip(runs, ends.tolist(), strict=True)]
    return [shown[part] for part in slices], [unseen[part] for part in slices]


def agreement(study: Study) -> pd.DataFrame:
    """Cohen's kappa of every two judges over the neurons of each family that both have judged.

    Returns
    -------
    DataFrame
        ``family, first, second, kappa, low, high, share`` (of equal verdicts), ``both, left_out``; ``yes_first, yes_second``: the
        shares that each calls monosemantic. Where the second calls nearly all so, kappa says little; ``auc, auc_low, auc_high``:
        how likely, of a neuron that the first calls monosemantic and one that it does not, the second's score of the first one
        is higher (NaN where it gives none).
    """
    rows = []
    for family in study.profile.judging.curves:
        tables = [verdicts(study, name, pair) for of, name, pair in points(study) if of == family]
        table = pd.concat([one[one["images"] == study.profile.judging.images] for one in tables])
        said = dict(iter(table.groupby("judge", sort=False)))
        for first, second in combinations(said, 2):
            found = validation.agreement(_verdicts(said[first]), _verdicts(said[second]))
            yes = {
                f"yes_{which}": said[kind]["is_monosemantic"].mean()
                for which, kind in (("first", first), ("second", second))
            }
            score, by = said[second]["score"].to_numpy(), said[first]["is_monosemantic"]
            known = ~(np.isnan(score) | by.isna().to_numpy())
            ranked = dict(zip(AUC, auc(score[known], by.to_numpy(object)[known]), strict=True))
            rows.append({"family": family, "first": first, "second": second, **found._asdict(), **yes, **ranked})
    columns = ["family", "first", "second", *validation.Agreement._fields, "yes_first", "yes_second", *AUC]
    return pd.DataFrame(rows, columns=columns)


# ---------------------------------------------------------------------------------------------------------------------
# Language models


def judged_texts(study: Study, name: str) -> pd.DataFrame:
    """What the oracle of texts says of every neuron of a language model: ``layer, unit, is_monosemantic, description, score``."""
    judging = study.profile.judging
    levels = (judging.oracle if judging else Levels()).model_dump(include={"alpha", "least_share"})

    def compute() -> pd.DataFrame:
        return surface.judge_texts(properties.contexts(study, name), properties.token_counts(study, name), **levels)

    parameters = study.parameters([name]) | study.profile.contexts.model_dump() | levels
    return keep(study.folder / "neurons" / f"{name}.judged.parquet", parameters, compute)


def texts(study: Study, families: Iterable[str] | None = None) -> pd.DataFrame:
    """The rates of language models by the oracle of texts, and whether kurtosis knows of its verdicts.

    All neurons are judged that have contexts. Families are those of ``properties.rosetta`` unless some are named.

    Returns
    -------
    DataFrame
        ``family, model, neurons, population, judged, monosemantic, rate, low, high`` (Wilson's interval); ``kurtosis``, the
        population's mean; ``auc``: how likely a neuron that is monosemantic by its texts has the higher kurtosis of two (over both
        populations, with its 95% interval, ``auc_low, auc_high``; NaN where all have one verdict).
    """
    rows = []
    for family in families or study.profile.properties.rosetta:
        for name, pair in tqdm(study.profile.family_points(family), desc=f"neurons of {family} judged", leave=False):
            table = judged_texts(study, name).set_index(["layer", "unit"])
            table["kurtosis"] = properties.kurtosis(study, name)
            is_rosetta = table.index.isin(properties.rosetta_neurons(study, name, pair))
            known = table.dropna(subset="kurtosis")
            ranked = dict(
                zip(("auc", "auc_low", "auc_high"), auc(known["kurtosis"], known["is_monosemantic"]), strict=True)
            )
            for population, group in ((ROSETTA, table[is_rosetta]), (OTHERS, table[~is_rosetta])):
                said = rate([[Verdict(one, "", np.nan) for one in group["is_monosemantic"]]])
                rows.append(
                    {"family": family, "model": name, "neurons": study.profile.models[name].neurons, "population": population,
                     "judged": said.judged, "monosemantic": int(group["is_monosemantic"].sum()), "rate": said.pooled.mean,
                     "low": said.pooled.low, "high": said.pooled.high, "kurtosis": group["kurtosis"].mean(), **ranked}
                )  # fmt: skip
    return pd.DataFrame(rows)


def auc(values: Sequence[float], positive: Sequence[bool]) -> tuple[float, float, float]:
    """How likely a positive has the higher of two values, ties counted half, with Hanley and McNeil's 95% interval."""
    values, positive = np.asarray(values, float), np.asarray(positive, bool)
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return np.nan, np.nan, np.nan
    area = stats.mannwhitneyu(values[positive], values[~positive]).statistic / (n * m)
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (n - 1) * (one - area**2) + (m - 1) * (two - area**2)) / (n * m)
    half = stats.norm.ppf(0.975) * np.sqrt(variance)
    return area, max(0.0, area - half), min(1.0, area + half)
