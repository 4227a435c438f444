"""Which positions are compared decides what chance can do (beyond the paper; notebook 02).

Three ways to change them. *Thinning* leaves out most of the frequent spans: what untrained networks share is, above
all, the most frequent tokens, and a pair of trained neurons survives without them. *Shifting* is a null that keeps the
order of the text, where a permutation (`nulls.Permuted`) destroys it. *Planting* outliers shows what a few positions of
enormous activation, which published language models have, do to every count; `outliers` finds and leaves out such positions.
"""

from collections.abc import Iterable

import numpy as np
import torch

from rosetta.matching.batches import HeldBatches
from rosetta.matching.segments import Segment


def thinning(pieces: Iterable[Segment], t: float, seed: int) -> np.ndarray:
    """Which canonical spans are kept when frequent ones are thinned: each with probability min(1, sqrt(t / f)).

    f is the share of all spans that have the span's bytes. It is the subsampling of frequent words of Mikolov et al.
    (2013), drawn once.

    Parameters
    ----------
    pieces : iterable of Segment
        Read once.
    t : float
        Above 0; a span of a share up to t is always kept.
    seed : int

    Returns
    -------
    bool [positions]
        In the order of the segments, and of the spans in each.

    Raises
    ------
    ValueError
        If t is not above 0.
    """
    if not t > 0:
        raise ValueError(f"t is {t}; it must be above 0")
    kinds: dict[bytes, int] = {}
    spans = np.concatenate([
        np.array([kinds.setdefault(text, len(kinds)) for text in span_texts(piece)], dtype=np.int32)
        for piece in pieces
    ])  # fmt: skip
    share = np.bincount(spans)[spans] / len(spans)
    return np.random.default_rng(seed).random(len(spans)) < np.sqrt(t / share)


def span_texts(piece: Segment) -> list[bytes]:
    """The bytes of each canonical span of a segment."""
    data = piece.document.text.encode()
    return [data[start:end] for start, end in piece.canonical.tolist()]


# ---------------------------------------------------------------------------------------------------------------------
# Of batches in memory


def selected(batches: HeldBatches, rows: np.ndarray | slice) -> HeldBatches:
    """Batches of some positions only: bool [positions], or a slice, which copies nothing."""
    rows = torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows
    a, b = _sides(batches)
    return _held(a[rows], b[rows], batches)


def shifted(batches: HeldBatches, by: int) -> HeldBatches:
    """Batches whose B rows are shifted in a circle: A's row i meets the row of B that stands `by` positions later.

    What follows what stays as it is in both models; only which of the two belong together is destroyed.

    Raises
    ------
    ValueError
        If the shift is no shift: `by` must lie between 1 and the number of positions less 1.
    """
    a, b = _sides(batches)
    if not 1 <= by < len(b):
        raise ValueError(f"by is {by}; it must lie between 1 and {len(b) - 1}")
    return _held(a, b.roll(-by, 0), batches)


def planted(batches: HeldBatches, share: float, size: float, seed: int) -> HeldBatches:
    """Batches with one large activation vector added at some positions, in A and in B at the same ones.

    Parameters
    ----------
    batches : HeldBatches
    share : float
        Of the positions, drawn at random; at least one is.
    size : float
        Of the vector: normal draws, one a neuron, times so many of the neuron's standard deviations.
    seed : int
    """
    rng = np.random.default_rng(seed)
    sides = [side.float().clone() for side in _sides(batches)]
    positions = len(sides[0])
    rows = torch.from_numpy(rng.choice(positions, max(1, round(share * positions)), replace=False))
    for side in sides:
        direction = torch.from_numpy(rng.standard_normal(side.shape[1])).to(side)
        side[rows.to(side.device)] += size * side.std(0) * direction
    return _held(*sides, batches)


def _sides(batches: HeldBatches) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = (side[0] if len(side) == 1 else torch.cat(side) for side in zip(*batches, strict=True))
    return a, b


def _held(a: torch.Tensor, b: torch.Tensor, of: HeldBatches) -> HeldBatches:
    return HeldBatches([(a, b)], of.names, of.layers)
