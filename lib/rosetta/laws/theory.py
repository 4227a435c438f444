"""The analytical model of section 4.3 and Appendix D: allocation, frontiers, isolation.

The discrete allocation (eq. 11) is solved exactly; the continuum (eq. 12 to 32) has one root to find, r_0. Every
function takes the size N, the spectrum's exponent beta, the budget kappa a neuron and gamma features a neuron.
"""

from typing import NamedTuple

import numpy as np
import scipy  # its parts are imported when they are first used

#: What may count as the isolation of the non-Rosetta population (panel c); see `non_rosetta_isolation`.
READINGS = ("coordinates", "assigned", "features", "below_tau", "tail")


def _whole(at_least):
    return lambda v: isinstance(v, int | np.integer) and not isinstance(v, bool) and v >= at_least


_POSITIVE = ("a finite number above 0", lambda v: 0 < v < np.inf)
_RULES = {
    "n_neurons": ("a whole number of at least 1", _whole(1)),
    "beta": ("a finite number above 1 (the importances must have a finite sum)", lambda v: 1 < v < np.inf),
    "kappa": _POSITIVE, "gamma": _POSITIVE, "tau": _POSITIVE, "noise_floor": _POSITIVE, "isolation": _POSITIVE,
    "n_inputs": ("a whole number of at least 2", _whole(2)),
    "seed": ("a whole number of at least 0", _whole(0)),
    "runs": ("a whole number of at least 1", _whole(1)),
    "background_size": ("a whole number of at least 0", _whole(0)),
    "interference_norm": ("a finite number of at least 0", lambda v: 0 <= v < np.inf),
    "sampler": ("'fast' or 'literal'", lambda v: v in ("fast", "literal")),
    "background": ("'all' or 'unassigned'", lambda v: v in ("all", "unassigned")),
    "coordinates": ("'assigned' or 'all'", lambda v: v in ("assigned", "all")),
    "non_rosetta": (f"one of {', '.join(READINGS)}", lambda v: v in READINGS),
    "draws": ("a whole number of at least 1", _whole(1)),
    "held": ("a whole number of at least 1", _whole(1)),
    "common": ("a number of at least 0 and below 1", lambda v: 0 <= v < 1),
    "allocation": ("'discrete' or 'continuum'", lambda v: v in ("discrete", "continuum")),
    "per": ("'feature' or 'neuron'", lambda v: v in ("feature", "neuron")),
}  # fmt: skip


def check(**values) -> None:
    """ValueError that names the argument, its value and what is allowed; NaN passes no rule."""
    for name, value in values.items():
        words, allowed = _RULES[name]
        try:
            good = bool(allowed(value))
        except (TypeError, ValueError):
            good = False
        if not good:
            raise ValueError(f"{name} is {value!r}; it must be {words}")


def n_features(n_neurons: int, gamma: float = 4.0) -> int:
    """A(N) = gamma N, rounded down: the features that compete for N neurons (eq. 8, D.7)."""
    check(n_neurons=n_neurons, gamma=gamma)
    count = int(gamma * n_neurons * (1 + 1e-12))  # 0.29 * 100 is meant to be 29
    if count < 1:
        raise ValueError(f"gamma is {gamma!r} and n_neurons {n_neurons!r}; gamma * n_neurons must be at least 1")
    return count


def optimal_isolation(n_neurons: int, beta: float, kappa: float = 1.0, gamma: float = 4.0) -> np.ndarray:
    """The allocation that maximizes sum_r w_r log(1 + s_r) under sum_r s_r <= kappa N, w_r = r^-beta (eq. 3, 11).

    By the first-order condition (eq. 16) s_r = [w_r / lambda - 1]_+; the level lambda is exact: with m features above
    water, 1 / lambda = (kappa N + m) / (w_1 + .. + w_m), and m is the largest for which feature m is above it.

    Eq. 11 bounds the budget, not m. That m stays below N is asymptotic (m grows as N^(1/beta), eq. 14): with a large
    kappa and a small N more features than neurons are isolated, and the weaker ones have to share neurons (D.3).

    Parameters
    ----------
    n_neurons : int
        N >= 1.
    beta : float
        Exponent of the spectrum, above 1.
    kappa : float
        Isolation budget a neuron, above 0 (eq. 54).
    gamma : float
        Features a neuron, with gamma N >= 1.

    Returns
    -------
    numpy float64 [A]
        s_r of the features in order of importance, A = gamma N; sums to kappa N.

    Raises
    ------
    ValueError
        On anything else.
    """
    check(n_neurons=n_neurons, beta=beta, kappa=kappa, gamma=gamma)
    rank = np.arange(1, n_features(n_neurons, gamma) + 1, dtype=np.float64)
    weight = rank**-beta
    total = np.cumsum(weight)
    above = weight * (kappa * n_neurons + rank) > total
    m = int(np.flatnonzero(above)[-1]) + 1  # feature 1 always is: kappa N + 1 > 1
    level = (kappa * n_neurons + m) / total[m - 1]
    return np.maximum(weight * level - 1, 0) * (rank <= m)


