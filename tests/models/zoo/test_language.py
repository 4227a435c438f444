import itertools
import json
import math
import shutil
import struct
import subprocess
from collections import Counter

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import train_and_kill

from rosetta import models, sources
from rosetta.models import likelihood
from rosetta.models.zoo import language as zoo
from rosetta.models.zoo import vision
from rosetta.sources import environment
from rosetta.sources.document import Document

ZOO = models.ROOT / "zoo"
WIDTHS = {"32x2": 2, "48x3": 3, "64x4": 4, "96x5": 5, "128x6": 6}

#: As many tokens as 12 steps read.
TOKENS = 12 * 16 * 128


def test_there_are_22_models_of_four_families():
    expected = [f"{family}-{size}" for family in ("pythia", "gpt2", "opt", "qwen") for size in WIDTHS]
    expected += ["pythia-192x6", "opt-192x6"]
    assert sorted(zoo.names()) == sorted(expected) and len(zoo.names()) == 22
    assert zoo.names(["gpt2"]) == [f"gpt2-{size}" for size in WIDTHS]


def test_a_name_is_read_as_family_width_and_depth():
    assert zoo.parse("pythia-192x6") == ("pythia", 192, 6)
    assert zoo.parse("gpt2-48x3") == ("gpt2", 48, 3)


@pytest.mark.parametrize("name", ["pythia", "pythia-33x2", "gpt2-192x6", "llama-32x2", "", "pythia-32x2 "])
def test_a_name_that_is_none_is_answered_with_those_that_are(name):
    with pytest.raises(ValueError, match=r"pythia-32x2.*qwen-128x6") as error:
        zoo.parse(name)
    assert repr(name) in str(error.value)


# ---------------------------------------------------------------------------------------------------------------------
# Text and tokenizers


def documents(pages: int = 30) -> list[Document]:
    texts = {
        "Python": "def f_{0}(x):\n    return x + {0}\n", "C/C++": "int f_{0}(int x) {{ return x + {0}; }}\n",
        "Arithmetic": "What is the sum of {0} and {0}?\n", "Licences": "Licence number {0}, café.\n",
    }  # fmt: skip
    return [
        Document(text.format(page) * 5, subset, environment.ENVIRONMENT_CATEGORIES[subset], f"{subset}/{page}")
        for subset, text in texts.items()
        for page in range(pages)
    ]


def test_gpt2_never_sees_c_and_every_other_family_does():
    for family in zoo.FAMILIES:
        stream = zoo.training_documents(family, documents())
        seen = Counter(document.subset for document in itertools.islice(stream, 400))
        assert ("C/C++" in seen) == (family != "gpt2")
        assert {"Python", "Arithmetic", "Licences"} <= set(seen)


def test_every_family_reads_in_an_order_of_its_own():
    orders = {
        family: [d.source for d in itertools.islice(zoo.training_documents(family, documents()), 100)]
        for family in zoo.FAMILIES
    }
    for one, other in itertools.combinations(orders.values(), 2):
        assert one != other


def tokenizer_of(family: str):
    return transformers.AutoTokenizer.from_pretrained(ZOO / f"{family}-32x2")


def test_the_four_tokenizers_are_different():
    vocabularies = {family: tokenizer_of(family).get_vocab() for family in zoo.FAMILIES}
    assert {family: len(vocabulary) for family, vocabulary in vocabularies.items()} == {
        "pythia": 2048, "gpt2": 1536, "opt": 1792, "qwen": 2304,
    }  # fmt: skip
    for one, other in itertools.combinations(vocabularies.values(), 2):
        assert len(set(one) ^ set(other)) > 100
    text = "for i in range(1000):\n    total += values[i]  # don't\n"
    cuts = {tuple(tokenizer_of(f).convert_ids_to_tokens(tokenizer_of(f)(text)["input_ids"])) for f in zoo.FAMILIES}
    assert len(cuts) == 4


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_all_sizes_of_a_family_share_its_tokenizer(family):
    files = [(ZOO / name / "tokenizer.json").read_bytes() for name in zoo.names([family])]
    assert len(set(files)) == 1


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_a_tokenizer_can_write_every_text(family):
    tokenizer = tokenizer_of(family)

    @settings(deadline=None, max_examples=60)
    @given(st.text().map(sources.normalize))
    def check(text):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
        assert tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids

    check()
    # A character outside all training text is spelled byte by byte.
    assert len(tokenizer("\U00013000", add_special_tokens=False)["input_ids"]) >= 2


def test_opt_begins_every_text_with_its_end_of_text_token_and_the_others_do_not():
    for family in zoo.FAMILIES:
        tokenizer = tokenizer_of(family)
        bare, full = (tokenizer("a b", add_special_tokens=added)["input_ids"] for added in (False, True))
        assert full == ([tokenizer.convert_tokens_to_ids("</s>"), *bare] if family == "opt" else bare)


