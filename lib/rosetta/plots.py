"""One function a figure, one style for the whole kit.

Each function takes tables or arrays, draws on a new figure and returns it; `save` writes it under a study's folder.
Colours are Okabe and Ito's, which colour-blind readers can tell apart; curves differ in marker as well.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from rosetta import scaling, theory
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
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "lines.linewidth": 1.8,
    "lines.markersize": 7,
})  # fmt: skip

NAMES = {"pythia": "Pythia", "gpt2": "GPT-2", "opt": "OPT", "qwen": "Qwen"}


def label(curve: str) -> str:
    """``"pythia-opt"`` -> ``"Pythia–OPT"``."""
    return "–".join(NAMES.get(family, family) for family in curve.split("-"))


def save(figure: Figure, folder: Path, name: str) -> Figure:
    """Write ``folder/figures/name.png`` whole or not at all; the figure, so that a cell can end with this call."""
    write_whole(Path(folder) / "figures" / f"{name}.png", lambda path: figure.savefig(path, format="png"))
    return figure


def _log_ticks(*some: Axis) -> None:
    """1, 2, 5, 10, ... written out, and nothing between."""
    for axis in some:
        axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5), numticks=8))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _log_axes(axes: Axes, x: str, y: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    _log_ticks(axes.xaxis, axes.yaxis)


def _curve(axes: Axes, x, y, index: int, text: str, **style) -> None:
    axes.plot(x, y, MARKERS[index % 6], color=COLORS[index % 6], label=text, **style)


def _fit_line(axes: Axes, x, y, color: str) -> scaling.PowerLawFit | None:
    """The dashed power-law fit of a curve; None where there is nothing to fit."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(np.unique(x)) < 2 or not (y > 0).all():
        return None
    fit = scaling.fit_power_law(x, y)
    ends = np.array([x.min(), x.max()])
    axes.plot(ends, fit.predict(ends), "--", color=color, linewidth=1.3)
    return fit


# ---------------------------------------------------------------------------------------------------------------------
# 01 alignment


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
    for y, (_, row, color) in zip((2, 1, 0), rows, strict=True):
        for number, (start, end) in enumerate(row):
            axes.barh(
                y,
                end - start,
                left=start,
                height=0.62,
                color=color,
                alpha=0.45 if number % 2 else 0.25,
                edgecolor=color,
            )
            axes.text(
                (start + end) / 2,
                y,
                _legible(data[start:end]),
                ha="center",
                va="center",
                family="monospace",
                fontsize=10,
            )
    for boundary in np.unique(canonical):
        axes.axvline(boundary, color=RED, linestyle=(0, (2, 2)), linewidth=1.2)
    axes.set(
        yticks=(2, 1, 0),
        yticklabels=[name for name, _, _ in rows],
        xlabel="byte of the text (UTF-8)",
        xlim=(-0.5, len(data) + 0.5),
    )
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(left=False)
    return figure


def _legible(piece: bytes) -> str:
    """Bytes as text, or in hexadecimal where they are only part of a character."""
    try:
        return piece.decode().replace(" ", "␣").replace("\n", "⏎")
    except UnicodeDecodeError:
        return piece.hex()


def _legend_below(figure: Figure, axes: Axes, columns: int = 2, **style) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, **style)


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


# ---------------------------------------------------------------------------------------------------------------------
# 02 matching


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
            _heat_text(panels[row, column], group["text"], group[neuron], norm)
        panels[0, column].set_title(neuron)
        bar = figure.colorbar(plt.cm.ScalarMappable(norm, HEAT), ax=panels[:, column], shrink=0.8, pad=0.01)
        bar.set_label("activation")
    figure.suptitle(title)
    return figure


def _heat_text(
    axes: Axes, pieces: Sequence[str], values: Sequence[float], norm, columns: int = 52, lines: int = 7
) -> None:
    """Text in a monospaced grid, each piece on its heat colour."""
    axes.set(xlim=(0, columns), ylim=(-lines, 0))
    axes.axis("off")
    x, y = 0, 0
    for piece, value in zip(pieces, values, strict=True):
        for character in piece:
            if character == "\n" or x == columns:
                x, y = 0, y + 1
            if y == lines:
                return
            if character == "\n":
                continue
            face = plt.get_cmap(HEAT)(norm(max(value, 0)))
            if value > norm.vmax * 0.02:
                axes.add_patch(plt.Rectangle((x, -y - 1), 1, 1, color=face, linewidth=0))
            ink = "white" if norm(value) > 0.7 else "black"
            shown = character if character.isprintable() else " "
            axes.text(x + 0.5, -y - 0.5, shown, family="monospace", fontsize=8, ha="center", va="center", color=ink)
            x += 1


