"""One job of the batch: ``python -m rosetta.job MODULE ...`` is ``python -m MODULE ...``, which starts at once where it can.

A job of a large model takes hours, one of a small model less than its imports: so it is forked from the process that has imported
what jobs import (`rosetta.kernels`), where there is one, and elsewhere run here. Time and memory are recorded.
"""

import os
import re
import resource
import runpy
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rosetta import kernels


@contextmanager
def recorded() -> Iterator[list[kernels.Forked]]:
    """Where the variable ``BENCHMARK`` names a file, it gets the time that this is open and the largest memory, as the engine would
    write them; but the engine looks among the children of its job, and not for what was forked, which is to be added to
    the list that this gives."""
    started, forked, record = time.monotonic(), [], os.environ.pop("BENCHMARK", None)
    try:
        yield forked
    finally:
        if record:
            unit = 2**10 if sys.platform == "darwin" else 1
            children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit
            peak = max(_own_peak() / unit, children, *(process.peak for process in forked)) / 2**10
            Path(record).parent.mkdir(parents=True, exist_ok=True)
            Path(record).write_text(
                f"s\tmax_rss\tforked\n{time.monotonic() - started:.4f}\t{peak:.2f}\t{bool(forked)}\n", encoding="utf-8"
            )


def _own_peak() -> float:
    """The most memory of this process, in the system's unit. Linux counts to it what who started it held at that moment, but for
    what it says in /proc."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))[1])


def main() -> None:
    """Run a module with its arguments, and end as it ends."""
    command = sys.argv[1:]
    with recorded() as forked:
        process = kernels.launch([sys.executable, "-m", *command], dict(os.environ))
        if process is None:
            sys.argv = command
            runpy.run_module(command[0], run_name="__main__", alter_sys=True)
            return
        forked.append(process)
        status = process.wait()
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
