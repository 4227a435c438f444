"""How selective a neuron is: by what it writes to the vocabulary (5.1, E.1).

A neuron's output weight points somewhere in the residual stream; its cosine with every token's unembedding vector says
which tokens it promotes. If a few stand out, the distribution of cosines has heavy tails: excess kurtosis.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats

from rosetta.models.mlps import find_mlps

#: Bytes of one block of cosines; the table of all neurons and tokens never exists.
BLOCK_BYTES = 4 * 2**20


def vocab_excess_kurtosis(
    w_out: torch.Tensor, w_u: torch.Tensor, block_bytes: int = BLOCK_BYTES, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """Excess kurtosis over the vocabulary of s_v = cos(w_out, w_u[v]), for each neuron (5.1).

    The unembedding vectors are made of unit length and centred once, so that each product is already a deviation from
    the neuron's mean cosine; then only sums of squares and of fourth powers are needed, block by block. It is the biased
    estimate m4 / m2^2 - 3, scipy's default.

    Parameters
    ----------
    w_out : [N, d]
        Output weights, a row a neuron.
    w_u : [V, d]
        Unembedding vectors, as `unembedding` gives them. One of length zero has no direction and is left out.
    block_bytes : int
        Memory for one block of cosines.
    dtype : torch.dtype
        Of the cosines and sums; float64 agrees with scipy in float64.

    Returns
    -------
    [N], of `dtype`
        NaN for a neuron whose weight is zero, and where all cosines are equal.

    Raises
    ------
    ValueError
        If the shapes do not fit, or there is no token.
    """
    if w_out.ndim != 2 or w_u.ndim != 2 or w_out.shape[1] != w_u.shape[1]:
        raise ValueError(f"w_out is {tuple(w_out.shape)} and w_u is {tuple(w_u.shape)}; expected [N, d] and [V, d]")
    tokens = w_u.to(dtype, copy=True)
    length = tokens.norm(dim=1, keepdim=True)
    if not (length > 0).all():
        tokens, length = tokens[length[:, 0] > 0], length[length > 0][:, None]
    if not len(tokens):
        raise ValueError("there is no token: the unembedding has no row that is not zero")
    tokens /= length
    tokens -= tokens.mean(0)
    columns = min(len(tokens), 4096)  # a block that stays in the processor's cache
    rows = min(max(1, len(w_out)), max(1, block_bytes // (columns * tokens.element_size())))
    # One block for all: allocated anew each time they would leave holes that the process never gives back.
    block, kurtosis = tokens.new_empty(rows, columns), tokens.new_empty(len(w_out))
    for start in range(0, len(w_out), rows):
        kurtosis[start : start + rows] = _kurtosis(w_out[start : start + rows].to(tokens), tokens, block)
    return kurtosis


def _kurtosis(w_out: torch.Tensor, centred: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    # The neuron's length cancels from the ratio; dividing by it keeps the powers within range.
    w_out = w_out / w_out.norm(dim=1, keepdim=True)
    second, fourth = torch.zeros_like(w_out[:, 0]), torch.zeros_like(w_out[:, 0])
    for rows in centred.split(block.shape[1]):
        squares = torch.mm(w_out, rows.T, out=block[: len(w_out), : len(rows)]).square_()
        second += squares.sum(1)
        fourth += squares.square_().sum(1)
    # Equal cosines leave only the rounding of their mean.
    spread = second > len(centred) * (8 * torch.finfo(second.dtype).eps) ** 2
    return torch.where(spread, len(centred) * fourth / second.square() - 3, torch.nan)


def output_weights(model: torch.nn.Module) -> torch.Tensor:
    """W_out of every MLP neuron of a language model, layer after layer: [N, d], where the unembedding reads.

    Raises
    ------
    ValueError
        If the model has no unembedding, or one of another width without a projection in front of it.
    """
    weights = [
        # A linear layer keeps [d, m], GPT-2's Conv1D [m, d].
        mlp.projection.weight.T if isinstance(mlp.projection, torch.nn.Linear) else mlp.projection.weight
        for mlp in find_mlps(model)
    ]
    together = torch.cat([w.detach() for w in weights])
    width = unembedding(model).shape[1]
    if together.shape[1] == width:
        return together
    # Some OPT models compute at one width and read at another, with a linear layer between.
    between = [
        module
        for name, module in model.named_modules()
        if name.endswith("project_out") and getattr(module, "in_features", 0) == together.shape[1]
    ]
    if len(between) != 1 or between[0].out_features != width:
        widths = f"neurons write {together.shape[1]} numbers and the unembedding reads {width}"
        raise ValueError(f"{type(model).__name__}: {widths}; no projection between them was found")
    return together @ between[0].weight.detach().T


def unembedding(model: torch.nn.Module, fold_gain: bool = False) -> torch.Tensor:
    """W_U of a language model, tied to its embedding or not: [V, d].

    Every row of the matrix counts as a token, special tokens and rows that its tokenizer never uses included.

    Parameters
    ----------
    model : torch.nn.Module
    fold_gain : bool
        Multiply each column by the gain of the norm in front of it, so that the vectors are those that the residual
        stream meets. The paper speaks of W_U[v] and of no norm (5.1), hence not by default.

    Raises
    ------
    ValueError
        If the model has none; or, with `fold_gain`, if it is not clear which norm stands in front of it.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is None:
        raise ValueError(f"{type(model).__name__} has no unembedding; load it as a causal language model")
    weight = head.weight.detach()
    return weight * _final_gain(model, weight) if fold_gain else weight


