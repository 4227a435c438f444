"""Tiny random instances of every vision model of Table 3, as files, and its encoders written out in numpy."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from safetensors.torch import save_file
from scipy.special import erf, expit, softmax

from rosetta.models.generators.flow import Flow
from rosetta.models.generators.pmf import PixelMeanFlow
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


def write_encoder(folder: Path, name: str, sizes: dict | None = None, **changes) -> ModelSpec:
    """One of `ENCODERS`, its image processor changed, or of other sizes."""
    config, _, neurons = ENCODERS[name]
    torch.manual_seed(1)
    said = {
        key: value
        for key, value in config.to_dict().items()
        if key not in ("out_features", "out_indices", "stage_names")
    }
    config = type(config)(**said | (sizes or {}))
    moved(transformers.AutoModel.from_config(config)).save_pretrained(folder)
    write_processor(folder, **changes)
    return ModelSpec(name, str(folder), "mine", LAYERS, neurons, kind="transformers", grid=4)


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
    return ModelSpec("clip", str(folder), "mine", vision.get("layers", 12), neurons, kind="open_clip", grid=3)


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


def eva_layers(w, image) -> Iterator[np.ndarray]:
    """m_t of each layer of timm's EVA as CLIP's largest has it: norms after attention and MLP, keys without a bias."""
    x = patches(image, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"])
    x = np.concatenate([w["cls_token"][0], x]) + w["pos_embed"][0]
    for i in range(sum(name.endswith("mlp.fc2.weight") for name in w)):
        b = under(w, f"blocks.{i}.")
        q, k, v = np.split(x @ b["attn.qkv.weight"].T, 3, axis=1)
        attended = attention(q + b["attn.q_bias"], k, v + b["attn.v_bias"])
        x = x + layer_norm(linear(attended, b, "attn.proj"), b, "norm1", 1e-6)
        m = gelu(linear(x, b, "mlp.fc1"))
        yield m
        x = x + layer_norm(linear(m, b, "mlp.fc2"), b, "norm2", 1e-6)


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


def rms(x, weight):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight


def turned(head, token, prefix, columns):
    """One token's channels of one head; pairs of neighbours turn, the first half by the row, the second by the column."""
    if token < prefix:
        return head
    out, quarter = head.copy(), len(head) // 4
    for pair in range(2 * quarter):
        place = (token - prefix) // columns if pair < quarter else (token - prefix) % columns
        angle = place * 10_000.0 ** (-(pair % quarter) / quarter)
        a, b = head[2 * pair : 2 * pair + 2]
        out[2 * pair : 2 * pair + 2] = a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
    return out


def pmf_block(w, x, prefix, columns):
    """One image's tokens [T, width] through one block; also its m_t."""
    y, size, heads = rms(x, w["norm1.weight"]), len(w["attn.q_norm.weight"]), []
    q, k, v = (y @ w[f"attn.{name}_proj.weight"].T for name in "qkv")
    for start in range(0, x.shape[1], size):
        mine = slice(start, start + size)
        qs, ks = (
            np.stack(
                [
                    turned(row, t, prefix, columns)
                    for t, row in enumerate(rms(z[:, mine], w[f"attn.{name}_norm.weight"]))
                ]
            )
            for name, z in (("q", q), ("k", k))
        )
        heads.append(softmax(qs @ ks.T / np.sqrt(size), axis=1) @ v[:, mine])
    x = x + np.concatenate(heads, 1) @ w["attn.out_proj.weight"].T * w["attn_scale"]
    y = rms(x, w["norm2.weight"])
    gate, up = y @ w["mlp.w1.weight"].T, y @ w["mlp.w3.weight"].T
    m = gate * expit(gate) * up
    return x + m @ w["mlp.w2.weight"].T * w["mlp_scale"], m


def embedded(w, name, number):
    angles = number * 10_000.0 ** (-np.arange(128) / 128)
    y = np.concatenate([np.cos(angles), np.sin(angles)]) @ w[f"{name}.mlp.0.weight"].T + w[f"{name}.mlp.0.bias"]
    return (y * expit(y)) @ w[f"{name}.mlp.2.weight"].T + w[f"{name}.mlp.2.bias"]


