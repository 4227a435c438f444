"""The page of a run: in a browser, with hostile names, and of a size that can be sent."""

import base64
import html
import io
import re

import numpy as np
import pytest
from hostile import TRAPS
from PIL import Image

from rosetta import profiles, report
from rosetta.models.load import ROOT
from rosetta.studies.matches import Study
from rosetta.viewer.report import Judged, about, write_report

HOSTILE = " ".join(TRAPS)


def judged(part="text", where="3a", verdict="reproduced", why="", text="a claim") -> Judged:
    return Judged(part, where, text, text, text, verdict, why, text)


def picture(path, side=40):
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def run(tmp_path):
    """The published run as the batch leaves one."""
    study = Study(profiles.load("micro"), tmp_path)
    for folder, files in {"tables": "*.csv", "figures": "fig0[34]*.png"}.items():
        (study.folder / folder).mkdir(parents=True)
        for file in (ROOT / "figures").glob(files):
            (study.folder / folder / file.name).write_bytes(file.read_bytes())
    records = study.folder / "benchmarks" / "02_matching"
    records.mkdir(parents=True)
    (records / "a+b.tsv").write_text("s\tmax_rss\tforked\n12.5\t2048.0\tTrue\n", encoding="utf-8")
    return study


def test_a_page_of_the_run_has_claims_figures_and_what_made_them(run, open_page):
    page = open_page(report.page(run))
    assert page.title() == "Rosetta Neurons across scale: micro"
    text = page.locator("main").inner_text()
    for said in ("pythia-opt 0.67 [0.59, 0.74]", "Theory", "02_matching a+b", "12.5", "2.00", "torch", "nulls.untrained_seeds",
                 "1, 2, 3", "pythia-192x6", "text, environment", "images, scenes"):  # fmt: skip
        assert said in text
    assert page.locator("figure").count() == len(list((run.folder / "figures").glob("*.png"))) > 5
    seen = page.locator("figure img").evaluate_all("all => all.map(img => img.complete && img.naturalWidth > 300)")
    assert all(seen)
    under = page.locator("figure", has_text="fig04_untrained_images").inner_text()
    assert "Untrained networks" in under and "not reproduced" in under
    rule = page.locator("details p").first
    assert not rule.is_visible()
    page.locator("summary").first.click()
    assert rule.is_visible() and rule.inner_text().startswith("Reproduced if")


def test_the_closing_lines_name_the_page(run, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["report", "micro", "--results", str(run.results)])
    report.main()
    said = capsys.readouterr().out
    assert f"report     {run.folder / 'report.html'}" in said and (run.folder / "report.html").stat().st_size < 30e6
    assert re.search(r"^time +0\.2 min for 1 notebooks$", said, re.MULTILINE)


def test_published_claims_reach_the_readme_beside_the_folder_only_where_it_has_marks(run, tmp_path):
    kit = tmp_path / "kit"
    (kit / "figures").mkdir(parents=True)
    readme = re.sub(r"R² 0\.954 \[", "R² 9.999 [", (ROOT / "README.md").read_text(encoding="utf-8"))
    (kit / "README.md").write_text(readme, encoding="utf-8")
    report.publish(run, kit / "figures")
    assert (kit / "README.md").read_text(encoding="utf-8") == (ROOT / "README.md").read_text(encoding="utf-8")
    assert (kit / "figures" / "fits.csv").read_bytes() == (ROOT / "figures" / "fits.csv").read_bytes()
    (kit / "README.md").write_text("no marks\n", encoding="utf-8")
    report.publish(run, kit / "figures")
    assert (kit / "README.md").read_text(encoding="utf-8") == "no marks\n"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hostile_names_in_tables_stay_text(tmp_path, open_page, scheme):
    claims = [Judged(*[HOSTILE] * len(Judged._fields)), judged(why=HOSTILE)]
    file = picture(tmp_path / "fig03a_'onerror=alert(1).png")
    path = write_report(tmp_path / "r.html", HOSTILE, HOSTILE, claims, [file], {HOSTILE: [(HOSTILE,), (HOSTILE,)]})
    raw = path.read_text(encoding="utf-8")
    assert "<script" not in raw and "<img src=x" not in raw and raw.count(html.escape(TRAPS[0])) > 10
    page = open_page(path, color_scheme=scheme)
    assert page.locator("script, img[src=x], [onerror], a[href^=javascript]").count() == 0
    assert page.locator("main").inner_text().count("window.pwned=1") > 5
    assert page.locator("figure img").count() == 1


