"""What Rosetta Neurons are like, for the models of a study (sections 5.1 and 5.2, Appendix E): notebooks 05 and 06.

Each function takes a `Study`, whose profile says which curve defines each family's Rosetta Neurons, and keeps what takes
long under the study's folder.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from scipy import stats
from tqdm.auto import tqdm

from rosetta.matching.mutual import matched_neurons, top_k
from rosetta.matching.nulls import mean_ci95
from rosetta.models.load import fingerprint
from rosetta.neurons import labels, selectivity, specialization
from rosetta.neurons.chat import environment
from rosetta.neurons.contexts import top_contexts
from rosetta.results import keep
from rosetta.studies import views
from rosetta.studies.matches import Study

ROSETTA, OTHERS = "Rosetta", "other"
#: Random directions whose kurtosis is taken, of each model.
DIRECTIONS = 4_000


def rosetta_neurons(study: Study, name: str, pair: tuple[str, str]) -> pd.MultiIndex:
    """(layer, unit) of a model's neurons that are matched with the other model of a pair (mutual top-1)."""
    return matched_neurons(top_k(study.matches(pair), 1), name)


def all_neurons(study: Study, name: str) -> pd.MultiIndex:
    """(layer, unit) of every neuron of a model."""
    spec = study.profile.models[name]
    return pd.MultiIndex.from_product([range(spec.layers), range(spec.mlp_width)], names=["layer", "unit"])


# ---------------------------------------------------------------------------------------------------------------------
# 5.1 polarization


def kurtosis(study: Study, name: str, fold_gain: bool = False) -> pd.Series:
    """Vocabulary-space excess kurtosis of every neuron of a model, indexed by (layer, unit).

    With `fold_gain` the final norm's gain is part of the unembedding (`selectivity.unembedding`).
    """
    spec = study.profile.models[name]

    def compute() -> pd.DataFrame:
        model = study.model(name)
        w_out, w_u = selectivity.weights_by_layer(model), selectivity.unembedding(model, fold_gain)
        values = selectivity.vocab_excess_kurtosis(w_out, w_u)
        return all_neurons(study, name).to_frame(index=False).assign(kurtosis=values.cpu().numpy())

    parameters = {"model": fingerprint(spec), "dtype": study.profile.dtype, "fold_gain": fold_gain}
    file = f"{name}.kurtosis{'-folded' if fold_gain else ''}.parquet"
    table = keep(study.folder / "neurons" / file, parameters, compute)
    return table.set_index(["layer", "unit"])["kurtosis"]


def kurtoses(study: Study, families: list[str] | None = None, fold_gain: bool = False) -> pd.DataFrame:
    """Every neuron of every size of some families: ``family, model, neurons, layer, unit, kurtosis, population``.

    `fold_gain` as in `kurtosis`.
    """
    tables = []
    for family in families or study.profile.properties.rosetta:
        for name, pair in study.profile.family_points(family):
            table = kurtosis(study, name, fold_gain).reset_index()
            is_rosetta = pd.MultiIndex.from_frame(table[["layer", "unit"]]).isin(rosetta_neurons(study, name, pair))
            of_model = {"family": family, "model": name, "neurons": study.profile.models[name].neurons}
            tables.append(table.assign(**of_model, population=np.where(is_rosetta, ROSETTA, OTHERS)))
    columns = ["family", "model", "neurons", "layer", "unit", "kurtosis", "population"]
    return pd.concat(tables, ignore_index=True)[columns]


