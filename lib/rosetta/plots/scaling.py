"""Figures of notebook 03: counts against size."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from rosetta.laws.scaling import PowerLawFit
from rosetta.matching.nulls import which_positions
from rosetta.plots import style
from rosetta.plots.style import BLUE, COLORS, GREEN, GREY, MARKERS, RED, WIDTH, label, legend_below

SIZE = "neurons (mean of the matched models)"
#: What a figure says of a count beside "Rosetta Neurons".
COUNTED = {
    "raw": [], "calibrated": ["calibrated"], "strict": ["strict"], "thinned": ["thinned"],
    "thinned_strict": ["strict", "thinned"],
}  # fmt: skip


def fig03a(points: pd.DataFrame, count: str = "raw", share: bool = False) -> Figure:
    """Figure 3: Rosetta Neurons against model size, a power law through each curve.

    Parameters
    ----------
    points : DataFrame
        As `counts.points` gives it; of shares, as `counts.shares` does.
    count : {"raw", "calibrated", "strict", "thinned", "thinned_strict"}
        All pairs, those above the permuted null, or those above both nulls; and all, and those above both nulls, over thinned
        positions.
    share : bool
        The share that they are of all neurons instead, with its 95% interval; the exponent is then alpha - 1.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 5.2 if share else 4.4))  # intervals make a long legend
    if share:
        points = points[points["count"] == count]
    for index, (curve, group) in enumerate(points.groupby("curve", sort=False)):
        values = group["share" if share else count]
        fit = style.fit_line(axes, group["neurons"], values, COLORS[index % 6])
        if share:
            bars = style.interval(group[values > 0], "share")
            axes.errorbar(
                group["neurons"][values > 0], values[values > 0], bars, fmt="none", color=COLORS[index % 6], capsize=3
            )
        style.draw_curve(axes, group["neurons"], values, index, label(curve) + _exponent(fit, share))
    of = "share of all neurons" if share else "Rosetta Neurons"
    style.log_axes(axes, SIZE, ", ".join([of, *COUNTED[count]]))
    longest = max(len(label(curve)) for curve in points["curve"])
    return legend_below(figure, axes, columns=2 if longest < 20 and not share else 1)


def _exponent(fit: PowerLawFit | None, share: bool) -> str:
    if fit is None:
        return ""
    if not share:
        return rf", $\alpha$ = {fit.alpha:.2f}, $R^2$ = {fit.r2:.3f}"
    low, high = fit.alpha_ci95
    return rf", $\alpha - 1$ = {fit.alpha:.2f}" + ("" if np.isnan(low) else f" [{low:.2f}, {high:.2f}]")


def null_counts(points: pd.DataFrame, null: str) -> Figure:
    """Figures 4 and 26: counts of one null (mean, 95% interval over seeds) beside the trained networks' over the same positions.

    Parameters
    ----------
    points : DataFrame
        As `counts.points` gives it.
    null : {"untrained", "permuted"}
    """
    figure, axes = plt.subplots()
    trained, over = "raw", "all positions"
    if null == "permuted":
        trained, over = "aligned_same", which_positions(points["permuted_positions"], points["positions"])
    for index, (curve, group) in enumerate(points.groupby("curve", sort=False)):
        color, shape = COLORS[index % 6], MARKERS[index % 6]
        axes.plot(group["neurons"], group[trained], shape + "-", color=color, alpha=0.3, linewidth=1)
        mean = group[f"{null}_mean"]
        # A negative lower end has no place on a logarithmic axis.
        low = (mean - group[f"{null}_low"].clip(lower=0.5)).fillna(0).clip(lower=0)
        high = (group[f"{null}_high"] - mean).fillna(0)
        bars = {"yerr": [low, high], "capsize": 3}
        axes.errorbar(group["neurons"], mean.clip(lower=0.5), fmt=shape + "--", color=color, label=label(curve), **bars)
    style.log_axes(axes, SIZE, "matched pairs")
    title = f"dashed: {null}, mean and 95% interval; faint: trained\nboth over {over}"
    return legend_below(figure, axes, columns=3, title=title, title_fontsize=11)


def fig25(points: pd.DataFrame) -> Figure:
    """Figure 25: the scaling of one curve for several k of the mutual top-k criterion.

    Parameters
    ----------
    points : DataFrame
        As `Study.k_points` gives it.
    """
    figure, axes = plt.subplots()
    for index, (k, group) in enumerate(points.groupby("k")):
        fit = style.fit_line(axes, group["neurons"], group["raw"], COLORS[index % 6])
        exponent = rf", $\alpha$ = {fit.alpha:.2f}" if fit else ""
        style.draw_curve(axes, group["neurons"], group["raw"], index, f"k = {k}{exponent}")
    style.log_axes(axes, SIZE, "matched pairs")
    return legend_below(figure, axes)


def fig33(sweep: pd.DataFrame, of: str = "tokens") -> Figure:
    """Figures 33 and 34: the number of matches, and their overlap with the set before, as the tokens or images grow.

    Parameters
    ----------
    sweep : DataFrame
        As `counts.token_sweep` gives it: ``count, overlap, jaccard``, and of what there is the more.
    of : str
        The column of that: ``"tokens"`` or ``"images"``.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH * 1.4, 3.8))
    left.plot(sweep[of], sweep["count"], "o-", color=BLUE)
    left.set(xscale="log", xlabel=of, ylabel="Rosetta Neurons", ylim=(0, 1.1 * sweep["count"].max()))
    right.plot(sweep[of], sweep["overlap"], "o-", color=BLUE, label="of this set, in the set before")
    right.plot(sweep[of], sweep["jaccard"], "s--", color=GREEN, label="Jaccard index")
    right.set(xscale="log", xlabel=of, ylabel="overlap with the set before", ylim=(0, 1.03))
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
    bars = {"xerr": style.interval(table, "predicted"), "capsize": 4}
    axes.errorbar(table["predicted"], y, fmt="o", color=GREY, label="predicted from the smaller sizes, 95%", **bars)
    axes.plot(table["measured"], y, "D", color=RED, label="measured")
    axes.set_yticks(y, table["curve"].map(label))
    axes.set(xlabel="Rosetta Neurons at the largest size", xscale="log", ylim=(-0.6, len(table) - 0.4))
    style.log_ticks(axes.xaxis)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def exponents(fits: pd.DataFrame, reported: tuple[float, float]) -> Figure:
    """The exponent of each curve with its 95% interval, and the range of the paper's.

    Parameters
    ----------
    fits : DataFrame
        ``curve, alpha, alpha_low, alpha_high``, a row a curve; curves without an interval have none drawn.
    reported : (float, float)
        The paper's lowest and highest.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 0.36 * len(fits) + 1.5))
    y = np.arange(len(fits))[::-1]
    axes.axvspan(*reported, color=GREEN, alpha=0.18, label="reported there")
    axes.axvline(1, color=GREY, linestyle=":", label="the share stays")
    bars = {"xerr": style.interval(fits, "alpha", "alpha_low", "alpha_high"), "capsize": 4}
    axes.errorbar(fits["alpha"], y, fmt="o", color=BLUE, label="measured here, 95%", **bars)
    axes.set_yticks(y, fits["curve"].map(label))
    axes.set(xlabel=r"exponent $\alpha$ of the raw count", ylim=(-0.6, len(fits) - 0.4))
    return legend_below(figure, axes, columns=3)
