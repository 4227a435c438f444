import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from vision_models import moved, numbers, pmf_block, rms, under

from rosetta.matching.activations import capture
from rosetta.models.generators import onestep
from rosetta.models.generators.renderer import ROW
from rosetta.models.load import ModelRefused, ModelSpec
from rosetta.models.opened import BadPicture
from rosetta.models.vision import describe_vision, open_vision
from rosetta.sources.development import WHITENING
from rosetta.sources.scenes import CLASSES, CODE, scene

LABELS, SEEDS = torch.tensor([0, CLASSES - 1, 2]), [11, 12, 13]


@pytest.fixture
def spec(tmp_path) -> ModelSpec:
    torch.manual_seed(0)
    onestep.save(moved(onestep.OneStep(32, 2, CLASSES, CODE)), tmp_path)
    return ModelSpec("tiny", str(tmp_path), "onestep", 2, 88, kind="onestep", grid=8, classes=CLASSES)


def by_hand(w, label, code):
    """What the network gives out, float64 [3, 64, 64], and every layer's m_t, [12 + 64, neurons]."""
    of_class = w["class_tokens"] + w["y_embedder.embedding_table.weight"][label]
    of_code = (w["code_embedder.weight"] @ code + w["code_embedder.bias"]).reshape(8, -1)
    x, layers = np.concatenate([of_class, of_code, w["pos_embed"]]), []
    for i in range(2):
        x, m = pmf_block(under(w, f"blocks.{i}."), x, 12, 8)
        layers.append(m)
    cells = rms(x[12:], w["final_layer.norm.weight"]) @ w["final_layer.linear.weight"].T + w["final_layer.linear.bias"]
    return cells.reshape(8, 8, 8, 8, 3).transpose(4, 0, 2, 1, 3).reshape(3, 64, 64), layers


def developed(drawn):
    """Grey levels, float64 [64, 64, 3], each patch whitened by the fixed matrix: grey levels about 128."""
    tensors = load_file(WHITENING)
    matrix, mean = tensors["matrix"].numpy() / 2**16, tensors["mean"].numpy()
    out = np.empty_like(drawn)
    for row, column in np.ndindex(8, 8):
        there = slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8)
        out[there] = ((16 * drawn[there].ravel() - mean) @ matrix).reshape(8, 8, 3)
    return 128 + out


def test_a_picture_is_what_the_network_draws_of_class_and_code_developed_with_grain_and_m_t_is_its_equations(spec):
    assert describe_vision(spec.source, "onestep", name="tiny", family="onestep") == spec
    vision = open_vision(spec)
    assert (vision.grid, vision.prefix, vision.prepare) == ((8, 8), 12, None)
    with capture(vision.mlps) as seen:
        made = vision.run(LABELS, SEEDS)
    assert made.shape == (3, 64, 64, 3) and made.dtype == torch.uint8
    weights = numbers(vision.model)
    for i, (label, seed) in enumerate(zip(LABELS.tolist(), SEEDS, strict=True)):
        picture, layers = by_hand(weights, label, scene(seed, ROW, label).code)
        grain = torch.randn(64, 64, 3, generator=torch.Generator().manual_seed(seed)).double().numpy()
        drawn = 128 + 64 * picture.transpose(1, 2, 0)
        expected = np.clip(developed(drawn + 0.05 * 255 * grain), 0, 255)
        assert np.abs(made[i].numpy() - expected).max() < 0.51
        for mlp, m in zip(vision.mlps, layers, strict=True):
            np.testing.assert_allclose(seen[mlp.path][i], m, atol=1e-5 * max(1, np.abs(m).max()))


def test_a_picture_depends_on_its_label_and_seed_and_not_on_those_it_is_made_with(spec):
    vision = open_vision(spec)
    together = vision.run(LABELS, SEEDS)
    for i in range(3):
        assert (vision.run(LABELS[i : i + 1], SEEDS[i : i + 1])[0].int() - together[i].int()).abs().max() <= 1
    assert not torch.equal(vision.run(torch.tensor([1]), SEEDS[:1])[0], together[0])


def test_an_untrained_one_is_drawn_from_its_seed(spec):
    first, again, other = (numbers(open_vision(spec, seed=seed).model) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["class_tokens"], other["class_tokens"])


def test_what_is_wrong_with_it_is_named(spec, tmp_path):
    with pytest.raises(ValueError, match=rf"there is no class {CLASSES}; its classes are 0 to {CLASSES - 1}"):
        open_vision(spec).run(torch.tensor([CLASSES]), [1])
    vision = open_vision(spec)
    vision.model.blocks[1].norm1.weight[0] = float("nan")
    with pytest.raises(BadPicture, match=r"label 2, seed 7 .*begins in layer 1, blocks.1.mlp.w2"):
        vision.run(torch.tensor([2]), [7])
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["class_tokens"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelRefused, match=r"model tiny: .*OneStep: 1 missing \(class_tokens\)"):
        open_vision(spec)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelRefused, match=r"there is no model\.safetensors"):
        open_vision(spec)
