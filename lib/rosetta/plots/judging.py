"""Figures of the second half of section 5.1, of H and I.1: what judges look at, what they say of either population, Figure 38."""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from rosetta.neurons import composites as drawing
from rosetta.neurons.judging import Evidence, Unseen
from rosetta.plots import style
from rosetta.plots.properties import POPULATIONS
from rosetta.plots.scaling import SIZE
from rosetta.plots.style import COLORS, MARKERS, WIDTH, label, legend_below

#: Of a figure that shows pixels as they are.
DPI = 110


def composite(evidence: Evidence, **options) -> Figure:
    """The picture by which a neuron is judged (H.1), pixel by pixel as a chat model is sent it.

    Parameters
    ----------
    evidence : Evidence
    **options
        ``tile``, ``scale``, ``overlay``, ``rows`` of `neurons.composites.composite`.
    """
    return _as_it_is(drawing.composite(evidence, **options))


def lettered(unseen: Unseen, **options) -> Figure:
    """The images, A to J, among which a judge says which would make a neuron fire (H.3).

    Parameters
    ----------
    unseen : Unseen
    **options
        ``tile``, ``columns`` of `neurons.composites.lettered`.
    """
    return _as_it_is(drawing.lettered(unseen.images, **options))


def _as_it_is(pixels: np.ndarray) -> Figure:
    height, width = pixels.shape[:2]
    figure = plt.figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(pixels, interpolation="nearest", aspect="auto")
    axes.axis("off")
    return figure


def fig06b(table: pd.DataFrame) -> Figure:
    """Figures 6b and 37: the share of either population that is judged monosemantic against size, Wilson's 95% intervals.

    Parameters
    ----------
    table : DataFrame
        As `monosemanticity.rates` or `monosemanticity.texts` gives it; a panel a family.
    """
    families = list(table.groupby("family", sort=False))
    size = (WIDTH * (1 if len(families) == 1 else 1.5), 4.0)
    figure, panels = plt.subplots(1, len(families), figsize=size, squeeze=False, sharey=True)
    for axes, (family, of_family) in zip(panels[0], families, strict=True):
        _rates(axes, of_family, "neurons")
        axes.set(xscale="log", xlabel="neurons of the model", title=style.NAMES.get(family, family))
        style.log_ticks(axes.xaxis)
    panels[0, 0].set(ylabel="judged monosemantic", ylim=(0, None))  # now that all panels are drawn
    return legend_below(figure, panels[0, 0])


def fig36(table: pd.DataFrame) -> Figure:
    """Figure 36: the same of one model, against the number of images that the judge is shown.

    Parameters
    ----------
    table : DataFrame
        As `monosemanticity.by_images` gives it.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 4.0))
    _rates(axes, table, "images")
    axes.set(
        xscale="log",
        xlabel="strongest images shown",
        ylabel="judged monosemantic",
        title=table["model"].iloc[0],
        ylim=(0, None),
    )
    shown = sorted(table["images"].unique())
    axes.set_xticks(shown, [f"{k}" for k in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    return legend_below(figure, axes)


def _rates(axes: plt.Axes, table: pd.DataFrame, x: str) -> None:
    for aside, (population, (color, line, text)) in zip((0.98, 1.02), POPULATIONS.items(), strict=True):
        group = table[table["population"] == population].dropna(subset="rate")
        bars = {"yerr": style.interval(group, "rate").clip(min=0), "capsize": 3, "clip_on": False}
        axes.errorbar(group[x] * aside, group["rate"], fmt=line, color=color, label=text, **bars)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def fig38(table: pd.DataFrame) -> Figure:
    """Figure 38: Rosetta Neurons of one family beside another's; read as the authors' released script reads it, hollow.

    Parameters
    ----------
    table : DataFrame
        As `captures.against` gives it.
    """
    figure, axes = plt.subplots()
    curves = list(dict.fromkeys(table["curve"]))
    for (curve, capture), group in table.groupby(["curve", "capture"], sort=False):
        right, index = capture == "m_t", curves.index(curve)
        look = {} if right else {"markerfacecolor": "white", "markeredgewidth": 1.8}
        text = label(curve) if right else f"{label(curve)}, block inputs in place of $m_t$"
        shape = MARKERS[index] + ("-" if right else ":")
        axes.plot(group["neurons"], group["count"], shape, color=COLORS[index], label=text, **look)
    style.log_axes(axes, SIZE, "Rosetta Neurons")
    return legend_below(figure, axes, columns=1)


def judged(shown: Sequence[tuple[str, Evidence]], width: int = 34, **options) -> Figure:
    """What a judge looks at of some neurons, side by side, each under what was said of it.

    Parameters
    ----------
    shown : sequence of (str, Evidence)
    width : int
        Characters on a line of the titles.
    **options
        As those of `composite`.
    """
    pictures = [drawing.composite(evidence, **options) for _, evidence in shown]
    texts = ["\n".join(textwrap.wrap(style.drawable(text), width)) for text, _ in shown]
    wide, lines = WIDTH * 1.5 / len(shown), max(text.count("\n") + 1 for text in texts)
    tallest = max(len(pixels) / pixels.shape[1] for pixels in pictures)
    size = (wide * len(shown), wide * tallest + 0.2 * lines)
    figure, panels = plt.subplots(1, len(shown), figsize=size, squeeze=False)
    for axes, text, pixels in zip(panels[0], texts, pictures, strict=True):
        axes.imshow(pixels, interpolation="lanczos")
        axes.set_title(text, fontsize=10, loc="left", parse_math=False)
        axes.set_anchor("N")
        axes.axis("off")
    return figure
