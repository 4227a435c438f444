"""How selective a neuron is: by what it writes to the vocabulary (5.1, E.1).

A neuron's output weight points somewhere in the residual stream; its cosine with every token's unembedding vector says
which tokens it promotes. If a few stand out, the distribution of cosines has heavy tails: excess kurtosis.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats

from rosetta.models.mlps import find_mlps

#: Bytes of one block of cosines; the table of all neurons and tokens never exists.
BLOCK_BYTES = 4 * 2**20


def vocab_excess_kurtosis(
    w_out: torch.Tensor | Iterable[torch.Tensor],
    w_u: torch.Tensor,
    block_bytes: int = BLOCK_BYTES,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """Excess kurtosis over the vocabulary of s_v = cos(w_out, w_u[v]), for each neuron (5.1).

    The unembedding vectors are made of unit length and centred once, so that each product is already a deviation from
    the neuron's mean cosine; then only sums of squares and of fourth powers are needed, block by block. It is the biased
    estimate m4 / m2^2 - 3, scipy's default.

    Parameters
    ----------
    w_out : [N, d], or an iterable of [n, d]
        Output weights, a row a neuron; together, or layer after layer as `weights_by_layer` gives them.
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
    if w_u.ndim != 2:
        raise ValueError(f"w_u is {tuple(w_u.shape)}; expected [V, d]")
    layers = [w_out] if isinstance(w_out, torch.Tensor) else w_out
    tokens = w_u.to(dtype, copy=True)
    length = tokens.norm(dim=1, keepdim=True)
    if not (length > 0).all():
        tokens, length = tokens[length[:, 0] > 0], length[length > 0][:, None]
    if not len(tokens):
        raise ValueError("there is no token: the unembedding has no row that is not zero")
    tokens /= length
    tokens -= tokens.mean(0)
    columns = min(len(tokens), 4096)  # a block that stays in the processor's cache
    rows = max(1, block_bytes // (columns * tokens.element_size()))
    block, parts = None, []
    for part in _cut(layers, rows, w_u):
        # One block for all: allocated anew each time they would leave holes that the process never gives back.
        block = tokens.new_empty(len(part), columns) if block is None else block
        parts.append(_kurtosis(part.to(tokens), tokens, block))
    return torch.cat(parts) if parts else tokens.new_empty(0)


def _cut(layers: Iterable[torch.Tensor], rows: int, w_u: torch.Tensor) -> Iterator[torch.Tensor]:
    """The rows of all layers, so many at a time: where a layer begins makes no difference, to the last bit.

    None has more rows than the first.
    """
    kept, held = [], 0
    for layer in layers:
        if layer.ndim != 2 or layer.shape[1] != w_u.shape[1]:
            raise ValueError(f"w_out is {tuple(layer.shape)} and w_u is {tuple(w_u.shape)}; expected [N, d] and [V, d]")
        layer, start = layer.to(w_u.device), 0
        while held + len(layer) - start >= rows:
            end = start + rows - held
            yield torch.cat([*kept, layer[start:end]])
            kept, held, start = [], 0, end
        if start < len(layer):
            kept.append(layer[start:])
            held += len(layer) - start
    if kept:
        yield torch.cat(kept)


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


def weights_by_layer(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """W_out of each MLP of a language model, one at a time: [n, d], where the unembedding reads.

    They are the model's own weights, in its precision and on its devices, not copies; where a projection stands between,
    products with it, in float32.

    Raises
    ------
    ValueError
        If the model has no unembedding, or one of another width without a projection in front of it.
    """
    width = unembedding(model).shape[1]
    for mlp in find_mlps(model):
        weight = mlp.projection.weight.detach()
        if isinstance(mlp.projection, torch.nn.Linear):  # it keeps [d, m], GPT-2's Conv1D [m, d]
            weight = weight.T
        if weight.shape[1] != width:
            weight = _float(weight) @ _between(model, weight.shape[1], width).to(weight.device)
        yield weight


def _between(model: torch.nn.Module, written: int, read: int) -> torch.Tensor:
    """Some OPT models compute at one width and read at another, with a linear layer between: [written, read]."""
    between = [
        module
        for name, module in model.named_modules()
        if name.endswith("project_out") and getattr(module, "in_features", 0) == written
    ]
    if len(between) != 1 or between[0].out_features != read:
        widths = f"neurons write {written} numbers and the unembedding reads {read}"
        raise ValueError(f"{type(model).__name__}: {widths}; no projection between them was found")
    return _float(between[0].weight.detach()).T


def _float(x: torch.Tensor) -> torch.Tensor:
    """As it is, or in float32 where that is better."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def output_weights(model: torch.nn.Module) -> torch.Tensor:
    """W_out of every MLP neuron of a language model as one table, layer after layer: [N, d].

    For models whose weights fit memory twice; `weights_by_layer` copies nothing, and raises the same errors.
    """
    return torch.cat(list(weights_by_layer(model)))


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
    return _float(weight) * _float(_final_gain(model, weight)) if fold_gain else weight


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
    return ((norm(signs) - norm(-signs)).to(signs.device) / 2 * signs).detach()


def cosines(w_out: torch.Tensor, w_u: torch.Tensor) -> torch.Tensor:
    """s_v = cos(w_out, w_u[v]) of some neurons with all tokens: [N, V], float32 or better.

    For few neurons, since nothing is cut in blocks.
    """
    w_out, w_u = _float(w_out).to(w_u.device), _float(w_u)
    return torch.nn.functional.normalize(w_out, dim=1) @ torch.nn.functional.normalize(w_u, dim=1).T


def promoted_tokens(w_out: torch.Tensor, w_u: torch.Tensor, n: int = 10) -> torch.Tensor:
    """The n tokens whose unembedding vectors lie closest to each neuron's output weight: int64 [N, n], nearest first."""
    w_u = _float(w_u)
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
