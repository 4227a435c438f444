import json
import math

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from vision_models import ENCODERS, MEAN, STD, encoder_layers, numbers, write_encoder, write_processor  # fmt: skip

from rosetta.matching.activations import capture
from rosetta.models.load import ModelRefused, ModelSpec, fingerprint
from rosetta.models.vision import describe_vision, open_vision

PIXELS = torch.randint(0, 256, (2, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def normalized(pixels) -> np.ndarray:
    """[B, h, w, 3] -> float64 [B, 3, h, w]"""
    return ((pixels.double().numpy() / 255 - MEAN) / STD).transpose(0, 3, 1, 2)


# ---------------------------------------------------------------------------------------------------------------------
# Table 3

CLIPS = {"B": "ViT-B-16", "L": "ViT-L-14", "H": "ViT-H-14", "bigG": "ViT-bigG-14", "E": "EVA02-E-14"}
DINOV2 = {
    "B": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "L": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "g": {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True},
}
DINOV3 = {
    "B": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "H+": {
        "hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20, "intermediate_size": 5120,
        "use_gated_mlp": True, "hidden_act": "silu",
    },
    "7B": {
        "hidden_size": 4096, "num_hidden_layers": 40, "num_attention_heads": 32, "intermediate_size": 8192,
        "use_gated_mlp": True, "hidden_act": "silu",
    },
}  # fmt: skip
PIXIO = {
    "B": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "L": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "H": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16},
    "1B": {"hidden_size": 1536, "num_hidden_layers": 48, "num_attention_heads": 24},
    "5B": {"hidden_size": 3072, "num_hidden_layers": 48, "num_attention_heads": 32},
}
#: The networks' and autoencoders' configurations of the two pipelines, as far as they are not their classes' defaults.
SANA = {
    "_class_name": "SanaSprintPipeline", "transformer": ("SanaTransformer2DModel", {"guidance_embeds": True}),
    "vae": ("AutoencoderDC", {}),
}  # fmt: skip
FLUX = {
    "_class_name": "Flux2KleinPipeline",
    "transformer": (
        "Flux2Transformer2DModel",
        {
            "num_layers": 5,
            "num_single_layers": 20,
            "num_attention_heads": 24,
            "joint_attention_dim": 7680,
            "guidance_embeds": False,
        },
    ),
    "vae": ("AutoencoderKLFlux2", {}),
}


def transformers_model(folder, config, side):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    write_processor(folder, crop_size={"height": side, "width": side})
    return str(folder), "transformers", None


def pipeline(folder, parts):
    index = {"_class_name": parts["_class_name"]}
    for part in ("transformer", "vae"):
        name, config = parts[part]
        index[part] = ["diffusers", name]
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps({"_class_name": name} | config))
    (folder / "model_index.json").write_text(json.dumps(index))
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Every model of Table 3 and of Figure 38 by its name, on torch's meta device: (spec, what is opened)."""
    folder = tmp_path_factory.mktemp("table3")
    sources = {f"CLIP {name}": (architecture, "open_clip", None) for name, architecture in CLIPS.items()}
    sources |= {f"pMF {size}": ("Lyy0725/pMF", "pmf", f"pMF-{size}-16") for size in "BLH"}
    sources["Sana"] = (pipeline(folder / "sana", SANA), "sana", None)
    sources["FLUX"] = (pipeline(folder / "flux", FLUX), "flux", None)
    for family, configured, sizes, patch, side in (
        ("DINOv2", transformers.Dinov2Config, DINOV2, 14, 224),
        ("DINOv3", transformers.DINOv3ViTConfig, DINOV3, 16, 224),
        ("Pixio", transformers.PixioConfig, PIXIO, 16, 256),
    ):
        for size, settings in sizes.items():
            more = (
                {"num_register_tokens": 4}
                if family == "DINOv3"
                else {"image_size": 518 if family == "DINOv2" else side}
            )
            config = configured(patch_size=patch, **settings, **more)
            sources[f"{family} {size}"] = transformers_model(folder / f"{family} {size}", config, side)
    specs = {name: describe_vision(*source, name=name) for name, source in sources.items()}
    return {name: (spec, open_vision(spec, "meta")) for name, spec in specs.items()}


