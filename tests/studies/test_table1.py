import gzip
import json
import random
import re
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PAIR, write_profile
from scipy import stats
from sklearn.metrics import f1_score

from rosetta import models, profiles, results
from rosetta.filtering import filters, pretraining
from rosetta.sources import environment
from rosetta.sources import functions as pool
from rosetta.sources.functions import Function
from rosetta.studies import table1
from rosetta.studies.matches import Study
from rosetta.studies.table1 import ORACLE, OTHER, RANDOM, ROSETTA

FILTERS = [RANDOM, OTHER, ROSETTA, ORACLE]

# ---------------------------------------------------------------------------------------------------------------------
# A made-up pool: C, a language that looks like it, and Python

WORDS = (
    "count",
    "data",
    "edge",
    "file",
    "group",
    "head",
    "item",
    "key",
    "list",
    "map",
    "node",
    "path",
    "row",
    "size",
    "unit",
)
STYLES = {
    "c": (
        "static int {f}_{i}(const char *{a}, int {b}) {{\n",
        "  if ({a}->{w} != {n}) {{ {b} += {n}; }}\n",
        "  return {b};\n}}\n",
    ),
    "java": (
        "public static int {f}_{i}(String {a}, int {b}) {{\n",
        "  if ({a}.{w} != {n}) {{ {b}.put({n}); }}\n",
        "  return {b};\n}}\n",
    ),
    "python": (
        "def {f}_{i}({a}, {b}=None):\n",
        "    if {a} is not None and self.{w} in {b}:\n        {b} = {n}\n",
        "    return {b}\n",
    ),
}
SUBSETS = {"c": "C/C++", "java": "Java", "python": "Python"}
POOL_SIZES = {"test": 30, "train": 120}  # of each language


def written_by_hand(language: str, i: int) -> str:
    rng = random.Random(f"{language}-{i}")
    first, line, last = STYLES[language]
    a, b, f = rng.sample(WORDS, 3)
    lines = [line.format(a=a, b=b, w=rng.choice(WORDS), n=rng.randint(0, 99)) for _ in range(rng.randint(1, 3))]
    return first.format(f=f, i=i, a=a, b=b) + "".join(lines) + last.format(b=b)


#: The pool in the order in which it is read; three functions a file.
POOL = [
    Function(
        written_by_hand(language, i + 1_000 * (split == "test")), language, split, f"{language}/{split}{i // 3}#{i}"
    )
    for split, size in POOL_SIZES.items()
    for language in STYLES
    for i in range(size)
]


def write_codesearchnet(folder: Path, functions: list[Function]) -> Path:
    """Functions in the layout of CodeSearchNet's archives."""
    for language in STYLES:
        for split in POOL_SIZES:
            rows = [
                json.dumps({"code": f.text, "url": f.source}) + "\n"
                for f in functions
                if (f.language, f.split) == (language, split)
            ]
            path = folder / language / "final" / "jsonl" / split / "0.jsonl.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress("".join(rows).encode()))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus of documents in the three languages, and a pool that holds repeats, of its test functions above all."""
    folder = tmp_path_factory.mktemp("made")
    documents = [
        {"text": "\n".join(written_by_hand(language, 10_000 + 3 * i + j) for j in range(3)), "subset": subset}
        for i in range(40)
        for language, subset in SUBSETS.items()
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    repeats = [f._replace(split="train", source=f"{f.language}/repeat#{i}") for i, f in enumerate(POOL[::7])]
    write_codesearchnet(folder / "codesearchnet", POOL + repeats)
    return folder


def study_of(made: Path, results: Path, pool: Path | None = None, **changes) -> Study:
    """A study of the made-up corpus and pool; `changes` are of the profile's section `filtering`."""
    profile = profiles.load(write_profile(made, made / "corpus.jsonl"))
    source = {"kind": "codesearchnet", "source": str(pool or made / "codesearchnet"), "languages": list(STYLES)}
    filtering = {
        "pool": source,
        "target": "c",
        "share": 0.2,
        "tokens": 4_000,
        "test_tokens": 500,
        "average": (1, 2, 500),
    }
    setting = profile.filtering.model_copy(update=filtering | changes)
    contexts = profile.contexts.model_copy(update={"tokens": 6_000})
    return Study(profile.model_copy(update={"filtering": setting, "contexts": contexts}), results)


def set_filtering(study: Study, **changes) -> None:
    """Change the section `filtering` of a study's profile."""
    setting = study.profile.filtering.model_copy(update=changes)
    study.profile = study.profile.model_copy(update={"filtering": setting})


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """The experiment, run once, and what each run was trained on."""
    study, trained = study_of(made, tmp_path_factory.mktemp("results")), {}

    def noted(spec, texts, training, seed, folder, device, dtype, sequences):
        trained[folder.name] = list(texts)
        return train(spec, texts, training, seed, folder, device, dtype, sequences)

    train = pretraining.continue_pretraining
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "continue_pretraining", noted)
        neurons, functions = table1.neurons(study), table1.drawn(study, "train")
        scores = table1.scores(study, neurons, functions)
        selected = table1.selections(functions, scores, study.profile.seed)
        runs = table1.perplexities(study, selected)
    return SimpleNamespace(
        study=study, neurons=neurons, pool=functions, scores=scores, selected=selected, runs=runs, trained=trained
    )