def correlation_histogram(
    table: pd.DataFrame, permuted: Sequence[pd.DataFrame], untrained: Sequence[pd.DataFrame], above: float
) -> Figure:
    """Correlations of the matched pairs, trained and under both nulls, and the threshold of the calibrated count.

    Null counts are means over the seeds.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.8))
    bins = np.linspace(0, 1, 51)
    sets = [
        ([table], BLUE, "trained"),
        (untrained, ORANGE, "untrained networks"),
        (permuted, GREY, "permuted positions"),
    ]
    for tables, color, text in sets:
        values = np.concatenate([t["correlation"] for t in tables])
        weights = np.full(len(values), 1 / len(tables))
        axes.hist(values, bins, weights=weights, color=color, alpha=0.25)
        axes.hist(
            values,
            bins,
            weights=weights,
            color=color,
            histtype="step",
            linewidth=1.8,
            label=f"{text}: {len(values) / len(tables):,.0f} pairs",
        )
    axes.axvline(above, color=RED, linestyle="--", linewidth=1.4, label=f"null threshold, r = {above:.3f}")
    axes.set(
        xlabel="Pearson correlation of a matched pair", ylabel="pairs", yscale="symlog", ylim=(0, None), xlim=(0, 1)
    )
    axes.legend()
    return figure


# ---------------------------------------------------------------------------------------------------------------------
# 03 scaling

SIZE = "neurons (mean of the matched models)"


def fig03a(points: pd.DataFrame, count: str = "raw") -> Figure:
    """Figure 3a: Rosetta Neurons against model size, a power law through each curve.

    Parameters
    ----------
    points : DataFrame
        As `Study.points` gives it.
    count : {"raw", "calibrated"}
    """
    figure, axes = plt.subplots()
    for index, (curve, group) in enumerate(points.groupby("curve", sort=False)):
        fit = _fit_line(axes, group["neurons"], group[count], COLORS[index % 6])
        exponent = rf", $\alpha$ = {fit.alpha:.2f}, $R^2$ = {fit.r2:.3f}" if fit else ""
        _curve(axes, group["neurons"], group[count], index, label(curve) + exponent)
    _log_axes(axes, SIZE, "Rosetta Neurons" if count == "raw" else "Rosetta Neurons above the null")
    _legend_below(figure, axes)
    return figure


def null_counts(points: pd.DataFrame, null: str) -> Figure:
    """Figures 4 and 26: counts of one null (mean, 95% interval over seeds) beside the trained networks'.

    Parameters
    ----------
    points : DataFrame
        As `Study.points` gives it.
    null : {"untrained", "permuted"}
    """
    figure, axes = plt.subplots()
    for index, (curve, group) in enumerate(points.groupby("curve", sort=False)):
        color, shape = COLORS[index % 6], MARKERS[index % 6]
        axes.plot(group["neurons"], group["raw"], shape + "-", color=color, alpha=0.3, linewidth=1)
        mean = group[f"{null}_mean"]
        # A negative lower end has no place on a logarithmic axis.
        low = (mean - group[f"{null}_low"].clip(lower=0.5)).fillna(0).clip(lower=0)
        high = (group[f"{null}_high"] - mean).fillna(0)
        axes.errorbar(
            group["neurons"],
            mean.clip(lower=0.5),
            yerr=[low, high],
            fmt=shape + "--",
            color=color,
            capsize=3,
            label=label(curve),
        )
    _log_axes(axes, SIZE, "matched pairs")
    title = f"dashed: {null}, mean and 95% interval; faint: trained"
    _legend_below(figure, axes, columns=3, title=title, title_fontsize=11)
    return figure


def fig25(points: pd.DataFrame) -> Figure:
    """Figure 25: the scaling of one curve for several k of the mutual top-k criterion.

    Parameters
    ----------
    points : DataFrame
        As `Study.k_points` gives it.
    """
    figure, axes = plt.subplots()
    for index, (k, group) in enumerate(points.groupby("k")):
        fit = _fit_line(axes, group["neurons"], group["raw"], COLORS[index % 6])
        exponent = rf", $\alpha$ = {fit.alpha:.2f}" if fit else ""
        _curve(axes, group["neurons"], group["raw"], index, f"k = {k}{exponent}")
    _log_axes(axes, SIZE, "matched pairs")
    _legend_below(figure, axes)
    return figure


def fig33(sweep: pd.DataFrame) -> Figure:
    """Figure 33: the number of matches, and their overlap with the set before, as the tokens grow.

    Parameters
    ----------
    sweep : DataFrame
        As `Study.token_sweep` gives it.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH * 1.4, 3.8))
    left.plot(sweep["tokens"], sweep["count"], "o-", color=BLUE)
    left.set(xscale="log", xlabel="tokens", ylabel="Rosetta Neurons", ylim=(0, 1.1 * sweep["count"].max()))
    right.plot(sweep["tokens"], sweep["overlap"], "o-", color=BLUE, label="of this set, in the set before")
    right.plot(sweep["tokens"], sweep["jaccard"], "s--", color=GREEN, label="Jaccard index")
    right.set(xscale="log", xlabel="tokens", ylabel="overlap with the set before", ylim=(0, 1.03))
    right.legend()
    for axes in (left, right):
        axes.xaxis.set_minor_formatter(NullFormatter())
    return figure


