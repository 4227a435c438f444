"""Jobs of the batch: the same whether they are forked or run where they stand, and their time and memory recorded."""

import os
import subprocess
import sys

import pandas as pd
import pytest
from test_kernels import batch, environment  # noqa: F401

from rosetta import kernels

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")

SAYS = """
import os, sys
print(sys.argv[1:], __name__, os.getcwd(), sys.path[0], "transformers" in sys.modules, "BENCHMARK" in os.environ)
print("a warning", file=sys.stderr)
some = bytearray(3 * 10**8)
sys.exit({})
"""


def job(folder, *arguments, **variables) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "rosetta.job", *arguments]
    return subprocess.run(command, cwd=folder, env=environment() | variables, capture_output=True, text=True)


@pytest.mark.parametrize("ends", ["0", "3", "'it is wrong'", "os.kill(os.getpid(), 9)"])
def test_a_job_says_and_ends_the_same_forked_or_not(batch, tmp_path, ends):  # noqa: F811
    (tmp_path / "saying.py").write_text(SAYS.format(ends), encoding="utf-8")
    done = {}
    for address in (None, batch[2]):
        record = tmp_path / f"{address is None}" / "record.tsv"
        variables = {"BENCHMARK": str(record)} | ({kernels.ADDRESS: address} if address else {})
        done[address] = job(tmp_path, "saying", "--to", "a b", **variables)
        if "kill" not in ends:
            facts = pd.read_csv(record, sep="\t").iloc[0]
            assert facts.s > 0 and facts.max_rss > 290 and facts.forked == (address is not None)
    here, forked = done.values()
    assert forked.stdout == here.stdout.replace("False False", "True False") and "True False" in forked.stdout
    assert "['--to', 'a b'] __main__" in here.stdout and forked.stderr == here.stderr
    assert forked.returncode == (here.returncode if here.returncode >= 0 else 128 - here.returncode)


def test_programs_of_the_library_start_without_a_warning(batch, tmp_path):  # noqa: F811
    for program in ("rosetta.studies.shards", "rosetta.studies.pictures"):
        done = job(tmp_path, program, "nowhere.yaml", "results", **{kernels.ADDRESS: batch[2]})
        assert (
            done.returncode != 0 and "Warning" not in done.stderr and ("usage" in done.stderr or "Error" in done.stderr)
        )


def test_a_job_ends_with_the_one_who_asked_for_it(batch, tmp_path):  # noqa: F811
    code = "import time\nfrom pathlib import Path\nPath('at work').touch()\ntime.sleep(100)"
    (tmp_path / "waiting.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "rosetta.job", "waiting"]
    asking = subprocess.Popen(command, cwd=tmp_path, env=environment() | {kernels.ADDRESS: batch[2]})
    while not (tmp_path / "at work").exists():
        assert asking.poll() is None
    (child,) = batch[1].children()
    asking.kill()
    child.wait(60)  # raises where it goes on
    assert os.path.exists(batch[2])
    asking.wait()
