import unicodedata
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import BYTE_LEVEL, MANY_SCRIPTS, as_documents
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from language_models import byte_level_tokenizer
from scipy.ndimage import map_coordinates

from rosetta.matching.alignment import (
    TokenizerRefused,
    batch_byte_spans,
    canonical_spans,
    overlapping_tokens,
    pool,
    resample_grid,
    special_prefix,
    token_byte_spans,
    token_texts,
)
from rosetta.matching.segments import segments, windows
from rosetta.sources.document import normalize

SPELLING = (*BYTE_LEVEL, "sentencepiece")

some_examples = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

characters = st.one_of(
    st.characters(exclude_categories=["Cs"], exclude_characters="▁"),  # ▁ is SentencePiece's space
    st.sampled_from("  \t\r\n\x00\x7f\u0301\u0323\u200d\ufe0f👩🏽🇫🇷漢字かな한글éßİ0123456789"),
)
words = st.sampled_from(
    [
        "def ",
        "return",
        " the",
        "    ",
        "heap",
        "self.",
        "\n\n",
        "Ångström",
        "👩‍👩‍👧",
        "e\u0301",
        "'ll",
        "12345",
        "</s>",
        "<|endoftext|>",
    ]
)
any_text = st.lists(st.one_of(st.text(characters, max_size=6), words), max_size=12).map("".join).map(normalize)


def spans_of(bounds) -> np.ndarray:
    return np.array(list(pairwise(bounds)), dtype=np.int64).reshape(-1, 2)


# ---------------------------------------------------------------------------------------------------------------------
# Tokens as ranges of bytes


@pytest.mark.parametrize("kind", SPELLING)
@some_examples
@given(text=any_text)
@example(text="")
@example(text=" ")
@example(text="👩‍👩‍👧‍👦")
@example(text=MANY_SCRIPTS)
def test_tokens_of_any_text_are_consecutive_ranges_that_cover_its_bytes(tokenizer_of, kind, text):
    tokenizer, data = tokenizer_of[kind], text.encode()
    ids, spans = token_byte_spans(tokenizer, text)
    assert spans.dtype == np.int64 and spans.shape == (len(ids), 2)
    if not text:
        assert (spans == 0).all()
        return
    assert spans[0, 0] == 0 and spans[-1, 1] == len(data)
    assert (spans[1:, 0] == spans[:-1, 1]).all() and (spans[:, 0] <= spans[:, 1]).all()
    # The tokenizer's own account, in characters: whole ones even of a token that is only a part of one.
    byte_of = np.cumsum([0, *(len(c.encode()) for c in text)])
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    assert ids == encoded["input_ids"]
    offsets = byte_of[np.array(encoded["offset_mapping"])]
    assert (offsets[:, 0] <= spans[:, 0]).all() and (spans[:, 1] <= offsets[:, 1]).all()
    if text.isascii():
        real = spans[:, 0] < spans[:, 1]  # a token that is nothing but the space put before the text has no byte
        np.testing.assert_array_equal(spans[real], offsets[real])
        assert real[1:].all() and (real.all() or kind in ("prefix space", "sentencepiece"))


@pytest.mark.parametrize("kind", BYTE_LEVEL)
@some_examples
@given(text=any_text)
@example(text=MANY_SCRIPTS)
def test_the_tokens_between_two_characters_decode_to_the_bytes_of_their_span(tokenizer_of, kind, text):
    tokenizer, data = tokenizer_of[kind], text.encode()
    ids, spans = token_byte_spans(tokenizer, text)
    starts = {0, *np.cumsum([len(c.encode()) for c in text]).tolist()}
    at_characters = [0, *(i + 1 for i, end in enumerate(spans[:, 1].tolist()) if end in starts)]
    for first, last in pairwise(at_characters):
        start, end = spans[first, 0], spans[last - 1, 1]
        decoded = tokenizer.decode(ids[first:last], clean_up_tokenization_spaces=False)
        if kind == "prefix space" and start == 0:
            decoded = decoded.removeprefix(" ") if not text.startswith(" ") else decoded
        assert decoded.encode() == data[start:end]


def test_a_token_may_hold_part_of_a_character(tokenizer_of):
    ids, spans = token_byte_spans(tokenizer_of["bytes only"], "a€😀")
    assert spans.tolist() == [[i, i + 1] for i in range(8)] and len(ids) == 8


