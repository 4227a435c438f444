"""Speed and memory of every stage of matching, for the largest pair of a profile: ``make bench``.

Each stage runs over the same segments; its rate is in aligned positions per second, so that stages can be compared.
The correlation's arithmetic is set against the rate of torch's own float32 matrix product of the same shape, measured in
the same process.
"""

import argparse
import resource
import sys
import time
from itertools import islice

import torch
from tqdm.auto import tqdm

from rosetta.matching import segments
from rosetta.matching.batches import AlignedBatches
from rosetta.matching.correlation import PearsonAccumulator
from rosetta.matching.mutual import mutual_nearest
from rosetta.studies.matches import Study


def best_of(repeats: int, work) -> float:
    """Seconds of the fastest of some runs."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def read_all(reader, ids: list[list[int]], batch: int) -> None:
    for start in range(0, len(ids), batch):
        reader.read(ids[start : start + batch])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="micro")
    parser.add_argument("--segments", type=int, default=256)
    arguments = parser.parse_args()

    study = Study(arguments.profile)
    pair = max(study.profile.pairs, key=study.profile.neurons)
    batches: AlignedBatches = study.batches(pair)
    a, b = batches.a, batches.b
    step = batches.per_batch
    pieces = list(islice(batches.pieces, arguments.segments))
    texts = [piece.document.text for piece in pieces]
    positions = sum(len(piece.canonical) for piece in pieces)
    print(f"{pair[0]} ({sum(a.layers):,} neurons) with {pair[1]} ({sum(b.layers):,}), {positions:,} aligned positions,")
    print(f"{torch.get_num_threads()} threads, {study.device}\n")

    def tokenize():
        for tokenizer in (a.tokenizer, b.tokenizer):
            tokenizer(texts, add_special_tokens=False, verbose=False)

    def tokenize_and_align():
        documents, profile = [piece.document for piece in pieces], study.profile
        list(segments(documents, a.tokenizer, b.tokenizer, profile.context, profile.segments_per_document))

    tokenize_and_align()  # the vocabularies' bytes are read once
    seconds = {"tokenize": best_of(3, tokenize)}
    seconds["align"] = best_of(3, tokenize_and_align) - seconds["tokenize"]
    seconds["forward A"] = best_of(2, lambda: read_all(a, [p.ids_a for p in pieces], step))
    seconds["forward B"] = best_of(2, lambda: read_all(b, [p.ids_b for p in pieces], step))

    aligned = [batches.aligned(pieces[i : i + step]) for i in range(0, len(pieces), step)]
    accumulator = PearsonAccumulator(*map(sum, batches.layers), device=study.device)

    def correlate():
        for batch in tqdm(aligned, desc="correlate", leave=False):
            accumulator.update(*batch)

    product = torch.empty_like(accumulator.cross)
    left, right = aligned[0][0].T.contiguous(), aligned[0][1]
    torch.mm(left, right, out=product)
    flops = 2 * product.numel()
    gemm = flops * left.shape[1] / best_of(5, lambda: torch.mm(left, right, out=product))
    seconds["correlate"] = best_of(3, correlate)
    began = time.perf_counter()
    pairs = mutual_nearest(accumulator.correlation())
    finish = time.perf_counter() - began

    for stage, taken in seconds.items():
        print(f"{stage:<12}{positions / taken:>14,.0f} positions/s{taken:>9.2f} s")
    forwards = seconds["forward A"] + seconds["forward B"]
    print(f"\naligning costs {seconds['align'] / forwards:.1%} of the forward passes")
    rate = flops * positions / seconds["correlate"]
    print(
        f"correlation: {rate / 1e9:.0f} GFLOP/s, float32 matrix product: {gemm / 1e9:.0f} GFLOP/s, ratio {rate / gemm:.2f}"
    )
    print(f"neighbours of the finished table: {finish:.2f} s, {len(pairs):,} mutual pairs")
    unit = 1 if sys.platform == "darwin" else 1024
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.2f} GiB")
    if torch.cuda.is_available():
        print(f"peak GPU memory {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
