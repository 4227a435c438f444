import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rosetta.matching.correlation import PearsonAccumulator, tiles

T, N_A, N_B = 1500, 7, 5


def reference(a, b):
    """np.corrcoef in float64, a block of it."""
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.corrcoef(np.asarray(a.double()), np.asarray(b.double()), rowvar=False)
    return r[: a.shape[1], a.shape[1] :]


def streamed(a, b, sizes):
    accumulator = PearsonAccumulator(a.shape[1], b.shape[1])
    start = 0
    for size in sizes:
        accumulator.update(a[start : start + size], b[start : start + size])
        start += size
    assert start == len(a) == accumulator.positions
    return accumulator.correlation()


def correlated(seed=0, t=T):
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((t, 4))
    return (shared @ rng.standard_normal((4, n)) + rng.standard_normal((t, n)) for n in (N_A, N_B))


def cauchy():
    rng = np.random.default_rng(1)
    shared = rng.standard_cauchy((T, 1))
    return (shared * rng.standard_normal(n) + rng.standard_cauchy((T, n)) for n in (N_A, N_B))


INPUTS = {
    "normal": correlated,
    "mean 1e4": lambda: (x + 1e4 for x in correlated()),
    "mean 1e6": lambda: (x + 1e6 for x in correlated()),
    "mean -1e5, deviation 1e-1": lambda: (0.1 * x - 1e5 for x in correlated()),
    "scale 1e-8": lambda: (1e-8 * x for x in correlated()),
    "scale 1e12": lambda: (1e12 * x for x in correlated()),
    "Cauchy": cauchy,
    "lognormal": lambda: (np.exp(3 * x) for x in correlated()),
    "sparse ReLU": lambda: (np.maximum(x - 4, 0) for x in correlated()),
    "one position in a thousand": lambda: (np.where(np.abs(x) > 6, x, 0) for x in correlated(seed=2)),
    "drifting mean": lambda: (x + np.linspace(0, 30, T)[:, None] for x in correlated()),
}
SPLITS = {
    "one batch": [T],
    "two": [T - 500, 500],
    "uneven": [3, 700, 1, 1, 290, 0, 505],
    "a row first": [1, T - 1],
    "many": [10] * (T // 10),
    "row by row": [1] * T,
}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", INPUTS)
def test_streamed_correlation_is_numpys(kind, split):
    a, b = (torch.from_numpy(x).float() for x in INPUTS[kind]())
    expected = reference(a, b)
    assert np.isfinite(expected).any()
    np.testing.assert_allclose(streamed(a, b, SPLITS[split]), expected, rtol=0, atol=1e-5)


def test_an_outlier_in_the_first_row_does_not_drown_the_rest():
    a, b = (torch.from_numpy(x).float() for x in correlated())
    a[0] += 1e4
    b[0, 0] -= 1e4
    for sizes in ([1, T - 1], [2, T - 2], [1] * T, [T]):
        np.testing.assert_allclose(streamed(a, b, sizes), reference(a, b), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [1e-15, 1e-25, 1e-30])
def test_a_vanishingly_small_neuron_is_never_credited_with_a_correlation_it_has_not(size):
    a, b = (torch.from_numpy(x).float() for x in correlated())
    a = a * size
    for sizes in ([T], [1, T - 1], [400, T - 400]):
        r = streamed(a, b, sizes).numpy()
        wrong = ~np.isnan(r) & (np.abs(r - reference(a, b)) > 1e-5)
        assert not wrong.any()


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6), sizes=st.lists(st.integers(0, 60), min_size=1, max_size=12), mean=st.floats(-1e4, 1e4)
)
def test_the_batches_make_no_difference(seed, sizes, mean):
    rng = np.random.default_rng(seed)
    t = sum(sizes)
    a, b = (torch.from_numpy(rng.standard_normal((t, n)) + mean).float() for n in (4, 3))
    if t < 2:
        with pytest.raises(ValueError, match="at least 2 positions"):
            streamed(a, b, sizes)
        return
    if t < 5:  # two positions give r = ±1 or, where float32 makes them equal, nothing
        return
    np.testing.assert_allclose(streamed(a, b, sizes), reference(a, b), rtol=0, atol=2e-5)


