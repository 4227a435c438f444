import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rosetta.matching.correlation import PearsonAccumulator
from rosetta.matching.mutual import match_batches, mutual_nearest
from rosetta.matching.nulls import Permuted, calibrated, expected_by_chance, mean_ci95, threshold, which_positions


def numbered(sizes):
    """Batches in which every row of either side holds its own number, B's from 10,000."""
    rows = torch.arange(sum(sizes), dtype=torch.float32)[:, None]
    return list(zip(rows.split(sizes), (rows + 10_000).split(sizes), strict=True))


def numbers(batches):
    return tuple(torch.cat(side).flatten().tolist() for side in zip(*batches, strict=True))


@settings(max_examples=150, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=14), pool=st.integers(1, 6), seed=st.integers(0, 9))
def test_every_position_of_both_sides_is_used_exactly_once(sizes, pool, seed):
    permuted = list(Permuted(numbered(sizes), seed, pool_batches=pool))
    assert all(len(a) == len(b) for a, b in permuted)
    a, b = numbers(permuted)
    assert sorted(a) == list(range(sum(sizes)))
    assert sorted(b) == [10_000 + i for i in range(sum(sizes))]


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 12), size=st.integers(1, 5), pool=st.integers(1, 5), seed=st.integers(0, 9))
def test_partners_come_from_another_batch_within_the_pool(n, size, pool, seed):
    held = min(n, pool)
    permuted = list(Permuted(numbered([size] * n), seed, pool_batches=pool))
    for a, b in permuted[: n - held]:
        batches_earlier = a[0].item() // size - (b.flatten() - 10_000) // size
        assert (batches_earlier >= 1).all()


@settings(max_examples=100, deadline=None)
@given(
    images=st.lists(st.integers(1, 5), min_size=1, max_size=9),
    cells=st.integers(1, 4),
    pool=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_whole_images_are_permuted_with_their_cells_kept(images, cells, pool, seed):
    permuted = list(Permuted(numbered([n * cells for n in images]), seed, pool_batches=pool, whole=cells))
    assert all(len(a) == len(b) for a, b in permuted)
    a, b = (np.array(side).reshape(-1, cells) for side in numbers(permuted))
    rows = np.arange(cells * sum(images)).reshape(-1, cells)
    np.testing.assert_array_equal(a[a[:, 0].argsort()], rows)
    np.testing.assert_array_equal(b[b[:, 0].argsort()], 10_000 + rows)
    assert (a % cells == (b - 10_000) % cells).all()
    one_row = numbers(Permuted(numbered(images), seed, pool_batches=pool))  # the same permutation of images
    assert one_row == ((a[:, 0] / cells).tolist(), (10_000 + (b[:, 0] - 10_000) / cells).tolist())


def test_a_batch_that_is_no_whole_number_of_images_is_refused():
    with pytest.raises(ValueError, match="a batch of 6 positions is no whole number of images of 4 cells"):
        list(Permuted(numbered([8, 6]), seed=0, whole=4))
    with pytest.raises(ValueError, match="whole is 0"):
        Permuted(numbered([8]), seed=0, whole=0)


def test_rows_stay_whole():
    batches = [(torch.randn(6, 3), torch.randn(6, 4)) for _ in range(7)]
    permuted = list(Permuted(batches, seed=1))
    for side in (0, 1):
        before = sorted(tuple(row) for pair in batches for row in pair[side].tolist())
        assert sorted(tuple(row) for pair in permuted for row in pair[side].tolist()) == before


@pytest.mark.parametrize("sizes", [[250] * 12, [1000], [700, 20, 5, 900, 300]])
def test_the_correlation_of_identical_streams_is_destroyed(sizes):
    rows = torch.randn(sum(sizes), 6, generator=torch.Generator().manual_seed(0))
    accumulator = PearsonAccumulator(6, 6)
    for a, b in Permuted([(x, x) for x in rows.split(sizes)], seed=3):
        accumulator.update(a, b)
    assert accumulator.positions == sum(sizes)
    # Of independent rows r has deviation 1/sqrt(T); 36 values stay within five of them.
    assert accumulator.correlation().abs().max() < 5 / np.sqrt(sum(sizes))


def test_the_permutation_is_the_seeds():
    batches = numbered([40] * 6)
    permuted = Permuted(batches, seed=0)
    first = numbers(permuted)
    assert numbers(permuted) == first  # a second pass, as tiles need it
    assert numbers(Permuted(batches, seed=0)) == first
    assert numbers(Permuted(batches, seed=1))[1] != first[1]


def test_within_the_pool_every_permutation_is_equally_likely():
    drawn = [tuple(numbers(Permuted(numbered([2, 1]), seed, pool_batches=2))[1]) for seed in range(1200)]
    counts = pd.Series(drawn).value_counts()
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


def test_permuted_batches_carry_names_and_layers_and_can_be_matched_in_tiles():
    class Named(list):
        names, layers = ("a", "b"), ([4, 4], [6])

    rng = torch.Generator().manual_seed(0)
    batches = Named((torch.randn(50, 8, generator=rng), torch.randn(50, 6, generator=rng)) for _ in range(9))
    whole = match_batches(Permuted(batches, seed=0))
    tiled = match_batches(Permuted(batches, seed=0), memory_bytes=16 * 12)
    assert whole.attrs["neurons_a"] == 8 and whole.attrs["positions"] == 450
    pd.testing.assert_frame_equal(whole, tiled, check_exact=False, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Calibration


def table(correlations):
    return pd.DataFrame({"correlation": np.array(correlations, dtype=np.float32), "unit_a": range(len(correlations))})


@pytest.mark.parametrize("quantile", [0, 0.5, 0.9, 0.999, 1])
def test_the_threshold_is_a_quantile_of_the_pooled_null(quantile):
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=n).astype(np.float32) for n in (5, 300, 40)]
    expected = np.quantile(np.concatenate(parts), quantile)
    assert threshold([table(part) for part in parts], quantile) == pytest.approx(expected, rel=1e-6)


