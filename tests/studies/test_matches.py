import json
import logging
import shutil

import numpy as np
import pytest
import tokenizers
import torch
import transformers
import yaml
from conftest import OTHER, PAIR, mutual
from safetensors.numpy import load_file, save_file
from tokenizers import decoders, pre_tokenizers

from rosetta import models
from rosetta.matching.activations import BadActivations
from rosetta.matching.batches import HeldBatches
from rosetta.matching.positions import thinning
from rosetta.matching.texts import Reader
from rosetta.profiles import ProfileError
from rosetta.sources import environment
from rosetta.studies import amounts, matches, noticed, shown
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


@pytest.mark.parametrize(
    "asked", [{"first": 2, "size": None}, {"first": None, "size": 1.5}, {"first": 1, "size": 1.5}], ids=str
)
@pytest.mark.parametrize("memory_gb", [1, 0.003])  # held, and streamed
def test_matches_without_outliers_are_those_over_the_positions_that_are_left(profile, tmp_path, asked, memory_gb):
    positions = yaml.safe_load(profile().read_text())["positions"] | {"outliers": asked | {"curves": True}}
    nulls = yaml.safe_load(profile().read_text())["nulls"] | {"permuted_tokens": 700}
    one = Study(profile(positions=positions, nulls=nulls, memory_gb=memory_gb, sequences_per_batch=2), tmp_path)
    a, b = (torch.cat(side) for side in zip(*one.batches(PAIR), strict=True))
    left = np.concatenate([np.arange(len(piece.canonical)) >= (asked["first"] or 0) for piece in one.pieces(PAIR)])
    for side in (a, b) if asked["size"] else ():  # as the trained models have it, for the untrained as well
        x = side[:, side.std(0) > 0].double()
        left &= ((((x - x.mean(0)) / x.std(0, correction=0)) ** 2).mean(1).sqrt() <= asked["size"]).numpy()
    first = sum(len(piece.canonical) for piece in one.pieces(PAIR, 700))
    assert 0.5 * len(a) < left.sum() < len(a) and (one.left(PAIR) == left).all()
    untrained = [torch.cat(side)[left] for side in zip(*one.batches(PAIR, untrained_seed=2), strict=True)]
    same = [side[:first][left[:first]] for side in (a, b)]
    for table, rows in (
        (one.matches(PAIR, without=True), (a[left], b[left])),
        (one.untrained_matches(PAIR, without=True)[1], untrained),
        (one.same_positions_matches(PAIR, without=True), same),
    ):
        best = table[(table.rank_a == 1) & (table.rank_b == 1)]
        found = {(m.layer_a * 128 + m.unit_a, m.layer_b * 128 + m.unit_b) for m in best.itertuples()}
        assert table.attrs["positions"] == len(rows[0]) and len(found ^ mutual(correlations([rows]))) <= 2 < 20 < len(
            found
        )
    permuted = one.permuted_matches(PAIR, without=True)
    assert [table.attrs["positions"] for table in permuted] == [len(same[0])] * 2
    assert not permuted[0].equals(one.permuted_matches(PAIR)[0])
    assert one.matches(PAIR).attrs["positions"] == len(a)  # each is kept under its own name


def test_permuted_matches_do_not_depend_on_whether_memory_holds_the_activations(profile, tmp_path, calls):
    """2,000 positions of 512 neurons are 4 MB; a batch of 2 sequences, as both read it, is 1.3 MB at its peak."""
    roomy = Study(profile(memory_gb=1, sequences_per_batch=2), tmp_path / "a").permuted_matches(PAIR)
    tight = Study(profile(memory_gb=0.003, sequences_per_batch=2), tmp_path / "b").permuted_matches(PAIR)
    assert isinstance(calls[0].batches, HeldBatches) and calls[0].batches is calls[1].batches
    assert not any(isinstance(call.batches, HeldBatches) for call in calls[len(roomy) :])
    for a, b in zip(roomy, tight, strict=True):
        assert same(a, b)


def test_a_permuted_null_over_fewer_positions_stands_beside_the_trained_match_over_the_same_ones(
    profile, tmp_path, calls
):
    nulls = yaml.safe_load(profile().read_text())["nulls"]
    one = Study(profile(nulls=nulls | {"permuted_tokens": 700}, sequences_per_batch=2), tmp_path)
    table, permuted = one.same_positions_matches(PAIR), one.permuted_matches(PAIR)
    tokens, first = 0, 0  # the segments up to the one that reaches 700 tokens
    for piece in one.batches(PAIR).pieces:
        tokens, first = tokens + len(piece.ids_a), first + len(piece.canonical)
        if tokens >= 700:
            break
    assert [other.attrs["positions"] for other in (table, *permuted)] == [first] * 3
    a, b = (torch.cat(side) for side in zip(*one.batches(PAIR), strict=True))
    assert 500 < first < 0.6 * len(a)
    corr = correlations([(a[:first], b[:first])])
    best = table[(table.rank_a == 1) & (table.rank_b == 1)]
    found = {(m.layer_a * 128 + m.unit_a, m.layer_b * 128 + m.unit_b): m.correlation for m in best.itertuples()}
    assert len(found.keys() ^ mutual(corr)) <= 2 and len(found) > 20
    for other in permuted:  # the same rows, so the same neurons never change; but not the same pairs
        assert {k: other.attrs[k] for k in ("dead_a", "dead_b")} == {k: table.attrs[k] for k in ("dead_a", "dead_b")}
        assert other.correlation.median() < table.correlation.median() / 2
    assert len(calls) == 3 and one.matches(PAIR).attrs["positions"] == len(a)


