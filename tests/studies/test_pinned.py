import json

import pytest
import yaml
from conftest import PAIR
from huggingface_hub import constants
from language_models import cached_on_the_hub

from rosetta.models.load import ROOT, ModelRefused, ModelSpec
from rosetta.studies.matches import Study
from rosetta.studies.pinned import kept, pinned

FIRST, SECOND = "1" * 40, "2" * 40
SPEC = ModelSpec("tiny", "someone/tiny", "opt", 2, 128)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_run_goes_on_with_the_commit_it_began_with(cache, tmp_path):
    for commit in (FIRST, SECOND):  # the branch moves
        cached_on_the_hub(cache, SPEC.source, ROOT / "zoo" / "opt-32x2", commit)
        assert pinned(SPEC, tmp_path / "run") == SPEC._replace(revision=FIRST)
    assert kept(SPEC, tmp_path / "run") == FIRST
    content = json.loads((tmp_path / "run" / "models" / "tiny.json").read_text())
    assert content == {"source": "someone/tiny", "revision": None, "commit": FIRST}
    assert pinned(SPEC, tmp_path / "another") == SPEC._replace(revision=SECOND)
    other = SPEC._replace(revision=SECOND)  # as the profile says now
    assert kept(other, tmp_path / "run") is None and pinned(other, tmp_path / "run") == other


def test_a_folder_and_a_tag_of_open_clip_are_as_they_are(cache, tmp_path):
    here = SPEC._replace(source="zoo/opt-32x2")
    tagged = SPEC._replace(source="ViT-B-16", kind="open_clip", tag="openai")
    assert pinned(here, tmp_path) == here and pinned(tagged, tmp_path) == tagged
    assert not (tmp_path / "models").exists() and kept(here, tmp_path) is None


def test_what_cannot_be_had_is_refused_and_nothing_is_kept(cache, tmp_path):
    with pytest.raises(ModelRefused, match=r"model tiny: HF_HUB_OFFLINE is set"):
        pinned(SPEC, tmp_path)
    assert kept(SPEC, tmp_path) is None


def test_a_study_of_models_of_the_hub_keeps_what_it_ran_on(cache, tmp_path, profile):
    path = profile()
    content = yaml.safe_load(path.read_text())
    for name, commit in zip(PAIR, (FIRST, SECOND), strict=True):
        cached_on_the_hub(cache, f"someone/{name}", ROOT / "zoo" / name, commit)
        content["models"][name]["source"] = f"someone/{name}"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    study = Study(path, tmp_path / "results")
    acts, _ = study.reader(PAIR[0]).read([[5, 6, 7]])
    assert acts.shape == (3, 256) and len(list(study.batches(PAIR, 300))) > 0
    assert [kept(study.profile.models[name], study.folder) for name in PAIR] == [FIRST, SECOND]
