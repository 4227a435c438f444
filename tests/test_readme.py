"""The README says what the kit does: its snippet runs, its links lead somewhere, its numbers are the published ones."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rosetta.models import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_five_lines_run_as_they_stand(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    exec(re.search(r"```python\n(.*?)```", README, re.DOTALL)[1], {})
    assert "correlation" in capsys.readouterr().out


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)]+)\)", README))))
def test_every_link_leads_to_a_file(target):
    assert (ROOT / target).exists()


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, re.MULTILINE))
def test_every_make_target_is_there(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_exponents_are_those_of_the_published_run():
    fits = pd.read_csv(ROOT / "figures" / "fits.csv")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in README.splitlines()
        if "[" in line and "–" in line
    ]
    told = {
        (row[0], count): cell
        for row in rows
        if len(row) == 5
        for count, cell in zip(("raw", "calibrated", "strict"), row[2:], strict=True)
    }
    for fit in fits.itertuples():
        assert told[fit.curve, fit.count] == f"{fit.alpha:.2f} [{fit.alpha_low:.2f}–{fit.alpha_high:.2f}]"


def test_the_published_exponents_follow_from_the_published_counts():
    points, fits = (pd.read_csv(ROOT / "figures" / name) for name in ("points.csv", "fits.csv"))
    for fit in fits.itertuples():
        curve = points[points.curve == fit.curve]
        line = stats.linregress(np.log(curve.neurons), np.log(curve[fit.count]))
        assert fit.alpha == pytest.approx(line.slope) and fit.r2 == pytest.approx(line.rvalue**2)
