"""Cost of the simulations of Figure 27: fast against literal at equal M, the whole grid, and the largest literal run.

    python benchmarks/theory.py            everything
    python benchmarks/theory.py equal      fast against literal only; also: grid, literal

Times are of the clock and of the processor (all threads); memory is the peak of this process since it began.
"""

import resource
import sys
import time

import torch

from rosetta import profiles
from rosetta.laws import simulation


def measured(what: str, run):
    clock, processor = time.perf_counter(), time.process_time()
    result = run()
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    print(f"{what:<44} {clock:8.2f} s   processor {processor:8.2f} s   peak {peak:5.2f} GiB", flush=True)
    return result


def equal(n_inputs: int = 10_000) -> None:
    """Both samplers at the same N, beta and M; twice, the first use of each pays for loading code."""
    for sampler in ("fast", "literal"):
        simulation.simulate(256, 1.5, n_inputs=500, sampler=sampler)
    for size in (2**10, 2**12, 2**14):
        for beta in (1.5, 2.0, 3.0):
            for sampler in ("fast", "literal"):
                measured(
                    f"N = {size:,}, beta = {beta}, M = {n_inputs:,}, {sampler}",
                    lambda s=sampler, n=size, b=beta: simulation.simulate(n, b, n_inputs=n_inputs, sampler=s),
                )


def grid() -> None:
    """The micro profile's grid, which is the paper's: 480 runs."""
    t = profiles.load("micro").theory
    table = measured(
        f"grid, {len(t.grid.sizes) * len(t.grid.betas) * t.grid.runs} runs",
        lambda: simulation.grid(t.grid.sizes, t.grid.betas, t.grid.runs, t.seed, n_inputs=t.inputs),
    )
    fitted = simulation.slopes(table)
    print(fitted[fitted["panel"] != "c"][["panel", "beta", "alpha", "theory", "error"]].round(4).to_string(index=False))


def literal() -> None:
    """The largest literal run of the paper's grid."""
    result = measured(
        "N = 131,072, beta = 1.5, M = 10,000, literal", lambda: simulation.simulate(2**17, 1.5, sampler="literal")
    )
    print(result)


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen = sys.argv[1:] or ["equal", "grid", "literal"]
    for name in chosen:
        {"equal": equal, "grid": grid, "literal": literal}[name]()