def _final_gain(model: torch.nn.Module, w_u: torch.Tensor) -> torch.Tensor:
    """The gain of the norm between the last block and the unembedding: [d]; ones where there is no such norm."""
    blocks = tuple(f"{mlp.block}." for mlp in find_mlps(model))
    norms = {
        name: module
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower() and not name.startswith(blocks) and "emb" not in name
    }
    ones = torch.ones_like(w_u[0])
    if not norms:
        return ones
    norm, *others = norms.values()
    if others or norm.weight.shape != ones.shape:
        found = f"the norms outside its blocks are {', '.join(norms)}"
        raise ValueError(f"{type(model).__name__}: {found}; expected is one, of width {len(ones)}")
    # Not its weight as it stands: some norms add 1 to it. Signs have variance 1, and these have mean 0.
    signs = ones.clone()
    signs[1::2] = -1
    return ((norm(signs) - norm(-signs)) / 2 * signs).detach()


def cosines(w_out: torch.Tensor, w_u: torch.Tensor) -> torch.Tensor:
    """s_v = cos(w_out, w_u[v]) of some neurons with all tokens: [N, V]; for few neurons, since nothing is cut in blocks."""
    return torch.nn.functional.normalize(w_out, dim=1) @ torch.nn.functional.normalize(w_u, dim=1).T


def promoted_tokens(w_out: torch.Tensor, w_u: torch.Tensor, n: int = 10) -> torch.Tensor:
    """The n tokens whose unembedding vectors lie closest to each neuron's output weight: int64 [N, n], nearest first."""
    rows = max(1, BLOCK_BYTES // (w_u.element_size() * len(w_u)))
    return torch.cat([cosines(part, w_u).topk(min(n, len(w_u)), dim=1).indices for part in w_out.split(rows)])


class Selectivity(NamedTuple):
    """The kurtosis of one population of neurons: mean with 95% interval, median, and the shares above fixed values."""

    neurons: int
    mean: float
    low: float
    high: float
    median: float
    shares: dict[float, float]


def describe(kurtosis: np.ndarray, above=(), resamples: int = 1_000, seed: int = 0) -> Selectivity:
    """Summarize a population; the interval is a percentile bootstrap of the mean (scipy).

    Parameters
    ----------
    kurtosis : [neurons]
        NaN (a neuron without direction) is left out.
    above : sequence of float
        Thresholds whose shares are wanted.
    resamples, seed : int
        Of the bootstrap. The interval of fewer than two neurons is NaN.
    """
    values = np.asarray(kurtosis, dtype=float)
    values = values[~np.isnan(values)]
    low = high = np.nan
    if len(values) > 1:
        batch = max(1, 4_000_000 // len(values))  # resampled values held at once
        resampled = stats.bootstrap(
            (values,), np.mean, n_resamples=resamples, method="percentile", batch=batch, rng=np.random.default_rng(seed)
        )
        low, high = resampled.confidence_interval
    mean, median = (float(f(values)) if len(values) else np.nan for f in (np.mean, np.median))
    shares = {float(t): float((values > t).mean()) if len(values) else np.nan for t in above}
    return Selectivity(len(values), mean, float(low), float(high), median, shares)


class Gap(NamedTuple):
    """A difference with its 95% interval."""

    gap: float
    low: float
    high: float


def kurtosis_gap(
    rosetta: Sequence[np.ndarray], others: Sequence[np.ndarray], resamples: int = 1_000, seed: int = 0
) -> Gap:
    """Mean kurtosis of Rosetta Neurons less that of the others, within strata (layers, say, or one for all).

    The strata's differences are averaged with the number of their Rosetta Neurons as weights, so that where one
    population lies cannot make a gap. The interval is a percentile bootstrap over neurons, within strata (scipy).

    Parameters
    ----------
    rosetta, others : sequence of [neurons]
        One array a stratum. NaN is left out, and a stratum in which either population is empty.
    resamples, seed : int

    Returns
    -------
    Gap
        NaN where no stratum holds both populations.
    """
    pairs = [(a[~np.isnan(a)], b[~np.isnan(b)]) for a, b in zip(rosetta, others, strict=True)]
    pairs = [(a, b) for a, b in pairs if len(a) and len(b)]
    return _bootstrapped([+1], [pairs], resamples, seed)


def gap_change(
    smallest: tuple[np.ndarray, np.ndarray],
    largest: tuple[np.ndarray, np.ndarray],
    resamples: int = 1_000,
    seed: int = 0,
) -> Gap:
    """How much wider the gap is at the largest size than at the smallest, each given as (rosetta, others)."""
    pairs = [[tuple(side[~np.isnan(side)] for side in size)] for size in (smallest, largest)]
    return _bootstrapped([-1, +1], pairs, resamples, seed)


def _bootstrapped(signs: list[int], sizes: list[list[tuple]], resamples: int, seed: int) -> Gap:
    """The signed sum over sizes of their weighted mean differences, with its interval."""
    if not all(sizes):
        return Gap(np.nan, np.nan, np.nan)
    weights = [
        (sign * len(a) / sum(len(other) for other, _ in pairs))
        for sign, pairs in zip(signs, sizes, strict=True)
        for a, _ in pairs
    ]
    samples = [side for pairs in sizes for pair in pairs for side in pair]

    def statistic(*sides, axis=-1):
        means = [side.mean(axis=axis) for side in sides]
        return sum(weight * (means[2 * i] - means[2 * i + 1]) for i, weight in enumerate(weights))

    gap = float(statistic(*samples))
    if min(map(len, samples)) < 2:  # scipy resamples no single observation
        return Gap(gap, np.nan, np.nan)
    batch = max(1, 4_000_000 // max(map(len, samples)))
    interval = stats.bootstrap(
        samples, statistic, n_resamples=resamples, method="percentile", batch=batch, rng=np.random.default_rng(seed)
    ).confidence_interval
    return Gap(gap, float(interval.low), float(interval.high))
