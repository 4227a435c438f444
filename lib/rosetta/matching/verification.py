"""What follows a screen: exact correlations of the candidates that matter, and of what no estimate can order.

1. The second reading gives exact correlations of the first on each list, and so how near a neighbour must be to be among
   the k nearest. A neuron whose list reaches farther down than that, by more than estimates can be wrong, is *certified*:
   once those on its list that still matter are exact, its nearest neighbours are those of exact matching.
2. A third reading, if it is needed, does those that still matter, and exactly what is not certified: all pairs of two such
   neurons, and the whole rows of those that are in a pair.

How far an estimate can be wrong: by ``errors`` times its deviation, in Fisher's transform (atanh), where a sketch of `rows`
buckets is off by 1 / sqrt(rows - 3) whatever r is. The deviation is also measured, on pairs drawn at random, and the larger
counts. Rounding to bfloat16 adds up to `ROUNDED` times r. Two kinds of neurons are not left to this law and have their rows
done exactly: those whose sketch has not the length that it should, and those with so much of their variance at one
position that one shared bucket could move an estimate by two deviations.
"""

import logging
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rosetta.matching.chosen import Chosen, Known, Rectangle, groups
from rosetta.matching.correlation import Moments
from rosetta.matching.nearest import Neighbours, exact, mutual_pairs
from rosetta.matching.rounds import Round

logger = logging.getLogger(__name__)

#: Pairs drawn at random, on which the estimates' deviation is measured.
MEASURED = 2048
#: Candidates a neuron up to which all of them are verified in the second reading, so that mostly no third is needed.
AT_ONCE = 16

Way = Generator[Round, Round, Any]


@dataclass
class Screened:
    """What the screen says of one side's n neurons.

    Attributes
    ----------
    moments : Moments
    values, indices : [n, w]
        The w largest estimates of r, falling, and whose they are; -inf where there are fewer.
    rest : [n]
        No estimate that is not listed is larger; -inf where all are listed.
    alive : bool [n]
        Not dead.
    odd : bool [n]
        Estimates of theirs do not follow the law.
    """

    moments: Moments
    values: np.ndarray
    indices: np.ndarray
    rest: np.ndarray
    alive: np.ndarray
    odd: np.ndarray

    def near(self, law: "Law", nearness: np.ndarray) -> np.ndarray:
        """bool [n, w]: which of the listed can be as near as this, in Fisher's transform [n]."""
        usual = (self.alive & ~self.odd)[:, None]
        return usual & (self.values > -np.inf) & (law.most(self.values) >= nearness[:, None])

    def weak(self, law: "Law", nearness: np.ndarray) -> np.ndarray:
        """bool [n]: who can have neighbours as near as this that are not listed."""
        return self.alive & ~self.odd & (self.rest > -np.inf) & (law.most(self.rest) >= nearness)


@dataclass
class Law:
    """How far estimates can be wrong: bounds of atanh(r) from an estimate of r."""

    errors: float
    deviation: float
    rounded: float

    def most(self, estimate: np.ndarray) -> np.ndarray:
        """atanh(r) is no more than this."""
        return self._bound(estimate, 1)

    def least(self, estimate: np.ndarray) -> np.ndarray:
        """atanh(r) is no less than this."""
        return self._bound(estimate, -1)

    def _bound(self, estimate: np.ndarray, sign: int) -> np.ndarray:
        rounded = np.where(estimate == -np.inf, 0, sign * self.rounded * np.abs(estimate))
        with np.errstate(invalid="ignore"):  # nobody, with sketches of so few rows that anything can be
            return fisher(estimate + rounded) + sign * self.errors * self.deviation


@dataclass
class Sample:
    """Pairs drawn at random, to see how far estimates are off where nothing was chosen by them."""

    u: np.ndarray
    v: np.ndarray
    estimate: np.ndarray

    @classmethod
    def draw(cls, n_a: int, n_b: int, seed: int) -> "Sample":
        rng = np.random.default_rng(abs(seed))
        places = np.unique(rng.integers(n_a * n_b, size=MEASURED))
        return cls(*np.divmod(places, n_b), np.full(len(places), np.nan, dtype=np.float32))

    def of_tile(self, i: slice, j: slice, estimate: torch.Tensor) -> None:
        inside = (self.u >= i.start) & (self.u < i.stop) & (self.v >= j.start) & (self.v < j.stop)
        self.estimate[inside] = estimate[self.u[inside] - i.start, self.v[inside] - j.start].cpu().numpy()

    def of(self, usual: list[np.ndarray]) -> "Sample":
        """Those of two neurons whose estimates follow the law."""
        both = usual[0][self.u] & usual[1][self.v]
        return Sample(self.u[both], self.v[both], self.estimate[both])


