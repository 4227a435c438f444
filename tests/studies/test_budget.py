"""Text up to a number of tokens: exactly so many where that is asked for."""

import pytest
from conftest import as_documents

from rosetta.matching.segments import segments, windows
from rosetta.studies.budget import Budgeted

TEXTS = [
    "from collections import Counter, defaultdict\n" * 6,
    "the Heap\n",
    "def x(self, other):\n    return self\n" * 9,
]


@pytest.mark.parametrize("tokens", range(1, 150, 7))
def test_an_exact_budget_of_windows_is_the_beginning_of_the_stream(tokenizer_of, tokens):
    tokenizer = tokenizer_of["opt"]
    stream = list(windows(as_documents(TEXTS), tokenizer, 32))
    everything = [i for window in stream for i in window.ids]
    exact = Budgeted(lambda: iter(stream), tokens, lambda window: len(window.ids), exact=True)
    for _ in range(2):  # read, and held
        found = list(exact)
        assert [i for window in found for i in window.ids] == everything[:tokens] and exact.read == tokens
        assert all(len(window.ids) == len(window.spans) for window in found)


@pytest.mark.parametrize("tokens", range(3, 150, 7))
def test_an_exact_budget_of_segments_is_cut_where_both_tokenizers_set_a_boundary(tokenizer_of, tokens):
    stream = list(segments(as_documents(TEXTS), tokenizer_of["opt"], tokenizer_of["qwen"], 32))
    exact = Budgeted(lambda: iter(stream), tokens, lambda segment: len(segment.ids_a), exact=True)
    found = list(exact)
    assert sum(len(segment.ids_a) for segment in found) == exact.read == tokens
    for segment in found:
        (whole,) = [
            s for s in stream if s.document == segment.document and s.canonical[0, 0] == segment.canonical[0, 0]
        ]
        spans = len(segment.canonical)
        assert (segment.canonical == whole.canonical[:spans]).all()
        for ids, of_whole, ranges in (
            (segment.ids_a, whole.ids_a, segment.tokens_a),
            (segment.ids_b, whole.ids_b, segment.tokens_b),
        ):
            assert ids == of_whole[: len(ids)] and ranges[1][-1] == len(ids) and len(ranges[0]) == spans


def test_a_segment_whose_first_span_is_longer_has_no_beginning(tokenizer_of):
    (segment,) = segments(as_documents(["abcdefgh"]), tokenizer_of["opt"], tokenizer_of["qwen"], 32)
    longest = int(segment.tokens_a[1][0])
    assert segment.first(longest - 1) is None and len(segment.first(longest).canonical) == 1
