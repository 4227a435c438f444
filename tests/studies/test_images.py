"""What notebooks show of images, against what brute force finds on the smoke profile's models."""

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT

from rosetta.matching import nulls
from rosetta.matching.images import Wish
from rosetta.matching.mutual import top_k
from rosetta.sources import scene, undevelop
from rosetta.studies import counts, images
from rosetta.studies.matches import Study

PAIR, ENCODERS = ("onestep-32x2", "openclip-32x2"), ("openclip-32x2", "dinov2-32x2")
IMAGES = 24


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """The smoke profile with few images."""
    folder = tmp_path_factory.mktemp("images")
    content = yaml.safe_load((ROOT / "profiles" / "smoke.yaml").read_text(encoding="utf-8"))
    content["images"] |= {"count": IMAGES, "permuted": None, "pair": list(PAIR)}
    content["images"]["sweep"] |= {"pair": list(PAIR), "encoders": list(ENCODERS), "images": [1, 8, IMAGES]}
    (folder / "few.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return Study(str(folder / "few.yaml"), folder / "results")


@pytest.fixture(scope="module")
def read(study) -> tuple[np.ndarray, np.ndarray]:
    """Both models' activations in float64, [images, cells, neurons]."""
    sides = zip(*study.batches(PAIR), strict=True)
    return tuple(torch.cat(side).double().numpy().reshape(IMAGES, 64, -1) for side in sides)


def column(layers: list[int], layer: int, unit: int) -> int:
    return sum(layers[:layer]) + unit


def test_matches_are_numpys(study, read):
    a, b = (side.reshape(IMAGES * 64, -1) for side in read)
    with np.errstate(invalid="ignore"):
        r = np.nan_to_num(np.corrcoef(a.T, b.T)[: a.shape[1], a.shape[1] :], nan=-2)
    mutual = {(u, v) for u, v in enumerate(r.argmax(1).tolist()) if r[:, v].argmax() == u and r[u, v] > -2}
    table, layers = top_k(study.matches(PAIR), 1), study.trained(PAIR).layers
    found = {
        (column(layers[0], row.layer_a, row.unit_a), column(layers[1], row.layer_b, row.unit_b)): row.correlation
        for row in table.itertuples()
    }
    assert set(found) == mutual
    assert [found[one] for one in found] == pytest.approx([r[one] for one in found], abs=1e-5)


def test_a_generators_pictures_are_class_balanced_and_seeded_one_by_one(study):
    wishes, kept = study.pieces(PAIR), study.made_by(PAIR[0], IMAGES)
    assert all(isinstance(wish, Wish) for wish in wishes)
    assert np.bincount([wish.label for wish in wishes], minlength=16).tolist() == 8 * [2] + 8 * [1]
    assert len({picture.pixels.tobytes() for picture in kept}) == IMAGES
    alone = study.reader(PAIR[0]).pictures([wishes[17]])[0]
    assert abs(alone.astype(int) - kept[17].pixels).max() <= 1  # whatever it is made with, but for a rounding


def test_two_encoders_see_the_held_out_scenes(study):
    assert [picture.pixels.tobytes() for picture in study.pieces(ENCODERS)] == [
        scene(index, 0).pixels.tobytes() for index in range(IMAGES)
    ]


def test_whole_images_are_permuted_with_their_cells_in_place(study, read):
    table = study.whole_images_matches(PAIR)[0]
    assert table.attrs["positions"] == IMAGES * 64
    seed = study.profile.nulls.permutation_seeds[0]
    permuted = nulls.Permuted(study.trained(PAIR), seed, whole=study.cells(PAIR))
    a, b = (torch.cat(side).numpy().reshape(IMAGES, -1) for side in zip(*permuted, strict=True))
    of_a, of_b = (side.astype(np.float32).reshape(IMAGES, -1) for side in read)
    partner = [int(np.flatnonzero((of_b == image).all(1))[0]) for image in b]
    assert sorted(partner) == list(range(IMAGES)) and partner != list(range(IMAGES))
    assert sorted(map(bytes, a)) == sorted(map(bytes, of_a))
    assert len(top_k(study.match(permuted), 1)) == len(top_k(table, 1))


def test_the_best_pairs_are_shown_on_the_images_on_which_both_fire_most(study, read):
    found = images.best_pairs(study, PAIR, n=3, images=2)
    table, layers = top_k(study.matches(PAIR), 1).head(3), study.trained(PAIR).layers
    kept = study.made_by(PAIR[0], IMAGES)
    for pair, row in zip(found, table.itertuples(), strict=True):
        u, v = column(layers[0], row.layer_a, row.unit_a), column(layers[1], row.layer_b, row.unit_b)
        a, b = read[0][..., u], read[1][..., v]
        means = a.mean(1), b.mean(1)
        lower = np.minimum(*means)
        strongest = np.argsort(-np.where(lower > 0, means[0] * means[1], lower), kind="stable")[:2]
        assert pair.r == row.correlation and pair.a.endswith(f"L{row.layer_a}/U{row.unit_a}")
        for seen, number in zip(pair.images, strongest, strict=True):
            assert (seen.pixels == kept[int(number)].pixels).all()
            np.testing.assert_allclose(seen.a.ravel(), a[number], atol=1e-5)
            np.testing.assert_allclose(seen.b.ravel(), b[number], atol=1e-5)


def test_a_gallery_sets_others_of_the_same_layers_beside_rosetta_neurons(study, read):
    rosetta, others = images.galleries(study, PAIR).values()
    matched = {f"L{row.layer_b}/U{row.unit_b}" for row in top_k(study.matches(PAIR), 1).itertuples()}
    assert set(rosetta) <= matched and not set(others) & matched
    assert sorted(name.split("/")[0] for name in rosetta) == sorted(name.split("/")[0] for name in others)
    reader, kept = study.reader(PAIR[1]), study.made_by(PAIR[0], IMAGES)
    pictures = list(kept)
    own = reader.read(np.stack([picture.pixels for picture in pictures])).double().numpy().reshape(IMAGES, 49, -1)
    for name, shown in (*rosetta.items(), *others.items()):
        layer, unit = (int(part[1:]) for part in name.split("/"))
        maps = own[..., column(reader.layers, layer, unit)]
        for (pixels, values), number in zip(shown, np.argsort(-maps.mean(1), kind="stable"), strict=False):
            assert (pixels == pictures[number].pixels).all()
            np.testing.assert_allclose(values.ravel(), maps[number], atol=1e-5)


def test_one_image_on_two_grids(study):
    pixels, maps = images.grids(study, PAIR, images=8)
    (own_a, canonical_a), (own_b, canonical_b) = maps.values()
    assert pixels.shape == (64, 64, 3) and own_a.shape == (8, 8) and own_b.shape == (7, 7)
    assert (own_a == canonical_a).all() and canonical_b.shape == (8, 8)


def test_one_image_on_two_grids_is_one_of_those_that_there_are(study, monkeypatch):
    asked, batches = [], study.batches
    monkeypatch.setattr(study, "batches", lambda pair, amount: asked.append(amount) or batches(pair, amount))
    images.grids(study, PAIR, images=10 * IMAGES)
    assert asked == [study.profile.images.count]


def test_scenes_are_shown_undeveloped_and_photographs_as_they_are(study):
    pixels = scene(1).pixels
    assert (images.shown(study)(pixels) == undevelop(pixels)).all()
    folder = study.profile.model_copy(
        update={"images": study.profile.images.model_copy(update={"real": {"kind": "folder"}})}
    )
    other = Study.__new__(Study)
    other.profile = folder
    assert (images.shown(other)(pixels) == pixels).all()


def test_real_and_generated_are_counted_over_as_many_images(study):
    table = counts.real_and_generated(study)
    assert table["images"].tolist() == [1, 8, IMAGES] and table["jaccard"].between(0, 1).all()
    assert table["real"].iloc[-1] == len(top_k(study.match(study.batches(ENCODERS)), 1))


def test_the_sweep_of_images_ends_with_the_matches(study):
    sweep = counts.image_sweep(study)
    assert sweep["images"].tolist() == [1, 8, IMAGES] and sweep["positions"].tolist() == [64, 512, 64 * IMAGES]
    assert sweep["count"].iloc[-1] == len(top_k(study.matches(PAIR), 1))


# ---------------------------------------------------------------------------------------------------------------------
# The rule by which scenes are developed


def development(**high) -> pd.DataFrame:
    rows = [(float(key.split("_")[1]) / 100, key.startswith("white"), value) for key, value in high.items()]
    return pd.DataFrame(rows, columns=["grain", "whitened", "high"])


@pytest.mark.parametrize(
    ("high", "expected"),
    [
        ({"plain_0": 0.9, "white_0": 0.8, "plain_5": 0.85, "white_5": 0.3, "plain_10": 0.2}, (0.05, True)),
        ({"plain_0": 0.9, "white_0": 0.8, "plain_5": 0.44, "white_5": 0.3, "plain_10": 0.2}, (0.05, False)),
        ({"plain_0": 0.9, "white_0": 0.44}, (0, True)),
    ],
)
def test_the_rule_takes_the_least_grain_and_whitens_only_if_it_must(high, expected):
    assert images.rule_for_development(development(**high).sample(frac=1, random_state=0)) == expected


def test_a_table_on_which_the_rule_finds_nothing_is_said():
    with pytest.raises(ValueError, match="no grain of the table is enough"):
        images.rule_for_development(development(plain_0=0.9, white_0=0.8))


def test_scenes_are_developed_as_the_rule_says(study):
    from rosetta.sources.development import GRAIN

    table = images.by_development(study, ENCODERS)
    assert images.rule_for_development(table) == (GRAIN, True)
    assert table["dimensions"].iloc[0] < 3 and table["dimensions"].iloc[-1] > 190