def test_a_permuted_null_over_all_positions_has_nothing_matched_twice(profile, tmp_path, calls):
    one = Study(profile(), tmp_path)
    assert same(one.same_positions_matches(PAIR), one.matches(PAIR)) and len(calls) == 1
    positions = one.matches(PAIR).attrs["positions"]
    assert [table.attrs["positions"] for table in one.permuted_matches(PAIR)] == [positions] * 2 and len(calls) == 3


def test_what_is_matched_of_trained_models_is_read_once_and_its_text_listed_once(profile, tmp_path, monkeypatch):
    read, listed = [], []
    pooled, cut = Reader.read_pooled, shown.segments
    monkeypatch.setattr(Reader, "read_pooled", lambda self, *args: read.append(self) or pooled(self, *args))
    monkeypatch.setattr(shown, "segments", lambda *args: listed.append(args) or cut(*args))
    one = Study(profile(sequences_per_batch=1_000), tmp_path)
    one.matches(PAIR), one.permuted_matches(PAIR), one.best_pairs(PAIR)
    assert [reader.name for reader in read] == list(PAIR)
    one.untrained_matches(PAIR)
    assert [reader.name for reader in read] == [*PAIR] * 3 and len(listed) == 1
    one.matches(OTHER)
    assert len(read) == 8 and len(listed) == 2


def test_the_models_of_a_family_have_one_listing_of_the_text_and_another_family_its_own(profile, tmp_path):
    one = Study(profile(), tmp_path)
    small, large, opt = (
        models.load_tokenizer(models.ModelSpec(name, f"zoo/{name}", family, 2, 128))
        for name, family in (("pythia-32x2", "pythia"), ("pythia-48x3", "pythia"), ("opt-32x2", "opt"))
    )
    assert one.windows(small) is one.windows(large) is not one.windows(opt)
    listed = one.windows(small)
    first, again = list(listed), list(listed)
    assert len(first) > 5 and all(a is b for a, b in zip(first, again, strict=True))


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
    monkeypatch.setattr(noticed, "ROOT", root)
    for _ in range(2):
        assert {d.subset for d in one.documents()} >= {"Arithmetic"}
    (message,) = [r.getMessage() for r in caplog.records if "than recorded" in r.getMessage()]
    assert "Arithmetic" in message and "instead of 0.0.1" in message


# ---------------------------------------------------------------------------------------------------------------------
# Memory and devices


def peak(sequences: int, size: int = 4) -> float:
    """Gigabytes at the peak of a batch of both models: 64 tokens, each 2 layers of 128, and 8 layers beside them."""
    return 2 * sequences * 64 * (2 * 128 + 8 * 128) * size / 2**30


@pytest.mark.parametrize("dtype, size", [("float32", 4), ("bfloat16", 2)])
def test_a_batch_is_cut_to_half_of_the_memory_and_that_is_said_once(profile, tmp_path, caplog, dtype, size):
    path = profile(memory_gb=2 * peak(5, size) * 1.01, dtype=dtype, name=f"cut-{dtype}")
    cut = Study(path, tmp_path)
    batches = cut.batches(PAIR)
    assert batches.per_batch == 5 == cut.parameters(PAIR)["sequences_per_batch"]
    assert max(len(a) for a, _ in batches) <= 5 * 64
    assert cut.per_batch(PAIR) == 5 and cut.per_batch(PAIR[:1]) == 10  # alone it has all of it
    (said,) = [record.message for record in caplog.records if "pythia-32x2 and opt-32x2 read" in record.message]
    assert f"cut-{dtype}.yaml: memory_gb is" in said and "read 5 sequences at a time, not 32" in said


def test_a_batch_that_fits_is_what_the_profile_says_and_nothing_is_said(profile, tmp_path, caplog):
    roomy = Study(profile(memory_gb=2 * peak(32) * 1.01), tmp_path)
    assert roomy.batches(PAIR).per_batch == 32 and not caplog.records


@pytest.mark.parametrize("name", ["smoke", "micro"])
def test_no_batch_of_the_zoo_is_cut(name):
    study = Study(name)
    asked = {pair: amounts.asked_per_batch(study.profile, pair) for pair in study.profile.pairs}
    assert {pair: study.per_batch(pair) for pair in asked} == asked


