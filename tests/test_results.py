import errno
import importlib.metadata
import json
import logging
import os
import platform
import re
import shutil
import signal
import subprocess
import sys

import pandas as pd
import pytest

from rosetta import results
from rosetta.results import keep, write_json, write_whole


class Maker:
    """A result that knows how often it was made."""

    def __init__(self, result):
        self.result, self.times = result, 0

    def __call__(self):
        self.times += 1
        return self.result


@pytest.fixture
def table():
    frame = pd.DataFrame({"model": ["a", "b", "c"], "count": [1, 2, 3], "share": [0.1, float("nan"), 1 / 3]})
    frame.attrs = {"positions": 7, "layers": [1, 2], "note": "é"}
    return frame


def files_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_result_is_made_once_and_then_read(tmp_path):
    make = Maker({"count": [1, 2, 3]})
    for _ in range(3):
        assert keep(tmp_path / "counts.json", {"tokens": 5}, make) == {"count": [1, 2, 3]}
    assert make.times == 1
    assert files_in(tmp_path) == ["counts.json", "counts.json.made-with.json"]
    beside = json.loads((tmp_path / "counts.json.made-with.json").read_text())
    digest = subprocess.run(["sha256sum", tmp_path / "counts.json"], capture_output=True, text=True, check=True).stdout
    assert beside["sha256"] == digest.split()[0] and beside["parameters"]["tokens"] == 5


def test_a_first_and_a_second_run_go_on_with_the_same(tmp_path):
    first, second = (keep(tmp_path / "r.json", {}, lambda: {1: (2, 3)}) for _ in range(2))
    assert first == second == {"1": [2, 3]}


@pytest.mark.parametrize("other", [{"tokens": 6}, {"tokens": 5, "seed": 0}, {}])
def test_other_parameters_make_it_again_and_are_named(tmp_path, caplog, other):
    path = tmp_path / "counts.json"
    keep(path, {"tokens": 5}, Maker(1))
    make = Maker(2)
    assert keep(path, other, make) == 2 and make.times == 1
    assert str(path) in caplog.text and ("seed" if "seed" in other else "tokens") in caplog.text
    caplog.clear()
    assert keep(path, other, make) == 2 and make.times == 1 and not caplog.text


# ---------------------------------------------------------------------------------------------------------------------
# What a result owes to code

