"""The choice between methods follows what they cost, and says so."""

import logging

import pytest
import torch

from rosetta.matching.cost import cheaper, positions_of
from rosetta.matching.mutual import match_batches

GIB = 2**30


@pytest.mark.parametrize(
    ("n", "positions", "memory", "chosen"),
    [
        (512, 100_000, 4 * GIB, "exact"),  # small
        (8192, 5_000, 4 * GIB, "exact"),  # as many positions as rows: nothing to save
        (8192, 200_000, 4 * GIB, "sketch"),
        (8192, None, 4 * GIB, "exact"),
        (40_000, None, 4 * GIB, "sketch"),  # seven tables' worth of readings
        (8192, 200_000, GIB // 4, "exact"),  # no room for sketches
    ],
)
def test_the_cheaper_method_is_chosen(n, positions, memory, chosen):
    method, why = cheaper(n, n, positions, memory)
    assert method == chosen and why


def test_the_advantage_grows_with_neurons_and_positions():
    def share(n, positions):
        return float(cheaper(n, n, positions, 100 * GIB)[1].split("cost ")[1].split()[0])

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
    assert table.attrs["method"] == "sketch" and "readings" in table.attrs["why"]
    assert match_batches(iter(batches), method="auto").attrs["method"] == "exact"
