import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import sympy
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special, stats

from rosetta import profiles, theory
from rosetta.matching import mutual_nearest
from rosetta.study import Study

BETAS = (1.5, 1.75, 2.0, 2.25, 2.5, 3.0)  # of D.7

# ---------------------------------------------------------------------------------------------------------------------
# The discrete allocation


@settings(deadline=None, max_examples=150)
@given(
    st.integers(1, 3000),
    st.floats(1.001, 40),
    st.floats(1e-4, 1e4),
    st.floats(1e-3, 50),
)
def test_the_allocation_meets_the_kkt_conditions(n, beta, kappa, gamma):
    assume(gamma * n >= 1)
    s = theory.optimal_isolation(n, beta, kappa, gamma)
    assert s.dtype == np.float64 and s.shape == (theory.n_features(n, gamma),)
    assert (s >= 0).all() and (np.diff(s) <= 0).all()
    assert s.sum() == pytest.approx(kappa * n, rel=1e-9)
    gain = np.arange(1, len(s) + 1.0) ** -beta / (1 + s)  # marginal utility: alike where s > 0, no larger where s = 0
    held = s > 1e-9
    assert gain[held] == pytest.approx(gain[0], rel=1e-9)
    assert (gain[~held] <= gain[0] * (1 + 1e-8)).all()


