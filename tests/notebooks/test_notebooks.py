"""Every notebook is as a reader expects it, and runs."""

import re

import nbformat
import pytest

from rosetta.models.load import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_committed_without_outputs(notebook):
    assert not any(cell.outputs or cell.execution_count for cell in code(notebook))


def test_one_cell_is_tagged_parameters_and_names_the_profile(notebook):
    tagged = [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert 'profile = "micro"' in tagged[0].source


def test_no_code_cell_is_longer_than_a_reader_takes_in_at_once(notebook):
    assert max(len(cell.source.splitlines()) for cell in code(notebook)) <= 20


def test_it_opens_with_the_claim_and_ends_with_three_exercises(notebook):
    assert "**Claim under test.**" in notebook.cells[0].source
    _, heading, exercises = notebook.cells[-1].source.partition("## Exercises\n")
    assert heading
    assert re.findall(r"^\d\. ", exercises, re.MULTILINE) == ["1. ", "2. ", "3. "]


def test_it_sets_what_was_measured_beside_what_was_reported(notebook):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown").lower()
    assert "measured here" in prose and "reported there" in prose