def test_a_space_put_before_the_text_belongs_to_no_byte(tokenizer_of):
    for text in ("heap", "👍 heap"):
        ids, spans = token_byte_spans(tokenizer_of["prefix space"], text)
        assert tokenizer_of["prefix space"].decode(ids) == " " + text
        assert spans[0, 0] == 0 and spans[-1, 1] == len(text.encode())
    # A text that begins with a space gets no second one, and its own is a byte like any other.
    _, spans = token_byte_spans(tokenizer_of["prefix space"], " heap")
    assert (spans[0, 0], spans[-1, 1]) == (0, 5)


def test_special_tokens_are_found_before_the_text_and_left_out_of_it(tokenizer_of):
    opt = tokenizer_of["opt"]
    assert opt("heap")["input_ids"][0] == opt.convert_tokens_to_ids("</s>")
    assert special_prefix(opt) == [opt.convert_tokens_to_ids("</s>")]
    ids, spans = token_byte_spans(opt, "heap")
    assert opt.decode(ids) == "heap" and spans[-1, 1] == 4
    assert all(special_prefix(tokenizer_of[kind]) == [] for kind in ("pythia", "gpt2", "qwen"))
    assert special_prefix(tokenizer_of["wordpiece"]) == [1]


def test_a_special_token_written_out_in_the_text_stands_for_its_letters(tokenizer_of):
    opt = tokenizer_of["opt"]
    assert opt("a</s>b", add_special_tokens=False)["input_ids"][1] == opt.convert_tokens_to_ids("</s>")
    ids, spans = token_byte_spans(opt, "a</s>b")
    assert not set(ids) & set(opt.all_special_ids) and "".join(opt.batch_decode([[i] for i in ids])) == "a</s>b"
    assert (spans[0, 0], spans[-1, 1]) == (0, 6) and (spans[1:, 0] == spans[:-1, 1]).all() and len(ids) > 3
    assert special_prefix(opt) == [opt.convert_tokens_to_ids("</s>")]  # still fed before every text


def test_documents_that_a_tokenizer_cannot_spell_are_left_out_counted_and_the_first_named(tokenizer_of, caplog):
    some = as_documents(["plain text", "one ▁ mark", "more text", "another ▁", "the end"])
    for pieces in (
        windows(some, tokenizer_of["sentencepiece"], 64, chunk=2),
        segments(some, tokenizer_of["pythia"], tokenizer_of["sentencepiece"], 64, chunk=2),
    ):
        caplog.clear()
        assert [piece.document.source for piece in pieces] == ["text 0", "text 2", "text 4"]
        assert "left out text 1" in caplog.text and "2 documents were left out" in caplog.text


def test_a_tokenizer_that_spells_nothing_ends_the_run_even_of_an_endless_stream(tokenizer_of):
    endless = (document for _ in iter(int, 1) for document in as_documents(["the Heap"]))
    with pytest.raises(TokenizerRefused, match="bert-like"):
        list(windows(endless, tokenizer_of["wordpiece"], 64))
    with pytest.raises(TokenizerRefused, match="bert-like"):
        list(windows(as_documents(["", "Heap"]), tokenizer_of["wordpiece"], 64))


def test_a_batch_gives_what_its_texts_give_one_by_one(tokenizer_of):
    some = ["heap", "", MANY_SCRIPTS, "👍"]
    together = batch_byte_spans(tokenizer_of["gpt2"], some)
    for text, (ids, spans) in zip(some, together, strict=True):
        alone_ids, alone_spans = token_byte_spans(tokenizer_of["gpt2"], text)
        assert ids == alone_ids
        np.testing.assert_array_equal(spans, alone_spans)
    assert batch_byte_spans(tokenizer_of["gpt2"], []) == []


def test_a_lone_surrogate_is_refused(tokenizer_of):
    with pytest.raises(ValueError, match="no UTF-8 form"):
        token_byte_spans(tokenizer_of["gpt2"], "a\ud800b")


@pytest.mark.parametrize("text", ["Heap", "the heap", "café", "漢 ☃"])
def test_a_tokenizer_that_changes_the_text_is_refused_by_name(tokenizer_of, text):
    with pytest.raises(TokenizerRefused, match="bert-like"):
        token_byte_spans(tokenizer_of["wordpiece"], text)


