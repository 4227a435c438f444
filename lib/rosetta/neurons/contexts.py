"""The texts on which each neuron fires most: its top-activating contexts (E.2, A.1).

One pass over a stream, for all neurons of a model at once. Memory holds n positions a neuron, and the windows of text
in which they lie.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch

from rosetta.matching.activations import Reader, read_windows
from rosetta.matching.alignment import Window, windows
from rosetta.matching.mutual import locate
from rosetta.sources.document import Document

#: A position is one number: the window's in the stream, and below it the token's in the window.
TOKEN_BITS = 32


def top_contexts(
    reader: Reader, stream: Iterable[Window], n: int = 20, one_per_document: bool = True, sequences_per_batch: int = 32
) -> pd.DataFrame:
    """The n contexts on which each neuron of a model fires most.

    Parameters
    ----------
    reader : Reader
    stream : iterable of Window
        As `alignment.windows` gives it; the windows of a document come one after the other.
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
    top, spread = TopPositions(neurons, n, reader.device), _Spread(neurons, reader.device)
    seen: dict[int, Window] = {}
    waiting: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    document = None
    for number, (window, acts) in enumerate(read_windows(reader, stream, sequences_per_batch)):
        mean = spread.update(acts)
        seen[number] = window
        # Of equal values both give the first.
        found = acts.max(0, keepdim=True) if one_per_document else acts.sort(dim=0, descending=True, stable=True)
        values, places = found.values[:n].float(), found.indices[:n] + (number << TOKEN_BITS)
        new = values, places, mean.expand_as(values)
        if one_per_document and window.document == document:  # the document goes on
            higher = values > waiting[-1][0]
            waiting[-1] = tuple(torch.where(higher, *two) for two in zip(new, waiting[-1], strict=True))
            continue
        document = window.document
        if sum(len(rows[0]) for rows in waiting) >= max(n, sequences_per_batch):
            top.update(*map(torch.cat, zip(*waiting, strict=True)))
            waiting = []
            seen = _still_needed(seen, top, number)
        waiting.append(new)
    if not seen:
        raise ValueError("there is nothing to read: the stream has no windows")
    top.update(*map(torch.cat, zip(*waiting, strict=True)))
    return _table(reader, top, seen, spread)


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
    for window, found in read_windows(reader, windows(documents, reader.tokenizer, context), sequences_per_batch):
        text = window.document.text
        spans[text].append(window.spans)
        acts[text].append(found[:, texts[text]].float().cpu().numpy())
    return {text: (np.concatenate(spans[text]), np.concatenate(acts[text])) for text in texts if spans[text]}


class TopPositions:
    """The n highest values of every column over a stream of rows, and where they were; of equal values the earliest.

    Parameters
    ----------
    columns, n : int
    device : str or torch.device

    Attributes
    ----------
    values : float32 [columns, n]
        Highest first; -inf where there were fewer rows.
    places : int64 [columns, n]
        What came with the rows; -1 where there were fewer.
    means : float32 [columns, n]
        Likewise, if it came.
    """

    def __init__(self, columns: int, n: int, device: str | torch.device = "cpu"):
        if n < 1:
            raise ValueError(f"n is {n}; it must be at least 1")
        self.values = torch.full((columns, n), -torch.inf, device=device)
        self.places = torch.full((columns, n), -1, dtype=torch.int64, device=device)
        self.means = torch.full((columns, n), torch.nan, device=device)

    def update(self, values: torch.Tensor, places: torch.Tensor, means: torch.Tensor | None = None) -> None:
        """Add rows in the order of the stream: values, int64 places and means, all [rows, columns]."""
        n = self.values.shape[1]
        means = torch.full_like(values, torch.nan) if means is None else means
        together = torch.cat([self.values, values.T], dim=1).sort(dim=1, descending=True, stable=True)
        self.values = together.values[:, :n]
        self.places, self.means = (
            torch.cat([before, new.T], dim=1).gather(1, together.indices[:, :n])
            for before, new in ((self.places, places), (self.means, means))
        )


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


def _still_needed(seen: dict[int, Window], top: TopPositions, current: int) -> dict[int, Window]:
    numbers = {*torch.unique(top.places >> TOKEN_BITS).tolist(), current}
    return {number: window for number, window in seen.items() if number in numbers}


def _table(reader: Reader, top: TopPositions, seen: dict[int, Window], spread: _Spread) -> pd.DataFrame:
    mean, std = spread.result()
    places = top.places.cpu().numpy()
    neuron, rank = np.nonzero((places >= 0) & (std > 0)[:, None])
    places = places[neuron, rank]
    # Many neurons share a position: each text is cut out once, and kept once (categorical).
    unique, at = np.unique(places, return_inverse=True)
    texts = pd.DataFrame([_describe(seen[place >> TOKEN_BITS], place % 2**TOKEN_BITS) for place in unique.tolist()])
    names = ["token", "subset", "category", "source", "text"]
    texts[names] = texts[names].astype("category")
    layer, unit = locate(neuron, reader.layers)
    table = pd.DataFrame({"layer": layer, "unit": unit, "rank": rank + 1, "activation": top.values.cpu()[neuron, rank]})
    table["context_mean"] = top.means.cpu().numpy()[neuron, rank]
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
    return {
        "token": data[start:stop].decode(errors="replace"),
        "start": start - begin, "end": stop - begin,
        "subset": document.subset, "category": document.category, "source": document.source,
        "text": data[begin:end].decode(errors="replace"),
    }  # fmt: skip


def _inside_character(data: bytes, at: int) -> bool:
    return at < len(data) and data[at] & 0b1100_0000 == 0b1000_0000
