"""Screen and verify: the matches of `matching` for a part of the arithmetic.

Screening: the T values of each neuron are folded into a few thousand sums with random signs (a count sketch). The
correlation of two neurons' sketches estimates theirs with an error of about 1/sqrt(buckets). Verifying: a second pass
accumulates the exact correlation of each neuron with its best candidates. A pair is missed only where a true nearest
neighbour is not among the candidates.
"""

import numpy as np
import torch

from rosetta.matching.correlation import Moments, joined_weight


def screen_and_verify(batches, k: int = 1, *, buckets: int = 2048, candidates: int = 8, seed: int = 0, device="cpu"):
    """Nearest neighbours of all neurons, from two passes over the batches.

    Parameters
    ----------
    batches : iterable of (A [T, n_a], B [T, n_b])
        One that can be gone through twice.
    k : int
        Neighbours wanted of each neuron.
    buckets : int
        Rows of the sketches.
    candidates : int
        How many of the most similar neurons, by sketch, are verified for each neuron; at least k.
    seed : int
        Of the buckets and signs.
    device : str or torch.device

    Returns
    -------
    (values, indices) of A's neurons, the same of B's, each [n, k], and a dict of facts
        As `matching.match_table` takes them.

    Raises
    ------
    ValueError
        If candidates < k, buckets < 1, there are fewer than two positions, or the batches can be read only once.
    """
    if candidates < k or k < 1 or buckets < 1:
        allowed = f"at least k = {k} and at least 1"
        raise ValueError(f"candidates is {candidates} and buckets {buckets}; allowed are {allowed}")
    if iter(batches) is batches:
        raise ValueError("sketching reads the batches twice; pass a list or AlignedBatches, not a generator")
    sketch_a, sketch_b = _sketches(batches, buckets, seed, device)
    estimate = sketch_a.T @ sketch_b
    n_a, n_b = estimate.shape
    pairs = _candidates(estimate, candidates)
    del estimate
    exact, facts = _verify(batches, pairs, device)
    return _best(pairs[0], pairs[1], exact, n_a, k), _best(pairs[1], pairs[0], exact, n_b, k), facts


def _sketches(batches, buckets: int, seed: int, device) -> list[torch.Tensor]:
    """Count sketches of both sides, [buckets, n], each neuron centred and of unit length."""
    rng = torch.Generator().manual_seed(seed)
    sides, positions = None, 0
    for batch in batches:
        if sides is None:
            sides = [_Sketch(x, buckets, device) for x in batch]
        bucket = torch.randint(buckets, (len(batch[0]),), generator=rng).to(device)
        sign = (torch.randint(2, (len(batch[0]), 1), generator=rng) * 2.0 - 1).to(device)
        for side, x in zip(sides, batch, strict=True):
            side.add(x, bucket, sign)
        positions += len(batch[0])
    if positions < 2:
        raise ValueError(f"a correlation needs at least 2 positions; these batches hold {positions}")
    return [side.centred(positions) for side in sides]


class _Sketch:
    def __init__(self, first: torch.Tensor, buckets: int, device):
        self.shift = first.to(device).float().mean(0)
        self.sums = torch.zeros(buckets, first.shape[1], device=device)
        self.signs = torch.zeros(buckets, 1, device=device)
        self.total = torch.zeros(first.shape[1], dtype=torch.float64, device=device)

    def add(self, x: torch.Tensor, bucket: torch.Tensor, sign: torch.Tensor) -> None:
        x = x.to(sign.device).float() - self.shift
        self.total += x.sum(0)
        self.sums.index_add_(0, bucket, x * sign)
        self.signs.index_add_(0, bucket, sign)

    def centred(self, positions: int) -> torch.Tensor:
        """A sketch is linear, so the mean, known only now, is taken out of the sums."""
        sketch = self.sums - self.signs * (self.total / positions).float()
        return torch.nn.functional.normalize(sketch, dim=0)


def _candidates(estimate: torch.Tensor, candidates: int) -> tuple[np.ndarray, np.ndarray]:
    """The pairs (u, v) in which one is among the other's best by sketch, each once."""
    n_a, n_b = estimate.shape
    of_rows = estimate.topk(min(candidates, n_b), dim=1).indices.cpu().numpy()
    of_columns = estimate.topk(min(candidates, n_a), dim=0).indices.cpu().numpy()
    places_of_rows, places_of_columns = np.arange(n_a)[:, None] * n_b + of_rows, of_columns * n_b + np.arange(n_b)
    return np.divmod(np.union1d(places_of_rows, places_of_columns), n_b)


def _verify(batches, pairs: tuple[np.ndarray, np.ndarray], device, chunk: int = 4096) -> tuple[np.ndarray, dict]:
    """Exact correlations of some pairs, and the facts of a MatchTable; NaN where a neuron is dead."""
    u, v = (torch.from_numpy(side).to(device) for side in pairs)
    cross = torch.zeros(len(u), dtype=torch.float64, device=device)
    moments, positions = None, 0
    for batch in batches:
        if not len(batch[0]):
            continue
        moments = moments or [Moments(x.shape[1], device) for x in batch]
        (a, moved_a), (b, moved_b) = (m.centre(x, positions) for m, x in zip(moments, batch, strict=True))
        a, b = a.T.contiguous(), b.T.contiguous()
        for i in range(0, len(u), chunk):
            cross[i : i + chunk] += (a[u[i : i + chunk]] * b[v[i : i + chunk]]).sum(1)
        cross += (moved_a[u] * moved_b[v]).double() * joined_weight(positions, len(batch[0]))
        positions += len(batch[0])
    correlation = cross / moments[0].norm().double()[u] / moments[1].norm().double()[v]
    dead_a, dead_b = (int((~side.changed).sum()) for side in moments)
    facts = {"positions": positions, "dead_a": dead_a, "dead_b": dead_b}
    return correlation.clamp(-1, 1).float().cpu().numpy(), facts


def _best(of: np.ndarray, others: np.ndarray, values: np.ndarray, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each neuron's candidates: values and indices, [n, k], ties by the lower index."""
    order = np.lexsort((others, -values, of))
    order = order[np.isfinite(values[order])]
    of, others, values = of[order], others[order], values[order]
    rank = np.arange(len(of)) - np.searchsorted(of, of)
    top = rank < k
    best = np.full((n, k), -np.inf, dtype=np.float32), np.full((n, k), -1, dtype=np.int64)
    best[0][of[top], rank[top]] = values[top]
    best[1][of[top], rank[top]] = others[top]
    return best
