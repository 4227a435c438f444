"""The profiles of published models, end to end and offline: in miniature, with only the sources and the amounts changed."""

import json
import re
import time
from pathlib import Path
from typing import NamedTuple

import miniature
import nbformat
import numpy as np
import pandas as pd
import pytest
from answering import KEY, obliging, serving
from conftest import snakemake
from PIL import Image

from rosetta import report
from rosetta.models.load import ROOT
from rosetta.profiles import Profile, load
from rosetta.studies.matches import Study, without_name

pytestmark = pytest.mark.timing  # they take both cores for minutes
#: Seconds that both may take together, on two cores with nothing else to do, and by how much a machine's own swings may exceed them.
MOST, SWINGS = 360, 1.25


class Run(NamedTuple):
    profile: Profile
    results: Path
    seconds: float
    asked: list

    @property
    def folder(self) -> Path:
        return self.results / self.profile.name

    @property
    def study(self) -> Study:
        return Study(self.profile, self.results)


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """Runs the miniature of a profile, once."""
    done = {}

    def run(name: str) -> Run:
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            profile, results = load(miniature.write(name, folder / "profile")), folder / "results"
            with serving() as (server, named), pytest.MonkeyPatch.context() as patch:
                server.replies = [obliging]
                for key, value in named.items():
                    patch.setenv(key, value)
                started = time.monotonic()
                process = snakemake(results, profile=profile.path, offline=True)
                output, _ = process.communicate()
                seconds = time.monotonic() - started
            assert process.returncode == 0, output
            done[name] = Run(profile, results, seconds, server.requests)
        return done[name]

    return run


@pytest.fixture(scope="module", params=["small", "paper"])
def run(request, run_of) -> Run:
    return run_of(request.param)


def expected(profile: Profile) -> set[str]:
    """The figures and tables that a profile's notebooks make: those that are published of `micro`, but for what it lacks."""
    published = {path.name for path in (ROOT / "figures").iterdir() if path.suffix in (".png", ".csv")}
    published -= {"explorer.png", "matching_cost.csv", "matching_cost.png"}  # a picture of the page, and a benchmark's
    micro, (first, *_) = load("micro").properties.firing, profile.properties.firing
    lacking = {
        r"development\.csv": profile.images.real["kind"] != "scenes",
        r"fig38.*": not profile.judging.compared,
        r"03_predictions\.png": max(map(len, profile.curves.values())) < 3,
        **{rf"(fig30_)?firing_{family}\..*": family not in profile.properties.firing for family in micro},
    }
    assert first == micro[0]
    pages = {f"fig08_fig13_{'+'.join(point)}.png" for point in profile.examples.points}
    published = {name for name in published if not name.startswith("fig08_fig13_")} | pages
    return {name for name in published if not any(re.fullmatch(one, name) for one, left in lacking.items() if left)}


def test_nothing_but_sources_and_amounts_differs_from_the_profile(run):
    full = load(run.profile.name)
    assert run.profile.curves == full.curves and run.profile.anchors == full.anchors
    changed = {"models", "corpus", *(key.partition(".")[0] for key in miniature.AMOUNTS)}
    for section in type(full).model_fields:
        here, there = (getattr(profile, section) for profile in (run.profile, full))
        if section not in changed:
            assert here == there, section
    for name, spec in run.profile.models.items():
        of = full.models[name]
        assert (spec.family, spec.kind, spec.tag, spec.device, spec.classes) == (
            of.family, of.kind, of.tag, of.device, of.classes
        )  # fmt: skip
    said = {
        key: value for key, value in flat(run.profile.model_dump(exclude={"models", "corpus"})).items()
        if value != flat(full.model_dump(exclude={"models", "corpus"}))[key]
    }  # fmt: skip
    assert said.keys() <= {*miniature.AMOUNTS, "images.real.path", "filtering.pool.source"}


def flat(section: dict, within: str = "") -> dict:
    """The values of a profile by the paths of their names."""
    found = {}
    for key, value in section.items():
        found |= flat(value, f"{within}{key}.") if isinstance(value, dict) else {f"{within}{key}": value}
    return found


