import json
import logging
import re

import pytest

from rosetta import sources

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
        found = list(sources.from_files([tmp_path / n for n in ("good.txt", "latin.txt", "rows.jsonl")]))
    assert [(d.text, d.subset, d.category) for d in found] == [
        ("Good text.", "good", "general prose"),
        ("first", "ArXiv", "formal/scientific"),
        ("second", "rows", "math"),
        ("\u00e9", "rows", "general prose"),
    ]
    assert "latin.txt" in caplog.text and "good.txt" not in caplog.text
    assert {int(n) for n in re.findall(r"rows\.jsonl, line (\d+)", caplog.text)} == {3, 4, 5, 6, 7, 8}


@pytest.mark.parametrize("read", ["documents", "sample"])
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "a b c", "meta": {}}', r"line 1: ValueError: the data set has no field 'meta.pile_set_name'; a row has \[\]"),
        ('{"content": "a b c", "meta": {"pile_set_name": "ArXiv"}}', r"line 1: .* no field 'text'; a row has \['content', 'meta'\]"),
        ("a b c", "line 1: JSONDecodeError"),
    ],
)  # fmt: skip
def test_a_file_of_which_no_line_is_a_document_is_refused_with_what_it_lacks(tmp_path, caplog, read, line, said):
    """A key that every line lacks is misspelt in the profile; one that some lack is a matter of these lines."""
    (tmp_path / "rows.jsonl").write_text(f"{line}\n" * 12)
    corpus = {"kind": "files", "paths": [str(tmp_path / "rows.jsonl")], "subset": "meta.pile_set_name"}

    def found() -> list[str]:
        of = sources.documents(corpus, 0) if read == "documents" else sources.sequences(corpus, 0, 5)
        return [document.text for document in of]

    expected = rf"rows.jsonl: none of its 12 lines .*\(text: text and subset: meta.pile_set_name\); {said}"
    with pytest.raises(ValueError, match=expected):
        found()
    assert "12 in all, of which 10 are named" in caplog.text
    with open(tmp_path / "rows.jsonl", "a") as file:
        file.write('{"text": "as it should be", "meta": {"pile_set_name": "ArXiv"}}\n')
    assert "".join(found()).startswith("as it should be") or read == "sample"
    assert found()


def test_a_corpus_of_one_document_works(tmp_path):
    (tmp_path / "only.txt").write_text("All there is.\n", encoding="utf-8")
    corpus = {"kind": "files", "paths": [str(tmp_path / "only.txt")], "category": "conversational"}
    (document,) = sources.documents(corpus, seed=0)
    assert document.text == "All there is.\n" and document.category == "conversational"


@pytest.mark.parametrize("content", ["", " \n\t\n"])
def test_a_corpus_without_text_is_refused(tmp_path, content):
    (tmp_path / "empty.txt").write_text(content)
    with pytest.raises(ValueError, match="holds no document with text"):
        list(sources.documents({"kind": "files", "paths": [str(tmp_path / "empty.txt")]}, seed=0))


def test_an_unknown_kind_of_corpus_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"'s3'.*environment.*files.*hub"):
        list(sources.documents({"kind": "s3"}, seed=0))


def test_documents_from_files_come_in_the_seeds_order(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": str(i)}) + "\n" for i in range(30)))
    corpus = {"kind": "files", "paths": [str(tmp_path / "rows.jsonl")]}
    first, again, other = ([d.text for d in sources.documents(corpus, seed)] for seed in (0, 0, 1))
    assert first == again != other
    assert sorted(first, key=int) == sorted(other, key=int) == [str(i) for i in range(30)]


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
    found = list(sources.documents(local_hub, seed=0))
    assert sorted(d.text for d in found) == sorted(f"text {i}, \u00e9" for i in range(30))
    assert {d.subset: d.category for d in found} == {
        "Github": "code", "Enron Emails": "conversational", "A new one": "A new one",
    }  # fmt: skip
    assert found == list(sources.documents(local_hub, seed=0))
    assert [d.text for d in found] != [d.text for d in sources.documents(local_hub, seed=1)]


@pytest.mark.parametrize(("key", "field"), [("subset", "meta.name"), ("text", "content"), ("subset", "text.name")])
def test_a_field_that_the_data_set_has_not_is_named(local_hub, key, field):
    with pytest.raises(ValueError, match=re.escape(f"no field {field!r}")):
        list(sources.documents(local_hub | {key: field}, seed=0))
