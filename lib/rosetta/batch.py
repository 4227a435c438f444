"""What the batch says while it runs: a line for each job that is done, and what stopped one that failed.

The Snakefile attaches `Lines` to the engine's log. ``python -m rosetta.batch`` is papermill, with one fault of the way it
talks to a kernel mended, kernels that start at once, and a record of time and memory.
"""

import json
import logging
import shutil
import sys
import time
from pathlib import Path

from rosetta import kernels
from rosetta.job import recorded

#: For the environment of a process that matches. Batches of activations are tens of megabytes. By itself glibc returns blocks
#: of that size to the system and fetches them anew each time, and their pages cost a sixth of the time.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "134217728"}
#: Lines of a log that say nothing of the notebook (a kernel is interrupted before it is ended), and what makes one worth
#: showing.
CHATTER = (
    "Kernel is running over TCP", "frozen modules", "PYDEVD_DISABLE_FILE_VALIDATION", "KeyboardInterrupt caught in kernel",
)  # fmt: skip
#: The folders of results that jobs write to, of which the last in a path begins a job's name.
FOLDERS = ("notebooks", "shards", "matches", "positions", "images")
WARNINGS = ("WARNING", "ERROR", "CRITICAL", "Warning:")


class Lines(logging.Handler):
    """Prints ``[ 7/33] 02_matching pythia-64x4+opt-64x4   41 s`` for each job of the engine that ends."""

    jobs, ended, total = {}, frozenset(), 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event = _event(record)
            if event == "RUN_INFO":
                self.total = record.stats["total"] - record.stats.get("all", 0)
            elif event == "JOB_INFO" and record.output:  # the job that only asks for all others has none
                self.jobs = {**self.jobs, record.jobid: (record, time.monotonic())}
            elif event in ("JOB_FINISHED", "JOB_ERROR"):
                self._end(record.jobid if event == "JOB_ERROR" else record.job_id, event == "JOB_ERROR")
        except Exception:
            self.handleError(record)  # a line that cannot be made must not stop the run

    def _end(self, jobid: int, failed: bool) -> None:
        if jobid not in self.jobs:  # told already
            return
        job, started = self.jobs.pop(jobid)
        output, log = Path(job.output[0]), Path(job.log[0])
        self.ended |= {jobid}  # one that failed may be tried again
        count = f"[{len(self.ended):>{len(str(self.total))}}/{self.total}]"
        said = why(output, log) if failed else [line for line in _lines(log) if any(w in line for w in WARNINGS)][-3:]
        took = f"{time.monotonic() - started:5.0f} s{'  FAILED' if failed else ''}"
        print("\n    ".join([f"{count} {title(output):<52} {took}", *said]), flush=True)


def title(output: Path) -> str:
    """``02_matching a+b`` for ``results/micro/notebooks/02_matching/a+b.ipynb``, ``matches a--b`` for its MatchTable."""
    parts = output.with_suffix("").parts
    start = max(i for i, folder in enumerate(parts[:-1]) if folder in FOLDERS)
    return " ".join(parts[start:]).removeprefix("notebooks ")


def why(output: Path, log: Path) -> list[str]:
    """What stopped a job: a notebook's last error and the cell, or the end of its log, and whether the disk is full."""
    said = (output.suffix == ".ipynb" and last_error(output)) or _lines(log)[-8:]
    folder = next(folder for folder in output.resolve().parents if folder.is_dir())
    if shutil.disk_usage(folder).free < 2**20:
        said = [*said, f"no space left on the disk of {folder}; make room and run again"]
    return [*said, f"its log: {log}"]


def last_error(notebook: Path) -> list[str]:
    """The error that an executed notebook ends with and the cell, as lines; none where there is no error to read."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        return []
    # Numbered as in the notebook itself, which has no cell for what the batch sets.
    code = [c for c in cells if c["cell_type"] == "code" and "injected-parameters" not in c["metadata"].get("tags", [])]
    for number, cell in reversed(list(enumerate(code, 1))):
        for error in (output for output in cell["outputs"] if output["output_type"] == "error"):
            source = "".join(cell["source"]).splitlines()[:3]
            message = f"{error['ename']}: {error['evalue']}"[:2_000].splitlines()
            return [*message, f"in code cell {number}:", *(f"    {line}" for line in source)]
    return []


def _lines(log: Path) -> list[str]:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return [line for line in lines if line.strip() and not any(words in line for words in CHATTER)]


def _event(record: logging.LogRecord) -> str:
    return getattr(getattr(record, "event", None), "name", "")


def attach(logger: logging.Logger) -> None:
    """Show `Lines` instead of the engine's own messages, except for its warnings and errors."""
    for handler in logger.handlers:
        if not isinstance(handler, logging.FileHandler):  # its file keeps all
            handler.addFilter(_matters)
    if not any(isinstance(handler, Lines) for handler in logger.handlers):
        logger.addHandler(Lines())


def _matters(record: logging.LogRecord) -> bool:
    """Whether the engine shows a message itself: not for a notebook that failed, of which `Lines` says more."""
    told = _event(record) == "JOB_ERROR" or "CalledProcessError" in str(record.msg)
    return record.levelno >= logging.WARNING and not told


def main() -> None:
    """papermill, with no answer of a kernel missed and seconds less to start.

    A widget's output makes the client write to the socket on which it waits for the kernel's answer. ZeroMQ tells of an
    answer once; where it comes just then, the writing takes the notice and the client waits for ever. So it looks again.
    """
    # jsonschema checks IRIs where this is there, and compiles their grammar on import; no notebook has one.
    sys.modules["rfc3987_syntax"] = None
    import zmq
    from jupyter_client.channels import AsyncZMQSocketChannel, ZMQSocketChannel
    from jupyter_client.provisioning import local_provisioner
    from papermill.cli import papermill

    def send(channel, message):
        ZMQSocketChannel.send(channel, message)
        channel.socket.get(zmq.EVENTS)  # wakes who waits, if something has come

    start = local_provisioner.launch_kernel

    def launch(command, **how):
        kernel = kernels.launch(command, **how)
        if kernel is None:
            return start(command, **how)
        forked.append(kernel)
        return kernel

    AsyncZMQSocketChannel.send = send
    local_provisioner.launch_kernel = launch
    with recorded() as forked:
        papermill()


if __name__ == "__main__":
    main()
