import math
from itertools import pairwise

import numpy as np
import pytest
import sympy
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special

from rosetta import laws
from rosetta.laws import simulation, theory

BETAS = (1.5, 1.75, 2.0, 2.25, 2.5, 3.0)  # of D.7

# ---------------------------------------------------------------------------------------------------------------------
# The discrete allocation


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 3000), st.floats(1.001, 40), st.floats(1e-4, 1e4), st.floats(1e-3, 50))
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


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 500), st.floats(1.01, 6), st.floats(0.01, 100), st.floats(0.1, 64), st.floats(0.1, 20))
def test_the_tail_of_neurons_is_never_shared_among_none(n, beta, kappa, gamma, tau):
    assume(gamma * n >= 1)
    edge = theory.frontier(n, beta, tau, kappa, gamma)
    if edge.r_tau - 1 >= n:
        with pytest.raises(ValueError, match="features reach tau, which leaves no other neurons"):
            theory.tail_isolation(n, beta, tau, kappa, gamma)
    else:
        assert 0 <= theory.tail_isolation(n, beta, tau, kappa, gamma) < math.inf
    assert 0 <= theory.tail_isolation(n, beta, tau, kappa, gamma, per="feature") < math.inf


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
        getattr(laws, function)(**{"n_neurons": 16, "beta": 2.0, **arguments})
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
        simulation.grid([8], [2.0], runs=0)
    with pytest.raises(ValueError, match="beta is 1"):
        theory.exponents(1)


# ---------------------------------------------------------------------------------------------------------------------
# One fixed feature (eq. 24), and two models (eq. 63)


@pytest.mark.parametrize("beta", [1.5, 2.0, 3.0])
def test_a_fixed_features_isolation_grows_as_n_with_the_stated_factor(beta):
    ranks, kappa = np.array([1, 2, 7]), 1.5
    distance = {"discrete": [], "continuum": []}
    for n in (2**12, 2**20):
        isolation = {
            "discrete": theory.optimal_isolation(n, beta, kappa)[ranks - 1],
            "continuum": theory.continuum_isolation(ranks, n, beta, kappa),
        }
        for allocation, s in isolation.items():
            limit = theory.purification(ranks, beta, kappa, allocation)
            distance[allocation].append(np.abs((s + 1) / n / limit - 1).max())
    for far, near in distance.values():
        # What is left falls as N^(1/beta - 1), the share of the budget that goes into the "-1" of the features above water.
        assert near < 0.03 and near == pytest.approx(far * 2 ** (8 * (1 / beta - 1)), rel=0.3)
    exact = [kappa * r**-beta / sum(k**-beta for k in range(1, 200_000)) for r in ranks]
    assert theory.purification(ranks, beta, kappa) == pytest.approx(exact, rel=5e-3)
    assert theory.purification(1, 3.0, 2.0, "continuum") == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("arguments", "name"), [((0.5, 2.0), "rank"), ((math.nan, 2.0), "rank"), ((1, 1.0), "beta"), ((1, 2.0, 0), "kappa"), ((1, 2.0, 1.0, "both"), "allocation")]
)  # fmt: skip
def test_a_rate_that_cannot_be_is_refused_by_name(arguments, name):
    with pytest.raises(ValueError, match=f"^{name} is"):
        theory.purification(*arguments)


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), max_size=30), st.floats(0.1, 5))
def test_two_models_share_the_features_that_both_isolate(pairs, tau):
    a, b = ([pair[side] for pair in pairs] for side in (0, 1))
    assert theory.shared_features(a, b, tau) == sum(x >= tau and y >= tau for x, y in pairs)
    assert theory.shared_features(a, a, tau) == theory.rosetta_features(a, tau)


def test_isolations_of_other_features_are_not_compared():
    with pytest.raises(ValueError, match=r"isolation_a has shape \(2,\), isolation_b \(3,\)"):
        theory.shared_features([1, 2], [1, 2, 3])
