"""Exact correlations of a chosen part of the table: single pairs, and rectangles of rows and columns, in one reading."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from rosetta.matching.correlation import Moments, PearsonAccumulator, check_batch, tiles
from rosetta.matching.nearest import Neighbours, neighbours
from rosetta.matching.sketch import PairSketch, csr

#: Positions multiplied at a time for single pairs: they fit a cache, and float32 sums of so few are exact enough.
CHUNK = 256


class Rectangle(NamedTuple):
    """Neurons of A and of B (int64, ascending), and all pairs of them."""

    rows: np.ndarray
    columns: np.ndarray


class Known:
    """The exact correlations known so far: of these each neuron's nearest neighbours are taken."""

    def __init__(self, n_a: int, n_b: int, k: int):
        self.n, self.k = (n_a, n_b), k
        self.found: tuple[list, list] = ([], [])  # (neurons, others, correlations) of A's neurons, and of B's

    def add_pairs(self, u: np.ndarray, v: np.ndarray, r: np.ndarray) -> None:
        """Pairs (u, v) with their correlations."""
        r = r.astype(np.float32)
        self.found[0].append((u, v, r))
        self.found[1].append((v, u, r))

    def add_neighbours(self, rectangle: Rectangle, of_rows: Neighbours, of_columns: Neighbours) -> None:
        """The nearest neighbours within a rectangle."""
        for side, nearest in enumerate((of_rows, of_columns)):
            of, others = rectangle[side], rectangle[1 - side]
            row, rank = np.nonzero(nearest.indices >= 0)
            values = nearest.values[row, rank]
            self.found[side].append((of[row], others[nearest.indices[row, rank]], values))

    def best(self, side: int) -> Neighbours:
        """The k nearest neighbours known of the neurons of A (0) or B (1)."""
        n, n_others = self.n[side], self.n[1 - side]
        of, others, values = (np.concatenate(parts) for parts in zip(*self.found[side], strict=True))
        _, first = np.unique(of * n_others + others, return_index=True)  # what was known first stays
        of, others, values = of[first], others[first], values[first]
        order = np.lexsort((others, -values, of))
        of, others, values = of[order], others[order], values[order]
        rank = np.arange(len(of)) - np.searchsorted(of, of)
        top = rank < self.k
        shape = (n, min(self.k, n_others))
        best = Neighbours(np.full(shape, -np.inf, dtype=np.float32), np.full(shape, -1, dtype=np.int64))
        best.values[of[top], rank[top]] = values[top]
        best.indices[of[top], rank[top]] = others[top]
        return best


def with_equals(best: tuple[Neighbours, Neighbours], same: list[np.ndarray], k: int) -> tuple[Neighbours, Neighbours]:
    """The neighbours of all neurons, from those of the first of equals: `same` has the first for each."""
    if all((first == np.arange(len(first))).all() for first in same):
        return best
    known = Known(len(same[0]), len(same[1]), k)
    for side, nearest in enumerate(best):
        of, rank = np.nonzero(nearest.indices >= 0)
        others, values = nearest.indices[of, rank], nearest.values[of, rank]
        which, of = _all_equal(of, same[side])
        others, values = others[which], values[which]
        which, others = _all_equal(others, same[1 - side])
        known.found[side].append((of[which], others, values[which]))
    return known.best(0), known.best(1)


