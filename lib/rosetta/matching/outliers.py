"""Positions that drown the rest: how large each one is, what they are, and what is left without them (beyond the paper).

Published language models have a few positions, the first of a sequence or delimiters, at which many neurons are enormous at
once. All neurons then vary in a few directions only, and correlations are decided at these positions alone.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import torch

from rosetta.matching.batches import Both
from rosetta.matching.correlation import Moments, PearsonAccumulator
from rosetta.matching.positions import span_texts
from rosetta.matching.segments import Segment

#: Neurons of a model whose correlations with each other stand for all: more than any embedded model has.
NEURONS = 5_000
#: Positions that are scaled at a time.
ROWS = 2_048


def survey(
    batches: Iterable[Both], neurons: int = NEURONS, seed: int = 0, device: str | torch.device = "cpu"
) -> pd.DataFrame:
    """How large each position is in either model, and in how many directions the models vary.

    A position's size is the root mean square, over the neurons that ever change, of how many standard deviations they are from
    their means. Its square has a mean of 1 over the positions, so those of a share p can be of a size of at most p^-1/2:
    outliers that are no longer few do not stand out.

    Parameters
    ----------
    batches : iterable of (A [T, n_a], B [T, n_b])
        Gone through twice: for means and standard deviations, and for sizes.
    neurons : int
        At most so many of each model are drawn for the participation ratio; it is exact where the model has no more.
    seed : int
        Of that draw.
    device : str or torch.device
        Where sums are made.

    Returns
    -------
    DataFrame
        A row a position: ``size_a, size_b``, float32. Its ``attrs`` have ``directions_a, directions_b``
        (`participation_ratio`).

    Raises
    ------
    ValueError
        With fewer than two positions, on NaN or infinity, or if the batches can be read only once.
    """
    if iter(batches) is batches:
        raise ValueError("sizes need two readings of the positions; pass a list or AlignedBatches")
    sides = None
    for both in _in_rows(batches):
        sides = sides or [_Side(acts.shape[1], neurons, seed, device) for acts in both]
        for side, acts in zip(sides, both, strict=True):
            side.add(acts)
    if sides is None or sides[0].among.positions < 2:
        raise ValueError("sizes need at least 2 positions")
    sizes = [[side.sizes(acts) for side, acts in zip(sides, both, strict=True)] for both in _in_rows(batches)]
    table = pd.DataFrame(
        {f"size_{x}": np.concatenate(of) for x, of in zip("ab", zip(*sizes, strict=True), strict=True)}
    )
    table.attrs = {f"directions_{x}": side.directions() for x, side in zip("ab", sides, strict=True)}
    return table


class _Side:
    """One model's neurons: the moments of all, and how some of them correlate with each other."""

    def __init__(self, n: int, neurons: int, seed: int, device):
        self.chosen = torch.from_numpy(np.sort(np.random.default_rng(seed).permutation(n)[:neurons]))
        self.among = PearsonAccumulator(len(self.chosen), len(self.chosen), device)
        self.moments = self.among.a if len(self.chosen) == n else Moments(n, device)

    def add(self, acts: torch.Tensor) -> None:
        if self.moments is not self.among.a:
            self.moments.centre(acts, self.among.positions)
            acts = acts[:, self.chosen.to(acts.device)]
        self.among.update(acts, acts)

    def sizes(self, acts: torch.Tensor) -> np.ndarray:
        moments, norm = self.moments, self.moments.norm()
        alive = (~norm.isnan()).nonzero().squeeze(1)
        x = acts.to(norm.device)[:, alive].float().sub_(moments.shift[alive]).mul_(moments.scale[alive])
        z = x.sub_(moments.mean[alive].float()).div_(norm[alive] / self.among.positions**0.5)
        return z.square_().sum(1).div_(max(1, len(alive))).sqrt_().cpu().numpy()

    def directions(self) -> float:
        return participation_ratio(self.among.correlation(), int((~self.moments.norm().isnan()).sum()))


