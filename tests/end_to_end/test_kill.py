"""A batch that is killed at work goes on where it was, and ends as one that was not."""

import os
import signal
import time

import nbformat
from conftest import PAIR, snakemake

from rosetta.studies.matches import Study


def test_a_run_killed_at_work_goes_on_and_ends_with_the_same_results(profile, tmp_path):
    path = profile(tokens=9_000, segments_per_document=None)
    undisturbed = Study(str(path), tmp_path / "undisturbed")
    undisturbed.matches(PAIR), undisturbed.untrained_matches(PAIR), undisturbed.permuted_matches(PAIR)
    expected = {file.name: file.read_bytes() for file in (undisturbed.folder / "matches").glob("*.parquet")}
    assert len(expected) == 8  # all positions and thinned ones: trained, two untrained; and two permutations

    made = tmp_path / path.stem
    notebook, matches = made / "notebooks" / "02_matching" / f"{'+'.join(PAIR)}.ipynb", made / "matches"
    process = snakemake(tmp_path, str(notebook), profile=path)
    deadline = time.monotonic() + 300
    while not (matches / f"{'--'.join(PAIR)}.untrained-1.parquet").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert 2 <= len(list(matches.glob("*.parquet"))) < 8  # some results are there, some are not

    process = snakemake(tmp_path, str(notebook), profile=path)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    # Bit for bit: both computed with one thread.
    assert {file.name: file.read_bytes() for file in matches.glob("*.parquet")} == expected
    assert not [file for file in made.rglob("*") if file.name.startswith(".")]
