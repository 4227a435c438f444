"""Peak memory of reading one batch in bfloat16, in bytes per position and neuron: the tensor that is kept holds 2 of them.

The model is untrained and small in all but its layers' width, so that activations are nearly all there is. Each way of
reading is measured in a process of its own, on the CPU: the highest resident memory of the process less what was resident
before the batch was read. Blocks above 64 KiB go back to the system as soon as they are free, so that nothing is counted that
the allocator only keeps.
"""

import argparse
import math
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
import transformers

from rosetta.matching.images import ImageReader
from rosetta.matching.texts import Reader
from rosetta.models.load import describe, from_config, load_tokenizer
from rosetta.models.mlps import find_mlps
from rosetta.models.opened import Vision


def untrained(layers: int, width: int, context: int) -> Reader:
    """A Pythia of this shape with random weights and the tokenizer of the zoo's."""
    tokenizer = load_tokenizer(describe("zoo/pythia-32x2"))
    config = transformers.GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=context, dtype=torch.bfloat16,
    )  # fmt: skip
    return Reader("untrained", from_config(config, seed=0).eval().requires_grad_(False), tokenizer)


def untrained_encoder(layers: int, width: int, rows: int) -> ImageReader:
    """A DINOv2 of this shape with random weights, for pictures of so many rows and columns of patches of 2 x 2 pixels."""
    config = transformers.Dinov2Config(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=4, image_size=2 * rows, patch_size=2
    )
    model = transformers.Dinov2Model(config).bfloat16().eval().requires_grad_(False)

    def prepare(pixels: torch.Tensor) -> torch.Tensor:
        return pixels.movedim(-1, 1).bfloat16()

    return ImageReader("untrained", Vision(model, find_mlps(model), (rows, rows), 1, prepare, model))


def of_texts(way: str, layers: int, width: int, context: int) -> tuple[Reader, int, Callable[[int], torch.Tensor]]:
    """A reader, the positions of a sequence, and how so many are read: tokens, or spans of which every tenth is two tokens."""
    reader, rng = untrained(layers, width, context), np.random.default_rng(0)
    last = np.flatnonzero(np.arange(context) % 11 != 1) + 1  # tokens 0 | 1 2 | 3 | 4 | ...
    spans = np.concatenate([[0], last[:-1]]), last

    def read(sequences: int) -> torch.Tensor:
        ids = rng.integers(5, 1_000, (sequences, context)).tolist()
        return reader.read(ids)[0] if way == "tokens" else reader.read_pooled(ids, [spans] * sequences)

    return reader, context, read


def of_images(
    way: str, layers: int, width: int, context: int
) -> tuple[ImageReader, int, Callable[[int], torch.Tensor]]:
    """The same of pictures: their cells, or cells of a larger grid to which they are resampled."""
    rows, rng = math.isqrt(context), np.random.default_rng(0)
    reader = untrained_encoder(layers, width, rows)
    size = (rows, rows) if way == "cells" else (rows + 2, rows + 2)

    def read(pictures: int) -> torch.Tensor:
        return reader.read(rng.integers(0, 256, (pictures, 2 * rows, 2 * rows, 3), dtype=np.uint8), size)

    return reader, size[0] * size[1], read


WAYS = {"tokens": of_texts, "spans": of_texts, "cells": of_images, "resampled": of_images}


def measure(way: str, layers: int, width: int, context: int, sequences: int) -> float:
    """Peak bytes per position and neuron of one batch."""
    reader, positions, read = WAYS[way](way, layers, width, context)
    read(1)  # what libraries set up once
    before = psutil.Process().memory_info().rss
    kept = read(sequences)
    peak = highest_resident()
    del kept
    return (peak - before) / (sequences * positions * sum(reader.layers))


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
    print(f"{sequences} sequences of {context} tokens or cells, {layers} layers of {4 * width} neurons, bfloat16")
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_TRIM_THRESHOLD_": str(2**16)}
    for way in WAYS:
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        print(f"{way:<10}{float(found):>6.2f} bytes per position and neuron at the peak")


if __name__ == "__main__":
    main()
