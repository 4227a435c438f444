import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import FAMILIES, as_documents, untrained
from scipy.special import erf, expit

from rosetta.matching.activations import AlignedBatches, BadActivations, Reader, capture
from rosetta.matching.alignment import average_rows, pool, token_byte_spans
from rosetta.matching.segments import segments
from rosetta.models import ROOT

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


def test_hooks_are_gone_after_reading_even_after_an_error(reader_of):
    reader = reader_of["gpt2"]
    with pytest.raises(RuntimeError, match="stop"), capture(reader.mlps):
        raise RuntimeError("stop")
    assert not any(mlp.projection._forward_pre_hooks for mlp in reader.mlps)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_broken_weights_are_reported_with_the_model_and_the_layer(tokenizer_of, bad):
    model = untrained("pythia")
    model.gpt_neox.layers[1].mlp.dense_h_to_4h.bias[5] = bad
    with pytest.raises(BadActivations, match="broken-pythia, layer 1"):
        Reader("broken-pythia", model, tokenizer_of["pythia"]).read([[5, 6, 7]])


# ---------------------------------------------------------------------------------------------------------------------
# Aligned batches


@pytest.fixture(scope="module")
def pieces(tokenizer_of, documents):
    some = as_documents([document.text[:400] for document in documents[:4]]) + documents[4:]
    return list(segments(some, tokenizer_of["opt"], tokenizer_of["qwen"], context=64, per_document=2))


def slowly_aligned(reader, piece, ids):
    """The activations of one segment, read alone and averaged over the tokens that overlap each canonical span."""
    all_ids, spans = token_byte_spans(reader.tokenizer, piece.document.text)
    inside = (spans[:, 0] >= piece.canonical[0, 0]) & (spans[:, 1] <= piece.canonical[-1, 1])
    assert ids == np.array(all_ids)[inside].tolist()
    return pool(reader.read([ids])[0], spans[inside], piece.canonical)


