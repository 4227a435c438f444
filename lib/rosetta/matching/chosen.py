"""Exact correlations of a chosen part of the table: single pairs, and rectangles of rows and columns, in one reading."""

import hashlib
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from rosetta.matching.correlation import Moments, PearsonAccumulator, tiles
from rosetta.matching.nearest import Neighbours, neighbours
from rosetta.matching.rounds import Round

#: Positions multiplied at a time for single pairs: they fit a cache, and float32 sums of so few are exact enough.
CHUNK = 128


class Rectangle(NamedTuple):
    """Neurons of A and of B (int64, ascending), and all pairs of them."""

    rows: np.ndarray
    columns: np.ndarray


class Known:
    """The exact correlations known so far: of these each neuron's nearest neighbours are taken."""

    def __init__(self, n_a: int, n_b: int, k: int):
        self.n, self.k = (n_a, n_b), k
        self.found: tuple[list, list] = ([], [])  # (neurons, others, correlations) of A's neurons, and of B's
        self.places, self.r = np.empty(0, dtype=np.int64), np.empty(0)  # of single pairs: u n_b + v, ascending

    def add_pairs(self, u: np.ndarray, v: np.ndarray, r: np.ndarray) -> None:
        """Pairs (u, v) with their correlations."""
        places = np.concatenate([self.places, u * self.n[1] + v])
        order = np.argsort(places)
        self.places, self.r = places[order], np.concatenate([self.r, r])[order]
        r = r.astype(np.float32)
        self.found[0].append((u, v, r))
        self.found[1].append((v, u, r))

    def has(self, places: np.ndarray) -> np.ndarray:
        """Which of some pairs are known as single ones: bool, by their places u n_b + v."""
        return np.isin(places, self.places)

    def of_pairs(self, places: np.ndarray) -> np.ndarray:
        """The correlations of single pairs that are known."""
        return self.r[np.searchsorted(self.places, places)]

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
        nobody = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
        of, others, values = (np.concatenate(parts) for parts in zip(nobody, *self.found[side], strict=True))
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


class Chosen(Round):
    """Sums for the exact correlations of some pairs and of all pairs in some rectangles.

    Parameters
    ----------
    a, b : Moments
        Of both sides' neurons over all positions, from the round before.
    u, v : int64 [p]
        Pairs of living neurons, sorted by u and then v, none twice.
    rectangles : list of Rectangle
        Their accumulators are held at once; `groups` cuts what is too large.
    device : str or torch.device
    """

    def __init__(self, a: Moments, b: Moments, u: np.ndarray, v: np.ndarray, rectangles: list[Rectangle], device="cpu"):
        super().__init__(len(a.mean), len(b.mean))
        self.u, self.v = np.asarray(u, dtype=np.int64), np.asarray(v, dtype=np.int64)
        self.moments, self.rectangles = (a, b), rectangles
        self.r = torch.zeros(len(self.u), dtype=torch.float64, device=device)
        self.sums = [PearsonAccumulator(*map(len, rectangle), device) for rectangle in rectangles]
        # Only the neurons that are in a pair are standardized and turned.
        self.in_a, u = np.unique(self.u, return_inverse=True)
        self.in_b, v = np.unique(self.v, return_inverse=True)
        self.sides = [_Standard(side, neurons) for side, neurons in ((a, self.in_a), (b, self.in_b))]
        ends = np.searchsorted(u, np.arange(len(self.in_a) + 1))
        self.pattern = _csr(ends, v, (len(self.in_a), len(self.in_b))).to(device)

    def empty(self):
        return Chosen(*self.moments, self.u, self.v, self.rectangles, self.r.device)

    def add(self, a, b, keys, kept):
        for rectangle, sums in zip(self.rectangles, self.sums, strict=True):
            sums.update(of_neurons(a, rectangle.rows), of_neurons(b, rectangle.columns))
        if not len(self.u):
            return
        # The sampled product keeps one core busy, so as many parts of the positions are worked at as there are cores.
        threads = torch.get_num_threads() if self.r.device.type == "cpu" else 1
        a, b = of_neurons(a, self.in_a), of_neurons(b, self.in_b)
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(a), CHUNK * threads):
                parts = [slice(i, i + CHUNK) for i in range(start, min(len(a), start + CHUNK * threads), CHUNK)]
                tables = [[side(x[part]) for side, x in zip(self.sides, (a, b), strict=True)] for part in parts]
                for products in pool.map(self._products, tables):
                    self.r += products

    def _products(self, tables: list[torch.Tensor]) -> torch.Tensor:
        return torch.sparse.sampled_addmm(self.pattern, tables[0], tables[1].T, beta=0).values()

    def merge(self, other):
        self.r = self.r + other.r
        for mine, others in zip(self.sums, other.sums, strict=True):
            mine.join(others)

    def tensors(self):
        return {"r": self.r} | {
            f"{i}.{name}": tensor for i, sums in enumerate(self.sums) for name, tensor in sums.tensors().items()
        }

    def take(self, tensors):
        self.r = tensors["r"].to(self.r.device)
        for i, sums in enumerate(self.sums):
            start = f"{i}."
            sums.take({k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}, self.positions)

    def parameters(self):
        chosen = hashlib.sha256()
        for part in (self.u, self.v, *(neurons for rectangle in self.rectangles for neurons in rectangle)):
            chosen.update(part.tobytes() + b".")
        return {"round": "chosen", "n_a": self.n_a, "n_b": self.n_b, "chosen": chosen.hexdigest()}

    def into(self, known: Known) -> None:
        """What the filled round tells: the pairs' correlations, and the nearest neighbours within the rectangles."""
        known.add_pairs(self.u, self.v, self.r.cpu().numpy())
        for rectangle in self.rectangles:
            known.add_neighbours(rectangle, *neighbours(self.sums.pop(0).correlation(), known.k))


def groups(rectangles: list[Rectangle], memory_bytes: int) -> Iterator[list[Rectangle]]:
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


def of_neurons(x: torch.Tensor, neurons: np.ndarray) -> torch.Tensor:
    """The columns of some neurons, ascending; x itself where it has no others."""
    if len(neurons) == x.shape[1]:
        return x
    return x.index_select(1, torch.from_numpy(neurons).to(x.device))


class _Standard:
    """Makes activations [T, n] rows of a product, [n, T]: centred, and of unit length over all positions."""

    def __init__(self, moments: Moments, neurons: np.ndarray):
        parts = (moments.shift, moments.scale, moments.mean.float(), moments.norm().reciprocal().nan_to_num_(nan=0))
        self.shift, self.scale, self.mean, self.unit = (of_neurons(part[None], neurons)[0] for part in parts)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = (x.to(self.mean.device).float() - self.shift).mul_(self.scale).sub_(self.mean).mul_(self.unit)
        return x.T.contiguous()


def _csr(ends: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> torch.Tensor:
    """A sparse matrix of zeros by its compressed rows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse", UserWarning)  # "in beta state"
        values = torch.zeros(len(columns))
        return torch.sparse_csr_tensor(torch.from_numpy(ends), torch.from_numpy(columns), values, shape)