def verified(
    sides: list[Screened], k: int, law: Law, sample: Sample, facts: dict, memory_bytes: int, device,
    exact_share: float = 1.0,
) -> Way:  # fmt: skip
    """The rounds after the screen.

    Parameters
    ----------
    sides : list of Screened
        Of A and of B.
    k, memory_bytes, device
        As for `screening.by_sketches`.
    law : Law
        Its deviation is raised to what is measured.
    sample : Sample
    facts : dict
        What the screen says of itself; ``positions`` and ``readings`` are in it.
    exact_share : float
        Of the table, how much may be done exactly where estimates do not decide. If that is not enough, the neurons left
        open are in no pair.
    """
    n_a, n_b = len(sides[0].alive), len(sides[1].alive)
    facts |= {f"dead_{name}": int((~side.moments.changed).sum()) for name, side in zip("ab", sides, strict=True)}
    facts |= {"candidates": sides[0].values.shape[1], "errors": law.errors}
    if facts["positions"] < 2:
        raise ValueError(f"a correlation needs at least 2 positions; these batches hold {facts['positions']}")
    known = Known(tuple(side.alive for side in sides), k)
    reader = _Reader([side.moments for side in sides], memory_bytes, device)

    sample = sample.of([side.alive & ~side.odd for side in sides])
    first, drawn = _places(sides, _first(sides, k, law)), sample.u * n_b + sample.v
    yield from reader.read(known, np.union1d(first, drawn), [])
    off = fisher(sample.estimate) - fisher(known.of_pairs(drawn))
    law.deviation = max(law.deviation, float(np.sqrt(np.mean(off**2))) if len(off) else 0.0)

    best = known.best(0), known.best(1)
    nearness = [fisher(nearest.values[:, -1]) for nearest in best]
    weak = [side.weak(law, near) for side, near in zip(sides, nearness, strict=True)]
    listed, in_pairs = _mattering(sides, law, nearness, weak)
    # Those in a pair of what is known already most likely stay in one: done now, they need no reading more.
    wanted = [
        side.odd | (no & (can | now)) for side, no, can, now in zip(sides, weak, in_pairs, _paired(*best), strict=True)
    ]
    nobody = [np.zeros_like(one) for one in weak]
    if exact_share >= 1 and 2 * _cells(weak, [side.odd for side in sides]) >= n_a * n_b:
        logger.info("estimates cannot order the neighbours of %d and %d of %d and %d neurons: all are done exactly",
                    weak[0].sum(), weak[1].sum(), n_a, n_b)  # fmt: skip
        ((of_a, of_b, more),) = yield from exact(n_a, n_b, k, memory_bytes, device)
        facts["readings"] += reader.readings + more["readings"]
        facts |= {"certified_a": 0.0, "certified_b": 0.0, "exact_block": [n_a, n_b], "exact_rows": [0, 0]}
        return of_a, of_b, facts | {"note": "nothing to order: done exactly"}

    affordable = exact_share >= 1 or _cells(weak, wanted) <= exact_share * n_a * n_b
    block, wanted = (weak, wanted) if affordable else (nobody, nobody)
    rectangles, settled = [Rectangle(*map(np.flatnonzero, block)), *_rows_and_columns(wanted)], nobody
    places = _places(sides, listed)
    places = places[~known.has(places)]
    while len(places) or any(len(rows) and len(columns) for rows, columns in rectangles):
        yield from reader.read(known, places, rectangles)
        settled = [before | now for before, now in zip(settled, wanted, strict=True)]
        best = known.best(0), known.best(1)
        wanted = [now & no & ~done for now, no, done in zip(_paired(*best), block, settled, strict=True)]
        places, rectangles = places[:0], _rows_and_columns(wanted)
    facts["readings"] += reader.readings
    facts |= {"deviation": float(law.deviation), "exact_block": [int(one.sum()) for one in block]}
    facts |= {"exact_rows": [int(one.sum()) for one in settled]}
    for name, side, no, nearest in zip("ab", sides, weak, best, strict=True):
        left = side.alive & (no | side.odd)
        facts[f"certified_{name}"] = 1 - float(left.sum() / max(1, side.alive.sum()))
        if not affordable:
            nearest.indices[left] = -1
            facts[f"left_open_{name}"] = int(left.sum())
    logger.info("certified %.1f%% and %.1f%% of the neurons; the others %s: a block of %d x %d, and %d rows, %d columns",
                100 * facts["certified_a"], 100 * facts["certified_b"], "exactly" if affordable else "are left open",
                *facts["exact_block"], *facts["exact_rows"])  # fmt: skip
    return *best, facts


