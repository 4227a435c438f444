"""Screen and verify: the pairs of exact matching, for a part of its arithmetic and memory.

1. One reading makes a sketch of each neuron (`sketch`). Products of sketches, tile by tile, estimate all correlations; of
   these only each neuron's candidates are kept, and the largest estimate that is not: its *bound*.
2. A second reading gives the candidates' exact correlations. A neuron is *certified* if its k-th best exceeds its bound by
   more than the estimates can be wrong: its list of nearest neighbours is then that of exact matching.
3. A pair can be missed only where neither neuron is certified; those pairs are done exactly, in the second reading too. A
   pair can be wrong only where one of its neurons is not certified; such a neuron's row is done exactly in a third.

How far estimates can be wrong: by ``errors`` times their deviation, in Fisher's transform (atanh), where a sketch of `rows`
buckets is off by 1 / sqrt(rows - 3) whatever r is. The deviation is also measured, on pairs drawn at random, and the larger
counts. Two kinds of neurons are not left to this law and have their rows done exactly: those whose sketch has not the
length that it should, and those with so much of their variance at one position that one shared bucket could move an
estimate by two deviations.
"""

import logging
from typing import NamedTuple

import numpy as np
import torch
from scipy import special

from rosetta.matching.chosen import Chosen, Known, Rectangle, check_positions, with_equals
from rosetta.matching.correlation import tiles
from rosetta.matching.cost import ROWS
from rosetta.matching.nearest import exact_neighbours, mutual_pairs, widths
from rosetta.matching.sketch import Estimator, PairSketch

logger = logging.getLogger(__name__)

#: Expected number of wrong pairs that `errors` is chosen by.
WRONG_PAIRS = 1e-6
#: Pairs drawn at random, on which the estimates' deviation is measured.
MEASURED = 2048
#: Bytes of a tile of estimates: no faster if larger.
TILE_BYTES = 2**28