@pytest.fixture
def study(whole, made, tmp_path):
    """The same with a copy of its results, to spoil."""
    shutil.copytree(whole.study.results, tmp_path / "copy")
    return study_of(made, tmp_path / "copy")


@pytest.fixture(scope="module")
def tokens(whole):
    """Tokens of each function of POOL, as the learner counts them."""
    tokenizer = models.load_tokenizer(whole.study.profile.models["gpt2-32x2"])
    return np.array([len(tokenizer.encode(function.text, add_special_tokens=False)) for function in POOL])


def selected_by_hand(scores, tokens, budget) -> list[int]:
    chosen, left = [], budget
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        left -= tokens[i]
        if left < 0:
            break
        chosen.append(i)
    return chosen


def f1_by_hand(scores, functions) -> float:
    is_c = functions["language"].to_numpy() == "c"
    chosen = selected_by_hand(np.asarray(scores), functions["tokens"], functions["tokens"][is_c].sum())
    return f1_score(is_c, np.isin(np.arange(len(is_c)), chosen))


def forbidden(*_, **__):
    raise AssertionError("this was not to be called")


def assert_same_neurons(found, expected):
    assert list(found) == list(expected) == [ROSETTA, OTHER]
    for kind in found:
        pd.testing.assert_frame_equal(found[kind], expected[kind])


# ---------------------------------------------------------------------------------------------------------------------
# The neurons


def test_the_neurons_are_chosen_without_a_pool(whole, made, tmp_path, monkeypatch):
    for name in ("codesearchnet", "environment_functions", "deduplicate", "mix", "write", "read"):
        monkeypatch.setattr(pool, name, forbidden)
    for name in ("functions_file", "drawn", "texts", "scores"):
        monkeypatch.setattr(table1, name, forbidden)
    study = study_of(made, tmp_path, pool=tmp_path / "nowhere", target="cobol", share=None, tokens=None)
    assert_same_neurons(table1.neurons(study), whole.neurons)
    assert {path.name for path in study.folder.iterdir()} == {"matches", "neurons"}
    assert not (study.results / "corpus").exists()


@pytest.fixture(scope="module")
def shuffled(made, tmp_path_factory):
    """The whole pool with its true languages and with permuted ones."""
    rng, permuted = random.Random(0), []
    for split in POOL_SIZES:
        some = [function for function in POOL if function.split == split]
        languages = rng.sample([f.language for f in some], len(some))
        permuted += [f._replace(language=language) for f, language in zip(some, languages, strict=True)]
    pools = {}
    for name, functions in {"true": POOL, "permuted": permuted}.items():
        folder = tmp_path_factory.mktemp(name)
        source = write_codesearchnet(folder / "pool", functions)
        study = study_of(made, folder / "results", source, share=None, tokens=None)
        functions = table1.drawn(study, "train")
        pools[name] = study, functions, table1.scores(study, table1.neurons(study), functions)
    return pools


def test_with_permuted_languages_the_same_neurons_are_chosen_and_score_every_text_the_same(whole, shuffled):
    for study, _, _ in shuffled.values():
        assert_same_neurons(table1.neurons(study), whole.neurons)
    of_text = [
        scores.rosetta.assign(other=scores.other).set_index(pd.Index(table1.texts(study, functions)))
        for study, functions, scores in shuffled.values()
    ]
    assert not of_text[0].index.equals(of_text[1].index) and not of_text[0].index.has_duplicates
    pd.testing.assert_frame_equal(of_text[0], of_text[1].loc[of_text[0].index], rtol=1e-4, atol=1e-5)


def test_nothing_that_is_kept_of_the_neurons_depends_on_the_pool(whole, shuffled):
    kept = [
        {str(path.relative_to(study.folder)): path.read_bytes()
         for part in ("matches", "neurons") for path in (study.folder / part).rglob("*.*")}
        for study in (whole.study, *(study for study, _, _ in shuffled.values()))
    ]  # fmt: skip
    assert kept[0] == kept[1] == kept[2] and len(kept[0]) == 8
    assert not any(b"codesearchnet" in content for content in kept[0].values())


