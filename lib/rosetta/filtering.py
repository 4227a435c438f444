"""Data filtering (5.3, Appendix F): score every function of a pool, select under a token budget, score the selection.

All filters go the same way: scores, `select_under_budget`, `recovery`. What differs is where the scores come from: a
neuron (`mean_activations`), chance, the labels themselves, or, to see what one neuron is worth, several neurons or a
classifier trained on functions outside the pool.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn import metrics
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from rosetta.activations import Reader

logger = logging.getLogger(__name__)

#: Batches of windows that are sorted by length together, so that little of a batch is padding.
SORTED_BATCHES = 32


# ---------------------------------------------------------------------------------------------------------------------
# The neuron, chosen before any function of the pool is read


def rank_neurons(
    labels: pd.DataFrame,
    contexts: pd.DataFrame,
    target: str,
    least_share: float,
    normalize: str = "zscore",
    top: int = 20,
) -> pd.DataFrame:
    """The labelled neurons in the order in which they would be chosen to filter for a target (Appendix F).

    A neuron qualifies if its label's subset is the target and at least `least_share` of its top contexts are the
    target's. Of those that qualify the first is the one with the highest mean normalized activation over its top
    contexts. The others follow by falling share, so that where none qualifies the first is the nearest.

    Parameters
    ----------
    labels : DataFrame
        ``layer, unit, subset`` of the neurons to choose from, and any other columns, which are kept.
    contexts : DataFrame
        ``layer, unit, rank, activation, subset, mean, std``: top contexts in the matching corpus, and the neuron's mean
        and standard deviation there.
    target : str
        A subset of the matching corpus.
    least_share : float
        0 to 1.
    normalize : {"zscore", "peak"}
        The paper does not say how. "zscore": activation less the neuron's mean, in its standard deviations; "peak":
        activation as a share of the neuron's highest (undefined, and last, where that is not positive).
    top : int

    Returns
    -------
    DataFrame
        The rows of `labels` with ``target_share, normalized_activation, qualifies``; ties by layer and unit.

    Raises
    ------
    ValueError
        On an unknown `normalize`, a `least_share` outside 0..1, or a neuron without contexts.
    """
    if not 0 <= least_share <= 1:
        raise ValueError(f"least_share is {least_share}; it must lie between 0 and 1")
    if normalize not in ("zscore", "peak"):
        raise ValueError(f"normalize is {normalize!r}; allowed are 'zscore' and 'peak'")
    neuron = ["layer", "unit"]
    best = contexts[contexts["rank"] <= top]
    activation = best["activation"].astype("float64")
    if normalize == "zscore":
        normalized = (activation - best["mean"]) / best["std"].where(best["std"] > 0)
    else:
        peak = activation.groupby([best["layer"], best["unit"]]).transform("max")
        normalized = activation / peak.where(peak > 0)
    found = best[neuron].assign(target_share=best["subset"] == target, normalized_activation=normalized)
    found = found.groupby(neuron, as_index=False).mean()
    ranked = labels.merge(found, on=neuron, how="left", validate="one_to_one")
    without = ranked[ranked["target_share"].isna()]
    if len(without):
        raise ValueError(f"L{without['layer'].iloc[0]}/U{without['unit'].iloc[0]} has a label but no contexts")
    ranked["qualifies"] = (ranked["subset"] == target) & (ranked["target_share"] >= least_share)
    order = ranked["normalized_activation"].where(ranked["qualifies"], ranked["target_share"])
    ranked = ranked.assign(order=order).sort_values(
        ["qualifies", "order", *neuron], ascending=[False, False, True, True], ignore_index=True
    )
    return ranked.drop(columns="order")


# ---------------------------------------------------------------------------------------------------------------------
# Scores


def mean_activations(
    reader: Reader,
    texts: Iterable[str],
    neurons: Sequence[tuple[int, int]],
    sequences_per_batch: int = 32,
    context: int | None = None,
) -> np.ndarray:
    """Mean activation of some neurons over the tokens of each text: a neuron's score of a function (Appendix F).

    A text longer than the context is read in consecutive windows, and the mean is over all its tokens. The texts are
    read once, for all neurons together, and not kept.

    Parameters
    ----------
    reader : Reader
    texts : iterable of str
    neurons : sequence of (layer, unit)
    sequences_per_batch : int
    context : int, optional
        Tokens read together, special tokens included; by default the model's whole context.

    Returns
    -------
    float32 [texts, neurons]

    Raises
    ------
    ValueError
        If a text has no tokens (its index is named), the model no such neuron, or the context no room for a token.
    """
    columns = _columns(reader, neurons)
    room = (context or reader.model.config.max_position_embeddings) - len(reader.prefix)
    if room < 1:
        raise ValueError(f"a context of {context} leaves no room for a token beside the special ones")
    means = [np.empty((0, len(columns)), dtype=np.float32)]
    read = 0
    progress = tqdm(texts, desc=f"functions read by {reader.name}", unit="", leave=False)
    for some in _batched(progress, SORTED_BATCHES * sequences_per_batch):
        ids = reader.tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]
        lengths = torch.tensor([len(one) for one in ids])
        if not lengths.all():
            raise ValueError(f"text {read + int(lengths.argmin())} has no tokens; a mean over none is undefined")
        windows = [(i, one[start : start + room]) for i, one in enumerate(ids) for start in range(0, len(one), room)]
        windows.sort(key=lambda window: len(window[1]))
        sums = torch.zeros(len(some), len(columns), device=reader.device)
        for batch in _batched(windows, sequences_per_batch):
            acts, _ = reader.read([window for _, window in batch])
            text = torch.tensor([i for i, window in batch for _ in window], device=reader.device)
            sums.index_add_(0, text, acts[:, columns].float())
        means.append((sums.cpu() / lengths[:, None]).numpy())
        read += len(some)
    return np.concatenate(means)


def _batched(items: Iterable, n: int) -> Iterator[list]:
    items = iter(items)
    while some := list(islice(items, n)):
        yield some


def _columns(reader: Reader, neurons: Sequence[tuple[int, int]]) -> list[int]:
    """Neurons numbered through all layers."""
    for layer, unit in neurons:
        if not (0 <= layer < len(reader.layers) and 0 <= unit < reader.layers[layer]):
            raise ValueError(
                f"{reader.name} has no neuron L{layer}/U{unit}; it has {len(reader.layers)} layers of {reader.layers}"
            )
    return [sum(reader.layers[:layer]) + unit for layer, unit in neurons]


def random_scores(n: int, seed: int) -> np.ndarray:
    """Scores of the random filter: float64 [n], uniform."""
    return np.random.default_rng(seed).random(n)


def oracle_scores(is_target: Sequence[bool]) -> np.ndarray:
    """Scores of the oracle: 1 for a function in the target language, 0 for another. float64 [n]."""
    return np.asarray(is_target, dtype=bool).astype(np.float64)


def average_scores(activations: np.ndarray) -> np.ndarray:
    """One score from several neurons: the mean of their activations [n, neurons], each standardized over the pool.

    A neuron that is the same on every function adds nothing. Returns float64 [n].
    """
    return StandardScaler().fit_transform(np.asarray(activations, dtype=np.float64)).mean(axis=1)


def linear_probe(train: np.ndarray, is_target: Sequence[bool], pool: np.ndarray) -> np.ndarray:
    """Scores of a logistic regression on mean activations (not in the paper).

    Parameters
    ----------
    train : [m, neurons]
        Mean activations on functions outside the pool.
    is_target : bool [m]
        Their labels.
    pool : [n, neurons]

    Returns
    -------
    float64 [n]
        Log-odds of the target.

    Raises
    ------
    ValueError
        If the labels are all the same.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
    return model.fit(train, _two_classes(is_target)).decision_function(pool)


