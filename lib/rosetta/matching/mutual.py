"""Mutual nearest neighbours between two models' neurons (section 3.3), and what is kept of them: the MatchTable.

A MatchTable is a DataFrame with the columns of `COLUMNS`, ranks from 1, sorted by falling correlation. Its ``attrs``
say how many positions and neurons it was made from and how many neurons of each side were dead.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from rosetta.matching.correlation import PearsonAccumulator, tiles

COLUMNS = ["model_a", "layer_a", "unit_a", "model_b", "layer_b", "unit_b", "correlation", "rank_a", "rank_b"]
MEMORY_BYTES = 4 * 2**30


class Neighbours(NamedTuple):
    """The k nearest neighbours of n neurons, each [n, k]: nearest first, of equals the one with the lower index.

    A place that no neighbour takes has value -inf and index -1.
    """

    values: np.ndarray
    indices: np.ndarray


def mutual_nearest(corr: torch.Tensor, k: int = 1) -> torch.Tensor:
    """Pairs (u, v) with v among the k neurons of B most similar to u, and u among the k of A most similar to v.

    Parameters
    ----------
    corr : [n_a, n_b]
        Similarities; NaN (a dead neuron) never matches.
    k : int

    Returns
    -------
    int64 [pairs, 2]
        Sorted by u, then v. Of equal similarities the lower index is the nearer neighbour.

    Raises
    ------
    ValueError
        If k < 1 or corr is not a table.
    """
    if not isinstance(corr, torch.Tensor) or corr.ndim != 2 or corr.is_complex():
        shape = f"{type(corr).__name__} of shape {tuple(getattr(corr, 'shape', ()))}"
        raise ValueError(f"corr is a {shape}; expected a real torch.Tensor [n_a, n_b]")
    check_k(k)
    pairs, _, _ = _mutual(*_neighbours(corr, k))
    return torch.from_numpy(pairs)


def check_k(k: int) -> None:
    """ValueError unless k is a whole number of at least 1."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k is {k!r}; it must be a whole number of at least 1")


def match_batches(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    k: int = 1,
    method: str = "exact",
    *,
    names: tuple[str, str] | None = None,
    layers: tuple[Sequence[int], Sequence[int]] | None = None,
    memory_bytes: int = MEMORY_BYTES,
    device: str | torch.device = "cpu",
    **sketch_options,
) -> pd.DataFrame:
    """Match two models' neurons over batches of aligned activations.

    Parameters
    ----------
    batches : iterable of (A [T, n_a], B [T, n_b])
        Read once if the table of correlations fits the memory given, otherwise once for each tile.
    k : int
        Mutual top-k (3.3).
    method : {"exact", "sketch"}
        All correlations, or screening by sketches and exact correlations of the candidates (`sketch`).
    names : (str, str), optional
        Names of the models; by default those the batches carry.
    layers : (sequence of int, sequence of int), optional
        Neurons of each layer; by default what the batches carry, or else one layer.
    memory_bytes : int
        For the accumulators.
    device : str or torch.device
        Where the correlations are computed.

    Returns
    -------
    MatchTable

    Raises
    ------
    ValueError
        On an unknown method, options that it does not have, no batches, names or layers that are no two, or batches that
        cannot be read a second time when tiles ask for it.
    """
    names, layers = _names_and_layers(batches, k, names, layers)
    if method == "exact" and sketch_options:
        raise ValueError(f"{', '.join(sketch_options)} are options of method 'sketch', and method is 'exact'")
    if method == "sketch":
        from rosetta.matching.sketch import screen_and_verify

        rows, columns, facts = screen_and_verify(batches, k, device=device, **sketch_options)
        rows, columns = Neighbours(*rows), Neighbours(*columns)
    elif method == "exact":
        ((rows, columns, facts),) = _exact(batches, k, layers, memory_bytes, device)
    else:
        raise ValueError(f"method is {method!r}; allowed are 'exact' and 'sketch'")
    return match_table(rows, columns, names, layers or ([len(rows.values)], [len(columns.values)]), facts)


