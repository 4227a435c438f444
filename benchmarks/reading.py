"""Peak memory of reading one batch in bfloat16, in bytes per token and neuron: the tensor that is kept holds 2 of them.

The model is untrained and small in all but its layers' width, so that activations are nearly all there is. Each way of
reading is measured in a process of its own, on the CPU: the highest resident memory of the process less what was resident
before the batch was read. Blocks above 64 KiB go back to the system as soon as they are free, so that nothing is counted that
the allocator only keeps.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import torch
import transformers

from rosetta.matching.texts import Reader
from rosetta.models.load import describe, from_config, load_tokenizer

WAYS = ("tokens", "spans")


def untrained(layers: int, width: int, context: int) -> Reader:
    """A Pythia of this shape with random weights and the tokenizer of the zoo's."""
    tokenizer = load_tokenizer(describe("zoo/pythia-32x2"))
    config = transformers.GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=context, dtype=torch.bfloat16,
    )  # fmt: skip
    return Reader("untrained", from_config(config, seed=0).eval().requires_grad_(False), tokenizer)


def measure(way: str, layers: int, width: int, context: int, sequences: int) -> float:
    """Peak bytes per token and neuron of one batch: its tokens, or spans of which every tenth is two tokens long."""
    reader, rng = untrained(layers, width, context), np.random.default_rng(0)
    ids = rng.integers(5, 1_000, (sequences, context)).tolist()
    last = np.flatnonzero(np.arange(context) % 11 != 1) + 1  # tokens 0 | 1 2 | 3 | 4 | ...
    spans = [(np.concatenate([[0], last[:-1]]), last)] * sequences
    read = {"tokens": lambda some, _: reader.read(some), "spans": reader.read_pooled}[way]
    read([ids[0][:8]], [(np.arange(8), np.arange(8) + 1)])  # what libraries set up once

    before = psutil.Process().memory_info().rss
    kept = read(ids, spans)
    peak = highest_resident()
    del kept
    return (peak - before) / (sequences * context * sum(reader.layers))


def highest_resident() -> int:
    """Bytes of this process at most so far."""
    status = Path("/proc/self/status")  # `getrusage` starts at what the process that started this one had
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument(
        "--width", type=int, default=256, help="of the residual stream; a layer has 4 times as many neurons"
    )
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--way", choices=WAYS, help="measure this one here, and print its number alone")
    arguments = parser.parse_args()
    shape = arguments.layers, arguments.width, arguments.context, arguments.sequences
    if arguments.way:
        print(measure(arguments.way, *shape))
        return
    layers, width, context, sequences = shape
    print(f"{sequences} sequences of {context} tokens, {layers} layers of {4 * width} neurons, bfloat16")
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_TRIM_THRESHOLD_": str(2**16)}
    for way in WAYS:
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        print(f"{way:<8}{float(found):>6.2f} bytes per token and neuron at the peak")


if __name__ == "__main__":
    main()
