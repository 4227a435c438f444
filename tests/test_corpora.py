import ast
import itertools
import json
import logging
import math
import re
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rosetta import corpora
from rosetta.corpora import Document

# ---------------------------------------------------------------------------------------------------------------------
# Docstrings


def docstrings_of(source: str) -> list[str]:
    """What Python itself would show as the docstrings of a module, in order of their lines."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                found.append((node.body[0].lineno, text))
    return [text for _, text in sorted(found)]


NESTED = '''"""Module."""
import os


class A:
    """Class A,

    on several lines.
    """

    x = "not a docstring"

    def f(self):
        "One line."

        async def g():
            """Inner."""
            return 1

        return g

    def bare(self):
        """no docstring follows"""
        """a second string is not one"""
        return os
'''


def test_docstrings_are_those_that_python_itself_would_show():
    code, docstrings = corpora.split_docstrings(NESTED)
    assert docstrings == "\n\n".join(docstrings_of(NESTED))
    for text in docstrings_of(NESTED):
        assert text not in code
    assert "a second string is not one" in code and "not a docstring" in code


@st.composite
def modules(draw):
    """Source of nested definitions, each with code of its own, and the number of the docstrings it was given."""
    counter = itertools.count()
    lines, docstrings = [], []

    def block(depth):
        indent = "    " * depth
        if draw(st.booleans()):
            words = f"Docstring {next(counter)}."
            more = draw(st.booleans())
            quote = draw(st.sampled_from(['"""', "'''"]))
            lines.extend([f"{indent}{quote}{words}", f"{indent}More of it.{quote}"] if more else [f'{indent}"{words}"'])
            docstrings.append(f"{words}\nMore of it." if more else words)
        for _ in range(draw(st.integers(0, 2)) if depth < 3 else 0):
            kind = draw(st.sampled_from(["def f{}():", "class C{}:", "async def g{}():"]))
            lines.append(indent + kind.format(next(counter)))
            block(depth + 1)
        lines.append(f"{indent}x{next(counter)} = 1")

    block(0)
    return "\n".join(lines) + "\n", docstrings


@settings(deadline=None, max_examples=60)
@given(modules())
def test_code_and_docstrings_are_parted_without_loss(module):
    source, expected = module
    code, docstrings = corpora.split_docstrings(source)
    assert docstrings == "\n\n".join(expected)
    assert docstrings_of(code) == []
    # Every definition here has a statement of its own, so what is left is the same program.
    stripped = ast.parse(source)
    for node in ast.walk(stripped):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node)
        ):
            node.body = node.body[1:]
    assert ast.dump(ast.parse(code)) == ast.dump(stripped)


def test_only_what_ends_a_line_for_python_counts_as_one():
    # For str.splitlines, but not for Python, a form feed and U+2028 end a line too.
    source = 'a = 1\x0c\nb = "\u2028"\n\n\ndef f():\n    """Doc."""\n    return a\n'
    assert corpora.split_docstrings(source) == (source.replace('    """Doc."""\n', ""), "Doc.")


@pytest.mark.parametrize("source", ["def broken(:\n  '''doc'''\n", "print 'python 2'\n", "a\0b", ""])
def test_what_is_no_python_stays_as_it_is(source):
    assert corpora.split_docstrings(source) == (source, "")


# ---------------------------------------------------------------------------------------------------------------------
# Cutting


@settings(deadline=None)
@given(st.text(st.sampled_from("ab\n\r é")), st.integers(1, 20))
def test_pieces_join_back_to_the_text_and_end_at_lines(text, characters):
    pieces = list(corpora.split_at_lines(text, characters))
    assert "".join(pieces) == text
    for piece in pieces[:-1]:
        assert len(piece) >= characters and piece[-1] in "\r\n"
        assert len(piece) - len(piece.splitlines(keepends=True)[-1]) < characters  # no line more than it needs


@settings(deadline=None)
@given(st.text(st.sampled_from("abc\n"), max_size=60), st.integers(1, 30), st.integers(0, 5))
def test_an_excerpt_is_a_piece_of_the_text_that_begins_at_a_line(text, characters, seed):
    document = Document(text, "Python", "code", "somewhere#1")
    excerpt = corpora.excerpt(document, characters, seed)
    assert excerpt == corpora.excerpt(document, characters, seed)
    assert excerpt._replace(text="") == document._replace(text="")
    assert len(excerpt.text) == min(characters, len(text))
    begins = [0] + [i + 1 for i, c in enumerate(text) if c == "\n"]
    assert any(text.startswith(excerpt.text, i) for i in begins)


