import gzip
import importlib.metadata
import json
import logging
import random
import unicodedata
from collections import Counter
from types import SimpleNamespace

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rosetta.sources import cutters, environment
from rosetta.sources import functions as pool
from rosetta.sources.functions import Function, codesearchnet, deduplicate, environment_functions, is_test, mix

# ---------------------------------------------------------------------------------------------------------------------
# The environment


def test_one_path_in_ten_is_test_text_whether_or_not_the_corpus_holds_it_out():
    paths = [f"package/{i}.py" for i in range(20_000)]
    for some in (paths, [path for path in paths if environment.is_heldout(path)]):
        assert sum(map(is_test, some)) / len(some) == pytest.approx(0.1, abs=0.02)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Distributions made of the files given, by name."""

    def make(**distributions):
        def distribution(name):
            if name not in distributions:
                raise importlib.metadata.PackageNotFoundError(name)
            files = []
            for path, text in distributions[name].items():
                file = tmp_path / name / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(text.encode() if isinstance(text, str) else text)
                files.append(Listed(path, file))
            return SimpleNamespace(files=files)

        monkeypatch.setattr(importlib.metadata, "distribution", distribution)

    return make


class Listed(str):
    def __new__(cls, path, file):
        self = super().__new__(cls, path)
        self.locate = lambda: file
        return self


BODY = "def f{}(x):\n    y = x\n    return y\n"


def paths_by_split(name, folder="pandas"):
    """A path of each kind: in the matching corpus, test text, training text."""
    paths = [f"{folder}/m{i}.py" for i in range(200)]
    heldout = [path for path in paths if environment.is_heldout(f"{name}/{path}")]
    test = [path for path in paths if path not in heldout and is_test(f"{name}/{path}")]
    train = [path for path in paths if path not in heldout and path not in test]
    return heldout[0], test[-1], train[0]


def test_the_environments_functions_come_from_files_outside_the_matching_corpus_test_first(installed):
    heldout, test, train = paths_by_split("pandas")
    installed(pandas={heldout: BODY.format(0), test: BODY.format(1), train: BODY.format(2) + BODY.format(3)})
    assert list(environment_functions()) == [
        Function(BODY.format(1), "Python", "test", f"pandas/{test}#0"),
        Function(BODY.format(2), "Python", "train", f"pandas/{train}#0"),
        Function(BODY.format(3), "Python", "train", f"pandas/{train}#1"),
    ]


def test_of_the_environment_only_sources_are_read_and_missing_distributions_named(installed, caplog):
    _, _, train = paths_by_split("pandas")
    folder = train.removesuffix(".py")
    installed(
        pandas={
            train: "def short(x):\n    return x\n\n\n" + BODY.format("\u0065\u0301").replace("\n", "\r\n"),
            f"{folder}/tests/test_a.py": BODY.format(1),
            "pandas.min.js": "function f() {\n  return 1;\n}\n",
            "pandas/include/a.h": "int f() {\n  return 1;\n}\n",
            "README.md": BODY.format(2),
        }
    )
    assert [function.text for function in environment_functions()] == [BODY.format("é")]  # NFC, and three lines or more
    assert "torch is not installed" in caplog.text


def test_files_that_programs_wrote_and_broken_files_are_left_out(installed, caplog):
    text = "int f() {\n  return 1;\n}\n"
    sources = [f"torch/include/a{i}.h" for i in range(9)]
    (good, bad, *_) = [path for path in sources if not environment.is_heldout(f"torch/{path}")]
    generated = ["torch/include/torch/csrc/autograd/generated/v.h", "torch/include/ATen/core/TensorBody.h"]
    installed(torch={good: text, bad: b"\xff\xfe" + text.encode(), **dict.fromkeys(generated, text)})
    assert [function.source for function in environment_functions()] == [f"torch/{good}#0"]
    assert bad.rpartition("/")[2] in caplog.text


def test_the_locked_environment_holds_functions_of_every_language(monkeypatch):
    monkeypatch.setattr(pool, "PYTHON", ("tornado",))
    monkeypatch.setattr(environment, "HEADERS", ("pyarrow",))
    monkeypatch.setattr(environment, "CYTHON", ("pyarrow",))
    functions = list(environment_functions())
    counts = Counter((function.language, function.split) for function in functions)
    assert {language for language, _ in counts} == {"Python", "C/C++", "Cython", "JavaScript"}
    assert min(counts[language, split] for language, _ in counts for split in ("test", "train")) > 20
    assert len({function.source for function in functions}) == len(functions)
    for function in functions:
        assert len(function.text.splitlines()) >= 3 and len(function.text) <= cutters.LONGEST + 1
        assert unicodedata.is_normalized("NFC", function.text)
        assert not environment.is_heldout(function.source.rpartition("#")[0])


# ---------------------------------------------------------------------------------------------------------------------
# CodeSearchNet


def write_lines(folder, language, partition, lines, name="0"):
    path = folder / language / "final" / "jsonl" / partition / f"{language}_{partition}_{name}.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines)))
    return path


def row(code, url="https://example.org/f"):
    return json.dumps({"code": code, "language": "go", "partition": "train", "url": url}).encode()


def test_a_local_copy_of_codesearchnet_streams_test_first_and_skips_broken_lines(tmp_path, caplog):
    for language in ("go", "ruby"):
        write_lines(tmp_path, language, "train", [row(f"{language} one"), b'{"code": "cut', row("two")], "0")
        write_lines(tmp_path, language, "train", [row(None), b'{"url": "u"}', b"[1]", b'{"code": "\\ud800"}'], "1")
        write_lines(tmp_path, language, "test", [row("cafe\u0301", None)])
        write_lines(tmp_path, language, "valid", [row("not read")])
    dropped = Counter()
    functions = list(codesearchnet(tmp_path, ("go", "ruby"), dropped=dropped))
    assert functions == [
        Function("café", "go", "test", "go_test_0.jsonl.gz, line 1"),
        Function("café", "ruby", "test", "ruby_test_0.jsonl.gz, line 1"),
        Function("go one", "go", "train", "https://example.org/f"),
        Function("two", "go", "train", "https://example.org/f"),
        Function("ruby one", "ruby", "train", "https://example.org/f"),
        Function("two", "ruby", "train", "https://example.org/f"),
    ]
    assert dropped == {"broken row": 10} and len(caplog.records) == 10
    assert "ruby_train_0.jsonl.gz, line 2" in caplog.text


def test_a_local_copy_without_a_language_is_refused_with_those_it_has(tmp_path):
    write_lines(tmp_path, "go", "test", [row("a")])
    with pytest.raises(ValueError, match=r"no php/final/jsonl/test.*its languages are go"):
        list(codesearchnet(tmp_path, ("php",)))
    with pytest.raises(ValueError, match=r"no go/final/jsonl/train"):
        list(codesearchnet(tmp_path, ("go",)))


def test_a_damaged_archive_is_named(tmp_path):
    path = write_lines(tmp_path, "go", "test", [row("a" * i) for i in range(100)])
    for damaged in (path.read_bytes()[:-20], b"not gzip"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"go_test_0\.jsonl\.gz is damaged"):
            list(codesearchnet(tmp_path, ("go",)))


def test_codesearchnet_streams_from_the_hub_a_language_at_a_time(monkeypatch, caplog):
    asked = []

    def load_dataset(name, language, split, revision, streaming):
        asked.append((name, language, split, revision, streaming))
        code = {"func_code_string": f"{language} {split}", "func_code_url": "u", "whole_func_string": "not this"}
        return iter([code, {"func_code_string": None, "func_code_url": "u"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    functions = list(codesearchnet("someone/code", ("go", "php"), revision="abc"))
    assert [tuple(function) for function in functions] == [
        (f"{language} {split}", language, split, "u") for split in ("test", "train") for language in ("go", "php")
    ]
    assert asked == [
        ("someone/code", language, split, "abc", True) for split in ("test", "train") for language in ("go", "php")
    ]
    assert "someone/code, go test row 1" in caplog.text


# ---------------------------------------------------------------------------------------------------------------------
# The pool


pieces = st.lists(st.sampled_from(["", " \n\t", "a b", "a  b\n", "ab", "c", "a\nb\n", "é"]), max_size=12)


@given(test=pieces, train=pieces)
@settings(max_examples=150, deadline=None)
def test_what_is_left_is_the_first_of_each_text_and_every_loss_is_counted(test, train):
    functions = [Function(t, "x", "test", f"test {i}") for i, t in enumerate(test)]
    functions += [Function(t, "x", "train", f"train {i}") for i, t in enumerate(train)]
    dropped = Counter()
    kept = list(deduplicate(iter(functions), dropped))
    expected, reasons = [], Counter()
    for function in functions:
        same = [other for other in expected if other.text.split() == function.text.split()]
        if not function.text.strip():
            reasons["empty"] += 1
        elif not same:
            expected.append(function)
        else:
            reasons["repeated" if same[0].split == function.split else "in the test split"] += 1
    assert kept == expected
    assert dropped == reasons
    assert not {f.text for f in kept if f.split == "test"} & {f.text for f in kept if f.split == "train"}


def test_what_was_dropped_is_logged(caplog):
    caplog.set_level(logging.INFO)
    functions = [
        Function("a b", "x", "test", "1"),
        Function("a  b", "x", "train", "2"),
        Function("", "x", "train", "3"),
    ]
    assert len(list(deduplicate(functions))) == 1
    assert "'in the test split': 1" in caplog.text and "'empty': 1" in caplog.text


def test_test_functions_that_come_late_are_refused():
    functions = [Function("a", "x", "train", "one"), Function("b", "x", "test", "two")]
    with pytest.raises(ValueError, match="two of the test split comes after"):
        list(deduplicate(functions))


def some_functions(n=600, seed=0):
    rng = random.Random(seed)
    languages = rng.choices(["C", "Python", "Ruby"], [2, 6, 2], k=n)
    return [
        Function("x " * rng.randint(1, 30), language, "test" if rng.random() < 0.1 else "train", f"{language}/{i}")
        for i, language in enumerate(languages)
    ]


def count(text):
    return len(text.split())


@given(share=st.floats(0.01, 0.9), tokens=st.integers(1, 1_000), seed=st.integers(0, 5), order=st.randoms())
@settings(max_examples=60, deadline=None)
def test_the_target_has_its_share_of_a_mixed_pool_within_one_function(share, tokens, seed, order):
    functions = some_functions()
    pool = mix(functions, "C", share, tokens, count, seed)
    assert list(pool.columns) == ["number", "language", "source", "tokens"]
    drawn = [functions[number] for number in pool.number]
    assert {function.split for function in drawn} == {"train"} and pool.number.is_unique
    assert [(f.language, f.source, count(f.text)) for f in drawn] == [
        row[1:] for row in pool.itertuples(index=False, name=None)
    ]
    for part, wanted in (
        (pool[pool.language == "C"], share * tokens),
        (pool[pool.language != "C"], (1 - share) * tokens),
    ):
        last = part.tokens.iloc[-1]
        assert part.tokens.sum() - last < wanted <= part.tokens.sum()
    order.shuffle(functions)
    again = mix(iter(functions), "C", share, tokens, count, seed)
    assert [functions[number] for number in again.number] == drawn


def test_a_mixed_pool_is_drawn_at_random_by_its_seed_and_only_what_may_enter_is_counted():
    functions = some_functions(6_000)
    counted = []

    def counting(text):
        counted.append(text)
        return count(text)

    pool = mix(functions, "C", 0.06, 5_000, counting, seed=0)
    assert len(counted) < len(functions) / 2
    assert not mix(functions, "C", 0.06, 5_000, count, seed=1).equals(pool)
    others = pool[pool.language != "C"].groupby("language").tokens.sum()
    assert others["Python"] / others.sum() == pytest.approx(0.75, abs=0.06)
    assert pool.language.ne(pool.language.shift()).sum() > 50  # languages are not in blocks


def test_a_pool_that_cannot_be_mixed_is_refused():
    functions = some_functions()
    with pytest.raises(ValueError, match="no 'Go'; its languages are C, Python, Ruby"):
        mix(functions, "Go", 0.1, 100, count, 0)
    with pytest.raises(ValueError, match="no 'C'; its languages are none"):
        mix([], "C", 0.1, 100, count, 0)
    there = sum(count(f.text) for f in functions if f.language == "C" and f.split == "train")
    with pytest.raises(ValueError, match=f"needs 9000 tokens of C, but there are {there}"):
        mix(functions, "C", 0.9, 10_000, count, 0)
    with pytest.raises(ValueError, match="languages other than C"):
        mix(functions, "C", 0.01, 50_000, count, 0)
    for share in (0, 1, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="share is"):
            mix(functions, "C", share, 100, count, 0)
    with pytest.raises(ValueError, match="tokens is 0"):
        mix(functions, "C", 0.1, 0, count, 0)


def test_the_test_split_is_drawn_from_when_asked():
    functions = some_functions()
    pool = mix(functions, "C", 0.5, 300, count, 0, split="test")
    assert {functions[number].split for number in pool.number} == {"test"}


def test_functions_are_written_and_read_as_streams(tmp_path):
    functions = some_functions()
    pool.write(iter(functions), tmp_path / "f.parquet", rows=7)
    assert list(pool.read(tmp_path / "f.parquet")) == functions
    assert list(pool.read(tmp_path / "f.parquet", [5, 2, 40])) == [functions[i] for i in (2, 5, 40)]
    pool.write([], tmp_path / "none.parquet")
    assert list(pool.read(tmp_path / "none.parquet")) == []
