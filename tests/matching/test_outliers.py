"""Outlier positions: found where they were planted, and what is left is what numpy has without them."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import as_documents, mutual
from hypothesis import given, settings
from hypothesis import strategies as st

from rosetta.matching.batches import HeldBatches
from rosetta.matching.mutual import match_batches, match_thinned
from rosetta.matching.nulls import Permuted
from rosetta.matching.outliers import Selected, described, first_positions, left, outlying, participation_ratio, survey
from rosetta.matching.positions import planted, selected, span_texts
from rosetta.matching.segments import segments

TEXTS = ["the cat saw the dog and the dog saw the bird.\n" * 30, "A rare zebra crossed the road.\n" * 9, "x\n", ""]


@pytest.fixture(scope="module")
def pieces(tokenizer_of):
    return list(segments(as_documents(TEXTS), tokenizer_of["pythia"], tokenizer_of["opt"], context=64))


def sides(positions, n_a=30, n_b=20, seed=0, shared=8):
    """Two sides of which the first neurons have each a counterpart; one neuron of A never changes."""
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((positions, n_a)), rng.standard_normal((positions, n_b))
    b[:, :shared] = a[:, :shared] + 0.5 * b[:, :shared]
    a[:, -1] = 3
    scale, shift = rng.lognormal(0, 2, n_a), rng.normal(0, 5, n_a)
    return torch.from_numpy(a * scale + shift).float(), torch.from_numpy(b).float()


def cut(a, b, at) -> list:
    """Batches that end at some positions."""
    ends = [0, *at, len(a)]
    return [(a[i:j], b[i:j]) for i, j in pairwise(ends)]


def sizes_by_numpy(acts) -> np.ndarray:
    x = acts.double().numpy()
    x = x[:, x.std(0) > 0]
    return np.sqrt((((x - x.mean(0)) / x.std(0)) ** 2).mean(1))


def directions_by_numpy(acts) -> float:
    x = acts.double().numpy()
    corr = np.corrcoef(x[:, x.std(0) > 0], rowvar=False)
    return np.trace(corr) ** 2 / (corr**2).sum()


def pairs_of(table) -> set:
    return set(zip(table.unit_a, table.unit_b, strict=True))


def pairs_by_numpy(a, b) -> set:
    with np.errstate(invalid="ignore", divide="ignore"):
        corr = np.corrcoef(a.double().numpy(), b.double().numpy(), rowvar=False)
    return mutual(corr[: a.shape[1], a.shape[1] :])


# ---------------------------------------------------------------------------------------------------------------------
# Sizes and directions


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), at=st.sets(st.integers(1, 299), max_size=4))
def test_sizes_and_directions_are_numpys_however_the_positions_are_cut(seed, at):
    a, b = sides(300, seed=seed)
    found = survey(cut(a, b, sorted(at)))
    for name, acts in (("a", a), ("b", b)):
        np.testing.assert_allclose(found[f"size_{name}"], sizes_by_numpy(acts), rtol=1e-4)
        assert np.square(found[f"size_{name}"]).mean() == pytest.approx(1, rel=1e-4)
        assert found.attrs[f"directions_{name}"] == pytest.approx(directions_by_numpy(acts), rel=1e-4)


def test_rows_that_are_scaled_together_are_bounded_and_nothing_hangs_on_how_many(monkeypatch):
    a, b = sides(300)
    whole = survey([(a, b)])
    monkeypatch.setattr("rosetta.matching.outliers.ROWS", 7)
    np.testing.assert_allclose(survey([(a, b)]), whole, rtol=1e-5)


def test_a_sample_of_neurons_estimates_the_directions_and_the_sizes_stay_those_of_all():
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((400, 12))
    acts = torch.from_numpy(factors @ rng.standard_normal((12, 300)) + rng.standard_normal((400, 300))).float()
    exact = directions_by_numpy(acts)
    draws = [survey([(acts, acts)], neurons=100, seed=seed) for seed in range(8)]
    estimates = [one.attrs["directions_a"] for one in draws]
    assert len(set(estimates)) == 8 and np.mean(estimates) == pytest.approx(exact, rel=0.05)
    np.testing.assert_allclose(draws[0]["size_a"], sizes_by_numpy(acts), rtol=1e-4)
    assert survey([(acts, acts)], neurons=300).attrs["directions_a"] == pytest.approx(exact, rel=1e-4)


def test_the_participation_ratio_counts_equal_directions():
    eye = torch.eye(9)
    assert participation_ratio(eye) == 9 and participation_ratio(torch.ones(4, 4)) == 1
    assert participation_ratio(torch.block_diag(*[torch.ones(3, 3)] * 5)) == pytest.approx(5)
    dead = eye.clone()
    dead[3], dead[:, 3] = torch.nan, torch.nan
    assert participation_ratio(dead) == 8
    assert participation_ratio(eye, 900) == 900 and participation_ratio(torch.ones(4, 4), 900) == pytest.approx(1)
    assert np.isnan(participation_ratio(torch.full((2, 2), torch.nan)))


def test_what_cannot_be_measured_is_refused():
    a, b = sides(5)
    with pytest.raises(ValueError, match="two readings"):
        survey(iter([(a, b)]))
    for short in ([], [(a[:1], b[:1])]):
        with pytest.raises(ValueError, match="at least 2 positions"):
            survey(short)
    with pytest.raises(ValueError, match="NaN or infinity in the activations of neuron 2"):
        survey([(a.index_fill(1, torch.tensor([2]), torch.inf), b)])


# ---------------------------------------------------------------------------------------------------------------------
# Planted, found, left out


@pytest.mark.parametrize(("share", "size"), [(0.002, 10), (0.01, 10), (0.01, 100), (0.03, 1_000)])
def test_planted_outliers_are_found_exactly_and_what_is_left_matches_as_without_them(share, size):
    clean = HeldBatches([sides(4_000, 60, 60)], ("a", "b"), ([60], [60]))
    batches = planted(clean, share, size, seed=1)
    (a, b), (clean_a, clean_b) = batches[0], clean[0]
    truth = (b != clean_b).any(1).numpy()
    assert truth.sum() == round(share * 4_000)
    found = survey(batches)
    assert (outlying(found, 4) == truth).all() and not outlying(survey(clean), 4).any()
    assert found.loc[truth, ["size_a", "size_b"]].to_numpy().max() <= 1.001 * share**-0.5
    kept = left(np.zeros(4_000, bool), found, 4)
    assert (kept == ~truth).all()

    expected = pairs_by_numpy(clean_a[~truth], clean_b[~truth])
    streamed = Selected([(a[:777], b[:777]), (a[777:], b[777:])], kept)
    of_all, thinned = match_thinned(batches, kept)
    for table in (match_batches(streamed), match_batches(selected(batches, kept)), thinned):
        assert pairs_of(table) == expected and table.attrs["positions"] == kept.sum()
    assert pairs_of(of_all) == pairs_by_numpy(a, b) and len(expected) > 8
    assert size < 100 or pairs_of(of_all) != expected


def test_a_null_over_what_is_left_permutes_these_positions_among_themselves():
    a, b = sides(500)
    a[:, 0] = b[:, 0] = torch.arange(500)
    kept = np.random.default_rng(0).random(500) < 0.8
    null = Permuted(Selected(cut(a, b, [100, 130, 400]), kept), seed=3)
    x, y = (torch.cat(side)[:, 0].numpy() for side in zip(*null, strict=True))
    assert sorted(x) == sorted(y) == np.flatnonzero(kept).tolist() and (x != y).mean() > 0.9


def test_selected_batches_are_gone_through_again_and_carry_what_matching_asks_for():
    a, b = sides(40)
    kept = np.arange(40) % 3 == 0
    batches = Selected(HeldBatches(cut(a, b, [3, 10]), ("x", "y"), ([30], [20])), kept)
    for _ in range(2):
        assert torch.equal(torch.cat([a for a, _ in batches]), a[kept])
    assert (batches.names, batches.layers, batches.positions) == (("x", "y"), ([30], [20]), 14)
    for wrong in (kept[:-1], np.append(kept, True)):
        with pytest.raises(ValueError, match=f"kept is for {len(wrong)} positions; the batches hold 40"):
            list(Selected([(a, b)], wrong))


# ---------------------------------------------------------------------------------------------------------------------
# First positions, and what outliers are


@pytest.mark.parametrize("n", [0, 1, 3, 10**6])
def test_the_first_of_every_sequence_are_known_from_its_spans(pieces, n):
    documents = [piece.document.source for piece in pieces]
    assert len(pieces) > len(set(documents)) >= 3  # several documents, one of them of several sequences
    expected = [place < n for piece in pieces for place, _ in enumerate(piece.canonical)]
    assert first_positions(pieces, n).tolist() == expected
    starts = first_positions(pieces, 1).nonzero()[0]
    assert starts.tolist() == np.cumsum([0, *(len(piece.canonical) for piece in pieces[:-1])]).tolist()


def test_what_is_left_is_neither_first_nor_large(pieces):
    firsts = first_positions(pieces, 2)
    sizes = survey([sides(len(firsts) + 5)])
    large = (sizes[["size_a", "size_b"]].to_numpy() > 1.2).any(1)[: len(firsts)]
    assert (left(firsts) == ~firsts).all() and (left(firsts, sizes, 1.2) == ~(firsts | large)).all()
    assert 0 < large.sum() < len(firsts) and not outlying(sizes, None).any()
    with pytest.raises(ValueError, match=rf"sizes are of 3 positions; there are {len(firsts)}"):
        left(firsts, sizes[:3], 1.2)
    with pytest.raises(ValueError, match="none of 4 positions is left"):
        left(np.ones(4, bool))


def test_positions_are_described_by_their_texts_and_whether_they_are_first(pieces):
    texts = [text.decode() for piece in pieces for text in span_texts(piece)]
    firsts = first_positions(pieces, 1)
    found = np.random.default_rng(0).random(len(texts)) < 0.3
    found |= firsts
    table = described(pieces, found)
    assert table["count"].sum() == found.sum() and table["count"].is_monotonic_decreasing
    for row in table.itertuples():
        at = np.array([text == row.text for text in texts]) & found
        assert row[2:] == (at.sum(), (at & firsts).sum())
    assert table["first"].sum() == len(pieces)
    assert len(described(pieces, np.zeros(len(texts), bool))) == 0