#: Blocks, neurons of each, rows of cells, tokens before them, and parameters in millions where vision.md states them.
EXPECTED = {
    "CLIP B": (12, 3_072, 14, 1, 86), "CLIP L": (24, 4_096, 16, 1, 304), "CLIP H": (32, 5_120, 16, 1, 632),
    "CLIP bigG": (48, 8_192, 16, 1, 1_845), "CLIP E": (64, 15_360, 16, 1, 4_351),
    "DINOv2 B": (12, 3_072, 16, 1, None), "DINOv2 L": (24, 4_096, 16, 1, None), "DINOv2 g": (40, 4_096, 16, 1, None),
    "DINOv3 B": (12, 3_072, 14, 5, None), "DINOv3 H+": (32, 5_120, 14, 5, None), "DINOv3 7B": (40, 8_192, 14, 5, None),
    "Pixio B": (12, 3_072, 16, 8, None), "Pixio L": (24, 4_096, 16, 8, None), "Pixio H": (32, 5_120, 16, 8, None),
    "Pixio 1B": (48, 6_144, 16, 8, None), "Pixio 5B": (48, 12_288, 16, 8, None),
    "pMF B": (16, 2_048, 16, 20, 118), "pMF L": (32, 2_730, 16, 20, 410), "pMF H": (48, 3_416, 16, 20, 956),
    "Sana": (20, 5_600, 32, 0, 1_610), "FLUX": (25, 9_216, 16, None, 3_876),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_the_models_of_table_3_have_the_stated_layers_neurons_and_cells(models, name):
    spec, vision = models[name]
    layers, neurons, rows, prefix, millions = EXPECTED[name]
    assert (spec.layers, spec.mlp_width, vision.grid, vision.prefix) == (layers, neurons, (rows, rows), prefix)
    assert [mlp.neurons for mlp in vision.mlps] == [neurons] * layers and spec.modality == "images"
    assert spec.generates == (name.split()[0] in ("pMF", "Sana", "FLUX")) == (vision.prepare is None)
    assert vision.classes == (1_000 if spec.generates else None)
    if millions:
        assert round(sum(p.numel() for p in vision.model.parameters()) / 1e6) == millions
    for mlp in vision.mlps:  # the channels are there, and as many as there are neurons
        inputs = mlp.projection.weight.shape[1]
        assert len(range(inputs)[mlp.channels]) == neurons and vision.model.get_submodule(mlp.path) is mlp.projection


def test_the_21_points_of_table_3_have_the_stated_sizes(models):
    """Mean neurons of a point's models: the x of Figure 3b, curve after curve (vision.md 1.1)."""
    clips, dinov2 = ["CLIP B", "CLIP L", "CLIP H", "CLIP bigG", "CLIP E"], ["DINOv2 B", "DINOv2 L", "DINOv2 g"]
    generators = ["pMF B", "pMF L", "pMF H", "Sana", "FLUX"]
    pixio = ["Pixio B", "Pixio L", "Pixio H", "Pixio 1B", "Pixio 5B"]
    # zip stops at the shortest: three sizes of DINOv2.
    curves = [(generators, dinov2), (generators, pixio), (generators, clips), (generators, pixio, clips),
              (generators, dinov2, clips)]  # fmt: skip
    points = [point for curve in curves for point in zip(*curve, strict=False)]
    assert [round(sum(models[name][0].neurons for name in point) / len(point)) for point in points] == [
        34_816, 92_832, 163_904,
        34_816, 92_832, 163_904, 203_456, 410_112,
        34_816, 92_832, 163_904, 252_608, 606_720,
        35_499, 94_656, 163_883, 266_709, 601_088,
        35_499, 94_656, 163_883,
    ]  # fmt: skip


def test_m_t_is_where_table_3_has_it(models):
    paths = {
        "CLIP L": "transformer.resblocks.23.mlp.c_proj", "CLIP E": "trunk.blocks.63.mlp.fc2",
        "DINOv2 B": "encoder.layer.11.mlp.fc2", "DINOv2 g": "encoder.layer.39.mlp.down_proj",
        "DINOv3 H+": "model.layer.31.mlp.down_proj", "Pixio 1B": "layers.47.mlp.fc2", "pMF B": "u_heads.7.mlp.w2",
        "Sana": "transformer_blocks.19.ff.conv_point", "FLUX": "single_transformer_blocks.19.attn.to_out",
    }  # fmt: skip
    assert {name: models[name][1].mlps[-1].path for name in paths} == paths
    flux = models["FLUX"][1].mlps
    assert flux[4].path == "transformer_blocks.4.ff.linear_out" and flux[4].channels == slice(None)
    assert flux[5].path == "single_transformer_blocks.0.attn.to_out" and flux[5].channels == slice(3_072, 12_288)


# ---------------------------------------------------------------------------------------------------------------------
# Encoders of transformers, from file to m_t


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_is_read_as_its_equations_have_it(tmp_path, name):
    spec = write_encoder(tmp_path, name)
    assert describe_vision(str(tmp_path), "transformers", name=name) == spec
    vision = open_vision(spec)
    prefix = ENCODERS[name][1]
    assert (vision.grid, vision.prefix, vision.classes) == ((4, 4), prefix, None)
    prepared = vision.prepare(PIXELS)
    np.testing.assert_allclose(prepared, normalized(PIXELS), atol=1e-6)
    with capture(vision.mlps) as seen:
        vision.run(prepared)
    for image, one in enumerate(normalized(PIXELS)):
        for mlp, m in zip(vision.mlps, encoder_layers(name, numbers(vision.model), one), strict=True):
            assert len(m) == prefix + 16
            np.testing.assert_allclose(seen[mlp.path][image], m, atol=1e-5)


def test_an_untrained_encoder_depends_on_its_seed_alone(tmp_path):
    spec = write_encoder(tmp_path, "pixio")
    torch.manual_seed(3)
    first, again, other, trained = (numbers(open_vision(spec, seed=seed).model) for seed in (1, 1, 2, None))
    name = "layers.1.mlp.fc2.weight"
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert not np.array_equal(first[name], other[name]) and not np.array_equal(first[name], trained[name])
    assert first[name].std() == pytest.approx(0.02, rel=0.2)  # its initializer_range


def test_an_image_size_of_the_profile_is_taken_and_others_than_whole_patches_are_refused(tmp_path):
    spec = write_encoder(tmp_path, "dinov2")
    vision = open_vision(spec._replace(image_size=48))
    assert vision.grid == (6, 6) and vision.prepare(PIXELS).shape == (2, 3, 48, 48)
    with capture(vision.mlps) as seen:
        vision.run(vision.prepare(PIXELS))
    assert seen[vision.mlps[0].path].shape == (2, 1 + 36, 64)
    for size in (36, 4):
        with pytest.raises(ModelRefused, match=rf"dinov2: images of {size} x {size} pixels .*multiples of 8"):
            open_vision(spec._replace(image_size=size))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_mean": None}, "does not say image_mean and image_std"),
        ({"image_mean": [0.5]}, r"mean \[0.5\]"),
        ({"image_std": [0.2, 0.0, 0.2]}, "std above 0"),
        ({"do_normalize": False}, "does not rescale by 1/255 and normalize"),
        ({"rescale_factor": 1 / 127.5}, "does not rescale by 1/255 and normalize"),
        ({"resample": 0}, "resizing by '0'; there are bilinear, bicubic"),
        ({"crop_size": {"height": 32, "width": 40}}, "only squares are read"),
        ({"crop_size": {"height": 36, "width": 36}}, "multiples of 8"),
    ],
)
def test_a_preparation_that_would_show_something_else_is_refused(tmp_path, change, said):
    spec = write_encoder(tmp_path, "dinov2", **change)
    with pytest.raises(ModelRefused, match=f"model dinov2: .*{said}"):
        open_vision(spec)


