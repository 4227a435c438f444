"""One style for the whole kit: colours, sizes, axes, and text on its heat colours.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; curves differ in marker as well.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from rosetta.laws.scaling import PowerLawFit, fit_power_law
from rosetta.results import write_whole

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000",
)  # fmt: skip
COLORS = [BLUE, RED, GREEN, PURPLE, ORANGE, SKY]
MARKERS = ["o", "s", "^", "D", "v", "P"]
GREY = "#8a8a8a"
HEAT = "YlOrRd"
WIDTH = 7.0  # inches; text is sized to stay legible when the figure is shown at half width

plt.rcParams.update({
    "figure.figsize": (WIDTH, 4.4), "figure.dpi": 110, "savefig.dpi": 160, "figure.constrained_layout.use": True,
    "font.size": 12, "axes.titlesize": 13, "axes.labelsize": 13, "legend.fontsize": 11, "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.alpha": 0.25, "lines.linewidth": 1.8,
    "lines.markersize": 7,
})  # fmt: skip

NAMES = {
    "pythia": "Pythia", "gpt2": "GPT-2", "opt": "OPT", "qwen": "Qwen", "openclip": "OpenCLIP", "dinov2": "DINOv2",
    "dinov3": "DINOv3", "pixio": "Pixio", "onestep": "One-step", "diffusion": "Diffusion",
}  # fmt: skip


def label(curve: str) -> str:
    """``"pythia-opt"`` -> ``"Pythia–OPT"``."""
    return "–".join(NAMES.get(family, family) for family in curve.split("-"))


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write ``folder/figures/name.png`` whole or not at all, and show it under the cell.

    What is shown is that file, and the figure is closed: drawing it again to show it would take as long again, twice.
    """
    file = Path(folder) / "figures" / f"{name}.png"
    write_whole(file, lambda path: figure.savefig(path, format="png"))
    plt.close(figure)
    display(Image(file, width=round(figure.get_figwidth() * plt.rcParams["figure.dpi"])))


def log_ticks(*axes: Axis) -> None:
    """1, 2, 5, 10, ... written out, and nothing between."""
    for axis in axes:
        axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5), numticks=8))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def log_axes(axes: Axes, x: str, y: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    log_ticks(axes.xaxis, axes.yaxis)


def draw_curve(axes: Axes, x, y, index: int, text: str, **style) -> None:
    axes.plot(x, y, MARKERS[index % 6], color=COLORS[index % 6], label=text, **style)


def fit_line(axes: Axes, x, y, color: str) -> PowerLawFit | None:
    """The dashed power-law fit of a curve; None where there is nothing to fit."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(np.unique(x)) < 2 or not (y > 0).all():
        return None
    fit = fit_power_law(x, y)
    ends = np.array([x.min(), x.max()])
    axes.plot(ends, fit.predict(ends), "--", color=color, linewidth=1.3)
    return fit


def interval(table: pd.DataFrame, value: str = "mean", low: str = "low", high: str = "high") -> np.ndarray:
    """The bars of `Axes.errorbar`, [2, n], from the ends of the intervals; none where an end is not known."""
    return np.nan_to_num([table[value] - table[low], table[high] - table[value]])


def legend_below(figure: Figure, axes: Axes, columns: int = 2, **style) -> Figure:
    """The legend of these axes under the whole figure; the figure, so that a function can end with this call."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, **style)
    return figure


def plain(text: str) -> str:
    """Text in which no ``$`` begins mathematics, where Matplotlib would read some."""
    return text.replace("$", r"\$")


def drawable(text: str) -> str:
    """Text on one line, with □ for each character that the monospaced font does not have."""
    font = get_font(findfont("monospace"))
    return "".join((c if font.get_char_index(ord(c)) else "□") if c.isprintable() else " " for c in text)


def cut(text: str, characters: int) -> str:
    """As much of a text as there is room for."""
    return text if len(text) <= characters else text[: characters - 1] + "…"


def heat_text(
    axes: Axes, pieces: Sequence[str], values: Sequence[float], norm, columns: int = 52, lines: int = 7, size: float = 8
) -> None:
    """Text in a monospaced grid, each piece on its heat colour; `size` in points."""
    axes.set(xlim=(0, columns), ylim=(-lines, 0))
    axes.axis("off")
    # Thousands of characters that lie inside the axes by construction: measuring each would take most of the time.
    cell = {"family": "monospace", "fontsize": size, "ha": "center", "va": "center", "in_layout": False}
    heat = plt.get_cmap(HEAT)
    x, y = 0, 0
    for piece, value in zip(pieces, values, strict=True):
        for character in piece:
            if character == "\n" or x == columns:
                x, y = 0, y + 1
            if y == lines:
                return
            if character == "\n":
                continue
            if value > norm.vmax * 0.02:
                axes.add_patch(plt.Rectangle((x, -y - 1), 1, 1, color=heat(norm(value)), linewidth=0))
            ink = "white" if norm(value) > 0.7 else "black"
            if (shown := drawable(character)) != " ":
                axes.text(x + 0.5, -y - 0.5, shown, color=ink, **cell)
            x += 1
