"""Sequences sampled i.i.d.: their shares, against those of planted corpora; their bytes, whatever the way they are read."""

import itertools
import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import zstandard
from scipy import stats

from rosetta.neurons.specialization import normalized_fire
from rosetta.sources import sampling, text


def write(folder, rows, name="corpus.jsonl") -> str:
    """A file of JSON lines with the Pile's fields."""
    content = "".join(json.dumps({"text": t, "meta": {"pile_set_name": s}}) + "\n" for t, s in rows).encode()
    (folder / name).write_bytes(zstandard.compress(content) if name.endswith(".zst") else content)
    return str(folder / name)


def corpus(*paths) -> dict:
    return {"kind": "files", "paths": paths, "subset": "meta.pile_set_name"}


def prose(seed: int, characters: int) -> str:
    """Text of which any 12 characters say where they stand."""
    rng = random.Random(seed)
    return "".join(rng.choices("abcdefgh é\u4e2d\n", k=characters))


@pytest.fixture
def mixed(tmp_path) -> dict:
    """Documents of all lengths in three files, one of them compressed."""
    rng = random.Random(0)
    sizes = [int(rng.expovariate(1 / 300)) + 1 for _ in range(240)]
    rows = [(prose(i, size), rng.choice(["Github", "ArXiv", "Enron Emails"])) for i, size in enumerate(sizes)]
    return corpus(
        write(tmp_path, rows[:80], "a.jsonl"), write(tmp_path, rows[80:160], "b.jsonl.zst"), write(tmp_path, rows[160:], "c.jsonl")
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Statistics


@pytest.mark.parametrize(("short", "characters"), [("skipped", 60), ("whole", 200)])
def test_a_long_and_a_short_document_have_their_shares_of_the_text(tmp_path, short, characters):
    """.997 and .003; an excerpt of each gave .51 and .49."""
    of = corpus(write(tmp_path, [("a" * 19_940, "long"), ("b" * 60, "short")]))
    count = Counter()
    for seed in range(300):
        for sequence in sampling.sequences(of, seed, characters, tmp_path, short):
            count[sequence.subset] += len(sequence.text)
    draws = [count["long"] // characters, count["short"] // 60]  # all whole
    chance = 0.003 if short == "skipped" else 200 / (19_940 + 200)
    assert stats.binomtest(draws[1], sum(draws), chance).pvalue > 1e-3 and draws[1] > 10
    assert count["short"] / count.total() == pytest.approx(0.003, rel=0.25)


def test_the_shares_of_tokens_are_the_corpuss_and_what_fires_evenly_is_at_the_baseline(tmp_path):
    """Code takes twice the tokens a character here: its share of the tokens is not that of the bytes."""
    rng = random.Random(1)
    unit = {"Github": "x ", "ArXiv": "word ", "Enron Emails": "longerword "}  # a token is what stands between spaces
    rows = [
        (unit[of] * rng.randint(20, {"Github": 900, "ArXiv": 300, "Enron Emails": 60}[of]), of)
        for of in rng.choices(list(unit), k=400)
    ]
    truth = Counter()
    for content, of in rows:
        truth[of] += len(content.split())
    of, count, draws = corpus(write(tmp_path, rows)), Counter(), []
    for seed in range(12):
        for sequence in sampling.sequences(of, seed, 120, tmp_path, "whole"):
            tokens = sequence.text.count(" ")
            count[sequence.subset] += tokens
            draws.append((sequence.subset, tokens))
    share = {name: n / truth.total() for name, n in truth.items()}
    total = count.total()
    for name, expected in share.items():
        # A sample of draws, not of tokens: the error is that of a ratio of sums over draws.
        residuals = np.array([(s == name) * tokens - expected * tokens for s, tokens in draws])
        error = residuals.std() * np.sqrt(len(draws)) / total
        assert abs(count[name] / total - expected) < 4 * error < 0.03
    of_bytes = Counter()
    for content, name in rows:
        of_bytes[name] += len(content)
    assert (
        abs(of_bytes["Github"] / of_bytes.total() - share["Github"]) > 0.1
    )  # what draws by length of equal tokens give
    # Contexts that fall as the corpus's tokens do fire at the baseline, by the sample's denominators.
    fired = random.Random(2).choices(list(share), weights=list(share.values()), k=20_000)
    measured = {name: count[name] / total for name in share}
    for name, value in normalized_fire(fired, measured).items():
        assert stats.binomtest(fired.count(name), len(fired), share[name]).pvalue > 1e-3
        assert value == pytest.approx(1, abs=0.06)


def test_the_place_in_a_document_is_uniform_and_draws_are_independent(tmp_path):
    whole = prose(7, 5_000)
    of = corpus(write(tmp_path, [(whole, "ArXiv")]))
    begins = [
        int(re.search(r"from character (\d+)", s.source)[1])
        for seed in range(60) for s in sampling.sequences(of, seed, 100, tmp_path)
    ]  # fmt: skip
    assert stats.kstest(np.array(begins) + 0.5, stats.uniform(0, 4_901).cdf).pvalue > 1e-3
    assert len(begins) == 60 * 50
    # With replacement: of 50 draws from 4,901 places some coincide, as often as birthdays do.
    again = sum(50 - len(set(begins[i : i + 50])) for i in range(0, 3_000, 50))
    low, high = stats.poisson(60 * (50 * 49 / 2) / 4_901).interval(0.9999)
    assert 0 < low <= again <= high
    first, second = np.array(begins[:-1:2]), np.array(begins[1::2])
    assert stats.pearsonr(first, second).pvalue > 1e-3


# ---------------------------------------------------------------------------------------------------------------------
# The same bytes


def test_a_sequence_is_what_stands_at_its_place(mixed):
    texts = {d.source: d.text for d in text.from_files(mixed["paths"], subset=mixed["subset"])}
    by_place = set(texts.values())
    found = list(sampling.sequences(mixed, 3, 50, short="whole"))
    assert sum(len(s.text) for s in found) >= sum(map(len, by_place)) > sum(len(s.text) for s in found[:-1])
    for sequence in found:
        start = int(re.search(r"from character (\d+)", sequence.source)[1])
        assert any(content[start : start + 50] == sequence.text for content in by_place)


def test_two_samples_of_a_seed_are_the_same_bytes_on_one_and_four_workers_kept_or_not(mixed, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "BLOCK", 64)
    one = list(sampling.sequences(mixed, 0, 50))
    assert len(one) > 10 * 64
    assert one == list(sampling.sequences(mixed, 0, 50, workers=4))
    for workers in (4, 1):  # made, and read again
        assert one == list(sampling.sequences(mixed, 0, 50, tmp_path / "kept", workers=workers))
    assert one != list(sampling.sequences(mixed, 1, 50))
    assert {"a.jsonl", "b.jsonl.zst", "c.jsonl"} == {re.search(r"\w\.jsonl(\.zst)?", s.source)[0] for s in one}


def test_a_smaller_sample_is_the_beginning_of_a_larger_one_and_needs_no_more_than_its_block(mixed, monkeypatch):
    monkeypatch.setattr(sampling, "BLOCK", 64)
    whole = list(sampling.sequences(mixed, 0, 50))
    made = []
    monkeypatch.setattr(sampling, "_read_block", lambda *all, read=sampling._read_block: made.append(1) or read(*all))
    assert list(itertools.islice(sampling.sequences(mixed, 0, 50), 100)) == whole[:100] and len(made) == 2


def test_a_compressed_file_gives_what_the_plain_one_does(tmp_path):
    rows = [(prose(i, 200), "ArXiv") for i in range(30)]
    found = [
        [(s.text, s.subset, s.category) for s in sampling.sequences(corpus(write(tmp_path, rows, name)), 0, 64)]
        for name in ("x.jsonl", "x.jsonl.zst")
    ]
    assert found[0] == found[1] and len(found[0]) > 50


def test_the_environment_and_the_hub_are_sampled_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    rows = [(prose(i, 150), "ArXiv" if i % 3 else "Github") for i in range(40)]
    path = write(tmp_path, rows)
    hub = {"kind": "hub", "dataset": "json", "data_files": path, "text": "text", "subset": "meta.pile_set_name"}
    of_hub, of_file = (
        [(s.text, s.subset) for s in sampling.sequences(of, 0, 60, tmp_path)] for of in (hub, corpus(path))
    )
    assert of_hub == of_file and {s for _, s in of_hub} == {"ArXiv", "Github"}
    some = [text.Document(prose(i, 90), "Python", "code", f"p{i}") for i in range(20)]
    monkeypatch.setattr(sampling, "environment_documents", lambda *_: some)
    found = list(sampling.sequences({"kind": "environment"}, 0, 30))
    assert len(found) == 60 and all(any(s.text in d.text for d in some) for s in found)


# ---------------------------------------------------------------------------------------------------------------------
# What cannot be sampled, and what is said


def test_short_and_empty_documents_are_counted(tmp_path, caplog):
    rows = [("a" * 500, "ArXiv"), ("b" * 30, "Github"), (" \n", "Github"), ("c" * 20, "Github")]
    of = corpus(write(tmp_path, rows))
    assert {s.subset for s in sampling.sequences(of, 0, 100)} == {"ArXiv"}
    assert caplog.messages == [
        "of the corpus's 4 documents 2 are shorter than a sequence of 100 characters, with 9.1% of its text; they are "
        "skipped; 1 hold none"
    ]
    count = Counter(s.text for seed in range(40) for s in sampling.sequences(of, seed, 100, short="whole"))
    assert set(count) == {"a" * 100, "b" * 30, "c" * 20} and "they are read whole" in caplog.messages[1]


def test_text_is_sampled_without_loading_torch():
    """Of what the import of the folder's list takes, torch and transformers would be four fifths."""
    code = "import sys; import rosetta.sources; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_lines_that_are_no_json_are_counted_and_named_and_the_sample_is_that_of_the_others(tmp_path, caplog):
    rows = [(prose(i, 200), "ArXiv") for i in range(20)]
    good = Path(write(tmp_path, rows, "good.jsonl")).read_bytes().splitlines(keepends=True)
    (tmp_path / "bad.jsonl").write_bytes(b"".join(line + b'{"text": "broken\n' for line in good))
    found = [
        [s.text for s in sampling.sequences(corpus(str(tmp_path / name)), 0, 50)]
        for name in ("good.jsonl", "bad.jsonl")
    ]
    assert sorted(map(len, found[0])) == sorted(map(len, found[1])) and len(found[1]) == 80
    assert all(any(text in row for row, _ in rows) for text in found[1])
    assert (
        "left out bad.jsonl, line 2: JSONDecodeError" in caplog.text
        and "bad.jsonl: 20 in all, of which 10" in caplog.text
    )


def test_a_compressed_file_that_breaks_off_is_no_smaller_corpus(tmp_path):
    path = Path(write(tmp_path, [(prose(i, 200), "ArXiv") for i in range(50)], "a.jsonl.zst"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"a\.jsonl\.zst breaks off after .*fetch it again"):
        next(sampling.sequences(corpus(str(path)), 0, 50, tmp_path / "kept"))
    assert not list((tmp_path / "kept").glob("*.npy"))


def test_a_corpus_of_short_documents_alone_is_refused_with_what_would_do(tmp_path):
    of = corpus(write(tmp_path, [("short", "ArXiv")] * 3))
    with pytest.raises(
        ValueError, match=r"3 documents 3 are shorter than .* 10 characters.*read short documents whole"
    ):
        next(sampling.sequences(of, 0, 10))
    assert [s.text for s in sampling.sequences(of, 0, 10, short="whole")] == ["short"] * 3
    with pytest.raises(ValueError, match="short is 'some'; allowed are 'skipped' and 'whole'"):
        next(sampling.sequences(of, 0, 10, short="some"))


def test_a_file_that_changes_is_indexed_anew_and_one_that_changes_meanwhile_refused(tmp_path, monkeypatch):
    of = corpus(write(tmp_path, [("a" * 100, "ArXiv")]))
    assert {s.text for s in sampling.sequences(of, 0, 10, tmp_path / "kept")} == {"a" * 10}
    write(tmp_path, [("b" * 300, "ArXiv")])
    assert [s.text for s in sampling.sequences(of, 0, 10, tmp_path / "kept")] == ["b" * 10] * 30
    monkeypatch.setattr(sampling, "_count", lambda *_: write(tmp_path, [("c" * 2, "ArXiv")]))
    with pytest.raises(ValueError, match=r"corpus\.jsonl was changed while it was read"):
        list(sampling.sequences(of, 0, 10))


def test_no_network_and_no_copy_says_what_would_help(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    pile = {"kind": "hub", "dataset": "the/pile", "text": "text", "subset": "meta.pile_set_name"}
    said = r"the/pile cannot be opened: ConnectionError: no route .*kind: files, paths: \[val.jsonl.zst\].*HF_HOME.*HF_HUB_OFFLINE"
    for read in (lambda: next(sampling.sequences(pile, 0, 10)), lambda: next(text.documents(pile, 0))):
        with pytest.raises(ValueError, match=said):
            read()
