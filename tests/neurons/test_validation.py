from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, precision_score, recall_score

from rosetta.neurons.judging import Verdict
from rosetta.neurons.validation import agreement, by_chance, held_out, measured, table5

FIRES = (True, False, True, True, False, False, True, False, True, False)


@given(st.integers(0, 1000), st.integers(1, 8), st.integers(1, 4))
def test_unseen_images_are_the_next_strongest_and_random_weak_ones(seed, shown, each):
    strengths = np.random.default_rng(seed).standard_normal(40)
    images = np.arange(40)[:, None, None, None]
    found = held_out(strengths, images, shown, each, (1, seed))
    order = np.argsort(-strengths, kind="stable").tolist()
    strong = {n for n, yes in zip(found.numbers, found.fires, strict=True) if yes}
    weak = set(found.numbers) - strong
    assert strong == set(order[shown : shown + each])
    assert len(weak) == each and weak <= set(order[20:])
    assert [image.item() for image in found.images] == list(found.numbers)
    again = held_out(strengths, images, shown, each, (1, seed))
    assert (again.numbers, again.fires) == (found.numbers, found.fires)


def test_weak_images_and_their_places_differ_by_neuron_and_are_all_as_likely():
    strengths = np.arange(60.0)
    found = [held_out(strengths, range(60), seed=(0, neuron)) for neuron in range(600)]
    weak = np.bincount([n for one in found for n, yes in zip(one.numbers, one.fires, strict=True) if not yes])
    assert len(weak) == 30 and abs(weak - 100).max() < 50
    at = np.sum([one.fires for one in found], axis=0)
    assert abs(at - 300).max() < 60


def test_of_an_odd_number_the_middle_image_is_no_weak_one():
    found = [held_out(np.arange(5.0), range(5), 1, 2, seed) for seed in range(20)]
    assert {n for one in found for n, yes in zip(one.numbers, one.fires, strict=True) if not yes} == {0, 1}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"shown": 26}, "do not fit 60"),
        ({"shown": 60}, "do not fit 60"),
        ({"each": 31, "shown": 1}, "do not fit 60"),
        ({"shown": 0}, "0 shown"),
        ({"strengths": np.ones(60)}, "dead"),
        ({"strengths": np.r_[np.nan, np.arange(59)]}, "NaN"),
        ({"images": range(59)}, "59 images"),
    ],
)
def test_held_out_refuses_what_cannot_be_asked(more, said):
    with pytest.raises(ValueError, match=said):
        held_out(**({"strengths": np.arange(60.0), "images": range(60)} | more))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_measures_are_scikit_learns(pairs):
    predicted, fires = zip(*pairs, strict=True)
    expected = (
        accuracy_score(fires, predicted),
        *(score(fires, predicted, zero_division=0) for score in (precision_score, recall_score, f1_score)),
    )
    np.testing.assert_allclose(measured(predicted, fires), expected)


@pytest.mark.parametrize(("strong", "weak", "mark"), [(5, 5, 0.5), (2, 3, 0.2), (1, 0, 0.5)])
def test_chance_is_that_of_all_answers(strong, weak, mark):
    fires = [True] * strong + [False] * weak
    expected = np.zeros(4)
    for answer in product((True, False), repeat=len(fires)):
        expected += mark ** sum(answer) * (1 - mark) ** (len(answer) - sum(answer)) * np.array(measured(answer, fires))
    np.testing.assert_allclose(by_chance(strong, weak, mark), expected)


def test_by_chance_precision_is_4995_and_recall_5_and_not_the_other_way_round():
    found = by_chance()
    assert found.accuracy == pytest.approx(0.5) and found.recall == pytest.approx(0.5)
    assert found.precision == pytest.approx(0.5 * (1 - 2**-10)) and round(found.precision, 4) == 0.4995
    assert round(found.f1, 4) == 0.4865
    with pytest.raises(ValueError, match="mark 2"):
        by_chance(mark=2)


def test_table_5_holds_means_over_neurons_and_their_interval_over_runs():
    rng = np.random.default_rng(0)
    fires = [[tuple(rng.permutation(FIRES).tolist()) for _ in range(20)] for _ in range(5)]
    said = [[tuple((rng.random(10) < 0.6).tolist()) for _ in range(20)] for _ in range(5)]
    said[0][3] = None
    table = table5(said, fires)
    of_runs = np.array(
        [
            np.mean([measured(a, b) for a, b in zip(*of_run, strict=True) if a is not None], axis=0)
            for of_run in zip(said, fires, strict=True)
        ]
    )
    np.testing.assert_allclose(table["mean"], of_runs.mean(0))
    half = 2.7764451 * of_runs.std(0, ddof=1) / np.sqrt(5)  # Student's t of 4 degrees of freedom
    np.testing.assert_allclose(table["high"] - table["mean"], half, rtol=1e-6)
    np.testing.assert_allclose(table["chance"], by_chance())
    assert table.measure.tolist() == ["accuracy", "precision", "recall", "f1"]
    assert table.reported.tolist() == [0.792, 0.865, 0.698, 0.764]
    assert table.attrs == {"runs": 5, "judged": 99, "left_out": 1}


def test_one_who_marks_at_random_is_at_chance():
    rng = np.random.default_rng(1)
    fires = [[FIRES] * 1_000] * 5
    table = table5([[tuple(row) for row in rng.random((1_000, 10)) < 0.5] for _ in range(5)], fires)
    np.testing.assert_allclose(table["mean"], table.chance, atol=0.015)


def test_a_table_of_no_answers_or_others_questions_is_refused():
    with pytest.raises(ValueError, match="none of 2 neurons"):
        table5([[None, None]], [[FIRES, FIRES]])
    with pytest.raises(ValueError, match="zip"):
        table5([[FIRES]], [[FIRES, FIRES]])
    with pytest.raises(ValueError, match="as many"):
        table5([[FIRES[:9]]], [[FIRES]])


def said(answers):
    return [None if one is None else Verdict(bool(one), "", np.nan) for one in answers]


def test_agreement_is_scikit_learns_kappa_over_those_with_two_verdicts():
    rng = np.random.default_rng(0)
    a = rng.random(200) < 0.4
    b = np.where(rng.random(200) < 0.8, a, ~a)
    first, second = a.astype(object), b.astype(object)
    first[:5], second[3:9] = None, None
    found = agreement(said(first), said(second))
    assert found.kappa == pytest.approx(cohen_kappa_score(a[9:], b[9:]))
    assert found.share == pytest.approx((a == b)[9:].mean()) and (found.both, found.left_out) == (191, 9)
    assert found.low < found.kappa < found.high


def test_the_interval_of_kappa_covers():
    rng, held = np.random.default_rng(0), 0
    true = 0.6  # of two judges who are right on 200 neurons, half of either kind: kappa is 2 * agreement - 1
    for _ in range(400):
        a = rng.random(200) < 0.5
        found = agreement(said(a), said(np.where(rng.random(200) < 0.8, a, ~a)))
        held += found.low <= true <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_kappa_is_undefined_where_both_judges_always_say_the_same():
    assert np.isnan(agreement(said([1, 1]), said([1, 1])).kappa)
    assert np.isnan(agreement(said([None, 0]), said([1, None])).kappa)
    assert agreement(said([1, 0, 1]), said([1, 0, 1])).kappa == 1
    assert agreement(said([1, 1]), said([0, 0])).kappa == 0
    with pytest.raises(ValueError, match="2 neurons"):
        agreement(said([1, 1]), said([1]))
