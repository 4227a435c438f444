"""The batch as a user runs it: whole, and again, on names and texts that nothing may take for its own."""

import re
from pathlib import Path

import hostile
import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import snakemake
from nbconvert import HTMLExporter
from PIL import Image
from scipy import stats

from rosetta import report
from rosetta.models.load import ROOT
from rosetta.profiles import Profile, load
from rosetta.studies.matches import Study

FIGURES = [
    "fig23_alignment", "fig03a_scaling", "fig04_untrained", "fig25_topk", "fig26_permuted", "fig33_tokens", "fig05_frontiers",
    "fig27_simulation", "fig06a_polarization", "fig28_polarization", "fig19_fig20_examples", "fig07_firing",
    "fig29_firing_pythia", f"fig30_firing_{hostile.NAMES['qwen']}", "fig31_depth", "table1_perplexity", "08_exponents",
    f"fig08_fig13_pythia-32x2+{hostile.NAMES['opt-32x2']}", f"fig08_fig13_pythia-48x3+opt-48x3+{hostile.NAMES['qwen-48x3']}",
]  # fmt: skip
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture(scope="module")
def profile(tmp_path_factory) -> Profile:
    """The smoke profile with another corpus and other names."""
    return load(hostile.profile(tmp_path_factory.mktemp("hostile")))


@pytest.fixture(scope="module")
def smoke_run(profile, tmp_path_factory) -> Path:
    """The whole profile, run once: the folder of its results."""
    results = tmp_path_factory.mktemp("results")
    process = snakemake(results, profile=profile.path)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return results / profile.name


def copies(smoke_run: Path, notebook: Path) -> list[Path]:
    """Where a notebook was executed to: 02 once for each point."""
    return [*smoke_run.glob(f"notebooks/{notebook.stem}.ipynb"), *smoke_run.glob(f"notebooks/{notebook.stem}/*.ipynb")]


def test_every_point_of_the_profile_has_its_matches_and_its_notebook(smoke_run, profile):
    for points in profile.curves.values():
        for point in points:
            assert (smoke_run / "notebooks" / "02_matching" / f"{'+'.join(point)}.ipynb").is_file()
    for a, b in profile.pairs:
        assert len(pd.read_parquet(smoke_run / "matches" / f"{a}--{b}.parquet")) > 0


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_in_the_smoke_profile(path, smoke_run):
    assert copies(smoke_run, path)
    for copy in copies(smoke_run, path):
        cells = [cell for cell in nbformat.read(copy, as_version=4).cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in cells if cell.source)
        outputs = [output for cell in cells for output in cell.outputs]
        assert not [output for output in outputs if output.output_type == "error"]
        assert [output for output in outputs if "image/png" in output.get("data", {})]


@pytest.mark.parametrize("name", FIGURES)
def test_the_figures_are_there_and_not_blank(smoke_run, name):
    pixels = np.asarray(Image.open(smoke_run / "figures" / f"{name}.png").convert("L"))
    assert pixels.shape[0] > 300 and pixels.std() > 5


def test_the_summary_names_the_exponent_of_each_curve(smoke_run, profile):
    text = report.summary(Study(profile, smoke_run.parent))
    points = pd.read_csv(smoke_run / "tables" / "points.csv")
    for curve, group in points.groupby("curve"):
        if len(group) == 1:
            continue
        slope = stats.linregress(np.log(group.neurons), np.log(group.raw)).slope
        assert any(line.startswith(curve) and f"alpha = {slope:.2f}" in line for line in text.splitlines())
    assert str(smoke_run / "figures") in text
    notebooks = 7 + len(profile.anchors)  # one a point, and those beside 02
    assert re.search(rf"^time +\d+\.\d min for {notebooks} notebooks$", text, re.MULTILINE)
    memory = re.search(r"^memory +(\d+\.\d\d) GiB at most, 0\d_", text, re.MULTILINE)
    assert 0.3 < float(memory[1]) < 8


def test_the_oracle_is_exact_and_every_filter_has_its_runs(smoke_run, profile):
    table = pd.read_csv(smoke_run / "tables" / "table1.csv").set_index("filter")
    assert list(table.index) == ["base", "random", "non-Rosetta", "Rosetta", "oracle"]
    assert table.loc["oracle", "f1"] == 1
    runs = pd.read_csv(smoke_run / "tables" / "perplexities.csv")
    assert runs.groupby("filter")["seed"].nunique().drop("base").eq(len(profile.filtering.seeds)).all()
    assert (smoke_run / "explorer.html").is_file()


def test_a_second_run_has_nothing_to_do(smoke_run, profile):
    process = snakemake(smoke_run.parent, "--dry-run", profile=profile.path)
    output, _ = process.communicate()
    assert process.returncode == 0
    assert "02_matching" not in output


# ---------------------------------------------------------------------------------------------------------------------
# In a browser

#: What a page made of the texts that it shows. MathJax is not there to run: what it would set is found by its `$`.
MADE = """() => {
  const made = {
    handlers: e => e.getAttributeNames().some(name => name.startsWith("on")),
    links: e => /^\\s*javascript:/i.test(e.getAttribute("href") ?? e.getAttribute("src") ?? ""),
    images: e => e.matches("img[src=x]"),
    mathematics: e => e.closest(".jp-OutputArea-output") && !e.closest("pre, code, script, style, .tex2jax_ignore") &&
      [...e.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.includes("$")),
  };
  const all = [...document.querySelectorAll("*")];
  const found = Object.entries(made).map(([what, is]) => [what, all.filter(is).map(e => e.outerHTML.slice(0, 300))]);
  return {ran: window.pwned, ...Object.fromEntries(found)};
}"""


@pytest.fixture
def shown(browser):
    """The text that a page shows, of which nothing has become anything but text."""
    pages = []

    def open_(path: Path) -> str:
        page = browser.new_page()
        pages.append(page)
        dialogs = []
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.goto(path.as_uri())
        for frame in page.frames:
            made = {what: found for what, found in frame.evaluate(MADE).items() if found}
            assert not made, f"{frame.url}: {made}"
        assert not dialogs
        return page.locator("body").inner_text()

    yield open_
    for page in pages:
        page.close()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_text_or_name_becomes_more_than_text_in_a_notebook_that_is_shared(path, smoke_run, shown):
    for copy in copies(smoke_run, path):
        page, _ = HTMLExporter().from_filename(str(copy))
        copy.with_suffix(".html").write_text(page, encoding="utf-8")
        text = shown(copy.with_suffix(".html"))
        names = {"06": [hostile.CATEGORY, hostile.SUBSET], "07": [hostile.SUBSET, hostile.LANGUAGE]}
        assert all(name in text for name in names.get(path.stem[:2], []))


def test_no_text_or_name_becomes_more_than_text_in_the_explorer(smoke_run, shown):
    text = shown(smoke_run / "explorer.html")
    assert hostile.SUBSET in text and hostile.NAMES["qwen-48x3"] in text


def test_no_text_or_name_becomes_more_than_text_in_the_explorer_of_images(smoke_run, profile, shown):
    text = shown(smoke_run / "explorer_images.html")
    assert all(name in text for name in profile.images.pair) and re.search(r"\bL\d/U\d+\b", text)


def test_no_text_or_name_becomes_more_than_text_in_the_page_of_the_run(smoke_run, profile, shown):
    text = shown(report.page(Study(profile, smoke_run.parent)))
    assert all(hostile.NAMES[name] in text for name in ("qwen-48x3", "opt-qwen")) and "fig03a_scaling" in text
