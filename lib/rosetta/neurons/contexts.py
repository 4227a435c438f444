"""The texts on which each neuron fires most: its top-activating contexts (E.2, A.1).

One pass over a stream, for all neurons of a model at once. Memory holds n positions a neuron, and the windows of text
in which they lie.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from rosetta.matching.activations import read_pieces
from rosetta.matching.mutual import locate
from rosetta.matching.segments import Window, windows
from rosetta.matching.texts import Reader
from rosetta.sources.document import Document


class Peaks(NamedTuple):
    """Positions at which neurons fire, each field [rows, neurons]: in a row, one position of every neuron.

    The ``activation`` there (float32), the number of the ``window`` in the stream and of the ``token`` in the window
    (int64), and the neuron's ``mean`` activation over the window (float32).
    """

    activation: torch.Tensor
    window: torch.Tensor
    token: torch.Tensor
    mean: torch.Tensor


def top_contexts(
    reader: Reader, stream: Iterable[Window], n: int = 20, one_per_document: bool = True, sequences_per_batch: int = 32
) -> pd.DataFrame:
    """The n contexts on which each neuron of a model fires most.

    Parameters
    ----------
    reader : Reader
    stream : iterable of Window
        As `segments.windows` gives it; the windows of a document come one after the other.
    n : int
    one_per_document : bool
        At most one context from each document, its highest position; otherwise every position for itself.
    sequences_per_batch : int

    Returns
    -------
    DataFrame
        A row for each neuron and rank: ``layer, unit, rank`` (from 1), ``activation`` (the highest) and ``context_mean``
        (over all tokens of the window); the ``token`` on which the neuron peaks and its bytes ``start, end`` within
        ``text``, the window's text; ``subset, category, source`` of the document; and the neuron's ``mean, std`` over
        all positions. Of equal activations the earlier position comes first. A dead neuron (one that never changes) has
        no rows. ``attrs["positions"]`` is the length of the stream.

    Raises
    ------
    ValueError
        If n < 1, or there are no windows.
    """
    neurons = sum(reader.layers)
    top, spread = TopPeaks(neurons, n, reader.device), _Spread(neurons, reader.device)
    seen: dict[int, Window] = {}  # the windows in which the peaks of `top` and `recent` lie
    recent: list[Peaks] = []  # not yet compared with those of `top`
    numbered = enumerate(read_pieces(reader, stream, sequences_per_batch))
    # The windows that compete for one context are those of a document; otherwise each stands for itself.
    for _, competing in groupby(numbered, lambda item: item[1][0].document if one_per_document else item[0]):
        peaks = None
        for number, (window, acts) in competing:
            seen[number] = window
            of_window = _peaks(acts, 1 if one_per_document else n, number, spread.update(acts))
            peaks = of_window if peaks is None else _higher(peaks, of_window)
        recent.append(peaks)
        if sum(len(peaks.activation) for peaks in recent) >= max(n, sequences_per_batch):
            top.update(recent)
            recent = []
            seen = _still_needed(seen, top)
    if not seen:
        raise ValueError("there is nothing to read: the stream has no windows")
    if recent:
        top.update(recent)
    return _table(reader, top.best, seen, spread)


def _peaks(acts: torch.Tensor, n: int, window: int, mean: torch.Tensor) -> Peaks:
    """The n highest positions of a window [tokens, neurons]; of equal activations the earlier comes first."""
    highest = acts.max(0, keepdim=True) if n == 1 else acts.sort(dim=0, descending=True, stable=True)
    activation, token = highest.values[:n].float(), highest.indices[:n]
    return Peaks(activation, torch.full_like(token, window), token, mean.expand_as(activation))


def _higher(earlier: Peaks, later: Peaks) -> Peaks:
    """Of every neuron's two peaks the higher, of equal ones the earlier."""
    is_later = later.activation > earlier.activation
    return Peaks(*(torch.where(is_later, new, old) for old, new in zip(earlier, later, strict=True)))


def activations_on(
    reader: Reader, texts: dict[str, list[int]], context: int, sequences_per_batch: int = 32
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Some neurons' activations on every token of some texts.

    Parameters
    ----------
    reader : Reader
    texts : dict of str to list of int
        The neurons wanted on each text, numbered through all layers.
    context : int
        Tokens that the model reads at a time; a longer text is read in windows.
    sequences_per_batch : int

    Returns
    -------
    dict of str to (int64 [tokens, 2], float32 [tokens, neurons])
        For each text the bytes of its tokens and the activations.
    """
    documents = [Document(text, "", "", str(i)) for i, text in enumerate(texts)]
    spans, acts = {text: [] for text in texts}, {text: [] for text in texts}
    for window, found in read_pieces(reader, windows(documents, reader.tokenizer, context), sequences_per_batch):
        text = window.document.text
        spans[text].append(window.spans)
        acts[text].append(found[:, texts[text]].float().cpu().numpy())
    return {text: (np.concatenate(spans[text]), np.concatenate(acts[text])) for text in texts if spans[text]}


class TopPeaks:
    """The n highest peaks of every neuron over a stream; of equal activations the earliest.

    Parameters
    ----------
    neurons, n : int
    device : str or torch.device

    Attributes
    ----------
    best : Peaks
        Fields [n, neurons], highest first; where there were fewer, an activation of -inf in window -1.
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


def _still_needed(seen: dict[int, Window], top: TopPeaks) -> dict[int, Window]:
    numbers = set(torch.unique(top.best.window).tolist())
    return {number: window for number, window in seen.items() if number in numbers}


def _table(reader: Reader, best: Peaks, seen: dict[int, Window], spread: _Spread) -> pd.DataFrame:
    mean, std = spread.result()
    best = Peaks(*(field.T.cpu().numpy() for field in best))
    neuron, rank = np.nonzero((best.window >= 0) & (std > 0)[:, None])
    activation, window, token, context_mean = (field[neuron, rank] for field in best)
    # Many neurons share a position: each text is cut out once, and kept once (categorical).
    positions = pd.DataFrame({"window": window, "token": token})
    at = positions.groupby(["window", "token"], sort=False).ngroup()
    unique = positions.drop_duplicates()
    texts = pd.DataFrame([_describe(seen[position.window], position.token) for position in unique.itertuples()])
    names = ["token", "subset", "category", "source", "text"]
    texts[names] = texts[names].astype("category")
    layer, unit = locate(neuron, reader.layers)
    table = pd.DataFrame({"layer": layer, "unit": unit, "rank": rank + 1, "activation": activation})
    table["context_mean"] = context_mean
    table = pd.concat([table, texts.iloc[at].reset_index(drop=True)], axis=1)
    table["mean"], table["std"] = mean[neuron], std[neuron]
    table.attrs["positions"] = spread.positions
    return table


def _describe(window: Window, token: int) -> dict:
    """One position: the token with its bytes within the window's text, and the document it lies in."""
    document, data = window.document, window.document.text.encode()
    begin, end = int(window.spans[0, 0]), int(window.spans[-1, 1])
    start, stop = map(int, window.spans[token])
    # A window may begin or end inside a character; the text leaves such a piece out, unless it is the token.
    while begin < start and _inside_character(data, begin):
        begin += 1
    while end > stop and _inside_character(data, end):
        end -= 1
    token, text = data[start:stop].decode(errors="replace"), data[begin:end].decode(errors="replace")
    origin = {"subset": document.subset, "category": document.category, "source": document.source}
    return {"token": token, "start": start - begin, "end": stop - begin, **origin, "text": text}


def _inside_character(data: bytes, at: int) -> bool:
    return at < len(data) and data[at] & 0b1100_0000 == 0b1000_0000