def test_a_constant_neuron_has_no_correlation_and_is_counted_dead():
    a, b = (torch.from_numpy(x).float() for x in correlated())
    a[:, 2], a[:, 5], b[:, 0] = 0, 0.1, 1e6 / 3
    for sizes in SPLITS.values():
        accumulator = PearsonAccumulator(N_A, N_B)
        start = 0
        for size in sizes:
            accumulator.update(a[start : start + size], b[start : start + size])
            start += size
        assert accumulator.dead == (2, 1)
        r = accumulator.correlation().numpy()
        expected_nan = np.zeros((N_A, N_B), bool)
        expected_nan[[2, 5], :] = expected_nan[:, 0] = True
        np.testing.assert_array_equal(np.isnan(r), expected_nan)
        np.testing.assert_allclose(r[~expected_nan], reference(a, b)[~expected_nan], rtol=0, atol=1e-5)


def test_a_neuron_that_changes_at_one_position_only_is_alive():
    a, b = (torch.from_numpy(x).float() for x in correlated())
    a[:, 1] = 0.7
    a[-1, 1] = 0.8
    accumulator = PearsonAccumulator(N_A, N_B)
    for rows in torch.arange(T).split(100):
        accumulator.update(a[rows], b[rows])
        assert accumulator.dead[0] == (rows[-1] != T - 1)
    np.testing.assert_allclose(accumulator.correlation(), reference(a, b), rtol=0, atol=1e-5)


def test_bf16_inputs_are_accumulated_in_float32():
    a, b = (torch.from_numpy(x).bfloat16() for x in correlated(t=20_000))
    r = streamed(a, b, [1000] * 20)
    assert r.dtype == torch.float32
    np.testing.assert_allclose(r, reference(a, b), rtol=0, atol=1e-5)


def test_many_batches_do_not_wear_the_accumulator_out():
    a, b = (torch.from_numpy(x).float() for x in correlated(t=100_000))
    np.testing.assert_allclose(streamed(a, b, [100] * 1000), reference(a, b), rtol=0, atol=1e-5)


def test_perfect_correlations_do_not_leave_minus_one_to_one():
    a, _ = (torch.from_numpy(x).float() for x in correlated())
    r = streamed(a, -3 * a + 2, [400, T - 400])
    np.testing.assert_allclose(r.diagonal(), -1, atol=1e-5)
    assert r.abs().max() <= 1


def test_a_correlation_may_be_read_before_the_last_batch():
    a, b = (torch.from_numpy(x).float() for x in correlated())
    accumulator = PearsonAccumulator(N_A, N_B)
    for start, stop in ((0, 300), (300, T)):
        accumulator.update(a[start:stop], b[start:stop])
        np.testing.assert_allclose(accumulator.correlation(), reference(a[:stop], b[:stop]), rtol=0, atol=1e-5)


def test_fewer_than_two_positions_are_refused():
    accumulator = PearsonAccumulator(2, 3)
    with pytest.raises(ValueError, match="there are 0"):
        accumulator.correlation()
    accumulator.update(torch.zeros(0, 2), torch.zeros(0, 3))
    accumulator.update(torch.zeros(1, 2), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="there are 1"):
        accumulator.correlation()


@pytest.mark.parametrize(
    "shapes", [((4, 3), (4, 3)), ((4, 2), (5, 3)), ((4, 2), (4, 2)), ((2,), (3,)), ((1, 4, 2), (4, 3))]
)
def test_wrong_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match="expected"):
        PearsonAccumulator(2, 3).update(*map(torch.zeros, shapes))


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (-1, 3)])
def test_a_model_without_neurons_is_refused(sizes):
    with pytest.raises(ValueError, match="at least 1"):
        PearsonAccumulator(*sizes)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("row", [0, 3, 7])
