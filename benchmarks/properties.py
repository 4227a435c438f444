"""Speed and memory of notebook 05's and 06's heaviest steps.

Vocabulary kurtosis of made-up weights with as many neurons and tokens as Pythia-12B (and a small width, so that it
fits any machine); top-activating contexts of all neurons of the largest zoo model, beside the forward pass alone.
"""

import argparse
import resource
import time

import torch

from rosetta.matching.activations import read_pieces
from rosetta.neurons import contexts, selectivity
from rosetta.studies.matches import Study


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, default=700_000)
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--model", default="pythia-192x6")
    arguments = parser.parse_args()

    print(f"before any work: peak memory {peak_gib():.2f} GiB (the libraries)")
    generator = torch.Generator().manual_seed(0)
    w_out = torch.randn(arguments.neurons, arguments.width, generator=generator)
    w_u = torch.randn(arguments.tokens, arguments.width, generator=generator)
    start = time.perf_counter()
    selectivity.vocab_excess_kurtosis(w_out, w_u)
    took = time.perf_counter() - start
    print(
        f"kurtosis of {arguments.neurons:,} neurons over {arguments.tokens:,} tokens, width {arguments.width}: "
        f"{took:.0f} s, peak memory {peak_gib():.2f} GiB"
    )
    del w_out, w_u

    study = Study("micro")
    reader = study.reader(arguments.model)
    windows, tokens = [], 0
    for window in study.windows(reader.tokenizer):
        windows.append(window)
        tokens += len(window.ids)
        if tokens >= study.profile.tokens:
            break
    batch = study.profile.sequences_per_batch

    def forward() -> None:
        for _ in read_pieces(reader, windows, batch):
            pass

    forward()
    alone = min(seconds(forward) for _ in range(3))
    both = min(
        seconds(lambda: contexts.top_contexts(reader, windows, study.profile.contexts.n, sequences_per_batch=batch))
        for _ in range(3)
    )
    print(
        f"top contexts of all {sum(reader.layers):,} neurons of {arguments.model}, {tokens:,} tokens: {both:.2f} s, the "
        f"forward pass alone {alone:.2f} s, ratio {both / alone:.2f}; peak memory {peak_gib():.2f} GiB"
    )


if __name__ == "__main__":
    main()
