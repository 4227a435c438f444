import json
import shutil
from functools import cache

import numpy as np
import pytest
import torch
from killing import train_and_kill
from safetensors import safe_open
from safetensors.torch import load_file

from rosetta.models.load import ModelSpec
from rosetta.models.vision import open_vision
from rosetta.models.zoo import heldout, objectives, vision
from rosetta.results import write_json
from rosetta.sources.scenes import scene

BATCH, STEPS = 8, 3
SCENES = BATCH * STEPS


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Scenes of all families: as many as three steps of eight read."""
    folder = tmp_path_factory.mktemp("training")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vision, "side_by_side", lambda work, calls, jobs: [work(*call) for call in calls])
        for family in vision.FAMILIES:
            vision.prepare_family(family, SCENES, folder)
    return folder


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(objectives, "BATCH", BATCH)


@pytest.mark.parametrize("name", vision.names()[::5])
def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(prepared, tmp_path, name):
    runs = [shutil.copytree(prepared, tmp_path / run) for run in ("undisturbed", "stopped")]
    expected = vision.train(name, SCENES, runs[0]).state_dict()
    stopped = vision.train(name, SCENES, runs[1], stop_after=1)
    moved = [not torch.equal(tensor, expected[key]) for key, tensor in stopped.state_dict().items()]
    assert any(moved)
    vision.train(name, SCENES, runs[1], stop_after=2)
    for _ in range(2):  # the second time there is nothing left to do
        found = vision.train(name, SCENES, runs[1]).state_dict()
        assert found.keys() == expected.keys()
        for key, tensor in found.items():
            assert torch.equal(tensor, expected[key]), key
    log = [json.loads(line) for line in (runs[1] / f"{name}-{SCENES}.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [STEPS]
    assert all(np.isfinite(list(line.values())).all() for line in log)


def test_a_run_killed_while_it_saves_goes_on_from_its_last_whole_checkpoint(prepared, tmp_path):
    """DINOv2's, which has a teacher and centres to remember beside its weights."""
    runs, name = [shutil.copytree(prepared, tmp_path / run) for run in ("undisturbed", "killed")], "dinov2-32x2"
    train_and_kill(vision, name, SCENES, runs[1], whole=1, batch=BATCH)
    with safe_open(runs[1] / f"{name}-{SCENES}.safetensors", "pt") as file:
        assert file.metadata()["step"] == "1"
    expected, found = (vision.train(name, SCENES, run).state_dict() for run in runs)
    assert found.keys() == expected.keys()
    for key, tensor in found.items():
        assert torch.equal(tensor, expected[key]), key


@pytest.fixture(scope="module")
def written(prepared, tmp_path_factory):
    """Of each family: a model that was trained for three steps, the folder that it was written to, and its card."""
    made, zoo = {}, tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objectives, "BATCH", BATCH)
        for setting, value in {"FITTED": 64, "SCORED": 32, "CAPTIONS": 16, "OF_CLASS": 2}.items():
            patch.setattr(heldout, setting, value)
        for held in ("_scenes", "_classes"):
            patch.setattr(heldout, held, cache(getattr(heldout, held).__wrapped__))
        for name in vision.names()[::5]:
            folder = shutil.copytree(prepared, zoo / ".training" / name)
            known = [*vision.open_scenes("openclip", SCENES, folder).captions, *(s.caption for s in heldout._scenes())]
            write_json(folder / "openclip-words.json", vision.vocabulary(known))
            learnt = vision.train(name, SCENES, folder).eval()
            made[name] = learnt, zoo / name, vision.finish(name, learnt, SCENES, folder, zoo)
    return made


@torch.no_grad()
def features_of(name, learnt, pixels):
    """What the model that was trained gives for scenes as it saw them in training."""
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 128) / 24
    if name.startswith("openclip"):
        return learnt.visual(torch.nn.functional.interpolate(x, (56, 56), mode="bicubic", antialias=True))
    return learnt.encoder(x).last_hidden_state


@pytest.mark.parametrize("name", [name for name in vision.names()[::5] if not name.startswith("onestep")])
def test_an_encoder_that_was_written_gives_what_the_trained_one_gives(written, name):
    learnt, folder, card = written[name]
    opened = open_vision(ModelSpec(name, str(folder), card["family"], 0, 0, kind=card["kind"]))
    pixels = np.stack([scene(i, heldout.SEED).pixels for i in range(4)])
    found = opened.run(opened.prepare(pixels))
    expected = features_of(name, learnt, pixels)
    assert found.dtype == torch.float32 and found.shape == expected.shape
    assert (found - expected).abs().max() < 0.01 * expected.std()
    assert opened.grid == (card["grid"],) * 2 and len(opened.mlps) == card["layers"]
    assert {mlp.neurons for mlp in opened.mlps} == {card["mlp_width"]}


