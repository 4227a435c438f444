"""What the batch prints, for records as the engine sends them and notebooks as papermill leaves them."""

import json
import logging
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat import v4
from snakemake_interface_logger_plugins.common import LogEvent

from rosetta import batch

CHATTER = "[IPKernelApp] WARNING | Kernel is running over TCP without encryption.\n"


@pytest.fixture
def engine(tmp_path):
    """A logger with the handler on it, and what it sends for a job with this notebook."""
    logger = logging.Logger("engine")
    batch.attach(logger)
    (tmp_path / "log").write_text(CHATTER, encoding="utf-8")

    def send(event, **fields):
        logger.info(None, extra={"event": event, **fields})

    def start(jobid, name):
        output = [f"{tmp_path}/notebooks/{name}.ipynb"]
        send(LogEvent.JOB_INFO, jobid=jobid, output=output, log=[f"{tmp_path}/log"], benchmark=None)

    send(LogEvent.RUN_INFO, stats={"matching": 10, "alignment": 1, "all": 1, "total": 12})
    return SimpleNamespace(logger=logger, send=send, start=start, log=tmp_path / "log", folder=tmp_path)


def test_a_line_a_notebook_with_its_point_and_how_many_of_how_many(engine, capsys):
    engine.start(7, "02_matching/a+b")
    engine.start(8, "01_alignment")
    engine.send(LogEvent.JOB_INFO, jobid=0, output=[], log=[], benchmark=None)  # the rule that asks for all
    for jobid in (8, 7, 0):
        engine.send(LogEvent.JOB_FINISHED, job_id=jobid)
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["[", "1/11]", "01_alignment", "0", "s"]
    assert second.split() == ["[", "2/11]", "02_matching", "a+b", "0", "s"]


def test_warnings_of_a_log_are_shown_and_what_every_kernel_says_is_not(engine, capsys):
    engine.log.write_text(CHATTER + "fine\nUserWarning: this is odd\n", encoding="utf-8")
    engine.start(1, "01_alignment")
    engine.send(LogEvent.JOB_FINISHED, job_id=1)
    assert capsys.readouterr().out.splitlines()[1:] == ["    UserWarning: this is odd"]


def test_a_failure_is_told_once_with_the_error_of_the_notebook(engine, capsys):
    set_by_batch = v4.new_code_cell("profile = 'smoke'", metadata={"tags": ["injected-parameters"]})
    error = v4.new_output("error", ename="KeyError", evalue="'tokens'", traceback=[])
    failed = v4.new_code_cell("# the second\nx = {}\nx['tokens']\ny\n", outputs=[error])
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell(), v4.new_code_cell("a"), set_by_batch, failed])
    (engine.folder / "notebooks").mkdir()
    nbformat.write(notebook, engine.folder / "notebooks" / "03_scaling.ipynb")
    engine.start(1, "03_scaling")
    for _ in range(2):  # the engine repeats its errors at the end
        engine.send(LogEvent.JOB_ERROR, jobid=1)
    head, *said = capsys.readouterr().out.splitlines()
    assert "03_scaling" in head and head.endswith("FAILED")
    code = ["# the second", "x = {}", "x['tokens']"]
    assert [line.strip() for line in said] == ["KeyError: 'tokens'", "in code cell 2:", *code, f"its log: {engine.log}"]


def test_a_job_that_is_tried_again_is_one_job(engine, capsys):
    for event in ({"event": LogEvent.JOB_ERROR, "jobid": 7}, {"event": LogEvent.JOB_FINISHED, "job_id": 7}):
        engine.start(7, "02_matching/a+b")
        engine.send(**event)
    engine.start(8, "01_alignment")
    engine.send(LogEvent.JOB_FINISHED, job_id=8)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert [line.split()[1] for line in lines] == ["1/11]", "1/11]", "2/11]"]
    assert lines[0].endswith("FAILED") and not lines[1].endswith("FAILED")


@pytest.mark.parametrize(
    ("output", "title"),
    [
        ("notebooks/micro/notebooks/02_matching/a-1.4b+b.ipynb", "02_matching a-1.4b+b"),
        ("my results/micro/shards/a--b.untrained-1/screen.1-of-4.safetensors", "shards a--b.untrained-1 screen.1-of-4"),
        ("/shards/micro/matches/a--b.parquet", "matches a--b"),
        ("results/paper/positions/a--b.sizes.parquet", "positions a--b.sizes"),
    ],
)
def test_a_job_is_called_by_what_it_makes(output, title):
    assert batch.title(Path(output)) == title


def test_where_no_notebook_can_be_read_the_end_of_the_log_and_a_full_disk_are_named(engine, capsys, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(batch.shutil, "disk_usage", lambda folder: usage(4096))
    engine.log.write_text(CHATTER + "\n".join(f"line {i}" for i in range(20)), encoding="utf-8")
    (engine.folder / "notebooks").mkdir()
    (engine.folder / "notebooks" / "03_scaling.ipynb").write_text('{"cells": [{"cell_ty', encoding="utf-8")  # cut
    engine.start(1, "03_scaling")
    engine.send(LogEvent.JOB_ERROR, jobid=1)
    said = capsys.readouterr().out
    assert "line 19" in said and "line 11" not in said and "line 12" in said
    assert f"no space left on the disk of {engine.folder / 'notebooks'}" in said


def test_attached_twice_it_says_it_once_and_the_engines_warnings_stay(capsys):
    logger = logging.Logger("engine")
    logger.addHandler(logging.StreamHandler(sys.stdout))
    for _ in range(2):
        batch.attach(logger)
    logger.info("Building DAG of jobs...")
    logger.error("no rule makes x")
    logger.error("Error in rule scaling", extra={"event": LogEvent.JOB_ERROR, "jobid": 3})
    assert capsys.readouterr().out == "no rule makes x\n"
    assert sum(isinstance(handler, batch.Lines) for handler in logger.handlers) == 1


def test_no_answer_of_a_kernel_is_missed(tmp_path):
    """Papermill alone waits for ever in one of the first cells of this notebook, nearly always."""
    cells = [
        "from ipywidgets import interact",
        *["interact(lambda x=1: [print(i, flush=True) for i in range(3)]);"] * 30,
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells], metadata={"kernelspec": kernel})
    nbformat.write(notebook, tmp_path / "widgets.ipynb")
    command = [sys.executable, "-m", "rosetta.batch", "widgets.ipynb", "done.ipynb", "--no-progress-bar"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120).returncode == 0
    executed = json.loads((tmp_path / "done.ipynb").read_text(encoding="utf-8"))["cells"]
    assert all(cell["execution_count"] for cell in executed)
