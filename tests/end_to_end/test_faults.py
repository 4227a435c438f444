"""The batch under faults: killed twenty times at random, and on a disk that is too small; every result as without them.

It takes most of an hour, so it is run by hand, and as root for the disk, which is mounted::

    .venv/bin/python -m pytest -m by_hand -p no:xdist -s tests/end_to_end/test_faults.py
"""

import base64
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import hostile
import psutil
import pytest
import yaml
from conftest import snakemake

from rosetta.models.load import ROOT

pytestmark = pytest.mark.by_hand
KILLS = 20
RESULTS = (".parquet", ".csv", ".png", ".safetensors", ".html")


class Run(NamedTuple):
    """An undisturbed run."""

    profile: Path
    results: Path
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Run:
    profile = small(hostile.profile(tmp_path_factory.mktemp("profile")))
    results, start = tmp_path_factory.mktemp("undisturbed"), time.monotonic()
    finish(results, profile)
    return Run(profile, results, time.monotonic() - start)


def small(profile: Path) -> Path:
    """A profile with the points of one curve: eight notebooks."""
    content = yaml.safe_load(profile.read_text(encoding="utf-8"))
    curve = content["k_curve"]
    families = [family for family, of in content["properties"]["rosetta"].items() if of == curve]
    content["curves"] = {curve: content["curves"][curve]}
    content["properties"] |= {"rosetta": dict.fromkeys(families, curve), "firing": families[:1]}
    content["explorer"]["point"] = content["filtering"]["pair"]
    content["examples"]["points"] = content["curves"][curve]
    profile.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return profile


def finish(results: Path, profile: Path) -> None:
    process = snakemake(results, profile=profile)
    output, _ = process.communicate()
    assert process.returncode == 0, output


def is_as(undisturbed: Run, results: Path) -> None:
    """Assert that a run ended with the same results, bit for bit, and left nothing else behind."""
    files, expected = ({file.relative_to(of): file for file in of.rglob("*") if file.is_file()}
                       for of in (results, undisturbed.results))  # fmt: skip
    assert files.keys() == expected.keys()  # so there is no temporary file and no checkpoint
    compared = [name for name in expected if name.suffix in RESULTS]
    assert {name.suffix for name in compared} == set(RESULTS)
    assert [name for name in compared if files[name].read_bytes() != expected[name].read_bytes()] == []
    incomplete = [base64.b64decode(file.name) for file in (ROOT / ".snakemake" / "incomplete").glob("*")]
    assert not [name for name in incomplete if str(results).encode() in name]
    assert not list((ROOT / ".snakemake" / "locks").glob("*"))
    print(f"{len(compared)} results of {results.name} are as undisturbed")


def test_a_run_killed_at_any_time_ends_with_the_same_results(undisturbed, tmp_path):
    rng, begun, kills, orphans = random.Random(0), 0, 0, []
    print(f"\nundisturbed in {undisturbed.seconds:.0f} s")
    while kills < KILLS:
        results = tmp_path / f"run-{begun}"
        process = snakemake(results, profile=undisturbed.profile)
        after = rng.uniform(0, undisturbed.seconds / 3)  # it gets on by less than a third, so kills lie all over it
        try:
            output, _ = process.communicate(timeout=after)
        except subprocess.TimeoutExpired:
            orphans += psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
            there = sum(1 for file in results.rglob("*") if file.is_file())
            print(f"kill {kills} of {results.name} after {after:.0f} s, {there} files there")
            continue  # at once, while a kernel may still be about to notice
        assert process.returncode == 0, output
        is_as(undisturbed, results)
        begun += 1
    finish(results, undisturbed.profile)
    is_as(undisturbed, results)
    _, alive = psutil.wait_procs(orphans, timeout=60)
    assert not alive


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk is mounted, which takes root")
@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 0.95])
def test_a_run_on_a_full_disk_names_it_and_goes_on_when_there_is_room(undisturbed, tmp_path, share):
    results = tmp_path / "disk"
    results.mkdir()
    size = int(share * sum(file.stat().st_size for file in undisturbed.results.rglob("*") if file.is_file()))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", results], check=True)
    try:
        process = snakemake(results, profile=undisturbed.profile)
        output, _ = process.communicate()
        print(f"\n{size:,} bytes of disk:\n{output}")
        assert process.returncode != 0
        assert [line for line in output.splitlines() if "no space left" in line and str(results) in line]
        subprocess.run(["mount", "-o", "remount,size=1g", results], check=True)
        finish(results, undisturbed.profile)
        is_as(undisturbed, results)
    finally:
        subprocess.run(["umount", "--lazy", results], check=True)