#: The modules in which something is made that is kept.
KEEPERS = sorted(
    results.LIBRARY.joinpath(path).relative_to(results.LIBRARY.parent).with_suffix("").as_posix().replace("/", ".")
    for path in results.LIBRARY.rglob("*.py")
    if re.search(r"^from rosetta.results import .*\b(keep|keep_file|made_by)\b", path.read_text(encoding="utf-8"), re.M)
)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the library, in whose place results are asked what they owe to code."""
    folder = shutil.copytree(
        results.LIBRARY, tmp_path / "lib" / "rosetta", ignore=shutil.ignore_patterns("__pycache__")
    )
    monkeypatch.setattr(results, "LIBRARY", folder)
    return folder


def rewrite(file, text):
    """Write a file, at a time of its own: two writes may fall into one tick of the clock."""
    before = file.stat().st_mtime_ns
    file.write_text(text, encoding="utf-8")
    os.utime(file, ns=(before + 10**9, before + 10**9))


def test_the_studies_and_the_corpus_keep_results():
    assert {"rosetta.sources.environment", "rosetta.studies.matches", "rosetta.studies.simulations"} <= set(KEEPERS)


@pytest.mark.parametrize("keeper", KEEPERS)
def test_a_change_of_any_module_that_a_result_rests_on_has_it_made_again_and_no_other_does(keeper, copy, tmp_path):
    make = Maker(1)
    make.__module__ = keeper

    def times_made() -> int:
        keep(tmp_path / "result.json", {"tokens": 5}, make)
        return make.times

    assert times_made() == times_made() == 1
    within = results.reached(keeper)
    assert {keeper, "rosetta.results"} <= set(within)
    files = [file for file in sorted(copy.rglob("*.py")) if file.name != "__init__.py"]
    changed = 1
    for file in files:
        name = ".".join(file.relative_to(copy.parent).with_suffix("").parts)
        source = file.read_text(encoding="utf-8")
        rewrite(file, source + '\n\n# Why.\ndef documented():\n    """What."""\n')
        changed += name in within
        assert times_made() == changed, name
        rewrite(file, source + '\n\ndef documented():\n    """What it is now.\n\n    And more.\n    """  # and why\n')
        assert times_made() == changed, name
    assert changed == 1 + len(within) < len(files)


def test_the_theory_is_part_of_what_the_simulations_rest_on_and_the_judge_of_filters_is_not():
    within = results.reached("rosetta.studies.simulations")
    assert {"rosetta.laws.theory", "rosetta.laws.simulation", "rosetta.matching.mutual"} <= set(within)
    assert "rosetta.filtering.filters" not in within
    assert "rosetta.models.likelihood" in results.reached("rosetta.filtering.pretraining")


def test_the_versions_of_what_computes_are_part_of_it(monkeypatch):
    libraries = results.made_by("rosetta.laws.scaling")["libraries"]
    assert libraries["statsmodels"] == importlib.metadata.version("statsmodels")
    assert libraries["python"] == platform.python_version() and "transformers" not in libraries
    assert {"torch", "transformers", "tokenizers"} <= set(results.made_by("rosetta.studies.matches")["libraries"])
    before = results.made_by("rosetta.laws.theory")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0")
    results._versions.cache_clear()
    assert results.made_by("rosetta.laws.theory")["libraries"]["numpy"] == "0" != before["libraries"]["numpy"]
    monkeypatch.undo()
    results._versions.cache_clear()


def test_what_is_learnt_beforehand_is_what_is_found_and_a_file_that_changed_is_read_again(copy):
    found = results.made_by("rosetta.studies.matches")
    results._parsed.cache_clear()
    results._distributions.cache_clear()
    results.learn()
    assert results._parsed.cache_info().currsize > 50
    misses = results._parsed.cache_info().misses
    assert results.made_by("rosetta.studies.matches") == found and results._parsed.cache_info().misses == misses


def test_code_that_is_not_the_librarys_adds_nothing():
    assert results.made_by("__main__") == results.made_by("numpy") == results.made_by("rosetta.nowhere") == {}


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def edit(path):
    path.write_text(path.read_text().replace("1", "8"))


def beside(path):
    return path.with_name(path.name + ".made-with.json")


def rewrite_record(path, content):
    beside(path).write_text(content)


DAMAGE = {
    "truncated": truncate,
    "emptied": lambda path: path.write_bytes(b""),
    "edited by hand": edit,
    "without a record": lambda path: beside(path).unlink(),
    "with a half-written record": lambda path: truncate(beside(path)),
    "with an empty record": lambda path: rewrite_record(path, ""),
    "with a record of another shape": lambda path: rewrite_record(path, "[1, 2]"),
    "with a record that lacks a key": lambda path: rewrite_record(path, '{"parameters": {}}'),
    "with a record whose parameters are none": lambda path: rewrite_record(
        path, json.dumps(json.loads(beside(path).read_text()) | {"parameters": [1]})
    ),
    "with a record that is no text": lambda path: beside(path).write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_result_is_named_and_made_again(tmp_path, caplog, damage):
    path, make = tmp_path / "counts.json", Maker([1, 1, 1])
    keep(path, {"tokens": 5}, make)
    damage(path)
    assert keep(path, {"tokens": 5}, make) == [1, 1, 1] and make.times == 2
    assert str(path) in caplog.text and "made again" in caplog.text
    assert keep(path, {"tokens": 5}, make) == [1, 1, 1] and make.times == 2


def test_a_result_that_was_not_there_is_made_without_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        keep(tmp_path / "deep" / "er" / "r.json", {}, Maker(1))
    assert not caplog.text


def test_a_table_comes_back_as_it_was_kept(tmp_path, table):
    for _ in range(2):
        back = keep(tmp_path / "table.parquet", {}, lambda: table)
        pd.testing.assert_frame_equal(back, table)
        assert back.attrs == {"positions": 7, "layers": [1, 2], "note": "é"}


def test_an_empty_table_comes_back_with_its_columns(tmp_path, table):
    back = keep(tmp_path / "table.parquet", {}, lambda: table.iloc[:0])
    assert list(back.columns) == list(table.columns) and len(back) == 0


def test_an_unknown_suffix_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"\.parquet or \.json.*\.pkl"):
        keep(tmp_path / "result.pkl", {}, Maker(1))
    assert files_in(tmp_path) == []


# ---------------------------------------------------------------------------------------------------------------------
# Whole or not at all


def test_a_maker_that_fails_leaves_the_old_result(tmp_path):
    def fail():
        raise RuntimeError("no")

    keep(tmp_path / "r.json", {"tokens": 1}, Maker("old"))
    with pytest.raises(RuntimeError):
        keep(tmp_path / "r.json", {"tokens": 2}, fail)
    assert keep(tmp_path / "r.json", {"tokens": 1}, Maker("new")) == "old"


@pytest.mark.parametrize("error", [OSError(errno.EIO, "io"), OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_writer_that_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path, error):
    def write(path):
        path.write_text("half")
        raise error

    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(type(error)) as caught:
        write_whole(path, write)
    assert path.read_text() == "old" and files_in(tmp_path) == ["result.txt"]
    if getattr(error, "errno", None) == errno.ENOSPC:
        assert caught.value.errno == errno.ENOSPC
        assert "result.txt" in str(caught.value) and str(tmp_path) in str(caught.value)


def test_while_it_is_written_the_old_file_stands(tmp_path):
    path = tmp_path / "r.json"
    write_json(path, "old")

    def write(temporary):
        temporary.write_text('"n')
        assert json.loads(path.read_text()) == "old"
        temporary.write_text('"new"')

    write_whole(path, write)
    assert json.loads(path.read_text()) == "new" and files_in(tmp_path) == ["r.json"]


# Results are rows of numbers here, some hundred kilobytes, so that a write has a middle.
MAKE = "lambda: list(range(40_000))"

LIMITED = f"""
import resource, signal, sys
from pathlib import Path
from rosetta.results import keep
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails instead of ending the process
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    keep(Path(sys.argv[1]), {{"tokens": 2}}, {MAKE})
except OSError as error:
    sys.exit(7)