@pytest.mark.parametrize("side", [0, 1])
def test_nan_and_infinity_are_refused_with_the_neuron(bad, row, side):
    sides = [torch.randn(8, 3), torch.randn(8, 3)]
    sides[side][row, 1] = bad
    accumulator = PearsonAccumulator(3, 3)
    with pytest.raises(ValueError, match=r"NaN or infinity .* neuron 1"):
        for rows in (slice(0, 4), slice(4, 8)):
            accumulator.update(sides[0][rows], sides[1][rows])


@settings(max_examples=200, deadline=None)
@given(n_a=st.integers(1, 60), n_b=st.integers(1, 60), memory=st.integers(16, 20_000))
def test_tiles_partition_the_table_and_fit_the_memory(n_a, n_b, memory):
    seen = np.zeros((n_a, n_b), int)
    for i, j in tiles(n_a, n_b, memory):
        seen[i, j] += 1
        # The accumulator, r, and two copies while neighbours are sought.
        assert 4 * 4 * (i.stop - i.start) * (j.stop - j.start) <= memory
    assert (seen == 1).all()


def test_a_table_that_fits_is_one_tile_and_a_budget_for_no_pair_is_refused():
    assert list(tiles(30, 20, 16 * 600)) == [(slice(0, 30), slice(0, 20))]
    assert len(list(tiles(30, 20, 16 * 599))) > 1
    with pytest.raises(ValueError, match="holds no accumulator"):
        list(tiles(30, 20, 15))


# ---------------------------------------------------------------------------------------------------------------------
# Sums that add up


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("parts", ["halves", "every third", "one row", "all and none", "none and all"])
def test_accumulators_of_some_positions_and_of_the_others_join_to_that_of_all(inputs, parts):
    a, b = (torch.as_tensor(x, dtype=torch.float32) for x in INPUTS[inputs]())
    row = torch.arange(len(a))
    mask = {
        "halves": row < 700, "every third": row % 3 == 0, "one row": row == 900,
        "all and none": row >= 0, "none and all": row < 0,
    }[parts]  # fmt: skip
    one, other = (PearsonAccumulator(N_A, N_B) for _ in range(2))
    for rows in row.split(400):
        some = rows[mask[rows]], rows[~mask[rows]]
        one.update(a[some[0]], b[some[0]])
        other.update(a[some[1]], b[some[1]])
    before = other.cross.clone(), other.positions
    one.join(other)
    assert one.positions == len(a) and torch.equal(other.cross, before[0]) and other.positions == before[1]
    np.testing.assert_allclose(one.correlation(), streamed(a, b, [T]), rtol=0, atol=1e-5)
    np.testing.assert_allclose(one.correlation(), reference(a, b), rtol=0, atol=1e-5)
    one.update(a[:50], b[:50])  # more may follow
    twice = torch.cat([a, a[:50]]), torch.cat([b, b[:50]])
    np.testing.assert_allclose(one.correlation(), reference(*twice), rtol=0, atol=1e-5)


def test_a_neuron_is_dead_after_joining_only_if_both_parts_saw_the_same_value():
    a = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 3.0], [0.0, 2.0, 4.0], [0.0, 2.0, 5.0]])
    one, other = PearsonAccumulator(3, 3), PearsonAccumulator(3, 3)
    one.update(a[:2], a[:2])
    other.update(a[2:], a[2:])
    one.join(other)
    assert one.dead == (1, 1) and other.dead == (2, 2)
    np.testing.assert_allclose(one.correlation(), reference(a, a), atol=1e-6)
    with pytest.raises(ValueError, match=r"the other is of \(2, 3\) neurons; expected \(3, 3\)"):
        one.join(PearsonAccumulator(2, 3))