def predictions(table: pd.DataFrame) -> Figure:
    """The largest point of each curve: as the smaller ones predict it (95% interval), and as it was measured.

    Parameters
    ----------
    table : DataFrame
        ``curve, predicted, low, high, measured``.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 0.55 * len(table) + 1.4))
    y = np.arange(len(table))[::-1]
    error = [table["predicted"] - table["low"], table["high"] - table["predicted"]]
    axes.errorbar(
        table["predicted"], y, xerr=error, fmt="o", color=GREY, capsize=4, label="predicted from the smaller sizes, 95%"
    )
    axes.plot(table["measured"], y, "D", color=RED, label="measured")
    axes.set(
        yticks=y, yticklabels=[label(curve) for curve in table["curve"]], xlabel="Rosetta Neurons at the largest size"
    )
    axes.set(xscale="log", ylim=(-0.6, len(table) - 0.4))
    _log_ticks(axes.xaxis)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


# ---------------------------------------------------------------------------------------------------------------------
# 04 theory


def fig05(isolations: dict[int, np.ndarray], beta: float, tau: float) -> Figure:
    """Figure 5: the optimal isolation along the ranked features, and the frontiers that part them.

    Parameters
    ----------
    isolations : dict of int to float64 [A]
        s_r for each number of neurons N; the regions are drawn for the first.
    beta, tau : float
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 4.8))
    (n, s), *larger = isolations.items()
    edges = [0.8, (s >= tau).sum() + 0.5, (s > 0).sum() + 0.5, len(s), len(s) * 4]
    names = ["detectable", "partly\nisolated", "superposed,\n$s_r = 0$", "not repre-\nsented"]
    for left, right, name, color in zip(edges[:-1], edges[1:], names, (BLUE, SKY, YELLOW, GREY), strict=True):
        axes.axvspan(left, right, color=color, alpha=0.18, linewidth=0)
        if right > left * 1.4:
            axes.text((left * right) ** 0.5, 1.01, name, transform=axes.get_xaxis_transform(), ha="center", fontsize=10)
    for index, (size, values) in enumerate([(n, s), *larger]):
        held = values > 0
        ranks = np.arange(1, len(values) + 1)[held]
        style = {"color": COLORS[index], "alpha": 1 if index == 0 else 0.75}
        axes.plot(ranks, values[held], linewidth=1.2, **style)
        reached = (values >= tau).sum()
        text = rf"N = {size:,}: $R_\tau$ = {reached:,}, $s_r > 0$ for {held.sum():,}"
        axes.plot(ranks, values[held], MARKERS[index], markersize=4 if len(ranks) < 100 else 2, label=text, **style)
    axes.axhline(tau, color=BLACK, linestyle=":", linewidth=1.4)
    axes.text(edges[-1], tau * 1.15, rf"$\tau$ = {tau:g}", ha="right")
    axes.set(xscale="log", yscale="log", xlim=(edges[0], edges[-1]), ylim=(0.02, None))
    axes.set(xlabel=rf"rank r of the feature (importance $r^{{-{beta:g}}}$)", ylabel="optimal isolation $s_r$")
    axes.legend(loc="upper right")
    return figure