def test_a_threshold_needs_null_tables_and_a_quantile():
    assert threshold([table([])]) == 0.0
    with pytest.raises(ValueError, match="no null tables"):
        threshold([])
    for quantile in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            threshold([table([0.1])], quantile)


def test_only_pairs_above_the_threshold_are_counted():
    some = table([0.9, 0.5, 0.5000001, 0.2])
    some.attrs = {"positions": 7}
    part = calibrated(some, 0.5)
    assert part.unit_a.tolist() == [0, 2] and part.index.tolist() == [0, 1] and part.attrs == {"positions": 7}


def test_a_threshold_for_other_positions_is_scaled_as_sampling_noise_is():
    """Of independent normal numbers, r over T positions has standard deviation 1 / sqrt(T - 1)."""
    rng, spreads = np.random.default_rng(0), {}
    for positions in (100, 400):
        a, b = rng.normal(size=(2, 4_000, positions))
        spreads[positions] = table([np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)])
        spreads[positions].attrs = {"positions": positions}
    measured, scaled = threshold([spreads[400]], 0.9), threshold([spreads[100]], 0.9, positions=400)
    assert scaled == pytest.approx(threshold([spreads[100]], 0.9) / 2) == pytest.approx(measured, rel=0.1)
    assert threshold([spreads[400]], 0.9, positions=400) == measured  # to the last bit


@pytest.mark.parametrize(
    ("of_null", "of_trained", "words"),
    [
        ([900, 1_100], [900, 1_100], "all positions"),
        ([900, 900], [9_000, 9_001], "the first 900 positions"),
        ([1_200, 900], [9_000, 9_001], "the first 900 to 1,200 positions"),
    ],
)
def test_the_positions_of_a_null_are_told_in_words(of_null, of_trained, words):
    assert which_positions(of_null, of_trained) == words


@pytest.mark.parametrize("shape", [(40, 40), (60, 15), (1, 8), (1, 1)])
def test_the_number_expected_by_chance_is_that_of_simulations(shape):
    rng = torch.Generator().manual_seed(0)
    counts = np.array([len(mutual_nearest(torch.rand(*shape, generator=rng))) for _ in range(400)])
    error = counts.std(ddof=1) / np.sqrt(len(counts))
    assert abs(counts.mean() - expected_by_chance(*shape)) <= 3 * error


@given(st.lists(st.integers(-1000, 1000).map(lambda n: n / 8), min_size=2, max_size=8, unique=True))
@settings(max_examples=60, deadline=None)
def test_the_interval_of_a_mean_is_students(values):
    mean, low, high = mean_ci95(values)
    expected = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert mean == pytest.approx(np.mean(values))
    np.testing.assert_allclose((low, high), expected, rtol=1e-9, atol=1e-9)


def test_a_single_value_has_no_interval():
    mean, low, high = mean_ci95([3.0])
    assert mean == 3.0 and np.isnan(low) and np.isnan(high)
