import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rosetta.neurons.views import levels, pieces, shown

TEXT = "x = größer →  y\n"


def contexts_of(*texts, peak=(0, 1), unit=0):
    rows = [(0, unit, rank, text, *peak) for rank, text in enumerate(texts, start=1)]
    return pd.DataFrame(rows, columns=["layer", "unit", "rank", "text", "start", "end"])


def cut_at(text, *cuts):
    """Spans between some bytes of a text."""
    edges = [0, *cuts, len(text.encode())]
    return np.array(list(pairwise(edges)))


def views_of(table):
    return [json.loads(line) for line in table["shown"]]


def test_every_token_has_its_heat_in_every_model_with_its_own_tokens():
    heat = {
        "pythia": {(TEXT, 0, 0): (cut_at(TEXT, 3, 12), np.float32([0.1, 4.0, 2.0]))},
        "opt": {(TEXT, 1, 7): (cut_at(TEXT, 1, 4, 8), np.float32([-1.0, 0.0, 8.0, 1.2]))},
    }
    members = {(0, 0): {"pythia": (0, 0), "opt": (1, 7, 0.9)}}
    (view,) = views_of(shown(contexts_of(TEXT), members, heat))
    assert list(view) == ["pythia", "opt"]
    assert view["pythia"] == [["x =", 0], [" größer", 10], [" →  y\n", 5]]
    assert view["opt"] == [["x = ", 0], ["grö", 10], ["ßer →  y\n", 2]]  # a token that is not above 0 has no heat


def test_heat_is_a_share_of_the_strongest_over_all_that_is_shown_of_the_neuron():
    first, second = "aa", "bb"
    heat = {
        "m": {
            (first, 0, 0): (cut_at(first, 1), np.float32([2, 8])),
            (second, 0, 0): (cut_at(second, 1), np.float32([4, 0])),
        }
    }
    found = views_of(shown(contexts_of(first, second), {(0, 0): {"m": (0, 0)}}, heat))
    assert [view["m"] for view in found] == [[["a", 2], ["a", 10]], [["b", 5], ["b", 0]]]
    cold = {"m": {key: (spans, -acts) for key, (spans, acts) in heat["m"].items()}}
    found = views_of(shown(contexts_of(first, second), {(0, 0): {"m": (0, 0)}}, cold))
    assert [view["m"] for view in found] == [[["aa", 0]], [["bb", 0]]]


def test_a_window_is_of_bytes_around_the_peak_from_character_to_character():
    text = "ä" * 150 + "=" + "→" * 150
    heat = {"m": {(text, 0, 0): (cut_at(text, 10, 300, 301), np.float32([9, 2, 4, 1]))}}  # the strongest is not shown
    contexts = contexts_of(text, peak=(300, 301))
    members = {(0, 0): {"m": (0, 0)}}
    (view,) = views_of(shown(contexts, members, heat))
    assert view["m"] == [["ä" * 100, 5], ["=", 10], ["→" * 67, 2]]
    (view,) = views_of(shown(contexts, members, heat, window=None))
    assert view["m"] == [["ä" * 5, 10], ["ä" * 145, 2], ["=", 4], ["→" * 150, 1]]
    half = contexts.assign(start=3, end=4)  # half a character
    (view,) = views_of(shown(half, members, heat, window=0))
    assert view["m"] == [["ä", 10]]


def test_a_text_that_a_model_could_not_read_has_no_view_of_it():
    heat = {"m": {("a", 0, 0): (cut_at("a"), np.float32([1]))}, "n": {}}
    (view,) = views_of(shown(contexts_of("a"), {(0, 0): {"m": (0, 0), "n": (0, 3)}}, heat))
    assert view == {"m": [["a", 10]]}


def test_rows_are_by_neuron_and_rank_whatever_the_tables_order():
    some = pd.concat([contexts_of("b", "c", unit=1), contexts_of("a")])
    heat = {"m": {(text, 0, unit): (cut_at(text), np.float32([1])) for text, unit in (("a", 0), ("b", 1), ("c", 1))}}
    members = {(0, unit): {"m": (0, unit)} for unit in (0, 1)}
    for seed in range(3):
        table = shown(some.sample(frac=1, random_state=seed), members, heat)
        assert table[["layer", "unit", "rank"]].values.tolist() == [[0, 0, 1], [0, 1, 1], [0, 1, 2]]
        assert [view["m"][0][0] for view in views_of(table)] == ["a", "b", "c"]
    assert list(shown(some[:0], {}, heat)) == ["layer", "unit", "rank", "shown"]


@pytest.mark.parametrize("peak", [(0, 99), (-1, 1), (1, 0)])
def test_a_peak_outside_its_text_is_refused(peak):
    with pytest.raises(ValueError, match=r"L0/U0: bytes .* of a text of 1 bytes"):
        shown(contexts_of("a", peak=peak), {(0, 0): {"m": (0, 0)}}, {"m": {}})


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_pieces_are_the_text_and_each_byte_has_the_heat_of_its_token_or_its_characters_hottest(data):
    text = data.draw(st.text("aä→😀", min_size=1, max_size=12))
    raw = text.encode()
    edges = sorted(data.draw(st.sets(st.integers(0, len(raw)), min_size=2))) if len(raw) > 1 else [0, 1]
    spans = np.array(list(pairwise(edges)))
    heat = np.array([data.draw(st.integers(0, 10)) for _ in spans])
    starts = [i for i, byte in enumerate(raw) if byte & 0b1100_0000 != 0b1000_0000] + [len(raw)]
    begin, end = sorted(data.draw(st.tuples(*[st.sampled_from(starts)] * 2)))
    found = pieces(raw, spans, heat, begin, end)
    assert "".join(piece for piece, _ in found) == raw[begin:end].decode()
    of_byte = np.zeros(len(raw), int)
    for (start, stop), level in zip(spans, heat, strict=True):
        of_byte[start:stop] = level
    given_to = np.concatenate([np.full(len(piece.encode()), level) for piece, level in found]) if found else []
    for first, last in pairwise(starts):
        if begin <= first < end:
            assert given_to[first - begin] >= of_byte[first:last].max()  # more only where tokens share characters
            if set(edges) <= set(starts):
                assert (given_to[first - begin : last - begin] == of_byte[first:last]).all()
    assert not any(a == b == 0 for (_, a), (_, b) in pairwise(found))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1))
def test_levels_are_tenths_of_the_strongest(values):
    acts = np.array(values)
    expected = [round(10 * max(a, 0) / acts.max()) if acts.max() > 0 else 0 for a in values]
    found = levels(acts, float(acts.max()))
    assert np.abs(found - expected).max() <= 1 and found.max() == (10 if acts.max() > 0 else 0)
    assert levels(np.array([np.nan, 1.0]), 1.0).tolist() == [0, 10]
