"""The costs of methods are what a hand reckons; the choice between them follows, and says so."""

import logging
from math import ceil

import pytest
import torch

from rosetta.matching import cost
from rosetta.matching.correlation import tiles
from rosetta.matching.cost import cheaper, costs, positions_of, rows_that_fit, tiling
from rosetta.matching.mutual import match_batches
from rosetta.matching.rates import GIB, Rates

CORE = Rates("a core", float32=1e11, bfloat16=2e11, memory=8e9, search=1.6e8, sampled=1e10, capacity=24 * GIB)
WITHOUT_BFLOAT16 = CORE._replace(bfloat16=1e9)


def stage(method, name, *sizes, **options):
    (found,) = [one for one in cost.METHODS[method](*sizes, **options).stages if one.name == name]
    return found


def test_a_stage_takes_its_work_over_the_rates():
    work = cost.Stage("all", float32=1e11, bfloat16=4e11, memory=24e9, search=6.4e8, sampled=5e10)
    assert work.seconds(CORE) == pytest.approx(1 + 2 + 3 + 4 + 5)
    assert work.flop == 1e11 + 4e11 + 1e11


@pytest.mark.parametrize("thinned", [False, True])
@pytest.mark.parametrize(("n_a", "n_b", "memory"), [(5, 7, 10**6), (5, 7, 16 * 10), (300, 200, 10**5), (1, 9, 100)])
def test_the_tiles_of_exact_matching_are_counted_and_fit(n_a, n_b, memory, thinned):
    plan = list(tiles(n_a, n_b, memory, tables=4 + thinned))
    down, across, height, width = tiling(n_a, n_b, memory, 4 + thinned)
    assert down * across == len(plan)
    sizes = [(i.stop - i.start, j.stop - j.start) for i, j in plan]
    assert max(sizes) == (height, width)
    found = cost.exact(n_a, n_b, 1000, memory, thinned=thinned)
    assert found.readings == len(plan) and found.memory <= memory
    centred = sum(rows + columns for rows, columns in sizes) * 1000
    assert found.stages[0].memory == cost.CENTRE_BYTES * centred


def test_products_by_hand():
    sizes = (3000, 5000, 10**6, GIB)
    assert stage("exact", "product", *sizes).float32 == 2 * 3000 * 5000 * 10**6
    assert stage("bfloat16", "product", *sizes).bfloat16 == 2 * 3000 * 5000 * 10**6
    assert stage("sketch", "product", *sizes, rows=512).bfloat16 == 2 * 3000 * 5000 * 512
    assert stage("sketch", "product", *sizes, rows=512, thinned=True).bfloat16 == 4 * 3000 * 5000 * 512
    assert stage("sketch", "exact", *sizes, exact_share=0.01).float32 == pytest.approx(2 * 0.01 * 15e6 * 10**6)
    assert stage("sketch", "verify", *sizes).sampled == 6 * 8000 * 10**6


def test_readings_and_memory_by_hand():
    sizes = (2**20, 2**20, 10**7, 40 * GIB)
    assert cost.exact(*sizes).readings == tiling(*sizes[:2], 40 * GIB)[0] * tiling(*sizes[:2], 40 * GIB)[1]
    assert cost.exact(*sizes).readings >= ceil(2**40 * 16 / (40 * GIB))
    assert cost.bfloat16(*sizes).readings == cost.exact(*sizes).readings + 1
    screened = cost.sketch(*sizes, rows=1024, exact_share=0.009)
    assert screened.readings == 3 and screened.rows == 1024
    assert cost.sketch(*sizes, exact_share=0).readings == 2
    assert cost.sketch(*sizes, exact_share=0, rows=1024).memory == 8 * 1024 * 2**21 + 3 * 2**28
    assert cost.sketch(*sizes, rows=1024).lists == 64 * 12 * 2**21 and cost.exact(*sizes).lists == 0
    assert cost.bfloat16(*sizes, k=10, thinned=True).lists == 2 * 32 * 12 * 2**21
    assert cost.sketch(*sizes, rows=1024).memory == 40 * GIB
    assert cost.sketch(*sizes, exact_share=0.1).readings == 2 + ceil(0.1 * 2**42 / (40 * GIB))


