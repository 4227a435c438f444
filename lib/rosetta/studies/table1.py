"""The experiment of Table 1 for a study: filter a pool of functions with one neuron, train on what it selects (5.3, F).

In the order of the paper: `neurons` chooses the filters and reads nothing but the matching corpus; `drawn` makes the
pool; `scores` reads it; `selections` spends the budget; `perplexities` trains and measures; `table1` sums up.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from rosetta.filtering import filters, pretraining
from rosetta.matching.nulls import mean_ci95
from rosetta.models.load import fingerprint, token_ids
from rosetta.models.load import load as load_model
from rosetta.results import keep, keep_file
from rosetta.sources import environment
from rosetta.sources import functions as code
from rosetta.studies import properties, views
from rosetta.studies.amounts import FILTERS
from rosetta.studies.matches import Study

RANDOM, OTHER, ROSETTA, ORACLE = FILTERS
#: Table 1 of the paper: F1, mean perplexity, half its 95% interval (none for the base model).
REPORTED = {"base": (None, 6.73, None), RANDOM: (0.06, 3.59, 0.07), OTHER: (0.09, 3.23, 0.07),
            ROSETTA: (0.98, 3.02, 0.05), ORACLE: (1.00, 3.01, 0.04)}  # fmt: skip


def neurons(study: Study) -> dict[str, pd.DataFrame]:
    """The candidates of both neuron filters, ranked, best first (`filters.rank_neurons`).

    First the Rosetta Neurons of the scoring model, then its other neurons in the layer of the best of them. Only the
    matching corpus is read: its contexts, and the labels made from them. A chat model sees each Rosetta Neuron over its contexts in
    both models of the pair, another neuron in the one it is in.

    Raises
    ------
    ValueError
        If no Rosetta Neuron has anything to do with what the profile calls ``labelled``: no layer is that of the best.
    """
    filtering, contexts = study.profile.filtering, properties.contexts(study, study.profile.filtering.scorer)
    partners = views.partners(filtering.scorer, [study.matches(filtering.pair)])

    def ranked(population: pd.MultiIndex) -> pd.DataFrame:
        labels = properties.labelled(study, filtering.scorer, population, partners)
        return filters.rank_neurons(
            labels, contexts, filtering.labelled, filtering.least_share, filtering.normalize, study.profile.contexts.n
        )

    rosetta = properties.rosetta_neurons(study, filtering.scorer, filtering.pair)
    ranked_rosetta, subsets = ranked(rosetta), sorted(contexts["subset"].astype(str).unique())
    # In an offline label a word that is no subset is a token, and says nothing of what a text is about.
    no_subset = study.profile.labels.kind == "offline" and filtering.labelled not in subsets
    if no_subset or not (ranked_rosetta["target_share"] > 0).any():
        raise ValueError(
            f"filtering.labelled is {filtering.labelled!r}, and no Rosetta Neuron of {filtering.scorer} is labelled so; "
            f"offline labels know the subsets of the corpus ({', '.join(subsets)}), a chat model's any word"
        )
    everyone = properties.all_neurons(study, filtering.scorer)
    same_layer = everyone[everyone.get_level_values("layer") == ranked_rosetta["layer"].iloc[0]]
    return {ROSETTA: ranked_rosetta, OTHER: ranked(same_layer.difference(rosetta))}


def qualifying(ranked: pd.DataFrame) -> pd.DataFrame:
    """The neurons that qualify, the best first. No other one filters in Table 1."""
    return ranked[ranked["qualifies"]]


def left_out(ranked: dict[str, pd.DataFrame]) -> dict[str, str]:
    """The neuron filters that Table 1 has no row for, and why; `ranked` as `neurons` gives it."""
    return {
        kind: f"none of {len(table)} {kind} neurons {'of the layer ' if kind == OTHER else ''}qualifies, "
        f"the largest share of a neuron's contexts is {table['target_share'].max():.0%}"
        for kind, table in ranked.items()
        if not table["qualifies"].any()
    }


# ---------------------------------------------------------------------------------------------------------------------
# The pool


def _source(study: Study) -> dict:
    """What the functions depend on."""
    source = study.profile.filtering.pool
    if source["kind"] == "environment":
        versions = {"distributions": environment.distributions()}
    else:  # of the hub's data set the revision tells
        files = [(path, path.stat()) for path in sorted(Path(source["source"]).glob("*/final/jsonl/*/*.jsonl.gz"))]
        versions = {"files": [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in files]}
    return {"pool": source, **versions}


def functions_file(study: Study) -> Path:
    """All functions of the pool's source without repeats, in a file that is read as a stream (`functions.read`)."""
    source = study.profile.filtering.pool

    def write(path: Path) -> None:
        dropped = Counter()
        if source["kind"] == "environment":
            everything = code.environment_functions()
        else:
            options = {key: source.get(key) for key in ("source", "languages", "revision")}
            everything = code.codesearchnet(**options, dropped=dropped)
        code.write(tqdm(code.deduplicate(everything, dropped), desc="functions", unit="", leave=False), path)

    return keep_file(study.results / "corpus" / f"functions-{source['kind']}.parquet", _source(study), write)