def match_thinned(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    kept: np.ndarray,
    k: int = 1,
    *,
    names: tuple[str, str] | None = None,
    layers: tuple[Sequence[int], Sequence[int]] | None = None,
    memory_bytes: int = MEMORY_BYTES,
    device: str | torch.device = "cpu",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Match two models' neurons over all positions, and over some of them, for the price of one.

    The sums over the positions that are kept and over the others are taken apart, and joined for those over all.

    Parameters
    ----------
    batches, k, names, layers, memory_bytes, device
        As for `match_batches`.
    kept : bool [positions]
        For all batches together, in their order; what `positions.thinning` gives.

    Returns
    -------
    (MatchTable, MatchTable)
        Over all positions, and over those that are kept.

    Raises
    ------
    ValueError
        As `match_batches`, or if `kept` is not one for each position.
    """
    names, layers = _names_and_layers(batches, k, names, layers)
    of_kept, of_all = _exact(batches, k, layers, memory_bytes, device, kept)
    return tuple(
        match_table(rows, columns, names, layers or ([len(rows.values)], [len(columns.values)]), facts)
        for rows, columns, facts in (of_all, of_kept)
    )


def _names_and_layers(batches, k, names, layers) -> tuple:
    """Those given, or else what the batches carry; ValueError if they or k cannot be."""
    check_k(k)
    names = names or getattr(batches, "names", ("a", "b"))
    layers = layers or getattr(batches, "layers", None)
    if len(names) != 2 or not all(isinstance(name, str) for name in names):
        raise ValueError(f"names is {names!r}; it must be the names of the two models")
    if layers and (len(layers) != 2 or not all(size >= 1 for of_model in layers for size in of_model)):
        raise ValueError(f"layers is {layers!r}; it must be two lists of neurons a layer, each at least 1")
    return names, layers


def _exact(batches, k, layers, memory_bytes, device, kept=None) -> list[tuple[Neighbours, Neighbours, dict]]:
    """Nearest neighbours of every row and column, tile by tile; where some positions are kept, first over those."""
    if layers:
        n_a, n_b = map(sum, layers)
    else:  # the first batch tells; a generator would lose it
        batches = list(batches) if iter(batches) is batches else batches
        n_a, n_b = next(((a.shape[1], b.shape[1]) for a, b in batches), (0, 0))
    if not n_a or not n_b:
        raise ValueError("there is nothing to match: no batches, or a model without neurons")
    plan = list(tiles(n_a, n_b, memory_bytes, tables=4 if kept is None else 5))
    if len(plan) > 1 and iter(batches) is batches:
        again = "these batches can be read only once; pass a list or AlignedBatches"
        raise ValueError(f"{len(plan)} tiles need as many passes, but {again}")
    nearest = [_Nearest(n_a, n_b, k) for _ in range(1 if kept is None else 2)]
    for i, j in plan:
        of_tile = ((a[:, i], b[:, j]) for a, b in _checked(batches, n_a, n_b))
        sums = _sums(of_tile, i.stop - i.start, j.stop - j.start, device, kept)
        for one, accumulator in zip(nearest, sums, strict=True):
            one.add(i, j, accumulator)
    return [(one.of_rows, one.of_columns, one.facts()) for one in nearest]


def _checked(batches, n_a: int, n_b: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for a, b in batches:
        if (a.shape[-1], b.shape[-1]) != (n_a, n_b):  # a tile's slice would hide it
            raise ValueError(f"a is {tuple(a.shape)} and b is {tuple(b.shape)}; expected {n_a} and {n_b} neurons")
        yield a, b


def _sums(batches, n_a: int, n_b: int, device, kept: np.ndarray | None) -> Iterator[PearsonAccumulator]:
    """The sums over the positions that are kept, if some are, and then those over all."""
    sums = PearsonAccumulator(n_a, n_b, device)
    if kept is None:
        for a, b in batches:
            sums.update(a, b)
        yield sums
        return
    others, start = PearsonAccumulator(n_a, n_b, device), 0
    for a, b in batches:
        mask = torch.from_numpy(kept[start : start + len(a)])
        start += len(a)
        if len(mask) == len(a):
            sums.update(a[mask], b[mask])
            others.update(a[~mask], b[~mask])
    if start != len(kept):
        raise ValueError(f"kept is for {len(kept)} positions; the batches hold {start}")
    yield sums
    sums.join(others)
    yield sums


class _Nearest:
    """The nearest neighbours of all rows and columns of a table that comes tile by tile."""

    def __init__(self, n_a: int, n_b: int, k: int):
        self.k, self.positions = k, 0
        self.of_rows, self.of_columns = _nobody(n_a, min(k, n_b)), _nobody(n_b, min(k, n_a))
        self.dead_a, self.dead_b = np.zeros(n_a, bool), np.zeros(n_b, bool)

    def add(self, i: slice, j: slice, sums: PearsonAccumulator) -> None:
        self.positions = sums.positions
        if self.positions < 2:
            raise ValueError(f"a correlation needs at least 2 positions; these batches hold {self.positions}")
        self.dead_a[i], self.dead_b[j] = (~sums.a.changed).cpu().numpy(), (~sums.b.changed).cpu().numpy()
        of_rows, of_columns = _neighbours(sums.correlation(), self.k)
        _merge(self.of_rows, i, of_rows, j)
        _merge(self.of_columns, j, of_columns, i)

    def facts(self) -> dict:
        return {"positions": self.positions, "dead_a": int(self.dead_a.sum()), "dead_b": int(self.dead_b.sum())}


def _nobody(n: int, k: int) -> Neighbours:
    return Neighbours(np.full((n, k), -np.inf, dtype=np.float32), np.full((n, k), -1, dtype=np.int64))


def _merge(best: Neighbours, neurons: slice, of_tile: Neighbours, others: slice) -> None:
    """Put the neighbours that some neurons have in a tile among the best so far; the tile holds these others only."""
    indices = np.where(of_tile.indices < 0, -1, of_tile.indices + others.start)
    values = np.concatenate([best.values[neurons], of_tile.values], axis=1)
    indices = np.concatenate([best.indices[neurons], indices], axis=1)
    order = np.lexsort((indices, -values), axis=1)[:, : best.values.shape[1]]
    best.values[neurons] = np.take_along_axis(values, order, axis=1)
    best.indices[neurons] = np.take_along_axis(indices, order, axis=1)


def _neighbours(corr: torch.Tensor, k: int) -> tuple[Neighbours, Neighbours]:
    """Of the rows of `corr`, and of its columns."""
    corr = torch.nan_to_num(corr, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return _nearest(corr, k, dim=1), _nearest(corr, k, dim=0)


def _nearest(corr: torch.Tensor, k: int, dim: int) -> Neighbours:
    """The k largest entries along a dimension: the largest, then the largest of those that are left, and so on."""
    k = min(k, corr.shape[dim])  # nobody has more neighbours than there are
    left = corr.clone() if k > 1 else corr
    values = torch.full((k, corr.shape[1 - dim]), -torch.inf, dtype=corr.dtype, device=corr.device)
    indices = torch.full(values.shape, -1, dtype=torch.int64, device=corr.device)
    for rank in range(k):
        largest, index = left.max(dim)  # the first of equal ones
        values[rank] = largest
        indices[rank] = torch.where(largest == -torch.inf, -1, index)
        if rank + 1 < k:
            left.scatter_(dim, index.unsqueeze(dim), -torch.inf)
    return Neighbours(values.T.cpu().numpy(), indices.T.cpu().numpy())


def _mutual(of_rows: Neighbours, of_columns: Neighbours) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(pairs [p, 2], rank_a [p], rank_b [p]) of neurons that are each other's neighbours; sorted by row, then column."""
    n_columns = len(of_columns.indices)
    u, rank_a = np.nonzero(of_rows.indices >= 0)
    v, rank_b = np.nonzero(of_columns.indices >= 0)
    # A pair's place in the table of correlations: those in both lists are mutual.
    places_a = u * n_columns + of_rows.indices[u, rank_a]
    places_b = of_columns.indices[v, rank_b] * n_columns + v
    places, at_a, at_b = np.intersect1d(places_a, places_b, assume_unique=True, return_indices=True)
    pairs = np.stack(np.divmod(places, n_columns), axis=1).astype(np.int64)
    return pairs, rank_a[at_a] + 1, rank_b[at_b] + 1


def match_table(of_rows: Neighbours, of_columns: Neighbours, names, layers, facts: dict) -> pd.DataFrame:
    """The MatchTable of both models' neighbours."""
    pairs, rank_a, rank_b = _mutual(of_rows, of_columns)
    values = of_rows.values[pairs[:, 0], rank_a - 1]
    layer_a, unit_a = locate(pairs[:, 0], layers[0])
    layer_b, unit_b = locate(pairs[:, 1], layers[1])
    table = pd.DataFrame({
        "model_a": names[0], "layer_a": layer_a, "unit_a": unit_a,
        "model_b": names[1], "layer_b": layer_b, "unit_b": unit_b,
        "correlation": values.astype(np.float32), "rank_a": rank_a, "rank_b": rank_b,
    })[COLUMNS]  # fmt: skip
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -values))
    table = table.iloc[order].reset_index(drop=True)
    table.attrs = {"neurons_a": int(sum(layers[0])), "neurons_b": int(sum(layers[1])), **facts}
    return table


