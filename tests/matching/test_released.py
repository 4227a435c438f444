import copy
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rosetta.matching.mutual import COLUMNS, collapse, top_k
from rosetta.matching.released import compare, read_released, read_released_anchors, write_released

MODELS = ("one", "two")
LAYERS = {"one": [8, 16], "two": [16, 16, 4]}
#: Two pairs, in the keys of each half of the release.
TEXT = [
    {"model1_layer": 0, "model1_neuron": 7, "model2_layer": 2, "model2_neuron": 3, "correlation": 0.5,
     "rank_in_model1": 1, "rank_in_model2": 2},
    {"model1_layer": 1, "model1_neuron": 15, "model2_layer": 0, "model2_neuron": 0, "correlation": 0.75,
     "rank_in_model1": 1, "rank_in_model2": 1},
]  # fmt: skip
IMAGES = [
    {"pmf_layer_idx": one["model1_layer"], "pmf_layer": "blocks.x", "pmf_neuron": one["model1_neuron"],
     "disc_layer_idx": one["model2_layer"], "disc_layer": "resblocks.y", "disc_neuron": one["model2_neuron"],
     "correlation": one["correlation"], "rank_in_pmf": one["rank_in_model1"], "rank_in_disc": one["rank_in_model2"]}
    for one in TEXT
]  # fmt: skip
ANCHORS = [
    {"model1_layer": 1, "model1_neuron": 3, "avg_correlation": 0.6, "per_model": [
        {"model": "two", "model2_layer": 0, "model2_neuron": 5, "correlation": 0.5},
        {"model": "three", "model2_layer": 9, "model2_neuron": 6, "correlation": 0.7},
    ]},
    {"model1_layer": 0, "model1_neuron": 4, "avg_correlation": 0.25, "per_model": [
        {"model": "two", "model2_layer": 2, "model2_neuron": 1, "correlation": 0.125},
        {"model": "three", "model2_layer": 0, "model2_neuron": 2, "correlation": 0.375},
    ]},
]  # fmt: skip


def written(folder, content):
    path = folder / "best_buddies.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("records", [TEXT, IMAGES], ids=["text", "images"])
@pytest.mark.parametrize("first_rank", [1, 0])
def test_a_released_list_is_a_match_table_whatever_its_ranks_count_from(tmp_path, records, first_rank):
    records = [
        {key: value - (1 - first_rank) * key.startswith("rank_") if key.startswith("rank_") else value for key, value in one.items()}
        for one in records
    ]  # fmt: skip
    table = read_released(written(tmp_path, records), MODELS, LAYERS)
    assert list(table) == COLUMNS and table.attrs == {"released": "best_buddies.json", "neurons_a": 24, "neurons_b": 36}
    assert table.values.tolist() == [["one", 1, 15, "two", 0, 0, 0.75, 1, 1], ["one", 0, 7, "two", 2, 3, 0.5, 1, 2]]
    assert top_k(table, 1)["unit_a"].tolist() == [15]


NEURON = st.tuples(st.integers(0, 3), st.integers(0, 9))