def test_a_refusal_says_where_text_and_tokens_part(tokenizer_of):
    with pytest.raises(TokenizerRefused, match=r"at byte 3 the text has b' Heap', the tokens b'heap'"):
        token_byte_spans(tokenizer_of["wordpiece"], "the Heap")


def test_a_text_with_the_mark_that_stands_for_a_space_is_refused_where_it_cannot_be_told_apart(tokenizer_of):
    with pytest.raises(TokenizerRefused):
        token_byte_spans(tokenizer_of["sentencepiece"], "a▁b")
    assert token_byte_spans(tokenizer_of["gpt2"], "a▁b")[1][-1, 1] == 5


def test_text_that_was_not_normalized_is_refused_by_a_tokenizer_that_normalizes(tokenizer_of):
    decomposed = unicodedata.normalize("NFD", "café")
    with pytest.raises(TokenizerRefused):
        token_byte_spans(tokenizer_of["pythia"], decomposed)
    assert token_byte_spans(tokenizer_of["pythia"], normalize(decomposed))[1][-1, 1] == 5


# ---------------------------------------------------------------------------------------------------------------------
# Shared positions


@some_examples
@given(text=any_text, kind_a=st.sampled_from(SPELLING), kind_b=st.sampled_from(SPELLING))
@example(text="", kind_a="prefix space", kind_b="gpt2")
def test_canonical_spans_are_the_stretches_between_shared_boundaries(tokenizer_of, text, kind_a, kind_b):
    (_, spans_a), (_, spans_b) = (token_byte_spans(tokenizer_of[kind], text) for kind in (kind_a, kind_b))
    canonical = canonical_spans(spans_a, spans_b)
    bounds_a, bounds_b = ({0, *spans[:, 1].tolist()} for spans in (spans_a, spans_b))
    assert canonical.dtype == np.int64
    np.testing.assert_array_equal(canonical, spans_of(sorted(bounds_a & bounds_b)))


def test_canonical_spans_by_hand():
    spans_a, spans_b = spans_of([0, 2, 3, 7, 9]), spans_of([0, 3, 5, 6, 9])
    assert canonical_spans(spans_a, spans_b).tolist() == [[0, 3], [3, 9]]
    assert canonical_spans(spans_a, spans_a).tolist() == spans_a.tolist()
    assert canonical_spans(spans_of([]), spans_of([])).shape == (0, 2)


@pytest.mark.parametrize("other", [[0, 3, 8], [1, 3, 9], [], [4, 5]])
def test_spans_of_different_texts_are_refused(other):
    for pair in ((spans_of([0, 3, 9]), spans_of(other)), (spans_of(other), spans_of([0, 3, 9]))):
        with pytest.raises(ValueError, match="do not cover the same text"):
            canonical_spans(*pair)


def pooled_one_by_one(acts, token_spans, canonical):
    """The mean over every token that shares a byte with the span, by two loops in float64."""
    rows = []
    for start, end in canonical:
        inside = [i for i, (s, e) in enumerate(token_spans) if max(s, start) < min(e, end)]
        rows.append(acts.numpy().astype(np.float64)[inside].mean(0))
    return np.array(rows).reshape(-1, acts.shape[1])


def boundaries(size):
    return st.sets(st.integers(1, size - 1), max_size=size).map(lambda inner: [0, *sorted(inner), size])


@some_examples
@given(data=st.data(), size=st.integers(1, 25), seed=st.integers(0, 99))
def test_pooling_is_the_mean_over_the_tokens_that_overlap(data, size, seed):
    # The canonical boundaries are drawn freely: a token may reach over several spans.
    token_spans = spans_of(data.draw(boundaries(size)) if size > 1 else [0, 1])
    canonical = spans_of(data.draw(boundaries(size)) if size > 1 else [0, 1])
    acts = torch.randn(len(token_spans), 3, generator=torch.Generator().manual_seed(seed))
    pooled = pool(acts, token_spans, canonical)
    assert pooled.dtype == torch.float32
    np.testing.assert_allclose(pooled, pooled_one_by_one(acts, token_spans, canonical), rtol=1e-5, atol=1e-6)