def participation_ratio(corr: torch.Tensor, neurons: int | None = None) -> float:
    """trace(C)^2 / trace(C^2) of a correlation matrix C: in how many directions neurons vary.

    Parameters
    ----------
    corr : [n, n]
        Of neurons that may be a sample; those that never change are NaN, and have no part in it.
    neurons : int, optional
        How many the ratio is of; by default those of `corr`. The squares that are not on the diagonal are then taken to have
        the mean of the sample's.

    Returns
    -------
    float
        NaN where no neuron ever changes.
    """
    n = int((~corr.diagonal().isnan()).sum())
    neurons = n if neurons is None else neurons
    if n < 1:
        return float("nan")
    beside = float(corr.square().nansum(dtype=torch.float64)) - n
    pairs = neurons * (neurons - 1) / max(1, n * (n - 1))
    return neurons**2 / (neurons + beside * pairs)


def outlying(sizes: pd.DataFrame, size: float | None) -> np.ndarray:
    """bool [positions]: which of them are larger than `size` in either model, as `survey` has it; none where it is None."""
    return (sizes[["size_a", "size_b"]] > (np.inf if size is None else size)).any(axis=1).to_numpy()


def first_positions(pieces: Iterable[Segment], n: int) -> np.ndarray:
    """bool [positions]: which of them are among the first n canonical spans of their sequence.

    A sequence is what a model reads at a time: a document that is longer than the context is several.
    """
    return np.concatenate([np.arange(len(piece.canonical)) < n for piece in pieces])


def left(firsts: np.ndarray, sizes: pd.DataFrame | None = None, size: float | None = None) -> np.ndarray:
    """bool [positions]: those that are left without the first ones of sequences, and without those larger than a size.

    Parameters
    ----------
    firsts : bool [positions]
        What `first_positions` gives.
    sizes : DataFrame, optional
        What `survey` gives, of these positions or of more that follow them; not looked at where `size` is None.
    size : float, optional
        None: of any size.

    Raises
    ------
    ValueError
        If there are sizes of fewer positions, or none are left.
    """
    kept = ~firsts
    if size is not None:
        if len(sizes) < len(kept):
            raise ValueError(f"sizes are of {len(sizes)} positions; there are {len(kept)}")
        kept &= ~outlying(sizes, size)[: len(kept)]
    if not kept.any():
        raise ValueError(f"none of {len(kept)} positions is left; leave out fewer first ones, or a larger size")
    return kept


def described(pieces: Iterable[Segment], found: np.ndarray) -> pd.DataFrame:
    """What some positions are: a row a text, the most frequent first.

    Parameters
    ----------
    pieces : iterable of Segment
    found : bool [positions]
        At most as many as the pieces have.

    Returns
    -------
    DataFrame
        ``text`` (bytes that are no UTF-8 as escapes), ``count``, and of these how many are the ``first`` of their sequence.
    """
    rows, start = [], 0
    for piece in pieces:
        here = np.flatnonzero(found[start : start + len(piece.canonical)])
        texts = span_texts(piece) if len(here) else ()
        rows += [(texts[i].decode(errors="backslashreplace"), i == 0) for i in here]
        start += len(piece.canonical)
    table = pd.DataFrame(rows, columns=["text", "first"]).astype({"first": bool})
    table = table.groupby("text")["first"].agg(count="size", first="sum").reset_index()
    return table.sort_values(["count", "text"], ascending=[False, True], ignore_index=True)


class Selected:
    """Batches of some positions only; may be gone through as often as those that they are taken from.

    Parameters
    ----------
    batches : iterable of (A, B)
    kept : bool [positions]
        For all batches together, in their order.

    Raises
    ------
    ValueError
        While they are gone through, if `kept` is not one for each position.
    """

    def __init__(self, batches: Iterable[Both], kept: np.ndarray):
        self.batches, self.kept, self.positions = batches, kept, int(kept.sum())
        for name in ("names", "layers", "flop"):
            if hasattr(batches, name):
                setattr(self, name, getattr(batches, name))

    def __iter__(self) -> Iterator[Both]:
        read = 0
        for a, b in self.batches:
            here = torch.from_numpy(self.kept[read : read + len(a)])
            read += len(a)
            if len(here) == len(a):  # or else it is said when all have been counted
                yield a[here.to(a.device)], b[here.to(b.device)]
        if read != len(self.kept):
            raise ValueError(f"kept is for {len(self.kept)} positions; the batches hold {read}")


def _in_rows(batches: Iterable[Both]) -> Iterator[Both]:
    """The same a few positions at a time."""
    for a, b in batches:
        yield from zip(a.split(ROWS), b.split(ROWS), strict=True)
