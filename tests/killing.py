"""A training that is killed while it writes a checkpoint."""

import signal
import subprocess
import sys
from pathlib import Path

import torch

#: Saves after every step, and stops half-way through one of its checkpoints.
SCRIPT = """
import sys, time
from importlib import import_module
from pathlib import Path
import torch
from rosetta.models.zoo import objectives, training

module, name, amount, folder, whole, threads, batch = sys.argv[1:]
torch.set_num_threads(int(threads))  # sums are added up in another order by another number of threads
training.CHECKPOINT_SECONDS, objectives.BATCH = -1, int(batch)
save, saved = training.write_whole, []

def save_one_half_way(path, write):
    saved.append(path)
    if len(saved) <= int(whole):
        return save(path, write)

    def write_half(temporary):
        write(temporary)
        with open(temporary, "r+b") as file:
            file.truncate(temporary.stat().st_size // 2)
        print("half", flush=True)
        time.sleep(60)

    save(path, write_half)

training.write_whole = save_one_half_way
import_module(module).train(name, int(amount), Path(folder))
"""


def train_and_kill(module, name: str, amount: int, folder: Path, whole: int, batch: int = 1) -> None:
    """Train in another process, and kill it in the midst of the checkpoint that follows the first `whole` ones."""
    said = [module.__name__, name, amount, folder, whole, torch.get_num_threads(), batch]
    command = [sys.executable, "-c", SCRIPT, *map(str, said)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