def drawn(study: Study, split: str) -> pd.DataFrame:
    """The functions of one split that take part, in the order of the file.

    Parameters
    ----------
    study : Study
    split : {"train", "test"}
        "train" is the pool that is filtered. "test" comes from other files, half of its tokens the target's: those
        measure perplexity, and all of them together fit the classifiers that the neurons are compared with.

    Returns
    -------
    DataFrame
        ``number`` (in the file), ``language, source, tokens`` (as the learner counts them), ``split``, and whether a
        function ``is_target``: in the target language.

    Raises
    ------
    ValueError
        If there is no function of the target language.
    """
    profile, filtering = study.profile, study.profile.filtering
    tokenizer = study.tokenizer(filtering.learner)
    share, total = filtering.share, filtering.tokens
    if split == "test":
        share, total = 0.5, filtering.test_tokens and 2 * filtering.test_tokens

    def count(text: str) -> int:
        return sum(map(len, token_ids(tokenizer, [text])))

    def draw() -> pd.DataFrame:
        file = functions_file(study)
        if total is not None:
            mixed = code.mix(code.read(file), filtering.target, share, total, count, profile.seed, split)
            return mixed.sort_values("number", ignore_index=True)
        rows = [
            (number, function.language, function.source, count(function.text))
            for number, function in enumerate(code.read(file))
            if function.split == split
        ]
        return pd.DataFrame(rows, columns=["number", "language", "source", "tokens"])

    parameters = _source(study) | {
        "target": filtering.target, "share": share, "tokens": total, "seed": profile.seed,
        "learner": fingerprint(profile.models[filtering.learner]),
    }  # fmt: skip
    functions = keep(study.folder / "filtering" / f"{split}.parquet", parameters, draw)
    functions = functions.assign(split=split, is_target=functions["language"] == filtering.target)
    if not functions["is_target"].any():
        there = ", ".join(sorted(functions["language"].unique())) or "no language"
        raise ValueError(f"filtering.target is {filtering.target!r}; the {split} functions are in {there}")
    return functions


def texts(study: Study, functions: pd.DataFrame) -> Iterator[str]:
    """The texts of some functions, streamed, in the order of their numbers."""
    return (function.text for function in code.read(functions_file(study), functions["number"]))


def _digest(functions: pd.DataFrame) -> str:
    """Tells which functions these are."""
    return hashlib.sha256(functions["number"].to_numpy(np.int64).tobytes()).hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# Scores and selections


class Scores(NamedTuple):
    """Mean activation of the neurons that qualify on each function, a row a function.

    ``rosetta`` has a column for each Rosetta Neuron, named ``L5/U12``, the best first; ``other`` is the best non-Rosetta neuron, None
    if none qualifies.
    """

    rosetta: pd.DataFrame
    other: pd.Series | None

    @property
    def best(self) -> pd.Series | None:
        """Of the Rosetta Neuron that filters; None if none qualifies."""
        return self.rosetta.iloc[:, 0] if self.rosetta.shape[1] else None

    @property
    def filters(self) -> dict[str, pd.Series]:
        """Those that filter in Table 1, by name."""
        return {name: score for name, score in ((OTHER, self.other), (ROSETTA, self.best)) if score is not None}