def rosetta_features(isolation: np.ndarray, tau: float = 2.0) -> int:
    """R_tau(N): features with s_r >= tau (eq. 10)."""
    check(tau=tau)
    return int((np.asarray(isolation) >= tau).sum())


def shared_features(isolation_a: np.ndarray, isolation_b: np.ndarray, tau: float = 2.0) -> int:
    """R_tau of two models: features with min(s_r, s'_r) >= tau (eq. 63).

    Raises
    ------
    ValueError
        If the two do not say of the same features how isolated they are.
    """
    a, b = np.asarray(isolation_a), np.asarray(isolation_b)
    if a.shape != b.shape:
        raise ValueError(f"isolation_a has shape {a.shape}, isolation_b {b.shape}; both must be of the same features")
    return rosetta_features(np.minimum(a, b), tau)


def _mass(low: float, high: float, level: float, beta: float) -> float:
    """The integral of (level / r)^beta - 1 over low <= r <= high (eq. 18 to 20, 28)."""
    with np.errstate(over="ignore"):
        powers = np.float64(level / low) ** (beta - 1) - np.float64(level / high) ** (beta - 1)
    return level * powers / (beta - 1) - (high - low)


def cutoff_rank(n_neurons: int, beta: float, kappa: float = 1.0, gamma: float = 4.0) -> float:
    """r_0(N), where the continuum allocation reaches zero: the root of the budget equation (eq. 5, 20).

    Should a small gamma leave fewer than r_0 features, the integral ends at A, and r_0 > A is where the profile would
    have reached zero; eq. 14 holds with it all the same.
    """
    check(n_neurons=n_neurons, beta=beta, kappa=kappa)
    last = n_features(n_neurons, gamma)

    def unspent(level: float) -> float:
        return _mass(1, min(level, max(last, 1 + 1e-9)), level, beta) - kappa * n_neurons

    high = 2.0
    while unspent(high) < 0:
        high *= 2
    return float(scipy.optimize.bisect(unspent, 1, high, xtol=1e-12, rtol=1e-14, maxiter=400))


def continuum_isolation(rank, n_neurons: int, beta: float, kappa: float = 1.0, gamma: float = 4.0) -> np.ndarray:
    """s*(r; N) = [(r_0 / r)^beta - 1]_+ at any ranks (eq. 4, 14, 24); the shape of `rank`."""
    return np.maximum((cutoff_rank(n_neurons, beta, kappa, gamma) / np.asarray(rank, float)) ** beta - 1, 0)


def purification(rank, beta: float, kappa: float = 1.0, allocation: str = "discrete") -> np.ndarray:
    """What s_r / N tends to at a fixed rank as N grows: the factor in eq. 24's Theta(N / r^beta).

    With few features above water beside N (their number grows as N^(1/beta)), the whole budget kappa N is shared out as the
    importances are. Their sum is zeta(beta) in the discrete allocation (eq. 11), 1 / (beta - 1) in the continuum (eq. 20).

    Parameters
    ----------
    rank : number or array
        r >= 1; the shape of what is returned.
    beta, kappa
        As in `optimal_isolation`.
    allocation : {"discrete", "continuum"}

    Raises
    ------
    ValueError
        On anything else.
    """
    check(beta=beta, kappa=kappa, allocation=allocation)
    rank = np.asarray(rank, dtype=np.float64)
    if not (rank >= 1).all():
        raise ValueError(f"rank is {rank.tolist()!r}; ranks begin at 1")
    return kappa * rank**-beta / (scipy.special.zeta(beta) if allocation == "discrete" else 1 / (beta - 1))


class Frontier(NamedTuple):
    """The ranks that part the spectrum (Figure 5): detectable | partially isolated | superposed | not represented."""

    r_tau: float
    r_0: float
    n_features: int

    @property
    def count(self) -> float:
        """R_tau(N), the measure of the ranks from 1 to r_tau (eq. 13, 23)."""
        return max(self.r_tau - 1, 0.0)


def frontier(n_neurons: int, beta: float, tau: float = 2.0, kappa: float = 1.0, gamma: float = 4.0) -> Frontier:
    """r_tau(N) = r_0(N) (1 + tau)^(-1/beta) (eq. 6, 22), r_0(N) (eq. 20) and A(N), neither frontier beyond A.

    Raises
    ------
    ValueError
        On tau <= 0 and what `optimal_isolation` refuses.
    """
    check(tau=tau)
    r_0, last = cutoff_rank(n_neurons, beta, kappa, gamma), n_features(n_neurons, gamma)
    return Frontier(min(r_0 * (1 + tau) ** (-1 / beta), last), min(r_0, last), last)


