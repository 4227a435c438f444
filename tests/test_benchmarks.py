"""The benchmark of matching runs to its end; what it measures is for people."""

import importlib.util
import sys

from conftest import ROOT


def test_the_benchmark_of_matching_measures_every_stage(profile, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("pipeline", ROOT / "benchmarks" / "pipeline.py")
    pipeline = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pipeline)
    monkeypatch.setattr(sys, "argv", ["pipeline", "--profile", str(profile()), "--segments", "8"])
    pipeline.main()
    said = capsys.readouterr().out
    assert all(stage in said for stage in ("tokenize", "align", "forward A", "forward B", "correlate", "peak memory"))
