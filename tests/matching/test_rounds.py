"""Rounds add up, are kept in files that say what made them, and lead to the same pairs however the text is cut."""

from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rosetta.matching.chosen import Chosen, Known, Rectangle
from rosetta.matching.correlation import PearsonAccumulator
from rosetta.matching.mutual import match_table, matching
from rosetta.matching.nearest import Table
from rosetta.matching.rounds import Twins, run
from rosetta.matching.sketch import PairSketch

N_A, N_B, POSITIONS = 24, 20, 400


def activations(seed=0):
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((POSITIONS, 10))
    a, b = (
        np.tanh(latent @ rng.standard_normal((10, n))) + 0.3 * rng.standard_normal((POSITIONS, n)) for n in (N_A, N_B)
    )
    a[:, -1] = 0.5
    return torch.from_numpy(5 + a).float(), torch.from_numpy(b).float()


A, B = activations()
KEPT = np.random.default_rng(1).random(POSITIONS) < 0.6


def chosen():
    moments = PearsonAccumulator(N_A, N_B)
    moments.update(A, B)
    rectangles = [Rectangle(np.arange(5), np.arange(2, 9)), Rectangle(np.array([7]), np.arange(N_B))]
    return Chosen(moments.a, moments.b, np.array([0, 0, 3, 11]), np.array([1, 19, 3, 0]), rectangles)


def table(twin=False):
    return Table(N_A, N_B, slice(2, 20), slice(0, 15), "cpu", twin=twin)


ROUNDS = {
    "sketch": partial(PairSketch, N_A, N_B, 32, 2),
    "table": table,
    "twin table": partial(table, True),
    "chosen": chosen,
    "twins": lambda: Twins(chosen(), PairSketch(N_A, N_B, 16)),
}


def fill(empty, cuts=(), part=slice(0, POSITIONS)):
    start, stop = part.start, part.stop
    for i, j in pairwise((start, *sorted(cut for cut in cuts if start < cut < stop), stop)):
        empty.update(A[i:j], B[i:j], np.arange(i, j) * 7, KEPT[i:j])
    return empty


def said(round_):
    """What a round tells: correlations, whatever its units are."""
    if isinstance(round_, Twins):
        return [*said(round_.whole), *said(round_.part)]
    if isinstance(round_, PairSketch):
        a, b = round_.estimators()
        return [a.unit @ b.unit.T]
    if isinstance(round_, Table):
        return [sums.correlation().nan_to_num(-2) for _, sums in round_.whole_and_part()]
    return [round_.r, *round_.tables]


def assert_said(one, other, atol=1e-5):
    for mine, others in zip(said(one), said(other), strict=True):
        torch.testing.assert_close(mine, others, atol=atol, rtol=0)


@pytest.mark.parametrize("make", ROUNDS.values(), ids=ROUNDS)
@given(cuts=st.lists(st.integers(1, POSITIONS - 1), max_size=4), order=st.randoms(use_true_random=False))
@settings(max_examples=15)
def test_parts_add_up_in_any_order(make, cuts, order):
    parts = [fill(make(), part=slice(i, j)) for i, j in pairwise((0, *sorted({*cuts}), POSITIONS))]
    order.shuffle(parts)
    joined = make()
    for part in parts:
        joined.join(part)
    assert sorted(joined.keys) == [7 * i for i in range(POSITIONS)]
    assert_said(joined, fill(make()))


@pytest.mark.parametrize("make", ROUNDS.values(), ids=ROUNDS)
def test_a_saved_round_comes_back_to_the_bit_and_can_go_on(make, tmp_path):
    part = fill(make(), (100, 250), slice(0, 300))
    part.save(tmp_path / "part", shard=[0, 2])
    back = make().restore(tmp_path / "part", shard=[0, 2])
    for name, tensor in part.tensors().items():
        torch.testing.assert_close(back.tensors()[name], tensor, rtol=0, atol=0, equal_nan=True)
    assert_said(fill(back, part=slice(300, POSITIONS)), fill(make()))


@pytest.mark.parametrize("make", ROUNDS.values(), ids=ROUNDS)
def test_a_shard_without_positions_comes_back_too(make, tmp_path):
    make().save(tmp_path / "empty")
    joined = fill(make())
    joined.join(make().restore(tmp_path / "empty"))
    assert_said(joined, fill(make()), atol=0)