@some_examples
@given(text=any_text.filter(bool), kind_a=st.sampled_from(SPELLING), kind_b=st.sampled_from(SPELLING))
@example(text="👍 heap", kind_a="prefix space", kind_b="bytes only")
def test_a_constant_stays_constant_and_pooling_never_loses_a_span(tokenizer_of, text, kind_a, kind_b):
    (_, spans_a), (_, spans_b) = (token_byte_spans(tokenizer_of[kind], text) for kind in (kind_a, kind_b))
    canonical = canonical_spans(spans_a, spans_b)
    for spans in (spans_a, spans_b):
        pooled = pool(torch.full((len(spans), 2), 0.3), spans, canonical)
        assert pooled.shape == (len(canonical), 2)
        np.testing.assert_allclose(pooled, 0.3, rtol=1e-6)
        acts = torch.arange(2.0 * len(spans)).view(-1, 2)
        expected = pooled_one_by_one(acts, spans, canonical)
        np.testing.assert_allclose(pool(acts, spans, canonical), expected, rtol=1e-5)


def test_pooling_bf16_activations_is_done_in_float32():
    acts = torch.tensor([[256.0], [1.0], [1.0]], dtype=torch.bfloat16)  # 258 is no bf16 number
    assert pool(acts, spans_of([0, 1, 2, 3]), spans_of([0, 3])).item() == 86.0


def test_pooling_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="2 rows of activations for 3 tokens"):
        pool(torch.zeros(2, 1), spans_of([0, 1, 2, 3]), spans_of([0, 3]))
    with pytest.raises(ValueError, match=r"\[3, 4\] overlaps no token"):
        pool(torch.zeros(3, 1), spans_of([0, 1, 2, 3]), spans_of([0, 3, 4]))


def test_overlapping_tokens_by_hand():
    first, last = overlapping_tokens(spans_of([0, 0, 2, 3, 7]), spans_of([0, 3, 5, 7]))
    assert (first.tolist(), last.tolist()) == ([1, 3, 3], [3, 4, 4])


# ---------------------------------------------------------------------------------------------------------------------
# Segments

PAIRS = [("pythia", "gpt2"), ("opt", "qwen"), ("sentencepiece", "opt"), ("prefix space", "bytes only")]


@pytest.mark.parametrize("context", [16, 57, 128])
@pytest.mark.parametrize("pair", PAIRS)
def test_segments_fit_both_contexts_and_follow_each_other_through_the_document(tokenizer_of, documents, pair, context):
    tokenizers = [tokenizer_of[kind] for kind in pair]
    found = {document.source: [] for document in documents}
    for segment in segments(documents, *tokenizers, context, chunk=3):
        found[segment.document.source].append(segment)
    for document in documents:
        encoded = [token_byte_spans(tokenizer, document.text) for tokenizer in tokenizers]
        canonical = canonical_spans(encoded[0][1], encoded[1][1])
        of_document = found[document.source]
        # A span of more tokens than fit is no segment's; all others are in order, once each.
        rooms = [context - len(special_prefix(tokenizer)) for tokenizer in tokenizers]
        fitting = [
            [s, e]
            for s, e in canonical.tolist()
            if all(
                ((spans[:, 1] > s) & (spans[:, 0] < e)).sum() <= room
                for (_, spans), room in zip(encoded, rooms, strict=True)
            )
        ]
        assert [span for segment in of_document for span in segment.canonical.tolist()] == fitting
        for segment in of_document:
            sides = ((segment.ids_a, segment.tokens_a), (segment.ids_b, segment.tokens_b))
            for (ids, (first, last)), (all_ids, spans), room in zip(sides, encoded, rooms, strict=True):
                assert 0 < len(ids) <= room
                # The first segment holds all tokens from the first on, one that is only an added space included.
                begins = segment.canonical[0, 0] > 0
                start = np.flatnonzero(spans[:, 1] > segment.canonical[0, 0])[0] if begins else 0
                assert ids == all_ids[start : start + len(ids)]
                expected = overlapping_tokens(spans, segment.canonical)
                np.testing.assert_array_equal(first + start, expected[0])
                np.testing.assert_array_equal(last + start, expected[1])
                assert last[-1] == len(ids) and (first[0] == 0 or not begins)


def test_a_segment_is_as_long_as_it_can_be(tokenizer_of):
    one = tokenizer_of["bytes only"]
    found = list(segments(as_documents(["a" * 25]), one, one, context=10))
    assert [len(s.ids_a) for s in found] == [10, 10, 5]
    assert [s.canonical[0, 0] for s in found] == [0, 10, 20]


