"""Nearest neighbours of all neurons from all their correlations, tile by tile."""

from collections.abc import Generator, Iterator
from typing import NamedTuple

import numpy as np
import torch

from rosetta.matching.correlation import PearsonAccumulator, named, part_of, tiles
from rosetta.matching.rounds import Round


class Neighbours(NamedTuple):
    """The k nearest neighbours of n neurons, each [n, k]: nearest first, of equals the one with the lower index.

    A place that no neighbour takes has value -inf and index -1.
    """

    values: np.ndarray
    indices: np.ndarray


class Table(Round):
    """Sums for all correlations of a tile of the table; of twins, for those over the positions that are kept, too.

    Parameters
    ----------
    n_a, n_b : int
        Neurons of the two models.
    rows, columns : slice
        The tile.
    device : str or torch.device
    products : torch.dtype
        As for `PearsonAccumulator`.
    twin : bool
        Whether sums over the positions that are kept are held apart from those over the others.
    """

    def __init__(self, n_a, n_b, rows: slice, columns: slice, device, products=torch.float32, twin: bool = False):
        super().__init__(n_a, n_b)
        self.rows, self.columns = rows, columns
        size = rows.stop - rows.start, columns.stop - columns.start
        self.parts = [PearsonAccumulator(*size, device, products) for _ in range(1 + twin)]

    def empty(self):
        sums = self.parts[0]
        twin = len(self.parts) > 1
        return Table(self.n_a, self.n_b, self.rows, self.columns, sums.cross.device, sums.products, twin)

    def add(self, a, b, keys, kept):
        a, b = a[:, self.rows], b[:, self.columns]
        if len(self.parts) == 1:
            self.parts[0].update(a, b)
            return
        mask = torch.from_numpy(kept)
        for sums, some in zip(self.parts, (mask, ~mask), strict=True):
            sums.update(a[some.to(a.device)], b[some.to(b.device)])

    def merge(self, other):
        for mine, others in zip(self.parts, other.parts, strict=True):
            mine.join(others)

    def tensors(self):
        held = named({str(i): sums.tensors() for i, sums in enumerate(self.parts) if sums.positions})
        return held | {"positions": torch.tensor([sums.positions for sums in self.parts])}

    def take(self, tensors):
        for i, (sums, positions) in enumerate(zip(self.parts, tensors["positions"].tolist(), strict=True)):
            if positions:
                sums.take(part_of(tensors, str(i)), positions)

    def parameters(self):
        tile = [self.rows.start, self.rows.stop, self.columns.start, self.columns.stop]
        return {"round": "table", "n_a": self.n_a, "n_b": self.n_b, "tile": tile, "twin": len(self.parts) > 1,
                "products": str(self.parts[0].products)}  # fmt: skip

    def whole_and_part(self) -> Iterator[tuple[int, PearsonAccumulator]]:
        """(1, sums over the positions that are kept), of twins, then (0, sums over all). The sums are used up."""
        if len(self.parts) == 2:
            yield 1, self.parts[0]
            self.parts[0].join(self.parts.pop())
        yield 0, self.parts[0]


def exact(
    n_a: int, n_b: int, k: int, memory_bytes: int, device, twin: bool = False
) -> Generator[Round, Round, list[tuple[Neighbours, Neighbours, dict]]]:
    """Nearest neighbours of every row and column of the table, tile by tile: a generator of rounds (`rounds`).

    Returns
    -------
    list of (Neighbours, Neighbours, dict)
        Of A's neurons, of B's, and facts; over all positions and, of twins, over those that are kept.
    """
    nearest = [_Nearest(n_a, n_b, k) for _ in range(1 + twin)]
    for i, j in tiles(n_a, n_b, memory_bytes, tables=5 if twin else 4):
        table = yield Table(n_a, n_b, i, j, device, twin=twin)
        for which, sums in table.whole_and_part():
            nearest[which].add(i, j, sums)
            nearest[which].readings += 1
        del table, sums
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


class _Nearest:
    """The nearest neighbours of all rows and columns of a table that comes tile by tile."""

    def __init__(self, n_a: int, n_b: int, k: int):
        self.k, self.positions, self.readings = k, 0, 0
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
        dead = {"dead_a": int(self.dead_a.sum()), "dead_b": int(self.dead_b.sum())}
        return {"method": "exact", "positions": self.positions, "readings": self.readings, **dead}


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
