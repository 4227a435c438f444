import copy
import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.ndimage import convolve
from vision_models import numbers, silu, write_flux, write_sana

from rosetta.matching.activations import capture
from rosetta.models.load import ModelRefused
from rosetta.models.opened import BadPicture
from rosetta.models.vision import describe_vision, open_vision

LABELS, SEEDS = torch.tensor([0, 2, 1]), [5, 6, 2**40]
SANA = {"size": 32, "binned": False}
FLUX = {"size": 32}


@pytest.fixture
def names(tmp_path):
    """A file with the names of three classes."""
    file = tmp_path / "names.txt"
    file.write_text("tench, Tinca tinca\nhen\neel\n")
    return file


@pytest.fixture(scope="module")
def sana(tmp_path_factory):
    return write_sana(tmp_path_factory.mktemp("models") / "sana")


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    return write_flux(tmp_path_factory.mktemp("models") / "flux")


def calls_of(network, run) -> list[dict]:
    """What a network was called with, each time, in float64; its first input by the name it has there."""
    calls = []

    def hook(_module, args, kwargs):
        calls.append(dict(zip(("hidden_states",), args, strict=False)) | kwargs)

    handle = network.register_forward_pre_hook(hook, with_kwargs=True)
    run()
    handle.remove()
    return [
        {key: x.double() if torch.is_tensor(x) and x.is_floating_point() else x for key, x in call.items()}
        for call in calls
    ]


def sana_layers(network, call):
    """m_t of each layer, [B, channels, rows, columns]: attention by diffusers' parts in float64, the gated MLP by hand."""
    network = copy.deepcopy(network).double()
    x = network.patch_embed(call["hidden_states"])
    rows, columns = call["hidden_states"].shape[2:]
    mask = (1 - call["encoder_attention_mask"].double())[:, None] * -10_000
    time, _ = network.time_embed(call["timestep"], guidance=call["guidance"], hidden_dtype=torch.float64)
    said = network.caption_norm(network.caption_projection(call["encoder_hidden_states"]))
    for block in network.transformer_blocks:
        table = (block.scale_shift_table[None] + time.reshape(len(x), 6, -1)).chunk(6, dim=1)
        shift, scale, gate, shift_of_mlp, scale_of_mlp, gate_of_mlp = table
        x = x + gate * block.attn1(block.norm1(x) * (1 + scale) + shift)
        x = x + block.attn2(x, encoder_hidden_states=said, attention_mask=mask)
        y = (block.norm2(x) * (1 + scale_of_mlp) + shift_of_mlp).unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
        w = numbers(block.ff)
        wide = (
            np.einsum("oi,bihw->bohw", w["conv_inverted.weight"][:, :, 0, 0], y)
            + w["conv_inverted.bias"][:, None, None]
        )
        mixed = np.stack([
            # torch's convolution is a correlation
            [convolve(one, kernel[0, ::-1, ::-1], mode="constant") for one, kernel in zip(image, w["conv_depth.weight"], strict=True)]
            for image in silu(wide)
        ]) + w["conv_depth.bias"][:, None, None]  # fmt: skip
        values, gates = np.split(mixed, 2, axis=1)
        m = values * silu(gates)
        yield m
        out = torch.from_numpy(np.einsum("oi,bihw->bohw", w["conv_point.weight"][:, :, 0, 0], m))
        x = x + gate_of_mlp * out.flatten(2).movedim(1, 2)


