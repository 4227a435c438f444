"""Figures of notebooks 05 and 06: what Rosetta Neurons are like."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rosetta.plots import style
from rosetta.plots.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, WIDTH, legend_below
from rosetta.viewer.page import Context, RosettaNeuron

#: The title of a neuron's block, the neuron, and the model whose activations are shown.
Block = tuple[str, RosettaNeuron, str]
POPULATIONS = {"Rosetta": (BLUE, "o-", "Rosetta Neurons"), "other": (GREY, "s--", "other neurons")}
#: The category's colour is the same in every figure.
CATEGORIES = {"code": BLUE, "math": RED, "formal/scientific": GREEN, "general prose": ORANGE, "conversational": PURPLE}


def fig06a(table: pd.DataFrame) -> Figure:
    """Figures 6a and 28: mean vocabulary-space kurtosis of Rosetta and other neurons against size, 95% intervals.

    Parameters
    ----------
    table : DataFrame
        As `properties.polarization` gives it; a panel a family.
    """
    families = list(table.groupby("family", sort=False))
    size = (WIDTH * (1 if len(families) == 1 else 1.5), 4.0)
    figure, panels = plt.subplots(1, len(families), figsize=size, squeeze=False, sharey=True)
    for axes, (family, of_family) in zip(panels[0], families, strict=True):
        for population, (color, line, text) in POPULATIONS.items():
            group = of_family[of_family["population"] == population]
            bars = {"yerr": style.interval(group), "capsize": 3}
            axes.errorbar(group["neurons"], group["mean"], fmt=line, color=color, label=text, **bars)
        axes.set(xscale="log", xlabel="neurons of the model", title=style.NAMES.get(family, family))
        style.log_ticks(axes.xaxis)
        axes.axhline(0, color=BLACK, linewidth=0.8)
    panels[0, 0].set_ylabel("mean excess kurtosis")
    return legend_below(figure, panels[0, 0])


def kurtosis_tails(table: pd.DataFrame) -> Figure:
    """Beyond the mean: the share of each population whose kurtosis exceeds a value, for each family's largest model.

    Parameters
    ----------
    table : DataFrame
        As `properties.kurtoses` gives it.
    """
    families = list(table.groupby("family", sort=False))
    figure, panels = plt.subplots(1, len(families), figsize=(WIDTH * 1.5, 3.8), squeeze=False, sharey=True, sharex=True)
    for axes, (_, of_family) in zip(panels[0], families, strict=True):
        largest = of_family[of_family["neurons"] == of_family["neurons"].max()]
        for population, (color, line, text) in POPULATIONS.items():
            values = np.sort(largest.loc[largest["population"] == population, "kurtosis"].dropna())
            share = 1 - np.arange(len(values)) / len(values)
            axes.step(values, share, where="pre", color=color, linestyle=line[1:], label=text)
        axes.set(yscale="log", xscale="symlog", xlabel="excess kurtosis", title=largest["model"].iloc[0])
    panels[0, 0].set_ylabel("share of neurons above")
    return legend_below(figure, panels[0, 0])


def fig07(table: pd.DataFrame, populations: Sequence[str] = ("Rosetta",)) -> Figure:
    """Figures 7, 29 and 30: NormalizedFire by category, a bar a size; 1, dashed, is the corpus baseline.

    Parameters
    ----------
    table : DataFrame
        As `properties.firing` gives it.
    populations : sequence of str
        A panel each; "other" comes with the 95% interval over its random samples.
    """
    size = (WIDTH * 1.2, 2.9 * len(populations) + 0.6)
    figure, panels = plt.subplots(len(populations), 1, figsize=size, squeeze=False, sharey=True)
    seen = dict.fromkeys(table["category"])
    categories = [*(c for c in CATEGORIES if c in seen), *(c for c in seen if c not in CATEGORIES)]
    for axes, population in zip(panels[:, 0], populations, strict=True):
        of_population = table[table["population"] == population]
        models = list(of_population.groupby("neurons"))
        width = 0.8 / len(models)
        for index, (neurons, group) in enumerate(models):
            group = group.set_index("category").reindex(categories)
            at = np.arange(len(categories)) + (index - (len(models) - 1) / 2) * width
            shade = plt.get_cmap("viridis_r")(0.1 + 0.85 * index / max(1, len(models) - 1))
            error = style.interval(group)
            bars = {"yerr": error, "error_kw": {"elinewidth": 1}} if error.any() else {}
            axes.bar(at, group["mean"], width=0.92 * width, color=shade, label=f"{neurons:,}", **bars)
        axes.axhline(1, color=BLACK, linestyle="--", linewidth=1.2)
        axes.set_xticks(range(len(categories)), [style.plain(c) for c in categories])
        axes.set(ylabel="normalized firing", title=POPULATIONS[population][2])
        axes.grid(False, axis="x")
    panels[0, 0].set_ylim(0, None)
    return legend_below(figure, panels[0, 0], columns=6, title="neurons of the model", title_fontsize=11)


def fig31(depths: pd.DataFrame) -> Figure:
    """Figures 31 and 32: where Rosetta Neurons lie: their share in each bin of normalized depth, a row a model.

    Parameters
    ----------
    depths : DataFrame
        As `properties.depths` gives it.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 0.5 * len(depths) + 1.6))
    image = axes.imshow(depths, aspect="auto", cmap="Blues", vmin=0, extent=(0, 1, len(depths) - 0.5, -0.5))
    axes.set_yticks(range(len(depths)), depths.index)
    axes.set_xlabel("normalized depth, layer / (layers − 1)")
    axes.grid(False)
    figure.colorbar(image, ax=axes, label="share of Rosetta Neurons", pad=0.02)
    return figure


