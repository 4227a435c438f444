"""Forked kernels against those that start as always: a notebook that runs in both says the same."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from nbformat import v4, write

from rosetta import kernels

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no kernel is forked")

BATCH = [sys.executable, "-c", "import os, sys; from rosetta import kernels; kernels.start({}).offer(); print(os.environ[kernels.ADDRESS], flush=True); sys.stdin.read()"]  # fmt: skip
FORKED = "import sys\nprint('transformers' in sys.modules)"


def environment() -> dict[str, str]:
    """That of the tests, without the one variable that each test has anew."""
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


@contextmanager
def started():
    """A process that has started the one whose forks are kernels; that one; and its address."""
    process = subprocess.Popen(BATCH, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    address = process.stdout.readline().strip()
    (server,) = psutil.Process(process.pid).children()
    yield process, server, address
    process.kill()
    process.communicate()
    server.wait(60)


@pytest.fixture(scope="module")
def batch():
    with started() as started_once:
        yield started_once
    assert not Path(started_once[2]).parent.exists()


def begin(folder, *cells, address=None, options=(), **variables):
    """papermill on a notebook of these cells."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    write(v4.new_notebook(cells=[*map(v4.new_code_cell, cells)], metadata={"kernelspec": kernel}), folder / "in.ipynb")
    command = [sys.executable, "-m", "rosetta.batch", "in.ipynb", "out.ipynb", "--no-progress-bar", *options]
    variables |= {kernels.ADDRESS: address} if address else {}
    return subprocess.Popen(
        command, cwd=folder, env=environment() | variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def said(folder) -> list[str]:
    cells = json.loads((folder / "out.ipynb").read_text(encoding="utf-8"))["cells"]
    return [
        "".join("".join(o.get("text", o.get("evalue", ""))) for o in cell["outputs"])
        for cell in cells
        if "outputs" in cell
    ]


def run(folder, *cells, **how) -> tuple[int, str, list[str]]:
    process = begin(folder, *cells, **how)
    log, _ = process.communicate(timeout=6000)
    return process.returncode, log, said(folder)


ENVIRONMENT = """
import logging, os, signal, sys, threading, warnings
import matplotlib, numpy, torch
own = {"JPY_PARENT_PID", "JPY_SESSION_NAME", "ROSETTA_KERNELS"}
print(sorted((k, v) for k, v in os.environ.items() if k not in own))
print(os.getcwd(), sys.path, sys.argv[0], sys.argv[1:2], sys.flags, sys.stdin.__class__)
print(matplotlib.get_backend(), torch.get_num_threads(), logging.getLogger().handlers)
print({s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)}.keys(), __name__)
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, sorted(t.name for t in threading.enumerate()))
print(os.getsid(0) == os.getpid(), sorted(os.listdir("/proc/self/fd"))[:3], sys.stdin)
print(os.getppid() == int(os.environ["JPY_PARENT_PID"]), [n for n in sys.modules if n.startswith("rosetta.plots")])
"""


def test_a_forked_kernel_is_as_one_that_starts_as_always(batch, tmp_path):
    cells = [ENVIRONMENT, "import subprocess\nsubprocess.run(['echo', 'of a child'])", "1 / 0"]
    random = "import numpy, random, torch\nprint(numpy.random.rand(), random.random(), torch.rand(1).item())"
    ordinary = run(tmp_path, FORKED, random, *cells)
    forked, again = (run(tmp_path, FORKED, random, *cells, address=batch[2]) for _ in range(2))
    assert [of[2][0] for of in (ordinary, forked, again)] == ["False\n", "True\n", "True\n"]
    assert len({number for of in (ordinary, forked, again) for number in of[2][1].split()}) == 9
    assert forked[0] == ordinary[0] == 1 and "division by zero" in forked[1]
    assert forked[2][2:] == ordinary[2][2:]
    assert forked[1].splitlines()[-2:] == ordinary[1].splitlines()[-2:]


def test_a_kernel_has_the_environment_it_is_asked_for_or_starts_as_always(batch, tmp_path):
    code, _, cells = run(tmp_path, FORKED, "import os; os.environ['A']", address=batch[2], A="other")
    assert code == 0 and cells[0] == "False\n"


def test_without_a_process_to_fork_kernels_start_as_always(tmp_path):
    code, _, cells = run(tmp_path, FORKED, address=str(tmp_path / "nobody is there"))
    assert code == 0 and cells == ["False\n"]


def test_a_kernel_that_dies_and_one_that_takes_too_long_end_the_notebook(batch, tmp_path):
    die = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    outcomes = []
    for address in (batch[2], None):
        code, log, _ = run(tmp_path, FORKED, die, address=address)
        late, told, _ = run(
            tmp_path, "import time\ntime.sleep(100)", address=address, options=["--execution-timeout", "2"]
        )
        outcomes.append((code, log.splitlines()[-1], late, told.splitlines()[-1]))
    assert outcomes[0] == outcomes[1] and 0 not in outcomes[0]
    assert "DeadKernelError" in outcomes[0][1]
    assert not batch[1].children()


def kernel_of(process, server, folder) -> psutil.Process:
    """The kernel, once it is at work."""
    deadline = time.monotonic() + 300
    while not (folder / "at work").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    (kernel,) = server.children()
    return kernel


AT_WORK = "from pathlib import Path\nimport time\nPath('at work').touch()\ntime.sleep(100)"


def test_a_kernel_ends_with_its_papermill(batch, tmp_path):
    process = begin(tmp_path, AT_WORK, address=batch[2])
    kernel = kernel_of(process, batch[1], tmp_path)
    process.kill()
    assert kernel.wait(60) is None and batch[1].is_running()
    process.communicate()


def test_where_the_process_is_killed_its_kernels_end_and_their_notebooks_fail(tmp_path):
    with started() as (_, server, address):
        process = begin(tmp_path, AT_WORK, address=address)
        kernel = kernel_of(process, server, tmp_path)
        server.kill()
        kernel.wait(60)
        log, _ = process.communicate(timeout=600)
    assert process.returncode != 0 and "DeadKernelError" in log
    shutil.rmtree(Path(address).parent)


def test_a_kernel_outlives_the_batch(tmp_path):
    with started() as (process, server, address):
        notebook = begin(tmp_path, "import time; time.sleep(3)\nprint('done')", FORKED, address=address)
        while not server.children():
            time.sleep(0.1)
        process.kill()
        assert notebook.wait(600) == 0 and said(tmp_path) == ["done\n", "True\n"]
    assert not Path(address).parent.exists()


def test_an_interrupt_of_the_terminal_is_for_papermill(batch, tmp_path):
    process = begin(tmp_path, AT_WORK, address=batch[2])
    kernel = kernel_of(process, batch[1], tmp_path)
    for each in (batch[1].pid, process.pid):
        os.kill(each, signal.SIGINT)
    process.communicate(timeout=600)
    assert process.returncode != 0
    kernel.wait(60)
    assert batch[1].is_running()


def test_time_and_memory_of_either_kernel_are_recorded(batch, tmp_path):
    use = "held = bytearray(2**30)\nfor i in range(0, 2**30, 4096): held[i] = 1"
    for address in (batch[2], None):
        record = tmp_path / str(address is None) / "record.tsv"
        assert run(tmp_path, FORKED, use, address=address, BENCHMARK=str(record))[0] == 0
        names, (seconds, peak, forked) = (line.split("\t") for line in record.read_text().splitlines())
        assert (
            names == ["s", "max_rss", "forked"]
            and forked == str(address is not None)
            and 1 < float(seconds) < 100
            and 1024 < float(peak) < 2 * 1024
        )
