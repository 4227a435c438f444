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
#: The rows of the table of claims, in the middle of the README: what is measured, by what the paper says.
CLAIMS = dict(
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in README.partition("| the paper | here |")[2].partition("\n\n")[0].splitlines()
    if line.startswith("| ") and not line.startswith("|--")
)


def published(name: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / "figures" / f"{name}.csv")


def claim(words: str) -> str:
    """What the README says beside the one claim of the paper that holds these words."""
    (here,) = (here for paper, here in CLAIMS.items() if words in paper)
    return here


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


def test_what_it_says_of_the_laws_is_what_the_published_run_found():
    raw = published("fits").query("count == 'raw'").set_index("curve")
    alpha, r2 = (raw[[column, f"{column}_low", f"{column}_high"]].sort_values(column) for column in ("alpha", "r2"))

    def of(table, curve, form):
        return told(*table.loc[curve], form)

    for table, form, words in ((alpha, ".2f", "about 0.5 to 0.7"), (r2, ".3f", "as a power law")):
        first, last = table.index[0], table.index[-1]
        assert f"{of(table, first, form)} ({first}) to {of(table, last, form)} ({last})" in claim(words)
    for curve in ("opt-pythia-gpt2", "pythia-opt-qwen"):
        words = f"{of(alpha, curve, '.2f')}, R² {of(r2, curve, '.3f')} ({curve})"
        assert words in claim("shared by three families")
    below = (raw["alpha_high"] < 1).sum()
    assert f"The interval lies below 1 for {below} of {len(raw)} curves" in claim("about 0.5 to 0.7")
    assert (
        f"over five curves of {raw.points.min()} or {raw.points.max()} sizes" in claim("as a power law")
        and len(raw) == 5
    )
    by_k = published("fits_by_k")
    rows = [f"{told(fit.alpha, fit.alpha_low, fit.alpha_high)} at k = {fit.k}" for fit in by_k.itertuples()]
    assert ", ".join(rows) in claim("any k of the mutual top-k")
    assert by_k["alpha"].is_monotonic_increasing and (by_k["alpha_high"] < 1).all()


def test_the_claims_of_the_nulls_are_what_the_published_run_found():
    points = published("points")
    pairs = points[points["curve"] == "pythia-opt"].sort_values("neurons")

    def ends(null):
        columns = [f"{null}_mean", f"{null}_low", f"{null}_high"]
        return " to ".join(told(*row, ",.0f") for row in pairs[columns].iloc[[0, -1]].to_numpy())

    fewer, more = ((points["untrained_mean"] < points["raw"]), (points["permuted_mean"] > points["raw"]))
    untrained, permuted = claim("Untrained networks"), claim("Permuted inputs")
    trained = f"trained {pairs['raw'].iloc[0]} to {pairs['raw'].iloc[-1]}"
    assert f"Fewer than trained ones at {fewer.sum()} of {len(points)} points" in untrained
    assert f"Pythia–OPT {ends('untrained')} pairs, {trained}" in untrained
    assert (
        f"More than aligned ones at {more.sum()} of {len(points)} points: Pythia–OPT {ends('permuted')} pairs"
        in permuted
    )


def test_the_shares_of_the_token_sweep_are_those_of_the_published_run():
    sweep, here = published("token_sweep"), claim("settles as tokens grow")

    def share(row: int) -> str:
        count, overlap = sweep.loc[row, ["count", "overlap"]]
        kept = round(count * overlap)
        assert kept / count == pytest.approx(overlap)
        bounds = stats.binomtest(kept, int(count)).proportion_ci(0.95, "wilson")
        return told(overlap, bounds.low, bounds.high, ".0%")

    last = len(sweep) - 1
    now, before = (f"{tokens:,}" for tokens in sweep["tokens"].iloc[[last, last - 1]])
    assert f"{share(last)} of the pairs at {now} tokens were there at {before}" in here
    second, first = (f"{tokens:,}" for tokens in sweep["tokens"].iloc[[1, 0]])
    assert f"{share(1)} of those at {second} were at {first}" in here


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
    filters, here = published("filters").set_index("filter"), claim("F1 0.98")

    def f1(row) -> str:
        return told(row.f1, row.f1_low, row.f1_high)

    alone = filters[filters.kind == "neuron"]
    assert f"of {len(alone)} that qualify, the best {f1(alone.loc[alone.f1.idxmax()])}" in here
    chosen = published("table1").set_index("filter")
    assert (
        f"F1 {f1(chosen.loc['Rosetta'])}; the non-Rosetta neuron of its layer {f1(chosen.loc['non-Rosetta'])}" in here
    )
    assert f"the mean of the first ten reaches {f1(filters.loc['mean of 10'])}" in TOLD
    assert f"a linear probe on all {len(alone)} reaches {f1(filters.loc['linear probe'])}" in TOLD


