"""Figures of notebook 01: two tokenizers on one text."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rosetta.plots.style import BLUE, COLORS, GREEN, ORANGE, RED, WIDTH, drawable


def fig23(text: str, names: Sequence[str], spans: Sequence[np.ndarray], canonical: np.ndarray) -> Figure:
    """Figure 23: one text as two tokenizers cut it, and the spans between the boundaries that both share.

    Parameters
    ----------
    text : str
    names : (str, str)
    spans : (int64 [n_a, 2], int64 [n_b, 2])
    canonical : int64 [m, 2]
    """
    data = text.encode()
    rows = [(names[0], spans[0], BLUE), (names[1], spans[1], ORANGE), ("aligned spans", canonical, GREEN)]
    figure, axes = plt.subplots(figsize=(WIDTH * 1.5, 2.9))
    style = {"ha": "center", "va": "center", "family": "monospace", "fontsize": 10, "parse_math": False}
    for y, (_, row, color) in zip((2, 1, 0), rows, strict=True):
        for number, (start, end) in enumerate(row):
            alpha = 0.45 if number % 2 else 0.25
            axes.barh(y, end - start, left=start, height=0.62, color=color, alpha=alpha, edgecolor=color)
            axes.text((start + end) / 2, y, _legible(data[start:end]), **style)
    for boundary in np.unique(canonical):
        axes.axvline(boundary, color=RED, linestyle=(0, (2, 2)), linewidth=1.2)
    axes.set_yticks((2, 1, 0), [name for name, _, _ in rows])
    axes.set(xlabel="byte of the text (UTF-8)", xlim=(-0.5, len(data) + 0.5))
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(left=False)
    return figure


def _legible(piece: bytes) -> str:
    """Bytes as text, or in hexadecimal where they are only part of a character."""
    try:
        return drawable(piece.decode().replace(" ", "␣").replace("\n", "⏎"))
    except UnicodeDecodeError:
        return piece.hex()


def tokens_per_span(counts: pd.DataFrame) -> Figure:
    """How many tokens of either model are averaged into one canonical span: share of spans by number of tokens.

    Parameters
    ----------
    counts : DataFrame
        One row a span, one column a model, number of tokens.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.4))
    top = int(min(8, counts.to_numpy().max()))
    for index, name in enumerate(counts):
        shares = [(counts[name] == n).mean() for n in range(1, top)] + [(counts[name] >= top).mean()]
        at = np.arange(1, top + 1) + (index - 0.5) * 0.38
        axes.bar(at, shares, width=0.36, color=COLORS[index], label=name)
    ticks = [str(n) for n in range(1, top)] + [f"{top} or more"]
    axes.set(xlabel="tokens in one aligned span", ylabel="share of spans", xticks=range(1, top + 1), xticklabels=ticks)
    axes.legend()
    return figure