def examples(columns: dict[str, list[Block]], contexts: int = 5, characters: int = 40) -> Figure:
    """Figures 19 and 20: what neurons fire on; a block of text lines a neuron, coloured by its activation.

    Parameters
    ----------
    columns : dict of str to list of (title, RosettaNeuron, model)
        A column of blocks under each heading; the activations shown are the named model's.
    contexts, characters : int
        Lines of each block, and characters around the peak on each line.
    """
    rows = max(map(len, columns.values()))
    contexts = min(contexts, max(len(neuron.contexts) for blocks in columns.values() for _, neuron, _ in blocks))
    figure = plt.figure(figsize=(0.094 * characters * len(columns), (0.2 * contexts + 0.36) * rows + 0.5))
    parts = figure.subfigures(1, len(columns), squeeze=False)[0]
    for part, (heading, blocks) in zip(parts, columns.items(), strict=True):
        part.suptitle(heading)
        panels = part.subplots(rows, 1, squeeze=False)[:, 0]
        for axes in panels[len(blocks) :]:
            axes.axis("off")
        for axes, (title, neuron, model) in zip(panels, blocks, strict=False):
            _lines(axes, neuron, model, contexts, characters)
            title = style.cut(style.drawable(title), characters + 4)
            axes.set_title(title, fontsize=10, loc="left", pad=2, parse_math=False)
    return figure


def fig08(neurons: Sequence[RosettaNeuron], title: str, contexts: int = 3, characters: int = 62) -> Figure:
    """Figures 8 to 13: what some neurons fire on that models of one size share, a page a size.

    Of each neuron its label and, for every model that has it, the same lines of text, coloured by that model's activation.
    Under the model's name stand its neuron and the correlation with the first model's.

    Parameters
    ----------
    neurons : sequence of RosettaNeuron
    title : str
    contexts, characters : int
        Lines of each model, and characters around the peak on each line.
    """
    contexts = min(contexts, max((len(neuron.contexts) for neuron in neurons), default=1))
    line, side, gap = 0.21, 1.4, 0.09  # inches, as all below; the model's name and its neuron take three lines
    block, head, scale = max(contexts, 3) * line + gap, 0.42, 0.75
    height = head + sum(head + block * len(neuron.members) for neuron in neurons) + scale
    figure, y = plt.figure(figsize=(WIDTH, height), layout="none"), height - head
    figure.text(0.5, 1 - 0.15 / height, style.drawable(title), fontsize=13, ha="center", va="top", parse_math=False)
    said = {"va": "top", "parse_math": False, "family": "monospace"}  # of which so many characters have room
    for neuron in neurons:
        label = style.cut(style.drawable(neuron.label), 72)
        figure.text(0.08 / WIDTH, (y - 0.16) / height, label, fontsize=11, weight="bold", **said)
        y -= head
        for member in neuron.members:
            of = "" if member.correlation is None else f"\nr = {member.correlation:.2f}"
            name = f"{style.cut(member.model, 15)}\nL{member.layer}/U{member.unit}{of}"
            figure.text(0.08 / WIDTH, y / height, name, fontsize=10, linespacing=1.25, **said)
            at = (side / WIDTH, (y - contexts * line) / height, 1 - (side + 0.05) / WIDTH, contexts * line / height)
            _lines(figure.add_axes(at), neuron, member.model, contexts, characters)
            y -= block
    figure.text(0.08 / WIDTH, 0.62 / height, "r: with the first\nmodel's neuron", fontsize=10, va="top")
    bar = figure.add_axes((side / WIDTH, 0.5 / height, 1 - (side + 0.2) / WIDTH, 0.12 / height))
    figure.colorbar(plt.cm.ScalarMappable(plt.Normalize(0, 1), style.HEAT), cax=bar, orientation="horizontal")
    bar.set_xlabel("activation, as a share of that neuron's strongest here", fontsize=11)
    bar.tick_params(labelsize=10)
    return figure


def _lines(axes: Axes, neuron: RosettaNeuron, model: str, contexts: int, characters: int) -> None:
    """A neuron's strongest contexts, a line each, coloured by a model's activation."""
    shown = [_around_peak(context, model, characters) for context in neuron.contexts[:contexts]]
    pieces = [character for text, _ in shown for character in (*text, "\n")]
    values = [value for _, heat in shown for value in (*heat, 0.0)]
    norm = plt.Normalize(0, max(values, default=0) or 1)
    style.heat_text(axes, pieces, values, norm, characters, contexts, size=10)


def _around_peak(context: Context, model: str, characters: int) -> tuple[str, np.ndarray]:
    """The characters around a context's peak, on one line, and the model's activation on each."""
    heat = np.zeros(len(context.text))
    for start, end, value in context.heat.get(model, []):
        heat[start:end] = np.maximum(heat[start:end], value)
    left = max(0, min((sum(context.peak) - characters) // 2, len(heat) - characters))
    return context.text[left : left + characters].replace("\n", "⏎").replace("\t", " "), heat[left : left + characters]