class _Reader:
    """Asks for the rounds that make some correlations known."""

    def __init__(self, moments: list[Moments], memory_bytes: int, device):
        self.moments, self.memory_bytes, self.device, self.readings = moments, memory_bytes, device, 0

    def read(self, known: Known, places: np.ndarray, rectangles: list[Rectangle]) -> Generator[Round, Round, None]:
        pairs = np.divmod(places, known.n[1])
        for group in groups(rectangles, self.memory_bytes):
            (yield Chosen(*self.moments, *pairs, group, self.device)).into(known)
            self.readings += 1
            pairs = np.empty((2, 0), dtype=np.int64)


def _first(sides: list[Screened], k: int, law: Law) -> list[np.ndarray]:
    """Who on the lists is verified first, bool [n, w]: all that can matter if they are few, or else the first few."""
    few = [np.broadcast_to(np.arange(side.values.shape[1]) < k + 2, side.values.shape) for side in sides]
    few = [side.near(law, np.full(len(side.alive), -np.inf)) & some for side, some in zip(sides, few, strict=True)]
    nearness = [law.least(side.values[:, min(k, side.values.shape[1]) - 1]) for side in sides]
    near = [side.near(law, one) for side, one in zip(sides, nearness, strict=True)]
    if sum(int(one.sum()) for one in near) > AT_ONCE * sum(len(side.alive) for side in sides):
        return few
    hopeless = [side.weak(law, one) for side, one in zip(sides, nearness, strict=True)]
    return [np.where(no[:, None], some, every) for no, some, every in zip(hopeless, few, near, strict=True)]


def _mattering(
    sides: list[Screened], law: Law, nearness: list[np.ndarray], weak: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Who on the lists can still matter, bool [n, w], and which neurons can be in a pair that a list shows, bool [n]."""
    near = [side.near(law, one) & ~no[:, None] for side, one, no in zip(sides, nearness, weak, strict=True)]
    in_pairs = [np.zeros(len(side.alive), dtype=bool) for side in sides]
    for i, side in enumerate(sides):
        others = nearness[1 - i][np.maximum(side.indices, 0)]
        neuron, rank = np.nonzero(near[i] & (law.most(side.values) >= others))
        in_pairs[i][neuron] = True
        in_pairs[1 - i][side.indices[neuron, rank]] = True
    return [one & can[:, None] for one, can in zip(near, in_pairs, strict=True)], in_pairs


def _paired(of_a: Neighbours, of_b: Neighbours) -> list[np.ndarray]:
    """Which neurons are in a mutual pair, bool [n]."""
    pairs, _, _ = mutual_pairs(of_a, of_b)
    return [np.isin(np.arange(len(side.indices)), pairs[:, i]) for i, side in enumerate((of_a, of_b))]


def _places(sides: list[Screened], chosen: list[np.ndarray]) -> np.ndarray:
    """The chosen of both sides' lists as places in the table, u n_b + v, ascending."""
    n_b = len(sides[1].alive)
    row, rank = np.nonzero(chosen[0])
    column, rank_b = np.nonzero(chosen[1])
    of_a, of_b = sides[0].indices[row, rank], sides[1].indices[column, rank_b]
    return np.union1d(row * n_b + of_a, of_b * n_b + column)


def _cells(weak: list[np.ndarray], rows: list[np.ndarray]) -> int:
    """How many correlations are done exactly, at least."""
    a, b = (len(one) for one in weak)
    return int(weak[0].sum() * weak[1].sum() + rows[0].sum() * b + rows[1].sum() * a)


def _rows_and_columns(wanted: list[np.ndarray]) -> list[Rectangle]:
    """The whole rows and columns of some neurons. Dead ones are left in: to take them out would copy all others."""
    a, b = (np.arange(len(some)) for some in wanted)
    return [Rectangle(np.flatnonzero(wanted[0]), b), Rectangle(a, np.flatnonzero(wanted[1]))]


def fisher(r: np.ndarray) -> np.ndarray:
    """Fisher's transform, atanh(r), finite for all r; -inf, for nobody, stays."""
    with np.errstate(invalid="ignore"):
        return np.where(
            r == -np.inf, -np.inf, np.arctanh(np.clip(np.asarray(r, dtype=np.float64), -1 + 1e-6, 1 - 1e-6))
        )
