"""The texts on which each neuron fires most: its top-activating contexts (E.2, A.1).

One pass over a stream, for all neurons of a model at once. Memory holds n positions a neuron, and the windows of text
in which they lie.
"""

from collections.abc import Iterable
from functools import partial

import numpy as np
import pandas as pd
import torch

from rosetta.matching.activations import read_pieces
from rosetta.matching.segments import Window, windows
from rosetta.matching.texts import Reader
from rosetta.neurons.peaks import Peaks, highest
from rosetta.sources.document import Document


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
    if one_per_document:
        table, seen = highest(reader, stream, n, sequences_per_batch, _highest, lambda _, window: window.document, True)
    else:
        several = partial(_sorted, n=n)
        table, seen = highest(reader, stream, n, sequences_per_batch, several, remember=True)
    # Many neurons share a position: each text is cut out once, and kept once (categorical).
    at = table.groupby(["piece", "at"], sort=False).ngroup()
    unique = table[["piece", "at"]].drop_duplicates()
    texts = pd.DataFrame([_describe(seen[position.piece], position.at) for position in unique.itertuples()])
    names = ["token", "subset", "category", "source", "text"]
    texts[names] = texts[names].astype("category")
    table = table.rename(columns={"piece_mean": "context_mean"})
    parts = table[["layer", "unit", "rank", "activation", "context_mean"]], texts.iloc[at].reset_index(drop=True)
    described = pd.concat([*parts, table[["mean", "std"]]], axis=1)
    described.attrs = dict(table.attrs)
    return described


def _highest(acts: torch.Tensor, window: int, mean: torch.Tensor) -> Peaks:
    """The highest position of a window [tokens, neurons]; of equal activations the earlier."""
    activation, token = acts.max(0, keepdim=True)
    return Peaks(activation.float(), torch.full_like(token, window), token, mean[None])


def _sorted(acts: torch.Tensor, window: int, mean: torch.Tensor, n: int) -> Peaks:
    """The n highest positions; of equal activations the earlier comes first."""
    activation, token = acts.sort(dim=0, descending=True, stable=True)
    activation, token = activation[:n].float(), token[:n]
    return Peaks(activation, torch.full_like(token, window), token, mean.expand_as(activation))


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


def _describe(window: Window, token: int) -> dict:
    """One position: the token with its bytes within the window's text, and the document it lies in."""
    document, data = window.document, window.document.text.encode()
    begin, end = int(window.spans[0, 0]), int(window.spans[-1, 1])
    start, stop = map(int, window.spans[token])
    # A window may begin or end inside a character; the text leaves such a piece out, unless it is the token.
    while begin < start and inside_character(data, begin):
        begin += 1
    while end > stop and inside_character(data, end):
        end -= 1
    token, text = data[start:stop].decode(errors="replace"), data[begin:end].decode(errors="replace")
    origin = {"subset": document.subset, "category": document.category, "source": document.source}
    return {"token": token, "start": start - begin, "end": stop - begin, **origin, "text": text}


def inside_character(data: bytes, at: int) -> bool:
    """Whether a byte of UTF-8 is one of a character's that begins before it."""
    return at < len(data) and data[at] & 0b1100_0000 == 0b1000_0000