@pytest.mark.parametrize("per_batch", [1, 3, 100])
def test_aligned_batches_are_what_reading_and_pooling_each_segment_gives(reader_of, pieces, per_batch):
    a, b = reader_of["opt"], reader_of["qwen"]
    batches = list(AlignedBatches(a, b, pieces, sequences_per_batch=per_batch))
    assert len(batches) == -(-len(pieces) // per_batch)
    expected_a = torch.cat([slowly_aligned(a, piece, piece.ids_a) for piece in pieces])
    expected_b = torch.cat([slowly_aligned(b, piece, piece.ids_b) for piece in pieces])
    assert len(expected_a) == sum(len(piece.canonical) for piece in pieces)
    np.testing.assert_allclose(torch.cat([x for x, _ in batches]), expected_a, atol=1e-5)
    np.testing.assert_allclose(torch.cat([y for _, y in batches]), expected_b, atol=1e-5)


def test_aligned_batches_may_be_gone_through_twice(reader_of, pieces):
    batches = AlignedBatches(reader_of["opt"], reader_of["qwen"], pieces, sequences_per_batch=4)
    assert batches.names == ("opt", "qwen") and batches.layers == ([128, 128], [128, 128])
    first, second = list(batches), list(batches)
    assert len(first) == len(second) > 1
    for (a, b), (again_a, again_b) in zip(first, second, strict=True):
        assert torch.equal(a, again_a) and torch.equal(b, again_b)


def test_held_batches_are_the_same_ones_and_carry_names_layers_and_segments(reader_of, pieces):
    batches = AlignedBatches(reader_of["opt"], reader_of["qwen"], pieces, sequences_per_batch=4)
    held = batches.held()
    assert held.names == batches.names and held.layers == batches.layers and len(held) > 1
    for (a, b), (again_a, again_b) in zip(batches, held, strict=True):
        assert torch.equal(a, again_a) and torch.equal(b, again_b)
    for batch, (a, b) in held.with_segments():
        assert 1 <= len(batch) <= 4 and sum(len(segment.canonical) for segment in batch) == len(a) == len(b)
    assert [segment for batch, _ in held.with_segments() for segment in batch] == list(pieces)


# ---------------------------------------------------------------------------------------------------------------------
# Out of memory


class Limited(torch.nn.Module):
    """A model on a device that holds so many sequences at a time."""

    def __init__(self, model, sequences, error):
        super().__init__()
        self.model, self.sequences, self.error, self.tried = model, sequences, error, []
        self.config = model.config

    def forward(self, input_ids, **options):
        self.tried.append(len(input_ids))
        if len(input_ids) > self.sequences:
            raise self.error
        return self.model(input_ids=input_ids, **options)


CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
CPU = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12")


@pytest.fixture
def limited(reader_of, monkeypatch):
    """Batches of 8 sequences of a model that holds fewer."""

    def limit(pieces, sequences, error=CUDA, side="b"):
        batches = AlignedBatches(reader_of["opt"], reader_of["qwen"], pieces, sequences_per_batch=8)
        reader = getattr(batches, side)
        monkeypatch.setattr(reader, "model", Limited(reader.model, sequences, error))
        return batches, reader.model

    return limit


@pytest.mark.parametrize(("error", "side"), [(CUDA, "a"), (CUDA, "b"), (CPU, "b")])
def test_a_batch_that_memory_does_not_hold_is_halved_until_it_does_and_that_is_said(
    reader_of, pieces, limited, caplog, error, side
):
    roomy = list(AlignedBatches(reader_of["opt"], reader_of["qwen"], pieces, sequences_per_batch=2))
    some = pieces[:11]
    batches, model = limited(some, 3, error, side)
    found = list(batches.with_segments())
    assert [segment for part, _ in found for segment in part] == some and model.tried[:3] == [8, 4, 2]
    for part, (a, b) in found:
        assert len(part) <= 2 and len(a) == len(b) == sum(len(segment.canonical) for segment in part)
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [message.partition(":")[2] for message in said] == [
        " opt and qwen read 4 sequences at a time from here on, not 8",
        " opt and qwen read 2 sequences at a time from here on, not 4",
    ]
    again = list(batches)  # nothing is tried again that failed
    assert max(model.tried[3:]) == 2 and len(caplog.records) == len(said)
    for side_again, side_roomy in zip(zip(*again, strict=True), zip(*roomy, strict=True), strict=True):
        together = torch.cat(side_again)
        np.testing.assert_allclose(together, torch.cat(side_roomy)[: len(together)], atol=1e-5)
    for one, other in zip(batches.aligned(some), zip(*again, strict=True), strict=True):
        np.testing.assert_allclose(one, torch.cat(other), atol=1e-5)


def test_a_sequence_that_memory_does_not_hold_alone_is_an_error_that_says_so(pieces, limited):
    batches, model = limited(pieces, 0)
    length = max(len(pieces[0].ids_a), len(pieces[0].ids_b))
    with pytest.raises(
        MemoryError, match=rf"one sequence of {length} tokens .* opt on cpu and qwen on cpu .*smaller context"
    ):
        next(iter(batches))
    assert model.tried == [8, 4, 2, 1]
    assert not any(mlp.projection._forward_pre_hooks for mlp in batches.b.mlps)


def test_another_error_of_a_model_is_not_taken_for_want_of_memory(pieces, limited, caplog):
    batches, model = limited(pieces, 0, RuntimeError("device-side assert triggered"))
    with pytest.raises(RuntimeError, match="device-side assert"):
        next(iter(batches))
    assert model.tried == [8] and not caplog.records


# ---------------------------------------------------------------------------------------------------------------------
# Precision and memory


def spans_of(pieces):
    """What the first model of a pair reads of some segments."""
    return [piece.ids_a for piece in pieces], [piece.tokens_a for piece in pieces]


def test_pooling_layer_by_layer_gives_the_very_numbers_of_pooling_all_layers_together(reader_of, pieces):
    reader, (sequences, spans) = reader_of["opt"], spans_of(pieces)
    acts, starts = reader.read(sequences)
    first, last = (np.concatenate([s[side] + start for s, start in zip(spans, starts, strict=True)]) for side in (0, 1))
    assert (last - first).max() > 1
    assert torch.equal(reader.read_pooled(sequences, spans), average_rows(acts, first, last))


def test_capture_hands_over_each_layer_in_turn_or_keeps_them_all(reader_of):
    reader, taken, ids = reader_of["gpt2"], [], torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        with capture(reader.mlps, lambda layer, m: taken.append((layer, m))) as seen:
            reader.model(input_ids=ids)
        assert [layer for layer, _ in taken] == [0, 1] and not seen
        with capture(reader.mlps) as seen:
            reader.model(input_ids=ids)
    for layer, m in taken:
        assert torch.equal(m, seen[reader.mlps[layer].path])


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


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is told by glibc's settings to give memory back")
def test_reading_in_bfloat16_peaks_at_5_bytes_per_token_and_neuron_at_most():
    """4,096 tokens and 6,144 neurons: the tensor that is kept has 48 MiB, all that the allocator does is small beside it."""
    script = [sys.executable, str(ROOT / "benchmarks" / "reading.py"), "--way", "spans"]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_TRIM_THRESHOLD_": str(2**16)}
    said = subprocess.run(
        [*script, "--sequences", "8", "--width", "128"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert 2 * 0.9 < float(said) <= 5
