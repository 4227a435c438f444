import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rosetta.matching.mutual import (
    COLUMNS,
    collapse,
    locate,
    match_batches,
    match_thinned,
    matched_neurons,
    mutual_nearest,
    top_k,
)
from rosetta.results import keep


def rank_by_hand(values, candidate):
    """1 + how many are nearer: those more similar, and those as similar with a lower index."""
    mine = values[candidate]
    return 1 + sum(v > mine or (v == mine and i < candidate) for i, v in enumerate(values) if not np.isnan(v))


def mutual_by_hand(corr, k):
    corr = np.asarray(corr, dtype=np.float64)
    found = []
    for u in range(corr.shape[0]):
        for v in range(corr.shape[1]):
            if np.isnan(corr[u, v]):
                continue
            ranks = rank_by_hand(corr[u], v), rank_by_hand(corr[:, v], u)
            if max(ranks) <= k:
                found.append((u, v, *ranks))
    return found


@st.composite
def tables(draw):
    n_a, n_b = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    # Few levels, so that ties are common.
    values = draw(
        st.lists(st.sampled_from([-1.0, -0.25, 0.0, 0.5, 0.75, 1.0, np.nan]), min_size=n_a * n_b, max_size=n_a * n_b)
    )
    return torch.tensor(values).view(n_a, n_b)


@settings(max_examples=150, deadline=None)
@given(corr=tables(), k=st.integers(1, 11))
def test_mutual_nearest_is_the_double_loop_with_ties_and_nan(corr, k):
    pairs = mutual_nearest(corr, k)
    assert pairs.dtype == torch.int64 and pairs.shape[1] == 2
    assert pairs.tolist() == [[u, v] for u, v, _, _ in mutual_by_hand(corr, k)]


@pytest.mark.parametrize("k", [1, 2, 5, 40])
def test_mutual_nearest_is_the_double_loop_on_continuous_similarities(k):
    corr = torch.rand(31, 23, generator=torch.Generator().manual_seed(k)) * 2 - 1
    corr[3], corr[:, 7] = torch.nan, torch.nan
    assert mutual_nearest(corr, k).tolist() == [[u, v] for u, v, _, _ in mutual_by_hand(corr, k)]


def test_of_equal_similarities_the_lower_index_is_nearer():
    assert mutual_nearest(torch.ones(3, 4)).tolist() == [[0, 0]]
    assert mutual_nearest(torch.tensor([[0.1, 0.9, 0.9], [0.3, 0.9, 0.2]])).tolist() == [[0, 1]]


def test_dead_neurons_never_match_even_when_all_are_dead():
    assert mutual_nearest(torch.full((3, 3), torch.nan), k=2).shape == (0, 2)


def test_mutual_nearest_leaves_its_input_alone():
    corr = torch.tensor([[0.5, torch.nan], [0.1, 0.2]])
    before = corr.clone()
    mutual_nearest(corr, 2)
    torch.testing.assert_close(corr, before, equal_nan=True, rtol=0, atol=0)


def test_k_below_one_and_anything_but_a_table_are_refused():
    with pytest.raises(ValueError, match="k is 0"):
        mutual_nearest(torch.zeros(2, 2), 0)
    with pytest.raises(ValueError, match="expected"):
        mutual_nearest(torch.zeros(4))


# ---------------------------------------------------------------------------------------------------------------------
# Matching batches

LAYERS = ([5, 11, 2], [7, 9])
N_A, N_B = 18, 16


