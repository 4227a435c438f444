"""Screening by sketches finds what all correlations find, and refuses what it cannot do."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from rosetta.matching.mutual import match_batches
from rosetta.matching.sketch import screen_and_verify


def models_that_share_features(positions=3000, n_a=60, n_b=50, shared=30, seed=0):
    """Neurons that read a common feature under noise of their own, over uneven batches with large means."""
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(positions, shared, generator=rng)
    a = torch.randn(positions, n_a, generator=rng)
    b = torch.randn(positions, n_b, generator=rng)
    a[:, :shared] += 2 * features
    b[:, :shared] += 2 * features
    a[:, -1], b[:, 0] = 7.0, -1.0  # dead
    cuts = (0, 10, 1000, 1001, positions)
    return [(100 + a[i:j], b[i:j] - 30) for i, j in pairwise(cuts)]


@pytest.mark.parametrize("k", [1, 3])
def test_the_pairs_of_shared_features_are_those_that_all_correlations_give(k):
    batches = models_that_share_features()
    a, b = (torch.cat(side).double().numpy() for side in zip(*batches, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.corrcoef(a.T, b.T)[: a.shape[1], a.shape[1] :]
    table = match_batches(batches, k, "sketch", buckets=512, candidates=20)
    for row in table.itertuples():
        assert row.correlation == pytest.approx(r[row.unit_a, row.unit_b], abs=1e-5)
    strong = {(u, v) for u, v in zip(*np.nonzero(np.nan_to_num(r) > 0.5), strict=True)}
    found = {(row.unit_a, row.unit_b) for row in table[(table.rank_a == 1) & (table.rank_b == 1)].itertuples()}
    assert strong and strong <= found
    assert (table.attrs["dead_a"], table.attrs["dead_b"]) == (1, 1)


def test_with_every_neuron_a_candidate_nothing_can_be_missed():
    batches = models_that_share_features(positions=400)
    exact = match_batches(batches, 2)
    sketched = match_batches(batches, 2, "sketch", buckets=16, candidates=60)
    columns = ["unit_a", "unit_b", "rank_a", "rank_b"]
    assert sorted(map(tuple, exact[columns].to_numpy())) == sorted(map(tuple, sketched[columns].to_numpy()))


def test_fewer_candidates_than_neighbours_are_refused():
    with pytest.raises(ValueError, match="candidates is 2"):
        screen_and_verify(models_that_share_features(100), k=3, candidates=2)


def test_batches_that_can_be_read_once_are_refused():
    with pytest.raises(ValueError, match="twice"):
        screen_and_verify(iter(models_that_share_features(100)))


def test_no_positions_are_refused():
    with pytest.raises(ValueError, match="at least 2 positions"):
        screen_and_verify([(torch.ones(1, 3), torch.ones(1, 2))])