def test_its_policy_allows_its_own_style_and_pictures_and_nothing_else(tmp_path, open_page):
    path = write_report(tmp_path / "r.html", "t", "n", [judged()], [], {})
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', path.read_text(encoding="utf-8"))[1]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-") and "unsafe" not in policy
    page = open_page(path)
    assert page.locator("table").first.evaluate("e => getComputedStyle(e).borderCollapse") == "collapse"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_verdicts_have_contrast(tmp_path, open_page, scheme):
    claims = [judged(verdict=verdict) for verdict in ("reproduced", "not reproduced", "not measurable at this size")]
    page = open_page(write_report(tmp_path / "r.html", "t", "n", claims, [], {}), color_scheme=scheme)
    found = page.evaluate("""() => [...document.querySelectorAll("td .yes, td .no, td .open")].map(e =>
      [getComputedStyle(e).color, getComputedStyle(e.closest("table")).backgroundColor].map(c => c.match(/\\d+/g).map(Number)))""")
    assert len(found) == 3

    def luminance(colour):
        linear = [(c / 255 / 12.92) if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    for pair in found:
        low, high = sorted(map(luminance, pair))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_what_would_make_it_too_large_is_left_out_by_name(tmp_path):
    files = [picture(tmp_path / f"fig{i:02}_x.png", side) for i, side in enumerate((40, 200, 40))]
    path = write_report(tmp_path / "r.html", "t", "n", [judged()], files, {}, limit=40_000)
    raw = path.read_text(encoding="utf-8")
    assert len(raw) < 41_000 and "Left out, to keep this file small: fig01_x</p>" in raw and raw.count("<figure>") == 2
    first = re.search(r"base64,([^\"]+)", raw)[1]
    assert Image.open(io.BytesIO(base64.b64decode(first))).size == (40, 40)


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("fig03a_scaling", ["3a"]), ("fig03b_scaling_images_strict", ["3b"]), ("fig04_untrained", ["4"]),
        ("fig27_simulation", ["27a", "27b"]), ("fig29_firing_pythia", ["29"]), ("table1_perplexity", ["Table 1"]),
        ("fig19_fig20_examples", []), ("fig08_fig13_pythia-32x2+opt-32x2", []), ("02_correlations", []), ("fig35_real_and_generated", ["35"]),
    ],
)  # fmt: skip
def test_a_figure_stands_with_its_claims(name, places):
    claims = [judged(where=where) for where in ("3a", "4", "27a", "27b", "29", "Table 1", "2")]
    claims += [judged("images", where) for where in ("3b", "4", "35", "3")]
    found = about(name, claims)
    assert [claim.where for claim in found] == places and all(
        claim.part == "text" for claim in found if claim.where == "4"
    )


def test_pictures_and_shards_are_no_notebooks_in_the_time_that_a_run_took(run):
    folder = run.folder / "benchmarks"
    for name in ("pictures/maker", "shards/a--b/screen.1-of-4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.tsv").write_text("s\tmax_rss\tforked\n900.0\t4096.0\tTrue\n", encoding="utf-8")
    time, memory = report.took(folder)
    assert time.split(maxsplit=1)[1] == "0.2 min for 1 notebooks" and "2.00 GiB at most, 02_matching a+b" in memory
