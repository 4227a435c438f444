"""A copy of the kit in a folder with an awkward name: it runs, and says what it does and why it stops."""

import re
import shutil
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
from conftest import snakemake

from rosetta.models.load import ROOT


@pytest.fixture
def kit(tmp_path) -> Path:
    """A copy of the kit where its path has a space and more, the environment included."""
    folder = tmp_path / "my kit ü $HOME"
    for name in ("lib", "notebooks", "profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", folder)
    (folder / "README.md").symlink_to(ROOT / "README.md")
    smoke = (ROOT / "profiles" / "smoke.yaml").read_text(encoding="utf-8")
    text = smoke.replace("{kind: environment, split: heldout}", "{kind: files, paths: [README.md]}")  # read in no time
    text = text.replace("labelled: C/C++", "labelled: README")
    (folder / "profiles" / "smoke.yaml").write_text(text, encoding="utf-8")
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
    assert re.fullmatch(r"\[1/2\] images onestep-48x3 made +\d+ s\n\[2/2\] 01_alignment +\d+ s\n", output)
    made = kit / "my results" / "smoke"
    assert (made / "figures" / "fig24_grids.png").is_file() and not (ROOT / "my results").exists()
    assert (made / "notebooks" / "01_alignment.ipynb").is_file()
    benchmark = pd.read_csv(made / "benchmarks" / "01_alignment.tsv", sep="\t")
    assert benchmark.s[0] > 1 and benchmark.max_rss[0] > 100
    assert benchmark.forked[0] == (sys.platform == "linux" and not torch.cuda.is_available())


def test_a_notebook_that_fails_says_why_and_where(kit):
    path = kit / "notebooks" / "01_alignment.ipynb"
    notebook = nbformat.read(path, as_version=4)
    code_cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code_cells[1].source = "wanted = 'a model'\nraise LookupError(f'{wanted} is not there')"
    nbformat.write(notebook, path)
    code, output = run(kit, "notebooks/01_alignment.ipynb")
    assert code != 0
    _pictures, *lines = output.splitlines()
    assert re.fullmatch(r"\[2/2\] 01_alignment +\d+ s  FAILED", lines[0])
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
