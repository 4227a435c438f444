import json
import re
from collections import Counter
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import MANY_SCRIPTS, OTHER, PAIR, edited, write_profile
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from rosetta import models
from rosetta.matching.alignment import token_byte_spans
from rosetta.matching.mutual import COLUMNS, collapse, matched_neurons, top_k
from rosetta.neurons import labels
from rosetta.studies import explorer, properties
from rosetta.studies.matches import Study
from rosetta.viewer import page as viewer

PYTHIA, OPT, GPT2 = "pythia-32x2", "opt-32x2", "gpt2-32x2"
POINT = (OPT, PYTHIA, GPT2)
HOSTILE = '</script><script>alert("own")</script><!-- <b onclick=x> & &lt; {{data}} \u2028 漢字 👩‍👩‍👧‍👦 '
SILENT, DEAD = (0, 3), (0, 4)


def quietened(tensors) -> None:
    """One neuron stays below zero, where GELU is negative, and one never changes."""
    weight, bias = (tensors[f"gpt_neox.layers.0.mlp.dense_h_to_4h.{part}"] for part in ("weight", "bias"))
    for (_, unit), scale in ((SILENT, 0.01), (DEAD, 0.0)):
        weight[unit] *= scale
        bias[unit] = -1.0


def one_layer(tensors) -> None:
    for name in [name for name in tensors if "layers.1." in name]:
        del tensors[name]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, library):
    """Source, many scripts, and text that would end a script."""
    path = tmp_path_factory.mktemp("hostile") / "corpus.jsonl"
    code = [{"text": json.loads(line)["text"], "category": "code"} for line in library.read_text().splitlines()[:30]]
    texts = [(HOSTILE * 2 + str(i)) for i in range(5)] + [f"{i} {MANY_SCRIPTS}" for i in range(5)]
    rows = code + [{"text": text, "subset": "<i>chat</i>", "category": "conversational"} for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def studied(folder, corpus, **explored) -> Study:
    """Three families round Pythia: its layer 0 has a silent and a dead neuron, OPT has one layer only."""
    content = yaml.safe_load(write_profile(folder, corpus).read_text())
    if not (folder / "pythia").exists():
        edited(folder / "pythia", PYTHIA, quietened)
        config = edited(folder / "opt", OPT, one_layer) / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 1}))
    content["models"][PYTHIA]["source"] = str(folder / "pythia")
    content["models"][OPT] |= {"source": str(folder / "opt"), "layers": 1}
    content["curves"]["opt-pythia-gpt2"] = [list(POINT)]
    content["explorer"] |= {"point": list(POINT), "contexts": 3, "characters": 100_000} | explored
    content["examples"] |= {"points": [list(POINT)], "neurons": 3, "contexts": 2}
    return Study(write_profile(folder, corpus, **content), folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("explorer")


@pytest.fixture(scope="module")
def study(folder, corpus):
    return studied(folder, corpus)


@pytest.fixture(scope="module")
def neurons(study):
    return explorer.rosetta_neurons(study)


def characters_of(text: str, start: int, end: int) -> list[int]:
    """The characters of which some byte lies in start..end."""
    ends = np.cumsum([len(character.encode()) for character in text])
    return [i for i, last in enumerate(ends) if last > start and last - len(text[i].encode()) < end]


# ---------------------------------------------------------------------------------------------------------------------
# Partners


def table(model_a: str, model_b: str, *rows) -> pd.DataFrame:
    return pd.DataFrame([(model_a, *row[:2], model_b, *row[2:]) for row in rows], columns=COLUMNS)


def test_partners_come_from_either_side_of_any_table_and_first_ranks_only():
    first = table("x", "y", (0, 1, 2, 3, 0.9, 1, 1), (0, 2, 2, 4, 0.8, 1, 2), (1, 7, 0, 0, 0.7, 1, 1))
    second = table("z", "x", (5, 6, 0, 1, 0.6, 1, 1), (5, 7, 3, 3, 0.5, 1, 1), (5, 8, 1, 7, 0.4, 2, 1))
    assert explorer.partners("x", [first, second]) == {
        (0, 1): {"y": (2, 3, 0.9), "z": (5, 6, 0.6)},
        (1, 7): {"y": (0, 0, 0.7)},
        (3, 3): {"z": (5, 7, 0.5)},
    }
    assert explorer.partners("x", []) == {}


matches = st.dictionaries(st.tuples(st.integers(0, 2), st.integers(0, 5)), st.integers(0, 99), max_size=8)


@given(st.dictionaries(st.sampled_from("abcde"), st.tuples(matches, st.booleans())))
def test_partners_do_not_depend_on_the_side_the_anchor_is_on(found):
    tables, expected = [], {}
    for model, (of_model, left) in found.items():
        rows = [
            (*key, 0, unit, unit / 100, 1, 1) if left else (0, unit, *key, unit / 100, 1, 1)
            for key, unit in of_model.items()
        ]
        tables.append(table(*(("anchor", model) if left else (model, "anchor")), *rows))
        for key, unit in of_model.items():
            expected.setdefault(key, {})[model] = (0, unit, unit / 100)
    assert explorer.partners("anchor", tables) == expected


# ---------------------------------------------------------------------------------------------------------------------
# What is known of a neuron


def test_the_anchors_best_matched_neurons_come_first(study, neurons):
    best = {}
    for pair, side in ((PAIR, "a"), (OTHER, "a")):
        rows = study.matches(pair)
        for row in rows[(rows.rank_a == 1) & (rows.rank_b == 1)].itertuples():
            key = getattr(row, f"layer_{side}"), getattr(row, f"unit_{side}")
            best[key] = max(best.get(key, 0), row.correlation)
    shown = [neuron.members[0][1:3] for neuron in neurons]
    assert len(shown) == study.profile.explorer.neurons == 20 < len(best)
    assert [best[key] for key in shown] == sorted(best.values(), reverse=True)[:20]


def test_members_are_the_anchor_and_its_neighbours_with_their_facts(study, neurons):
    matched = {pair[1]: study.matches(pair) for pair in (PAIR, OTHER)}
    seen = Counter()
    for neuron in neurons:
        anchor, *others = neuron.members
        assert anchor.model == PYTHIA and anchor.correlation is None
        assert [m.model for m in others] == [m for m in (OPT, GPT2) if m in {m.model for m in others}]  # as the curves
        for m in others:
            rows = matched[m.model]
            rows = rows[(rows.layer_a == anchor.layer) & (rows.unit_a == anchor.unit) & (rows.rank_a == 1)]
            assert [(m.layer, m.unit, m.correlation)] == [
                *zip(rows.layer_b, rows.unit_b, rows.correlation, strict=True)
            ]
        for m in neuron.members:
            seen[m.model] += 1
            assert m.depth == (0 if m.model == OPT else m.layer)  # of one layer, and of two
            assert m.kurtosis == properties.kurtosis(study, m.model)[m.layer, m.unit]
    assert min(seen[m] for m in POINT) > 3 and {m.layer for n in neurons for m in n.members} == {0, 1}


def test_members_promote_the_tokens_nearest_to_their_weights(study, neurons):
    spec = study.profile.models[PYTHIA]
    tokenizer, tensors = models.load_tokenizer(spec), load_file(f"{spec.location}/model.safetensors")
    unembedding = tensors["embed_out.weight"].astype(np.float64)
    for anchor in (neuron.members[0] for neuron in neurons[:5]):
        direction = tensors[f"gpt_neox.layers.{anchor.layer}.mlp.dense_4h_to_h.weight"][:, anchor.unit]
        nearest = np.argsort(-(unembedding @ direction) / np.linalg.norm(unembedding, axis=1))[:4]
        assert list(anchor.promotes) == [tokenizer.decode([i]) for i in nearest]


def test_labels_and_categories_are_the_labellers(study, neurons):
    found, counts = properties.contexts(study, PYTHIA), properties.token_counts(study, PYTHIA)
    for neuron in neurons:
        _, layer, unit, *_ = neuron.members[0]
        (row,) = labels.offline(found[(found.layer == layer) & (found.unit == unit)], counts).itertuples()
        assert (neuron.label, neuron.category) == (row.summary, row.category)


def test_contexts_are_the_strongest_with_every_members_activations(study, neurons):
    found = properties.contexts(study, PYTHIA)
    readers = {name: study.reader(name) for name in POINT}
    for neuron in neurons[:8]:
        _, layer, unit, *_ = neuron.members[0]
        rows = found[(found.layer == layer) & (found.unit == unit) & (found["rank"] <= 3)]
        assert [c.text for c in neuron.contexts] == list(rows.text)
        for context, row in zip(neuron.contexts, rows.itertuples(), strict=True):
            assert (context.subset, context.category) == (row.subset, row.category)
            assert list(context.heat) == [member.model for member in neuron.members]
            for member in neuron.members:
                expected = alone(readers[member.model], member, context.text, study.profile.context)
                starts, ends, acts = zip(*context.heat[member.model], strict=True)
                assert (starts, ends) == tuple(zip(*[(s, e) for s, e, _ in expected], strict=True))
                np.testing.assert_allclose(acts, [a for _, _, a in expected], rtol=1e-4, atol=1e-5)
            # The anchor reads the window as it did in the search, and peaks where it did.
            start, end, peak = max(context.heat[PYTHIA], key=lambda token: token[2])
            assert (start, end) == context.peak and peak == pytest.approx(row.activation, rel=1e-4)


def alone(reader, member, text: str, context: int) -> list[tuple[int, int, float]]:
    """A neuron's activation on each token of a text that nothing else is read with."""
    ids, spans = token_byte_spans(reader.tokenizer, text)
    room, column = context - len(reader.prefix), member.layer * 128 + member.unit
    acts = np.concatenate([reader.read([ids[i : i + room]])[0][:, column].numpy() for i in range(0, len(ids), room)])
    places = [characters_of(text, start, end) for start, end in spans]
    return [(place[0], place[-1] + 1, act) for place, act in zip(places, acts, strict=True)]


def test_a_neuron_that_never_fires_is_left_out_and_one_without_partners_is_shown_alone(study):
    found = properties.contexts(study, PYTHIA).set_index(["layer", "unit"])
    assert DEAD not in found.index and (found.loc[SILENT].activation <= 0).all()  # it changes, below zero
    shown = explorer.describe(study, PYTHIA, {SILENT: {}, (1, 9): {}, DEAD: {OPT: (0, 1, 0.5)}})
    assert [[member[:3] for member in neuron.members] for neuron in shown] == [[(PYTHIA, 1, 9)]]
    assert explorer.describe(study, PYTHIA, {SILENT: {}, DEAD: {}}) == []
    assert explorer.describe(study, PYTHIA, {}) == []


@pytest.mark.parametrize("characters", [1, 7, 40])
def test_a_context_is_cut_to_the_characters_around_its_peak(folder, corpus, study, characters):
    """Among the neurons are some that peak on the texts of many scripts and on the hostile ones."""
    found = properties.contexts(study, PYTHIA)
    foreign = found[(found["rank"] == 1) & ~found.text.astype(str).map(str.isascii)].head(12)
    keys = list(zip(foreign.layer, foreign.unit, strict=True))
    assert len(keys) > 5
    cut = explorer.describe(studied(folder, corpus, characters=characters), PYTHIA, {key: {} for key in keys})
    whole = explorer.describe(study, PYTHIA, {key: {} for key in keys})
    for context, full in zip(*([c for n in some for c in n.contexts] for some in (cut, whole)), strict=True):
        assert len(context.text) == min(characters, len(full.text)) and context.text in full.text
        at_peak = full.text[slice(*full.peak)]
        shown = context.text[slice(*context.peak)]
        assert shown == at_peak or (len(at_peak) > characters and len(shown) == characters and shown in at_peak)
        assert all(0 <= start < end <= len(context.text) for start, end, _ in context.heat[PYTHIA])


class Row(NamedTuple):
    text: str
    start: int
    end: int
    subset: str = "s"
    category: str = "c"


@settings(deadline=None)
@given(st.data(), st.text(st.sampled_from("ab é漢👍🏽\n"), min_size=1, max_size=40), st.integers(1, 50))
def test_a_cut_moves_the_peak_and_the_heat_by_the_same_characters(data, text, characters):
    """Against a brute-force reading of which characters a token's bytes belong to; tokens may end inside one."""
    size = len(text.encode())
    inner = sorted(data.draw(st.sets(st.integers(1, size - 1), max_size=12))) if size > 1 else []
    spans = np.array([*zip([0, *inner], [*inner, size], strict=True)])
    peak = data.draw(st.integers(0, len(spans) - 1))
    acts = np.arange(len(spans), dtype=np.float32) + 1
    row = Row(text, *map(int, spans[peak]))
    found = explorer._context(row, {"m": (0, 1, None)}, {"m": {(text, 0, 1): (spans, acts)}}, characters)

    whole = characters_of(text, row.start, row.end)
    left = max(0, min((whole[0] + whole[-1] + 1 - characters) // 2, len(text) - characters))
    assert found.text == text[left : left + characters]
    visible = range(left, left + len(found.text))
    at_peak = [i - left for i in whole if i in visible]
    assert (found.peak == (at_peak[0], at_peak[-1] + 1)) and len(at_peak) == min(len(whole), len(found.text))
    expected = []
    for (start, end), act in zip(spans, acts, strict=True):
        if places := [i - left for i in characters_of(text, start, end) if i in visible]:
            expected.append((places[0], places[-1] + 1, act))
    assert found.heat == {"m": expected}


def test_a_model_that_did_not_read_a_text_has_no_heat_on_it():
    row = Row("ab", 0, 1)
    assert explorer._context(row, {"m": (0, 1, None)}, {"m": {}}, 10).heat == {}


# ---------------------------------------------------------------------------------------------------------------------
# A page of examples


def asking(study: Study, **changes) -> Study:
    """The same study with other examples."""
    asked = study.profile.examples.model_copy(update=changes)
    return Study(study.profile.model_copy(update={"examples": asked}), study.folder.parent)


def test_a_page_shows_neurons_that_all_models_of_the_point_share(study):
    tables = [top_k(study.matches(pair), 1) for pair in (PAIR, OTHER)]
    shared = set(collapse(tables, PYTHIA)[["layer", "unit"]].itertuples(index=False, name=None))
    found = properties.contexts(study, PYTHIA)
    fires = set(found[found.activation > 0][["layer", "unit"]].itertuples(index=False, name=None))
    drawn, count = explorer.examples(study, POINT)
    assert count == len(shared & fires) > 6 and len(drawn) == 3
    keys = [neuron.members[0][1:3] for neuron in drawn]
    assert keys == sorted(set(keys)) and set(keys) <= shared & fires
    for neuron, key in zip(drawn, keys, strict=True):
        assert [m.model for m in neuron.members] == [PYTHIA, OPT, GPT2]
        of = found[(found.layer == key[0]) & (found.unit == key[1])].sort_values("rank").head(2)
        assert [c.text for c in neuron.contexts] == list(of.text)


def test_a_page_of_a_pair_shows_what_the_pair_shares(study):
    drawn, count = explorer.examples(asking(study, neurons=1_000), PAIR)
    assert len(drawn) == count == len(matched_neurons(top_k(study.matches(PAIR), 1), PYTHIA))
    assert {tuple(m.model for m in neuron.members) for neuron in drawn} == {PAIR}


def test_which_neurons_a_page_shows_is_a_draw_by_its_seed(study, monkeypatch):
    """Planted: four are shared and fire; two are shared and do not, and one is matched in one pair only."""
    found = properties.contexts(study, PYTHIA)
    fires = found[(found["rank"] == 1) & (found.activation > 0)]
    planted = [(layer, unit) for layer in (0, 1) for unit in fires[fires.layer == layer].unit.head(2)]
    alone = (1, int(fires[fires.layer == 1].unit.iloc[2]))
    rows = [(*key, 0, i, 0.5, 1, 1) for i, key in enumerate([SILENT, *planted[::-1], DEAD, alone])]
    tables = {PAIR: table(*PAIR, *rows), OTHER: table(*OTHER, *rows[:-1])}
    monkeypatch.setattr(Study, "matches", lambda self, pair: tables[pair])
    monkeypatch.setattr(explorer, "describe", lambda study, anchor, neurons, contexts: list(neurons))
    pages = [explorer.examples(asking(study, seed=seed, neurons=2), POINT) for seed in range(40)]
    assert {count for _, count in pages} == {4} and pages[7] == explorer.examples(
        asking(study, seed=7, neurons=2), POINT
    )
    # Each of the six pairs of the four is drawn, in the order of the layers.
    assert {tuple(keys) for keys, _ in pages} == {(a, b) for a in planted for b in planted if a < b}
    assert explorer.examples(asking(study, neurons=9), POINT) == (planted, 4)
    monkeypatch.setitem(tables, PAIR, tables[PAIR].iloc[::-1])  # whatever the order of the table
    assert explorer.examples(asking(study, seed=7, neurons=2), POINT) == pages[7]


# ---------------------------------------------------------------------------------------------------------------------
# The page


def test_hostile_text_reaches_the_page_only_escaped(folder, corpus, study, tmp_path):
    found = properties.contexts(study, PYTHIA)
    hostile = found[(found["rank"] == 1) & found.text.astype(str).str.contains("</script>", regex=False)].head(5)
    keys = list(zip(hostile.layer, hostile.unit, strict=True))
    shown = explorer.describe(study, PYTHIA, {key: {} for key in keys})
    assert shown and all(HOSTILE[:20] in neuron.contexts[0].text for neuron in shown)
    path = explorer.write(study, shown)
    page = path.read_text(encoding="utf-8")
    assert path == study.folder / "explorer.html" and "alert(" in page
    template = viewer.TEMPLATE.read_text(encoding="utf-8")
    for tag in ("<script", "</script", "<!--", "<b ", "<i>"):
        assert page.count(tag) == template.count(tag)
    data = json.loads(re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    kept = [context for neuron in data["neurons"] for context in neuron["contexts"]]
    assert [c["text"] for c in kept] == [c.text for neuron in shown for c in neuron.contexts]
    assert "<i>chat</i>" in {c["subset"] for c in kept}


def test_the_page_says_what_was_matched(study, neurons):
    page = explorer.write(study, neurons).read_text(encoding="utf-8")
    assert f"Rosetta Neurons of {', '.join(POINT)}" in page
    assert f"Neurons of {PYTHIA} whose" in page and "over 2,000 tokens; contexts from 6,000 tokens" in page