def bag_of_tokens(tokenizer, train: Sequence[str], is_target: Sequence[bool], pool: Iterable[str]) -> np.ndarray:
    """Scores of a logistic regression on how often each token occurs, TF-IDF weighted (not in the paper).

    As `linear_probe`, with texts in place of activations. Returns float64 [n], log-odds of the target.
    """
    tokens = TfidfVectorizer(
        analyzer=lambda text: tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], sublinear_tf=True
    )
    model = make_pipeline(tokens, LogisticRegression(C=10, max_iter=1_000))
    return model.fit(train, _two_classes(is_target)).decision_function(pool)


def _two_classes(is_target: Sequence[bool]) -> np.ndarray:
    is_target = np.asarray(is_target, dtype=bool)
    if len(np.unique(is_target)) < 2:
        raise ValueError("a classifier needs functions of the target and of other languages; these are all the same")
    return is_target


# ---------------------------------------------------------------------------------------------------------------------
# Selection and its recovery of the target


def select_under_budget(scores: Sequence[float], n_tokens: Sequence[int], budget: int) -> np.ndarray:
    """The highest-scoring functions whose tokens together do not exceed the budget (Appendix F).

    Functions are taken in order of score, of equal scores the lower index first, up to the first that would exceed the
    budget: nothing left out scores higher than anything selected, and the budget that is left is smaller than that one
    function. A NaN score is never selected.

    Parameters
    ----------
    scores : [n]
        A sequence, a numpy array or a torch tensor.
    n_tokens : [n]
        Tokens of each function, at least 1.
    budget : int
        Tokens. One larger than the pool selects all of it, with a warning.

    Returns
    -------
    int64 [selected]
        Indices, highest score first.

    Raises
    ------
    ValueError
        On an empty pool, unequal lengths, a function without tokens, or a budget under 1.
    """
    scores, n_tokens = _array(scores), _array(n_tokens)
    if scores.ndim != 1 or scores.shape != n_tokens.shape:
        raise ValueError(f"scores has shape {scores.shape} and n_tokens {n_tokens.shape}; expected two of one length")
    if not len(scores):
        raise ValueError("the pool is empty: there is nothing to select from")
    if not budget >= 1:
        raise ValueError(f"budget is {budget}; it must be at least 1 token")
    if not (n_tokens >= 1).all():
        i = int(np.argmin(n_tokens >= 1))
        raise ValueError(f"function {i} has {n_tokens[i]:g} tokens; each must have at least 1")
    order = np.argsort(-scores, kind="stable")
    order = order[~np.isnan(scores[order])]
    spent = np.cumsum(n_tokens[order])
    selected = order[: np.searchsorted(spent, budget, side="right")].astype(np.int64)
    if n_tokens.sum() < budget:
        logger.warning("the budget of %d tokens is larger than the pool of %d", budget, n_tokens.sum())
    elif not len(selected):
        logger.warning("nothing is selected: the highest-scoring function alone exceeds the budget of %d", budget)
    return selected