def scores(study: Study, ranked: dict[str, pd.DataFrame], functions: pd.DataFrame) -> Scores:
    """Read the functions of a split (`drawn`) with the scoring model; `ranked` as `neurons` gives it."""
    profile, scorer = study.profile, study.profile.filtering.scorer
    rosetta, other = _named(qualifying(ranked[ROSETTA])), _named(qualifying(ranked[OTHER]).head(1))
    chosen, names = [*rosetta.values(), *other.values()], [*rosetta, *other]
    if not names:
        return Scores(pd.DataFrame(index=functions.index), None)

    def compute() -> pd.DataFrame:
        streamed, batch = texts(study, functions), study.per_batch([scorer])
        means = filters.mean_activations(study.reader(scorer), streamed, chosen, batch, profile.context)
        return pd.DataFrame(means, columns=names)

    parameters = _source(study) | {
        "scorer": fingerprint(profile.models[scorer]), "neurons": names, "numbers": _digest(functions),
        "context": profile.context, "dtype": profile.dtype,
        "sequences_per_batch": study.per_batch([scorer]),
    }  # fmt: skip
    kept = keep(study.folder / "filtering" / f"scores-{functions['split'].iloc[0]}.parquet", parameters, compute)
    return Scores(kept[[*rosetta]], kept[[*other]].iloc[:, 0] if other else None)


