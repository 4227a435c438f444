import numpy as np
import pytest
from scipy import special, stats

from rosetta.laws import packing, theory


def test_leakage_is_the_rest_of_a_neuron_over_its_loading_and_obeys_its_bound():
    rng, floor = np.random.default_rng(0), 0.3
    loadings = rng.standard_t(3, (6, 9))
    isolation, dedicated = theory.feature_isolation(loadings, floor)
    for r, j in enumerate(dedicated):
        shares = packing.leakage(loadings[j], r)
        by_hand = [0.0 if k == r else loadings[j, k] / loadings[j, r] for k in range(9)]
        assert shares == pytest.approx(by_hand)
        total = (shares**2).sum()  # eq. 58: all of the rest but the noise
        assert total == pytest.approx(1 / isolation[r] - floor / loadings[j, r] ** 2) and total <= 1 / isolation[r]
    assert packing.leakage(loadings, 2).shape == loadings.shape
    with pytest.raises(ValueError, match="feature 1 has the loading 0"):
        packing.leakage(np.array([1.0, 0.0]), 1)


def test_the_covariance_of_the_rest_is_that_of_activations():
    """Eq. 56, 57 and 59 by drawing every response: 400,000 inputs, so that the error of a covariance is about 1 / 632."""
    rng, floor, n = np.random.default_rng(1), 0.2, 400_000
    a, b = rng.standard_normal((2, 7))
    z = rng.standard_normal((n, 7))
    y = [z @ w + np.sqrt(floor) * rng.standard_normal(n) for w in (a, b)]
    rest = [response / w[3] - z[:, 3] for response, w in zip(y, (a, b), strict=True)]
    shares = [packing.leakage(w, 3) for w in (a, b)]
    expected = packing.leakage_covariance(*shares)
    error = 5 * np.sqrt((rest[0].var() * rest[1].var() + expected**2) / n)
    assert np.cov(*rest)[0, 1] == pytest.approx(expected, abs=error)
    # And eq. 62 with this covariance is these activations' correlation, where the feature has its sign in both.
    s = [theory.signal_to_interference(w[None], floor)[0, 3] for w in (a, b)]
    measured = np.corrcoef(*(response / w[3] for response, w in zip(y, (a, b), strict=True)))[0, 1]
    assert measured == pytest.approx(float(theory.correlation_law(*s, expected)), abs=5 / np.sqrt(n))


def test_eq_62_is_the_law_without_covariance():
    assert theory.correlation_law(2.0, 0.5) == pytest.approx(1 / np.sqrt(1.5 * 3))
    assert theory.correlation_law(2.0, 0.5, 0.3) == pytest.approx(1.3 / np.sqrt(1.5 * 3))
    assert theory.correlation_law(0.0, 5.0, 0.3) == 0


@pytest.mark.parametrize("tail", [2, 5, 40])
def test_the_spread_is_that_of_the_angle_between_random_directions(tail):
    """The cosine t of two isotropic directions in L dimensions has (1 + t) / 2 ~ Beta((L - 1) / 2, (L - 1) / 2)."""
    exact = 2 * stats.beta((tail - 1) / 2, (tail - 1) / 2).std()
    assert packing.packing_spread(2.0, 0.5, tail) == pytest.approx(exact / np.sqrt(2.0 * 0.5))
    rng, draws = np.random.default_rng(tail), 20_000
    a, b = (packing.pack(s, np.ones(tail), draws, rng) for s in (2.0, 0.5))
    assert np.linalg.norm(a, axis=1) == pytest.approx(1 / np.sqrt(2.0)) and a.shape == (draws, tail)
    covariance = packing.leakage_covariance(a, b)
    assert abs(covariance.mean()) < 4 * covariance.std() / np.sqrt(draws)  # eq. 60
    assert covariance.std() == pytest.approx(exact, rel=4 / np.sqrt(2 * draws))  # eq. 61; relative error of a spread
    uniform = stats.kstest((covariance + 1) / 2, stats.beta((tail - 1) / 2, (tail - 1) / 2).cdf)
    assert uniform.pvalue > 1e-3


def test_sets_of_features_have_the_same_spread_and_heavier_tails():
    tail, held, draws = 60, 6, 40_000
    rng = np.random.default_rng(3)
    a, b = (packing.pack(1.0, np.ones(tail), draws, rng, held=held) for _ in range(2))
    assert ((a != 0).sum(1) == held).all()
    assert (a != 0).mean(0) == pytest.approx(held / tail, abs=5 * np.sqrt(held / tail / draws))  # each feature as often
    covariance = packing.leakage_covariance(a, b)
    error = covariance.var() * np.sqrt(stats.kurtosis(covariance, fisher=False) / draws)
    assert covariance.var() == pytest.approx(1 / tail, abs=4 * error)
    whole = packing.leakage_covariance(*(packing.pack(1.0, np.ones(tail), draws, rng) for _ in range(2)))
    assert stats.kurtosis(covariance) > stats.kurtosis(whole) + 1
    alone = packing.pack(1.0, np.ones(4), 3, rng, held=9)  # more than there are: all
    assert (alone != 0).all()


