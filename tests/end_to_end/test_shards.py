"""What the batch would run for pairs whose positions are shared out over jobs; `test_slurm` runs it."""

import re

import pytest
from conftest import PAIR, snakemake


@pytest.mark.parametrize("of", [1, 2])
def test_a_pairs_jobs_come_before_its_notebook(profile, tmp_path, of):
    notebook = tmp_path / "tiny" / "notebooks" / "02_matching" / f"{'+'.join(PAIR)}.ipynb"
    process = snakemake(tmp_path, str(notebook), "--dry-run", profile=profile(shards=of))
    output, _ = process.communicate()
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", output.partition("Job stats:")[2].partition("total")[0], re.MULTILINE))
    networks = 3  # trained, and two seeds
    shards = {"screen": of, "screened": 1, "verify": of, "matched": 1}
    expected = {name: str(networks * count) for name, count in shards.items()} if of > 1 else {}
    assert jobs == expected | {"matching": "1"}, output
