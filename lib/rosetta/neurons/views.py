"""What a chat model is shown of a neuron's contexts (A.1): heat over each text, as every model sees it that has the neuron.

The paper shows "a heatmap overlay indicating where the corresponding neuron in each model fires (bright = strong activation)".
In words, a model's view of a text is a list of pieces, each with its heat: ``[["def ", 0], ["main", 7], ["():", 0]]``.
"""

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd

from rosetta.neurons.contexts import inside_character

NEURON = ["layer", "unit"]
#: The heat of a neuron's strongest activation on what is shown of it.
HOTTEST = 10
#: Bytes of a text that are shown on either side of the token on which the neuron peaks.
WINDOW = 200

#: Neurons that are the same one in several models: model -> (layer, unit), and what else is known of them.
Members = Mapping[str, tuple]
#: Activations: model -> (text, layer, unit) -> (bytes of its tokens int64 [tokens, 2], activations float32 [tokens]).
Heat = Mapping[str, Mapping[tuple, tuple[np.ndarray, np.ndarray]]]


def shown(
    contexts: pd.DataFrame, members: Mapping[tuple[int, int], Members], heat: Heat, window: int | None = WINDOW
) -> pd.DataFrame:
    """Each context of each neuron as one line of JSON: an object of views, a model each.

    Parameters
    ----------
    contexts : DataFrame
        ``layer, unit, rank, text`` and the bytes ``start, end`` of the peak token (`contexts.top_contexts`).
    members : mapping of (layer, unit) to Members
        Of each neuron, the model whose contexts these are and those that have a neuron matched with it, in the order in which
        they are shown.
    heat : Heat
        A model that could not read a text has no view of it.
    window : int, optional
        Bytes on either side of the peak; None shows the whole text.

    Returns
    -------
    DataFrame
        ``layer, unit, rank, shown``, by layer, unit and rank. All of a text is in JSON strings, so none can end its quotation.

    Raises
    ------
    ValueError
        If a peak lies outside its text.
    """
    rows = []
    for key, group in contexts.sort_values([*NEURON, "rank"]).groupby(NEURON, sort=False):
        cut = [_cut(row, window) for row in group.itertuples()]
        views = [{} for _ in cut]
        for model, (layer, unit, *_) in members[key].items():
            found = [heat[model].get((text, layer, unit)) for text in group["text"]]
            hottest = max((_strongest(*one, *at) for one, (_, *at) in zip(found, cut, strict=True) if one), default=0)
            for view, one, (data, begin, end) in zip(views, found, cut, strict=True):
                if one:
                    view[model] = pieces(data, one[0], levels(one[1], hottest), begin, end)
        lines = (json.dumps(view, ensure_ascii=False) for view in views)
        rows += [(*key, rank, line) for rank, line in zip(group["rank"], lines, strict=True)]
    return pd.DataFrame(rows, columns=[*NEURON, "rank", "shown"])


def levels(activations: np.ndarray, hottest: float) -> np.ndarray:
    """Activations as heat, int64: 0 to 10 in proportion to the strongest, rounded; 0 for what is not above zero."""
    if not hottest > 0:
        return np.zeros(len(activations), dtype=np.int64)
    share = np.asarray(activations, dtype=np.float64) / hottest
    return np.rint(HOTTEST * np.clip(np.nan_to_num(share), 0, 1)).astype(np.int64)


def pieces(data: bytes, spans: np.ndarray, heat: np.ndarray, begin: int, end: int) -> list[list]:
    """The tokens in some bytes of a text, each with its heat; joined they are that text.

    Tokens of no heat that follow one another are one piece, and so are tokens that share a character, with the higher heat.

    Parameters
    ----------
    data : bytes
    spans : int64 [tokens, 2]
        The tokens' bytes, in order; bytes of no token have no heat.
    heat : int64 [tokens]
    begin, end : int
        The bytes that are shown, from character to character.
    """
    found: list[list[int]] = []  # first byte, last byte, heat

    def add(start: int, stop: int, level: int) -> None:
        if found and (level == found[-1][2] == 0 or inside_character(data, start)):
            found[-1][1:] = stop, max(level, found[-1][2])
        else:
            found.append([start, stop, level])

    at, visible = begin, _visible(spans, begin, end)
    for (start, stop), level in zip(spans[visible].tolist(), heat[visible].tolist(), strict=True):
        start, stop = max(start, at), min(stop, end)
        if start < stop:
            if at < start:
                add(at, start, 0)
            add(start, stop, level)
            at = stop
    if at < end:
        add(at, end, 0)
    return [[data[start:stop].decode(), level] for start, stop, level in found]


def _cut(row, window: int | None) -> tuple[bytes, int, int]:
    """A context's text, and the bytes of it that are shown, from character to character."""
    data = row.text.encode()
    if not 0 <= row.start <= row.end <= len(data):
        raise ValueError(f"L{row.layer}/U{row.unit}: bytes {row.start}-{row.end} of a text of {len(data)} bytes")
    if window is None:
        return data, 0, len(data)
    begin, end = max(0, row.start - window), min(len(data), row.end + window)
    while inside_character(data, begin):
        begin -= 1
    while inside_character(data, end):
        end += 1
    return data, begin, end


def _visible(spans: np.ndarray, begin: int, end: int) -> np.ndarray:
    """Which tokens something is shown of."""
    return (spans[:, 0] < end) & (spans[:, 1] > begin)


def _strongest(spans: np.ndarray, activations: np.ndarray, begin: int, end: int) -> float:
    """The strongest activation on these; 0 if there are none."""
    return float(activations[_visible(spans, begin, end)].max(initial=0))
