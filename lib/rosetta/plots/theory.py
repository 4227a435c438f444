"""Figures of notebook 04: the allocation problem and its simulation."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rosetta.laws.theory import exponents
from rosetta.plots import style
from rosetta.plots.style import BLACK, BLUE, COLORS, GREY, MARKERS, SKY, WIDTH, YELLOW, legend_below


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
        look = {"color": COLORS[index], "alpha": 1 if index == 0 else 0.75}
        axes.plot(ranks, values[held], linewidth=1.2, **look)
        reached = (values >= tau).sum()
        text = rf"N = {size:,}: $R_\tau$ = {reached:,}, $s_r > 0$ for {held.sum():,}"
        axes.plot(ranks, values[held], MARKERS[index], markersize=4 if len(ranks) < 100 else 2, label=text, **look)
    axes.axhline(tau, color=BLACK, linestyle=":", linewidth=1.4)
    axes.text(edges[-1], tau * 1.15, rf"$\tau$ = {tau:g}", ha="right")
    axes.set(xscale="log", yscale="log", xlim=(edges[0], edges[-1]), ylim=(0.02, None))
    axes.set(xlabel=rf"rank r of the feature (importance $r^{{-{beta:g}}}$)", ylabel="optimal isolation $s_r$")
    axes.legend(loc="upper right")
    return figure


def packing(table: pd.DataFrame) -> Figure:
    """What of their rest two neurons of one feature share, against the size of the tail it is packed from (eq. 57 to 61).

    Dashed: what is expected. The covariance of what they are matched by, the feature itself, is 1 in the same units.

    Parameters
    ----------
    table : DataFrame
        As `laws.packings` gives it.
    """
    figure, axes = plt.subplots()
    for index, (way, group) in enumerate(table.groupby("packing", sort=False)):
        color, bars = COLORS[index % 6], {"yerr": style.interval(group, "spread"), "capsize": 3}
        look = {"fmt": MARKERS[index % 6], "color": color, "markerfacecolor": "none"}  # one may lie on another
        axes.errorbar(group["tail"], group["spread"], label=way, **look, **bars)
        axes.plot(group["tail"], group["expected"], "--", color=color, linewidth=1.3)
    style.log_axes(axes, "features L in the tail", "covariance of the rest,\nroot mean square")
    return legend_below(figure, axes, columns=2, title="packing of the tail (dashed: expected)", title_fontsize=11)


def fig27(table: pd.DataFrame, fitted: pd.DataFrame, reading: str = "coordinates") -> Figure:
    """Figure 27: counts (a), isolation of the Rosetta (b) and of the other neurons (c); theory lines dashed.

    Each line has the theory's slope and goes through the first point that has a logarithm, as in the paper. The
    legends give the fitted slope and, in brackets, the theory's. Means of 0 have no place on these axes.

    Parameters
    ----------
    table : DataFrame
        As `laws.grid` gives it; drawn are the means over the runs.
    fitted : DataFrame
        As `laws.slopes` gives it, for the same reading.
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
            expected = exponents(beta)[panel]
            alpha = f"{slope.loc[beta, 'alpha']:.3f}" if beta in slope.index else "no fit"
            text = rf"$\beta$ = {beta:g}: {alpha} ({expected:.3f})"
            style.draw_curve(axes, group["neurons"], group[column], index, text)
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
        Rows of `laws.slopes` with the columns ``background`` and ``reading``.
    """
    kinds = fitted.groupby("background", sort=False)
    figure, panels = plt.subplots(1, len(kinds), figsize=(WIDTH * 1.4, 4.6), sharex=True, sharey=True, squeeze=False)
    shifts = np.linspace(-0.05, 0.05, fitted["reading"].nunique())
    for axes, (kind, part) in zip(panels[0], kinds, strict=True):
        betas = np.linspace(part["beta"].min() - 0.1, part["beta"].max() + 0.1, 100)
        axes.plot(betas, (1 - betas) / betas, color=BLACK, linewidth=1.3, label=r"theory, $(1-\beta)/\beta$")
        for index, (reading, group) in enumerate(part.groupby("reading", sort=False)):
            error = style.interval(group, "alpha", "alpha_low", "alpha_high")
            look = {"color": COLORS[index % 6], "fmt": MARKERS[index % 6], "capsize": 3, "linewidth": 1.2}
            axes.errorbar(group["beta"] + shifts[index], group["alpha"], yerr=error, label=reading, **look)
        axes.set(title=f"background of {kind} features", xlabel=r"$\beta$", ylim=(-2, 0.6))
    panels[0, 0].set_ylabel("fitted slope, 95% interval")
    return legend_below(figure, panels[0, 0], columns=3)


def slope_errors(fitted: pd.DataFrame, within: float = 0.05) -> Figure:
    """Fitted minus theoretical slope of the counts (a) and isolations (b), one choice of the simulation at a time.

    Parameters
    ----------
    fitted : DataFrame
        Rows of `laws.slopes` by ``choice`` and ``value``.
    within : float
        Half the width of the band drawn: what the paper reports for its own choices.
    """
    choices = fitted.groupby("choice", sort=False)
    shape = {"figsize": (WIDTH * 1.5, 4.2), "width_ratios": choices["value"].nunique().clip(lower=2).tolist()}
    figure, panels = plt.subplots(1, len(choices), sharey=True, squeeze=False, **shape)
    for axes, (choice, part) in zip(panels[0], choices, strict=True):
        part = part[part["panel"].isin(["a", "b"])]
        values = sorted(part["value"].unique(), key=lambda text: (float(text) if text[0].isdigit() else 0.0, text))
        betas = part["beta"].nunique()
        axes.axhspan(-within, within, color=GREY, alpha=0.15, linewidth=0)
        for index, ((panel, beta), group) in enumerate(part.groupby(["panel", "beta"])):
            color, marker = COLORS[index % betas], MARKERS[index % betas]
            places = [values.index(value) + (0.12 if panel == "b" else -0.12) for value in group["value"]]
            filled = color if panel == "a" else "none"
            text = rf"({panel}) $\beta$ = {beta:g}"
            axes.plot(places, group["error"], marker, color=color, markerfacecolor=filled, label=text)
        axes.set_xticks(range(len(values)), values, rotation=45)
        axes.set(xlabel=choice, xlim=(-0.5, len(values) - 0.5))
    panels[0, 0].set_ylabel("slope: measured − theory")
    return legend_below(figure, panels[0, 0], columns=6)
