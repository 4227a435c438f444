"""What matching costs, and which pairs it finds, by method, on the same activations.

Exact with float32; exact with bfloat16 inputs and float32 sums; bfloat16 sums, as the released code has them; the released
scheme, which runs both models again for each block of layers; and the kit's two screens, by bfloat16 products and by
sketches. Each runs in a process of its own, so that peak memory is its own.

Made-up activations are drawn batch by batch from a seed and never held whole: latent features with heavy tails, some
shared by both models and some one model's own, read through sparse weights and a ReLU. Seconds are those of matching
alone: what it takes to make or read the activations is timed apart, and counts the scheme's readings.

    benchmarks/matching.py --neurons 4096 8192 --positions 200000
    benchmarks/matching.py --pairs pythia-64x4+opt-64x4 --neurons
    benchmarks/matching.py --plot
"""

import argparse
import json
import multiprocessing
import os
import queue
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from rosetta.batch import KEEP_MEMORY
from rosetta.matching.correlation import product
from rosetta.matching.mutual import match_batches, mutual_nearest

METHODS = ("exact", "bfloat16 inputs", "bfloat16 sums", "released", "bfloat16", "sketch")
FOLDER = Path(__file__).resolve().parents[1] / "figures"


class Timed:
    """Batches, and the seconds that it takes to get them."""

    def __init__(self, batches):
        self.batches, self.seconds, self.readings, self.largest = batches, 0.0, 0, 0

    def __iter__(self):
        self.readings += 1
        batches = iter(self.batches)
        while True:
            begun = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - begun
            if batch is None:
                return
            self.largest = max(self.largest, sum(side.nbytes for side in batch))
            yield batch


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
        self.both, self.layers = int(shared * neurons), ([neurons], [neurons])
        rng = torch.Generator().manual_seed(seed)
        weights = torch.randn(2, rank, neurons, generator=rng) / rank**0.5
        self.mix = weights * (0.5 + torch.rand(2, 1, neurons, generator=rng))
        self.gain = 0.3 + torch.rand(2, neurons, generator=rng)
        self.threshold = 1.5 * torch.rand(2, neurons, generator=rng)

    def __iter__(self):
        # Threads draw and do nothing else: torch would give each of them threads of its own, and these would still be about
        # when the batch is matched.
        with ThreadPoolExecutor(2) as pool:
            for i, start in enumerate(range(0, self.positions, self.batch)):
                n = min(self.batch, self.positions - start)
                rng = np.random.default_rng((self.seed, i))
                size = torch.from_numpy(
                    np.sqrt(rng.exponential(size=(n, 1)) + 0.3)
                ).float()  # heavy tails, of positions
                common, shared = (_normal(rng, n, width) for width in (self.mix.shape[1], self.both))
                own = pool.map(_normal, (np.random.default_rng((self.seed, i, 1 + side)) for side in (0, 1)),
                               (n, n), (self.neurons, self.neurons))  # fmt: skip
                yield tuple(self._side(side, x, size, common, shared) for side, x in enumerate(own))

    def _side(self, side: int, x: torch.Tensor, size, common, shared) -> torch.Tensor:
        x.mul_(0.7)[:, : self.both] += self.gain[side, : self.both] * shared
        return x.addmm_(common, self.mix[side]).mul_(size).sub_(self.threshold[side]).clamp_(min=0)


def _normal(rng: np.random.Generator, rows: int, columns: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal((rows, columns), dtype=np.float32))


def rounded(batches, sums: torch.dtype, rows: slice = slice(None)) -> torch.Tensor:
    """Correlations of some of A's neurons with products of bfloat16 numbers, summed over batches in `sums`."""
    cross, totals, positions = 0, 0, 0
    for a, b in batches:
        sides = [x.bfloat16() for x in (a[:, rows], b)]
        totals += np.array([x.double().sum(0).numpy() for x in sides] + [x.double().square().sum(0).numpy() for x in sides],
                           dtype=object)  # fmt: skip
        positions += len(a)
        here = product(sides[0].T, sides[1]) if sums == torch.bfloat16 else sides[0].float().T @ sides[1].float()
        cross = here.to(sums) if isinstance(cross, int) else cross.add_(here)
    mean_a, mean_b, square_a, square_b = (torch.from_numpy(total.astype(np.float64)) for total in totals / positions)
    corr = cross.float().div_(positions).addr_(mean_a.float(), mean_b.float(), alpha=-1)
    deviation = [
        (square - mean.square()).clamp_(min=0).sqrt().float()
        for square, mean in ((square_a, mean_a), (square_b, mean_b))
    ]
    return corr.div_(deviation[0][:, None]).div_(deviation[1][None, :])


def pairs_of(method: str, batches: Timed, layers: tuple[list[int], list[int]], arguments) -> tuple[np.ndarray, dict]:
    """The pairs [p, 2] that a method finds, and what it says of how."""
    if method in ("exact", "bfloat16", "sketch"):
        options = {"rows": arguments.rows} if method == "sketch" else {}
        memory = int(arguments.memory_gb * 2**30)
        table = match_batches(
            batches, method=method, layers=tuple([sum(side)] for side in layers), memory_bytes=memory, **options
        )
        return table[["unit_a", "unit_b"]].to_numpy(), table.attrs
    if method == "released":  # one reading of both models for each layer of A
        ends = np.cumsum(layers[0])
        blocks = [rounded(batches, torch.bfloat16, slice(end - n, end)) for n, end in zip(layers[0], ends, strict=True)]
        return mutual_nearest(torch.cat(blocks)).numpy(), {}
    sums = torch.bfloat16 if method == "bfloat16 sums" else torch.float32
    return mutual_nearest(rounded(batches, sums)).numpy(), {}


