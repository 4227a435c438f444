"""The README says what the kit does: its snippet runs, its links lead somewhere, its numbers are the published ones."""

import importlib
import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rosetta.models.load import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_five_lines_run_as_they_stand(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    exec(re.search(r"```python\n(.*?)```", README, re.DOTALL)[1], {})
    assert "correlation" in capsys.readouterr().out


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)]+)\)", README))))
def test_every_link_leads_to_a_file(target):
    assert (ROOT / target).exists()


@pytest.mark.parametrize("notebook, names", re.findall(r"^\| \[(\d\d_\w+)\]\(.*\| ([^|]*) \|$", README, re.MULTILINE))
def test_what_the_map_names_is_public_and_a_figures_function_is_called_by_its_notebook(notebook, names):
    cells = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", 4).cells
    source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    named = re.findall(r"`([\w.]+)`", names)
    assert named
    for name in named:
        if re.fullmatch(r"fig\d+\w*", name):
            name = f"plots.{name}"
        folder, _, inside = name.partition(".")
        assert not inside or inside in importlib.import_module(f"rosetta.{folder}").__all__, name
        if folder == "plots":
            assert f"{name}(" in source, name


def test_the_librarys_folders_are_listed_from_the_top_down():
    listed = re.findall(r"^\| \[([\w.]+)\]\(lib/rosetta/", README, re.MULTILINE)
    at = [listed.index(name) for name in ("studies", "plots", "neurons", "filtering", "laws", "matching", "profiles",
                                          "models", "sources", "viewer", "results.py")]  # fmt: skip
    assert at == sorted(at) and len(at) == len(listed)


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


def test_table_1_is_that_of_the_published_run():
    table = pd.read_csv(ROOT / "figures" / "table1.csv").replace({"filter": {"base": "base model"}})
    for row in table.itertuples():
        interval = "" if np.isnan(row.high) else f" ± {row.high - row.mean:.1f}"
        f1 = "" if np.isnan(row.f1) else f"{row.f1:.2f}"
        assert f"| {row.filter} | {f1} | {row.mean:.1f}{interval} |".replace("|  |", "| |") in README


def test_what_it_says_of_filters_is_what_the_published_run_found():
    filters = pd.read_csv(ROOT / "figures" / "filters.csv")
    alone = filters.loc[filters.kind == "neuron", "f1"]
    others = filters[filters.kind != "neuron"].set_index("filter")["f1"]
    assert f"of {len(alone)} that qualify, the best {alone.max():.2f}" in README
    assert f"the mean of the first ten reaches {others['mean of 10']:.2f}" in README
    assert f"a linear probe on all {len(alone)} reaches {others['linear probe']:.2f}" in README


def test_what_it_says_of_polarization_is_what_the_published_run_found():
    gaps = pd.read_csv(ROOT / "figures" / "separation.csv").set_index("family")
    widening = pd.read_csv(ROOT / "figures" / "widening.csv").set_index("family")
    clear = pd.read_csv(ROOT / "figures" / "gaps.csv")
    assert f"its interval at {(clear.low > 0).sum()} (within layers at {(clear.layers_low > 0).sum()})" in README
    assert (widening.low > 0).sum() == 1 and "shows in one family of three" in README
    for family, name in (("pythia", "Pythia"), ("opt", "OPT"), ("qwen", "Qwen")):
        ends, change = gaps.loc[family], widening.loc[family]
        assert (
            f"{change.gap:+.2f} [{change.low:+.2f}, {change.high:+.2f}] "
            f"({name} {ends['gap, smallest']:.2f} to {ends['gap, largest']:.2f})"
        ) in README
        slope, low, high = (ends[f"other, per decade{end}"] for end in ("", ", low", ", high"))
        assert f"{name} {slope:+.2f} [{low:+.2f}, {high:+.2f}]" in README
    rising = gaps["other, per decade"]
    assert f"by {rising.min():.2f} to {rising.max():.2f} for a tenfold growth" in README
    summary = pd.read_csv(ROOT / "figures" / "polarization.csv").pivot(
        index="model", columns="population", values="mean"
    )
    above = (summary["Rosetta"] > summary["other"]).sum()
    assert f"at {above} of {len(summary)} sizes" in README


def test_what_it_says_of_specialization_is_what_the_published_run_found():
    trends = pd.read_csv(ROOT / "figures" / "firing_trends.csv").query("population == 'Rosetta'")
    assert "No trend of any category has an interval that excludes zero" in README
    assert ((trends.low < 0) & (trends.high > 0)).all()
    others = pd.read_csv(ROOT / "figures" / "firing_trends.csv").query("population == 'other' and family == 'pythia'")
    for name, category in (("code", "code"), ("formal text", "formal/scientific"), ("math", "math")):
        slope, low, high = others.set_index("category").loc[category, ["slope", "low", "high"]]
        assert low > 0 or high < 0
        assert f"{name} {slope:+.2f} [{low:+.2f}, {high:+.2f}]" in README
    of_pythia = trends[trends.family == "pythia"].set_index("category")
    for name, category in (("code", "code"), ("math", "math"), ("prose", "general prose")):
        slope, low, high = of_pythia.loc[category, ["slope", "low", "high"]]
        assert f"{name} {slope:+.2f} [{low:+.2f}, {high:+.2f}]" in README


def test_what_it_says_of_the_nulls_is_what_the_published_run_found():
    points = pd.read_csv(ROOT / "figures" / "points.csv")
    pairs = points[points["models"].str.count(r"\+") == 1]
    same = (points["raw"] == points["calibrated"]).sum()
    exceeds = (pairs["strict_threshold"] > pairs["mean_correlation"]).sum()
    told = " ".join(README.split())
    assert f"equals the raw one at {same} of {len(points)} points" in told
    assert (
        f"99.9th percentile is {points.threshold.min():.2f} to {points.threshold.max():.2f}, and no trained pair"
        in told
    )
    untrained, trained = pairs["strict_threshold"], points["mean_correlation"]
    assert f"pairs is {untrained.min():.2f} to {untrained.max():.2f}, where the trained pairs have a mean of" in told
    assert f"a mean of {trained.min():.2f} to {trained.max():.2f}; at {exceeds} of {len(pairs)} pairs of models" in told