def screen_and_verify(
    batches,
    k: int = 1,
    *,
    rows: int = ROWS,
    candidates: int | None = None,
    errors: float | None = None,
    seed: int = 0,
    keys: np.ndarray | None = None,
    layers=None,
    memory_bytes: int = 4 * 2**30,
    device="cpu",
):
    """Nearest neighbours of all neurons, as exact matching has them wherever they decide on a pair.

    Parameters
    ----------
    batches : iterable of (A [T, n_a], B [T, n_b])
        One that can be gone through again; it is read two or three times, more only where `memory_bytes` asks for it.
    k : int
        Neighbours wanted of each neuron.
    rows : int
        Buckets of the sketches. More rows: finer estimates, dearer products.
    candidates : int, optional
        How many neurons at most are verified for each; at least k. By default 64, or k if that is more.
    errors : float, optional
        Deviations by which an estimate may be wrong. By default so many that, were the errors normal, fewer than 1e-6
        pairs in all would be wrong: about 7 for a thousand neurons a side, 8 for a hundred thousand.
    seed : int
        Of the hash of positions, and of the pairs on which the estimates are measured.
    keys : int64 [positions], optional
        The positions' keys, for all batches together; by default what the batches carry as ``keys``, or running numbers.
    layers : (sequence of int, sequence of int), optional
        Neurons of each layer; by default the first batch tells how many there are.
    memory_bytes : int
        For sketches, tiles and accumulators.
    device : str or torch.device

    Returns
    -------
    Neighbours of A's neurons [n_a, k], of B's [n_b, k], and a dict of facts
        As `mutual.match_table` takes them. The neighbours of a neuron that is in no mutual pair may be unsettled.

    Raises
    ------
    ValueError
        If candidates < k, rows < 1, errors <= 0, there are fewer than two positions, the sketches do not fit the memory,
        the batches can be read only once, or they change from one reading to the next; on NaN or infinity.
    """
    candidates = max(64, k) if candidates is None else candidates
    if candidates < k or rows < 1:
        raise ValueError(f"candidates is {candidates} and rows {rows}; allowed are at least k = {k} and at least 1")
    if iter(batches) is batches:
        raise ValueError("sketching reads the batches twice; pass a list or AlignedBatches, not a generator")
    keys = getattr(batches, "keys", None) if keys is None else keys
    batches, n_a, n_b = widths(batches, layers)
    errors = float(-special.ndtri(WRONG_PAIRS / (n_a * n_b))) if errors is None else errors
    if not errors > 0:
        raise ValueError(f"errors is {errors}; it must be more than 0")
    needed = 8 * rows * (n_a + n_b)
    if needed + 16 > memory_bytes:
        raise ValueError(
            f"sketches of {rows} rows need {needed:,} bytes for {n_a} and {n_b} neurons; memory_bytes is "
            f"{memory_bytes:,}: give more, or fewer rows"
        )
    sketch = PairSketch(n_a, n_b, rows, seed, device=device)
    for a, b in batches:
        sketch.update(a, b, None if keys is None else keys[sketch.positions : sketch.positions + len(a)])
    if keys is not None and len(keys) != sketch.positions:
        raise ValueError(f"keys are for {len(keys)} positions; the batches hold {sketch.positions}")
    sides, sample = _screen(sketch, k, candidates, errors, min(TILE_BYTES, memory_bytes - needed // 2))
    facts = {"method": "sketch", "rows": int(rows), "candidates": int(candidates), "errors": errors}
    a, b = sides
    hopeless = np.sum(a.weak) * np.sum(b.weak) + np.sum(a.odd) * n_b + np.sum(b.odd) * n_a
    if 2 * hopeless >= n_a * n_b:
        logger.info(
            "neighbours of %d and %d of %d and %d neurons are too close for sketches of %d rows: nothing to order, "
            "done exactly", a.weak.sum() + a.odd.sum(), b.weak.sum() + b.odd.sum(), n_a, n_b, rows,
        )  # fmt: skip
        ((of_a, of_b, counts),) = exact_neighbours(batches, k, ([n_a], [n_b]), memory_bytes, device)
        check_positions(sketch.positions, counts["positions"])
        facts |= {"certified_a": 0.0, "certified_b": 0.0, "exact_block": [n_a, n_b], "exact_rows": [0, 0]}
        readings = 1 + len(list(tiles(n_a, n_b, memory_bytes)))
        return of_a, of_b, counts | facts | {"readings": readings, "note": "nothing to order: done exactly"}

    known, chosen = Known(n_a, n_b, k), Chosen(batches, sketch, k, memory_bytes, device)
    rectangles = [Rectangle(*(np.flatnonzero(side.weak) for side in sides))]
    rectangles += _rows_and_columns([a.odd, b.odd], [np.zeros(n_a, bool), np.zeros(n_b, bool)], sides)
    deviation = _verify(sides, sample, rectangles, known, chosen)
    certified = [_certified(side, known.best(i).values[:, -1], errors * deviation) for i, side in enumerate(sides)]
    best, settled = _settle(sides, certified, known, chosen)
    best = with_equals(best, [side.same for side in sides], k)
    shares = [float(yes.sum() / max(1, side.alive.sum())) for yes, side in zip(certified, sides, strict=True)]
    facts |= {"certified_a": shares[0], "certified_b": shares[1]}
    facts |= {"exact_block": [int(side.weak.sum()) for side in sides], "exact_rows": [int(s.sum()) for s in settled]}
    facts |= {"readings": 1 + chosen.readings, "deviation": float(deviation)}
    logger.info("certified %.1f%% and %.1f%% of the neurons; the others exactly: a block of %d x %d, and %d rows, %d columns",
                100 * shares[0], 100 * shares[1], *facts["exact_block"], *facts["exact_rows"])  # fmt: skip
    dead = {f"dead_{name}": int((~side.moments.changed).sum()) for name, side in (("a", sketch.a), ("b", sketch.b))}
    return *best, {"positions": sketch.positions, **dead, **facts}


class _Screened(NamedTuple):
    """What the screen says of one side's n neurons."""

    indices: np.ndarray  # [n, w], the most similar neurons by estimate
    kept: np.ndarray  # bool [n, w], the candidates among them
    bound: np.ndarray  # [n], the largest estimate not kept, in Fisher's transform
    weak: np.ndarray  # bool [n], cannot be certified with so few candidates
    odd: np.ndarray  # bool [n], estimates of theirs do not follow the law
    alive: np.ndarray  # bool [n], neither dead nor equal to one before it
    same: np.ndarray  # [n], the first neuron that each is equal to


class _Sample(NamedTuple):
    """Pairs drawn at random, to see how far estimates are off where nothing was chosen by them."""

    u: np.ndarray
    v: np.ndarray
    estimate: np.ndarray


def _screen(
    sketch: PairSketch, k: int, candidates: int, errors: float, memory_bytes: int
) -> tuple[list[_Screened], _Sample]:
    """Both sides' candidates, from all products of sketches, tile by tile."""
    a, b = sketch.estimators()
    sketch.a.sums = sketch.b.sums = None  # large, and the estimators have what is left to know
    n_a, n_b = a.unit.shape[1], b.unit.shape[1]
    same = [_first_equal(side, of) for side, of in ((a, sketch.a), (b, sketch.b))]
    of_a, of_b = _Top(n_a, min(candidates + 1, n_b), a.unit.device), _Top(n_b, min(candidates + 1, n_a), a.unit.device)
    for i, j in tiles(n_a, n_b, memory_bytes):
        estimate = a.unit[:, i].T @ b.unit[:, j]
        estimate[~a.alive[i]] = -torch.inf
        estimate[:, ~b.alive[j]] = -torch.inf
        of_a.add(i, estimate, j)
        of_b.add(j, estimate.T.contiguous(), i)
    sides = [
        _screened(top, side, first, sketch.rows, k, candidates, errors)
        for top, side, first in zip((of_a, of_b), (a, b), same, strict=True)
    ]
    u, v = (_drawn(side, sketch.seed + i) for i, side in enumerate(sides))
    estimate = (a.unit[:, u] * b.unit[:, v]).sum(0) if len(u) and len(v) else torch.empty(0)
    n = len(estimate)
    return sides, _Sample(u[:n], v[:n], estimate.cpu().numpy())


def _drawn(side: "_Screened", seed: int) -> np.ndarray:
    usual = np.flatnonzero(side.alive & ~side.odd)
    return usual[np.random.default_rng(abs(seed)).integers(len(usual), size=MEASURED)] if len(usual) else usual


def _first_equal(side: Estimator, of) -> np.ndarray:
    """The first neuron that each is equal to, mostly itself. Only the first of equals stays alive: its neighbours are
    theirs, and no rounding can then order what is equal."""
    same = np.arange(len(side.alive))
    alive = side.alive.cpu().numpy()
    facts = np.stack([part.cpu().numpy() for part in (of.moments.mean, of.moments.squares)], axis=1)
    _, group, size = np.unique(facts, axis=0, return_inverse=True, return_counts=True)
    group = group.reshape(-1)
    suspects = np.flatnonzero(alive & (size[group] > 1))
    for members in np.split(suspects[np.argsort(group[suspects], kind="stable")], _changes(np.sort(group[suspects]))):
        if len(members) > 1:
            sketches = side.unit[:, members].T.cpu().numpy()
            _, first, which = np.unique(sketches, axis=0, return_index=True, return_inverse=True)
            same[members] = members[first[which.reshape(-1)]]
    side.alive &= torch.from_numpy(same == np.arange(len(same))).to(side.alive.device)
    return same


def _changes(sorted_values: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.diff(sorted_values)) + 1


class _Top:
    """The w largest estimates of each neuron, of tiles."""

    def __init__(self, n: int, w: int, device):
        self.values = torch.full((n, w), -torch.inf, device=device)
        self.indices = torch.full((n, w), -1, device=device)

    def add(self, neurons: slice, estimate: torch.Tensor, others: slice) -> None:
        w = self.values.shape[1]
        values, indices = estimate.topk(min(w, estimate.shape[1]), dim=1)
        values = torch.cat([self.values[neurons], values], dim=1)
        indices = torch.cat([self.indices[neurons], indices + others.start], dim=1)
        self.values[neurons], best = values.topk(w, dim=1)
        self.indices[neurons] = indices.gather(1, best)


def _screened(
    top: _Top, side: Estimator, same: np.ndarray, rows: int, k: int, candidates: int, errors: float
) -> _Screened:
    values, indices = top.values.cpu().numpy(), top.indices.cpu().numpy()
    estimate, deviation = fisher(values), _deviation(rows)
    w = estimate.shape[1]
    kth = estimate[:, [min(k, w) - 1]]
    with np.errstate(invalid="ignore"):  # infinity less infinity, of a neuron without neighbours
        near = estimate >= kth - (errors + 3) * deviation
        rank = np.arange(w)
        kept = (near | (rank < k)) & (rank < candidates) & (values > -np.inf)
        bound = _largest(estimate, kept)
        weak = (bound > -np.inf) & ~(kth[:, 0] - bound >= (errors + 2) * deviation)
    kept[weak] &= rank < k + 3  # a few, which may show that a pair is none
    alive, length, peak = (part.cpu().numpy() for part in (side.alive, side.length, side.peak))
    usual = (np.abs(length - 1) <= errors * np.sqrt(2 / rows)) & (peak <= 2 / np.sqrt(rows))
    odd = alive & ~usual
    return _Screened(indices, kept, bound, weak & ~odd, odd, alive, same)


def _largest(estimate: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The largest estimate of each neuron that is not kept: of those listed, for no other is larger."""
    return np.where(kept, -np.inf, estimate).max(axis=1)


def _verify(
    sides: list[_Screened], sample: _Sample, rectangles: list[Rectangle], known: Known, chosen: Chosen
) -> float:
    """The second reading: candidates and rectangles become known. Gives the deviation of the estimates."""
    a, b = sides
    n_b = len(b.alive)
    row, rank = np.nonzero(a.kept)
    column, rank_b = np.nonzero(b.kept)
    u = np.concatenate([row, b.indices[column, rank_b]])
    v = np.concatenate([a.indices[row, rank], column])
    in_rectangle = (a.weak[u] & b.weak[v]) | a.odd[u] | b.odd[v]
    places = np.unique((u * n_b + v)[~in_rectangle])
    drawn = sample.u * n_b + sample.v
    both = np.union1d(places, drawn)
    exact = chosen.read(rectangles, known, *np.divmod(both, n_b))
    known.add_pairs(*np.divmod(places, n_b), exact[np.searchsorted(both, places)])
    off = fisher(sample.estimate) - fisher(exact[np.searchsorted(both, drawn)])
    measured = float(np.sqrt(np.mean(off**2))) if len(off) else 0.0
    return max(_deviation(chosen.sketch.rows), measured)


def _settle(sides: list[_Screened], certified: list[np.ndarray], known: Known, chosen: Chosen):
    """Further readings, mostly one: exact rows of neurons that are in a pair and not certified, until there are none.

    Gives the neighbours of both sides, and whose rows have been done exactly.
    """
    settled = [side.odd.copy() for side in sides]
    # Those neither certified nor weak have neighbours that turned out closer than their estimates said.
    todo = [~(yes | side.weak | side.odd) & side.alive for yes, side in zip(certified, sides, strict=True)]
    while True:
        best = known.best(0), known.best(1)
        pairs, _, _ = mutual_pairs(*best)
        for side in (0, 1):
            todo[side][pairs[:, side]] = True
            todo[side] &= ~(certified[side] | settled[side])
        if not (todo[0].any() or todo[1].any()):
            return best, settled
        chosen.read(_rows_and_columns(todo, settled, sides), known)
        settled = [before | now for before, now in zip(settled, todo, strict=True)]
        todo = [np.zeros_like(now) for now in todo]


def _certified(side: _Screened, kth: np.ndarray, allowed: float) -> np.ndarray:
    """Whose k-th best neighbour is nearer than any that was not kept can be."""
    with np.errstate(invalid="ignore"):  # infinity less infinity: nobody known, and nobody left
        enough = (side.bound == -np.inf) | (fisher(kth) - side.bound >= allowed)
    return enough & side.alive & ~side.weak & ~side.odd


def _rows_and_columns(wanted: list[np.ndarray], settled: list[np.ndarray], sides: list[_Screened]) -> list[Rectangle]:
    """What is left to know of the rows and columns of some neurons, besides the weak neurons' block, each pair once."""
    a, b = sides
    columns, rows = b.alive & ~settled[1], a.alive & ~settled[0] & ~wanted[0]
    parts = [
        (wanted[0] & a.weak, columns & ~b.weak),
        (wanted[0] & ~a.weak, columns),
        (rows & ~a.weak, wanted[1] & b.weak),
        (rows, wanted[1] & ~b.weak),
    ]
    return [Rectangle(np.flatnonzero(rows), np.flatnonzero(columns)) for rows, columns in parts]


def fisher(r: np.ndarray) -> np.ndarray:
    """Fisher's transform, atanh(r), finite for all r; -inf, for nobody, stays."""
    with np.errstate(invalid="ignore"):
        return np.where(r == -np.inf, -np.inf, np.arctanh(np.clip(r.astype(np.float64), -1 + 1e-6, 1 - 1e-6)))


def _deviation(rows: int) -> float:
    return 1 / np.sqrt(rows - 3) if rows > 3 else np.inf
