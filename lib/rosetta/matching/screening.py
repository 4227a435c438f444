"""Screen and verify: the pairs of exact matching, for a part of its arithmetic and memory.

The first reading leaves estimates of all correlations: products of sketches (`sketch`), or of activations rounded to
bfloat16 (`nearest.Table`). They are made tile by tile; only each neuron's list of candidates is kept, and the largest
estimate that is not in it. `verification` does the rest.
"""

import numpy as np
import torch
from scipy import special

from rosetta.matching.correlation import ROUNDED, Moments, tiles
from rosetta.matching.cost import ROWS, TILE_BYTES, listed, sketch_bytes
from rosetta.matching.nearest import Table
from rosetta.matching.rates import fast_bfloat16
from rosetta.matching.rounds import together
from rosetta.matching.sketch import PairSketch
from rosetta.matching.verification import Law, Sample, Screened, Way, verified

#: Expected number of wrong pairs that `errors` is chosen by.
WRONG_PAIRS = 1e-6


def by_sketches(
    n_a: int, n_b: int, k: int, *, rows: int = ROWS, candidates: int | None = None, errors: float | None = None,
    exact_share: float = 1.0, seed: int = 0, memory_bytes: int = 4 * 2**30, device="cpu",
) -> Way:  # fmt: skip
    """Screening by count sketches.

    Parameters
    ----------
    n_a, n_b : int
        Neurons of the two models.
    k : int
        Neighbours wanted of each neuron.
    rows : int
        Buckets of the sketches. More rows: finer estimates, dearer products.
    candidates : int, optional
        How many neurons at most are listed for each; at least k. By default 64, or twice k if that is more.
    errors : float, optional
        Deviations by which an estimate may be wrong. By default so many that, were the errors normal, fewer than 1e-6
        pairs in all would be wrong: about 7 for a thousand neurons a side, 8 for a hundred thousand.
    exact_share : float
        Of the table, how much may be done exactly where estimates do not decide: by default all. If less is allowed than is
        needed, nothing is, and the neurons left open are in no pair; ``left_open_a`` and ``left_open_b`` count them.
    seed : int
        Of the hash of positions, and of the pairs on which the estimates are measured.
    memory_bytes : int
        For sketches, tiles and accumulators.
    device : str or torch.device

    Returns
    -------
    (Neighbours of A's neurons [n_a, k], of B's [n_b, k], dict of facts)
        Of a generator of rounds (`rounds`). The neighbours of a neuron that is in no mutual pair may be unsettled.

    Raises
    ------
    ValueError
        If candidates < k, rows < 1, errors <= 0, exact_share is no share, or the sketches do not fit the memory.
    """
    if not 0 <= exact_share <= 1:
        raise ValueError(f"exact_share is {exact_share}; it must lie between 0 and 1")
    candidates, errors = _options("sketch", n_a, n_b, k, rows, candidates, errors)
    needed = sketch_bytes(n_a, n_b, rows)
    if needed + 16 > memory_bytes:
        raise ValueError(
            f"sketches of {rows} rows need {needed:,} bytes for {n_a} and {n_b} neurons; memory_bytes is "
            f"{memory_bytes:,}: give more, or fewer rows"
        )
    sketch = yield PairSketch(n_a, n_b, rows, seed, device)
    facts = {"method": "sketch", "rows": int(rows), "positions": sketch.positions, "readings": 1}
    dtype = torch.bfloat16 if fast_bfloat16(device) else torch.float32
    units = sketch.estimators(dtype)
    sample, tops = Sample.draw(n_a, n_b, seed), [_Top(n, candidates, device) for n in (n_a, n_b)]
    for i, j in tiles(n_a, n_b, min(TILE_BYTES, memory_bytes - needed // 2)):
        estimate = (units[0].unit[i] @ units[1].unit[j].T).float()
        estimate[~units[0].alive[i]] = -torch.inf
        estimate[:, ~units[1].alive[j]] = -torch.inf
        _search(estimate, i, j, tops, sample)
    law = Law(errors, 1 / np.sqrt(rows - 3) if rows > 3 else np.inf, ROUNDED if dtype == torch.bfloat16 else 0.0)
    sides = []
    for top, unit, side, others in zip(tops, units, (sketch.a, sketch.b), (n_b, n_a), strict=True):
        alive, length, peak = (part.cpu().numpy() for part in (unit.alive, unit.length, unit.peak))
        usual = (np.abs(length - 1) <= errors * np.sqrt(2 / rows)) & (peak <= 2 / np.sqrt(rows))
        sides.append(Screened(side.moments, *top.listed(others), alive, alive & ~usual))
    del sketch, units
    return (yield from verified(sides, k, law, sample, facts, memory_bytes, device, exact_share))


def by_products(
    n_a: int, n_b: int, k: int, *, twin: bool = False, candidates: int | None = None, errors: float | None = None,
    seed: int = 0, memory_bytes: int = 4 * 2**30, device="cpu",
) -> Way:  # fmt: skip
    """Screening by products of activations rounded to bfloat16: all of the table, for half of the time or less.

    Parameters
    ----------
    n_a, n_b, k, candidates, errors, seed, memory_bytes, device
        As for `by_sketches`; by default 32 candidates, or three times k if that is more.
    twin : bool
        Whether the positions that are kept are matched apart, too.

    Returns
    -------
    list of (Neighbours, Neighbours, dict)
        Over all positions and, of twins, over those that are kept.
    """
    candidates, errors = _options("bfloat16", n_a, n_b, k, 1, candidates, errors)
    screens = [
        ([_Top(n, candidates, device) for n in (n_a, n_b)], Sample.draw(n_a, n_b, seed)) for _ in range(1 + twin)
    ]
    moments = [[Moments(n, device) for n in (n_a, n_b)] for _ in screens]
    positions, readings = [0] * len(screens), 0
    for i, j in tiles(n_a, n_b, memory_bytes, tables=5 if twin else 4):
        table = yield Table(n_a, n_b, i, j, device, torch.bfloat16, twin)
        readings += 1
        for which, sums in table.whole_and_part():
            tops, sample = screens[which]
            estimate = sums.correlation().nan_to_num_(nan=-torch.inf)
            _search(estimate, i, j, tops, sample)
            positions[which] = sums.positions
            for whole, part, neurons in zip(moments[which], (sums.a, sums.b), (i, j), strict=True):
                whole.put(neurons, part)
        del table, sums, estimate
    ways = []
    for which, (tops, sample) in enumerate(screens):
        law = Law(errors, 2**-8 / np.sqrt(positions[which]), ROUNDED)
        sides = []
        for top, side, others in zip(tops, moments[which], (n_b, n_a), strict=True):
            alive = torch.isfinite(side.norm()).cpu().numpy()
            sides.append(Screened(side, *top.listed(others), alive, np.zeros_like(alive)))
        facts = {"method": "bfloat16", "positions": positions[which], "readings": readings}
        ways.append(verified(sides, k, law, sample, facts, memory_bytes, device))
    return (yield from together(ways))


def _options(method, n_a, n_b, k, rows, candidates, errors) -> tuple[int, float]:
    candidates = listed(method, k) if candidates is None else candidates
    if candidates < k or rows < 1:
        raise ValueError(f"candidates is {candidates} and rows {rows}; allowed are at least k = {k} and at least 1")
    errors = float(-special.ndtri(WRONG_PAIRS / (n_a * n_b))) if errors is None else errors
    if not errors > 0:
        raise ValueError(f"errors is {errors}; it must be more than 0")
    return candidates, errors


# ---------------------------------------------------------------------------------------------------------------------
# The screen


class _Top:
    """The w largest estimates of each neuron, of tiles."""

    def __init__(self, n: int, w: int, device):
        self.w = w
        self.values = torch.full((n, w), -torch.inf, device=device)
        self.indices = torch.full((n, w), -1, device=device)

    def add(self, neurons: slice, estimate: torch.Tensor, others: slice) -> None:
        values, indices = estimate.topk(min(self.w, estimate.shape[1]), dim=1)
        values = torch.cat([self.values[neurons], values], dim=1)
        indices = torch.cat([self.indices[neurons], indices + others.start], dim=1)
        self.values[neurons], best = values.topk(self.w, dim=1)
        self.indices[neurons] = indices.gather(1, best)

    def listed(self, others: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(values, indices, rest), of so many others in all."""
        values = self.values.cpu().numpy()
        rest = values[:, -1] if others > self.w else np.full(len(values), -np.inf)
        return values, self.indices.cpu().numpy(), rest


def _search(estimate: torch.Tensor, i: slice, j: slice, tops: list[_Top], sample: Sample) -> None:
    """Take from a tile of estimates what is kept of it."""
    sample.of_tile(i, j, estimate)
    tops[0].add(i, estimate, j)
    tops[1].add(j, estimate.T.contiguous(), i)