def test_an_encoder_without_its_preparation_is_refused(tmp_path):
    spec = write_encoder(tmp_path, "dinov2")
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ModelRefused, match=r"dinov2: .*preprocessor_config.json"):
        open_vision(spec)


def test_an_encoder_that_masks_its_cells_or_is_unknown_is_refused(tmp_path):
    """ViT-MAE shuffles three fourths of the cells away, in evaluation too."""
    config = transformers.ViTMAEConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    config.save_pretrained(tmp_path)
    write_processor(tmp_path)
    with pytest.raises(ModelRefused, match=r"mae: of a vit_mae it is not known .*dinov2, .*pixio"):
        open_vision(ModelSpec("mae", str(tmp_path), "mine", 2, 32, kind="transformers"))


def test_weights_that_are_missing_or_left_over_are_named(tmp_path):
    spec = write_encoder(tmp_path, "dinov3")
    tensors = load_file(tmp_path / "model.safetensors")
    # transformers writes them by its checkpoints' own names
    dropped = next(name for name in tensors if name.endswith("1.norm2.weight"))
    kept = tensors | {"decoder.weight": torch.zeros(3)}
    kept.pop(dropped)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelRefused, match=r"DINOv3ViTModel: 1 missing \(.*1.norm2.weight\), 1 left over \(decoder.weight\)"
    ):
        open_vision(spec)


