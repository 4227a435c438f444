"""The batch as a user runs it: whole, again, and after a kill -9."""

import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import snakemake
from PIL import Image
from scipy import stats

from rosetta.models.load import ROOT
from rosetta.profiles import load
from rosetta.report import summary
from rosetta.studies.matches import Study

FIGURES = [
    "fig23_alignment", "fig03a_scaling", "fig04_untrained", "fig25_topk", "fig26_permuted", "fig33_tokens", "fig05_frontiers",
    "fig27_simulation", "fig06a_polarization", "fig28_polarization", "fig19_fig20_examples", "fig07_firing",
    "fig29_firing_pythia", "fig30_firing_qwen", "fig31_depth", "fig08_examples", "table1_perplexity",
]  # fmt: skip


def test_every_point_of_the_profile_has_its_matches_and_its_notebook(smoke_run):
    profile = load("smoke")
    for points in profile.curves.values():
        for point in points:
            assert (smoke_run / "notebooks" / "02_matching" / f"{'+'.join(point)}.ipynb").is_file()
    for a, b in profile.pairs:
        assert len(pd.read_parquet(smoke_run / "matches" / f"{a}--{b}.parquet")) > 0


@pytest.mark.parametrize("name", FIGURES)
def test_the_figures_are_there_and_not_blank(smoke_run, name):
    pixels = np.asarray(Image.open(smoke_run / "figures" / f"{name}.png").convert("L"))
    assert pixels.shape[0] > 300 and pixels.std() > 5


def test_the_summary_names_the_exponent_of_each_curve(smoke_run):
    study = Study("smoke", smoke_run.parent)
    text = summary(study)
    points = pd.read_csv(smoke_run / "tables" / "points.csv")
    for curve, group in points.groupby("curve"):
        slope = stats.linregress(np.log(group.neurons), np.log(group.raw)).slope
        assert any(line.startswith(curve) and f"alpha = {slope:.2f}" in line for line in text.splitlines())
    assert str(smoke_run / "figures") in text
    assert re.search(r"^time +\d+\.\d min for 16 notebooks$", text, re.MULTILINE)
    memory = re.search(r"^memory +(\d+\.\d\d) GiB at most, 0\d_", text, re.MULTILINE)
    assert 0.3 < float(memory[1]) < 8


def test_the_oracle_is_exact_and_every_filter_has_its_runs(smoke_run):
    table = pd.read_csv(smoke_run / "tables" / "table1.csv").set_index("filter")
    assert list(table.index) == ["base", "random", "non-Rosetta", "Rosetta", "oracle"]
    assert table.loc["oracle", "f1"] == 1
    runs = pd.read_csv(smoke_run / "tables" / "perplexities.csv")
    assert runs.groupby("filter")["seed"].nunique().drop("base").eq(len(load("smoke").filtering.seeds)).all()
    assert (smoke_run / "explorer.html").is_file()


def test_a_second_run_has_nothing_to_do(smoke_run):
    process = snakemake(smoke_run.parent, "--dry-run")
    output, _ = process.communicate()
    assert process.returncode == 0
    assert "02_matching" not in output


def test_a_run_killed_at_work_goes_on_and_ends_with_the_same_results(smoke_run, tmp_path):
    target = "smoke/notebooks/02_matching/pythia-32x2+opt-32x2.ipynb"
    first = tmp_path / "smoke" / "matches" / "pythia-32x2--opt-32x2.untrained-1.parquet"
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
    kept = sorted(path.name for path in first.parent.glob("*.parquet"))
    assert kept == sorted(path.name for path in (smoke_run / "matches").glob("pythia-32x2--opt-32x2*.parquet"))
    for name in kept:
        again, undisturbed = (pd.read_parquet(folder / name) for folder in (first.parent, smoke_run / "matches"))
        pd.testing.assert_frame_equal(again, undisturbed, rtol=1e-4)


@pytest.fixture
def kit(tmp_path) -> Path:
    """A copy of the kit where its path has a space and more, the environment included."""
    folder = tmp_path / "my kit ü $HOME"
    for name in ("lib", "notebooks", "profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", folder)
    (folder / "zoo").symlink_to(ROOT / "zoo")
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def run(kit: Path, target: str) -> tuple[int, str]:
    process = snakemake("my results", f"my results/smoke/{target}", python=kit / ".venv" / "bin" / "python", cwd=kit)
    output, _ = process.communicate()
    return process.returncode, output


def test_a_kit_in_a_folder_with_a_space_runs_and_says_one_line_a_notebook(kit):
    code, output = run(kit, "notebooks/01_alignment.ipynb")
    assert code == 0, output
    assert re.fullmatch(r"\[1/1\] 01_alignment +\d+ s\n", output)
    made = kit / "my results" / "smoke"
    assert (made / "notebooks" / "01_alignment.ipynb").is_file()
    benchmark = pd.read_csv(made / "benchmarks" / "01_alignment.tsv", sep="\t")
    assert benchmark.s[0] > 1 and benchmark.max_rss[0] > 100


def test_a_notebook_that_fails_says_why_and_where(kit):
    path = kit / "notebooks" / "01_alignment.ipynb"
    notebook = nbformat.read(path, as_version=4)
    code_cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code_cells[1].source = "wanted = 'a model'\nraise LookupError(f'{wanted} is not there')"
    nbformat.write(notebook, path)
    code, output = run(kit, "notebooks/01_alignment.ipynb")
    assert code != 0
    lines = output.splitlines()
    assert re.fullmatch(r"\[1/1\] 01_alignment +\d+ s  FAILED", lines[0])
    assert lines[1:5] == [
        "    LookupError: a model is not there",
        "    in code cell 2:",
        "        wanted = 'a model'",
        "        raise LookupError(f'{wanted} is not there')",
    ]
    assert output.count("LookupError") == 2 and "Error in rule" not in output


def test_a_wrong_profile_is_named(kit):
    (kit / "profiles" / "smoke.yaml").write_text("tokens: none", encoding="utf-8")
    code, output = run(kit, "notebooks/01_alignment.ipynb")
    assert code != 0 and "smoke.yaml" in output