def test_permuted_languages_cannot_be_recovered(shuffled):
    best = {}
    for name, (_, functions, scores) in shuffled.items():
        best[name] = max(f1_by_hand(score, functions) for _, score in [*scores.rosetta.items(), ("", scores.other)])
    # a third of 360 functions: 0.15 is four standard deviations of what chance selects
    assert best["true"] > 0.8 and best["permuted"] < 1 / 3 + 0.15
    study, functions, scores = shuffled["permuted"]
    selected = table1.selections(functions, scores, study.profile.seed)
    f1 = table1.recoveries(functions, selected).set_index("filter")["f1"]
    assert f1[[RANDOM, OTHER, ROSETTA]].to_numpy() == pytest.approx(1 / 3, abs=0.15) and f1[ORACLE] == 1


def test_the_neurons_are_the_matched_ones_and_the_rest_of_the_best_ones_layer(whole):
    table = whole.study.matches(PAIR)
    best = table[(table.rank_a == 1) & (table.rank_b == 1)]
    rosetta = set(zip(best.layer_a, best.unit_a, strict=True))
    found, others = (set(zip(t.layer, t.unit, strict=True)) for t in whole.neurons.values())
    layer = whole.neurons[ROSETTA].layer[0]
    assert found <= rosetta and len(found) > 0.9 * len(rosetta)  # those without contexts are dead
    assert {layer} == {layer for layer, _ in others} and not others & rosetta
    assert len(others) + sum(of == layer for of, _ in rosetta) > 0.9 * 128
    for ranked in whole.neurons.values():
        assert ranked.qualifies.any() and (ranked.subset[ranked.qualifies] == "C/C++").all()


def test_a_filter_for_which_no_neuron_qualifies_has_no_row_and_it_is_said(study, whole, monkeypatch):
    label = table1.properties.labelled
    monkeypatch.setattr(table1.properties, "labelled", lambda *given: label(*given).assign(subset="Java"))
    ranked = table1.neurons(study)
    assert ranked[ROSETTA].target_share.is_monotonic_decreasing and ranked[ROSETTA].target_share[0] > 0
    assert not ranked[ROSETTA].qualifies.any() and not ranked[OTHER].qualifies.any()
    said = table1.left_out(ranked)
    assert list(said) == [ROSETTA, OTHER] and said[ROSETTA].startswith(
        f"none of {len(ranked[ROSETTA])} Rosetta neurons"
    )
    assert f"{ranked[ROSETTA].target_share[0]:.0%}" in said[ROSETTA] and table1.left_out(whole.neurons) == {}
    functions = table1.drawn(study, "train")
    with monkeypatch.context() as patch:
        patch.setattr(filters, "mean_activations", forbidden)
        scores = table1.scores(study, ranked, functions)
    assert scores.best is None and scores.other is None and not scores.filters
    assert list(table1.selections(functions, scores, 0)) == [RANDOM, ORACLE]
    monkeypatch.setattr(table1, "neurons", lambda study: ranked)
    assert table1.references(study).kind.tolist() == ["tokens"]
    half = {ROSETTA: whole.neurons[ROSETTA], OTHER: ranked[OTHER]}
    scores = table1.scores(study, half, functions)
    pd.testing.assert_frame_equal(scores.rosetta, whole.scores.rosetta)
    assert scores.other is None and list(table1.left_out(half)) == [OTHER]
    selected = table1.selections(functions, scores, study.profile.seed)
    assert list(selected) == [RANDOM, ROSETTA, ORACLE]
    assert selected[ROSETTA].tolist() == whole.selected[ROSETTA].tolist()
    assert table1.recoveries(functions, selected)["filter"].tolist() == [RANDOM, ROSETTA, ORACLE]


def test_in_an_offline_label_a_token_is_no_subset(study, monkeypatch):
    label = table1.properties.labelled
    monkeypatch.setattr(
        table1.properties, "labelled", lambda *given: label(*given).assign(summary="Java: 'Fortran'", share=1.0)
    )
    set_filtering(study, labelled="Fortran")
    with pytest.raises(ValueError, match=r"no Rosetta Neuron of .* is labelled so"):
        table1.neurons(study)


def test_where_no_neuron_has_to_do_with_the_target_none_is_chosen(study):
    set_filtering(study, labelled="Fortran")
    with pytest.raises(
        ValueError, match=rf"filtering.labelled is 'Fortran', and no Rosetta Neuron of {PAIR[0]} .* \(.*C/C\+\+"
    ):
        table1.neurons(study)


def test_those_that_qualify_filter_however_few():
    ranked = pd.DataFrame({"layer": 0, "unit": range(9), "qualifies": [True] + [False] * 8})
    assert table1.qualifying(ranked).unit.tolist() == [0]
    assert table1.qualifying(ranked.assign(qualifies=[True] * 7 + [False] * 2)).unit.tolist() == list(range(7))
    assert table1.qualifying(ranked.assign(qualifies=False)).empty