def mean_rosetta_isolation(
    n_neurons: int, beta: float, tau: float = 2.0, kappa: float = 1.0, gamma: float = 4.0
) -> float:
    """Mean isolation of the features 1 <= r <= r_tau (eq. 25); NaN where no feature reaches tau."""
    edge = frontier(n_neurons, beta, tau, kappa, gamma)
    if edge.r_tau <= 1:
        return float("nan")
    return float(_mass(1, edge.r_tau, cutoff_rank(n_neurons, beta, kappa, gamma), beta) / edge.r_tau)


def tail_isolation(
    n_neurons: int, beta: float, tau: float = 2.0, kappa: float = 1.0, gamma: float = 4.0, per: str = "neuron"
) -> float:
    """Isolation of the features below tau, shared among the N - R_tau non-Rosetta neurons (eq. 32).

    ``per="feature"`` shares it among the A - R_tau non-Rosetta features instead (eq. 27 to 31).

    Raises
    ------
    ValueError
        What `frontier` refuses; and, per neuron, if tau is so low or the budget so large that no neuron is left over.
    """
    check(per=per)
    edge = frontier(n_neurons, beta, tau, kappa, gamma)
    if per == "neuron" and edge.count >= n_neurons:
        raise ValueError(
            f"kappa is {kappa!r}, tau {tau!r}, beta {beta!r} and n_neurons {n_neurons!r}: {edge.count:.0f} features reach "
            "tau, which leaves no other neurons (eq. 32); take a smaller kappa, or a larger tau, n_neurons or beta"
        )
    mass = _mass(max(edge.r_tau, 1), edge.r_0, cutoff_rank(n_neurons, beta, kappa, gamma), beta)
    return float(mass / ((edge.n_features if per == "feature" else n_neurons) - edge.count))


def exponents(beta: float) -> dict[str, float]:
    """What the theory says of the three panels of Figure 27: a 1/beta, b (beta-1)/beta, c (1-beta)/beta."""
    check(beta=beta)
    return {"a": 1 / beta, "b": (beta - 1) / beta, "c": (1 - beta) / beta}


def signal_to_interference(loadings: np.ndarray, noise_floor: float) -> np.ndarray:
    """s_jr = W_jr^2 / (sigma^2 + sum_{k != r} W_jk^2) of a loading matrix (eq. 44).

    Parameters
    ----------
    loadings : [N, A]
        W_jr, feature r on neuron j (eq. 37).
    noise_floor : float
        The variance sigma_inf^2, above 0.

    Returns
    -------
    numpy float64 [N, A]

    Raises
    ------
    ValueError
        If the loadings are no table of finite numbers, or the floor is not above 0.
    """
    check(noise_floor=noise_floor)
    power = np.asarray(loadings, dtype=np.float64) ** 2
    if power.ndim != 2 or 0 in power.shape or not np.isfinite(power).all():
        infinite = (~np.isfinite(power)).sum()
        raise ValueError(f"loadings has shape {power.shape}, {infinite} not finite; it must be [N, A], all finite")
    # What lies left and right of an entry; the total minus the entry would cancel where the entry dominates.
    left = np.pad(np.cumsum(power[:, :-1], axis=1), ((0, 0), (1, 0)))
    right = np.pad(np.cumsum(power[:, :0:-1], axis=1)[:, ::-1], ((0, 0), (0, 1)))
    return power / (noise_floor + left + right)


def feature_isolation(loadings: np.ndarray, noise_floor: float) -> tuple[np.ndarray, np.ndarray]:
    """(s_r, c(r)), each [A]: a feature's isolation in its most dedicated neuron (eq. 46), and that neuron (eq. 45)."""
    ratio = signal_to_interference(loadings, noise_floor)
    dedicated = ratio.argmax(axis=0)
    return ratio[dedicated, np.arange(ratio.shape[1])], dedicated


def posterior_variance(isolation) -> np.ndarray:
    """Var(z | y) = 1 / (1 + s) of a feature read from its neuron (eq. 49)."""
    return 1 / (1 + np.asarray(isolation, dtype=np.float64))


def correlation_law(isolation_a, isolation_b, covariance=0.0) -> np.ndarray:
    """Correlation of two models' neurons for one feature: 1 / sqrt((1 + 1/s)(1 + 1/s')) (eq. 62); 0 where s is 0.

    Where what they hold beside the feature has a covariance (eq. 59), that adds to the 1 above the line.
    """
    a, b = np.asarray(isolation_a, dtype=np.float64), np.asarray(isolation_b, dtype=np.float64)
    return (1 + np.asarray(covariance)) * np.sqrt(a / (1 + a) * (b / (1 + b)))
