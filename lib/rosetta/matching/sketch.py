"""Count sketches of two models' neurons: what one reading of the positions leaves, enough to estimate every correlation.

Each position falls into one of `rows` buckets with a random sign, both from a hash of the position's own key; a neuron's
sketch is its signed sums over the buckets. The cosine of two centred sketches estimates the correlation of the neurons.
Sketches are sums, so those of parts of the positions add up to that of all of them.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rosetta.matching.correlation import Moments, check_batch
from rosetta.results import write_whole

#: What a file of a sketch says of itself.
FORMAT = "rosetta sketch 1"
MOMENTS = ("first", "shift", "scale", "mean", "squares", "changed")


class PairSketch:
    """Moments and count sketches of all neurons of two models.

    Parameters
    ----------
    n_a, n_b : int
        Neurons of the two models.
    rows : int
        Buckets. The estimate of r is off by about (1 - r^2) / sqrt(rows); ``atanh`` of it by 1 / sqrt(rows - 3).
    seed : int
        Of the hash that gives each position its bucket and its sign.
    start : int
        The number of the first position, where positions come without keys.
    device : str or torch.device

    Raises
    ------
    ValueError
        If a side or `rows` is not at least 1.
    """

    def __init__(self, n_a: int, n_b: int, rows: int, seed: int = 0, start: int = 0, device="cpu"):
        for name, value in (("n_a", n_a), ("n_b", n_b), ("rows", rows)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        self.n_a, self.n_b, self.rows, self.seed, self.start = n_a, n_b, int(rows), seed, start
        self.positions = 0
        self.ones = torch.zeros(rows, device=device)  # the sketch of a neuron that is always 1
        self.a, self.b = (_Side(n, self.rows, device) for n in (n_a, n_b))

    def update(self, a: torch.Tensor, b: torch.Tensor, keys: np.ndarray | None = None) -> None:
        """Add one batch: a [T, n_a] and b [T, n_b], the same T positions.

        Parameters
        ----------
        a, b : torch.Tensor
        keys : int64 [T], optional
            What tells each position from all others, of this batch or any; by default their running numbers.

        Raises
        ------
        ValueError
            If the shapes do not fit, on keys that are no T whole numbers, or on NaN or infinity.
        """
        check_batch(a, b, self.n_a, self.n_b)
        if not len(a):
            return
        before = self.start + self.positions
        keys = np.arange(before, before + len(a)) if keys is None else np.asarray(keys)
        if keys.shape != (len(a),) or keys.dtype.kind not in "iu":
            raise ValueError(
                f"keys are {keys.dtype} {keys.shape}; expected a whole number for each of {len(a)} positions"
            )
        signs = signs_and_buckets(keys, self.rows, self.seed).to(self.ones.device)
        self.a.add(signs, a, self.positions)
        self.b.add(signs, b, self.positions)
        self.ones += (signs @ torch.ones(len(a), 1, device=self.ones.device)).squeeze(1)
        self.positions += len(a)

    def join(self, other: "PairSketch") -> None:
        """Add all positions that another sketch has seen; that one stays as it is.

        Raises
        ------
        ValueError
            If the other was made with other parameters; they are named.
        """
        self._refuse(**{name: getattr(other, name) for name in ("n_a", "n_b", "rows", "seed")})
        if not other.positions:
            return
        if not self.positions:
            self.a, self.b = other.a.copy(), other.b.copy()
        else:
            self.a.join(other.a, self.positions, other.positions, other.ones)
            self.b.join(other.b, self.positions, other.positions, other.ones)
        self.ones = self.ones + other.ones
        self.positions += other.positions

    def estimators(self) -> tuple["Estimator", "Estimator"]:
        """Both sides' centred sketches of unit length; more batches may follow.

        Raises
        ------
        ValueError
            With fewer than two positions.
        """
        if self.positions < 2:
            raise ValueError(f"a correlation needs at least 2 positions; these batches hold {self.positions}")
        return Estimator(self.a, self.ones), Estimator(self.b, self.ones)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all, with the parameters that made it.

        Raises
        ------
        ValueError
            If there are no positions yet.
        """
        if not self.positions:
            raise ValueError("there is no sketch to save: no positions were added")
        tensors = {"ones": self.ones}
        for name, side in (("a", self.a), ("b", self.b)):
            tensors[f"{name}.sums"] = side.sums
            tensors |= {f"{name}.{part}": getattr(side.moments, part) for part in MOMENTS}
        parameters = {name: int(getattr(self, name)) for name in ("n_a", "n_b", "rows", "seed", "start", "positions")}
        facts = {"format": FORMAT, "parameters": json.dumps(parameters)}
        tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        write_whole(Path(path), lambda temporary: save_file(tensors, temporary, metadata=facts))

    @classmethod
    def load(cls, path: str | Path, device="cpu", **expected) -> "PairSketch":
        """Read what `save` wrote.

        Parameters
        ----------
        path : str or Path
        device : str or torch.device
        **expected
            Any of ``n_a, n_b, rows, seed, start, positions`` that it must have been made with.

        Raises
        ------
        ValueError
            If the file is cut short, holds something else, or was made with other parameters; they are named.
        """
        try:
            with safe_open(str(path), "pt", device=str(device)) as file:
                facts = file.metadata() or {}
                if facts.get("format") != FORMAT:
                    raise ValueError(f"{path} is {facts.get('format', 'no sketch')!r}; expected {FORMAT!r}")
                parameters = json.loads(facts["parameters"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except ValueError:
            raise
        except Exception as error:  # safetensors raises its own, which is an Exception and no more
            raise ValueError(f"{path} cannot be read as a sketch ({error}); remove it and make it again") from error
        positions = parameters.pop("positions")
        sketch = cls(**parameters, device=device)
        sketch.positions = positions
        sketch._refuse(**expected)
        sketch.ones = tensors["ones"]
        for name, side in (("a", sketch.a), ("b", sketch.b)):
            side.sums = tensors[f"{name}.sums"]
            for part in MOMENTS:
                setattr(side.moments, part, tensors[f"{name}.{part}"])
        return sketch

    def _refuse(self, **expected) -> None:
        for name, value in expected.items():
            if getattr(self, name) != value:
                raise ValueError(f"sketches do not fit: one has {name} {getattr(self, name)}, the other {value}")


class _Side:
    def __init__(self, n: int, rows: int, device):
        self.moments = Moments(n, device)
        self.sums = torch.zeros(rows, n, device=device)

    def add(self, signs: torch.Tensor, x: torch.Tensor, before: int) -> None:
        mean = self.moments.mean.clone()
        centred, moved = self.moments.centre(x, before)
        centred += (mean + moved).float()  # the batch's own mean: what is summed must not depend on the batch
        self.sums.addmm_(signs, centred)

    def join(self, other: "_Side", before: int, more: int, ones: torch.Tensor) -> None:
        apart = (other.moments.shift.double() - self.moments.shift.double()) * self.moments.scale.double()
        unit, _ = self.moments.join(other.moments, before, more)
        self.sums.addcmul_(other.sums, unit[None, :].expand_as(self.sums))
        self.sums.addr_(ones, apart.float())

    def copy(self) -> "_Side":
        other = object.__new__(_Side)
        other.moments, other.sums = self.moments.copy(), self.sums.clone()
        return other


class Estimator:
    """One side's neurons, ready for products.

    Attributes
    ----------
    unit : [rows, n]
        Centred sketches of unit length; zero for a dead neuron.
    alive : bool [n]
    length : float64 [n]
        Squared length of the sketch over that of the neuron itself: 1 with deviation sqrt(2 / rows); NaN for a dead one.
    peak : [n]
        The largest share of a sketch's squares in one bucket.
    """

    def __init__(self, side: _Side, ones: torch.Tensor):
        norm = side.moments.norm().double()
        self.alive = torch.isfinite(norm)
        unit = side.sums.addr(ones, side.moments.mean.float(), alpha=-1)
        length = torch.linalg.vector_norm(unit, dim=0)
        self.length = (length.double() / norm).square()
        self.unit = unit.mul_(torch.where(self.alive & (length > 0), length.reciprocal(), 0)).nan_to_num_(nan=0)
        self.peak = torch.maximum(unit.amax(0), -unit.amin(0)).square()


def signs_and_buckets(keys: np.ndarray, rows: int, seed: int) -> torch.Tensor:
    """The sparse matrix [rows, T] that sums positions into buckets, a random sign each: one entry a column."""
    hashed = splitmix64(keys.astype(np.uint64) ^ splitmix64(np.array([seed]).astype(np.uint64)))
    sign = np.where(hashed & np.uint64(1), np.float32(1), np.float32(-1))
    bucket = ((hashed >> np.uint64(1)) % np.uint64(rows)).astype(np.int64)
    order = np.argsort(bucket, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(bucket, minlength=rows))])
    return csr(ends, order, sign[order], (rows, len(keys)))


def splitmix64(x: np.ndarray) -> np.ndarray:
    """A hash of 64-bit numbers (Steele, Lea and Flood, 2014): neighbours come out unlike."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def csr(ends: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> torch.Tensor:
    """A sparse matrix by its compressed rows."""
    parts = (torch.from_numpy(np.ascontiguousarray(part)) for part in (ends, columns, values))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse", UserWarning)  # "in beta state"
        return torch.sparse_csr_tensor(*parts, shape, check_invariants=False)