# ---------------------------------------------------------------------------------------------------------------------
# The pool


def test_the_pool_has_the_size_and_the_share_asked_for(whole, tokens):
    for split, share, total in (("train", 0.2, 4_000), ("test", 0.5, 1_000)):
        functions = table1.drawn(whole.study, split)
        drawn = [POOL[number] for number in functions.number]
        assert functions.number.is_monotonic_increasing and functions.number.is_unique
        assert {function.split for function in drawn} == {split}
        assert functions.source.tolist() == [f.source for f in drawn]
        assert functions.tokens.tolist() == tokens[functions.number].tolist()
        is_c = functions.is_target
        assert is_c.dtype == bool and set(functions.split) == {split}
        assert is_c.tolist() == [f.language == "c" for f in drawn]
        for part, wanted in ((functions[is_c], share * total), (functions[~is_c], (1 - share) * total)):
            assert wanted <= part.tokens.sum() < wanted + tokens.max()
        assert list(table1.texts(whole.study, functions)) == [f.text for f in drawn]


def test_the_pool_and_the_test_functions_share_no_text_and_no_file(whole):
    pool, test = (table1.drawn(whole.study, split) for split in ("train", "test"))
    for of in (
        lambda functions: functions.number,
        lambda functions: functions.source.str.partition("#")[0],
        lambda functions: table1.texts(whole.study, functions),
    ):
        assert not set(of(pool)) & set(of(test))


@pytest.mark.parametrize("split", ["train", "test"])
def test_without_sizes_a_split_is_taken_as_it_is(study, tokens, split):
    set_filtering(study, share=None, tokens=None, test_tokens=None)
    functions = table1.drawn(study, split)
    numbers = [i for i, function in enumerate(POOL) if function.split == split]
    assert functions.number.tolist() == numbers and functions.tokens.tolist() == tokens[numbers].tolist()
    assert functions.language.tolist() == [POOL[i].language for i in numbers]
    assert functions.source.tolist() == [POOL[i].source for i in numbers]


def test_the_test_functions_may_be_the_whole_split_beside_a_mixed_pool(study):
    set_filtering(study, test_tokens=None)
    assert len(table1.drawn(study, "test")) == 3 * 30 > len(table1.drawn(study, "train"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "go"}, "no 'go'; its languages are c, java, python"),
        ({"target": "go", "share": None, "tokens": None}, "target is 'go'; the train functions are in c, java, python"),
        ({"tokens": 10**6}, "the pool needs 200000 tokens of c, but there are"),
    ],
)
def test_a_pool_that_cannot_be_drawn_is_refused(study, change, message):
    set_filtering(study, **change)
    for _ in range(2):  # the refusal is not lost once the functions are kept
        with pytest.raises(ValueError, match=message):
            table1.drawn(study, "train")


def test_a_split_without_functions_is_named(made, tmp_path):
    pool = write_codesearchnet(tmp_path / "pool", [function for function in POOL if function.split == "test"])
    study = study_of(made, tmp_path, pool, share=None, tokens=None)
    with pytest.raises(ValueError, match="the train functions are in no language"):
        table1.drawn(study, "train")


def test_a_local_copy_that_was_changed_is_read_again(made, tmp_path):
    study = study_of(made, tmp_path, write_codesearchnet(tmp_path / "pool", POOL), share=None, tokens=None)
    assert len(table1.drawn(study, "train")) == 3 * 120
    write_codesearchnet(tmp_path / "pool", POOL[:-1])
    assert len(table1.drawn(study, "train")) == 3 * 120 - 1


def test_the_environments_functions_are_kept_with_its_versions(study, monkeypatch):
    read = []
    monkeypatch.setattr(pool, "environment_functions", lambda: read.append(1) or iter(POOL + POOL[-5:]))
    set_filtering(study, pool={"kind": "environment"})
    for _ in range(2):
        assert list(pool.read(table1.functions_file(study))) == POOL
    assert len(read) == 1
    monkeypatch.setattr(environment, "distributions", lambda: {"numpy": "0"})
    table1.functions_file(study)
    assert len(read) == 2


class Text(str):
    """A text that knows how many there are."""

    alive = most = 0

    def __init__(self, _):
        Text.alive += 1
        Text.most = max(Text.most, Text.alive)

    def __del__(self):
        Text.alive -= 1


@pytest.fixture
def counted():
    """Makes the texts of functions count themselves."""
    Text.alive = Text.most = 0
    return lambda functions: (function._replace(text=Text(function.text)) for function in functions)


