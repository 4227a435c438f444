"""Benchmarks run to their end; what they measure is for people."""

import argparse
import importlib.util
import sys

import pandas as pd
import pytest
from conftest import ROOT


def benchmark(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_of_the_pipeline_measures_every_stage(profile, monkeypatch, capsys):
    pipeline = benchmark("pipeline")
    monkeypatch.setattr(sys, "argv", ["pipeline", "--profile", str(profile()), "--segments", "8"])
    pipeline.main()
    said = capsys.readouterr().out
    assert all(stage in said for stage in ("tokenize", "align", "forward A", "forward B", "correlate", "peak memory"))


def test_the_benchmark_of_matching_finds_the_pairs_of_exact_matching_by_the_kits_methods():
    matching = benchmark("matching")
    arguments = argparse.Namespace(rows=512, memory_gb=1)
    batches = matching.Timed(matching.Synthetic(120, 3000, batch=700))
    found = {method: matching.pairs_of(method, batches, ([70, 50], [120]), arguments)[0] for method in matching.METHODS}
    pairs = {method: set(map(tuple, some.tolist())) for method, some in found.items()}
    assert pairs["exact"] == pairs["bfloat16"] == pairs["sketch"] and len(pairs["exact"]) > 30
    for method in ("bfloat16 inputs", "bfloat16 sums", "released"):  # rounded, so nearly
        assert len(pairs[method] & pairs["exact"]) > 0.8 * len(pairs["exact"])
    assert batches.readings >= 1 + 2 + 2 + 2 + 1 + 1 and batches.seconds > 0


@pytest.mark.parametrize(
    ("size", "tokens"), [(6_000_000, 200_000), pytest.param(10**9, 10**6, marks=pytest.mark.timing)]
)
def test_a_sample_of_a_compressed_file_is_drawn_quickly_and_in_little_memory(tmp_path, size, tokens):
    """A million tokens of a gigabyte in under a minute and 500 MB; of a smaller file the same memory, which libraries and a block take."""
    found = benchmark("sampling").measure(tmp_path, size, tokens)
    assert found["tokens"] == tokens and 100 < found["sequences"] < tokens / 100
    assert 0 < found["compressed"] < size / 2
    assert 50e6 < found["together"] < 500e6 and found["largest"] < 500e6
    assert found["seconds"] < 60


def test_the_cost_of_matching_is_drawn_for_each_method_with_its_exponent():
    matching = benchmark("matching")
    sizes = pd.Series([1000, 2000, 4000])
    rows = [pd.DataFrame({"case": sizes.astype(str), "method": method, "neurons": sizes, "positions": 500,
                          "seconds": (sizes / 1000.0) ** power}) for method, power in (("exact", 2), ("sketch", 1))]  # fmt: skip
    figure = matching.plot(pd.concat(rows))
    said = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert said == ["exact, float32: N^2.00", "screened by sketches: N^1.00"]
