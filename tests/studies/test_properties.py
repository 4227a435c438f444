import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from answering import completion
from conftest import PAIR, edited, write_profile
from safetensors.numpy import load_file
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.tools import add_constant

from rosetta import models, sources
from rosetta.neurons.chat import ChatError
from rosetta.neurons.contexts import activations_on
from rosetta.sources import environment
from rosetta.studies import explorer, properties, shown, views
from rosetta.studies.matches import Study
from rosetta.studies.properties import OTHERS, ROSETTA

PYTHIA, OPT = PAIR
DEAD = [(1, unit) for unit in range(90)]
UNWRITTEN = (0, 5)  #: its output weight is zero: no direction, no kurtosis


def damaged(tensors) -> None:
    mlp = "gpt_neox.layers.{}.mlp.{}.{}".format
    tensors[mlp(1, "dense_h_to_4h", "weight")][:90] = 0
    tensors[mlp(1, "dense_h_to_4h", "bias")][:90] = 1.0
    tensors[mlp(0, "dense_4h_to_h", "weight")][:, UNWRITTEN[1]] = 0


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Code, arithmetic and prose, of about equal length."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    code = sources.split_at_lines(
        (models.ROOT / "lib" / "rosetta" / "models" / "zoo" / "language.py").read_text(encoding="utf-8"), 400
    )
    prose = sources.split_at_lines((models.ROOT / "README.md").read_text(encoding="utf-8"), 400)
    kinds = {"code": list(code)[:30], "math": map(environment.arithmetic, range(30)), "general prose": list(prose)[:30]}
    rows = [{"text": text, "subset": f"my {kind}", "category": kind} for kind, some in kinds.items() for text in some]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory, corpus):
    """Two families over one curve; ninety neurons of Pythia are dead, and one writes nothing."""
    folder = tmp_path_factory.mktemp("properties")
    content = yaml.safe_load(write_profile(folder, corpus).read_text())
    content["models"][PYTHIA]["source"] = str(edited(folder / "pythia", PYTHIA, damaged))
    content["properties"] |= {
        "rosetta": {"pythia": "pythia-opt", "opt": "pythia-opt"}, "firing": ["pythia", "opt"], "bootstrap": 2_000,
        "baseline": {"neurons": 20, "seeds": [1, 2, 3]},
    }  # fmt: skip
    return Study(write_profile(folder, corpus, **content), folder)


def best(table) -> pd.DataFrame:
    return table[(table.rank_a == 1) & (table.rank_b == 1)]


# ---------------------------------------------------------------------------------------------------------------------
# Populations


def test_rosetta_neurons_are_either_sides_of_the_first_ranks_of_the_table(study):
    table = best(study.matches(PAIR))
    a, b = (properties.rosetta_neurons(study, name, PAIR) for name in PAIR)
    assert set(a) == set(zip(table.layer_a, table.unit_a, strict=True)) and len(a) == len(table) > 20
    assert set(b) == set(zip(table.layer_b, table.unit_b, strict=True)) and len(b) == len(table)
    assert len(table) < len(study.matches(PAIR))  # the table holds the second neighbours too


def test_all_neurons_go_layer_by_layer(study):
    neurons = properties.all_neurons(study, PYTHIA)
    assert list(neurons) == [(layer, unit) for layer in range(2) for unit in range(128)]
    assert neurons.names == ["layer", "unit"]


# ---------------------------------------------------------------------------------------------------------------------
# Polarization


