import numpy as np
import pytest
import torch
from conftest import FAMILIES, untrained
from scipy.special import erf, expit

from rosetta.matching.activations import BadActivations, capture
from rosetta.matching.alignment import average_rows
from rosetta.matching.texts import Reader

# ---------------------------------------------------------------------------------------------------------------------
# m_t by hand


def matrix(parameter):
    return parameter.detach().double().numpy()


def layer_norm(x, module):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + module.eps)
    return scaled * matrix(module.weight) + matrix(module.bias)


def rms_norm(x, module, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * matrix(module.weight)


def gelu(x):
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def pythia_m(block, x):
    up = block.mlp.dense_h_to_4h
    return gelu(layer_norm(x, block.post_attention_layernorm) @ matrix(up.weight).T + matrix(up.bias))


def gpt2_m(block, x):
    up = block.mlp.c_fc  # its weight is [inputs, outputs]
    return gelu_tanh(layer_norm(x, block.ln_2) @ matrix(up.weight) + matrix(up.bias))


def opt_m(block, x):
    return np.maximum(layer_norm(x, block.final_layer_norm) @ matrix(block.fc1.weight).T + matrix(block.fc1.bias), 0)


def qwen_m(block, x):
    h = rms_norm(x, block.post_attention_layernorm, 1e-6)
    gate = h @ matrix(block.mlp.gate_proj.weight).T
    return gate * expit(gate) * (h @ matrix(block.mlp.up_proj.weight).T)


BY_HAND = {  # the blocks, the norm that is the first thing on the way to the MLP, and the MLP up to its projection
    "pythia": (lambda model: model.gpt_neox.layers, lambda block: block.post_attention_layernorm, pythia_m),
    "gpt2": (lambda model: model.transformer.h, lambda block: block.ln_2, gpt2_m),
    "opt": (lambda model: model.model.decoder.layers, lambda block: block.final_layer_norm, opt_m),
    "qwen": (lambda model: model.model.layers, lambda block: block.post_attention_layernorm, qwen_m),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_are_those_of_a_forward_pass_by_hand(tokenizer_of, family):
    model, tokenizer = untrained(family, seed=3), tokenizer_of[family]
    blocks_of, norm_of, m_of = BY_HAND[family]
    blocks = blocks_of(model)
    entering = {}

    def keep(layer):
        return lambda _module, inputs: entering.__setitem__(layer, inputs[0].double().numpy())

    for layer, block in enumerate(blocks):
        norm_of(block).register_forward_pre_hook(keep(layer))
    ids = tokenizer("def heap(queue):\n    return 12345, '漢'", add_special_tokens=False)["input_ids"]
    prefix = [0] if family == "opt" else []
    with torch.no_grad():
        model(input_ids=torch.tensor([prefix + ids]))
    expected = np.concatenate([m_of(block, entering[i].reshape(-1, 32)) for i, block in enumerate(blocks)], axis=1)
    acts, starts = Reader("by hand", model, tokenizer).read([ids])
    assert acts.shape == (len(ids), 2 * 128) and starts.tolist() == [0]
    assert np.ptp(expected, axis=0).max() > 0.1
    np.testing.assert_allclose(acts, expected[len(prefix) :], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_does_not_change_the_activations(reader_of, family):
    reader = reader_of[family]
    some = ["heap", "def bisect(a, x, lo=0, hi=None):\n", "x", "\n    return 1"]
    sequences = [reader.tokenizer(text, add_special_tokens=False)["input_ids"] for text in some]
    assert len({len(ids) for ids in sequences}) > 2
    acts, starts = reader.read(sequences)
    assert len(acts) == sum(map(len, sequences))
    for ids, start in zip(sequences, starts, strict=True):
        alone, _ = reader.read([ids])
        np.testing.assert_allclose(acts[start : start + len(ids)], alone, atol=1e-5)


def test_special_tokens_are_fed_and_left_out(reader_of):
    reader = reader_of["opt"]
    ids = reader.tokenizer("heap = []", add_special_tokens=False)["input_ids"]
    with capture(reader.mlps) as seen, torch.no_grad():
        reader.model(input_ids=torch.tensor([[0, *ids]]))
        whole = torch.cat([seen[mlp.path].view(len(ids) + 1, -1) for mlp in reader.mlps], dim=1)
        reader.model(input_ids=torch.tensor([ids]))
        bare = torch.cat([seen[mlp.path].view(len(ids), -1) for mlp in reader.mlps], dim=1)
    acts, _ = reader.read([ids])
    assert acts.shape == (len(ids), 256)
    np.testing.assert_allclose(acts, whole[1:], atol=1e-5)
    assert (acts - bare).abs().max() > 0.01


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_broken_weights_are_reported_with_the_model_and_the_layer(tokenizer_of, bad):
    model = untrained("pythia")
    model.gpt_neox.layers[1].mlp.dense_h_to_4h.bias[5] = bad
    with pytest.raises(BadActivations, match="broken-pythia, layer 1"):
        Reader("broken-pythia", model, tokenizer_of["pythia"]).read([[5, 6, 7]])


# ---------------------------------------------------------------------------------------------------------------------
# Pooling and precision


def spans_of(pieces):
    """What the first model of a pair reads of some segments."""
    return [piece.ids_a for piece in pieces], [piece.tokens_a for piece in pieces]


def test_pooling_layer_by_layer_gives_the_very_numbers_of_pooling_all_layers_together(reader_of, pieces):
    reader, (sequences, spans) = reader_of["opt"], spans_of(pieces)
    acts, starts = reader.read(sequences)
    first, last = (np.concatenate([s[side] + start for s, start in zip(spans, starts, strict=True)]) for side in (0, 1))
    assert (last - first).max() > 1
    assert torch.equal(reader.read_pooled(sequences, spans), average_rows(acts, first, last))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_in_bfloat16_gives_its_own_precision_with_means_that_are_rounded_once(tokenizer_of, family):
    """Against means in float64 of what the model itself gives on every token."""
    reader = Reader(family, untrained(family).bfloat16(), tokenizer_of[family])
    sequences = [[7 + i + j for i in range(n)] for j, n in enumerate((13, 4, 9))]
    spans = [
        (np.array([0, 1, 3]), np.array([1, 3, 4])),
        (np.array([0]), np.array([4])),
        (np.array([2, 8]), np.array([8, 9])),
    ]
    acts, starts = reader.read(sequences)
    pooled = reader.read_pooled(sequences, spans)
    assert acts.dtype == pooled.dtype == torch.bfloat16 and acts.shape == (26, 256) and pooled.shape == (6, 256)
    ranges = [(start + i, start + j) for s, start in zip(spans, starts, strict=True) for i, j in zip(*s, strict=True)]
    exact = np.stack([acts[i:j].double().numpy().mean(0) for i, j in ranges])
    half = 2.0**-8  # of a last place, relative: bfloat16 has 8 significant bits
    np.testing.assert_allclose(pooled.double(), exact, rtol=half * 1.01, atol=1e-12)
    assert np.abs(pooled.double().numpy() - exact).max() > 0


def test_activations_in_bfloat16_are_those_of_float32_within_its_precision(tokenizer_of, pieces):
    single = Reader("opt", untrained("opt"), tokenizer_of["opt"])
    halved = Reader("opt", untrained("opt").bfloat16(), tokenizer_of["opt"])
    expected, found = (reader.read_pooled(*spans_of(pieces)).float() for reader in (single, halved))
    error = (found - expected).norm(dim=0) / expected.norm(dim=0).clamp(min=1e-6)
    assert expected.abs().max() > 1 and error.median() < 0.02
