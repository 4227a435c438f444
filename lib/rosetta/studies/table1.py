"""The experiment of Table 1 for a study: filter a pool of functions with one neuron, train on what it selects (5.3, F).

In the order of the paper: `neurons` chooses the filters and reads nothing but the matching corpus; `drawn` makes the
pool; `scores` reads it; `selections` spends the budget; `perplexities` trains and measures; `table1` sums up.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from rosetta.filtering import filters, pretraining
from rosetta.matching.nulls import mean_ci95
from rosetta.models.load import fingerprint, load_tokenizer
from rosetta.models.load import load as load_model
from rosetta.results import keep, keep_file
from rosetta.sources import environment
from rosetta.sources import functions as pool
from rosetta.studies import properties
from rosetta.studies.matches import Study

ROSETTA, OTHER, RANDOM, ORACLE = "Rosetta", "non-Rosetta", "random", "oracle"
#: Table 1 of the paper: F1, mean perplexity, half its 95% interval (none for the base model).
REPORTED = {
    "base": (None, 6.73, None), RANDOM: (0.06, 3.59, 0.07), OTHER: (0.09, 3.23, 0.07), ROSETTA: (0.98, 3.02, 0.05),
    ORACLE: (1.00, 3.01, 0.04),
}  # fmt: skip
#: Where no neuron qualifies, so many of the nearest stand in for those that do.
NEAREST = 5


def neurons(study: Study) -> dict[str, pd.DataFrame]:
    """The candidates of both neuron filters, ranked, best first (`filters.rank_neurons`).

    First the Rosetta Neurons of the scoring model, then its other neurons in the layer of the best of them. Only the
    matching corpus is read: its contexts, and the labels made from them.
    """
    setting = study.profile.filtering
    contexts = properties.contexts(study, setting.scorer)

    def ranked(some: pd.MultiIndex) -> pd.DataFrame:
        labels = properties.labelled(study, setting.scorer, some)
        return filters.rank_neurons(
            labels, contexts, setting.labelled, setting.least_share, setting.normalize, study.profile.contexts.n
        )

    rosetta = properties.rosetta_neurons(study, setting.scorer, setting.pair)
    found = ranked(rosetta)
    everyone = properties.all_neurons(study, setting.scorer)
    layer = found["layer"].iloc[0]
    return {ROSETTA: found, OTHER: ranked(everyone[everyone.get_level_values("layer") == layer].difference(rosetta))}


def candidates(ranked: pd.DataFrame) -> pd.DataFrame:
    """The neurons that qualify, or, where none does, the nearest ones."""
    return ranked[ranked["qualifies"]] if ranked["qualifies"].any() else ranked.head(NEAREST)


# ---------------------------------------------------------------------------------------------------------------------
# The pool


def _source(study: Study) -> dict:
    """What the functions depend on."""
    setting = study.profile.filtering.pool
    if setting["kind"] == "environment":
        versions = {"distributions": environment.distributions()}
    else:  # of the hub's data set the revision tells
        files = [(path, path.stat()) for path in sorted(Path(setting["source"]).glob("*/final/jsonl/*/*.jsonl.gz"))]
        versions = {"files": [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in files]}
    return {"pool": setting, **versions}


def functions_file(study: Study) -> Path:
    """All functions of the pool's source without repeats, in a file that is read as a stream (`pool.read`)."""
    setting = study.profile.filtering.pool

    def write(path: Path) -> None:
        dropped = Counter()
        if setting["kind"] == "environment":
            found = pool.environment_functions()
        else:
            options = {key: setting.get(key) for key in ("source", "languages", "revision")}
            found = pool.codesearchnet(**options, dropped=dropped)
        pool.write(tqdm(pool.deduplicate(found, dropped), desc="functions", unit="", leave=False), path)

    return keep_file(study.results / "corpus" / f"functions-{setting['kind']}.parquet", _source(study), write)


