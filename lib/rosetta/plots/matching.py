"""Figures of notebook 02: a matched pair, its correlation against the nulls, and what the positions do to these."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rosetta.matching.nulls import which_positions
from rosetta.plots import style
from rosetta.plots.style import BLUE, GREEN, GREY, HEAT, ORANGE, RED, SKY, WIDTH, heat_text


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
    table: pd.DataFrame, by_null: dict[str, Sequence[pd.DataFrame]], above: float, aligned_same: pd.DataFrame
) -> Figure:
    """Correlations of the matched pairs, trained and under all nulls, and the threshold of the calibrated count.

    Null counts are means over the seeds. Where the permuted null was made over fewer positions, the trained pairs over the
    same ones, `aligned_same`, are drawn as well.

    Parameters
    ----------
    table : MatchTable
    by_null : dict of sequences of MatchTable
        As `counts.nulls_of` gives them: ``permuted, untrained`` and, of images, ``images``.
    above : float
    aligned_same : MatchTable
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.8))
    bins = np.linspace(0, 1, 51)
    over = which_positions([aligned_same.attrs["positions"]], [table.attrs["positions"]])
    sets = {
        "trained": ([table], BLUE),
        "untrained networks": (by_null["untrained"], ORANGE),
        f"permuted, {over}": (by_null["permuted"], GREY),
        f"trained, {over}": ([aligned_same], SKY),
    }
    if "images" in by_null:
        sets["whole images permuted"] = (by_null["images"], GREEN)
    if over == "all positions":
        del sets[f"trained, {over}"]
    for text, (tables, color) in sets.items():
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


#: Of what is matched: colour, marker and name.
MATCHED = {
    "aligned": (BLUE, "o", "trained"),
    "untrained": (ORANGE, "s", "untrained"),
    "permuted": (GREY, "^", "permuted"),
    "shifted": (GREEN, "D", "shifted"),
}


def positions(by_budget: pd.DataFrame, by_thinning: pd.DataFrame, by_outliers: pd.DataFrame) -> Figure:
    """Which positions are compared: pairs and correlations over more of them, over thinned ones, and with outliers.

    Parameters
    ----------
    by_budget, by_thinning, by_outliers : DataFrame
        As the functions of these names in `studies.positions` give them.
    """
    figure, ((count, height), (thinned, outliers)) = plt.subplots(2, 2, figsize=(WIDTH * 1.5, 8.4))
    for what, draws in by_budget.groupby("what", sort=False):
        color, marker, name = MATCHED[what]
        for axes, column in ((count, "pairs"), (height, "high" if what != "aligned" else "mean")):
            of_budget = draws.groupby("positions")[column].agg(["mean", "min", "max"])
            ends = [of_budget["mean"] - of_budget["min"], of_budget["max"] - of_budget["mean"]]
            label = name if axes is count else f"{name}, {'mean' if what == 'aligned' else 'null quantile'}"
            bars = {"yerr": ends, "capsize": 3, "linewidth": 1.3}
            axes.errorbar(of_budget.index, of_budget["mean"], fmt=f"{marker}-", color=color, label=label, **bars)
    permuted = by_budget[by_budget["what"] == "permuted"].groupby("positions")["high"].mean()
    most = permuted.index[-1]
    noise = permuted[most] * (most / permuted.index) ** 0.5
    height.plot(permuted.index, noise, ":", color=GREY, label=r"as $1\,/\sqrt{\mathrm{positions}}$")
    count.set(xscale="log", ylim=(0, None), xlabel="positions", ylabel="matched pairs", title="a  more positions")
    height.set(
        xscale="log", yscale="log", xlabel="positions", ylabel="correlation of a pair", title="b  the same pairs"
    )
    style.log_ticks(height.yaxis)
    _thinned(thinned, by_thinning)
    for left, face in (("", None), ("left_", "none")):  # hollow: without those that are found
        directions = by_outliers[[f"{left}directions_a", f"{left}directions_b"]].mean(axis=1)
        for what in ("aligned", "permuted"):
            color, marker, name = MATCHED[what]
            of = {"color": color, "markerfacecolor": face or color, "label": f"{name}, left out" if left else name}
            outliers.plot(
                directions, by_outliers[left + what].clip(lower=0.5), marker, markersize=9 if left else 6, **of
            )
    style.log_axes(outliers, "directions (participation ratio)", "matched pairs")
    outliers.set_title("d  outliers planted, and left out again")
    for axes in (count, height, thinned, outliers):
        axes.legend()
    return figure


def _thinned(axes: plt.Axes, table: pd.DataFrame) -> None:
    x = np.arange(len(table))
    for shift, (column, color, name) in zip(
        (-0.2, 0.2), (("pairs", "#b9d4e6", "trained"), ("strict", BLUE, "trained, above both nulls")), strict=True
    ):
        axes.bar(x + shift, table[column], 0.38, color=color, label=name)
    axes.plot(x, table["untrained"], "s--", color=ORANGE, label="untrained")
    texts = ["all" if np.isnan(t) else f"t = {t:g}" for t in table["t"]]
    highs = table[["untrained_high", "permuted_high"]].max(axis=1)
    axes.set_xticks(x, [f"{text}\nr > {high:.2f}" for text, high in zip(texts, highs, strict=True)])
    axes.set(ylabel="matched pairs", ylim=(0, 1.45 * max(table["pairs"].max(), table["untrained"].max())))
    axes.set_title("c  frequent spans thinned")
    axes.grid(axis="x", visible=False)
