"""The explorer's rows of models of images, against what brute force finds on the smoke profile's models."""

import io
import re
from collections import Counter

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from PIL import Image

from rosetta.matching.images import ImageReader
from rosetta.matching.mutual import top_k
from rosetta.sources.development import undevelop
from rosetta.sources.drawing import VALUES
from rosetta.studies import explorer_images
from rosetta.studies.matches import Study
from rosetta.viewer.thumbnails import webp

GENERATED, REAL = ("onestep-32x2", "openclip-32x2"), ("openclip-32x2", "dinov2-32x2")
IMAGES, TOP, NEURONS = 24, 3, 4


def studied(folder, pair, **changes) -> Study:
    """The smoke profile with few images."""
    content = yaml.safe_load((ROOT / "profiles" / "smoke.yaml").read_text(encoding="utf-8"))
    content["images"] |= {"count": IMAGES, "permuted": None, "pair": list(pair)} | changes
    content["images"]["explorer"] = {"neurons": NEURONS, "images": TOP}
    content["images"]["sweep"] |= {"images": [1, IMAGES]}
    del content["curves"]["onestep-dinov2-openclip"]  # of its three pairs two are matched, and not the encoders'
    content["curves"]["encoders"] = [list(REAL)]
    (folder / "few.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return Study(str(folder / "few.yaml"), folder / "results")


@pytest.fixture(scope="module", params=[(GENERATED, "mean"), (REAL, "peak")], ids=["generated", "real"])
def study(request, tmp_path_factory) -> Study:
    pair, rank = request.param
    return studied(tmp_path_factory.mktemp("explored"), pair, rank=rank)


@pytest.fixture(scope="module")
def neurons(study):
    return explorer_images.rosetta_neurons(study)


def maps_of(study, name: str) -> np.ndarray:
    """One model's activations on its own grid, read alone: [images, rows, columns, neurons]."""
    reader, pair = study.reader(name), study.profile.images.pair
    pieces = list(study.seen_by(pair) if isinstance(reader, ImageReader) else study.pieces(pair))
    return torch.stack([part.reshape(*reader.grid, -1) for part in reader.parts(pieces)]).double().numpy()


def test_the_best_matched_come_first_with_their_depths(study, neurons):
    table = top_k(study.matches(study.profile.images.pair), 1)
    assert len(table) >= len(neurons) == min(NEURONS, len(table)) > 1
    for neuron, row in zip(neurons, table.itertuples(), strict=False):
        a, b = neuron.members
        assert a[:3] == (row.model_a, row.layer_a, row.unit_a) and b[:3] == (row.model_b, row.layer_b, row.unit_b)
        assert a.correlation is None and b.correlation == row.correlation
        assert (a.depth, b.depth) == (row.layer_a, row.layer_b)  # of two layers
    best = [neuron.members[1].correlation for neuron in neurons]
    assert best == sorted(best, reverse=True)


def test_images_are_the_strongest_of_either_model_with_both_maps(study, neurons):
    height = {"mean": lambda maps: maps.mean((1, 2)), "peak": lambda maps: maps.max((1, 2))}[study.profile.images.rank]
    read = {name: maps_of(study, name) for name in study.profile.images.pair}
    for neuron in neurons:
        numbers = [sight.number for sight in neuron.contexts]
        assert len(set(numbers)) == len(numbers)
        shown = set()
        for name, layer, unit, *_ in neuron.members:
            width = study.profile.models[name].mlp_width
            maps = read[name][..., layer * width + unit]
            order = np.argsort(-height(maps), kind="stable")[:TOP]
            ranked = sorted((s.ranks[name], s.number) for s in neuron.contexts if name in s.ranks)
            assert ranked == [(i, number) for i, number in enumerate(order.tolist(), start=1)]
            shown |= set(order.tolist())
            for sight in neuron.contexts:
                np.testing.assert_allclose(sight.maps[name], maps[sight.number], atol=1e-4)
        assert shown == set(numbers)


def test_pictures_are_as_human_eyes_see_them_with_what_is_known_of_them(study, neurons):
    pair = study.profile.images.pair
    pictures = list(study.seen_by(pair))
    for neuron in neurons:
        for sight in neuron.contexts:
            picture = pictures[sight.number]
            assert sight.picture == webp(undevelop(picture.pixels))
            assert sight.caption == (picture.caption or VALUES["shape"][picture.label])
        own = sorted((s for s in neuron.contexts if pair[0] in s.ranks), key=lambda s: s.ranks[pair[0]])
        counted = Counter(VALUES["shape"][pictures[s.number].label] for s in own)
        assert neuron.category == counted.most_common(1)[0][0]


def test_a_judges_words_are_the_members_and_the_anchors_or_its_partners_the_label(study, neurons):
    first, second, *others = neurons
    said = {first.members[0][:3]: "red", first.members[1][:3]: "red, too", second.members[1][:3]: "<b>edges</b>"}
    described = explorer_images.rosetta_neurons(study, said)
    assert [n.label for n in described] == ["red", "<b>edges</b>"] + [""] * len(others)
    assert [[m.description for m in n.members] for n in described][:2] == [["red", "red, too"], ["", "<b>edges</b>"]]
    assert all(member.description == "" for neuron in neurons for member in neuron.members)


def test_a_second_time_no_model_is_opened(study, neurons, monkeypatch):
    def opened(*_):
        raise AssertionError("a model was opened")

    monkeypatch.setattr(Study, "reader", opened)
    again = explorer_images.rosetta_neurons(study)
    for one, other in zip(neurons, again, strict=True):
        assert one[0][0] == other[0][0] and one.category == other.category
        assert [s[:4] for s in one.contexts] == [s[:4] for s in other.contexts]


def test_the_page_says_what_was_matched_and_how_pictures_are_shown(study, neurons):
    path = explorer_images.write(study, neurons)
    page = path.read_text(encoding="utf-8")
    a, b = study.profile.images.pair
    assert path == study.folder / "explorer_images.html" and f"Rosetta Neurons of {a}, {b}" in page
    by = {"mean": "the mean over all cells", "peak": "the strongest cell"}[study.profile.images.rank]
    assert f"over {IMAGES} images" in page and by in page and "at most 64 pixels (WebP, quality 85)" in page
    assert re.search(r"img-src data:; ", page)


def test_real_images_of_any_size_are_shown_small_by_the_names_of_their_files(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        size = ((40 + 9 * i, 300), (220, 70), (64, 64))[i % 3]
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        (tmp_path / "images").mkdir(exist_ok=True)
        coarse.resize(size, Image.Resampling.BICUBIC).save(tmp_path / "images" / f"{i:03d} <b>.png")
    study = studied(tmp_path, REAL, real={"kind": "folder", "path": str(tmp_path / "images")})
    neurons = explorer_images.rosetta_neurons(study)
    assert neurons and {neuron.category for neuron in neurons} == {""}
    sights = {sight.number: sight for neuron in neurons for sight in neuron.contexts}
    for number, sight in sights.items():
        with Image.open(tmp_path / "images" / f"{number:03d} <b>.png") as image:
            side = min(192, max(image.size))
        assert Image.open(io.BytesIO(sight.picture)).size == (side, side)
        assert sight.caption == f"{number:03d} <b>.png"
    assert "192 pixels" in explorer_images.write(study, neurons).read_text(encoding="utf-8")