def _named(neurons: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """(layer, unit) by name, ``L5/U12``."""
    return {f"L{layer}/U{unit}": (layer, unit) for layer, unit in neurons[["layer", "unit"]].itertuples(index=False)}


def selections(pool: pd.DataFrame, scored: Scores, seed: int) -> dict[str, np.ndarray]:
    """What each filter of Table 1 selects from the pool (`select`); the seed is the random one's.

    A neuron filter is there if a neuron qualifies for it (`left_out`).
    """
    by_filter = {
        RANDOM: filters.random_scores(len(pool), seed),
        **scored.filters,
        ORACLE: filters.oracle_scores(pool["is_target"]),
    }
    return {name: select(pool, score) for name, score in by_filter.items()}


def select(pool: pd.DataFrame, score) -> np.ndarray:
    """int64 indices into the pool, under a budget of the tokens that the target has in it (`select_under_budget`)."""
    budget = int(pool["tokens"][pool["is_target"]].sum())
    return filters.select_under_budget(score, pool["tokens"], budget)


def recoveries(pool: pd.DataFrame, selected: dict[str, np.ndarray]) -> pd.DataFrame:
    """How much of the target each selection recovers, over functions and over tokens: a row a filter.

    ``f1_low, f1_high`` are the 95% interval of F1 over functions (`filters.f1_interval`).
    """
    rows = {}
    for name, indices in selected.items():
        interval = filters.f1_interval(indices, pool["is_target"])
        recovered = filters.recovery(indices, pool["is_target"], pool["tokens"])._asdict()
        rows[name] = recovered | {"f1_low": interval.low, "f1_high": interval.high}
    return pd.DataFrame(rows).T.rename_axis("filter").reset_index()


def references(study: Study) -> pd.DataFrame:
    """Beyond the paper: each Rosetta Neuron that qualifies, averages of the best few, and two trained classifiers.

    Returns
    -------
    DataFrame
        As `recoveries`, with a column ``kind``: "neuron", "average", "probe" or "tokens".
    """
    ranked, pool, test = neurons(study), drawn(study, "train"), drawn(study, "test")
    on_pool, on_test = (scores(study, ranked, functions).rosetta for functions in (pool, test))
    filtering, labels = study.profile.filtering, test["is_target"]
    by_filter = {("neuron", name): score for name, score in on_pool.items()}
    for k in filtering.average:
        if 1 < k <= on_pool.shape[1]:
            by_filter["average", f"mean of {k}"] = filters.average_scores(on_pool.iloc[:, :k])
    if len(on_pool.columns):
        by_filter["probe", "linear probe"] = filters.linear_probe(on_test, labels, on_pool)
    by_filter["tokens", "bag of tokens"] = filters.bag_of_tokens(
        study.tokenizer(filtering.scorer), list(texts(study, test)), labels, texts(study, pool)
    )
    table = recoveries(pool, {name: select(pool, score) for (_, name), score in by_filter.items()})
    table.insert(0, "kind", [kind for kind, _ in by_filter])
    return table


def languages(pool: pd.DataFrame, selected: dict[str, np.ndarray]) -> pd.DataFrame:
    """The mix of languages of each selection, as shares of its tokens: a row a filter, a column a language."""
    shares = {}
    for name, indices in selected.items():
        tokens = pool.iloc[indices].groupby("language")["tokens"].sum()
        shares[name] = tokens / tokens.sum()
    return pd.DataFrame(shares).T.fillna(0.0)


# ---------------------------------------------------------------------------------------------------------------------
# Continued pretraining


def perplexities(study: Study, selected: dict[str, np.ndarray]) -> pd.DataFrame:
    """Perplexity on the target's test functions: of the base model, and after training on each selection, by seed.

    All runs have the same number of sequences, the largest that every selection fills.

    Returns
    -------
    DataFrame
        ``filter, seed, perplexity, sequences``; the base model is the filter "base", without seed.

    Raises
    ------
    ValueError
        If a selection does not fill one sequence.
    """
    filtering, pool, test = study.profile.filtering, drawn(study, "train"), drawn(study, "test")
    learner, training = filtering.learner, filtering.training
    device = study.device_of(learner)
    test = test[test["is_target"]]
    test_texts = cache(lambda: list(texts(study, test)))
    # In the order of the file, so that the order of a selection makes no difference.
    trained_on = {name: pool.iloc[np.sort(indices)] for name, indices in selected.items()}
    sequences = _sequences(trained_on, training.sequence_length)

    def measured(name: str, seed: int | None) -> dict:
        folder = study.folder / "filtering" / (name if seed is None else f"{name}-{seed}")
        functions = pool.head(0) if seed is None else trained_on[name]

        def measure() -> dict:
            if seed is None:
                model = load_model(study.spec(learner), device)
            else:
                model = pretraining.continue_pretraining(
                    study.spec(learner), list(texts(study, functions)), training, seed, folder, device,
                    getattr(torch, study.profile.dtype), sequences,
                )  # fmt: skip
            tokenizer, batch = study.tokenizer(learner), study.profile.sequences_per_batch
            value = pretraining.perplexity(model, tokenizer, test_texts(), training.sequence_length, batch)
            return {"perplexity": value}

        parameters = _source(study) | {
            "learner": fingerprint(study.profile.models[learner]), "training": training.model_dump(), "seed": seed,
            "numbers": _digest(functions), "sequences": sequences, "test": _digest(test),
        }  # fmt: skip
        return {"filter": name, "seed": seed, **keep(folder / "perplexity.json", parameters, measure)}

    runs = [("base", None)] + [(name, seed) for name in selected for seed in filtering.seeds]
    rows = [measured(*run) for run in tqdm(runs, desc="continued pretraining", leave=False)]
    return pd.DataFrame(rows).assign(sequences=sequences)


def _sequences(trained_on: dict[str, pd.DataFrame], length: int) -> int:
    """How many sequences every selection fills, an end-of-text token after each function."""
    filled = {name: int((functions["tokens"] + 1).sum()) // length for name, functions in trained_on.items()}
    shortest = min(filled, key=filled.get)
    if not filled[shortest]:
        raise ValueError(
            f"the selection of {shortest!r} fills no sequence of {length} tokens; "
            "raise filtering.tokens or lower filtering.training.sequence_length"
        )
    return filled[shortest]


def table1(recovered: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Table 1: F1 of each filter with its 95% interval over functions, mean perplexity with its over the seeds.

    Parameters
    ----------
    recovered : DataFrame
        As `recoveries` gives it.
    runs : DataFrame
        As `perplexities` gives it.
    """
    f1 = recovered.set_index("filter")[["f1", "f1_low", "f1_high", "token_f1"]]
    rows = [
        {"filter": name, **f1.reindex([name]).iloc[0].to_dict(), **mean_ci95(group["perplexity"])._asdict()}
        for name, group in runs.groupby("filter", sort=False)
    ]
    return pd.DataFrame(rows)


def beside_the_papers(table: pd.DataFrame) -> pd.DataFrame:
    """Table 1 in words, the paper's numbers (`REPORTED`) beside those of `table1`; the rows are the filters."""

    def interval(mean: float, half: float | None, digits: int) -> str:
        return f"{mean:.{digits}f}" if half is None or np.isnan(half) else f"{mean:.{digits}f} ± {half:.{digits}f}"

    rows = {}
    for row in table.itertuples():
        f1, mean, half = REPORTED[row.filter]
        rows["base model" if row.filter == "base" else row.filter] = {
            ("measured here", "F1"): "" if np.isnan(row.f1) else f"{row.f1:.2f} [{row.f1_low:.2f}, {row.f1_high:.2f}]",
            ("measured here", "test perplexity"): interval(row.mean, row.high - row.mean, 1),
            ("reported there", "F1"): "" if f1 is None else f"{f1:.2f}",
            ("reported there", "test perplexity"): interval(mean, half, 2),
        }
    return pd.DataFrame.from_dict(rows, orient="index")
