"""Data filtering (5.3, Appendix F): score every function of a pool, select under a token budget, score the selection.

All filters go the same way: scores, `select_under_budget`, `recovery`. What differs is where the scores come from: a
neuron (`mean_activations`), chance, the labels themselves, or, to see what one neuron is worth, several neurons or a
classifier trained on functions outside the pool.
"""

import logging
import re
from collections.abc import Iterable, Sequence
from functools import partial
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

from rosetta.laws.scaling import wilson
from rosetta.matching.activations import read_pieces
from rosetta.matching.nulls import Interval
from rosetta.matching.segments import windows
from rosetta.matching.texts import Reader
from rosetta.models.load import token_ids
from rosetta.sources.document import Document, batched

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
    normalize: str = "tokens",
    top: int = 20,
) -> pd.DataFrame:
    """The labelled neurons in the order in which they would be chosen to filter for a target (Appendix F).

    A neuron qualifies if its label's subset is the target and at least `least_share` of its top contexts are the
    target's. Where the corpus has no such subset (the Pile keeps all code in one), its label must name the target, and
    the share is that of the label's own subset. Of those that qualify the first is the one with the highest mean
    normalized activation over its top contexts. The others follow by falling share; where none qualifies the first is no
    choice, only the one with the most of the target.

    Parameters
    ----------
    labels : DataFrame
        ``layer, unit, summary, subset, share`` of the neurons to choose from (`labels.label_neurons`), and any other
        columns, which are kept.
    contexts : DataFrame
        ``layer, unit, rank, activation, context_mean, subset, mean, std`` (`contexts.top_contexts`).
    target : str
        A subset of the matching corpus, or a word to look for in the labels, in whatever case.
    least_share : float
        0 to 1.
    normalize : {"tokens", "peak", "zscore"}
        The paper says "mean normalized activation over its top-20 contexts" and no more. "tokens" takes the mean over
        all tokens of the contexts, as a function's score is a mean over its tokens, as a share of the neuron's highest
        activation; "peak" over the contexts' highest activations only, as the same share (both are undefined, and
        last, where it is not positive); "zscore" over those, less the neuron's mean, in its standard deviations.
    top : int

    Returns
    -------
    DataFrame
        The rows of `labels` with ``target_share, normalized_activation, qualifies``, and its attrs; ties by layer and unit.

    Raises
    ------
    ValueError
        On an unknown `normalize`, a `least_share` outside 0..1, or a neuron without contexts.
    """
    if not 0 <= least_share <= 1:
        raise ValueError(f"least_share is {least_share}; it must lie between 0 and 1")
    if normalize not in ("tokens", "peak", "zscore"):
        raise ValueError(f"normalize is {normalize!r}; allowed are 'tokens', 'peak' and 'zscore'")
    neuron = ["layer", "unit"]
    best = contexts[contexts["rank"] <= top]
    activation = best["activation"].astype("float64")
    if normalize == "zscore":
        normalized = (activation - best["mean"]) / best["std"].where(best["std"] > 0)
    else:
        peak = activation.groupby([best["layer"], best["unit"]]).transform("max")
        normalized = (best["context_mean"] if normalize == "tokens" else activation) / peak.where(peak > 0)
    is_target = best["subset"] == target
    by_context = best[neuron].assign(target_share=is_target, normalized_activation=normalized)
    means = by_context.groupby(neuron, as_index=False).mean()
    ranked = labels.merge(means, on=neuron, how="left", validate="one_to_one")
    without = ranked[ranked["target_share"].isna()]
    if len(without):
        raise ValueError(f"L{without['layer'].iloc[0]}/U{without['unit'].iloc[0]} has a label but no contexts")
    if is_target.any():
        named = ranked["subset"] == target
    else:
        named = ranked["summary"].str.contains(rf"(?<!\w){re.escape(target)}(?!\w)", case=False, regex=True)
        ranked["target_share"] = ranked["share"].where(named, 0.0)
    ranked["qualifies"] = named & (ranked["target_share"] >= least_share)
    ranked["order"] = ranked["normalized_activation"].where(ranked["qualifies"], ranked["target_share"])
    ascending = {"qualifies": False, "order": False, "layer": True, "unit": True}
    ranked = ranked.sort_values(list(ascending), ascending=list(ascending.values()), ignore_index=True)
    ranked = ranked.drop(columns="order")
    ranked.attrs = dict(labels.attrs)
    return ranked


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
    context = context or reader.model.config.max_position_embeddings
    means = [np.empty((0, len(columns)), dtype=np.float32)]
    read = 0
    progress = tqdm(texts, desc=f"functions read by {reader.name}", unit="", leave=False)
    for together in batched(progress, SORTED_BATCHES * sequences_per_batch):
        documents = [Document(text, "", "", str(i)) for i, text in enumerate(together)]
        by_length = sorted(windows(documents, reader.tokenizer, context), key=lambda window: len(window.ids))
        sums, tokens = torch.zeros(len(together), len(columns), device=reader.device), np.zeros(len(together))
        for window, acts in read_pieces(reader, by_length, sequences_per_batch):
            sums[int(window.document.source)] += acts[:, columns].float().sum(0)
            tokens[int(window.document.source)] += len(window.ids)
        if not tokens.all():
            raise ValueError(f"text {read + int(tokens.argmin())} has no tokens; a mean over none is undefined")
        means.append((sums.cpu().numpy() / tokens[:, None]).astype(np.float32))
        read += len(together)
    return np.concatenate(means)


def _columns(reader: Reader, neurons: Sequence[tuple[int, int]]) -> list[int]:
    """Neurons numbered through all layers."""
    layers = reader.layers
    for layer, unit in neurons:
        if not (0 <= layer < len(layers) and 0 <= unit < layers[layer]):
            raise ValueError(f"{reader.name} has no neuron L{layer}/U{unit}; it has {len(layers)} layers of {layers}")
    return [sum(layers[:layer]) + unit for layer, unit in neurons]


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
    tokens = TfidfVectorizer(analyzer=lambda text: next(token_ids(tokenizer, [text])), sublinear_tf=True)
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
    score = partial(metrics.precision_recall_fscore_support, is_target, chosen, average="binary", zero_division=0)
    of_functions, of_tokens = score(), score(sample_weight=_array(n_tokens))
    return Recovery(*map(float, (*of_functions[:3], *of_tokens[:3])))


def f1_interval(selected: Sequence[int], is_target: Sequence[bool]) -> Interval:
    """F1 over functions with its 95% interval: what other functions, drawn alike, could have given.

    F1 = 2 J / (1 + J), and J is a share: of the functions that are selected or the target's, those that are both. Its
    interval is Wilson's. The selection's threshold on the scores is taken as given, and of several filters each is taken
    for itself: that one of them was picked for its F1 is not in the interval.

    Parameters
    ----------
    selected : int [k]
        Indices into the pool.
    is_target : bool [n]
    """
    target = set(np.flatnonzero(np.asarray(is_target, dtype=bool)).tolist())
    chosen = set(np.asarray(selected, dtype=np.int64).tolist())
    return Interval(*(2 * j / (1 + j) for j in wilson(len(target & chosen), len(target | chosen))))


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