@pytest.mark.parametrize("fold_gain", [False, True])
@pytest.mark.parametrize(
    "name, weight, transposed, unembedding, norm",
    [
        (PYTHIA, "gpt_neox.layers.{}.mlp.dense_4h_to_h.weight", True, "embed_out.weight",
         "gpt_neox.final_layer_norm.weight"),
        ("gpt2-32x2", "transformer.h.{}.mlp.c_proj.weight", False, "transformer.wte.weight", "transformer.ln_f.weight"),
        (OPT, "model.decoder.layers.{}.fc2.weight", True, "model.decoder.embed_tokens.weight",
         "model.decoder.final_layer_norm.weight"),
    ],
)  # fmt: skip
def test_kurtosis_is_scipys_over_the_weights_on_disk(study, name, weight, transposed, unembedding, norm, fold_gain):
    tensors = load_file(f"{study.profile.models[name].location}/model.safetensors")
    tensors = {key: tensor.astype(np.float64) for key, tensor in tensors.items()}
    w_out = np.concatenate([t.T if transposed else t for t in (tensors[weight.format(layer)] for layer in range(2))])
    w_u = tensors[unembedding] * (tensors[norm] if fold_gain else 1)
    with np.errstate(invalid="ignore"):
        cosine = w_out @ w_u.T / np.linalg.norm(w_out, axis=1)[:, None] / np.linalg.norm(w_u, axis=1)
    found = properties.kurtosis(study, name, fold_gain)
    np.testing.assert_allclose(found, stats.kurtosis(cosine, axis=1), rtol=1e-4 if fold_gain else 1e-5, atol=1e-5)
    assert found.index.equals(properties.all_neurons(study, name))
    assert (name == PYTHIA) == found.isna().any()


def test_kurtosis_depends_on_the_weights_and_not_on_the_text(profile, tmp_path, corpus, monkeypatch):
    read = []
    load = models.load
    monkeypatch.setattr(shown, "load_model", lambda spec, *rest: read.append(spec.name) or load(spec, *rest))
    first = properties.kurtosis(Study(profile(), tmp_path), PYTHIA)
    path = profile(corpus={"kind": "files", "paths": [str(corpus)]}, tokens=500)
    assert properties.kurtosis(Study(path, tmp_path), PYTHIA).equals(first) and len(read) == 1
    specs = yaml.safe_load(path.read_text())["models"]
    specs[PYTHIA]["source"] = str(edited(tmp_path / "other", PYTHIA, damaged))
    again = properties.kurtosis(Study(profile(models=specs), tmp_path), PYTHIA)
    assert len(read) == 2 and (again != first)[UNWRITTEN]


def test_in_a_profile_of_bfloat16_no_model_is_loaded_in_anything_else(profile, tmp_path, monkeypatch):
    """Kurtosis, its floor and the explorer's facts; the values are those of the weights so rounded, in float64."""
    loaded, load = [], models.load

    def watched(*args):
        loaded.append(load(*args))
        return loaded[-1]

    monkeypatch.setattr(shown, "load_model", watched)
    half = Study(profile(dtype="bfloat16"), tmp_path)
    found = properties.kurtosis(half, OPT)
    properties.floor(half)
    explorer._facts(half, OPT, [(1, 7, 0.5), (0, 3, None)])
    assert len(loaded) >= 3 and {p.dtype for model in loaded for p in model.parameters()} == {torch.bfloat16}
    w_u = loaded[0].model.decoder.embed_tokens.weight.double().numpy()
    w_out = np.concatenate([layer.fc2.weight.double().numpy().T for layer in loaded[0].model.decoder.layers])
    cosine = w_out @ w_u.T / np.linalg.norm(w_out, axis=1)[:, None] / np.linalg.norm(w_u, axis=1)
    np.testing.assert_allclose(found, stats.kurtosis(cosine, axis=1), rtol=1e-5, atol=1e-5)
    single = properties.kurtosis(Study(profile(), tmp_path), OPT)  # kept apart, in the same folder
    assert not np.allclose(single, found, rtol=1e-5) and np.corrcoef(single, found)[0, 1] > 0.99


