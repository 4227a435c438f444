"""Sizes: by a configuration those that the architecture has, and otherwise by the rule that is stated."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from vision_models import write_clip

from rosetta.models.load import ROOT, ModelSpec, load, zoo_cards
from rosetta.models.vision import open_vision
from rosetta.planning.sizes import FORWARD_NUMBERS, POOL_NUMBERS, VOCABULARY, Size, by_rule, size
from rosetta.profiles import load as load_profile

HERE = {card["name"]: card for card in zoo_cards()}


def of_zoo(name: str) -> ModelSpec:
    return ModelSpec(name, f"zoo/{name}", "any", HERE[name]["layers"], HERE[name]["mlp_width"])


@pytest.mark.parametrize("name", ["pythia-64x4", "gpt2-96x5", "opt-32x2", "qwen-48x3"])
def test_a_configuration_on_disk_gives_what_the_weights_have(name):
    found, model = size(of_zoo(name)), load(of_zoo(name))
    embeddings = {id(m.weight): m.weight.numel() for m in (model.get_input_embeddings(), model.get_output_embeddings())}
    assert not found.estimated and found.neurons == HERE[name]["layers"] * HERE[name]["mlp_width"]
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.blocks == found.parameters - sum(embeddings.values())
    assert found.hidden == HERE[name]["mlp_width"] // 4 and found.vocabulary == model.config.vocab_size


def test_the_rule_by_hand():
    found = by_rule(ModelSpec("a", "nowhere/a", "any", layers=3, mlp_width=400))
    blocks = 3 * (4 * 100**2 + 2 * 100 * 400)
    assert found == Size(3, 1200, 100, VOCABULARY, blocks, 360_000 + 2 * VOCABULARY * 100, True)
    gated = by_rule(ModelSpec("a", "nowhere/a", "any", layers=3, mlp_width=400, hidden_size=80))
    assert (gated.hidden, gated.blocks) == (80, 3 * (4 * 80**2 + 3 * 80 * 400))


@pytest.mark.parametrize(
    ("layers", "width", "hidden", "parameters"),
    [(12, 3072, None, 162e6), (36, 20480, None, 11.8e9), (48, 28672, None, 30e9), (64, 27648, 5120, 32.5e9), (48, 13824, 5120, 14.7e9)],
)  # fmt: skip
def test_the_rule_comes_near_published_models(layers, width, hidden, parameters):
    found = by_rule(ModelSpec("a", "nowhere/a", "any", layers, width, hidden_size=hidden))
    assert 0.9 < found.parameters / parameters < 1.15


def test_a_configuration_in_the_hubs_cache_is_used(hub_cache):
    config = ROOT / "zoo" / "pythia-64x4" / "config.json"
    hub_cache("someone/a-model", json.loads(config.read_text(encoding="utf-8")))
    spec = ModelSpec("a", "someone/a-model", "any", 4, 256)
    assert not size(spec).estimated and size(spec) == size(of_zoo("pythia-64x4"))
    assert size(spec._replace(source="someone/another")).estimated


def test_a_reading_by_hand():
    found = size(of_zoo("pythia-64x4"))
    half, full = found.reading(1000, 128, 2), found.reading(1000, 128, 4)
    flop = 1000 * (2 * found.blocks + 2 * 128 * 4 * 64)
    assert (half.bfloat16, half.float32) == (flop, 0) and (full.bfloat16, full.float32) == (0, flop)
    assert full.memory == 2 * half.memory == 4 * 1000 * (FORWARD_NUMBERS * 4 * 64 + POOL_NUMBERS * 1024)


def test_the_flop_of_a_reading_are_those_that_torch_counts():
    model, found = load(of_zoo("pythia-96x5")).base_model, size(of_zoo("pythia-96x5"))
    model.config._attn_implementation = "eager"
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.ones(2, 128, dtype=torch.long), use_cache=False)
    assert found.reading(256, 128, 4).float32 == pytest.approx(counter.get_total_flops(), rel=0.1)


# ---------------------------------------------------------------------------------------------------------------------
# Models of images


@pytest.fixture(scope="module")
def paper():
    return load_profile("paper").models


@pytest.mark.parametrize(
    ("name", "parameters", "hidden", "tokens"),
    [("pmf-b", 118e6, 768, 276), ("pmf-l", 410e6, 1_024, 276), ("pmf-h", 956e6, 1_280, 276), ("openclip-b", 86e6, 768, 197),
     ("openclip-bigg", 1_845e6, 1_664, 257), ("eva-02-clip-e", 4_351e6, 1_792, 257)],
)  # fmt: skip
def test_architectures_that_are_known_by_name_are_as_large_as_published(paper, name, parameters, hidden, tokens):
    found = size(paper[name])
    assert not found.estimated and found.parameters == found.blocks == pytest.approx(parameters, rel=0.01)
    assert (found.hidden, found.tokens, found.neurons) == (hidden, tokens, paper[name].neurons)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("dinov2-b", 86.6e6), ("dinov2-g", 1_136e6), ("pixio-h", 631e6), ("pixio-1b", 1_362e6), ("pixio-5b", 5_441e6),
     ("sana-1.6b", 1_610e6), ("flux.2-klein-4b", 3_876e6)],
)  # fmt: skip
def test_the_rule_comes_near_published_models_of_images(paper, name, blocks):
    found = size(paper[name])
    assert found.estimated and found.blocks == pytest.approx(blocks, rel=0.02) and found.vocabulary == 0
    prompted = name in ("sana-1.6b", "flux.2-klein-4b")
    assert (found.parameters > found.blocks) == (found.prompt > 0) == prompted


def test_a_model_of_images_in_a_folder_has_the_size_of_its_weights(tmp_path):
    spec = write_clip(tmp_path)._replace(grid=3)
    tower = open_vision(spec).model
    found = size(spec)
    assert not found.estimated and found.parameters == sum(p.numel() for p in tower.parameters())
    assert (found.hidden, found.tokens, found.steps, found.prompt) == (16, 10, 1, 0)


def test_a_reading_of_images_by_hand(paper):
    found = size(paper["flux.2-klein-4b"])
    half, full = found.seeing(10, 1_024, 2), found.seeing(10, 1_024, 4)
    tokens = 2 * 10 * (256 + 512)  # two steps, over the text's tokens as well
    flop = tokens * (2 * found.blocks + 4 * 768 * 25 * 3_072) + 10 * found.prompt
    assert (half.bfloat16, half.float32) == (flop, 0) and (full.bfloat16, full.float32) == (0, flop)
    assert full.memory == 4 * (tokens * FORWARD_NUMBERS * 25 * 3_072 + 10 * 1_024 * POOL_NUMBERS * found.neurons)


@pytest.mark.parametrize("name", ["openclip-b", "pmf-b"])
def test_the_flop_of_a_forward_pass_over_images_are_those_that_torch_counts(paper, name):
    """On the meta device: products are counted, and none is made."""
    spec = paper[name]
    vision = open_vision(spec, "meta")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        if spec.generates:
            ones = torch.ones(2, device="meta")
            vision.model(
                torch.empty(2, 3, 256, 256, device="meta"), *4 * [ones], torch.zeros(2, dtype=torch.long, device="meta")
            )
        else:
            vision.model(torch.empty(2, 3, 224, 224, device="meta"))
    assert size(spec).seeing(2, 256, 4).float32 == pytest.approx(counter.get_total_flops(), rel=0.1)