@pytest.mark.parametrize("beta", [1.2, 2.0, 3.5])
@pytest.mark.parametrize(("n", "kappa", "gamma"), [(5, 1.0, 4.0), (12, 0.2, 1.5), (6, 3.0, 1.0), (4, 8.0, 0.5)])
def test_a_general_convex_solver_finds_the_same_optimum(n, beta, kappa, gamma):
    s = theory.optimal_isolation(n, beta, kappa, gamma)
    weight = np.arange(1, len(s) + 1.0) ** -beta
    found = optimize.minimize(
        lambda x: -(weight * np.log1p(x)).sum(),
        np.full(len(s), kappa * n / len(s)),
        jac=lambda x: -weight / (1 + x),
        bounds=[(0, None)] * len(s),
        constraints={"type": "ineq", "fun": lambda x: kappa * n - x.sum(), "jac": lambda x: -np.ones(len(s))},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert found.success
    assert s == pytest.approx(found.x, abs=2e-5 * kappa * n)
    assert (weight * np.log1p(s)).sum() >= -found.fun - 1e-12


@pytest.mark.parametrize("beta", [1.01, 1.5, 3.0, 200.0])
def test_a_million_neurons_spend_their_budget(beta):
    s = theory.optimal_isolation(2**20, beta)
    assert len(s) == 2**22 and s.sum() == pytest.approx(2**20, rel=1e-9)


def test_gamma_times_n_is_rounded_down_but_not_by_rounding_errors():
    assert theory.n_features(100, 0.29) == 29 and 100 * 0.29 < 29
    assert theory.n_features(3, 1.5) == 4
    assert theory.optimal_isolation(1, 2.0, kappa=3.0, gamma=1.0).tolist() == [3.0]


def test_counting_features_above_the_threshold():
    assert theory.rosetta_features(np.array([5, 2, 1.9, 0]), 2.0) == 2


# ---------------------------------------------------------------------------------------------------------------------
# The continuum


def profile(n, beta, kappa=1.0, gamma=4.0):
    level = theory.cutoff_rank(n, beta, kappa, gamma)
    return level, lambda r: max((level / r) ** beta - 1, 0.0)


def integral(function, low, high):
    edges = np.geomspace(low, high, 12)
    return sum(integrate.quad(function, a, b, epsabs=0, epsrel=1e-10)[0] for a, b in pairwise(edges))


@pytest.mark.parametrize("beta", [1.1, 1.5, 2.0, 3.0, 6.0])
@pytest.mark.parametrize(
    ("n", "kappa", "gamma"), [(2**7, 1.0, 4.0), (2**17, 0.5, 2.0), (2**10, 32.0, 0.5), (50, 8.0, 0.1)]
)
def test_the_frontiers_and_means_are_the_integrals_that_they_stand_for(beta, n, kappa, gamma):
    r_0, s = profile(n, beta, kappa, gamma)
    last, tau = theory.n_features(n, gamma), 2.0
    assert integral(s, 1, last) == pytest.approx(kappa * n, rel=1e-7)  # eq. 12: also where r_0 would lie beyond A
    edge = theory.frontier(n, beta, tau, kappa, gamma)
    assert edge.r_0 == min(r_0, last) and edge.n_features == last
    assert theory.continuum_isolation([1.0, 2.0], n, beta, kappa, gamma) == pytest.approx([s(1), s(2)])
    if edge.r_tau < last:
        assert s(edge.r_tau) == pytest.approx(tau)  # eq. 21
    mean = integral(s, 1, edge.r_tau) / edge.r_tau  # eq. 25
    assert theory.mean_rosetta_isolation(n, beta, tau, kappa, gamma) == pytest.approx(mean, rel=1e-7)
    tail = integral(s, edge.r_tau, last) if edge.r_tau < last else 0.0  # eq. 27
    assert theory.tail_isolation(n, beta, tau, kappa, gamma) == pytest.approx(tail / (n - edge.count), rel=1e-6)
    if last > edge.r_tau:
        by_feature = theory.tail_isolation(n, beta, tau, kappa, gamma, per="feature")
        assert by_feature == pytest.approx(tail / (last - edge.count), rel=1e-6)


@pytest.mark.parametrize("beta", [sympy.Rational(3, 2), sympy.Integer(2), sympy.Rational(9, 4), sympy.Integer(3)])
def test_the_budget_equation_follows_from_the_profile(beta):
    r, top = sympy.symbols("r r_0", positive=True)
    budget = sympy.integrate((top / r) ** beta - 1, (r, 1, top))  # eq. 18
    closed = top**beta / (beta - 1) - beta * top / (beta - 1) + 1  # eq. 20
    assert sympy.simplify(budget - closed) == 0
    root = theory.cutoff_rank(5000, float(beta), kappa=1.5)
    assert float(closed.subs(top, root)) == pytest.approx(7500, rel=1e-9)


def test_too_weak_a_budget_detects_nothing():
    edge = theory.frontier(10, 2.0, tau=1000.0)
    assert edge.r_tau < 1 and edge.count == 0
    assert math.isnan(theory.mean_rosetta_isolation(10, 2.0, tau=1000.0))


@pytest.mark.parametrize("beta", [1.5, 2.0, 3.0])
def test_discrete_and_continuum_agree_in_the_exponent_and_differ_by_a_known_factor(beta):
    # For large N the budget is spent as r_0^beta zeta(beta) in sums, as r_0^beta / (beta - 1) in integrals.
    limit = (special.zeta(beta) * (beta - 1)) ** (-1 / beta)
    sizes = [2**10, 2**14, 2**20]
    held = [(theory.optimal_isolation(n, beta) > 0).sum() / theory.cutoff_rank(n, beta) for n in sizes]
    off = np.abs(np.array(held) / limit - 1)
    assert off[0] > off[2] and off[2] < 0.01
    slope = math.log2(theory.frontier(2**20, beta).r_tau / theory.frontier(2**19, beta).r_tau)
    assert slope == pytest.approx(1 / beta, abs=0.01)
    rosetta = math.log2(theory.mean_rosetta_isolation(2**20, beta) / theory.mean_rosetta_isolation(2**19, beta))
    assert rosetta == pytest.approx(1 - 1 / beta, abs=0.01)
    tail = math.log2(theory.tail_isolation(2**20, beta) / theory.tail_isolation(2**19, beta))
    assert tail == pytest.approx(1 / beta - 1, abs=0.01)


def test_the_exponents():
    assert theory.exponents(2.0) == {"a": 0.5, "b": 0.5, "c": -0.5}
    assert theory.exponents(1.5) == pytest.approx({"a": 2 / 3, "b": 1 / 3, "c": -1 / 3})


# ---------------------------------------------------------------------------------------------------------------------
# Isolation and correlation

LOADINGS = st.integers(1, 6).flatmap(
    lambda width: st.lists(st.lists(st.floats(-1e3, 1e3), min_size=width, max_size=width), min_size=1, max_size=6)
)


@settings(deadline=None)
@given(LOADINGS, st.floats(1e-3, 10))
def test_signal_to_interference_entry_by_entry(loadings, floor):
    ratio = theory.signal_to_interference(np.array(loadings), floor)
    isolation, dedicated = theory.feature_isolation(np.array(loadings), floor)
    for j, row in enumerate(loadings):
        for r, w in enumerate(row):
            others = math.fsum(x * x for k, x in enumerate(row) if k != r)
            assert ratio[j, r] == pytest.approx(w * w / (floor + others), rel=1e-12)
    assert (isolation == ratio.max(axis=0)).all()
    assert (isolation == ratio[dedicated, range(len(dedicated))]).all()


@settings(deadline=None, max_examples=300)
@given(LOADINGS, st.floats(1e-3, 10))
def test_above_one_every_feature_has_a_neuron_of_its_own(loadings, floor):
    isolation, dedicated = theory.feature_isolation(np.array(loadings), floor)
    own = dedicated[isolation > 1]
    assert len(set(own)) == len(own)


def test_at_one_two_features_may_share_a_neuron():
    # The argument needs tau > 1: with a low threshold both features of one neuron pass.
    isolation, dedicated = theory.feature_isolation(np.array([[1.0, 1.0]]), 0.01)
    assert (isolation > 0.9).all() and dedicated.tolist() == [0, 0]


def noisy_readouts(s, other, n, rng):
    """A feature and its normalized readouts in two models (eq. 48, 56)."""
    z = rng.standard_normal(n)
    return z, z + rng.standard_normal(n) / math.sqrt(s), z + rng.standard_normal(n) / math.sqrt(other)


@pytest.mark.parametrize(("s", "other"), [(0.05, 0.05), (0.5, 2.0), (1.0, 1.0), (3.0, 0.2), (50.0, 10.0)])
def test_posterior_variance_and_correlation_law_by_simulation(s, other):
    n = 200_000
    z, y, y_other = noisy_readouts(s, other, n, np.random.default_rng(0))
    residual = z - y * (s / (1 + s))  # E(z | y) of the Gaussian channel
    expected = float(theory.posterior_variance(s))
    assert abs(residual.var() - expected) < 3 * expected * math.sqrt(2 / n)
    assert abs(np.polyfit(y, z, 1)[0] - s / (1 + s)) < 3 * math.sqrt(expected / (n * (1 + 1 / s)))
    law = float(theory.correlation_law(s, other))
    assert abs(math.atanh(np.corrcoef(y, y_other)[0, 1]) - math.atanh(law)) < 3 / math.sqrt(n - 3)
    assert law == pytest.approx(1 / math.sqrt((1 + 1 / s) * (1 + 1 / other)))


def test_a_feature_without_isolation_correlates_with_nothing():
    assert theory.correlation_law([0.0, 1.0], [5.0, 1.0]).tolist() == [0.0, 0.5]


@pytest.mark.parametrize("sampler", ["fast", "literal"])
def test_simulated_neurons_of_one_feature_correlate_by_the_law(sampler):
    runs, inputs = 60, 400
    isolation, diagonals = None, []
    for seed in range(runs):
        isolation, corr = correlations(64, 1.5, inputs, seed, sampler)
        diagonals.append(np.arctanh(np.diagonal(corr)))
    law = theory.correlation_law(isolation, isolation)
    mean, error = np.mean(diagonals, axis=0), np.std(diagonals, axis=0, ddof=1) / math.sqrt(runs)
    # The background sets of two models may share features; that widens the spread and moves no mean.
    assert (np.abs(mean - np.arctanh(law) - law / (2 * inputs)) < 3 * error).all()


@pytest.mark.parametrize("sampler", ["fast", "literal"])
def test_standardized_targets_narrow_the_spread_of_the_correlations(sampler):
    # With s = 1 and no background r = S / (S + noise) at S = Var(z). Sampling gives r the variance (1 - r^2)^2 / M; of it
    # (dr/dS)^2 Var(S) = (1/4)^2 2 / M comes from z itself, and standardizing z takes that part away.
    inputs, values = 400, []
    w = theory._loadings(np.ones(40), 40, 0, 0, 0.9, 0.1, np.random.default_rng(0))
    for seed in range(75):
        draw = {"fast": theory.scatter_correlation, "literal": theory.literal_correlation}[sampler]
        values.extend(np.diagonal(draw(w, w, inputs, 0.1, np.random.default_rng([seed, len(sampler)]))))
    expected = (0.75**2 - 2 / 16) / inputs
    assert abs(np.var(values) / expected - 1) < 3 * math.sqrt(2 / len(values)) + 5 / inputs


# ---------------------------------------------------------------------------------------------------------------------
# The simulation


def correlations(n, beta, inputs, seed, sampler, width=None, **loading):
    """The isolations and the correlations of one simulated pair of models."""
    isolation = theory.optimal_isolation(n, beta)
    width = width or int((isolation > 0).sum())
    rng = np.random.default_rng([seed, len(sampler)])
    arguments = {"first": 0, "size": 64, "norm": 0.9, "noise_floor": 0.1} | loading
    w = [theory._loadings(isolation[:width], len(isolation), rng=rng, **arguments) for _ in range(2)]
    draw = {"fast": theory.scatter_correlation, "literal": theory.literal_correlation}[sampler]
    return isolation[:width], draw(*w, inputs, arguments["noise_floor"], rng).numpy()


@pytest.mark.parametrize(
    ("n", "beta", "inputs", "width", "loading"),
    [
        (128, 1.5, 200, None, {}),
        (128, 1.5, 25, None, {"noise_floor": 0.5}),  # fewer inputs than dimensions: a singular scatter matrix
        (64, 2.0, 60, 24, {"size": 8, "norm": 2.0}),  # neurons without a target, heavy background
        (64, 1.5, 100, None, {"first": 11, "size": 16}),
    ],
)
def test_both_samplers_draw_from_one_distribution(n, beta, inputs, width, loading):
    drawn = {}
    for sampler in ("fast", "literal"):
        counts, means, off, on, spread = [], [], [], [], []
        for seed in range(120):
            isolation, corr = correlations(n, beta, inputs, seed, sampler, width, **loading)
            pairs = mutual_nearest(torch.from_numpy(corr)).numpy()
            counts.append(len(pairs))
            means.append(isolation[pairs].mean())
            # No two of these share a neuron, so that a run's values are all but independent.
            off.extend(corr[range(0, len(corr) - 1, 2), range(1, len(corr), 2)])
            spread.append(corr[~np.eye(len(corr), dtype=bool)].std())
            on.append(np.diagonal(corr)[: (isolation > 0).sum()])
        on = np.array(on)
        drawn[sampler] = [counts, means, off, spread, on[:, 0], on[:, len(on[0]) // 2], on[:, -1]]
    for fast, literal in zip(drawn["fast"], drawn["literal"], strict=True):
        assert stats.ks_2samp(fast, literal).pvalue > 0.002


@pytest.mark.parametrize(("rows", "freedom"), [(6, 40), (6, 6), (9, 4)])
def test_bartletts_triangle_gives_a_wishart_matrix(rows, freedom):
    rng = np.random.default_rng(0)
    drawn = np.array([t @ t.T for t in (theory.bartlett(rows, freedom, rng) for _ in range(2000))])
    direct = np.array([g @ g.T for g in rng.standard_normal((2000, rows, freedom))])
    for i, j in [(0, 0), (1, 0), (rows - 1, rows - 1), (rows - 1, rows - 2), (rows // 2, rows // 2), (rows // 2, 0)]:
        assert stats.ks_2samp(drawn[:, i, j], direct[:, i, j]).pvalue > 0.002
    assert np.linalg.matrix_rank(drawn[0].astype(float), tol=1e-3) == min(rows, freedom)
    trace, other = drawn.trace(axis1=1, axis2=2), direct.trace(axis1=1, axis2=2)
    assert stats.ks_2samp((drawn**2).sum((1, 2)) / trace, (direct**2).sum((1, 2)) / other).pvalue > 0.002


def test_loadings_have_the_isolation_that_was_allocated():
    isolation = theory.optimal_isolation(64, 1.5)
    n = int((isolation > 0).sum())
    w = theory._loadings(isolation[:n], len(isolation), 0, 64, 0.9, 0.1, np.random.default_rng(0)).toarray()
    background = w.copy()
    background[range(n), range(n)] = 0
    assert np.linalg.norm(background, axis=1) == pytest.approx(0.9)
    assert ((background != 0).sum(axis=1) == 64).all()
    assert np.diagonal(theory.signal_to_interference(w, 0.1)) == pytest.approx(isolation[:n])


def test_background_of_unassigned_features_only():
    w = theory._loadings(np.array([3.0, 1.0]), 10, 2, 64, 0.9, 0.1, np.random.default_rng(0)).toarray()
    assert (w[:, 2:] != 0).all() and w[0, 1] == w[1, 0] == 0  # the 8 that there are


def test_reading_the_literal_sampler_in_pieces_changes_nothing():
    w = theory._loadings(np.array([3.0, 1.0, 0.5]), 40, 0, 8, 0.9, 0.1, np.random.default_rng(0))
    whole, pieces = (
        theory.literal_correlation(w, w, 50, 0.1, np.random.default_rng(1), cells) for cells in (2**20, 100)
    )
    assert pieces.numpy() == pytest.approx(whole.numpy(), abs=1e-5)


def test_a_simulation_is_its_seed():
    first, again, other = (theory.simulate(512, 1.5, n_inputs=300, seed=seed) for seed in (1, 1, 2))
    assert first == again and first != other
    assert first.rosetta_count >= 1 and first.rosetta_isolation > first.non_rosetta_isolation >= 0


@pytest.mark.parametrize("sampler", ["fast", "literal"])
@pytest.mark.parametrize(
    "case",
    [
        {"n_neurons": 1, "beta": 2.0},
        {"n_neurons": 1, "beta": 2.0, "gamma": 1.0},
        {"n_neurons": 8, "beta": 1.5, "n_inputs": 2},
        {"n_neurons": 8, "beta": 3.0, "n_inputs": 5, "background_size": 0},
        {"n_neurons": 8, "beta": 3.0, "n_inputs": 5, "interference_norm": 0},
        {"n_neurons": 8, "beta": 1.5, "gamma": 0.25, "kappa": 30.0, "n_inputs": 9, "background": "unassigned"},
        {"n_neurons": 40, "beta": 3.0, "n_inputs": 9, "coordinates": "all"},
    ],
)
def test_the_smallest_simulations_run(sampler, case):
    found = theory.recover(**{"n_inputs": 20, **case}, sampler=sampler)
    assert 1 <= len(found.pairs) <= len(found.isolation) and np.isfinite(found.correlation).all()


def test_neurons_without_a_target_match_by_chance():
    assigned = theory.recover(256, 3.0, n_inputs=500)
    everyone = theory.recover(256, 3.0, n_inputs=500, coordinates="all")
    rest = 256 - len(assigned.isolation)
    # Of n independent neurons about half find a mutual nearest neighbour (`nulls.expected_by_chance`).
    assert len(everyone.pairs) - len(assigned.pairs) == pytest.approx(rest / 2, rel=0.25)


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        ("coordinates", (1.0 + 1.5) / 2 / (10 - 3)),
        ("assigned", (1.0 + 1.5) / 2 / 1),
        ("features", (1.0 + 1.5) / 2 / (40 - 3)),
        ("below_tau", ((1.5 + 1.0) + (1.5 + 1.0)) / 2 / (10 - 2)),
        ("tail", (1.5 + 1.0) / (10 - 2)),
    ],
)
def test_every_reading_of_panel_c_by_hand(reading, expected):
    # Model a leaves neuron 3 unmatched, model b neuron 2; the third pair joins different features, and weakly.
    pairs, correlation = np.array([[0, 0], [1, 1], [2, 3]]), np.array([0.9, 0.7, 0.1])
    found = theory.Recovered(np.array([5.0, 2.5, 1.5, 1.0]), pairs, correlation, 10, 40)
    assert theory.non_rosetta_isolation(found, reading) == pytest.approx(expected)


def test_readings_without_anyone_left():
    found = theory.Recovered(np.array([5.0, 2.5]), np.array([[0, 0], [1, 1]]), np.array([0.9, 0.8]), 10, 40)
    assert theory.non_rosetta_isolation(found) == 0
    assert math.isnan(theory.non_rosetta_isolation(found, "assigned"))
    assert math.isnan(theory.non_rosetta_isolation(found._replace(n_neurons=2)))


# ---------------------------------------------------------------------------------------------------------------------
# Grids and slopes


def test_a_grid_does_not_depend_on_the_workers():
    arguments = {"sizes": (32, 64), "betas": (1.5, 3.0), "runs": 2, "n_inputs": 50, "background_size": 8}
    one, two = (theory.grid(**arguments, workers=workers) for workers in (1, 2))
    pd.testing.assert_frame_equal(one, two)
    assert len(one) == 8 and set(one["background_size"]) == {8}
    row = one.iloc[1]
    alone = theory.simulate(int(row.neurons), row.beta, n_inputs=50, seed=int(row.run), background_size=8)
    assert tuple(alone) == pytest.approx((row.rosetta_count, row.rosetta_isolation, row.non_rosetta_coordinates))


def test_slopes_of_known_power_laws():
    sizes = 2.0 ** np.arange(5, 11)
    table = pd.DataFrame({
        "beta": 2.0, "neurons": np.repeat(sizes, 2), "run": [0, 1] * 6,
        "rosetta_count": np.repeat(3 * sizes**0.5, 2) + np.tile([1, -1], 6),
        "rosetta_isolation": np.repeat(sizes**0.4, 2), "non_rosetta_tail": np.repeat(sizes**-0.7, 2),
        "non_rosetta_coordinates": np.repeat([0, *sizes[1:] ** -0.7], 2),
    })  # fmt: skip
    found = theory.slopes(table, "tail").set_index("panel")
    assert found["alpha"].tolist() == pytest.approx([0.5, 0.4, -0.7])
    assert found["points"].tolist() == [6, 6, 6]
    assert found["theory"].tolist() == [0.5, 0.5, -0.5]
    assert found["error"].tolist() == pytest.approx([0, -0.1, -0.2])
    assert theory.slopes(table, "coordinates")["panel"].tolist() == ["a", "b"]  # a mean of 0 has no logarithm


@pytest.mark.parametrize("beta", BETAS)
def test_simulated_slopes_of_counts_and_isolation(beta):
    table = theory.grid([2**10, 2**12, 2**14], [beta], runs=2, n_inputs=2000, workers=1)
    found = theory.slopes(table).set_index("panel")
    assert abs(found["error"]["a"]) < 0.06 and abs(found["error"]["b"]) < 0.06


def test_what_notebook_04_asks_for_is_computed_once(tmp_path, monkeypatch):
    study = Study("smoke", tmp_path)
    first = theory.kept_grid(study), theory.kept_variations(study, "robustness")
    theory_of = study.profile.theory
    assert len(first[0]) == len(theory_of.grid.betas) * len(theory_of.grid.sizes) * theory_of.grid.runs
    assert set(first[1]["choice"]) == {"kappa", "gamma", "n_inputs"}
    monkeypatch.setattr(theory, "grid", None)
    again = theory.kept_grid(study), theory.kept_variations(study, "robustness")
    for a, b in zip(first, again, strict=True):
        pd.testing.assert_frame_equal(a, b)


def test_the_micro_profile_holds_the_papers_grid():
    t = profiles.load("micro").theory
    assert t.grid.betas == BETAS and t.grid.sizes == tuple(2**e for e in range(10, 18)) and t.grid.runs == 10
    assert (t.inputs, t.kappa, t.gamma) == (10_000, 1.0, 4.0) and t.tau > 1
    assert t.robustness["kappa"] == t.robustness["gamma"] == tuple(2.0**e for e in range(-1, 6))
    assert t.robustness["n_inputs"] == (10**3, 10**4, 10**5)


# ---------------------------------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        *[(f, {"beta": beta}, ["beta", repr(beta), "above 1"])
          for beta in (1.0, 0.5, -2.0, math.nan, math.inf, "2", None) for f in ("optimal_isolation", "frontier", "simulate")],
        *[(f, {name: value}, [name, repr(value), "above 0"])
          for name in ("kappa", "gamma") for value in (0, -1.0, math.nan, math.inf)
          for f in ("optimal_isolation", "frontier", "simulate")],
        *[(f, {"n_neurons": n}, ["n_neurons", repr(n), "whole number of at least 1"])
          for n in (0, -3, 2.5, math.nan, True, "8") for f in ("optimal_isolation", "frontier", "simulate")],
        ("optimal_isolation", {"n_neurons": 3, "gamma": 0.3}, ["gamma", "0.3", "n_neurons", "3", "at least 1"]),
        ("simulate", {"n_neurons": 3, "gamma": 0.3}, ["gamma", "0.3", "at least 1"]),
        ("frontier", {"n_neurons": 3, "gamma": 0.3}, ["gamma", "0.3", "at least 1"]),
        *[(f, {"tau": tau}, ["tau", repr(tau), "above 0"])
          for tau in (0, -1.0, math.nan) for f in ("frontier", "mean_rosetta_isolation", "tail_isolation", "simulate")],
        *[("simulate", {"n_inputs": m}, ["n_inputs", repr(m), "at least 2"]) for m in (1, 0, 1e4, math.nan)],
        ("simulate", {"seed": -1}, ["seed", "-1", "at least 0"]),
        ("simulate", {"sampler": "slow"}, ["sampler", "'slow'", "'fast' or 'literal'"]),
        ("simulate", {"background": "none"}, ["background", "'none'", "'all' or 'unassigned'"]),
        ("simulate", {"background_size": -1}, ["background_size", "-1"]),
        ("simulate", {"interference_norm": math.nan}, ["interference_norm", "nan"]),
        ("simulate", {"noise_floor": 0}, ["noise_floor", "0", "above 0"]),
        ("simulate", {"coordinates": "some"}, ["coordinates", "'some'"]),
        ("simulate", {"non_rosetta": "all"}, ["non_rosetta", "'all'", "coordinates, assigned"]),
        ("tail_isolation", {"per": "layer"}, ["per", "'layer'"]),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_its_name_its_value_and_what_is_allowed(function, arguments, said):
    with pytest.raises(ValueError) as error:
        getattr(theory, function)(**{"n_neurons": 16, "beta": 2.0, **arguments})
    for words in said:
        assert words in str(error.value)


@pytest.mark.parametrize("loadings", [[1.0, 2.0], [[1.0, math.nan]], [[math.inf]], np.zeros((0, 3))])
def test_loadings_must_be_a_table_of_finite_numbers(loadings):
    with pytest.raises(ValueError, match="loadings"):
        theory.signal_to_interference(loadings, 0.1)


def test_other_bad_input():
    with pytest.raises(ValueError, match="noise_floor is 0"):
        theory.signal_to_interference([[1.0]], 0)
    with pytest.raises(ValueError, match="tau is -1"):
        theory.rosetta_features([1.0], -1)
    with pytest.raises(ValueError, match="runs is 0"):
        theory.grid([8], [2.0], runs=0)
    with pytest.raises(ValueError, match="beta is 1"):
        theory.exponents(1)
