"""Figures of notebook 07: what filters recover, and what a model learns from it."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rosetta.plots.style import BLACK, BLUE, COLORS, GREEN, GREY, ORANGE, PURPLE, RED, WIDTH, legend_below, plain

FILTERS = {"base": BLACK, "random": GREY, "non-Rosetta": ORANGE, "Rosetta": BLUE, "oracle": GREEN}


def perplexity(runs: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Table 1 as a picture: test perplexity after training on each filter's selection; every run, mean, 95% interval.

    Parameters
    ----------
    runs : DataFrame
        As `table1.perplexities` gives it.
    table : DataFrame
        As `table1.table1` gives it.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.4))
    for at, row in enumerate(table.itertuples()):
        color = FILTERS[row.filter]
        own = runs.loc[runs["filter"] == row.filter, "perplexity"]
        error = np.nan_to_num([[row.mean - row.low], [row.high - row.mean]])
        axes.errorbar(row.mean, at, xerr=error, fmt="D", color=color, capsize=4)
        if len(own) > 1:
            axes.plot(own, np.full(len(own), at + 0.25), "o", color=color, alpha=0.5, markersize=4)
        axes.annotate(f"{row.mean:.1f}", (row.mean, at), (0, 7), textcoords="offset points", ha="center", fontsize=10)
    axes.set_yticks(range(len(table)), table["filter"])
    axes.set(xlabel="perplexity on test functions of the target language", ylim=(len(table) - 0.5, -0.8))
    return figure


def precision_recall(curves: dict[str, pd.DataFrame]) -> Figure:
    """Precision against recall of the target's functions, at every threshold on a filter's score.

    Parameters
    ----------
    curves : dict of str to DataFrame
        As `filtering.precision_recall_curve` gives them.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.8))
    for index, (name, curve) in enumerate(curves.items()):
        color = FILTERS.get(name, COLORS[(index + 1) % 6])
        axes.plot(curve["recall"], curve["precision"], "-" if name in FILTERS else "--", color=color, label=name)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.03))
    return legend_below(figure, axes, columns=3)


def language_mix(mix: pd.DataFrame) -> Figure:
    """What each filter picked: the share of each language in its tokens, a bar a filter.

    Parameters
    ----------
    mix : DataFrame
        As `table1.languages` gives it.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 0.5 * len(mix) + 1.4))
    left = np.zeros(len(mix))
    for index, language in enumerate(mix):
        axes.barh(mix.index, mix[language], left=left, color=COLORS[index % 6], label=plain(language), height=0.62)
        left += mix[language].to_numpy()
    axes.set(xlabel="share of the selected tokens", xlim=(0, 1))
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    return legend_below(figure, axes, columns=6)


def what_a_neuron_is_worth(references: pd.DataFrame, column: str = "f1") -> Figure:
    """F1 of every Rosetta Neuron that qualifies, in the order in which they would be chosen, beside the references.

    Parameters
    ----------
    references : DataFrame
        As `table1.references` gives it.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 4.0))
    neurons = references.loc[references["kind"] == "neuron", column]
    ranks = range(1, len(neurons) + 1)
    axes.plot(ranks, neurons, "o", color=BLUE, markersize=5, label="a Rosetta Neuron that qualifies")
    axes.plot(ranks[:1], neurons[:1], "o", color=RED, markersize=11, fillstyle="none", label="the one that is chosen")
    averages = references[references["kind"] == "average"]
    sizes = averages["filter"].str.extract(r"(\d+)")[0].astype(int)
    axes.plot(sizes, averages[column], "s--", color=GREEN, label="mean of the first k")
    yardsticks = {"probe": (PURPLE, "-", "linear probe on all of them"), "tokens": (BLACK, ":", "bag of tokens")}
    for kind, (color, line, text) in yardsticks.items():
        for value in references.loc[references["kind"] == kind, column]:
            axes.axhline(value, linestyle=line, color=color, linewidth=1.4, label=text)
    axes.set(xlabel="rank of the neuron (k of the mean)", ylabel="F1 over functions", ylim=(0, 1.03))
    return legend_below(figure, axes, columns=2)