"""

KILLED = f"""
import sys, time
from pathlib import Path
from rosetta import results

def write_slowly(result, suffix, path):
    with open(path, "w") as file:
        file.write("[0, 1, 2")
        file.flush()
        print("half", flush=True)
        time.sleep(60)

results._write = write_slowly
results.keep(Path(sys.argv[1]), {{"tokens": 2}}, {MAKE})
"""


def test_a_real_limit_on_the_size_of_files_leaves_the_old_result(tmp_path):
    path = tmp_path / "rows.json"
    keep(path, {"tokens": 1}, lambda: ["old"])
    before = files_in(tmp_path)
    assert subprocess.run([sys.executable, "-c", LIMITED, path]).returncode == 7
    assert files_in(tmp_path) == before
    assert keep(path, {"tokens": 1}, lambda: pytest.fail("made again")) == ["old"]


@pytest.mark.parametrize("there_before", [False, True])
def test_a_process_killed_while_it_writes_leaves_no_half_result(tmp_path, there_before):
    path = tmp_path / "rows.json"
    if there_before:
        keep(path, {"tokens": 1}, lambda: ["old"])
    with subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    # What it had written so far lies beside the result, under a hidden name that nothing reads.
    (left,) = [name for name in files_in(tmp_path) if name not in ("rows.json", "rows.json.made-with.json")]
    assert left.startswith(".") and (tmp_path / left).suffix == ".json"
    assert path.exists() == there_before
    if there_before:
        assert keep(path, {"tokens": 1}, lambda: pytest.fail("made again")) == ["old"]
    undisturbed = keep(tmp_path / "other" / "rows.json", {"tokens": 2}, lambda: list(range(40_000)))
    assert keep(path, {"tokens": 2}, lambda: list(range(40_000))) == undisturbed == list(range(40_000))
    assert path.read_bytes() == (tmp_path / "other" / "rows.json").read_bytes()


def test_a_process_killed_between_result_and_record_has_it_made_again(tmp_path, monkeypatch):
    path = tmp_path / "rows.json"
    keep(path, {"tokens": 1}, Maker("old"))
    monkeypatch.setattr(results, "write_json", lambda *_: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):
        keep(path, {"tokens": 2}, Maker("new"))
    monkeypatch.undo()
    for tokens, expected in ((1, "old"), (2, "new")):
        make = Maker(expected)
        assert keep(path, {"tokens": tokens}, make) == expected and make.times == 1


def test_a_left_temporary_of_the_same_process_number_is_written_over(tmp_path):
    (tmp_path / f".{results.HOST}-{os.getpid()}-r.json").write_text("left from long ago, and longer than what comes")
    assert keep(tmp_path / "r.json", {}, Maker(1)) == 1
    assert files_in(tmp_path) == ["r.json", "r.json.made-with.json"]


def test_what_a_dead_process_of_this_machine_left_is_removed_and_nothing_else(tmp_path):
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    dead, alive = int(done.stdout), os.getppid()
    left = {
        name: tmp_path / name
        for name in (
            f".{results.HOST}-{dead}-r.json", f".{results.HOST}-{alive}-r.json", f".elsewhere-{dead}-r.json",
            f".{results.HOST}-{dead}-other.json", f"{dead}-r.json",
        )
    }  # fmt: skip
    for path in left.values():
        path.write_text("half")
    keep(tmp_path / "r.json", {}, Maker(1))
    assert {name for name, path in left.items() if not path.exists()} == {f".{results.HOST}-{dead}-r.json"}