def drawn(study: Study, split: str) -> pd.DataFrame:
    """The functions that take part: ``number`` (in the file), ``language, source, tokens`` (as the learner counts them).

    Parameters
    ----------
    study : Study
    split : {"train", "test"}
        "train" is the pool that is filtered. "test" comes from other files, half of its tokens the target's: those
        measure perplexity, and all of them together fit the classifiers that the neurons are compared with.

    Raises
    ------
    ValueError
        If there is no function of the target language.
    """
    p, setting = study.profile, study.profile.filtering
    tokenizer = load_tokenizer(p.models[setting.learner])
    share, total = setting.share, setting.tokens
    if split == "test":
        share, total = 0.5, setting.test_tokens and 2 * setting.test_tokens

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def draw() -> pd.DataFrame:
        file = functions_file(study)
        if total is not None:
            found = pool.mix(pool.read(file), setting.target, share, total, count, p.seed, split)
            return found.sort_values("number", ignore_index=True)
        rows = [
            (number, function.language, function.source, count(function.text))
            for number, function in enumerate(pool.read(file))
            if function.split == split
        ]
        return pd.DataFrame(rows, columns=["number", "language", "source", "tokens"])

    parameters = _source(study) | {"target": setting.target, "share": share, "tokens": total, "seed": p.seed}
    parameters["learner"] = fingerprint(p.models[setting.learner])
    found = keep(study.folder / "filtering" / f"{split}.parquet", parameters, draw)
    if not (found["language"] == setting.target).any():
        there = ", ".join(sorted(found["language"].unique())) or "no language"
        raise ValueError(f"filtering.target is {setting.target!r}; the {split} functions are in {there}")
    return found


def texts(study: Study, functions: pd.DataFrame) -> Iterator[str]:
    """The texts of some functions, streamed, in the order of their numbers."""
    return (function.text for function in pool.read(functions_file(study), functions["number"]))


def is_target(study: Study, functions: pd.DataFrame) -> np.ndarray:
    """Which functions are in the target language: bool [functions]."""
    return (functions["language"] == study.profile.filtering.target).to_numpy()


# ---------------------------------------------------------------------------------------------------------------------
# Scores and selections


def scores(study: Study, split: str) -> pd.DataFrame:
    """Mean activation of the candidates on each function: a row a function, a column a neuron, ``L5/U12``.

    The Rosetta Neurons that qualify come first, the best first; the last column is the non-Rosetta neuron.
    """
    setting, functions = study.profile.filtering, drawn(study, split)
    ranked = neurons(study)
    some = pd.concat([candidates(ranked[ROSETTA]), ranked[OTHER].head(1)])
    some = list(zip(some["layer"].tolist(), some["unit"].tolist(), strict=True))
    names = [f"L{layer}/U{unit}" for layer, unit in some]

    def compute() -> pd.DataFrame:
        reader, p = study.reader(setting.scorer), study.profile
        found = filters.mean_activations(reader, texts(study, functions), some, p.sequences_per_batch, p.context)
        return pd.DataFrame(found, columns=names)

    parameters = _source(study) | {
        "scorer": fingerprint(study.profile.models[setting.scorer]), "neurons": names,
        "numbers": hashlib.sha256(functions["number"].to_numpy(np.int64).tobytes()).hexdigest(),
        "context": study.profile.context, "dtype": study.profile.dtype,
        "sequences_per_batch": study.profile.sequences_per_batch,
    }  # fmt: skip
    return keep(study.folder / "filtering" / f"scores-{split}.parquet", parameters, compute)


def selections(study: Study) -> dict[str, np.ndarray]:
    """What each filter of Table 1 selects from the pool: int64 indices, under a budget of the target's tokens."""
    functions, found = drawn(study, "train"), scores(study, "train")
    of_filter = {
        RANDOM: filters.random_scores(len(functions), study.profile.seed),
        OTHER: found.iloc[:, -1],
        ROSETTA: found.iloc[:, 0],
        ORACLE: filters.oracle_scores(is_target(study, functions)),
    }
    return {name: select(study, score) for name, score in of_filter.items()}


def select(study: Study, score) -> np.ndarray:
    """`filters.select_under_budget` over the pool, the budget being the tokens that the target has in it."""
    functions = drawn(study, "train")
    budget = int(functions["tokens"][is_target(study, functions)].sum())
    return filters.select_under_budget(score, functions["tokens"], budget)


def recoveries(study: Study, selected: dict[str, np.ndarray]) -> pd.DataFrame:
    """How much of the target each selection recovers, over functions and over tokens: a row a filter."""
    functions = drawn(study, "train")
    rows = {
        name: filters.recovery(chosen, is_target(study, functions), functions["tokens"])._asdict()
        for name, chosen in selected.items()
    }
    return pd.DataFrame(rows).T.rename_axis("filter").reset_index()


