"""Figures of images: one image on two grids, what matched neurons see, galleries, and real against generated ones.

Scenes are whitened as models see them: ``show`` makes of pixels what human eyes are shown. Pictures are drawn as
squares, for so models are shown them, resized and not cropped.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator, NullFormatter

from rosetta.plots.style import BLUE, GREEN, HEAT, ORANGE, WIDTH

#: What human eyes are shown of pixels, uint8 [h, w, 3] -> uint8 [h', w', 3].
Show = Callable[[np.ndarray], np.ndarray]


def as_they_are(pixels: np.ndarray) -> np.ndarray:
    """Real photographs need nothing done to them."""
    return pixels


class Seen(NamedTuple):
    """An image with the maps of two neurons on it: uint8 [h, w, 3], [H, W] of the first, [H, W] of the second."""

    pixels: np.ndarray
    a: np.ndarray
    b: np.ndarray


class SeenPair(NamedTuple):
    """Two matched neurons by name (``"onestep-64x4 L1/U20"``), their correlation, and their top images."""

    a: str
    b: str
    r: float
    images: Sequence[Seen]


def scenes(several: Sequence) -> Figure:
    """Scenes in a row: as drawn, as models see them (grain added, patches whitened), and the grid of what is known of cells.

    Parameters
    ----------
    several : sequence of sources.Scene
    """
    figure, panels = plt.subplots(
        3, len(several), figsize=(WIDTH, 3.6 * WIDTH / 7 * 6 / max(6, len(several))), squeeze=False
    )
    for (drawn, seen, known), scene in zip(panels.T, several, strict=True):
        _draw(drawn, scene.drawn)
        _draw(seen, scene.pixels)
        part = scene.cells["part"]
        _draw(known, part, cmap="cividis", vmin=-1, vmax=1)
        _lines(known, part.shape)
    for axes, text in zip(panels[:, 0], ("as drawn", "as models see it", "ground, inside, edge"), strict=True):
        axes.set_title(text, loc="left", fontsize=11)
    return figure


def fig24(pixels: np.ndarray, maps: dict[str, tuple[np.ndarray, np.ndarray]], show: Show = as_they_are) -> Figure:
    """Figure 24: one image under two grids of patches, and one neuron's map on its own grid and on the canonical one.

    Parameters
    ----------
    pixels : uint8 [h, w, 3]
    maps : dict of str to ([H, W], [H', W'])
        For each of two neurons, by name, the map on the model's own grid and on the canonical one.
    show : callable
    """
    figure, panels = plt.subplots(len(maps), 3, figsize=(WIDTH * 1.3, 2.75 * len(maps) + 0.6), squeeze=False)
    picture = show(pixels)
    for (image, own, canonical), (name, (before, after)) in zip(panels, maps.items(), strict=True):
        norm = _norm([before, after])
        _draw(image, picture)
        _lines(image, before.shape)
        model, _, neuron = name.rpartition(" ")
        image.set_title(f"{model}: {before.shape[0]} × {before.shape[1]}")
        _overlay(own, picture, before, norm)
        own.set_title(f"{neuron}, own grid")
        _overlay(canonical, picture, after, norm)
        canonical.set_title(f"canonical: {after.shape[0]} × {after.shape[1]}")
        _lines(canonical, after.shape)
        bar = figure.colorbar(plt.cm.ScalarMappable(norm, HEAT), ax=canonical, shrink=0.8, ticks=MaxNLocator(3))
        bar.set_label("activation")
    return figure


def fig14(pairs: Sequence[SeenPair], show: Show = as_they_are, columns: int = 2) -> Figure:
    """Figures 2 and 14 to 18: matched pairs on their top images, with both neurons' maps, alone and over the image.

    Each neuron's colours go from 0 to its highest activation on these images.

    Parameters
    ----------
    pairs : sequence of SeenPair
    show : callable
    columns : int
        Pairs side by side.
    """
    columns = min(columns, len(pairs))
    rows, deepest = -(-len(pairs) // columns), max(len(pair.images) for pair in pairs)
    figure = plt.figure(figsize=(WIDTH * columns * 0.85, (1.12 * deepest + 0.8) * rows))
    parts = figure.subfigures(rows, columns, squeeze=False, wspace=0.04, hspace=0.03).flat
    for part, pair in zip(parts, pairs, strict=False):
        _pair(part, pair, show)
    return figure


def _pair(figure: SubFigure, pair: SeenPair, show: Show) -> None:
    panels = figure.subplots(len(pair.images), 5, squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.02})
    norms = [_norm([getattr(seen, side) for seen in pair.images]) for side in ("a", "b")]
    for row, seen in zip(panels, pair.images, strict=True):
        picture = show(seen.pixels)
        _draw(row[0], picture)
        for (alone, over), values, norm in zip((row[1:3], row[3:5]), (seen.a, seen.b), norms, strict=True):
            _draw(alone, values, cmap=HEAT, norm=norm)
            _overlay(over, picture, values, norm)
    panels[0, 0].set_title(f"r = {pair.r:.2f}")
    for column, name in ((1, pair.a), (3, pair.b)):  # over the two panels of a neuron, from the left
        model, _, neuron = name.rpartition(" ")
        panels[0, column].set_title(f"{model}\n{neuron}", loc="left")


def fig21(
    galleries: dict[str, dict[str, Sequence[tuple[np.ndarray, np.ndarray | None]]]], show: Show = as_they_are
) -> Figure:
    """Figures 21 and 22: the top images of Rosetta Neurons, and of other neurons of the same layers.

    Parameters
    ----------
    galleries : dict
        For each kind (``"Rosetta Neurons"``), and in it each neuron by name, its top images and, where it is to be seen, its
        map on each: (uint8 [h, w, 3], [H, W] or None). What lies outside the map's upper half is drawn pale.
    show : callable
    """
    rows = max(len(neurons) for neurons in galleries.values())
    several = max(len(images) for neurons in galleries.values() for images in neurons.values())
    figure = plt.figure(figsize=(WIDTH * 0.85 * len(galleries), 1.12 * rows + 0.45))
    parts = figure.subfigures(1, len(galleries), squeeze=False, wspace=0.04).flat
    for part, (kind, neurons) in zip(parts, galleries.items(), strict=True):
        part.suptitle(kind, fontsize=15)
        panels = part.subplots(rows, several, squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.02})
        for axes in panels.flat:
            axes.axis("off")  # where there are fewer
        for row, (name, images) in zip(panels, neurons.items(), strict=False):
            for axes, (pixels, values) in zip(row, images, strict=False):
                _draw(axes, show(pixels) if values is None else _dimmed(show(pixels), values))
            row[0].axis("on")  # for its label
            row[0].spines[:].set_visible(False)
            row[0].set_ylabel(name, fontsize=12)
    return figure


def fig35(sweep: pd.DataFrame) -> Figure:
    """Figure 35: matches of two encoders over real and over generated images, and how far the two sets agree.

    Parameters
    ----------
    sweep : DataFrame
        ``images, real, generated`` (numbers of matched pairs) and ``jaccard`` of the two sets.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH * 1.4, 3.8))
    left.plot(sweep["images"], sweep["real"], "o-", color=BLUE, label="real images")
    left.plot(sweep["images"], sweep["generated"], "s--", color=ORANGE, label="generated images")
    top = sweep[["real", "generated"]].max().max()
    left.set(xscale="log", xlabel="images", ylabel="Rosetta Neurons", ylim=(0, 1.1 * max(1, top)))
    left.legend()
    right.plot(sweep["images"], sweep["jaccard"], "D-", color=GREEN)
    right.set(xscale="log", xlabel="images", ylabel="Jaccard index of the two sets", ylim=(0, 1.03))
    for axes in (left, right):
        axes.xaxis.set_minor_formatter(NullFormatter())
    return figure


