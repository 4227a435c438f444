from itertools import combinations

import numpy as np
import pytest
from scipy.stats import beta

from rosetta.neurons.judging import Evidence, Unseen
from rosetta.neurons.likeness import Likeness, directions, likeness, weights_of
from rosetta.neurons.validation import held_out, measured

IMAGES, KINDS = 400, 8


@pytest.fixture(scope="module")
def kinds():
    return np.arange(IMAGES) % KINDS


@pytest.fixture(scope="module")
def features(kinds):
    """Images of a kind are alike, and all share a large part, as in most encoders."""
    rng = np.random.default_rng(0)
    return 5 + rng.standard_normal((KINDS, 32))[kinds] + 0.7 * rng.standard_normal((IMAGES, 32))


def shown(strengths, k=20) -> Evidence:
    top = np.argsort(-strengths, kind="stable")[:k]
    return Evidence("n", tuple(top.tolist()), [], np.zeros((k, 2, 2)), strengths[top], float(strengths.mean()))


def of_kind(rng, kinds, *wanted):
    return np.isin(kinds, wanted) * rng.uniform(0.5, 1.5, IMAGES) + 0.1 * rng.standard_normal(IMAGES)


def test_likeness_is_the_weighted_mean_of_all_pairs():
    rng = np.random.default_rng(0)
    vectors, weights = rng.standard_normal((7, 3)), rng.random(7)
    above = below = 0.0
    for i, j in combinations(range(7), 2):
        cosine = vectors[i] @ vectors[j] / np.linalg.norm(vectors[i]) / np.linalg.norm(vectors[j])
        above, below = above + weights[i] * weights[j] * cosine, below + weights[i] * weights[j]
    units = directions(vectors, centred=False).astype(float)
    np.testing.assert_allclose(likeness(units @ units.T, weights), above / below, rtol=1e-6)
    np.testing.assert_allclose(likeness(units @ units.T, 9 * weights), above / below, rtol=1e-6)
    assert np.isnan(likeness(units @ units.T, np.eye(7)[0]))


def test_directions_are_centred_unless_asked_not_to_be(features):
    expected = features - features.mean(0)
    np.testing.assert_allclose(
        directions(features), expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-4, atol=1e-6
    )
    apart, near = (directions(features, centred) for centred in (True, False))
    assert (near @ near.T).mean() > 0.9 and abs((apart @ apart.T).mean()) < 0.01
    assert (directions(np.ones((4, 3))) == 0).all()


def test_weights_begin_at_the_neurons_mean():
    one = shown(np.array([4.0, 2.0, 0.0, -2.0]), 4)
    np.testing.assert_allclose(weights_of(one), [1, 1 / 3, 0, 0])


def test_a_neuron_of_one_kind_is_told_and_scores_higher_than_one_of_two(features, kinds):
    rng, judge = np.random.default_rng(1), Likeness(features)
    one = judge.judge([shown(of_kind(rng, kinds, kind)) for kind in range(KINDS) for _ in range(10)])
    two = judge.judge([shown(of_kind(rng, kinds, a, b)) for a, b in combinations(range(KINDS), 2)])
    assert all(said.is_monosemantic for said in one)
    assert min(said.score for said in one) > max(said.score for said in two)
    assert np.mean([said.is_monosemantic for said in two]) > 0.9  # the weak standard of which the docstring warns


def test_of_neurons_that_know_nothing_the_stated_share_is_called_monosemantic(features):
    rng, n = np.random.default_rng(2), 600
    for quantile in (0.95, 0.8):
        said = Likeness(features, quantile).judge([shown(rng.standard_normal(IMAGES)) for _ in range(n)])
        wrong = sum(one.is_monosemantic for one in said)
        low, high = beta.ppf(0.01, wrong, n - wrong + 1), beta.ppf(0.99, wrong + 1, n - wrong)
        assert low <= 1 - quantile <= high


def test_random_sets_are_seeded_and_a_verdict_hangs_on_no_other_neuron(features):
    rng = np.random.default_rng(3)
    some = [shown(rng.standard_normal(IMAGES), k) for k in (5, 20, 5)]
    assert Likeness(features, seed=4).judge(some)[2] == Likeness(features, seed=4).judge(some[2:])[0]
    assert Likeness(features, seed=4).judge(some) != Likeness(features, seed=5).judge(some)


def test_predictions_follow_likeness(features, kinds):
    rng, judge = np.random.default_rng(4), Likeness(features)
    found, blind = [], []
    for number in range(100):
        for kept, strengths in ((found, of_kind(rng, kinds, number % KINDS)), (blind, rng.standard_normal(IMAGES))):
            asked = held_out(strengths, range(IMAGES), seed=(0, number))
            kept += [measured(*judge.predict([shown(strengths)], [asked]), asked.fires)]
    assert np.mean(found, axis=0).min() > 0.9
    assert abs(np.mean([one.accuracy for one in blind]) - 0.5) < 0.06


def test_dead_neurons_and_equal_features_are_told(features):
    (said,) = Likeness(features).judge([shown(np.full(IMAGES, 2.0))])
    assert not said.is_monosemantic and np.isnan(said.score)
    asked = Unseen((1, 2), [], (True, False))
    assert Likeness(features).predict([shown(np.full(IMAGES, 2.0))], [asked]) == [(False, False)]
    (said,) = Likeness(np.ones((IMAGES, 3))).judge([shown(np.arange(IMAGES) * 1.0)])
    assert not said.is_monosemantic and said.score == 0


def test_what_does_not_fit_is_refused(features):
    with pytest.raises(ValueError, match="NaN"):
        Likeness(np.full((4, 2), np.nan))
    with pytest.raises(ValueError, match=r"\[4\]"):
        Likeness(np.zeros(4))
    with pytest.raises(ValueError, match="10 sets"):
        Likeness(features, sets=10)
    with pytest.raises(ValueError, match="quantile is 1"):
        Likeness(features, quantile=1)
    judge, one = Likeness(features), shown(np.arange(IMAGES) * 1.0)
    with pytest.raises(ValueError, match="the set has 400"):
        judge.judge([one._replace(numbers=(*range(19), IMAGES))])
    with pytest.raises(ValueError, match="unseen"):
        judge.predict([one], [Unseen((IMAGES,), [], (True,))])
