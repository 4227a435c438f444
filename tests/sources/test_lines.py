"""Files of JSON lines, against Python's own reading of the same bytes."""

import json
import logging

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from rosetta.sources import from_files
from rosetta.sources import lines as module
from rosetta.sources.lines import lines


def packed(content: bytes, frames: int = 1) -> bytes:
    size = -(-len(content) // frames)
    return b"".join(zstandard.compress(content[i * size : (i + 1) * size]) for i in range(frames))


@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), max_size=30), st.integers(1, 50))
def test_lines_are_pythons_whatever_the_chunks(tmp_path_factory, written, chunk):
    content, folder = b"\n".join(written), tmp_path_factory.mktemp("lines")
    expected = content.split(b"\n")[:-1] + [rest for rest in content.split(b"\n")[-1:] if rest]
    (folder / "a.jsonl").write_bytes(content)
    (folder / "a.jsonl.zst").write_bytes(packed(content, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        for name in ("a.jsonl", "a.jsonl.zst"):
            found = list(lines(folder / name))
            assert [line for _, line in found] == expected
            assert all(content[place : place + len(line)] == line for place, line in found)
            wanted = [place for place, _ in found][::3]
            assert list(lines(folder / name, wanted)) == found[::3]


@pytest.mark.parametrize("cut", [1, 5, 100])
def test_a_compressed_file_that_breaks_off_is_refused_by_name(tmp_path, cut):
    content = b"".join(b'{"text": "%d"}\n' % i for i in range(1_000))
    path = tmp_path / "pile.jsonl.zst"
    path.write_bytes(packed(content))
    assert len(list(from_files([path]))) == 1_000
    path.write_bytes(packed(content)[:-cut])
    with pytest.raises(ValueError, match=r"pile\.jsonl\.zst breaks off after [\d,]+ bytes of text: .*; fetch it again"):
        list(from_files([path]))


def test_what_is_no_zst_is_refused_by_name(tmp_path):
    (tmp_path / "pile.jsonl.zst").write_bytes(b'{"text": "not packed"}\n')
    with pytest.raises(ValueError, match=r"pile\.jsonl\.zst breaks off after 0 bytes"):
        list(from_files([tmp_path / "pile.jsonl.zst"]))


def test_what_is_left_out_is_named_up_to_a_limit_and_counted(tmp_path, caplog):
    rows = [
        '{"text": "good", "meta": {"pile_set_name": "Github"}}',
        "no json",
        '{"text": "no subset", "meta": {}}',
    ] * 30
    path = tmp_path / "pile.jsonl.zst"
    path.write_bytes(packed("\n".join(rows).encode()))
    with caplog.at_level(logging.WARNING):
        found = list(from_files([path], subset="meta.pile_set_name"))
    assert [(d.text, d.subset, d.category) for d in found] == [("good", "Github", "code")] * 30
    named, total = caplog.messages[:-1], caplog.messages[-1]
    assert (
        len(named) == module.NAMED
        and total == f"left out pile.jsonl.zst: 60 in all, of which {len(named)} are named above"
    )
    assert "line 2: JSONDecodeError" in named[0] and "no field 'meta.pile_set_name'; a row has []" in named[1]


def test_a_subset_that_table_4_does_not_list_is_its_own_category(tmp_path):
    path = tmp_path / "pile.jsonl"
    path.write_text("\n".join(json.dumps({"content": n, "of": n}) for n in ("Mine", "ArXiv")))
    found = list(from_files([path], text="content", subset="of"))
    assert [(d.text, d.subset, d.category) for d in found] == [
        ("Mine", "Mine", "Mine"), ("ArXiv", "ArXiv", "formal/scientific"),
    ]  # fmt: skip
