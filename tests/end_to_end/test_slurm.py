"""The batch on a cluster: a real Slurm of one node, brought up here on loopback, as root.

Run with ``pytest -m slurm -p no:xdist``, as ``.ci/run`` does after all others. Where there is no Slurm the test is skipped;
``.ci/run`` installs it (``apt-get install slurm-wlm munge``).
"""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from conftest import PAIR, matched_in_shards, snakemake

from rosetta.models.load import ROOT
from rosetta.studies.matches import Study
from rosetta.studies.shards import Job

DAEMONS = ("munged", "slurmctld", "slurmd")
PROFILE = ROOT / "workflow" / "slurm"
#: What one small node without accounting needs beside the committed profile. Its jobs are looked at 5, 20 and 45 seconds
#: after they were submitted.
HERE = ["--workflow-profile", str(PROFILE), "--max-threads", "1", "--latency-wait", "5", "--slurm-status-command", "squeue",
        "--slurm-init-seconds-before-status-checks", "5"]  # fmt: skip

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons are started, which takes root"),
    pytest.mark.skipif(
        not all(map(shutil.which, DAEMONS)),
        reason=f"no Slurm here ({', '.join(DAEMONS)}); apt-get install slurm-wlm munge to run this test",
    ),
]


@pytest.fixture
def cluster(monkeypatch):
    """The folder of a running Slurm of this machine alone; the environment tells its commands of it."""
    # Of its own, as the path of a socket must be short, and pytest's are not.
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as name:
        folder, started = Path(name), []
        configuration = configure(folder)
        monkeypatch.setenv("SLURM_CONF", str(configuration))
        monkeypatch.setenv("PATH", f"{srun(folder, configuration)}:{os.environ['PATH']}")
        files = [
            f"--{name}={folder}/munge.{name}" for name in ("socket", "key-file", "pid-file", "log-file", "seed-file")
        ]
        try:
            started.append(daemon(folder, "munged", "--foreground", "--force", *files))
            wait_for(lambda: (folder / "munge.socket").exists(), folder)
            started += [daemon(folder, "slurmctld", "-D", "-i"), daemon(folder, "slurmd", "-D")]
            wait_for(lambda: asked("sinfo", "-h", "-o", "%T") == "idle", folder)
            yield folder
        finally:
            if len(started) == 3:
                asked("scancel", "--user=root")
                wait_for(lambda: not asked("squeue", "-h"), folder)
            for process in reversed(started):
                process.terminate()
                process.wait(timeout=30)


def daemon(folder: Path, name: str, *arguments: str) -> subprocess.Popen:
    with open(folder / f"{name}.out", "w") as log:
        return subprocess.Popen([name, *arguments], stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def configure(folder: Path) -> Path:
    """A key, and a configuration of one node with ports of its own."""
    folder.chmod(0o755)
    key = folder / "munge.key-file"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host, memory = socket.gethostname().split(".")[0], psutil.virtual_memory().total // 2**20 - 100
    with socket.socket() as one, socket.socket() as other:
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
        ports = one.getsockname()[1], other.getsockname()[1]
    (folder / "slurm.conf").write_text(
        f"""\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory={memory} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES State=UP
"""
    )
    return folder / "slurm.conf"


def srun(folder: Path, configuration: Path) -> Path:
    """A folder with an srun that knows the configuration: Snakemake's executor takes SLURM_CONF from its jobs, which on
    a cluster is at the usual place."""
    shim = folder / "bin" / "srun"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nSLURM_CONF={configuration} exec {shutil.which("srun")} "$@"\n')
    shim.chmod(0o755)
    return shim.parent


def asked(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()


def wait_for(there, folder: Path, seconds: float = 30):
    """What `there` gives, once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := there()):
        said = [f"{log.name}: {log.read_text(errors='replace')[-2_000:]}" for log in folder.glob("*.out")]
        assert time.monotonic() < deadline, "\n".join(said)
        time.sleep(0.1)
    return found


def of_job(number: str) -> list[psutil.Process]:
    """The processes of a Slurm job, its steps' included."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SLURM_JOB_ID") == number:
                found.append(process)
        except psutil.Error:
            continue
    return found


def job_at_work(results: Path, share: str) -> str:
    """The number of the Slurm job that reads a share of the text, once it does."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "rosetta.studies.shards" in command and share in command and str(results) in command:
            return process.environ().get("SLURM_JOB_ID", "")
    return ""


def test_shards_on_a_cluster_one_of_them_killed_give_what_they_give_here(cluster, profile, tmp_path):
    path = profile(shards=2, matching={"method": "sketch", "rows": 1024})
    results, pair = tmp_path / "cluster", "--".join(PAIR)
    here = Study(str(path), tmp_path / "here")
    matched_in_shards(Job(here, PAIR), tmp_path, 2)
    expected = {file.name: file.read_bytes() for file in (here.folder / "matches").glob("*.parquet")}
    assert len(expected) == 2

    shards, table = results / path.stem / "shards" / pair, results / path.stem / "matches" / f"{pair}.parquet"
    shards.mkdir(parents=True)
    cut = shards / "screen.2-of-2.safetensors"
    cut.write_bytes((tmp_path / "screen.2-of-2").read_bytes()[:-100])
    process = snakemake(results, str(table), *HERE, "--slurm-logdir", str(tmp_path / "logs"), profile=path)
    try:
        number = wait_for(lambda: job_at_work(results, "1-of-2"), cluster, 120)
        for one in of_job(number):
            with suppress(psutil.NoSuchProcess):  # it goes with another of them
                one.send_signal(signal.SIGKILL)
        output, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert re.search(rf"^{cut} cannot be read .*; it is made again$", output, re.MULTILINE)
    # Shards of a round may end in any order.
    told = sorted(re.findall(r"^\[\d/6\] (?:shards|matches) \S+ ?(\S*) +\d+ s(  FAILED)?$", output, re.MULTILINE))
    assert told == sorted([
        ("screen.1-of-2", "  FAILED"), ("screen.1-of-2", ""), ("screen.2-of-2", ""), ("screened", ""),
        ("verify.1-of-2", ""), ("verify.2-of-2", ""), ("", ""),
    ])  # fmt: skip
    assert {file.name: file.read_bytes() for file in table.parent.glob("*.parquet")} == expected
    assert not list(shards.glob("*.safetensors"))  # they were for the tables only
