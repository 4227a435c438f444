import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rosetta.models.load import ModelSpec
from rosetta.models.vision import open_vision
from rosetta.models.zoo import objectives, vision
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


@pytest.fixture(scope="module")
def written(prepared, tmp_path_factory):
    """Of each family: a model that was trained for three steps, the folder that it was written to, and its card."""
    made, zoo = {}, tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objectives, "BATCH", BATCH)
        for name in vision.names()[::5]:
            folder = shutil.copytree(prepared, zoo / ".training" / name)
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


@pytest.mark.parametrize("name", vision.names()[:15:5])
def test_an_encoder_that_was_written_gives_what_the_trained_one_gives(written, name):
    learnt, folder, card = written[name]
    opened = open_vision(ModelSpec(name, str(folder), card["family"], 0, 0, kind=card["kind"]))
    pixels = np.stack([scene(i, vision.HELDOUT).pixels for i in range(4)])
    found = opened.run(opened.prepare(pixels))
    expected = features_of(name, learnt, pixels)
    assert found.dtype == torch.float32 and found.shape == expected.shape
    assert (found - expected).abs().max() < 0.01 * expected.std()
    assert opened.grid == (card["grid"],) * 2 and len(opened.mlps) == card["layers"]
    assert {mlp.neurons for mlp in opened.mlps} == {card["mlp_width"]}


def test_a_generator_that_was_written_draws_what_the_trained_one_draws(written):
    learnt, folder, card = written["onestep-32x2"]
    opened = open_vision(ModelSpec("x", str(folder), "onestep", 0, 0, kind="onestep"))
    scenes = [scene(i, vision.HELDOUT) for i in range(4)]
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