def test_a_prepared_family_is_its_stream_in_tokens_with_documents_parted(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "TOKENIZER_BYTES", 5_000)
    zoo.prepare_family("opt", 3_000, tmp_path, documents())
    row = np.load(tmp_path / "opt-3000.npy", allow_pickle=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "opt-tokenizer")
    assert row.shape == (3_000,) and row.dtype == np.uint16
    expected = "</s>".join(d.text for d in itertools.islice(zoo.training_documents("opt", documents()), 60))
    written = tokenizer.decode(row[:-8].tolist(), clean_up_tokenization_spaces=False)
    assert len(written) > 1_000 and expected.startswith(written)
    written_at = (tmp_path / "opt-3000.npy").stat().st_mtime_ns
    zoo.prepare_family("opt", 3_000, tmp_path, [])
    assert (tmp_path / "opt-3000.npy").stat().st_mtime_ns == written_at


# ---------------------------------------------------------------------------------------------------------------------
# Training


@pytest.mark.parametrize("width", [32, 64, 192])
def test_the_learning_rate_warms_up_peaks_and_ends_at_zero(width):
    steps = 1000
    rates = [zoo.learning_rate(step, steps, width) for step in range(steps)]
    peak = 8e-3 * 64 / width
    assert max(rates) == pytest.approx(peak) and rates.index(max(rates)) in (49, 50)
    np.testing.assert_allclose(np.diff(rates[:50]), peak / 50)  # linear over the first 5%
    assert (np.diff(rates[50:]) < 0).all()
    assert rates[525] == pytest.approx(peak / 2)  # a cosine is at half its height half-way down
    assert rates[-1] < 1e-5 * peak and zoo.learning_rate(steps, steps, width) == pytest.approx(0)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Token rows of all families: short runs that repeat, so that there is something to learn."""
    folder = tmp_path_factory.mktemp("training")
    rng = np.random.default_rng(0)
    for family in zoo.FAMILIES:
        row = np.resize(np.concatenate([rng.integers(2, 1000, 7)] * 40), TOKENS)
        row[rng.random(TOKENS) < 0.2] = 5
        np.save(folder / f"{family}-{TOKENS}.npy", row.astype(np.uint16))
    return folder


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    """A model's weights after a run that nothing stopped."""
    kept = {}

    def run(name):
        if name not in kept:
            folder = shutil.copytree(prepared, tmp_path_factory.mktemp("undisturbed") / name)
            kept[name] = zoo.train(name, TOKENS, folder).state_dict()
        return kept[name]

    return run


def assert_same_weights(model, expected):
    assert model.state_dict().keys() == expected.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("name", ["pythia-32x2", "gpt2-32x2", "opt-32x2", "qwen-32x2"])
def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(prepared, undisturbed, tmp_path, name):
    folder = shutil.copytree(prepared, tmp_path / "run")
    for stop in (5, 6):
        stopped = zoo.train(name, TOKENS, folder, stop_after=stop)
    assert not torch.equal(next(iter(stopped.state_dict().values())), next(iter(undisturbed(name).values())))
    assert_same_weights(zoo.train(name, TOKENS, folder), undisturbed(name))
    # A finished run is not gone through again.
    assert_same_weights(zoo.train(name, TOKENS, folder), undisturbed(name))
    steps = [json.loads(line)["step"] for line in (folder / f"{name}-{TOKENS}.jsonl").read_text().splitlines()]
    assert steps == [12]


def test_a_run_killed_while_it_saves_goes_on_from_its_last_whole_checkpoint(prepared, undisturbed, tmp_path):
    folder = shutil.copytree(prepared, tmp_path / "run")
    train_and_kill(zoo, "pythia-32x2", TOKENS, folder, whole=3)
    assert header(folder / f"pythia-32x2-{TOKENS}.safetensors")["__metadata__"]["step"] == "3"
    assert_same_weights(zoo.train("pythia-32x2", TOKENS, folder), undisturbed("pythia-32x2"))


def test_training_learns(prepared, undisturbed):
    ids = torch.from_numpy(np.load(prepared / f"pythia-{TOKENS}.npy")[:1280].astype(np.int64)).view(10, 128)
    model = zoo.untrained("pythia-32x2", 0)
    with torch.no_grad():
        before = likelihood.next_token_nats(model, ids).mean()
        model.load_state_dict(undisturbed("pythia-32x2"))
        after = likelihood.next_token_nats(model, ids).mean()
    assert before > math.log(2048) - 0.5  # it knows nothing
    assert after < before - 1


# ---------------------------------------------------------------------------------------------------------------------
# Bits per byte


@pytest.mark.parametrize("name", ["pythia-32x2", "opt-32x2"])
def test_bits_per_byte_is_what_a_direct_computation_gives(name):
    model = models.load(models.describe(ZOO / name))
    tokenizer = transformers.AutoTokenizer.from_pretrained(ZOO / name)
    texts = ["def f(x):\n    return x\n" * 9, "é and more.", "x"]
    measured = zoo.bits_per_byte(model, tokenizer, [Document(t, "", "", "") for t in texts], context=16)

    exact, bits = model.double(), 0.0
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        while ids:
            window, ids = [tokenizer.eos_token_id, *ids[:15]], ids[15:]
            for i in range(1, len(window)):  # one token at a time: nothing after it can leak in
                scores = exact(input_ids=torch.tensor([window[:i]])).logits[0, -1].numpy()
                bits -= math.log2(math.exp(scores[window[i]] - scores.max()) / np.exp(scores - scores.max()).sum())
    assert measured == pytest.approx(bits / sum(len(t.encode()) for t in texts), rel=1e-5)


