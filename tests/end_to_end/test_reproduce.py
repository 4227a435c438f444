"""The batch as a user runs it: whole, and again."""

import re
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
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory) -> Path:
    """The whole smoke profile, run once: the folder of its results."""
    results = tmp_path_factory.mktemp("results")
    process = snakemake(results)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return results / "smoke"


def test_every_point_of_the_profile_has_its_matches_and_its_notebook(smoke_run):
    profile = load("smoke")
    for points in profile.curves.values():
        for point in points:
            assert (smoke_run / "notebooks" / "02_matching" / f"{'+'.join(point)}.ipynb").is_file()
    for a, b in profile.pairs:
        assert len(pd.read_parquet(smoke_run / "matches" / f"{a}--{b}.parquet")) > 0


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_in_the_smoke_profile(path, smoke_run):
    executed = [*smoke_run.glob(f"notebooks/{path.stem}.ipynb"), *smoke_run.glob(f"notebooks/{path.stem}/*.ipynb")]
    assert executed
    for copy in executed:
        cells = [cell for cell in nbformat.read(copy, as_version=4).cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in cells if cell.source)
        outputs = [output for cell in cells for output in cell.outputs]
        assert not [output for output in outputs if output.output_type == "error"]
        assert [output for output in outputs if "image/png" in output.get("data", {})]


@pytest.mark.parametrize("name", FIGURES)
def test_the_figures_are_there_and_not_blank(smoke_run, name):
    pixels = np.asarray(Image.open(smoke_run / "figures" / f"{name}.png").convert("L"))
    assert pixels.shape[0] > 300 and pixels.std() > 5


def test_the_summary_names_the_exponent_of_each_curve(smoke_run):
    study = Study("smoke", smoke_run.parent)
    text = summary(study)
    points = pd.read_csv(smoke_run / "tables" / "points.csv")
    for curve, group in points.groupby("curve"):
        if len(group) == 1:
            continue
        slope = stats.linregress(np.log(group.neurons), np.log(group.raw)).slope
        assert any(line.startswith(curve) and f"alpha = {slope:.2f}" in line for line in text.splitlines())
    assert str(smoke_run / "figures") in text
    assert re.search(r"^time +\d+\.\d min for 14 notebooks$", text, re.MULTILINE)
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
