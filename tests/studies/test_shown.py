"""What a study shows to its models: images are looked for when they are wanted."""

import numpy as np
import pytest
import yaml
from PIL import Image

from rosetta import profiles
from rosetta.models.load import ROOT
from rosetta.profiles import ProfileError
from rosetta.studies.matches import Study


def smoke(tmp_path, **real) -> Study:
    """The smoke profile with real images of a folder."""
    content = yaml.safe_load((ROOT / "profiles" / "smoke.yaml").read_text(encoding="utf-8"))
    content["images"]["real"] = {"kind": "folder"} | real
    return Study(profiles.check(content, "mine.yaml"), tmp_path)


@pytest.mark.parametrize(
    ("imagenet", "said"),
    [
        (True, "put ImageNet's images, a folder for each class or .* ILSVRC2012_val_.*, there"),
        (False, "put image files, there"),
    ],
)
def test_a_folder_of_images_that_is_not_there_is_refused_when_they_are_wanted(tmp_path, imagenet, said):
    study = smoke(tmp_path, path=str(tmp_path / "photographs"), imagenet=imagenet)
    with pytest.raises(
        ProfileError, match=rf"mine.yaml: images.real.path is .*photographs, which is no folder; {said}"
    ):
        study.real(1)


def test_a_folder_of_images_is_relative_to_the_kit_and_may_come_later(tmp_path):
    assert profiles.load("paper").images.real["path"] == str(ROOT / "data" / "imagenet" / "val")
    study = smoke(tmp_path, path=str(tmp_path / "val"), imagenet=True)
    for i, name in enumerate(("n02", "n01")):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.fromarray(np.full((4, 6, 3), 80 * i, np.uint8)).save(tmp_path / "val" / name / "one.png")
    found = list(study.real(2))
    assert [(picture.label, picture.pixels[0, 0, 0]) for picture in found] == [(0, 80), (1, 0)]
    with pytest.raises(ValueError, match="3 pictures are asked for, and there are 2"):
        list(study.real(3))