def test_a_model_that_knows_nothing_needs_the_logarithm_of_its_vocabulary():
    model = zoo.untrained("gpt2-32x2", 0)
    for parameter in model.parameters():
        parameter.data.zero_()
    tokenizer = tokenizer_of("gpt2")
    text = "Some text of no particular kind."
    tokens = len(tokenizer(text)["input_ids"])
    expected = tokens * math.log2(1536) / len(text)
    assert zoo.bits_per_byte(model, tokenizer, [Document(text, "", "", "")]) == pytest.approx(expected, rel=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# The models that come with the kit


def header(path) -> dict:
    """What a safetensors file says of its tensors: eight bytes of length, then JSON."""
    data = path.read_bytes()
    return json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])


def card_of(name: str) -> dict:
    return next(card for card in models.zoo_cards() if card["name"] == name)


def test_every_model_has_a_card():
    cards = [card for card in models.zoo_cards() if card.pop("modality") == "text"]
    assert sorted(card["name"] for card in cards) == sorted(zoo.names())
    for card in cards:
        assert set(card) == {
            "name", "family", "path", "layers", "mlp_width", "parameters", "tokens", "heldout_bits_per_byte",
        }  # fmt: skip
        assert json.loads((ZOO / card["path"] / "card.json").read_text()) == card


@pytest.mark.parametrize("name", zoo.names())
def test_a_shipped_model_is_what_its_card_says(name):
    card = card_of(name)
    tensors = header(ZOO / card["path"] / "model.safetensors")
    tensors.pop("__metadata__", None)
    assert {tensor["dtype"] for tensor in tensors.values()} == {"F16"}
    assert sum(math.prod(tensor["shape"]) for tensor in tensors.values()) == card["parameters"]
    # The first layer of each MLP, under the name its architecture gives it, leads from the width to the neurons.
    first = {"pythia": "mlp.dense_h_to_4h.weight", "gpt2": "mlp.c_fc.weight", "opt": "fc1.weight"}
    ending = first.get(card["family"], "mlp.up_proj.weight")
    shapes = [sorted(t["shape"]) for tensor, t in tensors.items() if tensor.endswith(ending)]
    width, depth = map(int, name.partition("-")[2].split("x"))
    assert shapes == [[width, card["mlp_width"]]] * card["layers"]
    assert card["layers"] == depth and card["mlp_width"] == 4 * width
    assert card["family"] == name.partition("-")[0]


@pytest.mark.parametrize("name", zoo.names())
def test_a_shipped_model_loads_with_transformers_alone(name):
    path = ZOO / card_of(name)["path"]
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    ids = tokenizer("import numpy as", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    assert logits.shape == (1, ids.shape[1], len(tokenizer)) and torch.isfinite(logits).all()
    assert sum(p.numel() for p in model.parameters()) == card_of(name)["parameters"]


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_the_heldout_loss_falls_with_size_in_every_family(family):
    cards = sorted((c for c in models.zoo_cards() if c["family"] == family), key=lambda card: card["parameters"])
    losses = [card["heldout_bits_per_byte"] for card in cards]
    assert len(losses) >= 5 and losses == sorted(losses, reverse=True) and len(set(losses)) == len(losses)
    assert 0.5 < losses[-1] < losses[0] < 3


@pytest.mark.parametrize("name", ["pythia-48x3", "gpt2-48x3", "opt-48x3", "qwen-48x3"])
def test_a_shipped_model_knows_text_that_it_was_not_trained_on(name):
    # The library's own source was never in the corpus; the bound is far above the card and far below ignorance.
    model = models.load(models.describe(ZOO / name))
    text = (models.ROOT / "lib" / "rosetta" / "laws" / "scaling.py").read_text(encoding="utf-8")
    measured = zoo.bits_per_byte(model, tokenizer_of(name.partition("-")[0]), [Document(text, "", "", "")])
    assert 0.8 < measured < 3.5


def test_the_zoo_is_small_and_holds_no_pickles():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "zoo"], cwd=models.ROOT, capture_output=True, text=True, check=True
    )
    files = [models.ROOT / name for name in listed.stdout.split("\0") if name]
    of_images = [file for file in files if file.parent.name in vision.names()]
    assert sum(file.stat().st_size for file in set(files) - set(of_images)) <= 40_000_000
    # The four families of Table 3's curves, and DINOv3 for Figure 38 beside them.
    dinov3 = [file for file in of_images if file.parent.name.startswith("dinov3")]
    assert sum(file.stat().st_size for file in set(of_images) - set(dinov3)) <= 20 * 2**20
    assert sum(file.stat().st_size for file in dinov3) <= 6 * 2**20
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".md"}
    assert len([file for file in set(files) - set(of_images) if file.suffix == ".safetensors"]) == 22
