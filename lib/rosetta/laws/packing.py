"""Random packing of the tail (D.6): how far what else two neurons hold beside their common feature can correlate.

Two models' neurons for feature r, divided by its loading, are z_r plus leaked features of the tail (eq. 56, 57). Whether their
covariance vanishes decides whether eq. 62 holds. Closed forms, and a simulation that also leaves the assumption: directions
that are independent and isotropic.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rosetta.laws.theory import check, cutoff_rank, n_features


def leakage(loadings: np.ndarray, feature: int) -> np.ndarray:
    """b_k = W_jk / W_jr of a neuron read as feature r (eq. 57), 0 at r itself: the shape of `loadings`, [..., A].

    Their squares add up to at most 1 / s, and to that less sigma^2 / W_jr^2 (eq. 58).

    Raises
    ------
    ValueError
        Where the neuron does not hold the feature.
    """
    loadings = np.asarray(loadings, dtype=np.float64)
    if not (loadings[..., feature] != 0).all():
        raise ValueError(f"feature {feature} has the loading 0: this neuron cannot be read as it (eq. 47)")
    shares = loadings / loadings[..., feature, None]
    shares[..., feature] = 0
    return shares


def leakage_covariance(leakage_a: np.ndarray, leakage_b: np.ndarray) -> np.ndarray:
    """Cov(eps_a, eps_b) of two leakages [..., L] of uncorrelated features: the sum of b_k b'_k over k (eq. 59)."""
    return (np.asarray(leakage_a) * np.asarray(leakage_b)).sum(-1)


def packing_spread(isolation_a, isolation_b, tail) -> np.ndarray:
    """Standard deviation of that covariance over independent isotropic packings: 1 / sqrt(s s' L) (eq. 61), its mean 0 (eq. 60).

    Exact for leakages of norm 1 / sqrt(s) and 1 / sqrt(s'), in any L dimensions; a bound where part of the rest is noise.
    """
    a, b, size = (np.asarray(values, dtype=np.float64) for values in (isolation_a, isolation_b, tail))
    return 1 / np.sqrt(a * b * size)


def effective_tail(power: np.ndarray) -> float:
    """L_r of eq. 61 where feature k takes the share power_k of the leaked variance: (sum p)^2 / sum p^2, at most their number."""
    power = np.asarray(power, dtype=np.float64)
    return float(power.sum() ** 2 / (power**2).sum())


def pack(
    isolation: float, power: np.ndarray, draws: int, rng: np.random.Generator, held: int | None = None, common: float = 0.0
) -> np.ndarray:  # fmt: skip
    """Leakages of norm 1 / sqrt(s), drawn anew for each of so many neurons.

    Parameters
    ----------
    isolation : float
        s, above 0.
    power : [L]
        Variance of the coefficients before they are normalized; all alike for an isotropic direction.
    draws : int
    rng : numpy Generator
    held : int, optional
        Features that a neuron holds, chosen at random for each, as D.7's background sets; all by default.
    common : float
        Cosine, between 0 and 1, of the leakages of any two neurons on average: part of them is a direction that all share.

    Returns
    -------
    numpy float64 [draws, L]
    """
    check(isolation=isolation, draws=draws, common=common, **({} if held is None else {"held": held}))
    power = np.asarray(power, dtype=np.float64)
    direction = rng.standard_normal((draws, len(power))) * np.sqrt(power)
    if held is not None and held < len(power):
        direction *= rng.permuted(np.broadcast_to(np.arange(len(power)) < held, direction.shape), axis=1)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    if common:
        direction = np.sqrt(common) * np.sqrt(power / power.sum()) + np.sqrt(1 - common) * direction
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return direction / np.sqrt(isolation)


def packings(
    sizes: Sequence[int], beta: float, isolation: float = 2.0, kappa: float = 1.0, gamma: float = 4.0, seed: int = 0,
    *, draws: int = 1_000, held: int = 64, common: float = 0.1,
) -> pd.DataFrame:  # fmt: skip
    """The covariance of eq. 59 over random packings of the tail of N neurons, under four ways to pack it.

    The tail are the L features without isolation, r_0(N) < r <= A(N). ``isotropic`` is the paper's assumption; with ``sets``
    each neuron holds `held` of them; ``by importance`` a feature leaks in proportion to its importance r^-beta; with a
    ``common direction`` the two models' leakages have the cosine `common` on average.

    Parameters
    ----------
    sizes : sequence of int
        Numbers N of neurons.
    beta, kappa, gamma
        As in `theory.optimal_isolation`.
    isolation : float
        s of both neurons.
    seed : int
    draws : int
        Pairs of neurons.
    held, common
        As in `pack`.

    Returns
    -------
    DataFrame
        ``packing, neurons, tail``: L; ``mean``; ``spread`` about 0 (root mean square) with the 95% interval of so many draws,
        ``low`` and ``high``; and ``expected``: that of eq. 61, with `effective_tail` for L where features leak unequally, and
        with the mean that takes the place of eq. 60's 0 where directions are shared.

    Raises
    ------
    ValueError
        On a value that is not allowed, or sizes that leave no tail.
    """
    check(isolation=isolation, draws=draws, seed=seed, held=held, common=common)
    rows = []
    for n in sizes:
        last, first = n_features(n, gamma), int(cutoff_rank(n, beta, kappa, gamma))
        tail = last - first
        if tail < 2:
            raise ValueError(
                f"n_neurons is {n!r} and gamma {gamma!r}: all but {max(tail, 0)} of the {last} features are isolated"
            )
        alike, important = np.ones(tail), np.arange(first + 1, last + 1.0) ** -beta
        ways = {
            "isotropic": (alike, {}), "sets": (alike, {"held": held}), "by importance": (important, {}),
            "common direction": (alike, {"common": common}),
        }  # fmt: skip
        for way, (power, choices) in ways.items():
            rng = np.random.default_rng([seed, n, round(beta * 1e6)])
            covariance = _covariances(isolation, power, draws, rng, choices)
            by_chance = packing_spread(isolation, isolation, effective_tail(power))
            shared = choices.get("common", 0.0) / isolation
            square = covariance**2
            error = 1.96 * square.std() / np.sqrt(draws)
            low, middle, high = np.sqrt(np.maximum(square.mean() + np.array([-error, 0, error]), 0))
            rows.append({
                "packing": way, "neurons": n, "tail": tail, "mean": covariance.mean(), "spread": middle, "low": low,
                "high": high, "expected": np.hypot(by_chance, shared),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _covariances(isolation, power, draws, rng, choices, cells: int = 2**22) -> np.ndarray:
    """Eq. 59 of so many pairs of neurons, some at a time (at most `cells` numbers)."""
    parts = []
    while draws > 0:
        some = min(draws, max(1, cells // len(power)))
        a, b = (pack(isolation, power, some, rng, **choices) for _ in range(2))
        parts.append(leakage_covariance(a, b))
        draws -= some
    return np.concatenate(parts)