def polarization(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """Figures 6a and 28: mean kurtosis of Rosetta and of other neurons at each size, with bootstrap intervals.

    Parameters
    ----------
    study : Study
    table : DataFrame
        As `kurtoses` gives it.

    Returns
    -------
    DataFrame
        ``family, model, neurons, population, count, mean, low, high, median`` and, for each threshold of the profile, the
        share of the population above it (``above 3``).
    """
    rows, keys = [], ["family", "model", "neurons", "population"]
    thresholds, bootstrap = study.profile.properties.kurtosis_above, study.profile.properties.bootstrap
    for key, group in table.groupby(keys, sort=False):
        summary = selectivity.describe(group["kurtosis"], thresholds, bootstrap, study.profile.seed)
        count, mean, low, high, median, shares = summary
        row = dict(zip(keys, key, strict=True)) | {"count": count, "mean": mean, "low": low, "high": high}
        rows.append(row | {"median": median} | {f"above {value:g}": share for value, share in shares.items()})
    return pd.DataFrame(rows)


def separation(summary: pd.DataFrame) -> pd.DataFrame:
    """Whether the two populations of each family part as it grows: a row a family.

    Parameters
    ----------
    summary : DataFrame
        As `polarization` gives it.

    Returns
    -------
    DataFrame
        ``gap, smallest`` and ``gap, largest``: the Rosetta mean less the other one, at the family's smallest and largest
        size; ``sizes``, and how many of them have a gap ``above`` 0; ``Rosetta, per decade`` and ``other, per
        decade``: the least-squares slope of each mean over a tenfold growth in neurons, with its 95% interval (``..., low``
        and ``..., high``; NaN for fewer than three sizes).
    """
    rows = {}
    for family, group in summary.groupby("family", sort=False):
        mean = group.pivot(index="neurons", columns="population", values="mean")
        gap = mean[ROSETTA] - mean[OTHERS]
        row = {"gap, smallest": gap.iloc[0], "gap, largest": gap.iloc[-1], "sizes": len(gap), "above": sum(gap > 0)}
        for population in (ROSETTA, OTHERS):
            slope = np.polyfit(np.log10(mean.index), mean[population], 1)[0]
            error = stats.linregress(np.log10(mean.index.to_numpy(float)), mean[population]).stderr
            half = stats.t.ppf(0.975, len(mean) - 2) * error if len(mean) > 2 else np.nan
            named = f"{population}, per decade"
            row |= {named: slope, f"{named}, low": slope - half, f"{named}, high": slope + half}
        rows[family] = row
    return pd.DataFrame(rows).T.astype({"sizes": int, "above": int}).rename_axis("family")


def gaps(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """How far the Rosetta Neurons' mean kurtosis lies above the others' at each size, and how surely.

    Parameters
    ----------
    study : Study
    table : DataFrame
        As `kurtoses` gives it.

    Returns
    -------
    DataFrame
        ``family, model, neurons``; ``gap, low, high`` with its 95% bootstrap interval; and the same within layers
        (``layers_gap, layers_low, layers_high``), so that where either population lies can make no gap.
    """
    rows, keys = [], ["family", "model", "neurons"]
    for key, group in table.groupby(keys, sort=False):
        strata = {"": [group], "layers_": [of_layer for _, of_layer in group.groupby("layer")]}
        row = dict(zip(keys, key, strict=True))
        for name, parts in strata.items():
            found = selectivity.kurtosis_gap(*zip(*map(_populations, parts), strict=True), **_bootstrap(study))
            row |= {f"{name}{field}": value for field, value in found._asdict().items()}
        rows.append(row)
    return pd.DataFrame(rows)


def widening(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """How much wider the gap is at a family's largest size than at its smallest: ``family, gap, low, high``."""
    rows = []
    for family, group in table.groupby("family", sort=False):
        ends = [
            _populations(group[group["neurons"] == size]) for size in (group["neurons"].min(), group["neurons"].max())
        ]
        rows.append({"family": family, **selectivity.gap_change(*ends, **_bootstrap(study))._asdict()})
    return pd.DataFrame(rows)


def gain_effect(study: Study, table: pd.DataFrame, folded: pd.DataFrame) -> pd.DataFrame:
    """What it matters that the final norm's gain is not part of the unembedding: the means and their gap, both ways.

    Parameters
    ----------
    study : Study
    table, folded : DataFrame
        As `kurtoses` gives them, without and with `fold_gain`.

    Returns
    -------
    DataFrame
        ``family, model, neurons, gain`` ("left out", "folded in"); mean kurtosis of ``Rosetta`` and ``other`` neurons;
        ``gap, low, high``, the first less the second with its 95% bootstrap interval.
    """
    parts = []
    for gain, of_gain in {"left out": table, "folded in": folded}.items():
        keys = ["family", "model", "neurons"]
        means = of_gain.pivot_table(index=keys, columns="population", values="kurtosis").reset_index()
        found = means.merge(gaps(study, of_gain)[[*keys, "gap", "low", "high"]], on=keys)
        parts.append(found.assign(gain=gain)[[*keys, "gain", ROSETTA, OTHERS, "gap", "low", "high"]])
    order = {name: i for i, name in enumerate(table["model"].unique())}
    return pd.concat(parts).sort_values("model", key=lambda name: name.map(order), kind="stable", ignore_index=True)


def floor(study: Study) -> pd.DataFrame:
    """Mean kurtosis of random directions in each model: of a neuron that means nothing to its vocabulary.

    The directions are normal, `DIRECTIONS` of them. Their cosines with the tokens are as uneven as the tokens' own
    directions are, so the floor is not zero.

    Returns
    -------
    DataFrame
        ``family, model, neurons, mean, low, high``, the last two its 95% bootstrap interval.
    """
    rows = []
    for family in study.profile.properties.rosetta:
        for name, _ in study.profile.family_points(family):
            summary = selectivity.describe(_of_directions(study, name), **_bootstrap(study))
            size = {"family": family, "model": name, "neurons": study.profile.models[name].neurons}
            rows.append(size | {"mean": summary.mean, "low": summary.low, "high": summary.high})
    return pd.DataFrame(rows)


def _of_directions(study: Study, name: str) -> pd.Series:
    spec, seed = study.profile.models[name], study.profile.seed

    def compute() -> pd.DataFrame:
        w_u = selectivity.unembedding(study.model(name))
        directions = torch.randn(DIRECTIONS, w_u.shape[1], generator=torch.Generator().manual_seed(seed))
        values = selectivity.vocab_excess_kurtosis(directions, w_u)
        return pd.DataFrame({"kurtosis": values.cpu().numpy()})

    parameters = {"model": fingerprint(spec), "dtype": study.profile.dtype, "directions": DIRECTIONS, "seed": seed}
    return keep(study.folder / "neurons" / f"{name}.floor.parquet", parameters, compute)["kurtosis"]


def _populations(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Kurtosis of the Rosetta Neurons of a table, and of the others."""
    rosetta, others = (table.loc[table["population"] == name, "kurtosis"].to_numpy() for name in (ROSETTA, OTHERS))
    return rosetta, others


def _bootstrap(study: Study) -> dict:
    return {"resamples": study.profile.properties.bootstrap, "seed": study.profile.seed}


# ---------------------------------------------------------------------------------------------------------------------
# 5.2 specialization


def contexts(study: Study, name: str) -> pd.DataFrame:
    """The top-activating contexts of every neuron of a model (`contexts.top_contexts`)."""
    n, batch = study.profile.contexts.n, study.per_batch([name])

    def compute() -> pd.DataFrame:
        reader = study.reader(name)
        return top_contexts(reader, study.windows(reader.tokenizer), n, sequences_per_batch=batch)

    parameters = study.parameters([name]) | study.profile.contexts.model_dump()
    return keep(study.folder / "neurons" / f"{name}.contexts.parquet", parameters, compute)


def token_counts(study: Study, name: str) -> pd.DataFrame:
    """How often each of a model's tokens occurs in each subset of the text (`specialization.token_counts`)."""
    tokenizer = study.tokenizer(name)
    parameters = study.parameters([name]) | study.profile.contexts.model_dump()
    path = study.folder / "neurons" / f"{name}.tokens.parquet"
    return keep(path, parameters, lambda: specialization.token_counts(study.windows(tokenizer), tokenizer))


def labelled(
    study: Study,
    name: str,
    neurons: Iterable[tuple[int, int]],
    partners: dict[tuple[int, int], views.Partners] | None = None,
) -> pd.DataFrame:
    """Labels of some neurons of a model (A.1), by the profile's labeller: ``layer, unit, summary, category, ...``.

    A chat model is shown the heat of each context, in this model and in those of the neuron's partners. Its answers are kept under
    ``results/<profile>/labels``, so that nothing is asked twice; ``attrs["labels"]`` hold the prompt's name and what was asked.

    Parameters
    ----------
    study : Study
    name : str
    neurons : iterable of (layer, unit)
    partners : dict of (layer, unit) to Partners, optional
        The neurons matched with them (`views.partners`), as far as they are known.
    """
    labeller, found = study.profile.labels, contexts(study, name)
    found = found[pd.MultiIndex.from_frame(found[["layer", "unit"]]).isin(list(neurons))]
    if labeller.kind == "chat":
        environment(), labels.read_prompt(labeller.prompt)  # what is missing there is said before anything is read
        found = found[found["rank"] <= labeller.contexts]
        found = found.merge(views.shown(study, name, found, partners or {}), on=["layer", "unit", "rank"])
    return labels.label_neurons(
        found, token_counts(study, name), labeller.kind, study.folder / "labels", prompt=labeller.prompt,
        retries=labeller.retries, timeout=labeller.timeout_seconds, concurrency=labeller.concurrency,
    )  # fmt: skip


def firing(study: Study, family: str) -> pd.DataFrame:
    """Figures 7, 29 and 30: NormalizedFire of each size's Rosetta Neurons, and of random samples of the others.

    Returns
    -------
    DataFrame
        ``model, neurons, population, category, mean, low, high``; the others' are the mean and the 95% interval over the
        profile's samples, the Rosetta Neurons' come without an interval.
    """
    baseline, rows = study.profile.properties.baseline, []
    for name, pair in tqdm(study.profile.family_points(family), desc=f"contexts of {family}", leave=False):
        of_all, rosetta = contexts(study, name), rosetta_neurons(study, name, pair)
        share = specialization.token_share(token_counts(study, name))
        # Dead neurons have no contexts; they are no part of the control.
        alive = pd.MultiIndex.from_frame(of_all[["layer", "unit"]].drop_duplicates())
        others = alive.difference(rosetta).to_frame(index=False)
        samples = [specialization.random_neurons(others, baseline.neurons, seed) for seed in baseline.seeds]
        populations = {ROSETTA: [rosetta], OTHERS: [pd.MultiIndex.from_frame(sample) for sample in samples]}
        for population, sets in populations.items():
            fired = pd.DataFrame(
                specialization.normalized_fire(specialization.top_categories(of_all, neurons), share)
                for neurons in sets
            )
            rows += [
                {"model": name, "neurons": study.profile.models[name].neurons, "population": population,
                 "category": category, **mean_ci95(fired[category])._asdict()}
                for category in fired
            ]  # fmt: skip
    return pd.DataFrame(rows)


def depths(study: Study, family: str, curve: str | None = None) -> pd.DataFrame:
    """Figures 31 and 32: the share of a family's Rosetta Neurons in each bin of depth, a row a model, a column a bin.

    `curve` defines them, by default that of the profile's ``properties.rosetta``.
    """
    rows, bins = {}, study.profile.properties.depth_bins
    for name, pair in study.profile.family_points(family, curve):
        layers = rosetta_neurons(study, name, pair).get_level_values("layer")
        rows[name] = specialization.depth_histogram(layers, study.profile.models[name].layers, bins)
    return pd.DataFrame(rows).T
