import json
import logging
import shutil

import numpy as np
import pytest
import tokenizers
import torch
import transformers
import yaml
from conftest import PAIR, mutual
from safetensors.numpy import load_file, save_file
from tokenizers import decoders, pre_tokenizers

from rosetta import models
from rosetta.matching.activations import BadActivations, HeldBatches
from rosetta.matching.positions import thinning
from rosetta.sources import environment
from rosetta.studies import matches
from rosetta.studies.matches import Study


@pytest.fixture
def calls(monkeypatch):
    """Counts how often something is matched, while matching goes on as ever."""
    made = []

    def counted(match):
        def matched(batches, *args, **kwargs):
            made.append(batches)
            return match(batches, *args, **kwargs)

        return matched

    for name in ("match_batches", "match_thinned"):
        monkeypatch.setattr(matches, name, counted(getattr(matches, name)))
    return made


def correlations(batches) -> np.ndarray:
    """All Pearson correlations in float64, from numpy's own function; NaN where a neuron never changes."""
    a, b = (torch.cat(side).double().numpy() for side in zip(*batches, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.corrcoef(a, b, rowvar=False)[: a.shape[1], a.shape[1] :]


def same(a, b) -> bool:
    return a.equals(b) and a.attrs == b.attrs


def test_matches_are_computed_once_and_kept(profile, tmp_path, calls):
    path = profile()
    first = Study(path, tmp_path).matches(PAIR)
    again = Study(path, tmp_path).matches(PAIR)
    assert len(calls) == 1 and same(first, again)
    kept = tmp_path / "tiny" / "matches" / "pythia-32x2--opt-32x2.parquet"
    assert kept.exists() and set(first.model_a) == {"pythia-32x2"} and set(first.model_b) == {"opt-32x2"}
    kept.unlink()
    assert same(Study(path, tmp_path).matches(PAIR), first) and len(calls) == 2


@pytest.mark.parametrize(
    "change", [{"tokens": 1_500}, {"seed": 1}, {"context": 32}, {"excerpt_characters": 100}, {"k": [1, 3]}]
)
def test_other_numbers_are_not_answered_with_the_old_ones(profile, tmp_path, calls, caplog, change):
    before = Study(profile(), tmp_path).matches(PAIR)
    after = Study(profile(**change), tmp_path).matches(PAIR)
    assert len(calls) == 2 and not same(before, after)
    assert "pythia-32x2--opt-32x2.parquet" in caplog.text and next(iter(change)) in caplog.text


def test_a_changed_text_and_a_changed_model_are_noticed(profile, tmp_path, calls):
    text, folder = tmp_path / "own.txt", tmp_path / "pythia"
    text.write_text("def f(x):\n    return x + 1\n" * 40)
    shutil.copytree(models.ROOT / "zoo" / "pythia-32x2", folder)
    specs = yaml.safe_load(profile().read_text())["models"]
    specs["pythia-32x2"]["source"] = str(folder)
    path = profile(corpus={"kind": "files", "paths": [str(text)]}, models=specs)
    Study(path, tmp_path).matches(PAIR)
    text.write_text("def g(y):\n    return y * 2\n" * 40)
    Study(path, tmp_path).matches(PAIR)
    assert len(calls) == 2
    tensors = load_file(folder / "model.safetensors")
    tensors["gpt_neox.layers.0.mlp.dense_h_to_4h.bias"][:10] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    Study(path, tmp_path).matches(PAIR)
    Study(path, tmp_path).matches(PAIR)
    assert len(calls) == 3


def test_matches_are_the_mutual_nearest_neighbours_of_the_models_activations(profile, tmp_path):
    one = Study(profile(), tmp_path)
    table = one.matches(PAIR)
    corr = correlations(one.batches(PAIR))
    best = table[(table.rank_a == 1) & (table.rank_b == 1)]
    found = {(m.layer_a * 128 + m.unit_a, m.layer_b * 128 + m.unit_b): m.correlation for m in best.itertuples()}
    # float32 and float64 may order two neighbours differently that are equally near
    assert len(found.keys() ^ mutual(corr)) <= 2 and len(found) > 20
    for (u, v), value in found.items():
        assert value == pytest.approx(corr[u, v], abs=1e-4)
    assert table.attrs["positions"] == sum(len(a) for a, _ in one.batches(PAIR))


@pytest.mark.parametrize("seed", [None, 1])
def test_thinned_matches_are_those_over_the_spans_that_are_kept(profile, tmp_path, seed):
    one = Study(profile(), tmp_path)
    table = one.thinned_matches(PAIR) if seed is None else one.thinned_untrained_matches(PAIR)[0]
    batches = one.batches(PAIR, untrained_seed=seed)
    kept = thinning(batches.pieces, one.profile.positions.t, one.profile.seed)
    a, b = (torch.cat(side) for side in zip(*batches, strict=True))
    assert table.attrs["positions"] == kept.sum() < len(a) == len(kept)
    corr = correlations([(a[kept], b[kept])])
    best = table[(table.rank_a == 1) & (table.rank_b == 1)]
    found = {(m.layer_a * 128 + m.unit_a, m.layer_b * 128 + m.unit_b): m.correlation for m in best.itertuples()}
    assert len(found.keys() ^ mutual(corr)) <= 2 and len(found) > 20
    assert all(value == pytest.approx(corr[pair], abs=1e-4) for pair, value in found.items())


def test_both_kinds_of_positions_are_matched_at_once_and_another_t_asks_for_both_again(profile, tmp_path, calls):
    positions = yaml.safe_load(profile().read_text())["positions"]
    first = Study(profile(), tmp_path)
    first.thinned_matches(PAIR), first.matches(PAIR)
    assert len(calls) == 1
    other = Study(profile(positions=positions | {"t": 0.01}), tmp_path)
    assert same(other.matches(PAIR), first.matches(PAIR)) and len(calls) == 2
    assert other.thinned_matches(PAIR).attrs["positions"] > first.thinned_matches(PAIR).attrs["positions"]


def test_permuted_matches_do_not_depend_on_whether_memory_holds_the_activations(profile, tmp_path, calls):
    roomy = Study(profile(memory_gb=1), tmp_path / "a").permuted_matches(PAIR)
    tight = Study(profile(memory_gb=0.001), tmp_path / "b").permuted_matches(PAIR)
    assert isinstance(calls[0].batches, HeldBatches) and calls[0].batches is calls[1].batches
    assert not any(isinstance(call.batches, HeldBatches) for call in calls[len(roomy) :])
    for a, b in zip(roomy, tight, strict=True):
        assert same(a, b)


def test_two_untrained_families_and_two_seeds_are_four_different_networks(profile, tmp_path):
    one = Study(profile(), tmp_path)
    weights = [
        one.reader(name, untrained_seed=seed).mlps[0].projection.weight.flatten()[:50]
        for name in ("pythia-32x2", "opt-32x2")
        for seed in (1, 2)
    ]
    assert len({tuple(w.tolist()) for w in weights}) == 4


# ---------------------------------------------------------------------------------------------------------------------
# What may be wrong


def test_a_corpus_smaller_than_the_budget_is_said_and_used(profile, tmp_path, caplog):
    path = profile(tokens=10**7)
    with caplog.at_level(logging.WARNING):
        table = Study(path, tmp_path).matches(PAIR)
    assert "of the 10000000 tokens asked for" in caplog.text
    assert len(table) and 0 < table.attrs["positions"] < 64 * 60


def test_a_corpus_of_one_document_works(profile, tmp_path):
    text = tmp_path / "only.txt"
    text.write_text((models.ROOT / "lib" / "rosetta" / "laws" / "scaling.py").read_text())
    path = profile(corpus={"kind": "files", "paths": [str(text)]}, segments_per_document=None, tokens=500)
    table = Study(path, tmp_path).matches(PAIR)
    assert len(table) and table.attrs["positions"] > 10


@pytest.mark.parametrize("wrong", [{"layers": 3}, {"mlp_width": 64}])
def test_a_profile_that_misstates_a_model_is_corrected(profile, tmp_path, wrong):
    specs = yaml.safe_load(profile().read_text())["models"]
    specs["opt-32x2"] |= wrong
    with pytest.raises(ValueError, match=r"opt-32x2 is said to have .* the model has 2 of 128"):
        Study(profile(models=specs), tmp_path).matches(PAIR)


def byte_level_tokenizer(merge: tuple[str, str]):
    """A byte-level tokenizer that knows one merge."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "".join(merge)]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({t: i for i, t in enumerate(tokens)}, [merge]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_tokenizers_without_a_shared_boundary_within_the_context_are_refused(profile, tmp_path):
    specs = yaml.safe_load(profile().read_text())["models"]
    for name, merge in {"pythia-32x2": ("a", "b"), "opt-32x2": ("b", "a")}.items():
        shutil.copytree(models.ROOT / "zoo" / name, tmp_path / name)
        byte_level_tokenizer(merge).save_pretrained(tmp_path / name)
        specs[name]["source"] = str(tmp_path / name)
    text = tmp_path / "abab.txt"
    text.write_text("ab" * 200)  # ab|ab|ab for one, a|ba|ba|b for the other
    path = profile(models=specs, corpus={"kind": "files", "paths": [str(text)]})
    with pytest.raises(ValueError, match="boundaries that both tokenizers share"):
        Study(path, tmp_path).matches(PAIR)
    assert not list((tmp_path / "tiny").rglob("*.parquet"))


def test_weights_that_are_not_numbers_are_named_by_model_and_layer(profile, tmp_path):
    specs = yaml.safe_load(profile().read_text())["models"]
    folder = shutil.copytree(models.ROOT / "zoo" / "opt-32x2", tmp_path / "broken")
    tensors = load_file(folder / "model.safetensors")
    (name,) = [name for name in tensors if name.endswith("layers.1.fc1.bias")]
    tensors[name][3] = np.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    specs["opt-32x2"]["source"] = str(folder)
    with pytest.raises(BadActivations, match=r"opt-32x2, layer 1: NaN"):
        Study(profile(models=specs), tmp_path).matches(PAIR)


def test_another_environment_than_the_recorded_one_is_named_once(profile, tmp_path, monkeypatch, caplog):
    for name, few in {
        "SCIENTIFIC": (), "GENERAL": ("jinja2",), "PYTHON_CODE": ("jinja2",), "HEADERS": (), "CYTHON": (),
        "DESCRIBED": ("jinja2",), "ARITHMETIC_DOCUMENTS": 40,
    }.items():  # fmt: skip
        monkeypatch.setattr(environment, name, few)
    root = tmp_path / "kit"
    (root / "zoo").mkdir(parents=True)
    recorded = {
        "distributions": {"jinja2": "0.0.1"},
        "heldout": environment.manifest(environment.environment_documents("heldout")),
    }
    recorded["heldout"]["Arithmetic"]["sha256"] = "0" * 64
    (root / "zoo" / "corpus.json").write_text(json.dumps(recorded))
    one = Study(profile(corpus={"kind": "environment", "split": "heldout"}), tmp_path)
    monkeypatch.setattr(matches, "ROOT", root)
    for _ in range(2):
        assert {d.subset for d in one.documents()} >= {"Arithmetic"}
    (message,) = [r.getMessage() for r in caplog.records if "than recorded" in r.getMessage()]
    assert "Arithmetic" in message and "instead of 0.0.1" in message