def test_every_neuron_of_every_size_belongs_to_one_population(study):
    table = properties.kurtoses(study)
    matches = best(study.matches(PAIR))
    assert list(table.groupby(["family", "model", "neurons"], sort=False).size().items()) == [
        (("pythia", PYTHIA, 256), 256), (("opt", OPT, 256), 256),
    ]  # fmt: skip
    for name, side in zip(PAIR, "ab", strict=True):
        of_model = table[table.model == name]
        matched = set(zip(matches[f"layer_{side}"], matches[f"unit_{side}"], strict=True))
        for row in of_model.itertuples():
            assert row.population == (ROSETTA if (row.layer, row.unit) in matched else OTHERS)
        assert np.array_equal(of_model["kurtosis"], properties.kurtosis(study, name), equal_nan=True)
    assert set(properties.kurtoses(study, ["opt"]).model) == {OPT}


def test_polarization_is_the_mean_of_each_population_with_its_interval(study):
    table = properties.kurtoses(study)
    rows = properties.polarization(study, table)
    assert len(rows) == 4
    for row in rows.to_dict("records"):
        own = table[(table.model == row["model"]) & (table.population == row["population"])]["kurtosis"].dropna()
        assert row["count"] == len(own) > 10
        assert row["mean"] == pytest.approx(own.mean()) and row["median"] == pytest.approx(own.median())
        assert row["above 1"] == np.mean(own > 1) and row["above 3"] == np.mean(own > 3)
        error = own.std(ddof=0) / np.sqrt(len(own))  # what a bootstrap of the mean comes near to
        assert row["low"] == pytest.approx(own.mean() - 1.96 * error, abs=0.5 * error)
        assert row["high"] == pytest.approx(own.mean() + 1.96 * error, abs=0.5 * error)
    assert rows[rows.model == PYTHIA]["count"].sum() == 255  # the neuron that writes nothing is in neither


def test_separation_is_the_gap_at_both_ends_and_the_slopes_over_a_decade():
    rows = [
        (family, size, population, mean)
        for family, means in {
            "steady": {ROSETTA: [1.0, 2.0, 3.0], OTHERS: [0.5, 0.5, 0.5]},
            "crossing": {ROSETTA: [1.0, 1.0, 1.0], OTHERS: [0.0, 1.0, 2.0]},
        }.items()
        for population, of_size in means.items()
        for size, mean in zip((100, 1_000, 10_000), of_size, strict=True)
    ]
    summary = pd.DataFrame(rows, columns=["family", "neurons", "population", "mean"])
    found = properties.separation(summary.sample(frac=1, random_state=0)).loc[["steady", "crossing"]]
    assert found["gap, smallest"].tolist() == [0.5, 1] and found["gap, largest"].tolist() == [2.5, -1]
    assert found["sizes"].tolist() == [3, 3] and found["above"].tolist() == [3, 1]
    np.testing.assert_allclose(found["Rosetta, per decade"], [1, 0], atol=1e-12)
    np.testing.assert_allclose(found["other, per decade"], [0, 1], atol=1e-12)
    noisy = summary.assign(mean=summary["mean"] + [0.1, -0.2, 0.1, 0, 0.3, 0, -0.1, 0, 0.1, 0.2, 0, 0])
    found = properties.separation(noisy).loc["steady"]
    values = noisy[(noisy.family == "steady") & (noisy.population == ROSETTA)]["mean"]
    low, high = OLS(values.to_numpy(), add_constant([2.0, 3.0, 4.0])).fit().conf_int()[1]
    assert found["Rosetta, per decade, low"] == pytest.approx(low)
    assert found["Rosetta, per decade, high"] == pytest.approx(high)


def test_gaps_are_those_of_the_populations_at_each_size_and_within_layers(study):
    table = properties.kurtoses(study, ["pythia"])
    (row,) = properties.gaps(study, table).itertuples()
    rosetta, others = (table[table.population == name] for name in (ROSETTA, OTHERS))
    assert (
        row.gap == pytest.approx(rosetta["kurtosis"].mean() - others["kurtosis"].mean())
        and row.low < row.gap < row.high
    )
    by_layer = [
        (side.groupby("layer").kurtosis.mean(), side.dropna().groupby("layer").size()) for side in (rosetta, others)
    ]
    expected = np.average(by_layer[0][0] - by_layer[1][0], weights=by_layer[0][1])
    assert row.layers_gap == pytest.approx(expected)
    (change,) = properties.widening(study, table).itertuples()  # one size: the same at both ends
    assert change.gap == pytest.approx(0) and change.low < 0 < change.high


