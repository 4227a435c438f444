"""Figures of notebook 02: a matched pair, and its correlation against the nulls."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rosetta.plots.style import BLUE, GREY, HEAT, ORANGE, RED, WIDTH, heat_text


def fig02(examples: pd.DataFrame, title: str) -> Figure:
    """Figure 2: one matched pair over the same texts, each span coloured by the activation of either neuron.

    Parameters
    ----------
    examples : DataFrame
        ``example, text`` and one column of activations a neuron; one row a canonical span, in reading order.
    title : str
    """
    neurons = [column for column in examples if column not in ("example", "text")]
    groups = list(examples.groupby("example", sort=False))
    figure, panels = plt.subplots(len(groups), 2, figsize=(WIDTH * 1.6, 1.75 * len(groups) + 0.9), squeeze=False)
    for column, neuron in enumerate(neurons):
        top = examples[neuron].max()
        norm = plt.Normalize(0, top if top > 0 else 1)
        for row, (_, group) in enumerate(groups):
            heat_text(panels[row, column], group["text"], group[neuron], norm)
        panels[0, column].set_title(neuron)
        bar = figure.colorbar(plt.cm.ScalarMappable(norm, HEAT), ax=panels[:, column], shrink=0.8, pad=0.01)
        bar.set_label("activation")
    figure.suptitle(title)
    return figure


def correlation_histogram(
    table: pd.DataFrame, permuted: Sequence[pd.DataFrame], untrained: Sequence[pd.DataFrame], above: float
) -> Figure:
    """Correlations of the matched pairs, trained and under both nulls, and the threshold of the calibrated count.

    Null counts are means over the seeds.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.8))
    bins = np.linspace(0, 1, 51)
    sets = {"trained": [table], "untrained networks": untrained, "permuted positions": permuted}
    for (text, tables), color in zip(sets.items(), (BLUE, ORANGE, GREY), strict=True):
        values = np.concatenate([t["correlation"] for t in tables])
        weights = np.full(len(values), 1 / len(tables))
        axes.hist(values, bins, weights=weights, color=color, alpha=0.25)
        text = f"{text}: {len(values) / len(tables):,.0f} pairs"
        axes.hist(values, bins, weights=weights, color=color, histtype="step", linewidth=1.8, label=text)
    axes.axvline(above, color=RED, linestyle="--", linewidth=1.4, label=f"null threshold, r = {above:.3f}")
    axes.set(xlabel="Pearson correlation of a matched pair", xlim=(0, 1))
    axes.set(ylabel="pairs", yscale="symlog", ylim=(0, None))
    axes.legend()
    return figure
