import itertools
import unicodedata
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from rosetta import sources
from rosetta.sources.document import Document

# ---------------------------------------------------------------------------------------------------------------------
# Cutting


@settings(deadline=None)
@given(st.text(st.sampled_from("ab\n\r é")), st.integers(1, 20))
def test_pieces_join_back_to_the_text_and_end_at_lines(text, characters):
    pieces = list(sources.split_at_lines(text, characters))
    assert "".join(pieces) == text
    for piece in pieces[:-1]:
        assert len(piece) >= characters and piece[-1] in "\r\n"
        assert len(piece) - len(piece.splitlines(keepends=True)[-1]) < characters  # no line more than it needs


@settings(deadline=None)
@given(st.text(st.sampled_from("abc\n"), max_size=60), st.integers(1, 30), st.integers(0, 5))
def test_an_excerpt_is_a_piece_of_the_text_that_begins_at_a_line(text, characters, seed):
    document = Document(text, "Python", "code", "somewhere#1")
    excerpt = sources.excerpt(document, characters, seed)
    assert excerpt == sources.excerpt(document, characters, seed)
    assert excerpt._replace(text="") == document._replace(text="")
    assert len(excerpt.text) == min(characters, len(text))
    begins = [0] + [i + 1 for i, c in enumerate(text) if c == "\n"]
    assert any(text.startswith(excerpt.text, i) for i in begins)


def test_excerpts_differ_between_seeds_and_texts_and_not_between_places_of_a_file():
    text = "".join(f"line {i}\n" for i in range(100))
    by_seed = {sources.excerpt(Document(text, "", "", "a"), 20, seed).text for seed in range(10)}
    by_text = {sources.excerpt(Document(f"{text}{i}", "", "", "a"), 20, 0).text for i in range(10)}
    by_source = {sources.excerpt(Document(text, "", "", str(source)), 20, 0).text for source in range(10)}
    assert len(by_seed) > 5 and len(by_text) > 5 and len(by_source) == 1
    document = Document(text, "", "", "a")
    assert sources.excerpt(document, None, 0) is document


@given(st.text())
def test_normal_form_is_nfc(text):
    assert unicodedata.is_normalized("NFC", sources.normalize(text))
    assert unicodedata.normalize("NFD", sources.normalize(text)) == unicodedata.normalize("NFD", text)


def test_a_composed_and_a_decomposed_accent_become_the_same():
    assert sources.normalize("e\u0301") == sources.normalize("\u00e9") == "\u00e9"


# ---------------------------------------------------------------------------------------------------------------------
# Order

SIZES = st.lists(st.integers(1, 40), min_size=5, max_size=30)


def some_documents(sizes_of: dict[str, list[int]]) -> list[Document]:
    return [
        Document("x" * size, subset, "code", f"{subset}/{i}")
        for subset, sizes in sizes_of.items()
        for i, size in enumerate(sizes)
    ]


@settings(deadline=None)
@given(SIZES, SIZES, SIZES, st.integers(0, 9))
def test_every_prefix_holds_the_shares_within_one_document(a, b, c, seed):
    shares, sizes_of = {"a": 0.5, "b": 0.3, "c": 0.2}, {"a": a, "b": b, "c": c}
    largest = max(a + b + c)
    used = Counter()
    # While repeating, no subset ever drops out.
    for document in itertools.islice(sources.interleave(some_documents(sizes_of), shares, seed, repeat=True), 200):
        used[document.subset] += len(document.text)
        for subset, share in shares.items():
            assert abs(used[subset] - share * used.total()) <= largest


@settings(deadline=None)
@given(SIZES, SIZES, st.integers(0, 9))
def test_without_repeating_each_document_comes_once(a, b, seed):
    documents = some_documents({"a": a, "b": b})
    order = list(sources.interleave(documents, {"a": 0.9, "b": 0.1}, seed))
    assert sorted(order) == sorted(documents)


def test_an_exhausted_subset_drops_out_and_the_others_go_on():
    documents = some_documents({"a": [10] * 2, "b": [10] * 20})
    order = [d.subset for d in sources.interleave(documents, {"a": 0.5, "b": 0.5}, seed=0)]
    assert order[:4].count("a") == 2 and order[4:] == ["b"] * 18


def test_repeating_goes_through_a_subset_again_in_cycles():
    documents = some_documents({"a": [1] * 4})
    stream = sources.interleave(documents, {"a": 1.0}, seed=3, repeat=True)
    order = [document.source for document in itertools.islice(stream, 12)]
    assert order[:4] == order[4:8] == order[8:]
    assert set(order[:4]) == {d.source for d in documents}


def test_the_order_depends_on_the_seed_and_on_nothing_else():
    documents, shares = some_documents({"a": [3] * 30, "b": [5] * 30}), {"a": 0.5, "b": 0.5}
    first = list(sources.interleave(documents, shares, seed=1))
    assert first == list(sources.interleave(iter(documents), shares, seed=1))
    assert first != list(sources.interleave(documents, shares, seed=2))


def test_a_subset_without_a_share_is_left_out():
    documents = some_documents({"a": [3] * 5, "b": [3] * 5, "c": [3] * 5})
    assert {d.subset for d in sources.interleave(documents, {"a": 1.0, "b": 0.0}, seed=0)} == {"a"}


# ---------------------------------------------------------------------------------------------------------------------
# The Pile


def test_all_22_subsets_of_table_4_have_its_categories():
    # Table 4, as printed; the data set itself spells "Github" and "YoutubeSubtitles".
    table = {
        "code": "GitHub",
        "math": "DM Mathematics",
        "formal/scientific": "ArXiv, PubMed Central, PubMed Abstracts, FreeLaw, USPTO Backgrounds, NIH ExPorter, "
        "StackExchange, PhilPapers",
        "general prose": "Pile-CC, OpenWebText2, Wikipedia (en), Books3, Gutenberg (PG-19), EuroParl, BookCorpus2",
        "conversational": "OpenSubtitles, Ubuntu IRC, HackerNews, Enron Emails, YouTubeSubtitles",
    }
    expected = {subset.lower(): category for category, subsets in table.items() for subset in subsets.split(", ")}
    assert len(expected) == 22
    assert {subset.lower(): category for subset, category in sources.PILE_CATEGORIES.items()} == expected
    assert set(sources.CATEGORIES) == set(table)
