import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from rosetta.laws import simulation, theory
from rosetta.matching.mutual import mutual_nearest


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
    w = simulation._loadings(np.ones(40), 40, 0, 0, 0.9, 0.1, np.random.default_rng(0))
    for seed in range(75):
        draw = {"fast": simulation.scatter_correlation, "literal": simulation.literal_correlation}[sampler]
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
    w = [simulation._loadings(isolation[:width], len(isolation), rng=rng, **arguments) for _ in range(2)]
    draw = {"fast": simulation.scatter_correlation, "literal": simulation.literal_correlation}[sampler]
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
    drawn = np.array([t @ t.T for t in (simulation.bartlett(rows, freedom, rng) for _ in range(2000))])
    direct = np.array([g @ g.T for g in rng.standard_normal((2000, rows, freedom))])
    for i, j in [(0, 0), (1, 0), (rows - 1, rows - 1), (rows - 1, rows - 2), (rows // 2, rows // 2), (rows // 2, 0)]:
        assert stats.ks_2samp(drawn[:, i, j], direct[:, i, j]).pvalue > 0.002
    assert np.linalg.matrix_rank(drawn[0].astype(float), tol=1e-3) == min(rows, freedom)
    trace, other = drawn.trace(axis1=1, axis2=2), direct.trace(axis1=1, axis2=2)
    assert stats.ks_2samp((drawn**2).sum((1, 2)) / trace, (direct**2).sum((1, 2)) / other).pvalue > 0.002


def test_loadings_have_the_isolation_that_was_allocated():
    isolation = theory.optimal_isolation(64, 1.5)
    n = int((isolation > 0).sum())
    w = simulation._loadings(isolation[:n], len(isolation), 0, 64, 0.9, 0.1, np.random.default_rng(0)).weights.toarray()
    background = w.copy()
    background[range(n), range(n)] = 0
    assert np.linalg.norm(background, axis=1) == pytest.approx(0.9)
    assert ((background != 0).sum(axis=1) == 64).all()
    assert np.diagonal(theory.signal_to_interference(w, 0.1)) == pytest.approx(isolation[:n])


def test_background_of_unassigned_features_only():
    w = simulation._loadings(np.array([3.0, 1.0]), 10, 2, 64, 0.9, 0.1, np.random.default_rng(0)).weights.toarray()
    assert (w[:, 2:] != 0).all() and w[0, 1] == w[1, 0] == 0  # the 8 that there are


def test_reading_the_literal_sampler_in_pieces_changes_nothing():
    w = simulation._loadings(np.array([3.0, 1.0, 0.5]), 40, 0, 8, 0.9, 0.1, np.random.default_rng(0))
    whole, pieces = (
        simulation.literal_correlation(w, w, 50, 0.1, np.random.default_rng(1), cells) for cells in (2**20, 100)
    )
    assert pieces.numpy() == pytest.approx(whole.numpy(), abs=1e-5)


def test_a_simulation_is_its_seed():
    first, again, other = (simulation.simulate(512, 1.5, n_inputs=300, seed=seed) for seed in (1, 1, 2))
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
    found = simulation.recover(**{"n_inputs": 20, **case}, sampler=sampler)
    assert 1 <= len(found.pairs) <= len(found.isolation) and np.isfinite(found.correlation).all()


@settings(max_examples=150)
@example(64, 1.5, 32.0, 32.0, "assigned")  # 92 features are isolated
@example(16, 1.5, 32.0, 32.0, "all")
@example(1, 1.5, 1.9, 2.0, "assigned")  # two of them for one neuron, from kappa = 2^beta - 1 on
@given(
    st.integers(1, 150), st.floats(1.01, 6), st.floats(0.01, 100), st.floats(0.02, 64), st.sampled_from(["assigned", "all"])
)  # fmt: skip
def test_no_more_features_are_assigned_than_there_are_neurons_or_it_is_refused(n, beta, kappa, gamma, coordinates):
    features = int(gamma * n * (1 + 1e-12))
    few = {"n_inputs": 5, "background_size": 2, "coordinates": coordinates}
    if not features:
        return
    isolated = int((theory.optimal_isolation(n, beta, kappa, gamma) > 0).sum())
    if isolated > n:
        with pytest.raises(ValueError, match=rf"kappa is .*: {isolated} features .*each needs a neuron of its own"):
            simulation.recover(n, beta, kappa=kappa, gamma=gamma, **few)
        return
    found = simulation.recover(n, beta, kappa=kappa, gamma=gamma, **few)
    assert isolated <= len(found.isolation) <= min(n, features) and len(found.pairs) <= n
    for reading in theory.READINGS:
        left = simulation.non_rosetta_isolation(found, reading)
        assert math.isnan(left) or 0 <= left < math.inf


@given(st.integers(1, 2000), st.floats(1.001, 6), st.floats(1e-3, 1), st.floats(1, 64))
def test_a_budget_of_at_most_1_a_neuron_always_leaves_a_neuron_to_every_isolated_feature(n, beta, kappa, gamma):
    assert (theory.optimal_isolation(n, beta, kappa, gamma) > 0).sum() <= n


def test_neurons_without_a_target_match_by_chance():
    assigned = simulation.recover(256, 3.0, n_inputs=500)
    everyone = simulation.recover(256, 3.0, n_inputs=500, coordinates="all")
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
    found = simulation.Recovered(np.array([5.0, 2.5, 1.5, 1.0]), pairs, correlation, 10, 40)
    assert simulation.non_rosetta_isolation(found, reading) == pytest.approx(expected)


def test_readings_without_anyone_left():
    found = simulation.Recovered(np.array([5.0, 2.5]), np.array([[0, 0], [1, 1]]), np.array([0.9, 0.8]), 10, 40)
    assert simulation.non_rosetta_isolation(found) == 0
    assert math.isnan(simulation.non_rosetta_isolation(found, "assigned"))
    assert math.isnan(simulation.non_rosetta_isolation(found._replace(n_neurons=2)))


# ---------------------------------------------------------------------------------------------------------------------
# Grids and slopes


def test_a_grid_does_not_depend_on_the_workers():
    arguments = {"sizes": (32, 64), "betas": (1.5, 3.0), "runs": 2, "n_inputs": 50, "background_size": 8}
    one, two = (simulation.grid(**arguments, workers=workers) for workers in (1, 2))
    pd.testing.assert_frame_equal(one, two)
    assert len(one) == 8 and set(one["background_size"]) == {8}
    row = one.iloc[1]
    alone = simulation.simulate(int(row.neurons), row.beta, n_inputs=50, seed=int(row.run), background_size=8)
    assert tuple(alone) == pytest.approx((row.rosetta_count, row.rosetta_isolation, row.non_rosetta_coordinates))


def test_slopes_of_known_power_laws():
    sizes = 2.0 ** np.arange(5, 11)
    table = pd.DataFrame({
        "beta": 2.0, "neurons": np.repeat(sizes, 2), "run": [0, 1] * 6,
        "rosetta_count": np.repeat(3 * sizes**0.5, 2) + np.tile([1, -1], 6),
        "rosetta_isolation": np.repeat(sizes**0.4, 2), "non_rosetta_tail": np.repeat(sizes**-0.7, 2),
        "non_rosetta_coordinates": np.repeat([0, *sizes[1:] ** -0.7], 2),
    })  # fmt: skip
    found = simulation.slopes(table, "tail").set_index("panel")
    assert found["alpha"].tolist() == pytest.approx([0.5, 0.4, -0.7])
    assert found["points"].tolist() == [6, 6, 6]
    assert found["theory"].tolist() == [0.5, 0.5, -0.5]
    assert found["error"].tolist() == pytest.approx([0, -0.1, -0.2])
    assert simulation.slopes(table, "coordinates")["panel"].tolist() == ["a", "b"]  # a mean of 0 has no logarithm


@pytest.mark.parametrize("beta", [1.5, 1.75, 2.0, 2.25, 2.5, 3.0])
def test_simulated_slopes_of_counts_and_isolation(beta):
    table = simulation.grid([2**10, 2**12, 2**14], [beta], runs=2, n_inputs=2000, workers=1)
    found = simulation.slopes(table).set_index("panel")
    assert abs(found["error"]["a"]) < 0.06 and abs(found["error"]["b"]) < 0.06
