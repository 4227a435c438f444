"""Power laws |R| = c x^alpha of a count in the number of neurons (4.1), and how far to trust them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from statsmodels.regression.linear_model import OLS
from statsmodels.tools import add_constant


class PowerLawFit(NamedTuple):
    """count = c * neurons ** alpha. ``alpha_ci95`` is (low, high); NaN with two points, which fit any line."""

    alpha: float
    c: float
    r2: float
    alpha_ci95: tuple[float, float]

    def predict(self, neurons) -> np.ndarray:
        """Fitted counts."""
        return self.c * np.asarray(neurons, dtype=float) ** self.alpha

    def __str__(self) -> str:
        return f"alpha = {self.alpha:.2f} [{self.alpha_ci95[0]:.2f}, {self.alpha_ci95[1]:.2f}], R2 = {self.r2:.3f}"


def fit_power_law(neurons: Sequence[float], counts: Sequence[float]) -> PowerLawFit:
    """Ordinary least squares in log-log space, as in section 4.1.

    Parameters
    ----------
    neurons : sequence of float
        Mean total neuron count of the models of each point.
    counts : sequence of float
        Rosetta Neurons found.

    Raises
    ------
    ValueError
        With fewer than two different sizes, unequal lengths, or a size or count that has no logarithm.
    """
    neurons, counts = np.asarray(neurons, dtype=float), np.asarray(counts, dtype=float)
    if neurons.shape != counts.shape or neurons.ndim != 1:
        raise ValueError(f"neurons has shape {neurons.shape}, counts {counts.shape}; expected two equal rows")
    if len(np.unique(neurons)) < 2:
        raise ValueError("a power law needs at least two different sizes")
    if not (np.isfinite(neurons) & np.isfinite(counts) & (neurons > 0) & (counts > 0)).all():
        got = f"{neurons.tolist()}, {counts.tolist()}"
        raise ValueError(f"sizes and counts must be positive to have a logarithm; got {got}")
    result = OLS(np.log(counts), add_constant(np.log(neurons))).fit()
    low, high = result.conf_int()[1] if len(neurons) > 2 else (np.nan, np.nan)
    # Equal counts leave no variance to explain; a flat line explains them all the same.
    r2 = 1.0 if np.ptp(counts) == 0 else float(result.rsquared)
    return PowerLawFit(float(result.params[1]), float(np.exp(result.params[0])), r2, (float(low), float(high)))


def local_slopes(neurons: Sequence[float], counts: Sequence[float]) -> np.ndarray:
    """Exponent between each size and the next: [points - 1]. Under one power law they are all alike."""
    order = np.argsort(neurons)
    x, y = np.log(np.asarray(neurons, dtype=float)[order]), np.log(np.asarray(counts, dtype=float)[order])
    return np.diff(y) / np.diff(x)


class Prediction(NamedTuple):
    """The largest point's count, as the smaller ones predict it and as it was."""

    neurons: float
    predicted: float
    low: float
    high: float
    measured: float


def leave_largest_out(neurons: Sequence[float], counts: Sequence[float]) -> Prediction:
    """Fit all points but the largest and predict it, with the 95% prediction interval.

    Raises
    ------
    ValueError
        With fewer than four points (three are needed for an interval).
    """
    if len(neurons) < 4:
        points = f"{len(neurons)} points"
        raise ValueError(f"leaving one out of {points} leaves too few for an interval; at least 4 are needed")
    order = np.argsort(neurons)
    x, y = np.log(np.asarray(neurons, dtype=float)[order]), np.log(np.asarray(counts, dtype=float)[order])
    model = OLS(y[:-1], add_constant(x[:-1])).fit()
    row = model.get_prediction([[1.0, x[-1]]]).summary_frame(alpha=0.05).iloc[0]
    values = np.exp([x[-1], row["mean"], row["obs_ci_lower"], row["obs_ci_upper"], y[-1]])
    return Prediction(*map(float, values))


def fits(points: pd.DataFrame, by: Sequence[str], count: str) -> pd.DataFrame:
    """One power law for each group of a table of points with the columns ``neurons`` and `count`.

    A group that cannot be fitted, because it holds a zero count or a single size, is left out.
    """
    rows = []
    for key, group in points.groupby(list(by), sort=False):
        if group["neurons"].nunique() < 2 or not (group[count] > 0).all():
            continue
        fit = fit_power_law(group["neurons"], group[count])
        rows.append(dict(zip(by, key, strict=True)) | {
            "alpha": fit.alpha, "alpha_low": fit.alpha_ci95[0], "alpha_high": fit.alpha_ci95[1],
            "r2": fit.r2, "c": fit.c, "points": len(group),
        })  # fmt: skip
    return pd.DataFrame(rows, columns=[*by, "alpha", "alpha_low", "alpha_high", "r2", "c", "points"])