def test_the_source_is_written_as_a_stream(study, counted, monkeypatch):
    functions = counted(Function(f"f{i}\n" * 3, "c", "train", f"{i}") for i in range(9_000))
    monkeypatch.setattr(pool, "environment_functions", lambda: functions)
    set_filtering(study, pool={"kind": "environment"})
    found = pool.read(table1.functions_file(study))
    assert sum(1 for _ in found) == 9_000 and 2_000 <= Text.most <= 4_001  # two of the writer's batches


@pytest.mark.parametrize("sizes", [{}, {"share": None, "tokens": None}], ids=["mixed", "whole"])
def test_the_pool_is_drawn_and_scored_as_a_stream(made, tmp_path, whole, counted, monkeypatch, sizes):
    read = pool.read
    shutil.copytree(whole.study.folder / "neurons", tmp_path / "tiny" / "neurons")
    shutil.copytree(whole.study.folder / "matches", tmp_path / "tiny" / "matches")
    study = study_of(made, tmp_path, **sizes)
    study.profile = study.profile.model_copy(update={"sequences_per_batch": 8})
    monkeypatch.setattr(filters, "SORTED_BATCHES", 1)
    monkeypatch.setattr(pool, "read", lambda *arguments: counted(read(*arguments)))
    functions = table1.drawn(study, "train")
    assert 0 < Text.most <= 2
    assert len(table1.scores(study, whole.neurons, functions).other) == len(functions) > 5 * 8
    assert 8 <= Text.most <= 2 * 8 + 2 and Text.alive == 0  # a batch of 8 is read, the one before not yet forgotten


# ---------------------------------------------------------------------------------------------------------------------
# Scores and selections


def test_a_score_is_the_mean_of_the_neurons_activations_on_the_text_of_its_row(whole):
    functions, ranked = whole.pool, whole.neurons
    found = whole.scores.rosetta.assign(**{whole.scores.other.name: whole.scores.other})
    expected = [*table1.qualifying(ranked[ROSETTA])[["layer", "unit"]].itertuples(index=False)]
    expected.append(ranked[OTHER].loc[0, ["layer", "unit"]])
    assert list(found) == [f"L{layer}/U{unit}" for layer, unit in expected]
    spec = whole.study.profile.models["pythia-32x2"]
    model, tokenizer, seen = models.load(spec), models.load_tokenizer(spec), []
    for block in model.gpt_neox.layers:
        block.mlp.dense_4h_to_h.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    checked = 0
    for row, number in enumerate(functions.number):
        ids = tokenizer.encode(POOL[number].text, add_special_tokens=False)
        if len(ids) < 60:  # read in one window
            seen.clear()
            model(torch.tensor([ids]))
            by_hand = [seen[layer][:, unit].double().mean().item() for layer, unit in expected]
            assert found.iloc[row].to_numpy() == pytest.approx(by_hand, rel=1e-3, abs=1e-4)
            checked += 1
    assert checked >= 10