def test_every_pair_of_the_paper_is_read_in_the_memory_it_is_given():
    study = Study("paper")
    assert {study.per_batch(pair) for pair in study.profile.of("images")[1]} == {study.profile.images.images_per_batch}
    per_batch = {pair: study.per_batch(pair) for pair in study.profile.of("text")[1]}
    largest = per_batch["opt-30b", "qwen2.5-32b"]
    assert min(per_batch.values()) == largest and max(per_batch.values()) == study.profile.sequences_per_batch
    one = 2 * 1024 * (48 * 28672 + 64 * 27648)  # bytes of the activations of one sequence, in bfloat16
    assert largest * one < study.profile.memory_gb / 2 * 2**30 < 1.25 * (largest + 1) * one


def test_a_memory_that_does_not_hold_one_sequence_is_refused(profile, tmp_path):
    path = profile(memory_gb=peak(1))  # of which half is for the batch
    with pytest.raises(
        ProfileError, match=r"one sequence of 64 tokens takes .* of pythia-32x2 and opt-32x2: give more"
    ):
        Study(path, tmp_path).matches(PAIR)
    assert not list((tmp_path / "tiny").rglob("*.parquet"))


def placed(profile, **devices) -> dict:
    """The models of the tiny profile, some with a device of their own."""
    specs = yaml.safe_load(profile().read_text())["models"]
    for name, device in devices.items():
        specs[name]["device"] = device
    return specs


def test_a_model_goes_where_it_says_and_the_others_where_the_profile_says(profile, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    own = placed(profile, **{"pythia-32x2": "cuda:2", "opt-32x2": "spread"})
    study = Study(profile(models=own, device="auto"), tmp_path)
    where = {name: study.device_of(name) for name in study.profile.models}
    assert where == {"pythia-32x2": "cuda:2", "opt-32x2": "spread", "gpt2-32x2": "cuda"} and study.device == "cuda"
    asked = []
    monkeypatch.setattr(shown, "load_model", lambda spec, *rest: asked.append((spec.name, *rest)) or models.load(spec))
    untrained = models.load_untrained
    monkeypatch.setattr(
        shown, "load_untrained", lambda spec, seed, *rest: asked.append((spec.name, *rest)) or untrained(spec, seed)
    )
    study.batches(PAIR), study.reader("opt-32x2", untrained_seed=1), study.model("gpt2-32x2")
    assert asked == [
        ("pythia-32x2", "cuda:2", torch.float32), ("opt-32x2", "spread", torch.float32),
        ("opt-32x2", "spread", torch.float32), ("gpt2-32x2", "cuda", torch.float32),
    ]  # fmt: skip


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_named_with_its_model(profile, tmp_path, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device != "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(device != "cuda"))
    there = rf"is '{device}', but there are {int(device != 'cuda')} GPUs here"
    with pytest.raises(ProfileError, match=rf"tiny.yaml: models\.opt-32x2\.device {there}"):
        Study(profile(models=placed(profile, **{"opt-32x2": device})), tmp_path)
    with pytest.raises(ProfileError, match=rf"tiny.yaml: device {there}"):
        Study(profile(device=device), tmp_path)


def test_matches_do_not_depend_on_where_the_models_are(profile, tmp_path):
    """On the one device that is here, laid out by accelerate or not."""
    plain = Study(profile(), tmp_path / "plain")
    spread = Study(profile(models=placed(profile, **{"pythia-32x2": "cpu", "opt-32x2": "spread"})), tmp_path / "spread")
    assert same(spread.matches(PAIR), plain.matches(PAIR))
    for a, b in zip(spread.untrained_matches(PAIR), plain.untrained_matches(PAIR), strict=True):
        assert same(a, b)


def test_matches_in_bfloat16_are_those_of_the_very_batches_in_float64(profile, tmp_path):
    """The batches are in bfloat16, and nothing that is computed of them is."""
    half = Study(profile(dtype="bfloat16"), tmp_path)
    batches = half.batches(PAIR)
    assert {x.dtype for batch in batches for x in batch} == {torch.bfloat16}
    corr, table = correlations(batches), half.matches(PAIR)
    best = table[(table.rank_a == 1) & (table.rank_b == 1)]
    for m in best.itertuples():
        assert m.correlation == pytest.approx(corr[m.layer_a * 128 + m.unit_a, m.layer_b * 128 + m.unit_b], abs=1e-4)
    single = Study(profile(), tmp_path / "single").matches(PAIR)
    keys = ["layer_a", "unit_a", "layer_b", "unit_b"]
    both, of_single = best.merge(single, on=keys), single[(single.rank_a == 1) & (single.rank_b == 1)]
    assert len(both) > 0.8 * len(of_single) and (both.correlation_x - both.correlation_y).abs().max() < 0.02