def test_a_tail_that_leaks_unequally_is_as_large_as_its_participation_ratio():
    power = np.arange(20, 4_000.0) ** -1.5
    assert packing.effective_tail(np.full(7, 0.3)) == pytest.approx(7)
    assert packing.effective_tail(power) == pytest.approx(1 / ((power / power.sum()) ** 2).sum())
    # The limit of a long tail that begins at r_0, by integrals: r_0 (2 beta - 1) / (beta - 1)^2; eq. 61's L grows as r_0 does.
    beta, first = 2.5, 200.5
    exact = special.zeta(beta, first) ** 2 / special.zeta(2 * beta, first)
    long = packing.effective_tail(np.arange(first, 10**6) ** -beta)
    assert long == pytest.approx(exact, rel=1e-4) == pytest.approx(first * (2 * beta - 1) / (beta - 1) ** 2, rel=0.01)
    rng, draws = np.random.default_rng(4), 10_000
    covariance = packing.leakage_covariance(*(packing.pack(1.0, power, draws, rng) for _ in range(2)))
    # Of normalized directions only about: 4% here, beside 3% for four errors of the draws.
    assert covariance.std() == pytest.approx(1 / np.sqrt(packing.effective_tail(power)), rel=0.07)


def test_what_is_packed_in_common_stays():
    rng, draws = np.random.default_rng(5), 4_000
    means = []
    for tail in (100, 1_000):
        a, b = (packing.pack(2.0, np.ones(tail), draws, rng, common=0.2) for _ in range(2))
        assert np.linalg.norm(a, axis=1) == pytest.approx(1 / np.sqrt(2.0))
        covariance = packing.leakage_covariance(a, b)
        means.append(covariance.mean())
        assert covariance.mean() == pytest.approx(0.1, abs=4 * covariance.std() / np.sqrt(draws) + 0.2 / tail)
    assert means[1] == pytest.approx(means[0], rel=0.05)  # ten times as many features, and no less


def test_the_table_holds_each_packing_beside_what_is_expected():
    table = packing.packings([32, 128], 2.0, isolation=3.0, gamma=3.0, seed=2, draws=3_000, held=8, common=0.3)
    assert list(table.groupby("packing", sort=False).size().items()) == [
        ("isotropic", 2), ("sets", 2), ("by importance", 2), ("common direction", 2),
    ]  # fmt: skip
    for row in table.itertuples():
        s, n = theory.optimal_isolation(row.neurons, 2.0, gamma=3.0), row.neurons
        assert row.tail == 3 * n - int(theory.cutoff_rank(n, 2.0, gamma=3.0)) and (s > 0).sum() <= 3 * n - row.tail
        power = np.arange(3 * n - row.tail + 1, 3 * n + 1.0) ** -2.0
        chance = {"by importance": (power**2).sum() / power.sum() ** 2}.get(row.packing, 1 / row.tail)
        mean = 0.1 * (row.packing == "common direction")
        assert row.expected == pytest.approx(np.sqrt(chance / 9 + mean**2))
        assert row.mean == pytest.approx(mean, abs=0.01) and row.low <= row.spread <= row.high
        assert row.spread == pytest.approx(row.expected, rel=0.08)
    again = packing.packings([32, 128], 2.0, isolation=3.0, gamma=3.0, seed=2, draws=3_000, held=8, common=0.3)
    assert again.equals(table)


def test_draws_some_at_a_time_are_as_many(monkeypatch):
    monkeypatch.setattr(packing._covariances, "__defaults__", (64,))
    assert len(packing._covariances(1.0, np.ones(30), 7, np.random.default_rng(0), {})) == 7


@pytest.mark.parametrize(
    ("choice", "name"),
    [({"isolation": 0}, "isolation"), ({"draws": 0}, "draws"), ({"held": 0}, "held"), ({"held": 1.5}, "held"),
     ({"common": 1}, "common"), ({"common": -0.1}, "common"), ({"common": float("nan")}, "common"), ({"seed": -1}, "seed"),
     ({"gamma": 0.1, "kappa": 30.0}, "n_neurons"), ({"beta": 1}, "beta")],
)  # fmt: skip
def test_what_cannot_be_packed_is_refused_by_name(choice, name):
    with pytest.raises(ValueError, match=f"^{name} is"):
        packing.packings(**{"sizes": [64], "beta": 1.5} | choice)


@pytest.mark.parametrize(
    ("choice", "name"), [({"isolation": -1.0}, "isolation"), ({"held": 0}, "held"), ({"draws": 0}, "draws")]
)
def test_what_cannot_be_drawn_is_refused_by_name(choice, name):
    with pytest.raises(ValueError, match=f"^{name} is"):
        packing.pack(**{"isolation": 1.0, "power": np.ones(3), "draws": 2, "rng": np.random.default_rng(0)} | choice)