def test_a_language_model_is_no_vision_model():
    with pytest.raises(ModelRefused, match="kind language neither reads nor makes images"):
        open_vision(ModelSpec("opt-32x2", "zoo/opt-32x2", "opt", 2, 128))
    with pytest.raises(ValueError, match="float32 or bfloat16"):
        open_vision(ModelSpec("a", "ViT-B-16", "a", 1, 1, kind="open_clip"), dtype=torch.float16)
    with pytest.raises(ModelRefused, match="model a: a model of kind open_clip is not spread over devices"):
        open_vision(ModelSpec("a", "ViT-B-16", "a", 1, 1, kind="open_clip"), "spread")


def test_the_fingerprint_tells_tags_and_files_in_folders_apart(tmp_path):
    prints = {
        fingerprint(ModelSpec("a", "ViT-B-16", "clip", 1, 1, kind="open_clip", tag=tag)) for tag in ("openai", "dfn2b")
    }
    assert len(prints) == 2
    (tmp_path / "vae").mkdir()
    found = set()
    for content in ("1", "2"):
        (tmp_path / "vae" / "config.json").write_text(content)
        (tmp_path / ".hidden").write_text(content)
        found.add(fingerprint(ModelSpec("a", str(tmp_path), "sana", 1, 1, kind="sana")))
    (tmp_path / ".hidden").write_text("3")
    assert len(found | {fingerprint(ModelSpec("a", str(tmp_path), "sana", 1, 1, kind="sana"))}) == 2


def test_bfloat16_is_near(tmp_path):
    spec = write_encoder(tmp_path, "dinov2")
    captured = []
    for dtype in (torch.float32, torch.bfloat16):
        vision = open_vision(spec, dtype=dtype)
        with capture(vision.mlps) as seen:
            vision.run(vision.prepare(PIXELS))
        assert {m.dtype for m in seen.values()} == {dtype}
        captured.append(seen[vision.mlps[0].path].float())
    assert math.isclose(np.corrcoef(captured[0].flatten(), captured[1].flatten())[0, 1], 1, abs_tol=1e-3)