def test_excerpts_of_one_text_differ_between_seeds_and_sources():
    text = "".join(f"line {i}\n" for i in range(100))
    by_seed = {corpora.excerpt(Document(text, "", "", "a"), 20, seed).text for seed in range(10)}
    by_source = {corpora.excerpt(Document(text, "", "", str(source)), 20, 0).text for source in range(10)}
    assert len(by_seed) > 5 and len(by_source) > 5
    document = Document(text, "", "", "a")
    assert corpora.excerpt(document, None, 0) is document


@given(st.text())
def test_normal_form_is_nfc(text):
    assert unicodedata.is_normalized("NFC", corpora.normalize(text))
    assert unicodedata.normalize("NFD", corpora.normalize(text)) == unicodedata.normalize("NFD", text)


def test_a_composed_and_a_decomposed_accent_become_the_same():
    assert corpora.normalize("e\u0301") == corpora.normalize("\u00e9") == "\u00e9"


# ---------------------------------------------------------------------------------------------------------------------
# Arithmetic


def right_answer(question: str) -> str:
    """Solve one generated question from its words alone."""
    numbers = [int(n) for n in re.findall(r"-?\d+", question)]
    if match := re.search(r"the (sum|product|difference) of (\d+) and (\d+)", question):
        a, b = int(match[2]), int(match[3])
        return str({"sum": a + b, "product": a * b, "difference": a - b}[match[1]])
    if match := re.fullmatch(r"Solve (\d+)\*(\w) \+ (\d+) = (\d+) for \2\.", question):
        solutions = [n for n in range(1000) if int(match[1]) * n + int(match[3]) == int(match[4])]
        assert len(solutions) == 1
        return str(solutions[0])
    if match := re.fullmatch(r"Let f\((\w)\) = (.*)\. What is f\((\d+)\)\?", question):
        terms = re.fullmatch(rf"(\d+)\*{match[1]}\*\*2 - (\d+)\*{match[1]} \+ (\d+)", match[2])
        at, (p, q, r) = int(match[3]), map(int, terms.groups())
        return str(p * at * at - q * at + r)
    if question.startswith("Sort "):
        left, ordered = list(numbers), []
        while left:
            ordered.append(left.pop(left.index(min(left))))
        return ", ".join(map(str, ordered))
    if question.startswith("Calculate the remainder when "):
        return str(int(math.fmod(*numbers)))
    if match := re.fullmatch(r"How many (\w+) are there in (\d+) (\w+)\?", question):
        factors = {("minutes", "hours"): 60, ("centimetres", "metres"): 100, ("days", "weeks"): 7}
        return str(int(match[2]) * factors[match[1], match[3]])
    if match := re.fullmatch(r"Is (\d+) a prime number\?", question):
        return str(sum(int(match[1]) % d == 0 for d in range(1, int(match[1]) + 1)) == 2)
    if question.startswith("Calculate the greatest common divisor of "):
        return str(math.gcd(*numbers))
    raise AssertionError(f"an unknown question: {question}")


def test_every_arithmetic_answer_is_right():
    openings = set()
    for index in range(200):
        lines = corpora.arithmetic(index).splitlines()
        assert 15 <= len(lines) / 2 <= 40
        for question, answer in zip(lines[::2], lines[1::2], strict=True):
            assert answer == right_answer(question), question
            openings.add(" ".join(question.split()[:2]))
    assert {"Sort " not in o for o in openings} == {True, False} and len(openings) >= 8


def test_an_arithmetic_page_depends_on_its_number_alone():
    assert corpora.arithmetic(7) == corpora.arithmetic(7) != corpora.arithmetic(8)


# ---------------------------------------------------------------------------------------------------------------------
# Held-out paths


def test_one_path_in_ten_is_held_out():
    n = 20_000
    held_out = sum(corpora.is_heldout(f"package/module_{i}.py") for i in range(n))
    assert abs(held_out - n / 10) < 5 * math.sqrt(n * 0.1 * 0.9)


def test_the_same_paths_are_held_out_everywhere_and_always():
    # First bytes of SHA-256, worked out with `printf %s PATH | sha256sum`.
    digests = {"mpmath/ctx_mp.py": 0xD7D2304E, "arithmetic/0": 0xFF73AAE4, "arithmetic/5": 0xAA1366E0}
    for path, digest in digests.items():
        assert corpora.is_heldout(path) == (digest % 10 == 0), path
    assert any(digest % 10 == 0 for digest in digests.values())


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
    for document in itertools.islice(corpora.interleave(some_documents(sizes_of), shares, seed, repeat=True), 200):
        used[document.subset] += len(document.text)
        for subset, share in shares.items():
            assert abs(used[subset] - share * used.total()) <= largest


@settings(deadline=None)
@given(SIZES, SIZES, st.integers(0, 9))
def test_without_repeating_each_document_comes_once(a, b, seed):
    documents = some_documents({"a": a, "b": b})
    order = list(corpora.interleave(documents, {"a": 0.9, "b": 0.1}, seed))
    assert sorted(order) == sorted(documents)