def measure(method: str, case: str, arguments, answer) -> None:
    torch.set_num_threads(arguments.threads)
    if case.isdigit():
        batches = Synthetic(int(case), arguments.positions, arguments.batch, arguments.shared, arguments.rank)
    else:
        from rosetta.studies.matches import Study

        batches = Study(arguments.profile, "results/benchmark").batches(tuple(case.split("+")))
        batches.pieces = list(batches.pieces)
    timed, before = Timed(batches), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    pairs, facts = pairs_of(method, timed, batches.layers, arguments)
    row = {
        "case": case, "method": method, "neurons": sum(map(sum, batches.layers)) / 2,
        "seconds": time.perf_counter() - start - timed.seconds, "reading_seconds": timed.seconds, "readings": timed.readings,
        "gib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20, "batch_gib": timed.largest / 2**30,
        "pairs": len(pairs), "facts": json.dumps(facts),
    }  # fmt: skip
    answer.put((row, np.asarray(pairs)))


def compare(case: str, arguments) -> pd.DataFrame:
    """One row a method, with the Jaccard index of its pairs and exact matching's."""
    os.environ |= KEEP_MEMORY  # as the batch has it
    context, rows, exact = multiprocessing.get_context("spawn"), [], None
    for method in arguments.methods:
        if method == "released" and case.isdigit():
            continue  # it is about running models again
        answer = context.Queue()
        process = context.Process(target=measure, args=(method, case, arguments, answer))
        process.start()
        row, pairs = _answered(process, answer)
        pairs = set(map(tuple, pairs.tolist()))
        exact = pairs if method == "exact" else exact
        row["jaccard"] = np.nan if exact is None else len(pairs & exact) / max(1, len(pairs | exact))
        print(
            f"  {method:16} {row['seconds']:7.1f} s, {row['gib']:5.2f} GiB beside what was there (a batch {row['batch_gib']:.2f}), "
            f"{row['pairs']:,} pairs, Jaccard {row['jaccard']:.4f}; {row['readings']} readings, {row['reading_seconds']:.0f} s",
            flush=True,
        )
        rows.append(row)
    return pd.DataFrame(rows)


def _answered(process, answer):
    while True:
        try:
            return answer.get(timeout=1)
        except queue.Empty:
            if process.exitcode:  # it has said why
                raise SystemExit(1) from None


def plot(table: pd.DataFrame):
    """Seconds of matching against neurons a side, by method, with each method's exponent."""
    import matplotlib.pyplot as plt

    from rosetta.plots import style

    made_up = table[table.case.astype(str).str.isdigit()]
    names = {"exact": "exact, float32", "bfloat16": "screened by bfloat16 products", "sketch": "screened by sketches",
             "bfloat16 sums": "bfloat16 sums, as released", "bfloat16 inputs": "bfloat16 inputs, float32 sums"}  # fmt: skip
    figure, axes = plt.subplots(figsize=(style.WIDTH, 5.2))
    for index, (method, name) in enumerate(names.items()):
        rows = made_up[made_up.method == method].sort_values("neurons")
        if len(rows):
            fit = style.fit_line(axes, rows.neurons, rows.seconds, style.COLORS[index % 6])
            style.draw_curve(axes, rows.neurons, rows.seconds, index, f"{name}: N^{fit.alpha:.2f}" if fit else name)
    positions = int(made_up.positions.iloc[0])
    style.log_axes(axes, "neurons of each model", f"seconds over {positions:,} positions")
    axes.set_xticks(sorted(made_up.neurons.unique()))
    return style.legend_below(figure, axes, columns=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, nargs="*", default=[2048], help="of each side of made-up models")
    parser.add_argument("--pairs", nargs="*", default=["pythia-64x4+opt-64x4"], help="of the profile's models")
    parser.add_argument("--profile", default="micro")
    parser.add_argument("--positions", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=2000)
    parser.add_argument("--shared", type=float, default=0.3)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rows", type=int, default=16_384)
    parser.add_argument("--memory-gb", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--record", type=Path, help="a CSV file to which the rows are added")
    parser.add_argument("--plot", type=Path, help="a PNG file, drawn from the recorded rows")
    arguments = parser.parse_args()
    for case in [*arguments.pairs, *map(str, arguments.neurons)]:
        print(f"{case}, {arguments.threads} threads")
        table = compare(case, arguments).assign(positions=arguments.positions, threads=arguments.threads)
        if arguments.record:
            known = [pd.read_csv(arguments.record)] if arguments.record.exists() else []
            pd.concat([*known, table]).to_csv(arguments.record, index=False)
    if arguments.plot:
        plot(pd.read_csv(arguments.record)).savefig(arguments.plot)


if __name__ == "__main__":
    main()