def flux_layers(network, call):
    """m_t of each layer, [B, cells or text and cells, channels]: attention by diffusers' parts in float64, MLPs by hand."""
    network = copy.deepcopy(network).double()
    time = network.time_guidance_embed(call["timestep"] * 1_000, None)
    of_images, of_text, of_single = (
        modulation(time)
        for modulation in (
            network.double_stream_modulation_img, network.double_stream_modulation_txt, network.single_stream_modulation,
        )
    )  # fmt: skip
    x, text = network.x_embedder(call["hidden_states"]), network.context_embedder(call["encoder_hidden_states"])
    angles = [network.pos_embed(call[ids][0]) for ids in ("txt_ids", "img_ids")]
    turns = tuple(torch.cat(part).double() for part in zip(*angles, strict=True))

    def gated(y, w):
        gate, up = np.split(y.numpy() @ w.T, 2, axis=-1)
        return silu(gate) * up

    for block in network.transformer_blocks:
        shift, scale, gate, shift_of_mlp, scale_of_mlp, _ = of_images[:, None].chunk(6, dim=-1)
        shift_of_text, scale_of_text = of_text[:, None].chunk(6, dim=-1)[:2]
        attended, _ = block.attn(
            hidden_states=block.norm1(x) * (1 + scale) + shift,
            encoder_hidden_states=block.norm1_context(text) * (1 + scale_of_text) + shift_of_text,
            image_rotary_emb=turns,
        )
        y = block.norm2(x + gate * attended) * (1 + scale_of_mlp) + shift_of_mlp
        yield gated(y, numbers(block.ff)["linear_in.weight"])
        text, x = block(x, text, of_images, of_text, turns)
    x = torch.cat((text, x), dim=1)
    for block in network.single_transformer_blocks:
        shift, scale, _ = of_single[:, None].chunk(3, dim=-1)
        width = x.shape[-1]
        yield gated(block.norm(x) * (1 + scale) + shift, numbers(block.attn)["to_qkv_mlp_proj.weight"][3 * width :])
        x = block(x, None, of_single, turns)


def test_sana_is_read_in_its_one_step_where_its_gated_convolution_ends(sana, names):
    assert describe_vision(sana.source, "sana", name="sana") == sana
    vision = open_vision(sana, names=names, **SANA)
    assert (vision.grid, vision.prefix, vision.classes) == ((16, 16), 0, 3)
    made = []
    with capture(vision.mlps) as seen:
        calls = calls_of(vision.model, lambda: made.append(vision.run(LABELS, SEEDS)))
    assert made[0].shape == (3, 32, 32, 3) and made[0].dtype == torch.uint8 and len(calls) == 1
    for mlp, m in zip(vision.mlps, sana_layers(vision.model, calls[0]), strict=True):
        assert m.shape == (3, 40, 16, 16)
        np.testing.assert_allclose(seen[mlp.path][:, mlp.channels], m, atol=1e-5 * max(1, np.abs(m).max()))
    # it starts at a right angle, and is told the guidance
    assert torch.allclose(calls[0]["timestep"], torch.ones(3, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(calls[0]["guidance"], 4.5 * 0.1 * torch.ones(3, dtype=torch.float64))


def test_flux_is_read_in_its_last_step_without_its_text_and_attention(flux, names):
    assert describe_vision(flux.source, "flux", name="flux") == flux
    vision = open_vision(flux, names=names, **FLUX)
    assert (vision.grid, vision.prefix, vision.classes) == ((8, 8), None, 3)
    made = []
    with capture(vision.mlps) as seen:
        calls = calls_of(vision.model, lambda: made.append(vision.run(LABELS, SEEDS)))
    assert made[0].shape == (3, 32, 32, 3) and made[0].dtype == torch.uint8 and len(calls) == 2
    for mlp, m in zip(vision.mlps, flux_layers(vision.model, calls[1]), strict=True):
        found = seen[mlp.path][..., mlp.channels]
        assert found.shape == m.shape and m.shape[-1] == 96
        assert m.shape[1] == (64 if "single" not in mlp.path else 64 + 512)  # of the latter the last are the cells
        np.testing.assert_allclose(found, m, atol=1e-5 * max(1, np.abs(m).max()))


def test_images_are_binned_to_the_size_that_sana_was_trained_for(sana, names):
    """1,024 pixels; this one's autoencoder makes 512 x 512 cells of them, the real one's 32 x 32."""
    assert open_vision(sana, "meta", names=names).grid == (512, 512)


@pytest.mark.parametrize(("kind", "settings"), [("sana", SANA), ("flux", FLUX)])
def test_a_picture_depends_on_its_class_and_seed_and_not_on_those_it_is_made_with(kind, settings, names, request):
    vision = open_vision(request.getfixturevalue(kind), names=names, **settings)
    together = vision.run(LABELS, SEEDS)
    for i in range(3):
        alone = vision.run(LABELS[i : i + 1], SEEDS[i : i + 1])[0]
        assert (alone.int() - together[i].int()).abs().max() <= 1
    assert not torch.equal(vision.run(LABELS[:1], [9])[0], together[0])
    assert not torch.equal(vision.run(torch.tensor([1]), SEEDS[:1])[0], together[0])


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("sana", SANA, ["a tench, Tinca tinca", "an eel", "a hen"]),
        ("flux", FLUX, ["a sharp photo of a Tinca tinca", "a sharp photo of an eel", "a sharp photo of a hen"]),
        ("flux", FLUX | {"template": "{name}!"}, ["Tinca tinca!", "eel!", "hen!"]),
    ],
)
def test_the_prompts_are_made_of_the_classes_names(kind, settings, expected, names, request, monkeypatch):
    import diffusers

    asked = []
    pipeline = {"sana": diffusers.SanaSprintPipeline, "flux": diffusers.Flux2KleinPipeline}[kind]
    call = pipeline.__call__
    monkeypatch.setattr(pipeline, "__call__", lambda self, **more: asked.append(more["prompt"]) or call(self, **more))
    open_vision(request.getfixturevalue(kind), names=names, **settings).run(LABELS, SEEDS)
    assert asked == [expected]


