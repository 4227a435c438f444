"""What the batch would run for pairs whose positions are shared out over jobs; `test_slurm` runs it."""

import re

import pytest
import yaml
from conftest import PAIR, snakemake

from rosetta.models.load import ROOT


def said(process) -> tuple[str, dict[str, str]]:
    """What a dry run said, and how many jobs there would be of each rule."""
    output, _ = process.communicate()
    table = output.partition("Job stats:")[2].partition("total")[0]
    return output, dict(re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE))


@pytest.mark.parametrize("of", [1, 2])
def test_a_pairs_jobs_come_before_its_notebook(profile, tmp_path, of):
    notebook = tmp_path / "tiny" / "notebooks" / "02_matching" / f"{'+'.join(PAIR)}.ipynb"
    process = snakemake(tmp_path, str(notebook), "--dry-run", profile=profile(shards=of))
    output, jobs = said(process)
    networks = 3  # trained, and two seeds
    shards = {"screen": of, "screened": 1, "verify": of, "matched": 1}
    expected = {name: str(networks * count) for name, count in shards.items()} if of > 1 else {}
    assert jobs == expected | {"matching": "1"}, output


def test_what_is_left_without_outliers_is_matched_in_jobs_of_its_own_once_sizes_are_known(profile, tmp_path):
    content = yaml.safe_load(profile().read_text(encoding="utf-8"))
    for size, sizes in ((5, {"sizes": "1"}), (None, {})):
        asked = content["positions"] | {"outliers": {"first": 1, "size": size, "curves": True}}
        path = profile(f"left-{size or 0}", shards=2, positions=asked)
        notebook = tmp_path / path.stem / "notebooks" / "02_matching" / f"{'+'.join(PAIR)}.ipynb"
        output, jobs = said(snakemake(tmp_path, str(notebook), "--dry-run", profile=path))
        shards = {"screen": "12", "screened": "6", "verify": "12", "matched": "3", "matched_alone": "3"}
        assert jobs == shards | sizes | {"matching": "1"}, output


@pytest.mark.parametrize("of", [1, 3])
def test_a_generators_pictures_come_before_all_that_show_them_and_are_made_once(tmp_path, of):
    content = yaml.safe_load((ROOT / "profiles" / "smoke.yaml").read_text(encoding="utf-8")) | {"shards": of}
    for name, model in content["models"].items():
        if "kind" in model:  # nothing is opened: models of the hub serve
            model["source"] = f"nobody/{name}"
    (tmp_path / "seen.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    point = "onestep-32x2+dinov2-32x2+openclip-32x2"  # rests on two pairs of one generator
    notebook = tmp_path / "seen" / "notebooks" / "02_matching" / f"{point}.ipynb"
    output, jobs = said(snakemake(tmp_path, str(notebook), "--dry-run", profile=tmp_path / "seen.yaml"))
    tables = 2 * 3  # of two pairs, trained and with two seeds
    shards = {"screen": of, "screened": 1, "verify": of, "matched_alone": 1}
    expected = {name: str(tables * count) for name, count in shards.items()} if of > 1 else {}
    assert jobs == expected | {"matching": "3", "pictures": "1"}, output
