"""Which kinds of documents a population of neurons fires on, and at which depth it lies (5.2, E.2, E.3)."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from rosetta.matching.alignment import token_texts
from rosetta.matching.segments import Window

#: Share of the tokens of the paper's validation cache that each category holds (Table 4).
REPORTED_SHARES = {
    "code": 0.1195, "math": 0.0317, "formal/scientific": 0.4644, "general prose": 0.3430, "conversational": 0.0415,
}  # fmt: skip


def normalized_fire(top_categories: Sequence[str], token_share: dict[str, float]) -> dict[str, float]:
    """NormalizedFire of E.2: how often top activations fall in a category, over the category's share of the tokens.

    Parameters
    ----------
    top_categories : sequence of str
        The category of every top-activating context of every neuron.
    token_share : dict of str to float
        Category to its share of the corpus's tokens.

    Returns
    -------
    dict of str to float
        For each category of `token_share`; 1 is the corpus baseline.

    Raises
    ------
    ValueError
        If there are no contexts, a category has no tokens, or a context's category has no share.
    """
    if not len(top_categories):
        raise ValueError("there are no top activations to count")
    fired = Counter(top_categories)
    if without := [category for category, share in token_share.items() if not 0 < share < np.inf]:
        share = f"category {without[0]!r} has a token share of {token_share[without[0]]}"
        advice = "leave the category out, or take a corpus that holds it"
        raise ValueError(f"{share}; firing cannot be normalized by it: {advice}")
    if unknown := sorted(set(fired) - set(token_share)):
        there = ", ".join(token_share)
        raise ValueError(f"contexts of category {unknown[0]!r}, which has no token share; there are {there}")
    return {category: fired[category] / len(top_categories) / share for category, share in token_share.items()}


def token_counts(windows: Iterable[Window], tokenizer) -> pd.DataFrame:
    """How often each token occurs in each subset of a text.

    Returns
    -------
    DataFrame
        ``id, token, subset, category, count``, a row for each token and subset that occur together.
    """
    counts: dict[tuple[str, str], Counter] = {}
    for window in windows:
        counts.setdefault((window.document.subset, window.document.category), Counter()).update(window.ids)
    rows = [
        (token, subset, category, count)
        for (subset, category), of_subset in sorted(counts.items())
        for token, count in sorted(of_subset.items())
    ]
    table = pd.DataFrame(rows, columns=["id", "subset", "category", "count"])
    table.insert(1, "token", token_texts(tokenizer, table["id"]))
    return table


def token_share(counts: pd.DataFrame, by: str = "category") -> dict[str, float]:
    """Share of the tokens of each category (Table 4) or subset, from `token_counts`; the largest first."""
    total = counts.groupby(by, observed=True)["count"].sum().sort_values(ascending=False)
    return (total / total.sum()).to_dict()


def random_neurons(others: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """A random sample of n neurons that are not Rosetta Neurons: the control of E.2.

    Of fewer than 2 n neurons half are drawn, so that samples of different seeds differ.

    Parameters
    ----------
    others : DataFrame
        ``layer, unit``, a row a neuron.
    n, seed : int
    """
    return others.sample(min(n, len(others) // 2), random_state=seed)


def trends(table: pd.DataFrame, by: Sequence[str] = ("population", "category"), value: str = "mean") -> pd.DataFrame:
    """How something changes over a tenfold growth in neurons: least squares on log10 of the size, 95% intervals.

    Parameters
    ----------
    table : DataFrame
        ``neurons``, the columns of `by` and `value`; a row a model. By default as `properties.firing` gives it.
    by : sequence of str
        A line for each.
    value : str

    Returns
    -------
    DataFrame
        The columns of `by`, and ``slope, low, high``; without an interval for fewer than three sizes, and without a slope for one.
    """
    rows = []
    for key, group in table.dropna(subset=value).groupby(list(by), sort=False):
        x, line = np.log10(group["neurons"].to_numpy(float)), None
        if len(np.unique(x)) > 1:
            line = stats.linregress(x, group[value])
        slope, error = (line.slope, line.stderr) if line else (np.nan, np.nan)
        half = stats.t.ppf(0.975, len(x) - 2) * error if len(x) > 2 else np.nan
        rows.append((*key, slope, slope - half, slope + half))
    return pd.DataFrame(rows, columns=[*by, "slope", "low", "high"])


def depth_histogram(layers: Sequence[int], n_layers: int, bins: int = 12) -> np.ndarray:
    """Share of neurons in each bin of normalized depth l / (L - 1) (E.3, Figure 31).

    Parameters
    ----------
    layers : sequence of int
        The layer of each neuron, from 0.
    n_layers : int
        L, the model's. The only layer of a one-layer model has depth 0.
    bins : int
        Equal parts of [0, 1]; the last one includes 1.

    Returns
    -------
    float64 [bins]
        Sums to 1; all zero if there are no neurons.

    Raises
    ------
    ValueError
        If a layer is not one of the model's, or n_layers or bins is below 1.
    """
    layers = np.asarray(layers, dtype=np.int64)
    if n_layers < 1 or bins < 1:
        raise ValueError(f"n_layers is {n_layers} and bins is {bins}; each must be at least 1")
    if len(layers) and not (layers.min() >= 0 and layers.max() < n_layers):
        run = f"layers run from {layers.min()} to {layers.max()}"
        raise ValueError(f"{run}; the model has the layers 0 to {n_layers - 1}")
    # In whole numbers, so that a layer on an edge between two bins always belongs to the upper one.
    at = np.minimum(layers * bins // max(1, n_layers - 1), bins - 1)
    return np.bincount(at, minlength=bins) / max(1, len(layers))


def top_categories(contexts: pd.DataFrame, neurons: Iterable[tuple[int, int]] | pd.MultiIndex) -> pd.Series:
    """The categories of the top-activating contexts of some neurons, a row a context, activations above zero only."""
    index = pd.MultiIndex.from_frame(contexts[["layer", "unit"]])
    return contexts.loc[index.isin(neurons) & (contexts["activation"] > 0).to_numpy(), "category"]