def test_correlations_are_numpys():
    r = np.corrcoef(A.double().T, B.double().T)[:N_A, N_A:]
    filled = fill(chosen(), (33, 170))
    np.testing.assert_allclose(filled.r, r[filled.u, filled.v], atol=1e-6)
    known = Known((np.ones(N_A, bool), np.ones(N_B, bool)), 3)
    filled.into(known)
    best = known.best(0)
    expected = np.sort(r[7])[::-1][:3]
    np.testing.assert_allclose(best.values[7], expected, atol=1e-6)
    assert best.indices[7].tolist() == (-r[7]).argsort()[:3].tolist()


# ---------------------------------------------------------------------------------------------------------------------
# Whole ways of matching


class Batches(list):
    """Some of the positions in batches, with their keys."""

    def __init__(self, positions, size):
        parts = [positions[i : i + size] for i in range(0, len(positions), size)]
        super().__init__((A[part], B[part]) for part in parts)
        self.keys = positions


def in_shards(rounds, shards, size, folder):
    """As a cluster would: each round's shards are summed apart, and joined from files."""
    positions, empty, number = np.array_split(np.arange(POSITIONS), shards), next(rounds), 0
    while True:
        parts = []
        for i, part in enumerate(positions):
            start = empty if i == 0 else empty.empty()
            parts.append(start)
            for a, b in Batches(part, size):
                n = start.positions
                start.update(a, b, part[n : n + len(a)], KEPT[part[n : n + len(a)]])
            start.save(folder / f"{number}-{i}")
        joined = empty.empty()
        for i in range(shards):
            joined.join(empty.empty().restore(folder / f"{number}-{i}"))
        try:
            empty, number = rounds.send(joined), number + 1
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("twin", [False, True])
@pytest.mark.parametrize("method", ["exact", "bfloat16", "sketch"])
@pytest.mark.parametrize(("shards", "size"), [(1, 100), (2, 64), (5, 400)])
def test_shards_and_batches_change_no_pair(shards, size, method, twin, tmp_path):
    options = {"rows": 256} if method == "sketch" else {}
    layers = ([N_A], [N_B])
    found = in_shards(matching(N_A, N_B, 2, method, twin=twin, **options), shards, size, tmp_path)
    parts = [np.arange(POSITIONS), np.flatnonzero(KEPT)][: 1 + twin]
    for one, part in zip(found, parts, strict=True):
        sharded = match_table(*one, ("a", "b"), layers)
        (alone,) = run(matching(N_A, N_B, 2, "exact"), Batches(part, POSITIONS))
        alone = match_table(*alone, ("a", "b"), layers)
        pd.testing.assert_frame_equal(sharded.drop(columns="correlation"), alone.drop(columns="correlation"))
        np.testing.assert_allclose(sharded.correlation, alone.correlation, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize("make", ROUNDS.values(), ids=ROUNDS)
def test_positions_that_overlap_are_refused(make):
    joined = fill(make(), part=slice(0, 200))
    with pytest.raises(ValueError, match="positions overlap: 1 of 101"):
        joined.join(fill(make(), part=slice(199, 300)))
    assert joined.positions == 200


def test_a_round_of_other_parameters_is_refused_by_name(tmp_path):
    for mine, others, named in (
        (ROUNDS["sketch"], partial(PairSketch, N_A, N_B, 64, 2), "rows"),
        (ROUNDS["sketch"], partial(PairSketch, N_A, N_B, 32, 3), "seed"),
        (table, partial(Table, N_A, N_B, slice(0, 20), slice(0, 15), "cpu"), "tile"),
        (table, ROUNDS["twin table"], "twin"),
        (ROUNDS["chosen"], ROUNDS["sketch"], "round|chosen"),
    ):
        with pytest.raises(ValueError, match=named):
            fill(mine()).join(fill(others()))
        fill(others()).save(tmp_path / "one")
        with pytest.raises(ValueError, match=named):
            mine().restore(tmp_path / "one")
    fill(table()).save(tmp_path / "one", text="another")
    with pytest.raises(ValueError, match="one was made with another run's text 'another', expected 'this'"):
        table().restore(tmp_path / "one", text="this")


def test_a_file_that_is_cut_short_or_something_else_is_refused(tmp_path):
    path = tmp_path / "one"
    fill(table()).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"one cannot be read as a round .*make it again"):
        table().restore(path)
    save_file({"ones": torch.ones(3)}, path)
    with pytest.raises(ValueError, match="no round"):
        table().restore(path)


@pytest.mark.parametrize("keys", [np.arange(3), np.zeros(POSITIONS)])
def test_keys_that_are_not_one_for_each_position_are_refused(keys):
    with pytest.raises(ValueError, match="keys are"):
        table().update(A, B, keys)
