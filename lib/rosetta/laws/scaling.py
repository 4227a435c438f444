"""Power laws |R| = c x^alpha of a count in the number of neurons (4.1), and intervals: how far to trust a number."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy  # its parts are imported when they are first used

from rosetta.matching.nulls import Interval


class PowerLawFit(NamedTuple):
    """count = c * neurons ** alpha. ``alpha_ci95`` and ``r2_ci95`` are (low, high); NaN with two points, which fit any line."""

    alpha: float
    c: float
    r2: float
    alpha_ci95: tuple[float, float]
    r2_ci95: tuple[float, float]

    def predict(self, neurons) -> np.ndarray:
        """Fitted counts."""
        return self.c * np.asarray(neurons, dtype=float) ** self.alpha

    def __str__(self) -> str:
        return f"alpha = {self.alpha:.2f} [{self.alpha_ci95[0]:.2f}, {self.alpha_ci95[1]:.2f}], R2 = {self.r2:.3f}"


def fit_power_law(neurons: Sequence[float], counts: Sequence[float]) -> PowerLawFit:
    """Ordinary least squares in log-log space, as in section 4.1, with 95% intervals (`r2_interval` for R2).

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
    result = _line(np.log(neurons), np.log(counts))
    low, high = result.conf_int()[1] if len(neurons) > 2 else (np.nan, np.nan)
    # Equal counts leave no variance to explain; a flat line explains them all the same.
    r2 = 1.0 if np.ptp(counts) == 0 else float(result.rsquared)
    alpha, c = float(result.params[1]), float(np.exp(result.params[0]))
    return PowerLawFit(alpha, c, r2, (float(low), float(high)), r2_interval(r2, len(neurons)))


def _line(x: np.ndarray, y: np.ndarray):
    """The least-squares line through points, of statsmodels."""
    from statsmodels.regression.linear_model import OLS  # slow to import, and most notebooks fit nothing
    from statsmodels.tools import add_constant

    return OLS(y, add_constant(x)).fit()


def r2_interval(r2: float, points: int) -> tuple[float, float]:
    """95% interval of the R2 of a line through points whose sizes are chosen, not drawn, and whose noise is normal.

    The line's |t| = sqrt(R2 (n - 2) / (1 - R2)) is a noncentral t's; the noncentralities d under which it is neither among
    the largest nor the smallest 2.5% bound d^2 / (d^2 + n), the R2 of the line without sampling noise.

    Parameters
    ----------
    r2 : float
    points : int
        n; with fewer than 3 the interval is NaN.
    """
    if points < 3:
        return (np.nan, np.nan)
    if r2 == 1:
        return (1.0, 1.0)
    freedom = points - 2
    t = np.sqrt(r2 * freedom / (1 - r2))
    # The mean over a chi-square's quantiles; scipy's noncentral t is NaN in places.
    scaled = t * np.sqrt(scipy.stats.chi2.ppf((np.arange(1000) + 0.5) / 1000, freedom) / freedom)

    def below(d: float) -> float:
        return float((scipy.stats.norm.cdf(scaled - d) - scipy.stats.norm.cdf(-scaled - d)).mean())

    def bound(share: float) -> float:
        return 0.0 if below(0) <= share else scipy.optimize.brentq(lambda d: below(d) - share, 0, 10 * (t + 10))

    low, high = (d**2 / (d**2 + points) for d in (bound(0.975), bound(0.025)))
    return (low, high)


def wilson(successes: int, n: int) -> Interval:
    """A share with Wilson's 95% score interval, as if the n were drawn independently; NaN if there are none.

    Raises
    ------
    ValueError
        Unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes is {successes!r} and n {n!r}; it must be 0 <= successes <= n")
    if n == 0:
        return Interval(np.nan, np.nan, np.nan)
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, n, method="wilson")
    # None and all are bounds themselves, whatever the rounding.
    return Interval(successes / n, float(low) if successes else 0.0, float(high) if successes < n else 1.0)


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
    row = _line(x[:-1], y[:-1]).get_prediction([[1.0, x[-1]]]).summary_frame(alpha=0.05).iloc[0]
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
            "r2": fit.r2, "r2_low": fit.r2_ci95[0], "r2_high": fit.r2_ci95[1], "c": fit.c, "points": len(group),
        })  # fmt: skip
    measured = ["alpha", "alpha_low", "alpha_high", "r2", "r2_low", "r2_high", "c", "points"]
    return pd.DataFrame(rows, columns=[*by, *measured])
