"""Of equal neurons the lower index is the nearer, whatever the method, the batches and the tiles."""

import numpy as np
import pytest
import torch

from rosetta.matching.equals import Equals
from rosetta.matching.mutual import match_batches, match_thinned
from rosetta.matching.nearest import Table
from rosetta.matching.rounds import Round


def first_of_equals(x: np.ndarray) -> np.ndarray:
    return np.array([(x == x[:, [i]]).all(0).argmax() for i in range(x.shape[1])])


def copies(seed: int, n_a: int = 61, n_b: int = 83, positions: int = 500) -> tuple[torch.Tensor, torch.Tensor]:
    """Related neurons of two models, half of which stand again, once or more, anywhere behind."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((positions, 6))
    sides = [shared @ rng.standard_normal((6, n)) + rng.standard_normal((positions, n)) for n in (n_a, n_b)]
    sides = [side[:, np.r_[: side.shape[1], rng.integers(side.shape[1], size=side.shape[1] // 2)]] for side in sides]
    return tuple(torch.from_numpy(np.ascontiguousarray(side)).float() for side in sides)


def nearest(r: np.ndarray, k: int) -> np.ndarray:
    """bool: who is among the k nearest of each row; of equals the lower index."""
    order = np.lexsort((np.broadcast_to(np.arange(r.shape[1]), r.shape), -r), axis=1)[:, :k]
    near = np.zeros(r.shape, bool)
    np.put_along_axis(near, order, True, axis=1)
    return near


def oracle(a: torch.Tensor, b: torch.Tensor, k: int) -> set[tuple[int, int]]:
    """Mutual neighbours by numpy in float64, in which equal neurons have the very same correlations."""
    firsts = [first_of_equals(side.numpy()) for side in (a, b)]
    r = np.corrcoef(a.double(), b.double(), rowvar=False)[: a.shape[1], a.shape[1] :][np.ix_(*firsts)]
    return set(zip(*np.nonzero(nearest(r, k) & nearest(r.T, k).T), strict=True))


def pairs(table) -> set[tuple[int, int]]:
    return set(zip(table.unit_a, table.unit_b, strict=True))


@pytest.mark.parametrize("method", ["exact", "bfloat16", "sketch"])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_of_equal_neurons_the_lower_index_is_nearer(method, k, seed):
    a, b = copies(seed)
    batches = [(a[:130], b[:130]), (a[130:131], b[130:131]), (a[131:], b[131:])]
    assert pairs(match_batches(batches, k, method)) == oracle(a, b, k)


def test_tiles_and_thinned_positions_change_nothing():
    a, b = copies(5)
    kept = np.random.default_rng(0).random(len(a)) < 0.6
    whole, part = match_thinned([(a, b)], kept, 2, memory_bytes=60_000)
    assert whole.attrs["readings"] > 2
    assert pairs(whole) == oracle(a, b, 2) and pairs(part) == oracle(a[kept], b[kept], 2)


@pytest.mark.parametrize("cuts", [(), (1,), (3, 70, 200)])
def test_equals_are_those_of_a_comparison_of_all_positions(cuts):
    rng = np.random.default_rng(1)
    x = rng.integers(0, 3, (300, 40)).astype(np.float32)
    x[:, 20:30], x[:, 30:34] = x[:, :10], 7
    x[299, 20] += 1  # they differ at the last position, or in one bit, or not at all
    x[150, 21] = np.nextafter(x[150, 21], np.float32(9))
    x[10, 22], x[10, 2] = -0.0, 0.0
    parts = np.split(x, cuts)
    at_once, apart = Equals(40), Equals(40)
    for part in parts:
        at_once.update(torch.from_numpy(part))
        alone = Equals(40)
        alone.update(torch.from_numpy(part))
        apart.join(alone.first)
    assert (at_once.first == first_of_equals(x)).all() and (apart.first == first_of_equals(x)).all()
    assert at_once.first[22] == 2 and at_once.first[20] == 20 and at_once.first[21] == 21 and at_once.first[33] == 30


def test_what_a_round_knows_of_equals_is_kept_and_joined(tmp_path):
    a, b = copies(7, 12, 9, 40)
    b = b.clone()
    b[:20, 1] = b[:20, 0]  # equal in the first part only

    def table() -> Round:
        return Table(a.shape[1], b.shape[1], slice(0, a.shape[1]), slice(0, b.shape[1]), "cpu")

    parts = [table(), table()]
    for part, rows, keys in zip(parts, (slice(20), slice(20, 40)), np.split(np.arange(40), 2), strict=True):
        part.update(a[rows], b[rows], keys)
        part.save(tmp_path / f"{keys[0]}.safetensors")
    assert parts[0].equals[1].first[1] == 0
    joined = table()
    for name in (0, 20):
        joined.join(table().restore(tmp_path / f"{name}.safetensors"))
    for equals, side in zip(joined.equals, (a, b), strict=True):
        assert (equals.first == first_of_equals(side.numpy())).all()
