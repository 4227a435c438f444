import os
import subprocess
import sys

import pytest
import torch

from rosetta.matching.activations import capture
from rosetta.models import ROOT


def test_hooks_are_gone_after_reading_even_after_an_error(reader_of):
    reader = reader_of["gpt2"]
    with pytest.raises(RuntimeError, match="stop"), capture(reader.mlps):
        raise RuntimeError("stop")
    assert not any(mlp.projection._forward_pre_hooks for mlp in reader.mlps)


def test_capture_hands_over_each_layer_in_turn_or_keeps_them_all(reader_of):
    reader, taken, ids = reader_of["gpt2"], [], torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        with capture(reader.mlps, lambda layer, m: taken.append((layer, m))) as seen:
            reader.model(input_ids=ids)
        assert [layer for layer, _ in taken] == [0, 1] and not seen
        with capture(reader.mlps) as seen:
            reader.model(input_ids=ids)
    for layer, m in taken:
        assert torch.equal(m, seen[reader.mlps[layer].path])


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is told by glibc's settings to give memory back")
@pytest.mark.parametrize("way", ["spans", "resampled"])
def test_reading_in_bfloat16_peaks_at_5_bytes_per_position_and_neuron_at_most(way):
    """4,096 tokens and 6,144 neurons: the tensor that is kept has 48 MiB, all that the allocator does is small beside it."""
    script = [sys.executable, str(ROOT / "benchmarks" / "reading.py"), "--way", way]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_TRIM_THRESHOLD_": str(2**16)}
    said = subprocess.run(
        [*script, "--sequences", "8", "--width", "128"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert 2 * 0.9 < float(said) <= 5