def locate(neurons: np.ndarray, layers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(layer, unit) of neurons numbered through all layers."""
    ends = np.cumsum(layers)
    layer = np.searchsorted(ends, neurons, side="right")
    return layer, neurons - (ends - np.asarray(layers))[layer]


def top_k(table: pd.DataFrame, k: int) -> pd.DataFrame:
    """The part of a MatchTable, made with a larger k, that mutual top-k would have found."""
    part = table[(table.rank_a <= k) & (table.rank_b <= k)].reset_index(drop=True)
    part.attrs = dict(table.attrs)
    return part


def matched_neurons(table: pd.DataFrame, model: str) -> pd.MultiIndex:
    """The (layer, unit) of one model's neurons that a table matches.

    Raises
    ------
    ValueError
        If the table is not about that model.
    """
    for side in "ab":
        if not len(table) or (table[f"model_{side}"] == model).any():
            neurons = table[[f"layer_{side}", f"unit_{side}"]].drop_duplicates()
            return pd.MultiIndex.from_frame(neurons, names=["layer", "unit"])
    raise ValueError(f"model {model!r} is not in this table; it has {table.model_a[0]!r} and {table.model_b[0]!r}")


def collapse(tables: Sequence[pd.DataFrame], anchor: str) -> pd.DataFrame:
    """The anchor's neurons that are matched in every table (section 4.1, the collapsed curves).

    Parameters
    ----------
    tables : sequence of MatchTable
    anchor : str
        The model that all the tables share.

    Returns
    -------
    DataFrame
        ``model, layer, unit``, sorted.
    """
    if not tables:
        raise ValueError("there are no tables to collapse")
    shared = matched_neurons(tables[0], anchor)
    for table in tables[1:]:
        shared = shared.intersection(matched_neurons(table, anchor))
    frame = shared.to_frame(index=False).astype("int64").sort_values(["layer", "unit"], ignore_index=True)
    frame.insert(0, "model", anchor)
    return frame