def references(study: Study) -> pd.DataFrame:
    """Beyond the paper: each Rosetta Neuron that qualifies, averages of the best few, and two trained classifiers.

    Returns
    -------
    DataFrame
        As `recoveries`, with a column ``kind``: "neuron", "average", "probe" or "tokens".
    """
    pool, test = drawn(study, "train"), drawn(study, "test")
    found, fitted_on = (scores(study, split).iloc[:, :-1] for split in ("train", "test"))
    labels = is_target(study, test)
    tokenizer = load_tokenizer(study.profile.models[study.profile.filtering.scorer])
    of_kind = {("neuron", name): found[name] for name in found}
    of_kind |= {
        ("average", f"mean of {k}"): filters.average_scores(found.iloc[:, :k])
        for k in study.profile.filtering.average
        if 1 < k <= found.shape[1]
    }
    of_kind["probe", "linear probe"] = filters.linear_probe(fitted_on, labels, found)
    of_kind["tokens", "bag of tokens"] = filters.bag_of_tokens(
        tokenizer, list(texts(study, test)), labels, texts(study, pool)
    )
    table = recoveries(study, {name: select(study, score) for (_, name), score in of_kind.items()})
    table.insert(0, "kind", [kind for kind, _ in of_kind])
    return table


def languages(study: Study, selected: dict[str, np.ndarray]) -> pd.DataFrame:
    """The mix of languages of each selection, as shares of its tokens: a row a filter, a column a language."""
    functions = drawn(study, "train")
    shares = {}
    for name, chosen in selected.items():
        of_language = functions.iloc[chosen].groupby("language")["tokens"].sum()
        shares[name] = of_language / of_language.sum()
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
    setting, functions, test = study.profile.filtering, drawn(study, "train"), drawn(study, "test")
    spec = study.profile.models[setting.learner]
    test = test[is_target(study, test)]
    length = setting.training.sequence_length
    # Each function is followed by an end-of-text token.
    filled = {name: int((functions["tokens"].iloc[c] + 1).sum()) // length for name, c in selected.items()}
    sequences = min(filled.values())
    if not sequences:
        raise ValueError(
            f"the selection of {min(filled, key=filled.get)!r} fills no sequence of {length} tokens; "
            "raise filtering.tokens or lower filtering.training.sequence_length"
        )
    test_texts = cache(lambda: list(texts(study, test)))
    runs = [("base", None)] + [(name, seed) for name in selected for seed in setting.seeds]
    rows = []
    for name, seed in tqdm(runs, desc="continued pretraining", leave=False):
        folder = study.folder / "filtering" / (name if seed is None else f"{name}-{seed}")
        numbers = np.empty(0, np.int64) if seed is None else np.sort(functions["number"].iloc[selected[name]])

        def measure(seed=seed, numbers=numbers, folder=folder) -> dict:
            if seed is None:
                model = load_model(spec, study.device)
            else:
                model = pretraining.continue_pretraining(
                    spec, list(texts(study, pd.DataFrame({"number": numbers}))), setting.training, seed, folder,
                    study.device, getattr(torch, study.profile.dtype), sequences,
                )  # fmt: skip
            tokenizer = load_tokenizer(spec)
            found = pretraining.perplexity(model, tokenizer, test_texts(), length, study.profile.sequences_per_batch)
            return {"perplexity": found}

        parameters = _source(study) | {
            "learner": fingerprint(spec), "training": setting.training.model_dump(), "seed": seed,
            "numbers": hashlib.sha256(numbers.tobytes()).hexdigest(), "sequences": sequences,
            "test": hashlib.sha256(test["number"].to_numpy(np.int64).tobytes()).hexdigest(),
        }  # fmt: skip
        rows.append({"filter": name, "seed": seed, **keep(folder / "perplexity.json", parameters, measure)})
    return pd.DataFrame(rows).assign(sequences=sequences)


def table1(recovered: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Table 1: F1 of each filter, and mean perplexity with its 95% interval over the seeds.

    Parameters
    ----------
    recovered : DataFrame
        As `recoveries` gives it.
    runs : DataFrame
        As `perplexities` gives it.
    """
    f1 = recovered.set_index("filter")[["f1", "token_f1"]]
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
            ("measured here", "F1"): "" if np.isnan(row.f1) else f"{row.f1:.2f}",
            ("measured here", "test perplexity"): interval(row.mean, row.high - row.mean, 1),
            ("reported there", "F1"): "" if f1 is None else f"{f1:.2f}",
            ("reported there", "test perplexity"): interval(mean, half, 2),
        }
    return pd.DataFrame.from_dict(rows, orient="index")