def test_an_exhausted_subset_drops_out_and_the_others_go_on():
    documents = some_documents({"a": [10] * 2, "b": [10] * 20})
    order = [d.subset for d in corpora.interleave(documents, {"a": 0.5, "b": 0.5}, seed=0)]
    assert order[:4].count("a") == 2 and order[4:] == ["b"] * 18


def test_repeating_goes_through_a_subset_again_in_cycles():
    documents = some_documents({"a": [1] * 4})
    stream = corpora.interleave(documents, {"a": 1.0}, seed=3, repeat=True)
    order = [document.source for document in itertools.islice(stream, 12)]
    assert order[:4] == order[4:8] == order[8:]
    assert set(order[:4]) == {d.source for d in documents}


def test_the_order_depends_on_the_seed_and_on_nothing_else():
    documents, shares = some_documents({"a": [3] * 30, "b": [5] * 30}), {"a": 0.5, "b": 0.5}
    first = list(corpora.interleave(documents, shares, seed=1))
    assert first == list(corpora.interleave(iter(documents), shares, seed=1))
    assert first != list(corpora.interleave(documents, shares, seed=2))


def test_a_subset_without_a_share_is_left_out():
    documents = some_documents({"a": [3] * 5, "b": [3] * 5, "c": [3] * 5})
    assert {d.subset for d in corpora.interleave(documents, {"a": 1.0, "b": 0.0}, seed=0)} == {"a"}


# ---------------------------------------------------------------------------------------------------------------------
# Files


def test_broken_files_and_lines_are_named_and_the_others_survive(tmp_path, caplog):
    (tmp_path / "good.txt").write_text("Good text.", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    lines = [
        b'{"text": "first", "subset": "ArXiv"}',
        b'{"text": "second", "category": "math"}',
        b'{"text": "broken',
        b'{"no text": 1}',
        b'{"text": null}',
        b'["a list"]',
        b'{"text": "half a pair: \\ud800"}',
        b'{"text": "not utf-8: \xff"}',
        b'{"text": "e\\u0301"}',
    ]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    with caplog.at_level(logging.WARNING):
        found = list(corpora.from_files([tmp_path / n for n in ("good.txt", "latin.txt", "rows.jsonl")]))
    assert [(d.text, d.subset, d.category) for d in found] == [
        ("Good text.", "good", "general prose"),
        ("first", "ArXiv", "formal/scientific"),
        ("second", "rows", "math"),
        ("\u00e9", "rows", "general prose"),
    ]
    assert "latin.txt" in caplog.text and "good.txt" not in caplog.text
    assert {int(n) for n in re.findall(r"rows\.jsonl, line (\d+)", caplog.text)} == {3, 4, 5, 6, 7, 8}


def test_a_corpus_of_one_document_works(tmp_path):
    (tmp_path / "only.txt").write_text("All there is.\n", encoding="utf-8")
    corpus = {"kind": "files", "paths": [str(tmp_path / "only.txt")], "category": "conversational"}
    (document,) = corpora.documents(corpus, seed=0)
    assert document.text == "All there is.\n" and document.category == "conversational"


@pytest.mark.parametrize("content", ["", " \n\t\n"])
def test_a_corpus_without_text_is_refused(tmp_path, content):
    (tmp_path / "empty.txt").write_text(content)
    with pytest.raises(ValueError, match="holds no document with text"):
        list(corpora.documents({"kind": "files", "paths": [str(tmp_path / "empty.txt")]}, seed=0))


def test_an_unknown_kind_of_corpus_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"'s3'.*environment.*files.*hub"):
        list(corpora.documents({"kind": "s3"}, seed=0))