def _array(values) -> np.ndarray:
    values = values.detach().cpu().double().numpy() if isinstance(values, torch.Tensor) else values
    return np.asarray(values, dtype=np.float64)


class Recovery(NamedTuple):
    """How much of the target a selection recovers: of its functions, and of their tokens."""

    precision: float
    recall: float
    f1: float
    token_precision: float
    token_recall: float
    token_f1: float


def recovery(selected: Sequence[int], is_target: Sequence[bool], n_tokens: Sequence[int]) -> Recovery:
    """Precision, recall and F1 of a selection against the target's functions (Table 1).

    Parameters
    ----------
    selected : int [k]
        Indices into the pool; the precision of selecting nothing is 0.
    is_target : bool [n]
    n_tokens : int [n]

    Raises
    ------
    ValueError
        If the pool has no function of the target, for then nothing can be recovered.
    """
    is_target = np.asarray(is_target, dtype=bool)
    if not is_target.any():
        raise ValueError("the pool has no function of the target language")
    chosen = np.zeros(len(is_target), dtype=bool)
    chosen[np.asarray(selected, dtype=np.int64)] = True
    of_functions, of_tokens = (
        metrics.precision_recall_fscore_support(
            is_target, chosen, average="binary", sample_weight=weight, zero_division=0
        )
        for weight in (None, _array(n_tokens))
    )
    return Recovery(*map(float, (*of_functions[:3], *of_tokens[:3])))


def precision_recall_curve(
    scores: Sequence[float], is_target: Sequence[bool], n_tokens: Sequence[int] | None = None
) -> pd.DataFrame:
    """Precision and recall at every threshold on the scores, over functions or, given `n_tokens`, over tokens.

    Returns
    -------
    DataFrame
        ``threshold, precision, recall``, by falling threshold: what scores at least the threshold is selected.
    """
    precision, recall, threshold = metrics.precision_recall_curve(
        np.asarray(is_target, dtype=bool), _array(scores), sample_weight=None if n_tokens is None else _array(n_tokens)
    )
    curve = pd.DataFrame({"threshold": threshold, "precision": precision[:-1], "recall": recall[:-1]})
    return curve.iloc[::-1].reset_index(drop=True)