@pytest.mark.parametrize(("kind", "settings"), [("sana", SANA), ("flux", FLUX)])
def test_an_untrained_network_is_drawn_from_its_seed_and_the_rest_stays(kind, settings, names, request):
    spec = request.getfixturevalue(kind)
    first, again, other, trained = (
        numbers(open_vision(spec, seed=seed, names=names, **settings).model) for seed in (1, 1, 2, None)
    )
    name = next(name for name in first if name.endswith(("conv_point.weight", "attn.to_out.weight")))
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert not np.array_equal(first[name], other[name]) and not np.array_equal(first[name], trained[name])
    assert first[name].std() == pytest.approx((1 / np.sqrt(3 * first[name].shape[1])), rel=0.1)  # torch's own


@pytest.mark.parametrize("label", [-1, 3])
def test_a_class_that_there_is_not_is_refused(sana, names, label):
    with pytest.raises(ValueError, match=rf"model sana: there is no class {label}; its classes are 0 to 2"):
        open_vision(sana, names=names, **SANA).run(torch.tensor([label]), [1])


def test_nan_in_a_picture_is_refused_with_the_picture_and_the_layer(flux, names):
    vision = open_vision(flux, names=names, **FLUX)
    vision.model.single_transformer_blocks[1].attn.to_qkv_mlp_proj.weight[0] = float("nan")
    with pytest.raises(
        BadPicture, match=r"label 2, seed 7 .*begins in layer 2, single_transformer_blocks.1.attn.to_out"
    ):
        vision.run(torch.tensor([2]), [7])


@pytest.mark.parametrize(
    ("kind", "size", "multiple"), [("sana", {"size": 33, "binned": False}, 2), ("flux", {"size": 30}, 4)]
)
def test_a_size_of_pictures_that_cannot_be_is_refused(kind, size, multiple, names, request):
    with pytest.raises(ModelRefused, match=rf"model {kind}: images of .*multiples of {multiple}"):
        open_vision(request.getfixturevalue(kind), names=names, **size)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_weights_of_any_part_that_are_missing_or_left_over_are_named(tmp_path, part):
    spec = write_sana(tmp_path / "sana")
    file = next((tmp_path / "sana" / part).glob("*.safetensors"))
    tensors = load_file(file)
    dropped = sorted(tensors)[0]
    tensors["surplus.weight"] = torch.zeros(2)
    del tensors[dropped]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        ModelRefused, match=rf"model sana: .*1 missing \(.*{dropped}\), 1 left over \(.*surplus.weight\)"
    ):
        open_vision(spec, **SANA)


def test_what_is_no_pipeline_of_its_kind_is_refused(tmp_path, sana):
    with pytest.raises(ModelRefused, match=r"there is no model_index.json in"):
        open_vision(sana._replace(source=str(tmp_path)))
    with pytest.raises(ModelRefused, match="is a SanaSprintPipeline, not a Flux2KleinPipeline"):
        open_vision(sana._replace(kind="flux"))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "SanaPipeline"}))
    with pytest.raises(ModelRefused, match="is a SanaPipeline, not a SanaSprintPipeline"):
        open_vision(sana._replace(source=str(tmp_path)))


def test_where_diffusers_is_missing_it_is_said_how_to_add_it(sana, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(
        ModelRefused, match=r"model sana: a model of kind sana is run by diffusers, .*make env.*pip install diffusers"
    ):
        open_vision(sana)


def test_diffusers_is_not_imported_for_other_models():
    import subprocess

    code = "import sys, rosetta.models.vision, rosetta.models.towers; print('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