def test_documents_from_files_come_in_the_seeds_order(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": str(i)}) + "\n" for i in range(30)))
    corpus = {"kind": "files", "paths": [str(tmp_path / "rows.jsonl")]}
    first, again, other = ([d.text for d in corpora.documents(corpus, seed)] for seed in (0, 0, 1))
    assert first == again != other
    assert sorted(first, key=int) == sorted(other, key=int) == [str(i) for i in range(30)]


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
    assert {subset.lower(): category for subset, category in corpora.PILE_CATEGORIES.items()} == expected
    assert set(corpora.CATEGORIES) == set(table)


@pytest.fixture
def local_hub(tmp_path, monkeypatch):
    """A data set with the Pile's nested fields, in a local file, as a profile describes it."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    rows = [
        {"text": f"text {i}, e\u0301", "meta": {"pile_set_name": name}}
        for i, name in enumerate(["Github", "Enron Emails", "A new one"] * 10)
    ]
    path = tmp_path / "pile.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "kind": "hub", "dataset": "json", "data_files": str(path), "split": "train",
        "text": "text", "subset": "meta.pile_set_name", "shuffle_buffer": 8,
    }  # fmt: skip


def test_a_hub_data_set_is_streamed_with_its_subsets_and_categories(local_hub):
    found = list(corpora.documents(local_hub, seed=0))
    assert sorted(d.text for d in found) == sorted(f"text {i}, \u00e9" for i in range(30))
    assert {d.subset: d.category for d in found} == {
        "Github": "code", "Enron Emails": "conversational", "A new one": "A new one",
    }  # fmt: skip
    assert found == list(corpora.documents(local_hub, seed=0))
    assert [d.text for d in found] != [d.text for d in corpora.documents(local_hub, seed=1)]


@pytest.mark.parametrize(("key", "field"), [("subset", "meta.name"), ("text", "content"), ("subset", "text.name")])
def test_a_field_that_the_data_set_has_not_is_named(local_hub, key, field):
    with pytest.raises(ValueError, match=re.escape(f"no field {field!r}")):
        list(corpora.documents(local_hub | {key: field}, seed=0))


# ---------------------------------------------------------------------------------------------------------------------
# The environment corpus


@pytest.fixture
def small_environment(monkeypatch):
    """The environment corpus over a handful of small distributions."""
    for name, few in {
        "SCIENTIFIC": ("mpmath",), "GENERAL": ("jinja2",), "PYTHON_CODE": ("mpmath", "jinja2"), "HEADERS": (),
        "CYTHON": ("pyarrow",), "DESCRIBED": ("mpmath", "jinja2", "tqdm"), "ARITHMETIC_DOCUMENTS": 60,
    }.items():  # fmt: skip
        monkeypatch.setattr(corpora, name, few)
    corpora.distributions.cache_clear()
    yield
    corpora.distributions.cache_clear()


def test_no_file_is_on_both_sides_of_the_split(small_environment):
    heldout, train = (corpora.environment(split) for split in ("heldout", "train"))
    files = [{d.source.partition("#")[0] for d in side} for side in (heldout, train)]
    assert files[0] and files[1] and not files[0] & files[1]
    assert {f"arithmetic/{i}" for i in range(60)} <= files[0] | files[1]
    for document in heldout + train:
        assert document.category in corpora.CATEGORIES
        assert document.category == corpora.ENVIRONMENT_CATEGORIES[document.subset]
        assert document.text.strip() and unicodedata.is_normalized("NFC", document.text)
    assert {d.subset for d in train} == set(corpora.ENVIRONMENT_SHARES) - {"C/C++"}


def test_kept_documents_are_those_that_were_read(small_environment, tmp_path, monkeypatch):
    read = corpora.environment("heldout")
    assert corpora.environment("heldout", tmp_path) == read
    monkeypatch.setattr(corpora, "_read_environment", lambda split: pytest.fail("read a second time"))
    assert corpora.environment("heldout", tmp_path) == read


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"'test'.*heldout.*train"):
        corpora.environment("test")


def test_every_subset_has_a_category_and_a_share():
    assert corpora.ENVIRONMENT_CATEGORIES.keys() == corpora.ENVIRONMENT_SHARES.keys()
    assert set(corpora.ENVIRONMENT_CATEGORIES.values()) <= set(corpora.CATEGORIES)
    assert math.isclose(sum(corpora.ENVIRONMENT_SHARES.values()), 1)


@pytest.fixture
def recorded():
    documents = some_documents({"Python": [5, 6], "Cython": [7]})
    record = {
        "distributions": dict(corpora.distributions()),
        "heldout": {
            # sha256sum of eleven and of seven times the letter x
            "Python": {
                "documents": 2,
                "bytes": 11,
                "sha256": "7668d2cd32a37eb45b51f002690d1b9a7c03f2da91791f96227ba9a61952fce8",
            },
            "Cython": {
                "documents": 1,
                "bytes": 7,
                "sha256": "7b70d3ab4c7641542e1f158b458eeae7cfb7bdb815d4110cc6178bafcfdf43f8",
            },
        },
    }
    return documents, record


def test_a_manifest_counts_and_digests_each_subset(recorded):
    documents, record = recorded
    assert corpora.manifest(documents) == record["heldout"]
    assert corpora.differences("heldout", documents, record) == []


def test_a_changed_subset_and_a_changed_distribution_are_named(recorded):
    documents, record = recorded
    here = record["distributions"]["numpy"]
    record["distributions"]["numpy"] = "0.0.1"
    changed = [d._replace(text="y" * 7) if d.subset == "Cython" else d for d in documents]
    (message,) = corpora.differences("heldout", changed, record)
    assert "Cython" in message and f"numpy {here} instead of 0.0.1" in message
    assert "Python" not in message and "scipy" not in message


def test_a_missing_subset_and_unchanged_versions_are_told(recorded):
    documents, record = recorded
    (message,) = corpora.differences("heldout", [d for d in documents if d.subset == "Python"], record)
    assert "Cython" in message and "versions are the same" in message