def test_scores_are_kept_until_what_they_depend_on_changes(study, whole, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(filters, "mean_activations", forbidden)
        kept = table1.scores(study, whole.neurons, whole.pool)
    pd.testing.assert_frame_equal(kept.rosetta, whole.scores.rosetta)
    pd.testing.assert_series_equal(kept.other, whole.scores.other)
    set_filtering(study, tokens=2_000)
    functions = table1.drawn(study, "train")
    assert len(table1.scores(study, whole.neurons, functions).other) == len(functions) < len(whole.pool)


def test_selections_go_by_their_scores_and_spend_no_more_than_the_targets_tokens(whole):
    functions, scored = whole.pool, whole.scores
    assert list(whole.selected) == FILTERS
    is_c = (functions.language == "c").to_numpy()
    budget = functions.tokens[is_c].sum()
    for name, scores in ((ROSETTA, scored.best), (OTHER, scored.other), (ORACLE, is_c.astype(int))):
        assert whole.selected[name].tolist() == selected_by_hand(scores, functions.tokens, budget)
    for chosen in whole.selected.values():
        spent = functions.tokens.iloc[chosen].sum()
        assert budget - functions.tokens.max() < spent <= budget and len(set(chosen)) == len(chosen)
    table = table1.recoveries(functions, whole.selected).set_index("filter")
    assert list(table.index) == FILTERS
    for name, chosen in whole.selected.items():
        is_chosen = np.isin(np.arange(len(is_c)), chosen)
        assert table.f1[name] == pytest.approx(f1_score(is_c, is_chosen))
        assert table.f1_low[name] < table.f1[name] <= table.f1_high[name]
        assert table.token_f1[name] == pytest.approx(f1_score(is_c, is_chosen, sample_weight=functions.tokens))
    assert table.loc[ORACLE].drop(["f1_low"]).to_numpy().tolist() == [1.0] * 7


def test_of_a_large_pool_chance_recovers_the_share_and_the_oracle_everything():
    rng, n = np.random.default_rng(99), 20_000  # none of the seeds below
    functions = pd.DataFrame(
        {"language": np.where(rng.random(n) < 0.06, "c", "java"), "tokens": rng.integers(5, 500, n)}
    )
    functions["is_target"] = functions.language == "c"
    found, chosen = [], set()
    for seed in range(20):
        scores = table1.Scores(pd.DataFrame(rng.random((n, 1))), pd.Series(rng.random(n)))
        selected = table1.selections(functions, scores, seed)
        table = table1.recoveries(functions, selected).set_index("filter")
        assert table.f1[ORACLE] == table.token_f1[ORACLE] == 1
        found.append(table.loc[RANDOM])
        chosen.add(tuple(selected[RANDOM]))
    found, is_c = pd.DataFrame(found), functions.language == "c"
    share = {"f1": is_c.mean(), "token_f1": functions.tokens[is_c].sum() / functions.tokens.sum()}
    for column, expected in share.items():
        assert abs(found[column].mean() - expected) < 4 * found[column].std() / np.sqrt(20)
        assert found[column].to_numpy() == pytest.approx(expected, abs=0.03)
    assert len(chosen) == 20


def test_the_mix_of_languages_is_in_shares_of_the_tokens(whole, tokens):
    functions = whole.pool
    table = table1.languages(functions, whole.selected | {"java only": np.flatnonzero(functions.language == "java")})
    assert list(table.index) == [*FILTERS, "java only"] and sorted(table) == sorted(STYLES)
    assert table.sum(axis=1).to_numpy() == pytest.approx(1)
    assert table.loc[ORACLE, "c"] == table.loc["java only", "java"] == 1
    for name, chosen in whole.selected.items():
        spent = Counter()
        for number in functions.number.iloc[chosen]:
            spent[POOL[number].language] += tokens[number]
        for language in STYLES:
            assert table.loc[name, language] == pytest.approx(spent[language] / spent.total())


def test_the_references_are_every_neuron_averages_that_exist_and_classifiers_fitted_outside_the_pool(
    study, whole, monkeypatch
):
    fitted, scores = {}, {}

    def noted(name):
        function = getattr(filters, name)

        def note(*arguments):
            *_, train, labels, _pool = arguments
            fitted[name] = train, labels
            scores[name] = function(*arguments)
            return scores[name]

        monkeypatch.setattr(filters, name, note)

    noted("linear_probe")
    noted("bag_of_tokens")
    table = table1.references(study)
    pool, test = table1.drawn(study, "train"), table1.drawn(study, "test")
    found = whole.scores.rosetta
    measured = ["precision", "recall", "f1", "token_precision", "token_recall", "token_f1", "f1_low", "f1_high"]
    assert list(table) == ["kind", "filter", *measured]
    kinds = ["neuron"] * found.shape[1] + ["average", "probe", "tokens"]
    assert table.kind.tolist() == kinds  # of 1, 2 and 500 only 2 makes an average
    assert table["filter"].tolist() == [*found, "mean of 2", "linear probe", "bag of tokens"]
    of_filter = table.set_index("filter").f1
    for name in found:
        assert of_filter[name] == pytest.approx(f1_by_hand(found[name], pool))
    standardized = stats.zscore(found.to_numpy(float)[:, :2])
    assert of_filter["mean of 2"] == pytest.approx(f1_by_hand(standardized.mean(axis=1), pool))
    assert of_filter["linear probe"] == pytest.approx(f1_by_hand(scores["linear_probe"], pool))
    assert of_filter["bag of tokens"] == pytest.approx(f1_by_hand(scores["bag_of_tokens"], pool))
    for _, labels in fitted.values():
        assert list(labels) == [POOL[number].language == "c" for number in test.number]
    pd.testing.assert_frame_equal(fitted["linear_probe"][0], table1.scores(study, whole.neurons, test).rosetta)
    assert fitted["bag_of_tokens"][0] == [POOL[number].text for number in test.number]
    assert not set(fitted["bag_of_tokens"][0]) & {POOL[number].text for number in pool.number}


def test_the_references_read_each_kept_file_once_however_many_neurons_there_are(study, monkeypatch):
    read, hashed, hash_of = Counter(), Counter(), results._sha256
    before = table1.references(study)  # all that it needs is kept now
    monkeypatch.setattr(results, "_sha256", lambda path: hashed.update([path.name]) or hash_of(path))
    monkeypatch.setattr(results, "_read", lambda path: read.update([path.name]) or pd.read_parquet(path))
    pd.testing.assert_frame_equal(table1.references(study), before)
    assert sum(before.kind == "neuron") > 2
    for name in ("train.parquet", "test.parquet", "scores-train.parquet", "scores-test.parquet"):
        assert read[name] == hashed[name] == 1
    assert hashed["functions-codesearchnet.parquet"] == 2  # the texts of the pool, and the test functions'


# ---------------------------------------------------------------------------------------------------------------------
# Continued pretraining


def test_every_run_has_as_many_sequences_as_every_selection_fills(whole, tokens):
    setting, functions = whole.study.profile.filtering, table1.drawn(whole.study, "train")
    filled = [
        sum(tokens[number] + 1 for number in functions.number.iloc[chosen]) // setting.training.sequence_length
        for chosen in whole.selected.values()
    ]
    assert (whole.runs.sequences == min(filled)).all()
    for name in FILTERS:
        for seed in setting.seeds:
            record = whole.study.folder / "filtering" / f"{name}-{seed}" / "adapter_model.safetensors.made-with.json"
            made_with = json.loads(record.read_text())["parameters"]
            steps = -(-min(filled) // setting.training.effective_batch)
            assert (made_with["sequences"], made_with["steps"], made_with["seed"]) == (min(filled), steps, seed)
            numbers = sorted(functions.number.iloc[whole.selected[name]])
            assert whole.trained[f"{name}-{seed}"] == [POOL[number].text for number in numbers]


def test_perplexity_is_measured_on_the_targets_test_functions(whole):
    study, runs = whole.study, whole.runs
    assert runs["filter"].tolist() == ["base", *(name for name in FILTERS for _ in (1, 2))]
    assert np.isnan(runs.seed[0]) and runs.seed[1:].tolist() == [1, 2] * 4
    spec, test = study.profile.models["gpt2-32x2"], table1.drawn(study, "test")
    texts = [POOL[number].text for number in test.number if POOL[number].language == "c"]
    assert 0 < len(texts) < len(test)
    tokenizer = models.load_tokenizer(spec)
    for row in runs[:4].itertuples():
        model = models.load(spec)
        if row.Index:
            model.load_adapter(study.folder / "filtering" / f"{row.filter}-{row.seed:.0f}")
        found = pretraining.perplexity(model, tokenizer, texts, study.profile.filtering.training.sequence_length, 3)
        assert row.perplexity == pytest.approx(found, rel=1e-5)
    assert runs.perplexity.nunique() > 5


def test_a_second_call_reads_what_is_kept_whatever_the_order_of_the_selection(study, whole, monkeypatch):
    for module, name in (
        (pretraining, "continue_pretraining"), (pretraining, "perplexity"), (table1, "load_model"), (pool, "read"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, forbidden)
    selected = {name: chosen[::-1] for name, chosen in whole.selected.items()}
    pd.testing.assert_frame_equal(table1.perplexities(study, selected), whole.runs)


def test_after_a_kill_only_what_is_missing_is_trained_and_the_numbers_are_the_same(study, whole, monkeypatch):
    trained, train = [], pretraining._trained

    def noted(model, ids, training, seed, folder, *rest):
        trained.append(folder.name)
        return train(model, ids, training, seed, folder, *rest)

    monkeypatch.setattr(pretraining, "_trained", noted)
    folder = study.folder / "filtering"
    shutil.rmtree(folder / "Rosetta-2")
    (folder / "oracle-1" / "perplexity.json").unlink()  # killed while it was measured
    pd.testing.assert_frame_equal(table1.perplexities(study, whole.selected), whole.runs)
    assert trained == ["Rosetta-2"]


@pytest.fixture
def trained(monkeypatch):
    """The runs that are trained, and on how many sequences; here it takes no time and changes nothing."""
    runs = {}

    def noted(spec, _texts, _training, _seed, folder, _device, _dtype, sequences):
        runs[folder.name] = sequences
        return models.load(spec)

    monkeypatch.setattr(pretraining, "continue_pretraining", noted)
    return runs


@pytest.mark.parametrize("change", [{"alpha": 4}, {"effective_batch": 8}])
def test_with_other_numbers_everything_is_trained_again(study, whole, trained, caplog, change):
    training = study.profile.filtering.training.model_copy(update=change)
    set_filtering(study, training=training, seeds=(1,))
    table1.perplexities(study, whole.selected)
    assert list(trained) == [f"{name}-1" for name in FILTERS]
    assert "random-1/perplexity.json was made with another training" in caplog.text


def test_with_a_further_seed_only_its_runs_are_trained(study, whole, trained):
    set_filtering(study, seeds=(2, 7))
    runs = table1.perplexities(study, whole.selected)
    assert list(trained) == [f"{name}-7" for name in FILTERS] and len(runs) == 9


def test_with_other_test_functions_everything_is_measured_again(study, whole, trained):
    set_filtering(study, test_tokens=200)
    runs = table1.perplexities(study, whole.selected)
    assert len(trained) == 8 and runs.perplexity[0] != whole.runs.perplexity[0]


def test_the_shortest_selection_decides_and_only_the_filter_whose_selection_changed_is_trained_again(study, trained):
    set_filtering(study, seeds=(1,))
    tokens = table1.drawn(study, "train").tokens.to_numpy()
    # a selection that its end-of-text tokens, one a function, bring to another sequence
    few = next(n for n in range(10, 30) if (tokens[:n].sum() + n) // 64 > tokens[:n].sum() // 64)
    sequences = (tokens[:few].sum() + few) // 64
    runs = table1.perplexities(study, {"large": np.arange(40), "small": np.arange(few)})
    assert trained == {"large-1": sequences, "small-1": sequences} and (runs.sequences == sequences).all()
    trained.clear()
    table1.perplexities(study, {"large": np.arange(5, 45), "small": np.arange(few)})
    assert trained == {"large-1": sequences}


def test_a_selection_that_fills_no_sequence_is_named_before_anything_is_measured(study, trained, monkeypatch):
    monkeypatch.setattr(pretraining, "perplexity", forbidden)
    with pytest.raises(ValueError, match="the selection of 'none' fills no sequence of 64 tokens"):
        table1.perplexities(study, {"some": np.arange(20), "none": np.arange(0)})
    assert not trained


# ---------------------------------------------------------------------------------------------------------------------
# The table


def test_the_table_holds_f1_and_the_mean_with_students_interval():
    values = {"base": [9.0], RANDOM: [4.0, 5.0, 7.5], ORACLE: [3.0, 3.5, 3.1]}
    runs = pd.DataFrame(
        [{"filter": name, "perplexity": value, "sequences": 3} for name, some in values.items() for value in some]
    )
    recovered = pd.DataFrame(
        {"filter": [ORACLE, RANDOM], "f1": [1.0, 0.06], "token_f1": [1.0, 0.05], "recall": [1.0, 0.1],
         "f1_low": [0.9, 0.05], "f1_high": [1.0, 0.08]}
    )  # fmt: skip
    table = table1.table1(recovered, runs).set_index("filter")
    of_f1 = ["f1", "f1_low", "f1_high", "token_f1"]
    assert list(table.index) == list(values) and list(table) == [*of_f1, "mean", "low", "high"]
    assert table.loc["base", [*of_f1, "low", "high"]].isna().all() and table["mean"]["base"] == 9
    assert table.loc[RANDOM, of_f1].tolist() == [0.06, 0.05, 0.08, 0.05]
    assert table.f1[1:].tolist() == [0.06, 1] and table.token_f1[1:].tolist() == [0.05, 1]
    for name in (RANDOM, ORACLE):
        half = 4.302652729911275 * np.std(values[name], ddof=1) / np.sqrt(3)  # Student's t, two degrees of freedom
        mean = np.mean(values[name])
        assert table.loc[name, ["mean", "low", "high"]].tolist() == pytest.approx([mean, mean - half, mean + half])


PRINTED = """
Base Model 6.73
Random 0.06 3.59±0.07
Non-Rosetta 0.09 3.23±0.07
Rosetta 0.98 3.02±0.05
Oracle 1.00 3.01±0.04
"""


def test_what_is_reported_is_what_the_paper_prints():
    rows = [
        re.fullmatch(r"([A-Za-z -]+) (?:([\d.]+) )?([\d.]+)(?:±([\d.]+))?", line)
        for line in PRINTED.strip().splitlines()
    ]
    numbers = [tuple(number and float(number) for number in row.groups()[1:]) for row in rows]
    assert [row[1] for row in rows] == ["Base Model", "Random", "Non-Rosetta", "Rosetta", "Oracle"]
    assert list(table1.REPORTED) == ["base", RANDOM, OTHER, ROSETTA, ORACLE]
    assert list(table1.REPORTED.values()) == numbers


def test_the_papers_numbers_stand_beside_those_that_were_measured():
    nan = np.nan
    # One seed has no interval.
    rows = [("base", nan, nan, nan, 9.04, nan), (RANDOM, 0.061, 0.052, 0.077, 7.25, 7.5),
            (ORACLE, 1.0, 0.991, 1.0, 3.21, nan)]  # fmt: skip
    columns = ["filter", "f1", "f1_low", "f1_high", "mean", "high"]
    table = table1.beside_the_papers(pd.DataFrame(rows, columns=columns))
    assert list(table.index) == ["base model", RANDOM, ORACLE]
    assert table["measured here"].to_numpy().tolist() == [
        ["", "9.0"], ["0.06 [0.05, 0.08]", "7.2 ± 0.2"], ["1.00 [0.99, 1.00]", "3.2"],
    ]  # fmt: skip
    assert table["reported there"].to_numpy().tolist() == [
        ["", "6.73"], ["0.06", "3.59 ± 0.07"], ["1.00", "3.01 ± 0.04"],
    ]  # fmt: skip
