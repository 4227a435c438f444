"""Tiny random instances of every vision model of Table 3, as files, and its encoders written out in numpy."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import transformers
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from safetensors.torch import save_file
from scipy.special import erf, expit, softmax

from rosetta.models.load import ModelSpec

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
WIDTH, HEADS, LAYERS, PATCH = 16, 2, 2, 8


def moved(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The module with every parameter moved off its start, where much is 0 or 1 and errors would not show."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=noise)
    return module.eval().requires_grad_(False)


# ---------------------------------------------------------------------------------------------------------------------
# As files

#: Of each transformers' encoder: its configuration, cells on a side of its 32 pixels, tokens before them, neurons.
SHAPE = {
    "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "image_size": 32, "patch_size": PATCH,
}  # fmt: skip
ENCODERS = {
    "dinov2": (transformers.Dinov2Config(**SHAPE), 1, 64),
    "dinov2-giant": (transformers.Dinov2Config(**SHAPE, use_swiglu_ffn=True), 1, 48),
    "dinov3": (transformers.DINOv3ViTConfig(**SHAPE, intermediate_size=40, num_register_tokens=4), 5, 40),
    "dinov3-gated": (
        transformers.DINOv3ViTConfig(
            **SHAPE, intermediate_size=40, num_register_tokens=4, use_gated_mlp=True, hidden_act="silu"
        ), 5, 40,
    ),
    "pixio": (transformers.PixioConfig(**SHAPE), 8, 64),
}  # fmt: skip
PROCESSOR = {
    "image_processor_type": "BitImageProcessor", "do_resize": True, "do_rescale": True, "do_normalize": True,
    "do_center_crop": True, "size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "resample": 3,
    "rescale_factor": 1 / 255, "image_mean": MEAN, "image_std": STD,
}  # fmt: skip


def write_encoder(folder: Path, name: str, **changes) -> ModelSpec:
    """One of `ENCODERS`, its image processor changed."""
    config, _, neurons = ENCODERS[name]
    torch.manual_seed(1)
    moved(transformers.AutoModel.from_config(config)).save_pretrained(folder)
    write_processor(folder, **changes)
    return ModelSpec(name, str(folder), "mine", LAYERS, neurons, kind="transformers")


def write_processor(folder: Path, **changes) -> None:
    said = {key: value for key, value in (PROCESSOR | changes).items() if value is not None}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))


TOWER = {"layers": LAYERS, "width": WIDTH, "head_width": WIDTH // HEADS, "patch_size": PATCH, "image_size": 24}
TEXT = {"context_length": 6, "vocab_size": 20, "width": WIDTH, "heads": HEADS, "layers": 1}
SHOWN = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"}


def write_clip(folder: Path, vision=TOWER, shown=SHOWN, neurons: int = 64, **config) -> ModelSpec:
    """A CLIP as open_clip writes it, its image tower of 3 x 3 cells."""
    config = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": TEXT} | config
    quick = config.get("quick_gelu", False)
    torch.manual_seed(2)
    made = (CustomTextCLIP if "timm_model_name" in vision else CLIP)(
        12, CLIPVisionCfg(**vision), CLIPTextCfg(**TEXT), quick_gelu=quick
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in moved(made).state_dict().items()},
              folder / "open_clip_model.safetensors")  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": shown}))
    return ModelSpec("clip", str(folder), "mine", vision.get("layers", 12), neurons, kind="open_clip")


# ---------------------------------------------------------------------------------------------------------------------
# Written out in numpy, float64, one image at a time


def numbers(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}


def under(w: dict[str, np.ndarray], path: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(path): value for name, value in w.items() if name.startswith(path)}


def layer_norm(x, w, name, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x, w, name):
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)


def patches(image, kernel, bias):
    """[3, H, W] -> [cells, width], row by row."""
    size = kernel.shape[-1]
    rows, columns = image.shape[1] // size, image.shape[2] // size
    cut = [image[:, size * r : size * (r + 1), size * c : size * (c + 1)] for r, c in np.ndindex(rows, columns)]
    return np.stack([np.einsum("ochw,chw->o", kernel, patch) for patch in cut]) + bias


def attention(q, k, v, heads=HEADS, turn=lambda x: x):
    parts = []
    for mine in np.split(np.arange(q.shape[1]), heads):
        scores = turn(q[:, mine]) @ turn(k[:, mine]).T / np.sqrt(len(mine))
        parts.append(softmax(scores, axis=1) @ v[:, mine])
    return np.concatenate(parts, axis=1)


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def quick_gelu(x):
    return x * expit(1.702 * x)


def silu(x):
    return x * expit(x)


def clip_layers(w, image, activation=gelu, heads=HEADS) -> Iterator[np.ndarray]:
    """m_t of each layer of an OpenCLIP tower, [1 + cells, neurons]."""
    x = np.concatenate([w["class_embedding"][None], patches(image, w["conv1.weight"], 0)]) + w["positional_embedding"]
    x = layer_norm(x, w, "ln_pre", 1e-5)
    for i in range(sum(name.endswith("mlp.c_proj.weight") for name in w)):
        b = under(w, f"transformer.resblocks.{i}.")
        q, k, v = np.split(layer_norm(x, b, "ln_1", 1e-5) @ b["attn.in_proj_weight"].T + b["attn.in_proj_bias"], 3, 1)
        x = x + linear(attention(q, k, v, heads), b, "attn.out_proj")
        m = activation(linear(layer_norm(x, b, "ln_2", 1e-5), b, "mlp.c_fc"))
        yield m
        x = x + linear(m, b, "mlp.c_proj")


def timm_layers(w, image, heads) -> Iterator[np.ndarray]:
    """m_t of each layer of one of timm's plain vision transformers."""
    x = patches(image, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"])
    x = np.concatenate([w["cls_token"][0], x]) + w["pos_embed"][0]
    for i in range(sum(name.endswith("mlp.fc2.weight") for name in w)):
        b = under(w, f"blocks.{i}.")
        q, k, v = np.split(linear(layer_norm(x, b, "norm1", 1e-6), b, "attn.qkv"), 3, axis=1)
        x = x + linear(attention(q, k, v, heads), b, "attn.proj")
        m = gelu(linear(layer_norm(x, b, "norm2", 1e-6), b, "mlp.fc1"))
        yield m
        x = x + linear(m, b, "mlp.fc2")


def encoder_layers(name: str, w, image) -> Iterator[np.ndarray]:
    """m_t of each layer of one of `ENCODERS`."""
    kind = name.partition("-")[0]
    convolution = "embeddings.patch_embeddings" + (".projection" if kind != "dinov3" else "")
    x = patches(image, w[f"{convolution}.weight"], w[f"{convolution}.bias"])
    before = [w["embeddings.cls_token"][0]] + ([w["embeddings.register_tokens"][0]] if kind == "dinov3" else [])
    x = np.concatenate([*before, x])
    if kind != "dinov3":
        x = x + w["embeddings.position_embeddings"][0]
    epsilon = ENCODERS[name][0].layer_norm_eps
    list_of_blocks = {"dinov2": "encoder.layer", "dinov3": "model.layer", "pixio": "layers"}[kind]
    norms = ("layernorm_before", "layernorm_after") if kind == "pixio" else ("norm1", "norm2")
    for i in range(LAYERS):
        b = under(w, f"{list_of_blocks}.{i}.")
        y = layer_norm(x, b, norms[0], epsilon)
        q, k, v = (linear(y, b, f"attention.{part}_proj") for part in "qkv")
        turn = rotated if kind == "dinov3" else lambda z: z
        x = x + b.get("layer_scale1.lambda1", 1) * linear(attention(q, k, v, HEADS, turn), b, "attention.o_proj")
        y = layer_norm(x, b, norms[1], epsilon)
        if "mlp.gate_proj.weight" in b:
            m, out = silu(linear(y, b, "mlp.gate_proj")) * linear(y, b, "mlp.up_proj"), "mlp.down_proj"
        elif "mlp.up_proj.weight" in b:
            m, out = gelu(linear(y, b, "mlp.up_proj")), "mlp.down_proj"
        else:
            m, out = gelu(linear(y, b, "mlp.fc1")), "mlp.fc2"
        yield m
        x = x + b.get("layer_scale2.lambda1", 1) * linear(m, b, out)


def rotated(head, side=4, prefix=5):
    """DINOv3's rotary positions: a head's channels of each token, turned by the centre of its cell between -1 and 1."""
    out, quarter = head.copy(), head.shape[1] // 4
    for cell, (row, column) in enumerate(np.ndindex(side, side)):
        places = (2 * (row + 0.5) / side - 1, 2 * (column + 0.5) / side - 1)
        for pair in range(2 * quarter):
            angle = 2 * np.pi * places[pair // quarter] * 100.0 ** (-(pair % quarter) / quarter)
            a, b = head[prefix + cell, pair], head[prefix + cell, pair + 2 * quarter]
            out[prefix + cell, pair] = a * np.cos(angle) - b * np.sin(angle)
            out[prefix + cell, pair + 2 * quarter] = b * np.cos(angle) + a * np.sin(angle)
    return out