def some_batches(seed=0, dead=True):
    """Uneven batches of related neurons, among them two dead ones in A and one in B."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((700, 8))
    a, b = (shared @ rng.standard_normal((8, n)) + 0.5 * rng.standard_normal((700, n)) for n in (N_A, N_B))
    if dead:
        a[:, [2, 17]], b[:, 4] = 0.25, 0
    cuts = [1, 300, 305, 600]
    return [
        tuple(torch.from_numpy(x).float() for x in pair)
        for pair in zip(np.split(a, cuts), np.split(b, cuts), strict=True)
    ]


def corrcoef(batches):
    a, b = (torch.cat(side).double().numpy() for side in zip(*batches, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.corrcoef(a, b, rowvar=False)[:N_A, N_A:]


def layer_and_unit(neuron, layers):
    for layer, width in enumerate(layers):
        if neuron < width:
            return layer, neuron
        neuron -= width


class Counted(list):
    """Batches that count how often they are read."""

    readings = 0

    def __iter__(self):
        yield from super().__iter__()
        self.readings += 1  # to the end, that is


@pytest.mark.parametrize("k", [1, 3, 50])
@pytest.mark.parametrize("memory", [2**30, 16 * 40, 16 * 7])
def test_a_match_table_holds_the_mutual_neighbours_of_numpys_correlations(k, memory):
    batches = Counted(some_batches())
    table = match_batches(batches, k, names=("small", "large"), layers=LAYERS, memory_bytes=memory)
    readings = batches.readings
    corr = corrcoef(batches)
    expected = sorted(mutual_by_hand(corr, k), key=lambda row: -corr[row[0], row[1]])
    assert list(table.columns) == COLUMNS
    assert len(table) == len(expected) > 0
    for row, (u, v, rank_a, rank_b) in zip(table.itertuples(), expected, strict=True):
        assert (row.model_a, row.layer_a, row.unit_a) == ("small", *layer_and_unit(u, LAYERS[0]))
        assert (row.model_b, row.layer_b, row.unit_b) == ("large", *layer_and_unit(v, LAYERS[1]))
        assert (row.rank_a, row.rank_b) == (rank_a, rank_b)
        assert row.correlation == pytest.approx(corr[u, v], abs=1e-5)
    assert (np.diff(table.correlation) <= 0).all()
    facts = {"neurons_a": 18, "neurons_b": 16, "positions": 700, "dead_a": 2, "dead_b": 1}
    assert table.attrs == facts | {"method": "exact", "readings": readings}
    assert (readings == 1) == (memory == 2**30)


def test_tiles_change_nothing():
    whole = match_batches(some_batches(), 4, layers=LAYERS)
    for memory in (16, 16 * 5, 16 * 100):
        tiled = match_batches(some_batches(), 4, layers=LAYERS, memory_bytes=memory)
        pd.testing.assert_frame_equal(tiled, whole, check_exact=False, atol=1e-6)


def test_ties_across_tiles_go_to_the_lower_index():
    column = torch.randn(50, 1, generator=torch.Generator().manual_seed(0))
    batches = [(column.repeat(1, 6), column.repeat(1, 5))]
    for memory in (16, 16 * 4, 2**20):
        table = match_batches(batches, 2, memory_bytes=memory)
        assert set(zip(table.unit_a, table.unit_b, strict=True)) == {(0, 0), (0, 1), (1, 0), (1, 1)}


class Named(list):
    names, layers = ("first", "second"), LAYERS


def test_names_and_layers_come_from_the_batches():
    table = match_batches(Named(some_batches()))
    assert set(table.model_a) == {"first"} and set(table.model_b) == {"second"}
    pd.testing.assert_frame_equal(table, match_batches(some_batches(), names=Named.names, layers=LAYERS))


def test_batches_that_can_be_read_once_are_enough_for_one_tile_but_not_for_several():
    whole = match_batches(some_batches(), layers=LAYERS)
    pd.testing.assert_frame_equal(match_batches(iter(some_batches()), layers=LAYERS), whole)
    with pytest.raises(ValueError, match="read only once"):
        match_batches(iter(some_batches()), layers=LAYERS, memory_bytes=16 * 10)
    without_layers = match_batches(iter(some_batches()), memory_bytes=16 * 10)
    assert set(without_layers.layer_a) == {0} and len(without_layers) == len(whole)


@pytest.mark.parametrize("batches", [[], iter([]), [(torch.zeros(1, 3), torch.zeros(1, 2))]])
def test_batches_that_hold_nothing_to_correlate_are_refused(batches):
    with pytest.raises(ValueError, match=r"nothing to match|at least 2 positions"):
        match_batches(batches)


def test_no_batches_are_refused_when_the_layers_are_known():
    with pytest.raises(ValueError, match="at least 2 positions"):
        match_batches([], layers=LAYERS)


def test_layers_that_do_not_fit_the_batches_are_refused():
    for layers in (([5, 11, 3], [7, 9]), ([5, 11, 1], [7, 9]), ([5, 11, 2], [16, 1])):
        for memory in (2**20, 16 * 10):
            with pytest.raises(ValueError, match="expected"):
                match_batches(some_batches(), layers=layers, memory_bytes=memory)


def test_an_unknown_method_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"'fast'.*auto, exact, bfloat16, sketch"):
        match_batches(some_batches(), method="fast")


def test_a_match_table_may_be_empty():
    table = match_batches([(torch.zeros(5, 3), torch.randn(5, 2))], names=("a", "b"))
    assert len(table) == 0 and list(table.columns) == COLUMNS and table.attrs["dead_a"] == 3


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_top_k_of_a_larger_table_is_what_matching_with_k_finds(k):
    part, direct = top_k(match_batches(some_batches(), 9), k), match_batches(some_batches(), k)
    pd.testing.assert_frame_equal(part, direct)
    assert part.attrs == direct.attrs


def test_a_kept_match_table_comes_back_with_its_facts(tmp_path):
    table = match_batches(some_batches(), 3, names=("small", "large"), layers=LAYERS)
    kept = keep(tmp_path / "pair.parquet", {"k": 3}, lambda: table)
    pd.testing.assert_frame_equal(kept, table)
    assert kept.attrs == table.attrs
    again = keep(tmp_path / "pair.parquet", {"k": 3}, lambda: pytest.fail("made a second time"))
    pd.testing.assert_frame_equal(again, table)


@given(layers=st.lists(st.integers(1, 7), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_every_neuron_is_located_in_its_layer(layers):
    layer, unit = locate(np.arange(sum(layers)), layers)
    assert list(zip(layer, unit, strict=True)) == [(i, u) for i, width in enumerate(layers) for u in range(width)]


# ---------------------------------------------------------------------------------------------------------------------
# Collapse


def table_of(anchor, other, neurons, side="a"):
    frame = pd.DataFrame({"layer_a": [n[0] for n in neurons], "unit_a": [n[1] for n in neurons]}, dtype="int64")
    frame["layer_b"], frame["unit_b"] = 0, range(len(neurons))
    frame["model_a"], frame["model_b"] = anchor, other
    if side == "b":
        frame = frame.rename(columns=lambda name: name[:-1] + {"a": "b", "b": "a"}[name[-1]])
    return frame.assign(correlation=0.5, rank_a=1, rank_b=1)[COLUMNS]


neuron_lists = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), max_size=25)


@given(
    lists=st.lists(neuron_lists, min_size=1, max_size=4), sides=st.lists(st.sampled_from("ab"), min_size=4, max_size=4)
)
@settings(max_examples=60, deadline=None)
def test_collapse_is_the_intersection_of_the_anchors_matched_neurons(lists, sides):
    tables = [
        table_of("anchor", f"other {i}", one, side) for i, (one, side) in enumerate(zip(lists, sides, strict=False))
    ]
    collapsed = collapse(tables, "anchor")
    assert list(collapsed.columns) == ["model", "layer", "unit"]
    expected = sorted(set.intersection(*(set(one) for one in lists)))
    assert list(zip(collapsed.layer, collapsed.unit, strict=True)) == expected
    assert set(collapsed.model) <= {"anchor"}


def test_the_matched_neurons_of_either_side_once_each():
    table = table_of("left", "right", [(1, 5), (0, 3), (1, 5)])
    assert set(matched_neurons(table, "left")) == {(1, 5), (0, 3)} and len(matched_neurons(table, "left")) == 2
    assert list(matched_neurons(table, "right")) == [(0, 0), (0, 1), (0, 2)]


def test_a_model_that_a_table_does_not_hold_is_refused_with_those_it_does():
    table = table_of("left", "right", [(0, 1)])
    with pytest.raises(ValueError, match=r"'middle'.*'left' and 'right'"):
        matched_neurons(table, "middle")
    with pytest.raises(ValueError, match="no tables"):
        collapse([], "left")


# ---------------------------------------------------------------------------------------------------------------------
# Over all positions, and over some of them


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), sizes=st.lists(st.integers(1, 40), min_size=2, max_size=6), share=st.floats(0.2, 0.9)
)
def test_both_tables_at_once_are_those_of_two_separate_matches(seed, sizes, share):
    rng = np.random.default_rng(seed)
    a, b = (torch.from_numpy(rng.standard_normal((sum(sizes) + 10, n))).float() for n in (9, 7))
    kept = rng.random(len(a)) < share
    kept[:5] = True
    sizes = [*sizes, 10]
    batches = list(zip(a.split(sizes), b.split(sizes), strict=True))
    of_all, of_kept = match_thinned(batches, kept, k=2, memory_bytes=20 * 30)  # 30 cells of 5 tables: several tiles
    for table, rows in ((of_all, np.ones(len(a), bool)), (of_kept, kept)):
        alone = match_batches([(a[rows], b[rows])], k=2)
        pd.testing.assert_frame_equal(table.drop(columns="correlation"), alone.drop(columns="correlation"))
        np.testing.assert_allclose(table.correlation, alone.correlation, atol=1e-5)
        assert table.attrs | {"readings": 1} == alone.attrs and table.attrs["positions"] == rows.sum()


@pytest.mark.parametrize("positions", [9, 11])
def test_a_mask_of_another_length_is_refused(positions):
    batches = [(torch.randn(5, 3), torch.randn(5, 3)) for _ in range(2)]
    with pytest.raises(ValueError, match=f"kept is for {positions} positions; the batches hold 10"):
        match_thinned(batches, np.ones(positions, bool))
