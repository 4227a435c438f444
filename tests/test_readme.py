"""The README says what the kit does: its snippet runs, its links lead somewhere, its numbers are the published ones."""

import importlib
import math
import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rosetta import models, profiles
from rosetta.models.load import ROOT
from rosetta.studies import positions, table1

README = (ROOT / "README.md").read_text(encoding="utf-8")
TOLD = " ".join(README.split())


def published(name: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / "figures" / f"{name}.csv")


def told(value: float, low: float, high: float, form: str = ".2f") -> str:
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


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
    at = [listed.index(name) for name in ("planning", "studies", "plots", "neurons", "filtering", "laws", "matching", "profiles",
                                          "models", "sources", "viewer", "results.py")]  # fmt: skip
    assert at == sorted(at) and len(at) == len(listed)


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, re.MULTILINE))
def test_every_make_target_is_there(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_exponents_are_those_of_the_published_run():
    for curve, of_curve in published("fits").groupby("curve"):
        of_curve = of_curve.set_index("count").loc[["raw", "calibrated", "strict", "thinned_strict"]]
        cells = [f"{fit.alpha:.2f} [{fit.alpha_low:.2f}–{fit.alpha_high:.2f}]" for fit in of_curve.itertuples()]
        assert " | ".join([f"| {curve}", str(of_curve["points"].iloc[0]), *cells]) in README


def test_the_published_exponents_follow_from_the_published_counts():
    points, fits = published("points"), published("fits")
    for fit in fits.itertuples():
        curve = points[points.curve == fit.curve]
        line = stats.linregress(np.log(curve.neurons), np.log(curve[fit.count]))
        assert fit.alpha == pytest.approx(line.slope) and fit.r2 == pytest.approx(line.rvalue**2)


def test_table_1_is_that_of_the_published_run():
    table = published("table1").replace({"filter": {"base": "base model"}})
    for row in table.itertuples():
        interval = "" if np.isnan(row.high) else f" ± {row.high - row.mean:.1f}"
        f1 = "" if np.isnan(row.f1) else told(row.f1, row.f1_low, row.f1_high)
        theirs, mean, half = table1.REPORTED["base" if row.filter == "base model" else row.filter]
        reported = f"{'' if theirs is None else f'{theirs:.2f}'} | {mean:.2f}{'' if half is None else f' ± {half:.2f}'}"
        line = f"| {row.filter} | {f1} | {row.mean:.1f}{interval} | {reported} |"
        assert line.replace("|  |", "| |") in README
    assert f"{len(published('perplexities').seed.dropna().unique())}" == "3" and "three training seeds" in TOLD


def test_the_intervals_of_f1_are_wilsons_of_the_functions_that_are_selected_or_the_targets():
    # Neither set's size is published; precision and recall, as fractions, tell their ratio to what is in both.
    for table in ("recovery", "filters"):
        for row in published(table).itertuples():
            overlap = 1 / (1 / row.precision + 1 / row.recall - 1)
            z, n = stats.norm.ppf(0.975), 450 * row.recall / overlap  # 450 functions are C or C++
            for bound in (row.f1_low, row.f1_high):
                share = bound / (2 - bound)
                assert (overlap - share) ** 2 == pytest.approx(z**2 * share * (1 - share) / n, abs=1e-9)


def test_what_it_says_of_filters_is_what_the_published_run_found():
    filters = published("filters").set_index("filter")

    def f1(row) -> str:
        return told(row.f1, row.f1_low, row.f1_high)

    alone = filters[filters.kind == "neuron"]
    assert f"the mean of the first ten reaches {f1(filters.loc['mean of 10'])}" in TOLD
    assert f"a linear probe on all {len(alone)} reaches {f1(filters.loc['linear probe'])}" in TOLD


def test_what_it_says_of_the_nulls_is_what_the_published_run_found():
    points = published("points")
    pairs = points[points["models"].str.count(r"\+") == 1]
    same = (points["raw"] == points["calibrated"]).sum()
    exceeds = (pairs["strict_threshold"] > pairs["mean_correlation"]).sum()
    assert f"equals the raw one at {same} of {len(points)} points" in TOLD
    assert (
        f"99.9th percentile is {points.threshold.min():.2f} to {points.threshold.max():.2f}, and no trained pair"
        in TOLD
    )
    untrained, trained = pairs["strict_threshold"], points["mean_correlation"]
    assert f"pairs is {untrained.min():.2f} to {untrained.max():.2f}, where the trained pairs have a mean of" in TOLD
    assert f"a mean of {trained.min():.2f} to {trained.max():.2f}; at {exceeds} of {len(pairs)} pairs of models" in TOLD


def test_what_it_says_of_a_scaled_null_is_what_the_published_run_found():
    scaled, points = published("permuted_scaled"), published("points")
    assert (points["permuted_positions"] == points["positions"]).all() and "have it over all of them" in TOLD
    assert (points["aligned_same"] == points["raw"]).all()
    first, *others, last = (
        f"{told(row.error, row.low, row.high, '+.0%')}{{}} from {row.positions:,}" for row in scaled.itertuples()
    )
    assert ", ".join([first.format(" too high"), *(one.format("") for one in others)]) in TOLD
    assert f" and {last.format('')}, as with few positions" in TOLD and (scaled["error"] > 0).all()
    assert f"scaled to {max(profiles.load('micro').positions.budgets):,} positions" in TOLD


def test_what_it_says_of_thinned_positions_is_what_the_published_run_found():
    points, fits, thinnings = published("points"), published("fits").set_index("count"), published("thinning")
    t = profiles.load("micro").positions.t
    assert positions.rule_for_t(thinnings) == t and f"for t = {t:g}" in TOLD
    pairs = points[points["models"].str.count(r"\+") == 1]
    high = pairs["thinned_threshold"]
    assert f"their 99.9th percentile falls to {high.min():.2f} to {high.max():.2f}" in TOLD
    kept, cleared = points["thinned"] / points["raw"], points["thinned_strict"] / points["thinned"]
    assert f"the trained count becomes {kept.min():.0%} to {kept.max():.0%} of what it was" in TOLD
    assert f"Of that {cleared.min():.0%} to {cleared.max():.0%} lies above both nulls" in TOLD
    over_all = points["strict"] / points["raw"]
    assert f"over all positions {over_all.min():.0%} to {over_all.max():.0%}" in TOLD
    r2 = [fits.loc[count, "r2"] for count in ("thinned_strict", "strict")]
    assert " against ".join(f"{of.min():.3f} to {of.max():.3f}" for of in r2) in TOLD


def test_it_does_not_boast_of_more_bad_inputs_than_are_tried():
    module = importlib.import_module("test_bad_input")
    cases = 0
    for name, test in vars(module).items():
        if name.startswith("test_"):
            marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
            cases += math.prod(len(mark.args[1]) for mark in marks)
    said = int(re.search(r"(\d+) bad inputs, each refused", TOLD)[1])
    assert 487 <= said <= cases  # what is tried once is not to be given up


# ---------------------------------------------------------------------------------------------------------------------
# Models of images


def test_what_is_said_of_images_is_what_was_published():
    points = published("points_images")
    assert (
        f"know where they are, {points['images_mean'].min():.0f} to {points['images_mean'].max():.0f} of them" in TOLD
    )
    table = published("development").set_index(["grain", "whitened"])["high"]
    assert (
        f"of r up to {table[0, False]:.2f}; with grain of 5% and whitened patches, up to {table[0.05, True]:.2f}"
        in TOLD
    )
    cards = [card for card in models.zoo_cards() if card["modality"] == "images"]
    assert f"{len(cards)} small models of images" in TOLD
