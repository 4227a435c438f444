"""Kernels that start at once: forks of a process that has imported what notebooks import.

Most of the time of a small notebook goes into the import of torch, transformers, scipy and matplotlib. The batch starts one
process that imports them once (`start`), and papermill has its kernels from there, as jobs (`rosetta.job`) have their
processes (`launch`): each runs the command that it is asked for, in the same environment and folder; only that these modules
are there already. So are those of this library, as long as its files are as they were then. A kernel starts as it always does
where there is no such process, or where a fork would not be the same.
"""

import atexit
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from gc import freeze
from pathlib import Path
from typing import NamedTuple

#: Of this library what matching needs, which is most of it. Not its plots: the order in which styles are set matters. Nor what is
#: run as a program, of which Python would warn that it was there before.
OWN = "rosetta.studies.matches"
#: When its files were changed last, as far as they were imported.
LEARNT: dict[Path, int] = {}
#: The variable that says where the process listens.
ADDRESS = "ROSETTA_KERNELS"
#: What notebooks and jobs import, whatever the profile.
IMPORTED = (
    "accelerate", "ipykernel.kernelapp", "ipykernel.ipkernel", "ipywidgets", "matplotlib.pyplot", "pandas", "pydantic",
    "pyarrow.parquet", "scipy.stats", "torch", "tqdm.auto", "transformers.modeling_utils", "transformers.models.auto.modeling_auto",
    "transformers.models.auto.image_processing_auto", "transformers.models.auto.tokenization_auto", "yaml",
)  # fmt: skip
#: What a shell, papermill and Jupyter set for each process anew. Any other variable may matter to what is imported.
EACH_ITS_OWN = {"_", "SHLVL", "PWD", "OLDPWD", "JPY_PARENT_PID", "JPY_SESSION_NAME", "PYDEVD_DISABLE_FILE_VALIDATION",
                ADDRESS}  # fmt: skip
#: Bytes that a request may have: a command and an environment.
LONGEST = 2**20


# ---------------------------------------------------------------------------------------------------------------------
# For the batch and papermill


class Server(NamedTuple):
    """The process whose forks are kernels, as long as who started it wants any."""

    process: subprocess.Popen
    address: str

    def offer(self) -> None:
        """Have kernels forked by it, for all that this process starts from now on."""
        os.environ[ADDRESS] = self.address

    def dismiss(self) -> None:
        """Let it end, once its last kernel has."""
        self.process.stdin.close()


