"""Count sketches of two models' neurons: what one reading of the positions leaves, enough to estimate every correlation.

Each position falls into one of `rows` buckets with a random sign, both from a hash of the position's own key; a neuron's
sketch is its signed sums over the buckets. The cosine of two centred sketches estimates the correlation of the neurons.
Sketches are sums, so those of parts of the positions add up to that of all of them.
"""

import numpy as np
import torch

from rosetta.matching.correlation import Moments, named, padded, part_of
from rosetta.matching.rounds import Round

#: Buckets that estimators are made of at a time.
PARTS = 256


class PairSketch(Round):
    """Moments and count sketches of all neurons of two models.

    Parameters
    ----------
    n_a, n_b : int
        Neurons of the two models.
    rows : int
        Buckets. The estimate of r is off by about (1 - r^2) / sqrt(rows); ``atanh`` of it by 1 / sqrt(rows - 3).
    seed : int
        Of the hash that gives each position its bucket and its sign, by the position's key.
    device : str or torch.device

    Raises
    ------
    ValueError
        If a side or `rows` is not at least 1.
    """

    def __init__(self, n_a: int, n_b: int, rows: int, seed: int = 0, device="cpu"):
        for name, value in (("n_a", n_a), ("n_b", n_b), ("rows", rows)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        super().__init__(n_a, n_b)
        self.rows, self.seed = int(rows), seed
        self.ones = torch.zeros(rows, device=device)  # the sketch of a neuron that is always 1
        self.a, self.b = (_Side(n, self.rows, device) for n in (n_a, n_b))

    def empty(self):
        return PairSketch(self.n_a, self.n_b, self.rows, self.seed, self.ones.device)

    def add(self, a, b, keys, kept):
        signs, buckets = (part.to(self.ones.device) for part in signs_and_buckets(keys, self.rows, self.seed))
        self.a.add(a, signs, buckets, self.positions)
        self.b.add(b, signs, buckets, self.positions)
        self.ones.index_add_(0, buckets, signs)

    def merge(self, other):
        if not self.positions:
            self.a, self.b = other.a.copy(), other.b.copy()
        else:
            self.a.join(other.a, self.positions, other.positions, other.ones)
            self.b.join(other.b, self.positions, other.positions, other.ones)
        self.ones = self.ones + other.ones

    def tensors(self):
        return {"ones": self.ones, **named({"a": self.a.tensors(), "b": self.b.tensors()})}

    def take(self, tensors):
        self.ones = tensors["ones"].to(self.ones.device)
        self.a.take(part_of(tensors, "a"))
        self.b.take(part_of(tensors, "b"))

    def parameters(self):
        return {"round": "sketch", "n_a": self.n_a, "n_b": self.n_b, "rows": self.rows, "seed": self.seed}

    def estimators(self, dtype: torch.dtype = torch.float32) -> tuple["Estimator", "Estimator"]:
        """Both sides' centred sketches of unit length; the sums are used up.

        Raises
        ------
        ValueError
            With fewer than two positions.
        """
        if self.positions < 2:
            raise ValueError(f"a correlation needs at least 2 positions; these batches hold {self.positions}")
        return Estimator(self.a, self.ones, dtype), Estimator(self.b, self.ones, dtype)


class _Side:
    def __init__(self, n: int, rows: int, device):
        self.moments = Moments(n, device)
        self.sums = torch.zeros(rows, n, device=device)

    def add(self, x: torch.Tensor, signs: torch.Tensor, buckets: torch.Tensor, before: int) -> None:
        def take(part, rows):
            self.sums.index_add_(0, buckets[rows], part.mul_(signs[rows, None]))

        self.moments.scaled(x, before, take)

    def join(self, other: "_Side", before: int, more: int, ones: torch.Tensor) -> None:
        apart = (other.moments.shift.double() - self.moments.shift.double()) * self.moments.scale.double()
        unit, _ = self.moments.join(other.moments, before, more)
        self.sums.addcmul_(other.sums, unit[None, :].expand_as(self.sums))
        self.sums.addr_(ones, apart.float())

    def copy(self) -> "_Side":
        other = object.__new__(_Side)
        other.moments, other.sums = self.moments.copy(), self.sums.clone()
        return other

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"sums": self.sums, **self.moments.tensors()}

    def take(self, tensors: dict[str, torch.Tensor]) -> None:
        self.sums = tensors.pop("sums").to(self.sums.device)
        self.moments.take(tensors)


class Estimator:
    """One side's neurons, ready for products.

    Attributes
    ----------
    unit : [n, rows]
        Centred sketches of unit length, in `dtype`; zero for a dead neuron.
    alive : bool [n]
    length : float64 [n]
        Squared length of the sketch over that of the neuron itself: 1 with deviation sqrt(2 / rows); NaN for a dead one.
    peak : [n]
        The largest share of a sketch's squares in one bucket.
    """

    def __init__(self, side: _Side, ones: torch.Tensor, dtype: torch.dtype):
        norm = side.moments.norm().double()
        self.alive = torch.isfinite(norm)
        sums, side.sums = side.sums.addr_(ones, side.moments.mean.float(), alpha=-1), None
        length = sum(part.square().sum(0) for part in sums.split(PARTS)).sqrt()
        self.length = (length.double() / norm).square()
        scale = torch.where(self.alive & (length > 0), length.reciprocal(), 0)
        self.unit = torch.empty(sums.shape[1], len(sums), dtype=dtype, device=sums.device)
        self.peak, room = torch.zeros_like(length), padded(PARTS, sums.shape[1], sums.device)
        for part, unit in zip(sums.split(PARTS), self.unit.split(PARTS, dim=1), strict=True):
            part = torch.mul(part, scale, out=room[: len(part)]).nan_to_num_(nan=0)
            torch.maximum(self.peak, torch.maximum(part.amax(0), -part.amin(0)), out=self.peak)
            unit.copy_(part.T)
        self.peak.square_()


def signs_and_buckets(keys: np.ndarray, rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For each position a random sign, float32 [T], and a bucket, int64 [T], by a hash of its key."""
    hashed = splitmix64(keys.astype(np.uint64) ^ splitmix64(np.array([seed]).astype(np.uint64)))
    signs = np.where(hashed & np.uint64(1), np.float32(1), np.float32(-1))
    buckets = ((hashed >> np.uint64(1)) % np.uint64(rows)).astype(np.int64)
    return torch.from_numpy(signs), torch.from_numpy(buckets)


def splitmix64(x: np.ndarray) -> np.ndarray:
    """A hash of 64-bit numbers (Steele, Lea and Flood, 2014): neighbours come out unlike."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
