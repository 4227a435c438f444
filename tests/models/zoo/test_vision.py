import json
import shutil

import numpy as np
import pytest
import torch

from rosetta.models.zoo import objectives, vision

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
