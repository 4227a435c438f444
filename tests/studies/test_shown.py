"""What a study shows to its models: text as its profile samples it; images are looked for when they are wanted."""

import json
import random

import numpy as np
import pytest
import yaml
from conftest import PAIR
from PIL import Image

from rosetta import profiles
from rosetta.models.load import ROOT, load_tokenizer
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


# ---------------------------------------------------------------------------------------------------------------------
# Text sampled i.i.d.

IID = {"sampling": "iid", "short_documents": "whole", "excerpt_characters": 200, "segments_per_document": None}


def test_a_sample_has_exactly_the_tokens_asked_for_and_a_smaller_one_is_its_beginning(profile, tmp_path):
    study = Study(profile(**IID), tmp_path)

    def read(tokens: int) -> list:
        return [(i, piece.document.source) for piece in study.pieces(PAIR, tokens) for i in piece.ids_a]

    sizes = (100, 700, 2_000)
    samples = {tokens: read(tokens) for tokens in sizes}
    assert [len(samples[tokens]) for tokens in sizes] == list(sizes)
    assert samples[700][:600] == samples[2_000][:600]  # but for the last few, which fill up the budget
    assert read(700) == samples[700] == [
        (i, piece.document.source) for piece in Study(study.profile, tmp_path / "again").pieces(PAIR, 700)
        for i in piece.ids_a
    ]  # fmt: skip
    tokenizer = load_tokenizer(study.profile.models[PAIR[0]])
    assert sum(len(window.ids) for window in study.windows(tokenizer)) == study.profile.contexts.tokens


def test_separate_samples_are_others_and_each_the_same_again(profile, tmp_path):
    study = Study(profile(**IID), tmp_path)
    texts = {n: [piece.document.text for piece in study.separate(PAIR, n)] for n in (300, 600)}
    assert texts[600] == [piece.document.text for piece in study.separate(PAIR, 600)]
    main = [piece.document.text for piece in study.pieces(PAIR, 600)]
    assert not {*texts[300]} & {*texts[600]} and not {*texts[600]} & {*main}
    excerpts = Study(profile("excerpts"), tmp_path)
    assert [d.text for d in excerpts.documents(7)] != [d.text for d in excerpts.documents()]


def test_excerpts_are_read_as_before(profile, tmp_path, library):
    """A random excerpt of each document, in the order of Python's shuffle."""
    study = Study(profile(), tmp_path)
    whole = [json.loads(line)["text"] for line in library.read_text(encoding="utf-8").splitlines()]
    random.Random(0).shuffle(whole)
    expected = []
    for text in whole:
        starts = [0] + [i + 1 for i, c in enumerate(text[:-320]) if c == "\n"]
        start = random.Random(f"0-{text}").choice(starts) if len(text) > 320 else 0
        expected.append(text[start : start + 320])
    assert [document.text for document in study.documents()] == expected


def test_what_was_made_of_excerpts_is_not_taken_for_a_samples(profile, tmp_path):
    excerpts, sampled = Study(profile(), tmp_path), Study(profile("sampled", **IID), tmp_path)
    assert excerpts.parameters(PAIR)["sampling"] != sampled.parameters(PAIR)["sampling"]