def test_what_it_says_of_polarization_is_what_the_published_run_found():
    separation, widening = (published(name).set_index("family") for name in ("separation", "widening"))
    gaps, effect = published("gaps"), published("gain")
    here, of_others = claim("grow more selective with size"), claim("fall towards zero")
    folded = effect[effect["gain"] == "folded in"]
    assert (
        f"above 0 at {(gaps.gap > 0).sum()} of {len(gaps)} sizes of three families, its interval at {(gaps.low > 0).sum()} "
        f"(within layers at {(gaps.layers_low > 0).sum()}; with the final norm's gain folded into W_U the gap at "
        f"{(folded.gap > 0).sum()}, its interval at {(folded.low > 0).sum()})"
    ) in here
    grows = {0: "no family", 1: "one family", 2: "two families", 3: "three families"}[(widening.low > 0).sum()]
    assert f"shows in {grows} of three" in here
    others = published("polarization").query("population == 'other'")
    largest = {}
    for family, name in (("pythia", "Pythia"), ("opt", "OPT"), ("qwen", "Qwen")):
        of_family = gaps[gaps.family == family].sort_values("neurons")
        ends = [
            f"{row.gap:.2f} [{row.low:+.2f}, {row.high:+.2f}]"
            for row in of_family.iloc[[0, -1]].itertuples(index=False)
        ]
        change = told(*widening.loc[family, ["gap", "low", "high"]], "+.2f")
        assert f"{change} ({name} {ends[0]} to {ends[1]})" in here
        slope = separation.loc[family, [f"other, per decade{end}" for end in ("", ", low", ", high")]]
        assert f"{name} {told(*slope, '+.2f')}" in of_others
        row = others[others.family == family].sort_values("neurons").iloc[-1]
        largest[name] = row["mean"], f"{told(*row[['mean', 'low', 'high']])} ({name})"
        of_family = published("floor").query("family == @family").sort_values("neurons").iloc[[0, -1]]
        ends = [told(*row) for row in of_family[["mean", "low", "high"]].to_numpy()]
        assert f"{name} {ends[0]} to {ends[1]}" in of_others.partition("random directions")[2]
    (_, lowest), *_, (_, highest) = sorted(largest.values())
    assert f"to {lowest} to {highest}" in of_others
    rising = separation["other, per decade"]
    assert f"by {rising.min():.2f} to {rising.max():.2f} for a tenfold growth" in of_others


def test_what_it_says_of_specialization_is_what_the_published_run_found():
    trends = published("firing_trends").query("population == 'Rosetta'")
    assert "No trend of any category has an interval that excludes zero" in README
    assert ((trends.low < 0) & (trends.high > 0)).all()
    others = published("firing_trends").query("population == 'other' and family == 'pythia'")
    for name, category in (("code", "code"), ("formal text", "formal/scientific"), ("math", "math")):
        slope, low, high = others.set_index("category").loc[category, ["slope", "low", "high"]]
        assert low > 0 or high < 0
        assert f"{name} {slope:+.2f} [{low:+.2f}, {high:+.2f}]" in README
    of_pythia = trends[trends.family == "pythia"].set_index("category")
    for name, category in (("code", "code"), ("math", "math"), ("prose", "general prose")):
        slope, low, high = of_pythia.loc[category, ["slope", "low", "high"]]
        assert f"{name} {slope:+.2f} [{low:+.2f}, {high:+.2f}]" in README


def test_what_it_says_of_depths_is_what_the_published_run_found():
    depths = published("depths").set_index("model")
    layers = depths.index.str.extract(r"x(\d+)$")[0].astype(int).tolist()
    assert (depths > 0).sum(axis=1).tolist() == layers and len(layers) == 6
    assert f"each of the {sum(layers)} layers of six Pythia models holds some" in claim("over all depths")


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
    points, fits = (pd.read_csv(ROOT / "figures" / f"{name}_images.csv") for name in ("points", "fits"))
    raw = fits[fits["count"] == "raw"].set_index("curve")
    for column in ("alpha", "r2"):
        digits = {"alpha": 2, "r2": 3}[column]
        for curve in (raw[column].idxmin(), raw[column].idxmax()):
            value, low, high = raw.loc[curve, [column, f"{column}_low", f"{column}_high"]]
            assert f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}] ({curve})" in TOLD
    assert f"below 1 for {(raw['alpha_high'] < 1).sum()} of {len(raw)} curves" in TOLD
    assert (
        f"more than trained ones at {(points['untrained_mean'] > points['raw']).sum()} of {len(points)} points" in TOLD
    )
    all_above = (points["strict"] == points["raw"]).sum()
    assert f"*all three* nulls lie all trained pairs at {all_above} of {len(points)} points" in TOLD
    ends = points.groupby("curve")["raw"].agg(["first", "last"])
    grow = (ends["last"] > ends["first"]).sum()
    assert f"from the smallest size to the largest, on {grow} of {len(ends)} curves" in TOLD
    assert (
        f"know where they are, {points['images_mean'].min():.0f} to {points['images_mean'].max():.0f} of them" in TOLD
    )
    for of_k in pd.read_csv(ROOT / "figures" / "fits_by_k_images.csv").itertuples():
        assert f"{of_k.alpha:.2f} [{of_k.alpha_low:.2f}, {of_k.alpha_high:.2f}] at k = {of_k.k}" in TOLD


def test_what_is_said_of_more_images_and_of_real_ones_is_what_was_published():
    sweep, real = (pd.read_csv(ROOT / "figures" / f"{name}.csv") for name in ("image_sweep", "real_and_generated"))
    last, before = sweep.iloc[-1], sweep.iloc[-2]
    overlap = f"{last.overlap:.0%} [{last.overlap_low:.0%}, {last.overlap_high:.0%}]"
    assert f"{overlap} of the pairs at {last.images:,.0f} images were there at {before.images:,.0f}" in TOLD
    most = real.iloc[-1]
    assert f"{most.generated:.0f} over generated images, {most.real:.0f} over real ones" in TOLD
    assert f"a Jaccard index of {most.jaccard:.2f}" in TOLD
    table = pd.read_csv(ROOT / "figures" / "development.csv").set_index(["grain", "whitened"])["high"]
    assert (
        f"of r up to {table[0, False]:.2f}; with grain of 5% and whitened patches, up to {table[0.05, True]:.2f}"
        in TOLD
    )
    cards = [card for card in models.zoo_cards() if card["modality"] == "images"]
    assert len(cards) == 16 and "16 small models of images" in TOLD
