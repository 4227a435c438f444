import json
import shutil

import accelerate
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from rosetta import models
from rosetta.matching.texts import Reader
from rosetta.models.load import ROOT, ModelSpec


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny GPT-2 as `save_pretrained` leaves it: 3 layers of 40 neurons, weights without meaning."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=8, n_layer=3, n_head=2, n_positions=16, n_inner=40, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def copy_of(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / folder.name)


def weights(model) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


def same(a, b) -> bool:
    return all(torch.equal(x, weights(b)[name]) for name, x in weights(a).items())


def test_a_folder_is_described_by_its_models_structure(folder):
    spec = models.describe(folder)
    assert (spec.name, spec.family, spec.layers, spec.mlp_width) == ("tiny", "mine", 3, 40)
    assert spec.neurons == 3 * 40 and spec.location == str(folder)
    assert models.describe(folder, "other", "gpt2")[:3] == ("other", str(folder), "gpt2")


def test_a_source_is_a_folder_of_the_kit_where_there_is_one_and_a_hub_name_otherwise():
    assert ModelSpec("a", "zoo/pythia-32x2", "pythia", 2, 128).location == str(ROOT / "zoo" / "pythia-32x2")
    assert ModelSpec("a", "EleutherAI/pythia-160m", "pythia", 12, 3072).location == "EleutherAI/pythia-160m"


def test_a_loaded_model_has_the_weights_of_its_file_and_is_not_for_training(folder):
    model = models.load(models.describe(folder))
    stored = load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(
        model.transformer.h[2].mlp.c_fc.weight.numpy(), stored["transformer.h.2.mlp.c_fc.weight"]
    )
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    halved = models.load(models.describe(folder), dtype=torch.bfloat16)
    assert {p.dtype for p in halved.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("device", ["spread", {"": "cpu"}])
def test_a_model_that_is_laid_out_by_accelerate_is_the_same(folder, device):
    """Over the one device that is here."""
    spec = models.describe(folder)._replace(device="cuda:7")  # which is the profile's affair
    for load in (models.load, lambda *rest: models.load_untrained(rest[0], 5, *rest[1:])):
        laid_out, plain = (load(spec, where, torch.bfloat16) for where in (device, "cpu"))
        assert same(laid_out, plain) and {p.dtype for p in laid_out.parameters()} == {torch.bfloat16}
        assert not laid_out.training and not any(p.requires_grad for p in laid_out.parameters())


def test_a_model_whose_parts_accelerate_moves_about_is_read_and_not_changed(tmp_path):
    """With hooks that fetch a block from elsewhere, here from the disk, as they would from another GPU."""
    spec = models.describe("zoo/opt-48x3")
    plain, parts, ids = Reader.open(spec), models.load(spec), [[5, 6, 7, 8], [9, 10]]
    decoder = dict(parts.model.decoder.named_children())
    places = {f"model.decoder.{name}": "cpu" for name in decoder if name != "layers"}
    places |= {f"model.decoder.layers.{i}": "disk" if i == 1 else "cpu" for i in range(3)} | {"lm_head": "cpu"}
    parts = accelerate.dispatch_model(parts, places, main_device="cpu", offload_dir=tmp_path)
    assert parts.model.decoder.layers[1].fc1.weight.is_meta
    found, expected = (reader.read(ids)[0] for reader in (Reader("parts", parts, plain.tokenizer), plain))
    assert torch.equal(found, expected)


def test_a_model_that_would_be_fetched_for_every_batch_is_refused(folder):
    spec = models.describe(folder)
    for places in ({"transformer": "cpu", "lm_head": "disk"}, {"transformer": "cpu", "lm_head": 0}):
        with pytest.raises(
            models.ModelRefused, match=r"model tiny: it does not fit the devices here: [12] of its 2 parts .*more GPUs"
        ):
            models.load_untrained(spec, 1, places)


def test_an_untrained_model_is_drawn_no_wider_than_asked_for(folder, tmp_path, monkeypatch):
    drawn, from_config = [], transformers.AutoModelForCausalLM.from_config

    def watched(*args, **kwargs):
        model = from_config(*args, **kwargs)
        drawn.append(model.dtype)
        return model

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_config", watched)
    halves = copy_of(folder, tmp_path)
    config = json.loads((halves / "config.json").read_text())
    (halves / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    for source, dtype in (
        (folder, torch.float32),
        (folder, torch.bfloat16),
        (halves, torch.float32),
        (halves, torch.bfloat16),
    ):
        assert models.load_untrained(models.describe(source), 1, dtype=dtype).dtype == dtype
    # The third of them as ever: what is kept of the zoo's untrained networks rests on it.
    assert [drawn[i] for i in (1, 3, 5, 7)] == [torch.float32, torch.bfloat16, torch.float16, torch.float16]


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_float16_on_a_cpu_is_refused(folder, device):
    with pytest.raises(ValueError, match="float32 or bfloat16"):
        models.load(models.describe(folder), device, torch.float16)


def test_the_fingerprint_changes_with_the_weights_and_not_with_the_place(folder, tmp_path):
    before = models.fingerprint(models.describe(folder))
    copy = copy_of(folder, tmp_path)
    assert models.fingerprint(models.describe(copy, "other name", "other family")) == before
    (copy / "README.md").write_text("Not part of the model.")
    assert models.fingerprint(models.describe(copy)) == before
    tensors = load_file(copy / "model.safetensors")
    tensors["transformer.wpe.weight"][0, 0] += 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert models.fingerprint(models.describe(copy)) != before


def test_the_fingerprint_changes_with_the_configuration(folder, tmp_path):
    copy = copy_of(folder, tmp_path)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"activation_function": "relu"}))
    assert models.fingerprint(models.describe(copy)) != models.fingerprint(models.describe(folder))


def test_the_fingerprint_of_a_hub_model_is_its_name_and_revision():
    prints = {
        models.fingerprint(ModelSpec("a", source, "opt", 1, 1, revision))
        for source in ("facebook/opt-125m", "facebook/opt-350m")
        for revision in (None, "27dcfa7")
    }
    assert len(prints) == 4


def test_untrained_weights_depend_on_the_seed_and_on_nothing_else(folder):
    spec = models.describe(folder)
    torch.manual_seed(5)
    first = models.load_untrained(spec, seed=1)
    torch.manual_seed(6)
    again, other = models.load_untrained(spec, seed=1), models.load_untrained(spec, seed=2)
    assert same(first, again)
    for name, tensor in weights(first).items():
        if name.endswith("mlp.c_fc.weight"):
            assert not torch.equal(tensor, weights(other)[name])
            assert not torch.equal(tensor, weights(models.load(spec))[name])
    assert not first.training and not any(p.requires_grad for p in first.parameters())


def test_making_an_untrained_model_leaves_the_global_random_state(folder):
    torch.manual_seed(11)
    expected = torch.rand(4)
    torch.manual_seed(11)
    models.load_untrained(models.describe(folder), seed=3)
    assert torch.equal(torch.rand(4), expected)


def test_an_untrained_model_begins_as_its_architecture_says(folder):
    model = models.load_untrained(models.describe(folder), seed=0)
    block = model.transformer.h[0]
    assert abs(block.mlp.c_fc.weight.std().item() - 0.02) < 0.005  # GPT-2's initializer_range
    assert (block.mlp.c_fc.bias == 0).all() and (block.ln_1.weight == 1).all()