def test_the_effect_of_the_gain_is_the_means_and_their_gap_both_ways(study):
    both = {"left out": properties.kurtoses(study), "folded in": properties.kurtoses(study, fold_gain=True)}
    effect = properties.gain_effect(study, *both.values())
    assert list(zip(effect["model"], effect["gain"], strict=True)) == [(name, gain) for name in PAIR for gain in both]
    for row in effect.itertuples():
        of_model = both[row.gain][both[row.gain].model == row.model]
        own, rest = (of_model[of_model.population == name]["kurtosis"].dropna() for name in (ROSETTA, OTHERS))
        assert (row.family, row.neurons) == (row.model.partition("-")[0], 256)
        assert row.Rosetta == pytest.approx(own.mean()) and row.other == pytest.approx(rest.mean())
        assert row.gap == pytest.approx(own.mean() - rest.mean()) and row.low < row.gap < row.high
    assert effect["Rosetta"].nunique() == effect["other"].nunique() == 4


def test_the_floor_is_the_mean_kurtosis_of_random_directions(study):
    rows = properties.floor(study).set_index("model")
    assert list(rows.index) == list(PAIR) and rows["family"].tolist() == ["pythia", "opt"]
    weights = {PYTHIA: "embed_out.weight", OPT: "model.decoder.embed_tokens.weight"}
    for name, weight in weights.items():
        w_u = load_file(f"{study.profile.models[name].location}/model.safetensors")[weight].astype(np.float64)
        directions = np.random.default_rng(5).standard_normal((4_000, w_u.shape[1]))  # others than the study's
        cosine = (
            directions @ (w_u / np.linalg.norm(w_u, axis=1)[:, None]).T / np.linalg.norm(directions, axis=1)[:, None]
        )
        expected = stats.kurtosis(cosine, axis=1)
        error = expected.std() / np.sqrt(len(expected))
        row = rows.loc[name]
        assert row["mean"] == pytest.approx(expected.mean(), abs=5 * error)
        assert (row["high"] - row["low"]) / 2 == pytest.approx(1.96 * error, rel=0.2) and row["low"] < row[
            "mean"
        ] < row["high"]
    assert properties.floor(study).set_index("model").equals(rows)


# ---------------------------------------------------------------------------------------------------------------------
# Contexts and labels


@pytest.mark.parametrize(
    "kept, made, change",
    [
        ("contexts", "top_contexts", {"contexts": {"tokens": 900, "n": 5}}),
        ("contexts", "top_contexts", {"contexts": {"tokens": 600, "n": 3}}),
        ("contexts", "top_contexts", {"context": 32}),
        ("contexts", "top_contexts", {"seed": 1}),
        ("token_counts", "specialization.token_counts", {"contexts": {"tokens": 900, "n": 5}}),
        ("token_counts", "specialization.token_counts", {"excerpt_characters": 50}),
    ],
)
def test_contexts_and_counts_are_made_once_for_a_profile(profile, tmp_path, monkeypatch, kept, made, change):
    owner = properties.specialization if "." in made else properties
    name = made.rpartition(".")[2]
    calls, make = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **kwargs: calls.append(args) or make(*args, **kwargs))
    before = {"contexts": {"tokens": 600, "n": 5}}
    first, again = (getattr(properties, kept)(Study(profile(**before), tmp_path), PYTHIA) for _ in range(2))
    assert len(calls) == 1 and first.equals(again)
    other = getattr(properties, kept)(Study(profile(**before | change), tmp_path), PYTHIA)
    assert len(calls) == 2 and not other.equals(first)


