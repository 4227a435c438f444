"""What devices hold is what a hand reckons, and batches are those that a study reads."""

import math

import pytest

from rosetta.matching import cost
from rosetta.matching.rates import GIB, PRESETS, calibrated
from rosetta.planning.nodes import Load, Node, batch_bytes, devices_of, missing, peak, sequences
from rosetta.planning.sizes import size
from rosetta.profiles import load
from rosetta.studies.matches import Study


@pytest.fixture(scope="module")
def paper():
    return load("paper")


def moved(profile, **devices):
    models = {name: spec._replace(device=devices.get(name)) for name, spec in profile.models.items()}
    return profile.model_copy(update={"models": models})


def test_nodes_are_named_by_devices_and_number():
    assert Node.named("8xA100") == ("8xA100", 8, PRESETS["A100"]) and Node.named("H200").devices == 1
    here = Node.named("here")
    assert here.devices >= 1 and here.rates.float32 > 1e8
    assert here.rates == calibrated(here.rates.name)


@pytest.mark.parametrize("name", ["B1000", "0xA100", "8x", "", "xA100", "-1xA100"])
def test_an_unknown_node_is_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match=r"allowed are here, A100, H200"):
        Node.named(name)


@pytest.mark.parametrize("name", ["smoke", "micro"])
@pytest.mark.parametrize("memory_gb", [1, 0.03])
def test_batches_are_those_that_a_study_reads(name, memory_gb):
    profile = load(name).model_copy(update={"memory_gb": memory_gb})
    for pair in profile.pairs:
        assert sequences(profile, pair) == Study(profile).per_batch(pair)


def test_a_model_lies_where_the_profile_says(paper):
    assert devices_of(paper, "pythia-160m", 8) == [0] and devices_of(paper, "opt-30b", 8) == list(range(8))
    assert devices_of(moved(paper, **{"opt-30b": "cuda:3"}), "opt-30b", 8) == [3]


def test_the_peak_of_a_pair_by_hand(paper):
    node, pair = Node.named("8xA100"), ("opt-30b", "qwen2.5-32b")
    n_a, n_b = 48 * 28672, 64 * 27648
    found = cost.sketch(n_a, n_b, 10**7, 27 * GIB, 10, True, rows=512)
    first, *others = peak(paper, pair, node, found, held=5)
    weights = sum(2 * size(paper.models[name]).parameters for name in pair) / 8
    batch = sum(1024 * 2 * (layers * width + 8 * width) for layers, width in ((48, 28672), (64, 27648)))
    assert sequences(paper, pair) == 1
    assert first == pytest.approx((weights, batch, 3 * 4 * 1024 * n_b, found.memory, 12 * 64 * 2 * (n_a + n_b), 5))
    assert others == [pytest.approx(Load(weights=weights))] * 7
    tiled = cost.exact(n_a, n_b, 10**7, GIB)
    assert peak(paper, pair, node, tiled)[0].centred == 4 * 1024 * (3 * max(tiled.tile) + min(tiled.tile))


def test_parts_of_models_on_their_own_devices(paper):
    apart = moved(paper, **{"opt-1.3b": "cuda:1", "pythia-1.4b": "cuda:0"})
    first, second = peak(apart, ("pythia-1.4b", "opt-1.3b"), Node.named("2xA100"))
    assert first.weights == 2 * size(paper.models["pythia-1.4b"]).parameters
    assert second.batch == batch_bytes(apart, "opt-1.3b", apart.context * sequences(apart, ("pythia-1.4b", "opt-1.3b")))


def test_what_is_missing_is_that_of_the_fullest_device():
    node = Node.named("2xH200")
    room = node.rates.capacity
    assert missing([Load(tables=room - 1), Load(weights=room)], node) == (1, 0)
    assert missing([Load(tables=room + 7), Load(weights=room)], node) == (0, 7)
    assert missing([Load(), Load(), Load(weights=1)], node) == (2, math.inf)