def test_sizes_grow_along_every_curve(run):
    for curve, points in run.profile.curves.items():
        sizes = [run.profile.neurons(point) for point in points]
        assert len(sizes) > 1 and sizes == sorted(set(sizes)), curve


def test_every_notebook_ran_to_its_end(run):
    found = sorted((run.folder / "notebooks").rglob("*.ipynb"))
    points = {"+".join(point) for points in run.profile.curves.values() for point in points}
    assert {path.stem for path in found if path.parent.name == "02_matching"} == points
    assert {path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")} - {"02_matching.ipynb"} == {
        path.name for path in found if path.parent.name == "notebooks"
    }
    for path in found:
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code" and cell.source]
        assert all(cell.execution_count for cell in cells), path
        assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"], path


def test_all_that_a_run_publishes_is_there_and_not_empty(run):
    figures = {path.name: path for path in (run.folder / "figures").rglob("*.png")}
    tables = {path.name: path for path in (run.folder / "tables").rglob("*.csv")}
    assert expected(run.profile) <= figures.keys() | tables.keys()
    for path in figures.values():
        pixels = np.asarray(Image.open(path).convert("L"))
        assert pixels.shape[0] > 100 and pixels.std() > 1, path
    if run.profile.judging.judge == "embedding":  # the only judge, who agrees with nobody
        assert not len(pd.read_csv(tables.pop("judge_agreement.csv")))
    for path in tables.values():
        assert len(pd.read_csv(path)) > 0, path


def test_match_tables_say_how_they_were_made_and_of_what(run):
    study, profile = run.study, run.profile
    for pair in profile.pairs:
        tables = [study.matches(pair), *study.untrained_matches(pair)]
        tables += [study.matches(pair, without=True)] if profile.without_outliers(pair) else []
        for table in tables:
            assert len(table) > 0 and table.attrs["method"] in ("exact", "bfloat16", "sketch")
            neurons = [profile.models[name].neurons for name in pair]
            assert [table.attrs["neurons_a"], table.attrs["neurons_b"]] == neurons
            assert table.attrs["positions"] > 0
        made_with = json.loads(
            (run.folder / "matches" / f"{'--'.join(pair)}.parquet.made-with.json").read_text(encoding="utf-8")
        )
        assert f'"dtype": "{profile.dtype}"' in json.dumps(made_with)


def test_shards_were_read_by_as_many_jobs(run):
    profile, shards = run.profile, run.folder / "benchmarks" / "shards"
    names = [f"{a}--{b}" for a, b in profile.pairs]
    names += [f"{a}--{b}.without-{without_name(profile)}" for a, b in profile.pairs if profile.without_outliers((a, b))]
    for name in names if profile.shards > 1 else []:
        assert len(list((shards / name).glob("screen.*.tsv"))) == profile.shards
    assert shards.exists() == (profile.shards > 1)


def test_the_endpoint_is_asked_where_the_profile_asks_for_it(run):
    kinds = {"label": 0, "picture": 0}
    for request in run.asked:
        kinds["label" if isinstance(request["body"]["messages"][-1]["content"], str) else "picture"] += 1
    assert (kinds["label"] > 0) == (run.profile.labels.kind == "chat")
    assert (kinds["picture"] > 0) == (run.profile.judging.judge == "chat")
    files = [
        path for path in run.folder.rglob("*") if path.is_file() and path.suffix not in (".parquet", ".safetensors")
    ]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_the_page_and_the_scorecard_have_every_claim_with_a_verdict(run):
    card = pd.read_csv(run.folder / "tables" / "scorecard.csv")
    published = pd.read_csv(ROOT / "figures" / "scorecard.csv")
    assert list(card["says"]) == list(published["says"]) and card["verdict"].notna().all()
    page = report.page(run.study).read_text(encoding="utf-8")
    assert f"Profile {run.profile.name}" in page and len(page) < 30 * 2**20
    summary = report.summary(run.study)
    notebooks = 7 + len(run.profile.anchors)
    assert re.search(rf"^time +\d+\.\d min for {notebooks} notebooks$", summary, re.MULTILINE)


def test_both_take_few_minutes(run_of):
    took = {name: round(run_of(name).seconds) for name in ("small", "paper")}
    assert sum(took.values()) < SWINGS * MOST, took
