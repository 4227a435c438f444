"""Scenes: the same everywhere, what they say of themselves is true, and their development is a whitening."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from rosetta.sources import development, drawing, scenes
from rosetta.sources.scenes import CLASSES, VALUES, scene

INDICES = st.integers(0, 10**6)


@pytest.fixture(scope="module")
def many():
    return [scene(index) for index in range(400)]


def test_they_are_those_that_were_recorded():
    assert scenes.differences(ROOT / "zoo" / "scenes.json") == {}


def test_a_difference_is_named(tmp_path):
    there = scenes.manifest() | {"flowery": "another file"}
    (tmp_path / "scenes.json").write_text(json.dumps(there))
    assert scenes.differences(tmp_path / "scenes.json") == {"flowery": ("another file", scenes.manifest()["flowery"])}


@settings(max_examples=20, deadline=None)
@given(INDICES, st.integers(0, 2**32))
def test_a_scene_is_its_index_and_seed(index, seed):
    one, again = scene(index, seed), scene(index, seed)
    assert (one.pixels == again.pixels).all() and one.caption == again.caption
    assert (one.drawn == scenes.drawn(index, seed)[0]).all()
    assert not (one.pixels == scene(index + 1, seed).pixels).all()
    assert not (one.pixels == scene(index, seed + 1).pixels).all()


@pytest.mark.parametrize("wrong", [{"index": -1}, {"seed": -1}, {"label": CLASSES}, {"label": -1}])
def test_what_is_refused(wrong):
    with pytest.raises(ValueError, match=r"negative|the classes are 0 to 15"):
        scene(**({"index": 0} | wrong))


@settings(max_examples=20, deadline=None)
@given(INDICES, st.integers(0, CLASSES - 1))
def test_a_label_changes_the_first_shape_alone(index, label):
    one, plain = scene(index, 3, label), scene(index, 3)
    assert one.label == label and one.factors["shape"] == VALUES["shape"][label]
    assert {k: v for k, v in one.factors.items() if k != "shape"} == {
        k: v for k, v in plain.factors.items() if k != "shape"
    }
    assert (one.code == plain.code).all()


def test_values_have_power_law_frequencies(many):
    """The r-th value comes 1/r times as often as the first: chi-squared against it, of each factor."""
    from scipy import stats

    for factor in ("shape", "texture", "colour", "background"):
        counts = Counter(one.factors[factor] for one in many)
        weights = 1 / np.arange(1, len(VALUES[factor]) + 1)
        seen = [counts[value] for value in VALUES[factor]]
        assert stats.chisquare(seen, len(many) * weights / weights.sum()).pvalue > 1e-3, factor


def test_a_caption_names_every_object(many):
    for one in many[:50]:
        objects = 1 + sum(name.startswith("shape ") for name in one.factors)
        assert one.caption.count(" and ") == objects - 1
        for name, value in one.factors.items():
            assert value in one.caption, (name, value)


def test_cells_hold_what_is_drawn_there(many):
    """A cell that an object covers wholly, in one plain colour, has that colour."""
    checked = 0
    for one in many:
        for row, column in np.argwhere(one.cells["part"] == 0):
            if VALUES["texture"][one.cells["texture"][row, column]] != "plain":
                continue
            pixels = one.drawn[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].reshape(-1, 3)
            expected = drawing.COLOURS[VALUES["colour"][one.cells["colour"][row, column]]]
            most = Counter(map(tuple, pixels.tolist())).most_common(1)[0]
            if most[1] == 64:  # one object, not two that meet
                checked += 1
                assert most[0] == expected
    assert checked > 50


def test_cells_without_an_object_are_ground(many):
    for one in many[:50]:
        empty = one.cells["part"] == -1
        assert (one.cells["shape"][empty] == -1).all() and (one.cells["ground"][empty] >= 0).all()


def test_the_code_tells_scenes_apart_and_fits(many):
    codes = {one.code.tobytes() for one in many}
    assert len(codes) == len(many) and {one.code.shape for one in many} == {(scenes.CODE,)}
    assert max(abs(one.code).max() for one in many) <= 1


def test_developed_patches_are_white(many):
    z = (np.stack([one.pixels for one in many]).astype(float) - development.MIDDLE) / development.SPREAD
    values = np.linalg.eigvalsh(np.cov(development.patches(z).reshape(-1, 192).T))
    assert values.sum() ** 2 / (values**2).sum() > 150  # effective dimensions of 192; as drawn, 2
    drawn = development.patches(np.stack([one.drawn for one in many])).reshape(-1, 192).astype(float)
    values = np.linalg.eigvalsh(np.cov(drawn.T))
    assert values.sum() ** 2 / (values**2).sum() < 3


def test_the_whitening_is_the_inverse_root_of_the_covariance():
    """Against scipy's matrix power, in float64."""
    from scipy.linalg import fractional_matrix_power

    drawn = np.stack([scenes.drawn(index, 5)[0] for index in range(60)])
    matrix, mean = development.whitening_of(drawn, 0.05)
    rows = development.patches(drawn).reshape(-1, 192).astype(float)
    expected = fractional_matrix_power(np.cov(rows.T) + (0.05 * 255) ** 2 * np.eye(192), -0.5)
    assert np.allclose(matrix, expected, atol=1e-10) and np.allclose(mean, rows.mean(0))


def test_both_ways_to_develop_agree(many):
    """In whole numbers for measuring and in torch for training: the same but for rounding and clipping."""
    one = many[0]
    exact = development.developed(one.drawn, np.zeros((64, 64, 3), np.int64)).astype(float)
    trained = development.develop(torch.from_numpy(one.drawn)[None])[0].permute(1, 2, 0).numpy()
    trained = (trained * development.SPREAD + development.MIDDLE).clip(0, 255)
    assert abs(exact - trained).max() <= 0.51


def test_grain_has_its_deviation():
    draws = np.concatenate([development.grain(np.random.default_rng(i)).ravel() for i in range(10)])
    assert abs(draws.mean()) < 1
    assert draws.std() == pytest.approx(16 * 255 * development.GRAIN, rel=0.01)


def test_undevelop_shows_what_was_drawn(many):
    for one in many[:20]:
        shown = development.undevelop(one.pixels).astype(float)
        # grain of 5% remains, and the ends of the range are cut off
        assert abs(shown - one.drawn).mean() < 2 * 0.8 * 255 * development.GRAIN


def test_patches_and_joined_are_inverse():
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3))
    assert (development.joined(development.patches(images)) == images).all()
    as_tensor = development.patches(torch.from_numpy(images))
    assert (as_tensor.numpy() == development.patches(images)).all()
    assert (development.patches(images)[1, 9].reshape(8, 8, 3) == images[1, 8:16, 8:16]).all()


@pytest.mark.parametrize("label", [None, 3])
def test_a_code_alone_is_that_of_the_scene(label):
    for index in range(5):
        np.testing.assert_array_equal(scenes.code(index, 7, label), scenes.scene(index, 7, label).code)