def start(environment: dict[str, str], also: Iterable[str] = ()) -> Server | None:
    """Start the process, for all that this one starts with these variables besides its own; None where nothing can be forked.

    It ends with this one, or with its last kernel, if that is later. `also` names modules that it imports beside `IMPORTED`.
    """
    if sys.platform != "linux":  # elsewhere a process with these libraries cannot be forked safely
        return None
    address = str(Path(tempfile.mkdtemp(prefix="rosetta-"), "kernels"))  # nobody else may enter that folder
    process = subprocess.Popen(
        [sys.executable, "-m", "rosetta.kernels", address, *also], env=os.environ | environment,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    server = Server(process, address)
    atexit.register(server.dismiss)  # it waits for that; however this process ends, the pipe is closed
    return server


class Forked:
    """A kernel that another process forked, with what Jupyter asks of a `subprocess.Popen`.

    Attributes
    ----------
    pid : int
    returncode : int or None
        None while it runs.
    peak : int
        KiB of memory that it had at most; 0 while it runs.
    """

    stdin = stdout = stderr = returncode = None
    peak = 0

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self.pid = int(connection.recv(LONGEST))

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self.connection], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            ended = self.connection.recv(LONGEST)
            # Without a word the other process is gone; its kernels end with it.
            self.returncode, self.peak = json.loads(ended) if ended else (-signal.SIGKILL, 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def launch(command: list[str], env: dict[str, str], cwd: str | None = None, **how) -> Forked | None:
    """A forked kernel for a command ``python -m module ...``; None if it has to start as it always does."""
    if command[:2] != [sys.executable, "-m"] or ADDRESS not in os.environ:
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(os.environ[ADDRESS])
        request = json.dumps([command[2:], os.path.abspath(cwd or "."), env])
        socket.send_fds(connection, [request.encode()], [1, 2])
        return Forked(connection)
    except (OSError, ValueError):  # it is not there, or would not: an answer without a number
        connection.close()
        return None


# ---------------------------------------------------------------------------------------------------------------------
# The process that is forked


def serve(address: str, also: Iterable[str] = ()) -> tuple[list[str], str, dict[str, str]] | None:
    """Fork a kernel for each request, until the batch has ended and the last kernel too.

    Returns
    -------
    (list of str, str, dict of str to str) or None
        In a kernel the module and its arguments, the folder and the environment; None in this process, at its end.
    """
    own = dict(os.environ)
    # These are read on import, and set by Jupyter before it.
    os.environ |= {"JPY_PARENT_PID": str(os.getpid()), "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    # pyarrow's allocator would start a thread, and a fork has none of the threads of its origin.
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(address)
    listening.listen(64)  # who comes early waits
    for name in (*IMPORTED, *also, OWN):
        importlib.import_module(name)
    # Loading any model compiles a thousand patterns of its first.
    sys.modules["transformers.conversion_mapping"].get_checkpoint_conversion_mapping("gpt2")
    LEARNT.update(importlib.import_module("rosetta.results").learn())
    if len(os.listdir("/proc/self/task")) > 1 or sys.modules["torch"].cuda.is_available():
        return None  # neither threads nor a GPU's driver go into a fork
    freeze()  # a collection in a kernel would copy the memory of all that was imported
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is meant for papermill

    kernels = {}  # connection: (pid, a descriptor that can be read when it has ended)
    batch = [sys.stdin]
    while batch or kernels:
        watched = [*batch, listening, *kernels, *(ended for _, ended in kernels.values())]
        ready, _, _ = select.select(watched, [], [])
        batch = [pipe for pipe in batch if pipe not in ready]
        for connection, (pid, ended) in list(kernels.items()):
            if connection in ready:  # papermill has ended
                os.kill(pid, signal.SIGKILL)
            if connection in ready or ended in ready:
                del kernels[connection]
                os.close(ended)
                _tell_the_end(pid, connection)
        if listening in ready:
            connection, _ = listening.accept()
            try:
                request, descriptors = _request(connection, own)
                pid = os.fork()
            except (OSError, ValueError):
                connection.close()
                continue
            if pid == 0:
                os.setsid()  # as Jupyter starts its kernels
                connection.send(str(os.getpid()).encode())
                _let_go([listening, connection, *kernels], [ended for _, ended in kernels.values()], descriptors)
                return request
            kernels[connection] = pid, os.pidfd_open(pid)
            for descriptor in descriptors:
                os.close(descriptor)
    return None


def _request(connection: socket.socket, own: dict[str, str]) -> tuple[list, list[int]]:
    """What is asked for, and the descriptors of its output; ValueError if a fork of this process would not be the same."""
    message, descriptors, _, _ = socket.recv_fds(connection, LONGEST, 2)
    try:
        command, folder, environment = json.loads(message)
        if {name for name, _ in own.items() ^ environment.items()} - EACH_ITS_OWN:
            raise ValueError("another environment")
    except ValueError:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return (command, folder, environment), descriptors


def _tell_the_end(pid: int, connection: socket.socket) -> None:
    _, status, usage = os.wait4(pid, 0)
    with suppress(OSError):  # nobody may be there to hear it
        connection.send(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss]).encode())
    connection.close()


def _let_go(sockets: list[socket.socket], others: list[int], output: list[int]) -> None:
    """In a kernel: close what belongs to the process that it was, and write where the request says."""
    for number, descriptor in enumerate([os.open(os.devnull, os.O_RDONLY), *output]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    for each in sockets:
        each.close()
    for descriptor in others:
        os.close(descriptor)


def become(command: list[str], folder: str, environment: dict[str, str]) -> None:
    """Run ``python -m module ...`` in a process that was forked, as if it had been started so."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parent = os.environ["JPY_PARENT_PID"]  # of which the kernel is a child; it ends when that has
    os.environ.clear()
    os.environ |= environment | {"JPY_PARENT_PID": parent}
    os.chdir(folder)
    sys.path[0] = os.getcwd()
    sys.argv = command
    if sys.modules["rosetta.results"].changed(LEARNT):
        for name in [name for name in sys.modules if name.partition(".")[0] == "rosetta"]:
            del sys.modules[name]
    sys.modules["numpy"].random.seed()  # each kernel draws its own numbers; those of Python's `random` are so already
    sys.modules["torch"].default_generator.seed()
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


def main() -> None:
    address, *also = sys.argv[1:]
    request = None
    try:
        request = serve(address, also)
    finally:
        if request is None:
            shutil.rmtree(Path(address).parent)
    if request is None:
        os._exit(0)
    status = 1
    try:
        become(*request)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if status and status is not end.code:
            print(end.code, file=sys.stderr)  # as Python does at its end
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        # As multiprocessing ends what it forked: it takes long to take apart what was imported, and does nothing.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
