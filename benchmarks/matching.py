"""What matching costs, and which pairs it finds, by method, on the same made-up activations.

Exact with float32, exact with bfloat16 inputs and float32 sums, bfloat16 sums (as the paper's code has them), and screening
(`method="sketch"`). Each runs in a process of its own, so that peak memory is its own. Activations are made batch by batch
from a seed and never held whole: latent features with heavy tails, some shared by both models and some one model's own,
read through sparse weights and a ReLU. Seconds are those of matching alone: making the activations is timed and taken off.
"""

import argparse
import json
import multiprocessing
import resource
import time

import numpy as np
import torch

from rosetta.matching.mutual import match_batches, mutual_nearest

METHODS = ("exact", "bfloat16 inputs", "bfloat16 sums", "sketch")


class Synthetic:
    """Activations [batch, neurons] of two made-up models, the same ones each time they are gone through.

    Parameters
    ----------
    neurons : int
        Of each side.
    positions : int
    batch : int
        Positions of a batch.
    shared : float
        Share of neurons whose strongest feature both models have; the others' is their own.
    rank : int
        Features that many neurons have part in.
    seed : int
    """

    def __init__(
        self, neurons: int, positions: int, batch: int = 2000, shared: float = 0.3, rank: int = 32, seed: int = 0
    ):
        self.neurons, self.positions, self.batch, self.seed = neurons, positions, batch, seed
        self.both, self.seconds = int(shared * neurons), 0.0
        rng = torch.Generator().manual_seed(seed)
        weights = torch.randn(2, rank, neurons, generator=rng) / rank**0.5
        self.mix = weights * (0.5 + torch.rand(2, 1, neurons, generator=rng))
        self.gain = 0.3 + torch.rand(2, neurons, generator=rng)
        self.threshold = 1.5 * torch.rand(2, neurons, generator=rng)

    def __iter__(self):
        for i, start in enumerate(range(0, self.positions, self.batch)):
            begun = time.perf_counter()
            n = min(self.batch, self.positions - start)
            rng = torch.Generator().manual_seed(self.seed * 1_000_003 + i)
            size = (torch.empty(n, 1).exponential_(generator=rng) + 0.3).sqrt_()  # heavy tails, of positions
            common = torch.randn(n, self.mix.shape[1], generator=rng)
            shared = torch.randn(n, self.both, generator=rng)
            sides = []
            for side in (0, 1):
                x = torch.randn(n, self.neurons, generator=rng).mul_(0.7)
                x[:, : self.both] += self.gain[side, : self.both] * shared
                x.addmm_(common, self.mix[side]).mul_(size).sub_(self.threshold[side]).clamp_(min=0)
                sides.append(x)
            self.seconds += time.perf_counter() - begun
            yield tuple(sides)


def bfloat16_pairs(batches: Synthetic, sums: torch.dtype) -> torch.Tensor:
    """Pairs [p, 2] with products of bfloat16 numbers, summed over batches in `sums`."""
    n = batches.neurons
    first, squares = torch.zeros(2, n, dtype=torch.float64), torch.zeros(2, n, dtype=torch.float64)
    cross = torch.zeros(n, n, dtype=sums)
    for batch in batches:
        a, b = (x.bfloat16() for x in batch)
        for side, x in enumerate((a, b)):
            first[side] += x.double().sum(0)
            squares[side] += x.double().square().sum(0)
        if sums == torch.bfloat16:
            cross += a.T @ b
        else:  # a product of bfloat16 inputs has float32 sums inside; here they leave it as such
            cross.addmm_(a.float().T, b.float())
    mean = first / batches.positions
    norm = (squares - mean.square() * batches.positions).clamp_(min=0).sqrt().float()
    corr = cross.float().addr_(mean[0].float() * batches.positions, mean[1].float(), alpha=-1)
    return mutual_nearest(corr.div_(norm[0][:, None]).div_(norm[1][None, :]))


def measure(method: str, neurons: int, arguments, answer) -> None:
    torch.set_num_threads(arguments.threads)
    batches = Synthetic(neurons, arguments.positions, arguments.batch, arguments.shared, arguments.rank)
    start, attrs = time.perf_counter(), {}
    if method.startswith("bfloat16"):
        pairs = bfloat16_pairs(batches, torch.bfloat16 if method.endswith("sums") else torch.float32).numpy()
    else:
        options = {"rows": arguments.rows, "candidates": arguments.candidates} if method == "sketch" else {}
        table = match_batches(batches, method=method, memory_bytes=int(arguments.memory_gb * 2**30), **options)
        pairs, attrs = table[["unit_a", "unit_b"]].to_numpy(), table.attrs
    seconds = time.perf_counter() - start - batches.seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    answer.put((seconds, batches.seconds, peak, np.asarray(pairs), attrs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, nargs="+", default=[1024, 2048], help="of each side")
    parser.add_argument("--positions", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=2000)
    parser.add_argument("--shared", type=float, default=0.3)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--memory-gb", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for neurons in arguments.neurons:
        print(f"{neurons:,} neurons a side, {arguments.positions:,} positions, {arguments.threads} threads")
        exact = None
        for method in arguments.methods:
            answer = context.Queue()
            process = context.Process(target=measure, args=(method, neurons, arguments, answer))
            process.start()
            seconds, making, peak, pairs, attrs = answer.get()
            process.join()
            pairs = set(map(tuple, pairs.tolist()))
            exact = pairs if method == "exact" else exact
            same = f"Jaccard {len(pairs & exact) / max(1, len(pairs | exact)):.4f}" if exact is not None else ""
            print(
                f"  {method:16} {seconds:7.1f} s, peak {peak:5.2f} GiB, {len(pairs):,} pairs {same} (data {making:.0f} s)"
            )
            if method == "sketch":
                print("  " + json.dumps(attrs))


if __name__ == "__main__":
    main()