def test_the_special_tokens_count_towards_the_context(tokenizer_of):
    found = list(segments(as_documents(["heap " * 40]), tokenizer_of["opt"], tokenizer_of["opt"], context=8))
    assert max(len(s.ids_a) for s in found) == 7
    with pytest.raises(ValueError, match="leaves no room"):
        list(segments(as_documents(["heap"]), tokenizer_of["opt"], tokenizer_of["opt"], context=1))


@pytest.mark.parametrize("pair", [("gpt2", "gpt2"), ("prefix space", "gpt2"), ("gpt2", "sentencepiece")])
def test_a_document_without_text_gives_no_segment(tokenizer_of, pair):
    a, b = (tokenizer_of[kind] for kind in pair)
    assert list(segments(as_documents([""]), a, b, context=8)) == []
    assert [s.document.text for s in segments(as_documents(["", "x", ""]), a, b, context=8)] == ["x"]


def test_a_span_longer_than_the_context_is_skipped(tokenizer_of):
    # One side's nine tokens of a byte each make one canonical span, because the other has one token for all nine.
    letters, whole = tokenizer_of["bytes only"], byte_level_tokenizer(["heapqueue"] * 50, 280)
    assert len(token_byte_spans(whole, "heapqueue")[0]) == 1
    found = list(segments(as_documents(["xy-heapqueue-z", "heapqueue"]), letters, whole, context=5))
    assert [s.canonical.tolist() for s in found] == [[[0, 1], [1, 2], [2, 3]], [[12, 13], [13, 14]]]
    assert [s.ids_a for s in found] == [letters(text)["input_ids"] for text in ("xy-", "-z")]


@pytest.mark.parametrize("limit", [1, 2])
def test_no_more_segments_of_a_document_than_asked_for(tokenizer_of, documents, limit):
    a, b = tokenizer_of["pythia"], tokenizer_of["gpt2"]
    everything = list(segments(documents, a, b, 32))
    limited = list(segments(documents, a, b, 32, per_document=limit))
    expected = [[s.canonical.tolist() for s in everything if s.document == document][:limit] for document in documents]
    assert expected == [[s.canonical.tolist() for s in limited if s.document == d] for d in documents]


# ---------------------------------------------------------------------------------------------------------------------
# Grids


def test_bilinear_resampling_by_hand():
    acts = torch.tensor([0.0, 4.0]).view(1, 1, 2, 1)
    assert resample_grid(acts, (1, 4)).flatten().tolist() == [0.0, 1.0, 3.0, 4.0]


@pytest.mark.parametrize("size", [(7, 7), (3, 5), (16, 2), (4, 6)])
def test_resampling_agrees_with_bilinear_interpolation_at_pixel_centres(size):
    acts = torch.randn(2, 4, 6, 3, generator=torch.Generator().manual_seed(0))
    rows, columns = (
        np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1) for new, old in zip(size, (4, 6), strict=True)
    )
    grid = np.meshgrid(rows, columns, indexing="ij")
    expected = np.stack(
        [[map_coordinates(image[..., n].double().numpy(), grid, order=1) for n in range(3)] for image in acts]
    )
    resampled = resample_grid(acts, size)
    assert resampled.dtype == torch.float32 and resampled.shape == (2, *size, 3)
    np.testing.assert_allclose(resampled, expected.transpose(0, 2, 3, 1), atol=1e-5)


def test_resampling_to_the_same_size_changes_nothing_and_a_constant_stays():
    acts = torch.randn(2, 5, 4, 3)
    assert torch.equal(resample_grid(acts, (5, 4)), acts)
    np.testing.assert_allclose(resample_grid(torch.full((1, 5, 4, 2), -2.5), (7, 3)), -2.5, rtol=1e-6)
    assert resample_grid(acts.bfloat16(), (5, 4)).dtype == torch.float32


def test_an_id_beyond_the_vocabulary_stands_for_nothing_as_unembeddings_have_more_rows(tokenizer_of):
    for tokenizer in tokenizer_of.values():
        beyond = max(tokenizer.get_vocab().values()) + 1
        known = tokenizer.get_vocab()["a"]
        assert token_texts(tokenizer, [known, beyond, beyond + 100]) == ["a", "", ""]