def test_a_generator_that_was_written_draws_what_the_trained_one_draws(written):
    learnt, folder, card = written["onestep-32x2"]
    opened = open_vision(ModelSpec("x", str(folder), "onestep", 0, 0, kind="onestep"))
    scenes = [scene(i, heldout.SEED) for i in range(4)]
    given = torch.tensor([one.label for one in scenes]), torch.from_numpy(np.stack([one.code for one in scenes]))
    with torch.no_grad():
        found, expected = opened.model(*given), learnt(*given)
    assert (found - expected).abs().max() < 0.01 * expected.std()
    assert (card["kind"], card["grid"], card["classes"]) == ("onestep", 8, 16)


@pytest.mark.parametrize("name", vision.names()[::5])
def test_a_folder_holds_float16_alone_and_its_card(written, name):
    learnt, folder, card = written[name]
    assert json.loads((folder / "card.json").read_text()) == card
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    kept = learnt if name.startswith(("openclip", "onestep")) else learnt.encoder
    assert card["parameters"] == sum(tensor.numel() for tensor in kept.state_dict().values())
    assert {parameter.dtype for parameter in learnt.parameters()} == {torch.float32}


FIGURES = {
    "openclip": {
        "right_caption_of_16": {"chance"}, "shape_by_probe": {"majority", "untrained"},
        "colour_by_probe": {"majority", "untrained"},
    },
    "dinov2": {"shape_by_probe": {"majority", "untrained"}, "colour_by_probe": {"majority", "untrained"}},
    "dinov3": {"shape_by_probe": {"majority", "untrained"}, "colour_by_probe": {"majority", "untrained"}},
    "pixio": {
        "shape_by_probe": {"majority", "untrained"}, "colour_by_probe": {"majority", "untrained"},
        "error_drawn": {"mean"}, "error_developed": {"mean"},
    },
    "onestep": {
        "error_drawn": {"mean"}, "error_developed": {"mean"}, "diversity_drawn": {"real"}, "diversity_developed": {"real"},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", vision.names()[::5])
def test_every_figure_stands_beside_what_ignorance_gives(written, name):
    _, _, card = written[name]
    assert {what: figure.keys() - {"value"} for what, figure in card["heldout"].items()} == FIGURES[card["family"]]
    for what, figure in card["heldout"].items():
        assert np.isfinite(list(figure.values())).all()
        if not what.startswith(("error", "diversity")):
            assert all(0 <= value <= 1 for value in figure.values())


def test_the_clip_that_was_written_is_read_whole(written):
    learnt, folder, _ = written["openclip-32x2"]
    words = json.loads((folder / vision.WORDS).read_text())
    ids = vision.caption_ids(words, [scene(i, heldout.SEED).caption for i in range(4)])
    with torch.no_grad():
        found, expected = vision.read_clip(folder).encode_text(ids), learnt.encode_text(ids)
    assert (found - expected).abs().max() < 0.01 * expected.std()


# ---------------------------------------------------------------------------------------------------------------------
# Captions


def test_captions_in_numbers_can_be_read_back_and_end_with_the_largest():
    captions = [scene(i).caption for i in range(20)]
    words = vision.vocabulary(captions)
    assert sorted(words.values()) == list(range(len(words)))
    ids = vision.caption_ids(words, captions).numpy()
    names = {number: word for word, number in words.items()}
    assert ids.shape == (20, vision.CAPTION_TOKENS) and ids.max() == len(words) - 1
    for row, caption in zip(ids, captions, strict=True):
        end = row.argmax()
        assert " ".join(names[number] for number in row[:end]) == caption
        assert names[row[end]] == "<end>" and not row[end + 1 :].any()


def test_a_caption_that_cannot_be_read_is_named():
    words = vision.vocabulary(["a red circle"])
    with pytest.raises(ValueError, match=r"'a blue ring' has words .*: blue, ring"):
        vision.caption_ids(words, ["a red circle", "a blue ring"])
    with pytest.raises(ValueError, match="has 32 words; at most 31"):
        vision.caption_ids(words, [" ".join(["red"] * 32)])
    assert vision.caption_ids(words, [" ".join(["red"] * 31)])[0, -1] == words["<end>"]