def pmf_layers(w, noisy, h, omega, t_min, t_max, label):
    """One image [3, H, W] through pMF's network; also every block's m_t, [prefix + cells, neurons]."""
    patch = w["x_embedder.proj1.weight"].shape[-1]
    grid = (noisy.shape[1] // patch, noisy.shape[2] // patch)
    said = {
        "class": (8, w["y_embedder.embedding_table.weight"][label]),
        "omega": (4, embedded(w, "omega_embedder", 1 - 1 / omega)),
        "t_min": (2, embedded(w, "cfg_t_start_embedder", t_min)),
        "t_max": (2, embedded(w, "cfg_t_end_embedder", t_max)),
        "time": (4, embedded(w, "h_embedder", h)),
    }
    tokens = [w[f"{name}_tokens"][0, i] + vector for name, (n, vector) in said.items() for i in range(n)]
    prefix = len(tokens)
    narrow = patches(noisy, w["x_embedder.proj1.weight"], w["x_embedder.proj1.bias"])
    wide = narrow @ w["x_embedder.proj2.weight"][:, :, 0, 0].T + w["x_embedder.proj2.bias"]
    x, captured = np.concatenate([np.stack(tokens), wide]) + w["pos_embed"][0], []
    for name in [
        f"{part}.{i}." for part in ("shared_blocks", "u_heads") for i in range(9) if f"{part}.{i}.attn_scale" in w
    ]:
        x, m = pmf_block(under(w, name), x, prefix, grid[1])
        captured.append(m)
    cells = rms(x[prefix:], w["u_final_layer.norm.weight"]) @ w["u_final_layer.linear.weight"].T
    cells = (cells + w["u_final_layer.linear.bias"]).reshape(*grid, patch, patch, 3)
    return np.block([[[cells[row, column, :, :, colour] for column in range(grid[1])] for row in range(grid[0])]
                     for colour in range(3)]).reshape(noisy.shape), captured  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Pipelines of diffusers


def tokenizer_of_words():
    words = {word: i for i, word in enumerate(("<pad>", "<bos>", "<eos>", "<unk>", "a", "an", "tench", "hen", "eel"))}
    cut = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    cut.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=cut, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )
    made.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return made


OF_TEXT = {
    "vocab_size": 9, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 8,
}  # fmt: skip


def write_sana(folder: Path, layers: int = 2, width: int = 16, levels: int = 2) -> ModelSpec:
    """A tiny Sana-Sprint: layers of 2.5 times as many neurons as its width, an autoencoder that halves its maps between levels."""
    import diffusers

    torch.manual_seed(3)
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=width // 2, num_layers=layers,
        num_cross_attention_heads=2, cross_attention_head_dim=width // 2, cross_attention_dim=width, caption_channels=16,
        guidance_embeds=True, qk_norm="rms_norm_across_heads",
    )  # fmt: skip
    channels, blocks, nowhere = (4,) * levels, (0,) * (levels - 1) + (1,), ((),) * levels
    vae = diffusers.AutoencoderDC(
        in_channels=3, latent_channels=4, encoder_block_out_channels=channels, decoder_block_out_channels=channels,
        encoder_layers_per_block=blocks, decoder_layers_per_block=blocks, encoder_block_types="ResBlock",
        decoder_block_types="ResBlock", encoder_qkv_multiscales=nowhere, decoder_qkv_multiscales=nowhere,
    )  # fmt: skip
    text = transformers.Gemma2Model(transformers.Gemma2Config(**OF_TEXT, num_hidden_layers=1))
    diffusers.SanaSprintPipeline(
        tokenizer=tokenizer_of_words(),
        text_encoder=text,
        vae=vae,
        transformer=moved(transformer),
        scheduler=diffusers.SCMScheduler(),
    ).save_pretrained(folder)
    grid = 1_024 // 2 ** (levels - 1)
    return ModelSpec("sana", str(folder), "mine", layers, int(2.5 * width), kind="sana", grid=grid, classes=1_000)


def write_flux(folder: Path, layers: int = 1, single: int = 2, heads: int = 2, levels: int = 2) -> ModelSpec:
    """A tiny FLUX.2-klein: double-stream and single-stream layers, each head of 16 channels, and thrice as many neurons as channels."""
    import diffusers

    torch.manual_seed(4)
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16, num_layers=layers, num_single_layers=single, attention_head_dim=16, num_attention_heads=heads,
        joint_attention_dim=48, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8,) * levels, down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels, layers_per_block=1, latent_channels=4, norm_num_groups=4,
        sample_size=16,
    )  # fmt: skip
    text = transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(**OF_TEXT, num_hidden_layers=28, tie_word_embeddings=True)
    )
    diffusers.Flux2KleinPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), vae=vae, text_encoder=text, tokenizer=tokenizer_of_words(),
        transformer=moved(transformer), is_distilled=True,
    ).save_pretrained(folder)  # fmt: skip
    grid, neurons = 256 // 2**levels, 48 * heads
    return ModelSpec("flux", str(folder), "mine", layers + single, neurons, kind="flux", grid=grid, classes=1_000)


# ---------------------------------------------------------------------------------------------------------------------
# pMF

PMF = Flow(12, 4, 16, 2, 20, 2, 1, 7, 5, 2.0, 7.5, 0.1, 0.8)


def write_pmf(folder: Path, flow: Flow = PMF) -> ModelSpec:
    """A tiny pMF in the kit's own form."""
    torch.manual_seed(0)
    network = moved(PixelMeanFlow(*flow[:9]))
    folder.mkdir(exist_ok=True)
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "pmf"} | flow._asdict()))
    layers, grid = flow.shared + flow.heads_of_u, flow.image_size // flow.patch_size
    return ModelSpec("tiny", str(folder), "pmf", layers, flow.mlp_width, kind="pmf", grid=grid, classes=flow.classes)