def fig27(table: pd.DataFrame, fitted: pd.DataFrame, reading: str = "coordinates") -> Figure:
    """Figure 27: counts (a), isolation of the Rosetta (b) and of the other neurons (c); theory lines dashed.

    Each line has the theory's slope and goes through the first point that has a logarithm, as in the paper. The
    legends give the fitted slope and, in brackets, the theory's. Means of 0 have no place on these axes.

    Parameters
    ----------
    table : DataFrame
        As `theory.grid` gives it; drawn are the means over the runs.
    fitted : DataFrame
        As `theory.slopes` gives it, for the same reading.
    """
    means = table.groupby(["beta", "neurons"], as_index=False).mean(numeric_only=True)
    panels = {
        "a": ("rosetta_count", "(a) Rosetta Neurons"),
        "b": ("rosetta_isolation", "(b) mean isolation\nof Rosetta Neurons"),
        "c": (f"non_rosetta_{reading}", "(c) isolation of\nnon-Rosetta neurons"),
    }
    figure, rows = plt.subplots(3, 1, figsize=(WIDTH, 11), sharex=True)
    for axes, (panel, (column, name)) in zip(rows, panels.items(), strict=True):
        slope = fitted[fitted["panel"] == panel].set_index("beta")
        for index, (beta, group) in enumerate(means.groupby("beta")):
            group = group[group[column] > 0]
            expected = theory.exponents(beta)[panel]
            alpha = f"{slope.loc[beta, 'alpha']:.3f}" if beta in slope.index else "no fit"
            _curve(axes, group["neurons"], group[column], index, rf"$\beta$ = {beta:g}: {alpha} ({expected:.3f})")
            if len(group):
                first = group.iloc[0]
                ends = np.array([first["neurons"], means["neurons"].max()])
                line = first[column] * (ends / first["neurons"]) ** expected
                axes.plot(ends, line, "--", color=COLORS[index % 6], linewidth=1.3)
        axes.set(yscale="log", ylabel=name)
        axes.set_xscale("log", base=2)
        axes.legend(title="slope (theory)", loc="center left", bbox_to_anchor=(1, 0.5), fontsize=10)
    rows[-1].set_xlabel("neurons N")
    return figure


def panel_c(fitted: pd.DataFrame) -> Figure:
    """Slopes of Figure 27c under each reading of "non-Rosetta" and each kind of background, beside the theory's.

    Parameters
    ----------
    fitted : DataFrame
        Rows of `theory.slopes` with the columns ``background`` and ``reading``.
    """
    kinds = list(fitted["background"].unique())
    figure, panels = plt.subplots(1, len(kinds), figsize=(WIDTH * 1.4, 4.6), sharex=True, sharey=True, squeeze=False)
    shifts = np.linspace(-0.05, 0.05, fitted["reading"].nunique())
    for axes, kind in zip(panels[0], kinds, strict=True):
        part = fitted[fitted["background"] == kind]
        betas = np.linspace(part["beta"].min() - 0.1, part["beta"].max() + 0.1, 100)
        axes.plot(betas, (1 - betas) / betas, color=BLACK, linewidth=1.3, label=r"theory, $(1-\beta)/\beta$")
        for index, (reading, group) in enumerate(part.groupby("reading", sort=False)):
            error = [group["alpha"] - group["alpha_low"], group["alpha_high"] - group["alpha"]]
            style = {"color": COLORS[index % 6], "fmt": MARKERS[index % 6], "capsize": 3, "linewidth": 1.2}
            axes.errorbar(
                group["beta"] + shifts[index], group["alpha"], yerr=np.nan_to_num(error), label=reading, **style
            )
        axes.set(title=f"background of {kind} features", xlabel=r"$\beta$", ylim=(-2, 0.6))
    panels[0, 0].set_ylabel("fitted slope, 95% interval")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def slope_errors(fitted: pd.DataFrame, within: float = 0.05) -> Figure:
    """Fitted minus theoretical slope of the counts (a) and isolations (b), one choice of the simulation at a time.

    Parameters
    ----------
    fitted : DataFrame
        Rows of `theory.slopes` by ``choice`` and ``value``.
    within : float
        Half the width of the band drawn: what the paper reports for its own choices.
    """
    choices = list(fitted["choice"].unique())
    figure, panels = plt.subplots(
        1, len(choices), figsize=(WIDTH * 1.5, 4.2), sharey=True, squeeze=False,
        width_ratios=[max(2, fitted[fitted["choice"] == choice]["value"].nunique()) for choice in choices],
    )  # fmt: skip
    for axes, choice in zip(panels[0], choices, strict=True):
        part = fitted[(fitted["choice"] == choice) & fitted["panel"].isin(["a", "b"])]
        values = sorted(part["value"].unique(), key=lambda text: (float(text) if text[0].isdigit() else 0.0, text))
        axes.axhspan(-within, within, color=GREY, alpha=0.15, linewidth=0)
        for index, ((panel, beta), group) in enumerate(part.groupby(["panel", "beta"])):
            color = COLORS[index % part["beta"].nunique()]
            places = [values.index(value) + (0.12 if panel == "b" else -0.12) for value in group["value"]]
            filled = color if panel == "a" else "none"
            axes.plot(places, group["error"], MARKERS[index % part["beta"].nunique()], color=color,
                      markerfacecolor=filled, label=rf"({panel}) $\beta$ = {beta:g}")  # fmt: skip
        axes.set_xticks(range(len(values)), values, rotation=45)
        axes.set(xlabel=choice, xlim=(-0.5, len(values) - 0.5))
    panels[0, 0].set_ylabel("slope: measured − theory")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure
