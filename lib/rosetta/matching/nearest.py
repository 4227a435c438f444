"""Nearest neighbours of all neurons from all their correlations, tile by tile."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from rosetta.matching.correlation import PearsonAccumulator, tiles


class Neighbours(NamedTuple):
    """The k nearest neighbours of n neurons, each [n, k]: nearest first, of equals the one with the lower index.

    A place that no neighbour takes has value -inf and index -1.
    """

    values: np.ndarray
    indices: np.ndarray


def exact_neighbours(batches, k, layers, memory_bytes, device, kept=None) -> list[tuple[Neighbours, Neighbours, dict]]:
    """Nearest neighbours of every row and column, tile by tile; where some positions are kept, first over those."""
    batches, n_a, n_b = widths(batches, layers)
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


def widths(batches, layers) -> tuple:
    """The batches, and how many neurons each side has: by the layers, or else by the first batch.

    Raises
    ------
    ValueError
        If there are none.
    """
    if layers:
        n_a, n_b = map(sum, layers)
    else:  # the first batch tells; a generator would lose it
        batches = list(batches) if iter(batches) is batches else batches
        n_a, n_b = next(((a.shape[1], b.shape[1]) for a, b in batches), (0, 0))
    if not n_a or not n_b:
        raise ValueError("there is nothing to match: no batches, or a model without neurons")
    return batches, n_a, n_b


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
        of_rows, of_columns = neighbours(sums.correlation(), self.k)
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


def neighbours(corr: torch.Tensor, k: int) -> tuple[Neighbours, Neighbours]:
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


def mutual_pairs(of_rows: Neighbours, of_columns: Neighbours) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
