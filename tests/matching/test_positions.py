import numpy as np
import pytest
import torch
from conftest import as_documents
from hypothesis import given, settings
from hypothesis import strategies as st

from rosetta.matching.batches import HeldBatches
from rosetta.matching.positions import planted, selected, shifted, span_texts, thinning
from rosetta.matching.segments import segments

TEXT = (
    "the cat saw the dog and the dog saw the bird in the tree.\n" * 40 + "Then, once, a rare zebra crossed the road.\n"
)


@pytest.fixture(scope="module")
def pieces(tokenizer_of):
    return list(segments(as_documents([TEXT]), tokenizer_of["pythia"], tokenizer_of["opt"], context=64))


def held(a, b) -> HeldBatches:
    return HeldBatches([(a[:3], b[:3]), (a[3:], b[3:])], ("a", "b"), ([a.shape[1]], [b.shape[1]]))


def random_sides(positions, neurons=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(positions, neurons, generator=rng) for _ in range(2)]


def test_the_texts_of_spans_join_to_the_document(pieces):
    assert b"".join(text for piece in pieces for text in span_texts(piece)).decode() == TEXT


def test_a_span_is_kept_as_often_as_its_share_says(pieces):
    texts = np.array([text for piece in pieces for text in span_texts(piece)])
    draws = np.array([thinning(pieces, 1e-3, seed) for seed in range(200)])
    assert draws.shape == (200, len(texts))
    for text in set(texts.tolist()):
        at = texts == text
        expected = min(1.0, np.sqrt(1e-3 / at.mean()))
        n = draws[:, at].size
        assert abs(draws[:, at].mean() - expected) <= 5 * np.sqrt(expected * (1 - expected) / n) + 1e-12


def test_a_thinning_is_its_seed_and_a_large_t_keeps_all(pieces):
    first, again, other = (thinning(pieces, 1e-3, seed) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()
    assert thinning(pieces, 1.0, 0).all()
    with pytest.raises(ValueError, match="t is 0; it must be above 0"):
        thinning(pieces, 0, 0)


@settings(deadline=None, max_examples=50)
@given(positions=st.integers(4, 40), by=st.integers(1, 39))
def test_a_shift_is_numpys_roll_of_the_second_side(positions, by):
    a, b = random_sides(positions)
    if by >= positions:
        with pytest.raises(ValueError, match=f"by is {by}; it must lie between 1 and {positions - 1}"):
            shifted(held(a, b), by)
        return
    ((a_after, b_after),) = shifted(held(a, b), by)
    assert torch.equal(a_after, a) and torch.equal(b_after, torch.from_numpy(np.roll(b.numpy(), -by, axis=0)))


def test_positions_are_selected_by_mask_or_by_slice_and_keep_their_names():
    a, b = random_sides(7)
    mask = np.array([True, False, True, True, False, False, True])
    for rows, numbers in ((mask, [0, 2, 3, 6]), (slice(4), [0, 1, 2, 3])):
        batches = selected(held(a, b), rows)
        ((a_after, b_after),) = batches
        assert torch.equal(a_after, a[numbers]) and torch.equal(b_after, b[numbers])
        assert batches.names == ("a", "b") and batches.layers == ([4], [4])


def test_outliers_are_planted_at_the_same_positions_of_both_sides_and_nowhere_else():
    a, b = random_sides(500, 30)
    ((a_after, b_after),) = planted(held(a, b), share=0.01, size=30.0, seed=3)
    moved = [((after - before).abs() > 0).any(1) for after, before in ((a_after, a), (b_after, b))]
    assert moved[0].sum() == 5 and torch.equal(*moved)
    for after, before in ((a_after, a), (b_after, b)):
        added = (after - before)[moved[0]] / before.std(0)
        assert 15 < added[0].std() < 60 and abs(added[0].mean()) < 20  # normal draws times 30
        torch.testing.assert_close(
            added, added[:1].expand_as(added), rtol=1e-4, atol=1e-3
        )  # one vector for all of them
    assert planted(held(a, b), share=1e-9, size=1.0, seed=0)[0][0].ne(a).any(1).sum() == 1
