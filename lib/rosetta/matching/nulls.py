"""What matching finds where there is nothing to find (4.2, C.3), and counts calibrated on it.

Two nulls: untrained networks (`models.load_untrained`), and trained ones whose positions are permuted against each
other (`Permuted`); `positions` has a third and what all of them hang on. The paper reports 20-100 permuted pairs. In the
kit's models there are more of them than real ones: of N independent similarities about half the neurons have a mutual nearest
neighbour by chance (`expected_by_chance`). What separates the real pairs there is their correlation, hence the calibrated count.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import special

#: Pairs whose correlation exceeds this quantile of the permuted null's pairs are counted (not in the paper).
QUANTILE = 0.999


class Permuted:
    """Batches whose B rows are permuted against their A rows (C.3); may be gone through any number of times.

    Each position of B is used exactly once, so every neuron keeps its distribution. The permutation is drawn through
    a pool of rows: each A batch is paired with rows that came `pool_batches` batches earlier or later, in random order;
    memory stays bounded.

    Of images, whole ones can be permuted with their cells kept: what is matched then are neurons that only know *where* in an
    image they are (not in the paper).

    Parameters
    ----------
    batches : iterable of (A, B)
        One that can be gone through again.
    seed : int
    pool_batches : int
        Size of the pool; with no more batches than this, every permutation of all positions is equally likely.
    whole : int
        Rows that stay together, in their order: 1, or the cells of an image.

    Raises
    ------
    ValueError
        If `whole` is below 1, or, while they are gone through, if a batch is no whole number of images.
    """

    def __init__(self, batches, seed: int, pool_batches: int = 4, whole: int = 1):
        if whole < 1:
            raise ValueError(f"whole is {whole}; it must be at least 1")
        self.batches, self.seed, self.pool_batches, self.whole = batches, seed, pool_batches, whole
        for name in ("names", "layers", "flop"):
            if hasattr(batches, name):
                setattr(self, name, getattr(batches, name))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        pool = _Pool(self.pool_batches + 1, torch.Generator().manual_seed(self.seed))
        late = []  # rows of A whose partners are drawn at the end, from what is left in the pool
        for index, (a, b) in enumerate(self.batches):
            if index < self.pool_batches:
                late.append(a)
            else:
                partners = self._drawn(pool, a)
                n = len(partners)  # fewer than asked for where the pool is short: the batches before were smaller
                yield a[:n], partners
                if n < len(a):
                    late.append(a[n:])
            if len(b) % self.whole:
                raise ValueError(f"a batch of {len(b)} positions is no whole number of images of {self.whole} cells")
            pool.add(b.reshape(-1, self.whole * b.shape[1]))
        for a in late:
            yield a, self._drawn(pool, a)

    def _drawn(self, pool: "_Pool", a: torch.Tensor) -> torch.Tensor:
        """Partners for the rows of A, or for as many as there are."""
        return pool.draw(len(a) // self.whole).unflatten(1, (self.whole, -1)).flatten(0, 1)


class _Pool:
    """Rows of B, or whole images side by side, that wait to be drawn at random. Each keeps its slot until then, and leaves it free to a
    later one."""

    def __init__(self, batches: int, rng: torch.Generator):
        self.batches, self.rng = batches, rng
        self.slots = None
        self.waiting = self.free = torch.empty(0, dtype=torch.int64)  # numbers of slots

    def add(self, b: torch.Tensor) -> None:
        if self.slots is None:  # enough of them if all batches are as large as the first
            self.slots = b.new_empty(self.batches * len(b), b.shape[1])
            self.free = torch.arange(len(self.slots))
        missing = len(b) - len(self.free)
        if missing > 0:
            self.free = torch.cat([self.free, len(self.slots) + torch.arange(missing)])
            self.slots = torch.cat([self.slots, b.new_empty(missing, b.shape[1])])
        taken, self.free = self.free[: len(b)], self.free[len(b) :]
        self.slots[taken.to(b.device)] = b
        self.waiting = torch.cat([self.waiting, taken])

    def draw(self, n: int) -> torch.Tensor:
        """n rows, or all there are, in random order."""
        shuffled = self.waiting[torch.randperm(len(self.waiting), generator=self.rng)]
        drawn, self.waiting = shuffled[:n], shuffled[n:]
        self.free = torch.cat([self.free, drawn])
        return self.slots[drawn.to(self.slots.device)]


def threshold(null_tables: Sequence[pd.DataFrame], quantile: float = QUANTILE, positions: int | None = None) -> float:
    """The correlation that a pair must exceed to be counted: a quantile of the null's matched pairs, pooled.

    What permuted positions reach is sampling noise, which falls with the root of their number. So from this null over
    T' positions a threshold for T others follows, times sqrt(T' / T): too high a one from fewer positions, as far as a
    few large activations decide there, and so a count that is rather too low. What untrained networks reach is no noise.

    Parameters
    ----------
    null_tables : sequence of MatchTable
        Over the same positions.
    quantile : float
    positions : int, optional
        Of the pairs to be counted; by default those of the null. Only for the permuted null.

    Raises
    ------
    ValueError
        If there are no null tables, or a quantile outside 0..1.
    """
    if not null_tables:
        raise ValueError("there are no null tables to calibrate on")
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile is {quantile}; it must lie between 0 and 1")
    pooled = np.concatenate([table["correlation"] for table in null_tables])
    r = float(np.quantile(pooled, quantile)) if len(pooled) else 0.0
    return r if positions is None else r * (null_tables[0].attrs["positions"] / positions) ** 0.5


def which_positions(null_positions: Sequence[int], positions: Sequence[int]) -> str:
    """Which of the trained models' positions a null was made over, in words: all, or the first so many."""
    fewest, most = min(null_positions), max(null_positions)
    if list(null_positions) == list(positions):
        return "all positions"
    return f"the first {most:,} positions" if fewest == most else f"the first {fewest:,} to {most:,} positions"


def calibrated(table: pd.DataFrame, above: float) -> pd.DataFrame:
    """The pairs of a MatchTable with a correlation above the null's threshold."""
    part = table[table["correlation"] > above].reset_index(drop=True)
    part.attrs = dict(table.attrs)
    return part


def expected_by_chance(n_a: int, n_b: int) -> float:
    """Mutual nearest neighbours among independent similarities: n_a n_b / (n_a + n_b - 1), about half of N.

    The largest of its row and column, n_a + n_b - 1 entries, is each entry with equal probability.
    """
    return n_a * n_b / (n_a + n_b - 1)


class Interval(NamedTuple):
    """A mean or a share with its 95% interval."""

    mean: float
    low: float
    high: float


def mean_ci95(values: Sequence[float]) -> Interval:
    """Mean and Student's 95% interval; a single value has an interval without bounds (NaN)."""
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, float("nan"), float("nan"))
    half = special.stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)
