"""Exact correlations of a chosen part of the table: single pairs, and rectangles of rows and columns, in one reading."""

import hashlib
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from rosetta.matching.correlation import Moments, padded, tiles
from rosetta.matching.nearest import Neighbours, neighbours
from rosetta.matching.rounds import Round

#: Positions multiplied at a time for single pairs: they fit a cache, and float32 sums of so few are exact enough.
CHUNK = 128
#: Positions multiplied at a time where there are rectangles: their tables are large.
STEP = 1024


class Rectangle(NamedTuple):
    """Neurons of A and of B (int64, ascending), and all pairs of them."""

    rows: np.ndarray
    columns: np.ndarray


class Known:
    """The exact correlations known so far: of these each neuron's nearest neighbours are taken.

    Parameters
    ----------
    alive : (bool [n_a], bool [n_b])
        Who can be a neighbour.
    k : int
    """

    def __init__(self, alive: tuple[np.ndarray, np.ndarray], k: int):
        self.alive, self.n, self.k = alive, tuple(map(len, alive)), k
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

    def add_rectangle(self, rectangle: Rectangle, r: torch.Tensor) -> None:
        """The nearest neighbours within a rectangle, by all its correlations, which are used up."""
        r.clamp_(-1, 1)
        for side, neurons in enumerate(rectangle):
            dead = torch.from_numpy(np.flatnonzero(~self.alive[side][neurons])).to(r.device)
            r.index_fill_(side, dead, torch.nan)
        for side, nearest in enumerate(neighbours(r, self.k)):
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


class Chosen(Round):
    """Sums for the exact correlations of some pairs and of all pairs in some rectangles.

    Means and norms are known, so activations are standardized as they come, and r is the sum of their products.

    Parameters
    ----------
    a, b : Moments
        Of both sides' neurons over all positions, from the round before.
    u, v : int64 [p]
        Pairs of living neurons, sorted by u and then v, none twice.
    rectangles : list of Rectangle
        Their tables are held at once; `groups` cuts what is too large.
    device : str or torch.device
    """

    def __init__(self, a: Moments, b: Moments, u: np.ndarray, v: np.ndarray, rectangles: list[Rectangle], device="cpu"):
        super().__init__(len(a.mean), len(b.mean))
        self.moments, self.rectangles = (a, b), rectangles
        self.u, self.v = np.asarray(u, dtype=np.int64), np.asarray(v, dtype=np.int64)
        self.r = torch.zeros(len(self.u), dtype=torch.float64, device=device)
        self.tables = [torch.zeros(len(rows), len(columns), device=device) for rows, columns in rectangles]
        in_rectangles = zip(*rectangles, strict=True) if rectangles else ((), ())
        self.sides = [
            _Standard(side, [pairs, *others])
            for side, pairs, others in zip((a, b), (self.u, self.v), in_rectangles, strict=True)
        ]
        places = [side.places(pairs) for side, pairs in zip(self.sides, (self.u, self.v), strict=True)]
        self.pattern = _csr(*places, [len(side.neurons) for side in self.sides]).to(device)
        self.within = [
            [torch.from_numpy(side.places(part)).to(device) for side, part in zip(self.sides, rectangle, strict=True)]
            for rectangle in rectangles
        ]

    def empty(self):
        return Chosen(*self.moments, self.u, self.v, self.rectangles, self.r.device)

    def add(self, a, b, keys, kept):
        step = STEP if self.rectangles else CHUNK
        for parts in zip(a.split(step), b.split(step), strict=True):
            x, y = (side(part) for side, part in zip(self.sides, parts, strict=True))
            for table, (rows, columns) in zip(self.tables, self.within, strict=True):
                table.addmm_(_rows_of(x.T, rows), _rows_of(y.T, columns).T)
            if len(self.u):
                for chunks in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
                    x_t, y_t = (side.turned(chunk) for side, chunk in zip(self.sides, chunks, strict=True))
                    self.r += torch.sparse.sampled_addmm(self.pattern, x_t, y_t.T, beta=0).values()

    def merge(self, other):
        self.r = self.r + other.r
        self.tables = [mine + others for mine, others in zip(self.tables, other.tables, strict=True)]

    def tensors(self):
        return {"r": self.r, **{str(i): table for i, table in enumerate(self.tables)}}

    def take(self, tensors):
        self.r = tensors["r"].to(self.r.device)
        self.tables = [tensors[str(i)].to(self.r.device) for i in range(len(self.tables))]

    def parameters(self):
        chosen = hashlib.sha256()
        for part in (self.u, self.v, *(neurons for rectangle in self.rectangles for neurons in rectangle)):
            chosen.update(part.tobytes() + b".")
        return {"round": "chosen", "n_a": self.n_a, "n_b": self.n_b, "chosen": chosen.hexdigest()}

    def into(self, known: Known) -> None:
        """What the filled round tells: the pairs' correlations, and the nearest neighbours within the rectangles."""
        known.add_pairs(self.u, self.v, self.r.cpu().numpy())
        for rectangle in self.rectangles:
            known.add_rectangle(rectangle, self.tables.pop(0))


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


class _Standard:
    """Activations [T, n] of the neurons that are asked for: centred, and of unit length over all positions."""

    def __init__(self, moments: Moments, asked: list[np.ndarray]):
        self.neurons = np.unique(np.concatenate(asked))
        n = len(moments.mean)
        if 2 * len(self.neurons) > n:  # to leave the others out would cost more than to take them along
            self.neurons = np.arange(n)
        self.all = len(self.neurons) == n
        self.index = torch.from_numpy(self.neurons).to(moments.mean.device)
        # The mean in the activations' own units. Its rounding matters only as a product of both neurons', which is nothing.
        mean = moments.shift.double() + moments.mean / moments.scale.double()
        unit = moments.scale * moments.norm().reciprocal().nan_to_num_(nan=0)
        self.mean, self.unit = mean.float()[self.index], unit[self.index]
        self.room, self.turned_room = self.mean.new_empty(0, len(self.neurons)), self.mean.new_empty(0)

    def places(self, neurons: np.ndarray) -> np.ndarray:
        """Where some neurons stand among those asked for."""
        return np.searchsorted(self.neurons, neurons)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.index.device)
        x = (x if self.all else x.index_select(1, self.index)).float()
        if len(self.room) < len(x):  # the same each time: new memory costs more than the arithmetic
            self.room = padded(*x.shape, x.device)
        return torch.sub(x, self.mean, out=self.room[: len(x)]).mul_(self.unit)

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        """Up to `CHUNK` standardized positions, [n, T]."""
        if not len(self.turned_room):
            self.turned_room = x.new_empty(CHUNK * x.shape[1])
        return self.turned_room[: x.numel()].view(x.shape[::-1]).copy_(x.T)


def _rows_of(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return x if len(rows) == len(x) else x.index_select(0, rows)


def _csr(rows: np.ndarray, columns: np.ndarray, shape: list[int]) -> torch.Tensor:
    """A sparse matrix of zeros at some places, which are sorted by row."""
    ends = np.searchsorted(rows, np.arange(shape[0] + 1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse", UserWarning)  # "in beta state"
        values = torch.zeros(len(columns))
        return torch.sparse_csr_tensor(torch.from_numpy(ends), torch.from_numpy(columns), values, shape)
