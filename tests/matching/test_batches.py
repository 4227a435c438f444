import numpy as np
import pytest
import torch

from rosetta.matching.alignment import pool, token_byte_spans
from rosetta.matching.batches import AlignedBatches

# ---------------------------------------------------------------------------------------------------------------------
# Aligned batches


def slowly_aligned(reader, piece, ids):
    """The activations of one segment, read alone and averaged over the tokens that overlap each canonical span."""
    all_ids, spans = token_byte_spans(reader.tokenizer, piece.document.text)
    inside = (spans[:, 0] >= piece.canonical[0, 0]) & (spans[:, 1] <= piece.canonical[-1, 1])
    assert ids == np.array(all_ids)[inside].tolist()
    return pool(reader.read([ids])[0], spans[inside], piece.canonical)


@pytest.mark.parametrize("per_batch", [1, 3, 100])
def test_aligned_batches_are_what_reading_and_pooling_each_segment_gives(reader_of, pieces, per_batch):
    a, b = reader_of["opt"], reader_of["qwen"]
    batches = list(AlignedBatches(a, b, pieces, per_batch=per_batch))
    assert len(batches) == -(-len(pieces) // per_batch)
    expected_a = torch.cat([slowly_aligned(a, piece, piece.ids_a) for piece in pieces])
    expected_b = torch.cat([slowly_aligned(b, piece, piece.ids_b) for piece in pieces])
    assert len(expected_a) == sum(len(piece.canonical) for piece in pieces)
    np.testing.assert_allclose(torch.cat([x for x, _ in batches]), expected_a, atol=1e-5)
    np.testing.assert_allclose(torch.cat([y for _, y in batches]), expected_b, atol=1e-5)


def test_aligned_batches_may_be_gone_through_twice(reader_of, pieces):
    batches = AlignedBatches(reader_of["opt"], reader_of["qwen"], pieces, per_batch=4)
    assert batches.names == ("opt", "qwen") and batches.layers == ([128, 128], [128, 128])
    first, second = list(batches), list(batches)
    assert len(first) == len(second) > 1
    for (a, b), (again_a, again_b) in zip(first, second, strict=True):
        assert torch.equal(a, again_a) and torch.equal(b, again_b)


def test_held_batches_are_the_same_ones_and_carry_names_layers_and_segments(reader_of, pieces):
    batches = AlignedBatches(reader_of["opt"], reader_of["qwen"], pieces, per_batch=4)
    held = batches.held()
    assert held.names == batches.names and held.layers == batches.layers and len(held) > 1
    for (a, b), (again_a, again_b) in zip(batches, held, strict=True):
        assert torch.equal(a, again_a) and torch.equal(b, again_b)
    for batch, (a, b) in held.with_pieces():
        assert 1 <= len(batch) <= 4 and sum(len(segment.canonical) for segment in batch) == len(a) == len(b)
    assert [segment for batch, _ in held.with_pieces() for segment in batch] == list(pieces)


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
        batches = AlignedBatches(reader_of["opt"], reader_of["qwen"], pieces, per_batch=8)
        reader = getattr(batches, side)
        monkeypatch.setattr(reader, "model", Limited(reader.model, sequences, error))
        return batches, reader.model

    return limit


@pytest.mark.parametrize(("error", "side"), [(CUDA, "a"), (CUDA, "b"), (CPU, "b")])
def test_a_batch_that_memory_does_not_hold_is_halved_until_it_does_and_that_is_said(
    reader_of, pieces, limited, caplog, error, side
):
    roomy = list(AlignedBatches(reader_of["opt"], reader_of["qwen"], pieces, per_batch=2))
    some = pieces[:11]
    batches, model = limited(some, 3, error, side)
    found = list(batches.with_pieces())
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
