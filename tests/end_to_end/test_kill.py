"""A batch that is killed at work goes on where it was, and ends as one that was not."""

import os
import shutil
import signal
import time

import nbformat
import pandas as pd
from conftest import snakemake

from rosetta.studies.matches import Study

PAIR = ("pythia-32x2", "opt-32x2")


def test_a_run_killed_at_work_goes_on_and_ends_with_the_same_results(tmp_path):
    undisturbed = Study("smoke", tmp_path / "undisturbed")
    undisturbed.matches(PAIR), undisturbed.untrained_matches(PAIR), undisturbed.permuted_matches(PAIR)
    shutil.copytree(undisturbed.results / "corpus", tmp_path / "corpus")  # reading it takes longest
    target = f"smoke/notebooks/02_matching/{'+'.join(PAIR)}.ipynb"
    first = tmp_path / "smoke" / "matches" / f"{'--'.join(PAIR)}.untrained-1.parquet"
    process = snakemake(tmp_path, str(tmp_path / target))
    deadline = time.monotonic() + 300
    while not first.exists():  # some results are there, some are not
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()

    process = snakemake(tmp_path, str(tmp_path / target))
    output, _ = process.communicate()
    assert process.returncode == 0, output
    cells = [cell for cell in nbformat.read(tmp_path / target, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)

    expected = sorted((undisturbed.folder / "matches").glob("*.parquet"))
    assert len(expected) == 5 and sorted(path.name for path in first.parent.glob("*.parquet")) == [
        p.name for p in expected
    ]
    for path in expected:
        again, before = pd.read_parquet(first.parent / path.name), pd.read_parquet(path)
        pd.testing.assert_frame_equal(again, before, rtol=1e-4)
