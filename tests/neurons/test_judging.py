import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosetta.laws.scaling import wilson
from rosetta.matching.nulls import mean_ci95
from rosetta.neurons.judging import Verdict, rate, trials


@given(st.integers(1, 6), st.integers(1, 20), st.integers(0, 50), st.integers(0, 3))
def test_trials_are_disjoint_and_of_the_size_asked_for(number, size, more, seed):
    neurons = [(layer, "unit") for layer in range(number * size + more)]
    found = trials(neurons, number, size, seed)
    together = [neuron for trial in found for neuron in trial]
    assert [len(trial) for trial in found] == [size] * number
    assert len(set(together)) == len(together) and set(together) <= set(neurons)
    assert found == trials(neurons, number, size, seed)


def test_trials_are_random_and_every_neuron_as_likely():
    assert trials(range(500), seed=0) != trials(range(500), seed=1)
    counts = np.bincount([n for seed in range(2_000) for trial in trials(range(10), 2, 2, seed) for n in trial])
    assert abs(counts - 800).max() < 5 * np.sqrt(2_000 * 0.4 * 0.6)


def test_too_few_neurons_are_split_equally_only_if_that_is_allowed():
    with pytest.raises(ValueError, match="there are 499 neurons"):
        trials(range(499))
    found = trials(range(23), fewer=True)
    assert [len(trial) for trial in found] == [4] * 5 and len({n for trial in found for n in trial}) == 20
    assert [len(trial) for trial in trials(range(600), fewer=True)] == [100] * 5
    with pytest.raises(ValueError, match="there are 4 neurons"):
        trials(range(4), fewer=True)
    with pytest.raises(ValueError, match="per_trial is 0"):
        trials(range(4), per_trial=0)


def verdicts(*trials_of):
    return [[None if one is None else Verdict(bool(one), "", np.nan) for one in trial] for trial in trials_of]


def test_a_rate_is_that_of_the_verdicts_there_are():
    found = rate(verdicts([1, 1, 0, None], [1, 0, 0, 0], [None]))
    assert found.pooled == wilson(3, 7) and (found.judged, found.left_out) == (7, 2)
    assert found.by_trial == mean_ci95([2 / 3, 1 / 4])
    nothing = rate([])
    assert nothing.judged == 0 and np.isnan(nothing.pooled.mean) and np.isnan(nothing.by_trial.low)
    alone = rate(verdicts([1, 0]))
    assert alone.by_trial.mean == 0.5 and np.isnan(alone.by_trial.low)


def coverage(population, true, draws=2_000, number=5, size=100):
    """How often either interval holds a population's rate: (pooled, by trial)."""
    rng, made = np.random.default_rng(0), {yes: Verdict(yes, "", np.nan) for yes in (True, False)}
    held = np.zeros(2)
    for _ in range(draws):
        # Neurons of a population without end are independent draws; of one with an end, drawn without replacement.
        drawn = rng.random(number * size) < true if population is None else rng.permutation(population)[: number * size]
        found = rate([[made[bool(x)] for x in trial] for trial in drawn.reshape(number, size)])
        held += [found.pooled.low <= true <= found.pooled.high, found.by_trial.low <= true <= found.by_trial.high]
    return held / draws


@pytest.mark.parametrize("true", [0.5, 0.9, 0.03])
def test_both_intervals_cover_a_rate_that_is_not_extreme(true):
    pooled, by_trial = coverage(None, true)
    assert 0.93 <= pooled <= 0.97 and 0.92 <= by_trial <= 0.97


def test_the_interval_over_trials_misses_a_rare_rate_and_wilsons_does_not():
    pooled, by_trial = coverage(None, 0.002)  # one neuron in all trials together
    assert pooled > 0.9 and by_trial < 0.8


def test_of_a_small_population_both_intervals_are_too_wide():
    population = np.arange(600) < 300
    pooled, by_trial = coverage(population, 0.5)
    assert pooled > 0.99 and by_trial > 0.99