def test_contexts_are_as_many_as_the_profile_says_and_a_dead_neuron_has_none(study):
    found = properties.contexts(study, PYTHIA)
    counts = found.groupby(["layer", "unit"]).size()
    assert (counts == 5).all() and set(counts.index) == set(properties.all_neurons(study, PYTHIA)) - set(DEAD)


def test_token_counts_count_the_stream_that_is_searched(study):
    tokenizer = models.load_tokenizer(study.profile.models[PYTHIA])
    by_hand = Counter((token, window.document.subset) for window in study.windows(tokenizer) for token in window.ids)
    counts = properties.token_counts(study, PYTHIA)
    assert dict(zip(zip(counts.id, counts.subset, strict=True), counts["count"], strict=True)) == by_hand
    assert set(counts.category) == {"code", "math", "general prose"}


def test_labels_are_of_the_neurons_asked_for_that_have_contexts(study):
    asked = [(0, 3), (1, 100), (0, 7), DEAD[4]]
    table = properties.labelled(study, PYTHIA, asked)
    assert list(zip(table.layer, table.unit, strict=True)) == [(0, 3), (0, 7), (1, 100)]
    found = properties.contexts(study, PYTHIA)
    for row in table.itertuples():
        own = found[(found.layer == row.layer) & (found.unit == row.unit)]
        subsets, categories = Counter(own.subset), Counter(own.category)
        assert subsets[row.subset] == max(subsets.values()) and row.share == subsets[row.subset] / 5
        assert categories[row.category] == max(categories.values())
        assert row.summary.startswith(f"{row.subset}: ") and set(row.examples) <= set(own.token)


def lines_of(body):
    return [json.loads(line) for line in body["messages"][-1]["content"].split("\n") if line.startswith("{")]


def test_a_chat_model_is_shown_the_heat_of_every_model_as_the_profile_says(
    endpoint, profile, tmp_path, corpus, monkeypatch
):
    answer = completion(json.dumps({"summary": "words", "examples": ["a"]}))
    endpoint.replies = [(200, {}, answer)]
    (tmp_path / "mine.txt").write_text("{contexts}")
    setting = {"kind": "chat", "concurrency": 3, "timeout_seconds": 7, "retries": 2, "contexts": 3, "window": 40}
    setting["prompt"] = str(tmp_path / "mine.txt")
    path = profile(labels=setting, corpus={"kind": "files", "paths": [str(corpus)]}, contexts={"tokens": 900, "n": 5})
    study = Study(path, tmp_path)
    partners = views.partners(PYTHIA, [study.matches(PAIR)])
    matched, alone = next(iter(partners)), next(n for n in properties.all_neurons(study, PYTHIA) if n not in partners)
    table = properties.labelled(study, PYTHIA, [matched, alone], partners)
    assert table.summary.tolist() == ["words"] * 2 and table.attrs["labels"]["put"] == len(endpoint.requests) == 2
    assert table.attrs["labels"]["prompt"].startswith("mine.txt, sha256 ")
    asked = sorted((lines_of(request["body"]) for request in endpoint.requests), key=lambda lines: len(lines[0]))
    for lines, of in zip(asked, ({PYTHIA: alone}, {PYTHIA: matched, **partners[matched]}), strict=True):
        own = properties.contexts(study, PYTHIA)
        own = own[(own["layer"] == of[PYTHIA][0]) & (own["unit"] == of[PYTHIA][1]) & (own["rank"] <= 3)]
        assert len(lines) == len(own) == 3 and all(list(line) == list(of) for line in lines)
        readers = {name: study.reader(name) for name in of}
        for name, (layer, unit, *_) in of.items():
            found = []
            for row, line in zip(own.itertuples(), lines, strict=True):
                shown = "".join(piece for piece, _ in line[name])
                data = row.text.encode()
                assert shown == data[max(0, row.start - 40) : row.end + 40].decode()  # the text is ASCII
                ((spans, acts),) = activations_on(readers[name], {row.text: [128 * layer + unit]}, 64).values()
                begin = max(0, row.start - 40)
                visible = (spans[:, 0] < begin + len(shown)) & (spans[:, 1] > begin)
                found.append((acts[visible, 0], [level for _, level in line[name]]))
            hottest = max(acts.max() for acts, _ in found)
            for acts, levels in found:
                expected = np.rint(10 * np.clip(acts / hottest, 0, None)) if hottest > 0 else 0 * acts
                assert [x for x in levels if x] == [x for x in expected if x]
        assert max(level for line in lines for _, level in line[PYTHIA]) == 10
    monkeypatch.setattr(views, "activations_on", None)  # what was shown is kept, and so are the answers
    again = properties.labelled(Study(path, tmp_path), PYTHIA, [matched, alone], partners)
    assert again.equals(table) and again.attrs["labels"]["kept"] == 2 == len(endpoint.requests)