def _all_equal(firsts: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All neurons equal to some first ones: (place among these, neuron)."""
    order = np.argsort(same, kind="stable")
    start, stop = (np.searchsorted(same[order], firsts, side) for side in ("left", "right"))
    count = stop - start
    which = np.repeat(np.arange(len(firsts)), count)
    within = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    return which, order[start[which] + within]


class Chosen:
    """Reads batches again, for the exact correlations of some pairs and rectangles.

    Parameters
    ----------
    batches : iterable of (A, B)
    sketch : PairSketch
        Of the same batches; its means and norms are used.
    k : int
        Neighbours wanted within each rectangle.
    memory_bytes : int
        For the rectangles' accumulators; where these do not fit at once, the batches are read more often.
    device : str or torch.device

    Attributes
    ----------
    readings : int
        How often the batches have been read.
    """

    def __init__(self, batches, sketch: PairSketch, k: int, memory_bytes: int, device):
        self.batches, self.sketch, self.k, self.memory_bytes, self.device = batches, sketch, k, memory_bytes, device
        self.readings = 0

    def read(self, rectangles: list[Rectangle], known: Known, u=(), v=()) -> np.ndarray:
        """Add the nearest neighbours within rectangles to what is known.

        Parameters
        ----------
        rectangles : list of Rectangle
        known : Known
        u, v : int64 [p], optional
            Pairs of living neurons, sorted by u and then v, none twice.

        Returns
        -------
        float64 [p]
            The pairs' correlations.

        Raises
        ------
        ValueError
            If the batches are not those of the sketch any more.
        """
        pairs = _Pairs(np.asarray(u, dtype=np.int64), np.asarray(v, dtype=np.int64), self.sketch, self.device)
        for turn, group in enumerate(_groups(rectangles, self.memory_bytes)):
            sums = [PearsonAccumulator(*map(len, tile), self.device) for tile in group]
            positions = 0
            for a, b in self.batches:
                check_batch(a, b, self.sketch.n_a, self.sketch.n_b)
                positions += len(a)
                if not turn:
                    pairs.update(a, b)
                for tile, accumulator in zip(group, sums, strict=True):
                    accumulator.update(_of(a, tile.rows), _of(b, tile.columns))
            check_positions(self.sketch.positions, positions)
            self.readings += 1
            for tile in group:
                known.add_neighbours(tile, *neighbours(sums.pop(0).correlation(), self.k))
        return pairs.r.cpu().numpy()


def check_positions(before: int, now: int) -> None:
    """ValueError unless a second reading gave as many positions as the first."""
    if before != now:
        raise ValueError(f"the batches changed between two readings: {before} positions first, then {now}")


def _groups(rectangles: list[Rectangle], memory_bytes: int) -> Iterator[list[Rectangle]]:
    """Tiles of the rectangles, as many together as fit the memory; at least one group, if an empty one."""
    group, cells, largest = [], 0, 0
    for rows, columns in rectangles:
        if not len(rows) or not len(columns):
            continue
        for i, j in tiles(len(rows), len(columns), memory_bytes):
            tile = Rectangle(rows[i], columns[j])
            size = len(tile.rows) * len(tile.columns)
            # All accumulators, and for one of them r and two copies while neighbours are sought.
            if group and 4 * (cells + size) + 12 * max(largest, size) > memory_bytes:
                yield group
                group, cells, largest = [], 0, 0
            group, cells, largest = [*group, tile], cells + size, max(largest, size)
    yield group


def _of(x: torch.Tensor, neurons: np.ndarray) -> torch.Tensor:
    if len(neurons) == x.shape[1]:
        return x
    return x.index_select(1, torch.from_numpy(neurons).to(x.device))


class _Pairs:
    """Correlations of single pairs: float32 products of a few positions at a time, float64 sums of these."""

    def __init__(self, u: np.ndarray, v: np.ndarray, sketch: PairSketch, device):
        self.device, self.sides = device, [_Standard(side.moments) for side in (sketch.a, sketch.b)]
        ends = np.searchsorted(u, np.arange(sketch.n_a + 1))
        self.pattern = csr(ends, v, np.zeros(len(v), np.float32), (sketch.n_a, sketch.n_b)).to(device)
        self.r = torch.zeros(len(u), dtype=torch.float64, device=device)

    def update(self, a: torch.Tensor, b: torch.Tensor) -> None:
        if not len(self.r):
            return
        for i in range(0, len(a), CHUNK):
            x, y = (side(batch[i : i + CHUNK]) for side, batch in zip(self.sides, (a, b), strict=True))
            self.r += torch.sparse.sampled_addmm(self.pattern, x, y.T, beta=0).values()


class _Standard:
    """Makes activations [T, n] rows of a product, [n, T]: centred, and of unit length over all positions."""

    def __init__(self, moments: Moments):
        self.shift, self.scale = moments.shift, moments.scale
        self.mean, self.unit = moments.mean.float(), moments.norm().reciprocal().nan_to_num_(nan=0)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = (x.to(self.mean.device).float() - self.shift).mul_(self.scale).sub_(self.mean).mul_(self.unit)
        return x.T.contiguous()