# ---------------------------------------------------------------------------------------------------------------------
# Panels


def _draw(axes: Axes, values: np.ndarray, **style) -> None:
    axes.imshow(values, extent=(0, 1, 0, 1), interpolation="nearest", **style)
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.axis("off")


def _overlay(axes: Axes, picture: np.ndarray, values: np.ndarray, norm: Normalize) -> None:
    """A map over the image in grey: the stronger, the more of it is seen."""
    grey = picture.astype(float).mean(-1) / 255
    _draw(axes, grey, cmap="gray", vmin=-0.15, vmax=1.15)
    strength = np.clip(norm(values), 0, 1)
    colours = plt.get_cmap(HEAT)(strength)
    colours[..., 3] = 0.75 * np.sqrt(strength)
    _draw(axes, colours)


def _dimmed(picture: np.ndarray, values: np.ndarray) -> np.ndarray:
    """An image of which the cells below half of the map's range are pale."""
    low, high = values.min(), values.max()
    light = np.where(values >= (low + high) / 2, 1.0, 0.35)
    rows, columns = (np.arange(n) * m // n for n, m in zip(picture.shape[:2], values.shape, strict=True))
    light = light[rows][:, columns, None]
    return (picture * light + 255 * (1 - light)).astype(np.uint8)


def _lines(axes: Axes, grid: tuple[int, int]) -> None:
    """The borders of cells: white between dark, so that they are seen on anything."""
    for style in ({"color": "black", "linewidth": 1.8, "alpha": 0.55}, {"color": "white", "linewidth": 0.7}):
        axes.hlines(np.linspace(0, 1, grid[0] + 1), 0, 1, **style)
        axes.vlines(np.linspace(0, 1, grid[1] + 1), 0, 1, **style)
    axes.grid(False)


def _norm(maps: Sequence[np.ndarray]) -> Normalize:
    top = max(float(values.max()) for values in maps)
    return Normalize(0, top if top > 0 else 1, clip=True)