def test_rows_are_halved_until_they_fit():
    n = 2**17
    assert rows_that_fit(n, n, 8 * 4096 * 2 * n + 1) == 4096
    assert rows_that_fit(n, n, 8 * 4096 * 2 * n) == 2048  # as `screening` has it, a few bytes are left for a tile
    assert rows_that_fit(n, n, 8 * 4096 * 2 * n + 1, thinned=True) == 2048
    assert rows_that_fit(n, n, 8 * n) == 0
    assert "sketch" not in costs(n, n, 10**6, 8 * n) and set(costs(n, n, 10**6, 40 * GIB)) == set(cost.METHODS)


@pytest.mark.parametrize(
    ("n", "positions", "memory", "chosen"),
    [
        (512, 100_000, 4 * GIB, "exact"),  # small
        (8192, 5_000, 4 * GIB, "exact"),  # as many positions as rows: nothing to save
        (8192, 20_000_000, 4 * GIB, "sketch"),
        (8192, None, 4 * GIB, "exact"),
        (40_000, None, 4 * GIB, "sketch"),  # seven tables' worth of readings
        (8192, 200_000, GIB // 64, "exact"),  # no room for sketches
    ],
)
def test_the_cheaper_method_is_chosen(n, positions, memory, chosen):
    rows = rows_that_fit(n, n, memory, 4096)
    method, why = cheaper(n, n, positions, memory, rows, rates=CORE, methods=("exact", "sketch"))
    assert method == chosen and why


def test_a_screen_in_bfloat16_is_chosen_where_the_device_has_it():
    sizes = (4096, 4096, 30_000, 4 * GIB)
    assert cheaper(*sizes, rates=CORE)[0] == "bfloat16"
    assert cheaper(*sizes, rates=WITHOUT_BFLOAT16)[0] == "exact"
    assert cheaper(*sizes, rates=CORE, methods=("exact", "sketch"))[0] != "bfloat16"


def test_the_advantage_grows_with_neurons_and_positions():
    def share(n, positions):
        of = costs(n, n, positions, 100 * GIB, exact_share=0.02)
        return of["sketch"].seconds(CORE) / of["exact"].seconds(CORE)

    assert share(16_384, 200_000) < share(8_192, 200_000) < share(4_096, 200_000)
    assert share(8_192, 400_000) < share(8_192, 200_000)


def test_positions_are_counted_where_that_costs_nothing():
    class Carrying:
        positions = 7

    assert positions_of([(torch.ones(2, 1), torch.ones(2, 1))] * 3) == 6
    assert positions_of(Carrying()) == 7 and positions_of(iter([])) is None


def some(n=12):
    rng = torch.Generator().manual_seed(0)
    return [(torch.randn(50, n, generator=rng), torch.randn(50, n, generator=rng)) for _ in range(3)]


def test_the_choice_is_in_the_log_and_in_the_table(caplog):
    caplog.set_level(logging.INFO)
    table = match_batches(some(), method="auto", rows=64)
    assert table.attrs["method"] == "exact" and "12 x 12 neurons over 150 positions" in table.attrs["why"]
    assert table.attrs["why"] in caplog.text
    assert table.equals(match_batches(some()))


def test_screening_is_chosen_where_the_table_would_need_many_readings():
    batches = some(400)
    table = match_batches(batches, method="auto", rows=4, memory_bytes=10**5)
    assert table.attrs["method"] == "sketch" and "exact needs 36 readings" in table.attrs["why"]
    assert match_batches(iter(batches), method="auto").attrs["method"] == "exact"
