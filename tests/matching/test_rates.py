"""Rates of this machine are measured in a moment; those of data sheets are a stated share of them."""

import time

import pytest
import torch

from rosetta.matching import rates
from rosetta.matching.rates import PRESETS, calibrated


@pytest.fixture(scope="module")
def here():
    return calibrated()


@pytest.mark.timing
def test_a_core_is_measured_in_a_moment(here):
    start = time.process_time()
    again = calibrated.__wrapped__()
    assert time.process_time() - start < 1  # 0.2 s alone; nothing here may take a second, whatever runs beside
    for kind in again._fields[1:-1]:
        assert 0.3 < getattr(again, kind) / getattr(here, kind) < 3, kind


@pytest.mark.timing
def test_a_product_takes_what_the_rate_says():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of two, one would count its waiting for the other
    a, b = torch.rand(2, 1500, 1500)
    measured = []
    for _ in range(5):
        rate = calibrated.__wrapped__().float32
        start = time.process_time()
        a @ b
        measured.append((time.process_time() - start) * rate / (2 * 1500**3))
    torch.set_num_threads(threads)
    assert any(1 / 1.5 < one < 1.5 for one in measured), measured


def test_the_memory_is_that_of_the_machine(here):
    import psutil

    assert here.capacity == psutil.virtual_memory().total


def test_presets_are_the_stated_shares_of_the_data_sheets():
    h200 = PRESETS["H200"]
    assert h200.float32 == rates.ACHIEVED_PRODUCTS * 67e12 and h200.bfloat16 == rates.ACHIEVED_PRODUCTS * 989e12
    assert h200.memory == rates.ACHIEVED_MEMORY * 4.8e12
    for preset in PRESETS.values():
        assert preset.float32 < preset.bfloat16 and preset.capacity < float(preset.name.split()[1]) * 1e9 * 1.07
