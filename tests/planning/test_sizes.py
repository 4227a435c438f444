"""Sizes: by a configuration those that the architecture has, and otherwise by the rule that is stated."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rosetta.models.load import ROOT, ModelSpec, load, zoo_cards
from rosetta.planning.sizes import FORWARD_NUMBERS, POOL_NUMBERS, VOCABULARY, by_rule, size

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
    assert found == (3, 1200, 100, VOCABULARY, 3 * (4 * 100**2 + 2 * 100 * 400), 360_000 + 2 * VOCABULARY * 100, True)
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
