"""Where the neurons of a model are highest: one pass over what it reads, for all neurons at once.

Memory holds n positions a neuron, and whatever is remembered of the pieces in which they lie.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from rosetta.matching.activations import read_pieces
from rosetta.matching.mutual import locate


class Peaks(NamedTuple):
    """Positions at which neurons fire, each field [rows, neurons]: in a row, one position of every neuron.

    How high each is there, its ``activation`` (float32), the number of the ``piece`` in the stream and ``at`` which position of
    the piece (int64), and the neuron's ``mean`` activation over the piece (float32).
    """

    activation: torch.Tensor
    piece: torch.Tensor
    at: torch.Tensor
    mean: torch.Tensor


def highest(
    reader,
    stream: Iterable,
    n: int,
    per_batch: int,
    peaks_of: Callable[[torch.Tensor, int, torch.Tensor], Peaks],
    competes: Callable[[int, Any], Hashable] = lambda number, piece: number,
    remember: bool = False,
) -> tuple[pd.DataFrame, dict[int, Any]]:
    """The n highest positions of each neuron of a model over a stream of pieces.

    Parameters
    ----------
    reader : texts.Reader, images.ImageReader or images.Generator
    stream : iterable
        What it reads.
    n : int
    per_batch : int
        Pieces read at a time.
    peaks_of : callable
        ``peaks_of(acts, number, mean) -> Peaks`` of one piece: its activations [positions, neurons], its number in the stream,
        and each neuron's mean over it.
    competes : callable
        Pieces, one after the other, for which ``competes(number, piece)`` is the same give one position a neuron, the highest
        of them; by default each stands for itself.
    remember : bool
        Whether to hold the pieces in which these positions lie.

    Returns
    -------
    table : DataFrame
        A row for each neuron and rank: ``layer, unit, rank`` (from 1), ``activation``, ``piece, at, piece_mean`` (as `Peaks` has
        them), and the neuron's ``mean, std`` over all positions. Of equal activations the earlier position comes first. A dead
        neuron (one that never changes) has no rows. ``attrs["positions"]`` is the number of positions read.
    pieces : dict of int to object
        Those in which these positions lie, by number, if they are to be remembered.

    Raises
    ------
    ValueError
        If n < 1, or there is nothing to read.
    """
    neurons = sum(reader.layers)
    top, spread = TopPeaks(neurons, n, reader.device), _Spread(neurons, reader.device)
    seen: dict[int, Any] = {}  # the pieces in which the peaks of `top` and `recent` lie
    recent: list[Peaks] = []  # not yet compared with those of `top`
    numbered = enumerate(read_pieces(reader, stream, per_batch))
    for _, competing in groupby(numbered, lambda item: competes(item[0], item[1][0])):
        peaks = None
        for number, (piece, acts) in competing:
            if remember:
                seen[number] = piece
            of_piece = peaks_of(acts, number, spread.update(acts))
            peaks = of_piece if peaks is None else _higher(peaks, of_piece)
        recent.append(peaks)
        if sum(len(peaks.activation) for peaks in recent) >= max(n, per_batch):
            top.update(recent)
            recent = []
            seen = _still_needed(seen, top)
    if not spread.positions:
        raise ValueError("there is nothing to read: the stream is empty")
    if recent:
        top.update(recent)
    return _table(reader, top.best, spread), seen


def _higher(earlier: Peaks, later: Peaks) -> Peaks:
    """Of every neuron's two peaks the higher, of equal ones the earlier."""
    is_later = later.activation > earlier.activation
    return Peaks(*(torch.where(is_later, new, old) for old, new in zip(earlier, later, strict=True)))


def _still_needed(seen: dict[int, Any], top: "TopPeaks") -> dict[int, Any]:
    numbers = set(torch.unique(top.best.piece).tolist()) if seen else ()
    return {number: piece for number, piece in seen.items() if number in numbers}


def _table(reader, best: Peaks, spread: "_Spread") -> pd.DataFrame:
    mean, std = spread.result()
    best = Peaks(*(field.T.cpu().numpy() for field in best))
    neuron, rank = np.nonzero((best.piece >= 0) & (std > 0)[:, None])
    activation, piece, at, piece_mean = (field[neuron, rank] for field in best)
    layer, unit = locate(neuron, reader.layers)
    table = pd.DataFrame({
        "layer": layer, "unit": unit, "rank": rank + 1, "activation": activation, "piece": piece, "at": at,
        "piece_mean": piece_mean, "mean": mean[neuron], "std": std[neuron],
    })  # fmt: skip
    table.attrs["positions"] = spread.positions
    return table


class TopPeaks:
    """The n highest peaks of every neuron over a stream; of equal activations the earliest.

    Parameters
    ----------
    neurons, n : int
    device : str or torch.device

    Attributes
    ----------
    best : Peaks
        Fields [n, neurons], highest first; where there were fewer, an activation of -inf in piece -1.
    """

    def __init__(self, neurons: int, n: int, device: str | torch.device = "cpu"):
        if n < 1:
            raise ValueError(f"n is {n}; it must be at least 1")
        self.n = n
        nowhere = torch.full((n, neurons), -1, dtype=torch.int64, device=device)
        lowest, unknown = (torch.full((n, neurons), value, device=device) for value in (-torch.inf, torch.nan))
        self.best = Peaks(lowest, nowhere, nowhere, unknown)

    def update(self, found: Sequence[Peaks]) -> None:
        """Add peaks in the order of the stream."""
        together = Peaks(*map(torch.cat, zip(self.best, *found, strict=True)))
        by_neuron = together.activation.T.contiguous()  # sorts in half the time
        order = by_neuron.sort(dim=1, descending=True, stable=True).indices[:, : self.n].T.contiguous()
        self.best = Peaks(*(field.gather(0, order) for field in together))


class _Spread:
    """Mean and standard deviation of every neuron over a stream."""

    def __init__(self, neurons: int, device):
        self.positions, self.shift = 0, None
        self.sum, self.squares = (torch.zeros(neurons, dtype=torch.float64, device=device) for _ in range(2))

    def update(self, acts: torch.Tensor) -> torch.Tensor:
        """Add positions [T, neurons]; gives their mean, [neurons]."""
        acts = acts.float()
        if self.shift is None:  # so that a large mean drowns nothing
            self.shift = acts[0].clone()
        acts = acts - self.shift
        self.positions += len(acts)
        total = acts.sum(0)
        self.sum += total
        self.squares += acts.square_().sum(0)
        return self.shift + total / len(acts)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        mean = self.sum / self.positions
        variance = (self.squares / self.positions - mean.square()).clamp(min=0)
        return (self.shift + mean).cpu().numpy(), variance.sqrt().cpu().numpy()
