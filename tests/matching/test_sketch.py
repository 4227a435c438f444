"""Sketches estimate correlations within their law, and add up."""

from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rosetta.matching.sketch import PairSketch, signs_and_buckets

N_A, N_B, POSITIONS = 9, 7, 400


def activations(seed=0):
    """Correlated neurons with means and scales of their own; A's last is dead, and its first two are equal."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((POSITIONS, 3))
    a = latent @ rng.standard_normal((3, N_A)) + rng.standard_normal((POSITIONS, N_A))
    b = latent @ rng.standard_normal((3, N_B)) + rng.standard_normal((POSITIONS, N_B))
    a, b = 5 + a * 10.0 ** rng.integers(-3, 3, N_A), np.maximum(b, 0) - 40
    a[:, -1], a[:, 1] = 0.5, a[:, 0]
    return torch.from_numpy(a).float(), torch.from_numpy(b).float()


def sketch_of(a, b, cuts=(), rows=64, seed=0, keys=None):
    sketch = PairSketch(N_A, N_B, rows, seed)
    for i, j in pairwise((0, *sorted(cuts), len(a))):
        sketch.update(a[i:j], b[i:j], None if keys is None else keys[i:j])
    return sketch


def estimators(sketch):
    return deepcopy(sketch).estimators()  # they use up the sums


def estimates(sketch):
    a, b = estimators(sketch)
    return a.unit @ b.unit.T


def matrix(keys, rows, seed):
    """The signs, each in its position's bucket: [rows, positions]."""
    signs, buckets = signs_and_buckets(keys, rows, seed)
    table = torch.zeros(rows, len(keys))
    table[buckets, torch.arange(len(keys))] = signs
    return table


def test_an_estimate_is_the_cosine_of_the_signed_sums_of_centred_activations():
    a, b = activations()
    signs = matrix(np.arange(POSITIONS), 64, seed=0).double().numpy()
    assert np.abs(signs).sum(0).tolist() == [1.0] * POSITIONS
    with np.errstate(invalid="ignore"):
        x, y = (signs @ (side - side.mean(0)) for side in (a.double().numpy(), b.double().numpy()))
        expected = (x / np.linalg.norm(x, axis=0)).T @ (y / np.linalg.norm(y, axis=0))
    got = estimates(sketch_of(a, b))
    np.testing.assert_allclose(got[:-1], expected[:-1], atol=1e-5)
    assert (got[-1] == 0).all() and torch.equal(got[0], got[1])


def test_estimates_are_off_by_as_much_as_their_law_says():
    a, b = activations()
    r = np.corrcoef(a[:, :-1].double().T, b.double().T)[: N_A - 1, N_A - 1 :]
    off = [np.arctanh(estimates(sketch_of(a, b, seed=seed))[:-1].numpy()) - np.arctanh(r) for seed in range(100)]
    off = np.stack(off) * np.sqrt(64 - 3)
    # The variance is that of pairs of positions in one bucket, POSITIONS - 1 others for each.
    assert 0.85 < off.std() < 1.1 and np.abs(off.mean(0)).max() < 0.6


@given(cuts=st.lists(st.integers(0, POSITIONS), max_size=6), seed=st.integers(0, 5))
@settings(max_examples=40)
def test_batches_of_any_size_give_the_same_sketch(cuts, seed):
    a, b = activations(seed)
    whole, cut = sketch_of(a, b), sketch_of(a, b, cuts)
    torch.testing.assert_close(estimates(cut), estimates(whole), atol=2e-5, rtol=0)
    for one, other in zip(estimators(cut), estimators(whole), strict=True):
        torch.testing.assert_close(one.length, other.length, atol=1e-4, rtol=1e-4, equal_nan=True)


@given(cuts=st.lists(st.integers(0, POSITIONS), max_size=4), order=st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_sketches_of_parts_add_up_in_any_order(cuts, order):
    a, b = activations()
    edges = list(pairwise((0, *sorted(cuts), POSITIONS)))
    parts = [sketch_of(a[i:j], b[i:j], keys=np.arange(i, j)) for i, j in edges]
    order.shuffle(parts)
    joined = PairSketch(N_A, N_B, 64)
    for part in parts:
        joined.join(part)
    assert joined.positions == POSITIONS
    torch.testing.assert_close(estimates(joined), estimates(sketch_of(a, b)), atol=2e-5, rtol=0)


def test_a_mean_far_from_the_first_batchs_is_not_lost_in_rounding():
    """Squares are summed about the first batch's mean; where that lies far off, they are summed again."""
    a, b = activations()
    a[200:] += 1000 * a.std(0)
    moments = sketch_of(a, b, (5, 200)).a.moments
    expected = (a.double() - a.double().mean(0)).square().sum(0).sqrt()[:-1]
    got = moments.norm()[:-1].double() / moments.scale[:-1].double()
    torch.testing.assert_close(got, expected, rtol=2e-6, atol=0)


def test_joining_leaves_the_other_as_it_is():
    a, b = activations()
    other, joined = sketch_of(a[:200], b[:200]), PairSketch(N_A, N_B, 64)
    before = estimates(other)
    joined.join(other)
    joined.update(a[200:], b[200:])
    torch.testing.assert_close(estimates(other), before, atol=0, rtol=0)
    torch.testing.assert_close(estimates(joined), estimates(sketch_of(a, b)), atol=2e-5, rtol=0)


def test_keys_and_not_the_order_of_positions_decide_on_signs_and_buckets():
    a, b = activations()
    keys = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, POSITIONS)
    turned = np.arange(POSITIONS)[::-1].copy()
    here, there = sketch_of(a, b, keys=keys), sketch_of(a[turned], b[turned], keys=keys[turned])
    torch.testing.assert_close(estimates(there), estimates(here), atol=2e-5, rtol=0)
    assert not torch.allclose(estimates(sketch_of(a, b)), estimates(here), atol=1e-3)
    assert not torch.allclose(estimates(sketch_of(a, b, seed=1)), estimates(sketch_of(a, b)), atol=1e-3)


def test_neighbouring_keys_fall_into_buckets_as_if_at_random():
    signs = matrix(np.arange(64_000), 64, seed=3)
    in_bucket = signs.abs().sum(1)
    assert ((in_bucket - 1000) ** 2 / 1000).sum() < 110  # chi-squared of 63 degrees: once in ten thousand above
    assert signs.sum().abs() < 4 * 253 and (signs.sum(1) / 1000**0.5).square().mean() < 1.8
    row = signs.abs().argmax(0)
    assert abs((row[1:] == row[:-1]).float().mean() - 1 / 64) < 0.002


def test_what_cannot_be_sketched_is_refused():
    a, b = activations()
    for size in ({"n_a": 0}, {"rows": 0}, {"rows": 1.5}):
        with pytest.raises(ValueError, match="at least 1"):
            PairSketch(**{"n_a": 1, "n_b": 1, "rows": 1} | size)
    sketch = PairSketch(N_A, N_B, 8)
    with pytest.raises(ValueError, match="at least 2 positions"):
        sketch.estimators()
    with pytest.raises(ValueError, match="expected"):
        sketch.update(b, a)
    a[5, 2] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity in the activations of neuron 2"):
        sketch.update(a, b)
