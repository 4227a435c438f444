"""A plan that fits nowhere is refused with the run, the device and what is missing; what would do, does."""

import re

import pytest

from rosetta.matching.rates import GIB
from rosetta.planning.nodes import Node
from rosetta.planning.plan import DoesNotFit, check, plan, refusals, remedy
from rosetta.profiles import load

LARGEST = "opt-30b + qwen2.5-32b"


@pytest.fixture(scope="module")
def paper():
    return load("paper")


def planned(profile, *nodes):
    return [plan(profile, Node.named(node)) for node in nodes]


def test_every_run_of_the_paper_fits_a_node_of_eight(paper):
    (eight,) = planned(paper, "8xA100")
    assert not len(eight.lacking) and refusals(eight) == {}
    check([eight])


def test_one_h200_holds_all_but_the_largest_pair(paper):
    both = planned(paper, "8xA100", "H200")
    assert {*both[1].lacking["run"]} == {LARGEST}
    check(both)  # it fits the other
    with pytest.raises(DoesNotFit) as refused:
        check(both[1:])
    row = both[1].lacking.sort_values("missing", ascending=False, kind="stable").iloc[0]
    assert f"paper.yaml: {LARGEST} ({row.what}) does not fit H200: device 0 needs {row.peak / GIB:.1f} GiB" in str(
        refused.value
    )
    assert f"{row.missing / GIB:.1f} more than it has; it would with 2 such devices" in str(refused.value)
    assert not len(planned(paper, "2xH200")[0].lacking)  # and it does


def test_less_memory_for_tables_is_what_would_do(paper):
    greedy, run = paper.model_copy(update={"memory_gb": 120}), "pythia-6.9b + opt-6.7b"
    said = refusals(planned(greedy, "H200")[0])[run]
    memory = float(re.search(r"it would with memory_gb: ([\d.]+)$", said)[1])
    assert memory < 120
    modest = planned(greedy.model_copy(update={"memory_gb": memory}), "H200")[0]
    assert run not in {*modest.lacking["run"]}


def test_models_that_are_spread_are_what_would_do(paper):
    models = {name: spec._replace(device=None) for name, spec in paper.models.items()}
    together = paper.model_copy(update={"models": models})
    said = refusals(planned(together, "8xA100")[0])[LARGEST]
    assert said.endswith("it would with device: spread")


def test_a_device_that_is_not_there_is_named(paper):
    models = paper.models | {"opt-125m": paper.models["opt-125m"]._replace(device="cuda:9")}
    said = refusals(planned(paper.model_copy(update={"models": models}), "8xA100")[0])
    assert said["pythia-160m + opt-125m"].endswith("does not fit 8xA100, which has no device 9")


def test_where_nothing_would_do_it_is_said(paper):
    endless = paper.model_copy(update={"context": 10**7})
    assert "take smaller models, contexts or budgets" in remedy(endless, Node.named("H200"), LARGEST)