@st.composite
def match_tables(draw, models=("one", "two")):
    pairs = draw(st.lists(st.tuples(NEURON, NEURON), unique=True, max_size=20))
    r = draw(st.lists(st.integers(-8, 8), min_size=len(pairs), max_size=len(pairs)))
    rows = [
        (models[0], *a, models[1], *b, np.float32(i / 8), draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        for (a, b), i in zip(pairs, r, strict=True)
    ]
    table = pd.DataFrame(rows, columns=COLUMNS).sort_values(["correlation", "layer_a", "unit_a", "layer_b", "unit_b"],
        ascending=[False] + [True] * 4, ignore_index=True)  # fmt: skip
    return table.astype({"correlation": "float32"})


@settings(max_examples=40)
@given(table=match_tables())
def test_what_is_written_is_read_back(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("written") / "list.json"
    write_released(table, path)
    read = read_released(path, MODELS)
    pd.testing.assert_frame_equal(read, table, check_dtype=len(table) > 0)
    records = json.loads(path.read_text())
    assert all(set(one) == set(TEXT[0]) for one in records) and len(records) == len(table)


def by_hand(table, k):
    return {
        ((m.layer_a, m.unit_a), (m.layer_b, m.unit_b)): m.correlation
        for m in table.itertuples()
        if max(m.rank_a, m.rank_b) <= k
    }


@settings(max_examples=40)
@given(ours=match_tables(), theirs=match_tables(), k=st.integers(1, 3), exchange=st.booleans())
def test_two_lists_compared_are_two_sets_compared(ours, theirs, k, exchange):
    mine, other = by_hand(ours, k), by_hand(theirs, k)
    if exchange and len(ours):  # an empty list does not tell which model comes first
        names = {
            f"{what}_{side}": f"{what}_{'ba'['ab'.index(side)]}"
            for what in ("model", "layer", "unit", "rank")
            for side in "ab"
        }
        theirs = theirs.rename(columns=names)[COLUMNS]
    found = compare(ours, theirs, k)
    both = sorted(mine.keys() & other.keys())
    assert (found.ours, found.theirs, len(found.shared)) == (len(mine), len(other), len(both))
    assert found.jaccard == pytest.approx(len(both) / len(mine | other) if mine | other else math.nan, nan_ok=True)
    pairs = {
        ((m.layer_a, m.unit_a), (m.layer_b, m.unit_b)): (m.correlation_ours, m.correlation_theirs)
        for m in found.shared.itertuples()
    }
    assert pairs == {pair: (mine[pair], other[pair]) for pair in both}
    x, y = [mine[pair] for pair in both], [other[pair] for pair in both]
    if len({*x}) > 1 and len({*y}) > 1:
        assert found.rank_correlation == pytest.approx(stats.spearmanr(x, y).statistic)
    else:
        assert math.isnan(found.rank_correlation)
    for (a, b), row in found.layers.iterrows():
        of = [sum(one[0] == a and two[0] == b for one, two in some) for some in (mine, other, both)]
        assert row[["ours", "theirs", "shared"]].tolist() == of
    spread = found.layers.unstack(fill_value=0)
    assert spread.index.is_monotonic_increasing and found.layers.index.is_monotonic_increasing
    assert found.layers[["ours", "theirs"]].sum().tolist() == [len(mine), len(other)]


def test_lists_about_other_models_are_not_compared(tmp_path):
    ours, theirs = (
        read_released(written(tmp_path, TEXT), MODELS),
        read_released(written(tmp_path, TEXT), ("one", "three")),
    )
    with pytest.raises(ValueError, match="ours matches one with two, theirs one with three"):
        compare(ours, theirs)
    with pytest.raises(ValueError, match="a table matches 2 pairs of models"):
        compare(pd.concat([ours, theirs]), ours)
    assert compare(ours, theirs[:0]).jaccard == 0


def test_a_model_beside_itself_is_compared_as_it_stands():
    table = pd.DataFrame([("m", 0, 1, "m", 0, 2, 0.5, 1, 1)], columns=COLUMNS)
    assert compare(table, table).jaccard == 1


def test_a_list_of_top_k_is_cut_to_the_papers_count():
    rows = [("one", 0, i, "two", 0, i, 0.9 - i / 10, rank, 1) for i, rank in enumerate((1, 1, 5, 10))]
    ten = pd.DataFrame(rows, columns=COLUMNS)
    assert compare(ten[:2], ten).theirs == 2 and compare(ten[:2], ten, k=10).theirs == 4


def test_released_anchors_are_what_collapsing_the_released_pairs_gives(tmp_path):
    anchors = read_released_anchors(written(tmp_path, ANCHORS), "one", LAYERS)
    assert anchors.values.tolist() == [
        ["one", 1, 3, 0.6, "two", 0, 5, 0.5], ["one", 1, 3, 0.6, "three", 9, 6, 0.7],
        ["one", 0, 4, 0.25, "two", 2, 1, 0.125], ["one", 0, 4, 0.25, "three", 0, 2, 0.375],
    ]  # fmt: skip
    tables = [
        pd.DataFrame(
            [
                ("one", m.layer, m.unit, other, m.other_layer, m.other_unit, m.correlation, 1, 1)
                for m in of.itertuples()
            ],
            columns=COLUMNS,
        )
        for other, of in anchors.groupby("other")
    ]
    neurons = anchors[["model", "layer", "unit"]].drop_duplicates().sort_values(["layer", "unit"], ignore_index=True)
    pd.testing.assert_frame_equal(collapse(tables, "one"), neurons)
    assert len(read_released_anchors(written(tmp_path, []), "one")) == 0


# ---------------------------------------------------------------------------------------------------------------------
# Bad input


def without(records, key, at=1):
    changed = copy.deepcopy(records)
    del changed[at][key]
    return changed


def with_value(key, value, at=1):
    changed = copy.deepcopy(TEXT)
    changed[at][key] = value
    return changed


BAD = {
    "not JSON": ("[{", r"best_buddies\.json is not JSON"),
    "nothing": ("", "is not JSON"),
    "an object": ({"pairs": TEXT}, "holds dict; it must be a list of objects"),
    "a list of lists": ([[1, 2]], "holds a list of other things"),
    "nested without end": ("[" * 100_000, "is not JSON"),
    **{f"no {key}": (without(TEXT, key), f"pair 1 has no {key}; it has model") for key in TEXT[0]},
    "no disc_neuron": ([{k: v for k, v in one.items() if k != "disc_neuron"} for one in IMAGES], "pair 0 has no model1_"),
    "an empty object": ([{}], "pair 0 has no model1_layer; it has nothing"),
    "a layer by name": (with_value("model1_layer", "layers.3"), "model1_layer is 'layers.3'"),
    "a negative neuron": (with_value("model2_neuron", -1), "model2_neuron is -1"),
    "a broken neuron": (with_value("model2_neuron", 1.5), r"model2_neuron is 1\.5"),
    "a truth": (with_value("model2_neuron", True), "model2_neuron is True"),
    "a huge neuron": (with_value("model2_neuron", 10**30), "model2_neuron is 10000"),
    "a negative rank": (with_value("rank_in_model2", -1), "rank_in_model2 is -1"),
    "a layer that is not there": (with_value("model1_layer", 2), "model1_layer is 2; one has 2 layers"),
    "a neuron that is not there": (with_value("model2_neuron", 16), "model2_neuron is 16; layer 0 of two has 16 neurons"),
    "r is not a number": (with_value("correlation", math.nan), "pair 1: correlation is nan"),
    "r is a text": (with_value("correlation", "0.5"), "correlation is '0.5'"),
    "r is out of range": (with_value("correlation", 1.5), r"correlation is 1\.5; it must be a number from -1 to 1"),
    "a pair twice": ([*TEXT, TEXT[0]], "pair 2: these two neurons are a pair before already"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_released_list_is_refused_by_name(tmp_path, case):
    content, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        read_released(written(tmp_path, content), MODELS, LAYERS)


@pytest.mark.parametrize("models", [("one",), ("one", "two", "three"), ("one", None)])
def test_the_names_of_the_two_models_are_asked_for(tmp_path, models):
    with pytest.raises(ValueError, match="models is"):
        read_released(written(tmp_path, TEXT), models)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_released(tmp_path / "nowhere.json", MODELS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one.pop("per_model"), "anchor 1 has no per_model"),
        (lambda one: one.pop("avg_correlation"), "anchor 1 has no avg_correlation"),
        (lambda one: one.update(per_model=[]), "anchor 1: per_model must be a list of objects"),
        (lambda one: one.update(per_model={"two": 1}), "per_model must be a list of objects"),
        (lambda one: one["per_model"][0].pop("model"), "anchor 1 has no model; it has model2_layer"),
        (lambda one: one["per_model"][0].update(model=["two"]), r"model is \['two'\]"),
        (lambda one: one["per_model"][1].pop("correlation"), "anchor 1, three has no correlation"),
        (
            lambda one: one["per_model"][0].update(model2_neuron=99),
            "anchor 1, two: model2_neuron is 99; layer 2 of two",
        ),
        (lambda one: one.update(model1_neuron=8), "anchor 1: model1_neuron is 8; layer 0 of one has 8 neurons"),
    ],
)
def test_what_is_no_list_of_anchors_is_refused_by_name(tmp_path, change, message):
    records = copy.deepcopy(ANCHORS)
    change(records[1])
    with pytest.raises(ValueError, match=message):
        read_released_anchors(written(tmp_path, records), "one", LAYERS)