def test_what_a_chat_model_lacks_is_said_before_anything_is_read(profile, tmp_path, monkeypatch):
    study = Study(profile(labels={"kind": "chat", "concurrency": 1, "timeout_seconds": 1, "retries": 0}), tmp_path)
    properties.contexts(study, PYTHIA)
    monkeypatch.setattr(views, "activations_on", None)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ChatError, match="OPENAI_API_KEY"):
        properties.labelled(study, PYTHIA, [(0, 1)])


# ---------------------------------------------------------------------------------------------------------------------
# Firing and depth


@pytest.mark.parametrize("name, side, family", [(PYTHIA, "a", "pythia"), (OPT, "b", "opt")])
def test_firing_is_that_of_the_rosetta_neurons_and_of_seeded_samples_of_the_others(study, name, side, family):
    tokenizer = models.load_tokenizer(study.profile.models[name])
    tokens = Counter()
    for window in study.windows(tokenizer):
        tokens[window.document.category] += len(window.ids)
    found = properties.contexts(study, name)
    fired = [((row.layer, row.unit), row.category) for row in found.itertuples() if row.activation > 0]
    matches = best(study.matches(PAIR))
    rosetta = set(zip(matches[f"layer_{side}"], matches[f"unit_{side}"], strict=True))
    others = sorted({(row.layer, row.unit) for row in found.itertuples()} - rosetta)
    assert not {(layer, unit) for layer, unit in others if name == PYTHIA} & set(DEAD)

    def normalized(neurons) -> dict:
        counts = Counter(category for neuron, category in fired if neuron in neurons)
        return {c: counts[c] / counts.total() / (tokens[c] / tokens.total()) for c in tokens}

    size = min(20, len(others) // 2)
    drawn = [np.random.RandomState(seed).choice(len(others), size, replace=False) for seed in (1, 2, 3)]
    samples = [normalized({others[i] for i in sample}) for sample in drawn]
    table = properties.firing(study, family).set_index(["population", "category"])
    assert set(table.model) == {name} and set(table.neurons) == {256} and len(table) == 2 * len(tokens)
    for category, expected in normalized(rosetta).items():
        assert table.loc[(ROSETTA, category), "mean"] == pytest.approx(expected)
        assert table.loc[(ROSETTA, category), ["low", "high"]].isna().all()
        values = [sample[category] for sample in samples]
        low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
        other = table.loc[(OTHERS, category)]
        assert [other["mean"], other["low"], other["high"]] == pytest.approx([np.mean(values), low, high])


def test_depths_are_shares_of_the_layers(study):
    table = properties.depths(study, "opt")
    layers = Counter(best(study.matches(PAIR)).layer_b)
    assert list(table.index) == [OPT] and table.shape == (1, 12)
    expected = np.zeros(12)
    expected[[0, 11]] = layers[0] / layers.total(), layers[1] / layers.total()
    np.testing.assert_allclose(table.loc[OPT], expected)
