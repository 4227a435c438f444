import json
import logging

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import load_file, save_file
from timm.models.eva import Eva
from vision_models import (
    MEAN,
    SHOWN,
    STD,
    TOWER,
    clip_layers,
    eva_layers,
    numbers,
    quick_gelu,
    timm_layers,
    under,
    write_clip,
)  # fmt: skip

from rosetta.matching.activations import capture
from rosetta.models.load import ModelRefused, ModelSpec
from rosetta.models.towers import configuration
from rosetta.models.vision import describe_vision, open_vision

PIXELS = torch.randint(0, 256, (2, 24, 24, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
TRUNK = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": "linear", "image_size": 224}


def normalized(pixels) -> np.ndarray:
    return ((pixels.double().numpy() / 255 - MEAN) / STD).transpose(0, 3, 1, 2)


def read(vision, pixels) -> list[np.ndarray]:
    """m_t of each layer, [B, tokens, neurons]."""
    with capture(vision.mlps) as seen:
        vision.run(vision.prepare(pixels))
    return [seen[mlp.path].numpy() for mlp in vision.mlps]


def known(name: str, tag: str | None) -> ModelSpec:
    return ModelSpec(name, name, "openclip", 12, 3_072, kind="open_clip", tag=tag)


@pytest.mark.parametrize("quick", [False, True])
def test_a_tower_is_read_as_its_equations_have_it_with_the_activation_of_its_configuration(tmp_path, quick):
    spec = write_clip(tmp_path, quick_gelu=quick)
    assert describe_vision(str(tmp_path), "open_clip", name="clip") == spec
    vision = open_vision(spec)
    assert (vision.grid, vision.prefix) == ((3, 3), 1)
    weights, captured = numbers(vision.model), read(vision, PIXELS)
    for image, one in enumerate(normalized(PIXELS)):
        layers = clip_layers(weights, one, quick_gelu) if quick else clip_layers(weights, one)
        for m, expected in zip(captured, layers, strict=True):
            np.testing.assert_allclose(m[image], expected, atol=1e-5)
    other = list(clip_layers(weights, normalized(PIXELS)[0], *([] if quick else [quick_gelu])))
    assert np.abs(captured[0][0] - other[0]).max() > 1e-3  # the two activations can be told apart here


def test_a_trunk_of_timms_is_read_as_its_equations_have_it(tmp_path):
    spec = write_clip(tmp_path, TRUNK, neurons=768, custom_text=True)
    vision = open_vision(spec)
    assert (vision.grid, vision.prefix, len(vision.mlps)) == ((14, 14), 1, 12)
    pixels = torch.randint(0, 256, (1, 224, 224, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    captured, weights = read(vision, pixels), under(numbers(vision.model), "trunk.")
    for m, expected in zip(captured, timm_layers(weights, normalized(pixels)[0], heads=3), strict=True):
        np.testing.assert_allclose(m[0], expected, atol=1e-5 * max(1, np.abs(expected).max()))


@timm.models.register_model
def eva_of_the_tests(num_classes, global_pool, **_settings):
    """EVA-02-CLIP-E's kind of trunk: a norm after each part, GELU without a gate, no bias of keys."""
    return Eva(
        img_size=24, patch_size=8, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2.5, use_post_norm=True,
        num_classes=num_classes, global_pool=global_pool,
    )  # fmt: skip


def test_an_eva_is_read_as_its_equations_have_it(tmp_path):
    trunk = {"timm_model_name": "eva_of_the_tests", "timm_pool": "token", "timm_proj": None, "image_size": 24}
    vision = open_vision(write_clip(tmp_path, trunk, neurons=40, custom_text=True))
    assert (vision.grid, vision.prefix, [mlp.neurons for mlp in vision.mlps]) == ((3, 3), 1, [40, 40])
    captured, weights = read(vision, PIXELS), under(numbers(vision.model), "trunk.")
    for image, one in enumerate(normalized(PIXELS)):
        for m, expected in zip(captured, eva_layers(weights, one), strict=True):
            np.testing.assert_allclose(m[image], expected, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize(
    ("tag", "quick"),
    [
        ("openai", True),
        ("metaclip_400m", True),
        ("dfn2b", True),
        ("laion2b_s34b_b88k", False),
        ("datacomp_xl_s13b_b90k", False),
    ],
)
def test_quickgelu_is_a_matter_of_the_tag_and_not_of_the_architectures_name(tag, quick, caplog):
    with caplog.at_level(logging.INFO, "rosetta.models.towers"):
        vision = open_vision(known("ViT-B-16", tag), "meta")
    assert isinstance(vision.model.transformer.resblocks[3].mlp.gelu, QuickGELU) == quick
    assert (f"the tag {tag} was trained with quick_gelu True" in caplog.text) == quick
    if quick:
        named = open_vision(known("ViT-B-16-quickgelu", tag), "meta")
        assert isinstance(named.model.transformer.resblocks[3].mlp.gelu, QuickGELU)


def test_images_are_normalized_as_the_tag_says():
    for name, tag, mean in (
        ("ViT-L-14", "laion2b_s32b_b82k", (0.5, 0.5, 0.5)),
        ("ViT-L-14", "datacomp_xl_s13b_b90k", (0.48145466, 0.4578275, 0.40821073)),
    ):
        assert configuration(known(name, tag))[1]["mean"] == mean


def test_a_folder_whose_activation_is_not_its_tags_is_refused(tmp_path):
    spec = write_clip(tmp_path)._replace(tag="openai")
    with pytest.raises(
        ModelRefused, match=r"tagged 'openai' were trained with quick_gelu True, .* says False; correct"
    ):
        open_vision(spec)
    assert open_vision(spec._replace(tag="laion2b_s34b_b88k")).grid == (3, 3)


@pytest.mark.parametrize(
    ("source", "tag", "said"),
    [
        ("ViT-B-16", "openay", "open_clip has no tag 'openay' for ViT-B-16; there are openai, .*dfn2b"),
        ("ViT-B-16-quickgelu", "laion2b_s34b_b88k", "no tag 'laion2b_s34b_b88k' for ViT-B-16-quickgelu"),
        ("ViT-B-16", None, "a tag must say which ViT-B-16; there are openai"),
        ("ViT-B-61", "openai", "no architecture that open_clip knows; near it are ViT-B-16"),
        ("RN50", "openai", "ModifiedResNet is no transformer of patches"),
        ("convnext_base", "laion400m_s13b_b51k", "ConvNeXt is no transformer of patches"),
    ],
)  # fmt: skip
def test_an_architecture_or_tag_that_there_is_not_is_refused(source, tag, said):
    with pytest.raises(ModelRefused, match=f"model {source}: .*{said}"):
        open_vision(known(source, tag))


def test_a_tag_of_no_model_is_refused_beside_a_folder(tmp_path):
    with pytest.raises(ModelRefused, match="no tag 'mine'; leave it out for weights of your own"):
        open_vision(write_clip(tmp_path)._replace(tag="mine"))


def test_another_size_than_the_towers_is_refused(tmp_path):
    with pytest.raises(ModelRefused, match="the profile asks for images of 32 pixels; its positions are for 24"):
        open_vision(write_clip(tmp_path)._replace(image_size=32))
    with pytest.raises(ModelRefused, match="preprocess_cfg asks for images of 30 pixels"):
        open_vision(write_clip(tmp_path, shown=SHOWN | {"size": [30, 30]}))


def test_a_grid_that_is_not_square_or_not_of_its_images_is_refused(tmp_path):
    with pytest.raises(
        ModelRefused, match=r"images are of 24 pixels, and its cells a grid of 3 x 4 of 8; only squares"
    ):
        open_vision(write_clip(tmp_path, TOWER | {"image_size": [24, 32]}))
    trunk = {"timm_model_name": "eva_of_the_tests", "timm_pool": "token", "timm_proj": None, "image_size": 32}
    with pytest.raises(ModelRefused, match=r"images are of 32 pixels, and its cells a grid of 3 x 3 of 8"):
        open_vision(write_clip(tmp_path, trunk, custom_text=True))


def test_a_configuration_that_does_not_say_how_images_are_normalized_is_refused(tmp_path):
    with pytest.raises(ModelRefused, match="not say model_cfg and preprocess_cfg with mean and std"):
        open_vision(write_clip(tmp_path, shown={"size": 24}))
    with pytest.raises(ModelRefused, match="resizing by 'lanczos'"):
        open_vision(write_clip(tmp_path, shown=SHOWN | {"interpolation": "lanczos"}))


def test_a_folder_without_its_files_is_refused_by_their_names(tmp_path):
    spec = write_clip(tmp_path)
    (tmp_path / "open_clip_model.safetensors").rename(tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(ModelRefused, match=r"open_clip_pytorch_model.bin is a pickle"):
        open_vision(spec)
    (tmp_path / "open_clip_pytorch_model.bin").unlink()
    with pytest.raises(ModelRefused, match=r"there is no open_clip_model.safetensors"):
        open_vision(spec)
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": ')
    with pytest.raises(ModelRefused, match=r"model clip: .*open_clip_config.json is no whole JSON"):
        open_vision(spec)
    (tmp_path / "open_clip_config.json").unlink()
    with pytest.raises(ModelRefused, match=r"there is no open_clip_config.json"):
        open_vision(spec)


def test_a_towers_weights_are_read_strictly_and_the_texts_not_at_all(tmp_path):
    spec = write_clip(tmp_path)
    file = tmp_path / "open_clip_model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(file).items() if name.startswith("visual.")}
    save_file(tensors, file)
    expected = numbers(open_vision(spec).model)
    assert all(np.array_equal(expected[name.removeprefix("visual.")], t.double()) for name, t in tensors.items())
    tensors["visual.extra"] = torch.zeros(2)
    del tensors["visual.ln_pre.bias"]
    tensors["visual.positional_embedding"] = torch.zeros(17, 16)
    save_file(tensors, file)
    said = r"1 missing \(ln_pre.bias\), 1 left over \(extra\), 1 of another shape \(positional_embedding \(17, 16\) instead of \(10, 16\)"
    with pytest.raises(ModelRefused, match=said):
        open_vision(spec)


def test_an_untrained_tower_is_open_clips_own_initialization_by_its_seed(tmp_path):
    spec = write_clip(tmp_path)
    state = torch.random.get_rng_state()
    first, again, other = (numbers(open_vision(spec, seed=seed).model) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["class_embedding"], other["class_embedding"])
    config = json.loads((tmp_path / "open_clip_config.json").read_text())["model_cfg"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        whole = open_clip.CLIP(config["embed_dim"], TOWER, config["text_cfg"])
    assert all(np.array_equal(first[name], value) for name, value in numbers(whole.visual).items())


def test_a_spec_of_the_hub_asks_for_the_tags_safetensors(monkeypatch, tmp_path):
    """Without a network: what is asked for, and nothing is fetched in its place."""
    asked = []

    def download(repository, name, revision=None):
        asked.append((repository, name, revision))
        raise OSError("no network")

    monkeypatch.setattr("rosetta.models.towers.hf_hub_download", download)
    for spec in (
        known("ViT-B-16", "openai"),
        known("EVA02-E-14", "laion2b_s4b_b115k")._replace(revision="abc"),
        ModelSpec("a", "someone/a-clip", "clip", 1, 1, revision="def", kind="open_clip"),
    ):
        with pytest.raises(ModelRefused, match="cannot be had from the model hub: no network"):
            open_vision(spec)
    assert asked == [
        ("timm/vit_base_patch16_clip_224.openai", "open_clip_model.safetensors", None),
        ("timm/eva02_enormous_patch14_clip_224.laion2b_s4b_b115k", "open_clip_model.safetensors", "abc"),
        ("someone/a-clip", "open_clip_config.json", "def"),
    ]
