"""The simulation of Appendix D.7: two models that share features are drawn and matched (Figure 27).

The models are matched with the kit's own `mutual_nearest`.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scipy.linalg import blas, cholesky
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from rosetta.laws.scaling import fits
from rosetta.laws.theory import READINGS, check, exponents, optimal_isolation
from rosetta.matching.correlation import PearsonAccumulator
from rosetta.matching.mutual import mutual_nearest


class SimulationResult(NamedTuple):
    """Mutual pairs; mean assigned isolation of their neurons; isolation of the non-Rosetta population."""

    rosetta_count: int
    rosetta_isolation: float
    non_rosetta_isolation: float


class Loadings(NamedTuple):
    """W of one simulated model.

    ``weights`` [n, A], sparse: of each neuron on its target and on its background. ``targets``, int64 [assigned]: the
    features that are a target. Neuron j's is feature j, if j is among them; without isolation it has none.
    """

    weights: sparse.csr_array
    targets: np.ndarray


class Recovered(NamedTuple):
    """What one simulated pair of models gives: `isolation` [n] as assigned, `pairs` [p, 2] and their `correlation` [p]."""

    isolation: np.ndarray
    pairs: np.ndarray
    correlation: np.ndarray
    n_neurons: int
    n_features: int


def simulate(
    n_neurons: int, beta: float, n_inputs: int = 10_000, kappa: float = 1.0, gamma: float = 4.0, seed: int = 0,
    *, non_rosetta: str = "coordinates", tau: float = 2.0, **choices,
) -> SimulationResult:  # fmt: skip
    """Simulate two models that share features, match them, and measure both populations (D.7, Figure 27).

    Parameters
    ----------
    n_neurons, beta, kappa, gamma
        As in `optimal_isolation`.
    n_inputs : int
        M >= 2.
    seed : int
    non_rosetta : {"coordinates", "assigned", "features", "below_tau", "tail"}
        Which neurons, over which denominator, are the non-Rosetta ones: see `non_rosetta_isolation`.
    tau : float
        Detectability threshold; used by the last two of these only.
    **choices
        What the paper leaves open, and the sampler: see `recover`.

    Raises
    ------
    ValueError
        What `recover` refuses.
    """
    check(non_rosetta=non_rosetta, tau=tau)
    found = recover(n_neurons, beta, n_inputs, kappa, gamma, seed, **choices)
    rest = non_rosetta_isolation(found, non_rosetta, tau)
    return SimulationResult(len(found.pairs), _mean(found.isolation[found.pairs]), rest)


def recover(
    n_neurons: int, beta: float, n_inputs: int = 10_000, kappa: float = 1.0, gamma: float = 4.0, seed: int = 0,
    *, sampler: str = "fast", background: str = "all", background_size: int = 64, interference_norm: float = 0.9,
    noise_floor: float = 0.1, coordinates: str = "assigned",
) -> Recovered:  # fmt: skip
    """One simulated pair of models, matched by `mutual_nearest`.

    Parameters
    ----------
    sampler : {"fast", "literal"}
        Draw the scatter matrix of the activations (`scatter_correlation`), or every latent response
        (`literal_correlation`). The same distribution.
    background : {"all", "unassigned"}
        A background set is drawn from all features but the target, or from those with s_r = 0.
    background_size : int
        Features in a background set; all there are, if there are fewer.
    interference_norm : float
        Norm of a neuron's background loadings. Only its square over `noise_floor` matters: eq. 65 scales the signal.
    noise_floor : float
        The variance sigma_inf^2, above 0.
    coordinates : {"assigned", "all"}
        Simulate the neurons with a target feature (the paper: "every feature with positive isolation"), or fill up to
        min(N, A) with neurons that hold background only.

    Raises
    ------
    ValueError
        On a value that is not allowed, and where eq. 11 isolates more features than there are neurons: D.7 gives each a
        neuron of its own. A kappa of at most 1 never does.
    """
    check(n_neurons=n_neurons, n_inputs=n_inputs, seed=seed, sampler=sampler, background=background,
           background_size=background_size, interference_norm=interference_norm, noise_floor=noise_floor,
           coordinates=coordinates)  # fmt: skip
    isolation = optimal_isolation(n_neurons, beta, kappa, gamma)
    assigned = int((isolation > 0).sum())
    if assigned > n_neurons:
        raise ValueError(
            f"kappa is {kappa!r}, gamma {gamma!r}, beta {beta!r} and n_neurons {n_neurons!r}: {assigned} features are "
            "isolated, and each needs a neuron of its own (D.7); take a smaller kappa, or a larger n_neurons or beta"
        )
    width = assigned if coordinates == "assigned" else min(n_neurons, len(isolation))
    rng = np.random.default_rng([seed, n_neurons, n_inputs, round(beta * 1e6)])
    first = assigned if background == "unassigned" else 0
    features, isolation = len(isolation), isolation[:width]
    choices = first, background_size, interference_norm, noise_floor
    loadings = [_loadings(isolation, features, *choices, rng) for _ in range(2)]
    draw = scatter_correlation if sampler == "fast" else literal_correlation
    corr = draw(*loadings, n_inputs, noise_floor, rng)
    pairs = mutual_nearest(corr)
    return Recovered(isolation, pairs.numpy(), corr[pairs[:, 0], pairs[:, 1]].numpy(), n_neurons, features)


def _loadings(isolation, features, first, size, norm, noise_floor, rng) -> Loadings:
    """Neuron j holds feature j so that its ratio is isolation[j] (eq. 65), and `size` features of background.

    These are drawn from the features `first` and up; if that is 0, from all but the neuron's target.
    """
    n = len(isolation)
    target = np.arange(n)[:, None]
    eligible = features - first if first else features - 1
    size = min(size, eligible)
    drawn = np.reshape([rng.choice(eligible, size, replace=False, shuffle=False) for _ in range(n)], (n, size))
    background = first + drawn if first else np.where(drawn < target, drawn, drawn + 1)
    strength = rng.standard_normal((n, size))
    strength *= norm / np.linalg.norm(strength, axis=1, keepdims=True) if size else 1
    signal = np.sqrt(isolation[:, None] * ((strength**2).sum(1, keepdims=True) + noise_floor))
    values, columns = np.hstack([signal, strength]).ravel(), np.hstack([target, background]).ravel().astype(np.int32)
    weights = sparse.csr_array((values, columns, np.arange(n + 1) * (size + 1)), shape=(n, features))
    return Loadings(weights, np.flatnonzero(isolation > 0))


def literal_correlation(
    loadings_a: Loadings, loadings_b: Loadings, n_inputs: int, noise_floor: float, rng, cells: int = 2**25
):
    """Correlations [n_a, n_b] of activations made as the paper says: draw Z, standardize each feature, mix (eq. 64).

    Z [M, A] is drawn some features at a time (at most `cells` numbers), all M inputs of each, so that standardizing is
    exact and memory bounded. Features that no neuron holds change nothing and are not drawn.
    """
    mix = sparse.vstack([loadings_a.weights, loadings_b.weights]).tocsc().astype(np.float32)
    h = rng.standard_normal((mix.shape[0], n_inputs), dtype=np.float32) * np.float32(np.sqrt(noise_floor))
    held = np.flatnonzero(np.diff(mix.indptr))
    for features in np.array_split(held, -(-len(held) * n_inputs // cells)):
        z = rng.standard_normal((len(features), n_inputs), dtype=np.float32)
        z -= z.mean(1, keepdims=True)
        z /= z.std(1, keepdims=True)
        h += mix[:, features] @ z
    n = loadings_a.weights.shape[0]
    accumulator = PearsonAccumulator(n, len(h) - n)
    accumulator.update(torch.from_numpy(h[:n]).T, torch.from_numpy(h[n:]).T)
    return accumulator.correlation()


def scatter_correlation(loadings_a: Loadings, loadings_b: Loadings, n_inputs: int, noise_floor: float, rng):
    """The same correlations [n_a, n_b] from the scatter matrix of the activations, with no latent responses.

    Over M inputs the centred targets Z and residuals E (background that is no neuron's target, and noise) are jointly
    Gaussian, so their scatter matrix is Wishart with M - 1 degrees of freedom: (L T)(L T)^T with L the Cholesky factor
    of their covariance and T as Bartlett's decomposition has it (`bartlett`). The targets are then
    standardized, exactly; of the other features, whose sample variances differ from 1 by about sqrt(2 / M) and
    average out over a background set, the scale is left as drawn.
    """
    n, targets = loadings_a.weights.shape[0], loadings_a.targets  # both models have the same targets
    mix = sparse.vstack([loadings_a.weights, loadings_b.weights]).tocsc()
    rest = np.setdiff1d(np.flatnonzero(np.diff(mix.indptr)), targets)
    t, width = len(targets), mix.shape[0]
    covariance = (mix[:, rest] @ mix[:, rest].T).toarray().astype(np.float32)
    covariance[np.diag_indices(width)] += np.float32(noise_floor)
    factor = cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
    triangle = bartlett(t + width, n_inputs - 1, rng)
    scale = np.sqrt(n_inputs) / np.linalg.norm(triangle[:t], axis=1)
    root = blas.strmm(1.0, factor, triangle[t:], lower=1)
    root += mix[:, targets].multiply(scale).tocsr().astype(np.float32) @ triangle[:t]
    root /= np.linalg.norm(root, axis=1, keepdims=True)
    return torch.from_numpy(root[:n] @ root[n:].T)


def bartlett(rows: int, freedom: int, rng: np.random.Generator) -> np.ndarray:
    """T, float32 [rows, min(rows, freedom)], such that T T^T is Wishart of the identity: G G^T, G normal [rows, freedom].

    Lower trapezoidal: standard normal below a diagonal of chi, its degrees falling from `freedom` by one a row.
    """
    rank = min(rows, freedom)
    triangle = np.tril(rng.standard_normal((rows, rank), dtype=np.float32), -1)
    triangle[np.arange(rank), np.arange(rank)] = np.sqrt(rng.chisquare(freedom - np.arange(rank)))
    return triangle


def non_rosetta_isolation(found: Recovered, reading: str = "coordinates", tau: float = 2.0) -> float:
    """Mean isolation of the non-Rosetta population of a simulation (Figure 27c), as the text may be read.

    ========================  ===================================  ==========================  =====================
    reading                   whose isolation is summed            over how many               where the text has it
    ========================  ===================================  ==========================  =====================
    ``coordinates`` (default) assigned neurons left unmatched      N - R coordinates           D.7 with eq. 32
    ``assigned``              assigned neurons left unmatched      themselves                  D.7, word for word
    ``features``              assigned neurons left unmatched      A - R features              D.7 with eq. 31
    ``below_tau``             neurons without a match of at least  N less those with one       eq. 32 with eq. 62
                              tau / (1 + tau) in correlation
    ``tail``                  features with s_r < tau              N - R_tau, no matching      eq. 32
    ========================  ===================================  ==========================  =====================

    Coordinates without a target feature have isolation 0. The mean of both models; ``assigned`` is NaN where every
    neuron is matched.
    """
    check(non_rosetta=reading, tau=tau)
    s, n = found.isolation, found.n_neurons
    if reading == "tail":
        return float(s[s < tau].sum() / (n - (s >= tau).sum())) if (s < tau).any() else float("nan")
    clear = found.correlation >= tau / (1 + tau) if reading == "below_tau" else np.ones(len(found.pairs), bool)
    matched = found.pairs[clear]
    left = float(np.mean([np.delete(s, matched[:, side]).sum() for side in (0, 1)]))
    population = {"assigned": int((s > 0).sum()), "features": found.n_features}.get(reading, n)
    return left / (population - len(matched)) if population > len(matched) else float("nan")


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def grid(
    sizes: Sequence[int], betas: Sequence[float], runs: int = 10, seed: int = 0, workers: int | None = None,
    tau: float = 2.0, **choices,
) -> pd.DataFrame:  # fmt: skip
    """Every size with every beta, `runs` times: the data of Figure 27, in parallel on `workers` cores (all).

    Returns
    -------
    DataFrame
        A row a run: ``neurons, beta, run``, the choices given, ``assigned`` neurons, ``rosetta_count``,
        ``same_feature`` (share of the pairs that hold one feature), ``rosetta_isolation`` and a column
        ``non_rosetta_<reading>`` a reading.
    """
    check(runs=runs, seed=seed, tau=tau)

    def cell(job) -> dict:
        n_neurons, beta, run = job
        found = recover(n_neurons, beta, seed=seed + run, **choices)
        return {
            "neurons": n_neurons, "beta": float(beta), "run": run, **choices,
            "assigned": int((found.isolation > 0).sum()), "rosetta_count": len(found.pairs),
            "same_feature": _mean(found.pairs[:, 0] == found.pairs[:, 1]),
            "rosetta_isolation": _mean(found.isolation[found.pairs]),
            **{f"non_rosetta_{reading}": non_rosetta_isolation(found, reading, tau) for reading in READINGS},
        }  # fmt: skip

    # The largest first, so that no core ends alone with a large one; a core each, so that they do not get in each
    # other's way.
    jobs = sorted(product(sizes, betas, range(runs)), key=lambda job: (-(job[0] ** (1 / job[1])), job[2]))
    workers = workers or os.cpu_count() or 1
    with threadpool_limits(1), ThreadPoolExecutor(workers) as pool:
        rows = list(tqdm(pool.map(cell, jobs), total=len(jobs), desc="simulations", leave=False))
    return pd.DataFrame(rows).sort_values(["beta", "neurons", "run"], ignore_index=True)


def slopes(table: pd.DataFrame, reading: str = "coordinates", by: Sequence[str] = ()) -> pd.DataFrame:
    """Power laws through the means over runs, a row a beta and panel of Figure 27, beside what the theory says.

    Returns
    -------
    DataFrame
        ``panel`` ("a", "b", "c"), ``beta``, the columns of `by`, ``alpha, alpha_low, alpha_high`` (95%), ``r2``,
        ``points``, ``theory`` and ``error`` = alpha - theory. Where a mean is 0 (panel c, with everyone matched) there is
        no power law to fit, and no row: leaving out the zeros would bend it.
    """
    keys = [*by, "beta"]
    means = table.groupby([*keys, "neurons"], as_index=False).mean(numeric_only=True)
    columns = {"a": "rosetta_count", "b": "rosetta_isolation", "c": f"non_rosetta_{reading}"}
    parts = [fits(means, keys, column).assign(panel=panel) for panel, column in columns.items()]
    result = pd.concat([part for part in parts if len(part)], ignore_index=True)
    result["theory"] = [exponents(beta)[panel] for beta, panel in zip(result["beta"], result["panel"], strict=True)]
    return result.assign(error=result["alpha"] - result["theory"])


def one_at_a_time(variations: dict[str, Sequence], **grid_arguments) -> pd.DataFrame:
    """The grid again for each value of each choice, all others as they are; columns ``choice, value`` in front."""
    parts = []
    for choice, values in variations.items():
        for value in values:
            part = grid(**{**grid_arguments, choice: value}).drop(columns=choice)
            part.insert(0, "choice", choice)
            part.insert(1, "value", str(value))
            parts.append(part)
    return pd.concat(parts, ignore_index=True)
