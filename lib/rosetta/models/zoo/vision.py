"""The embedded vision models: four families of encoders and one of generators, trained independently on scenes.

"Independently" means that each family has its own architecture, objective, initialization, sample of scenes and order.
Within a family every size sees the same scenes in the same order, with the same grain.
"""

import copy
import json
import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import transformers
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rosetta.models.generators import onestep
from rosetta.models.generators.onestep import OneStep
from rosetta.models.load import ModelSpec
from rosetta.models.vision import describe_vision, open_vision
from rosetta.models.zoo.heldout import captions_found, drawing, probes
from rosetta.models.zoo.heldout import reconstruction as reconstructed
from rosetta.models.zoo.objectives import (
    BATCH,
    Autoencoder,
    Distilled,
    Scenes,
    contrast,
    distillation,
    reconstruction,
    rendering,
)  # fmt: skip
from rosetta.models.zoo.training import Task, fit, side_by_side, warmup_cosine, without_card
from rosetta.results import write_json, write_whole
from rosetta.sources.development import CELL, MEAN, SIZE, STD
from rosetta.sources.scenes import CLASSES, drawn, write_manifest

logger = logging.getLogger(__name__)

SIZES = ((32, 2), (48, 3), (64, 4), (96, 5), (128, 6))  # width x depth; heads of 16 channels
SCENES = 50_000
#: OpenCLIP sees smaller images: 7 x 7 cells to the others' 8 x 8.
CLIP_SIZE = 56
REGISTERS = 4  # of DINOv3
CLIP_CHANNELS = 64  # in which an image and a caption meet
CAPTION_TOKENS = 32
#: The file of its words, beside the model.
WORDS = "words.json"
SCENES_PER_CALL = 500


class Family(NamedTuple):
    """What sets one family apart from the others."""

    seed: int  # of the order, the initial values and all chance in training
    scenes: int  # the seed of its scenes
    kind: str  # by which library it is opened (`ModelSpec`)
    task: Callable  # (width, depth, scenes, folder, device) -> (Task, what is learnt by it)
    write: Callable  # (what is learnt, training's folder, the model's folder)
    score: Callable  # (the model as it was written, what is learnt) -> held-out figures
    rate: float = 2e-3  # the highest learning rate, at width 64
    balanced: bool = False  # as many scenes of each class


def _spread(width: int) -> float:
    """Of the initial values, as in the language zoo: 0.02 is meant for models far wider than these."""
    return math.sqrt(2 / (5 * width))


def _encoder(config: type, width: int, depth: int, **settings) -> transformers.PreTrainedModel:
    return transformers.AutoModel.from_config(
        config(
            hidden_size=width, num_hidden_layers=depth, num_attention_heads=width // 16, image_size=SIZE, patch_size=CELL,
            initializer_range=_spread(width), **settings,
        )
    )  # fmt: skip


def openclip_config(width: int, depth: int, words: int) -> dict:
    """Of one of its models, as ``open_clip_config.json`` holds it; the text's tower is half as deep."""
    of_text = {"context_length": CAPTION_TOKENS, "vocab_size": words, "width": width}
    return {
        "embed_dim": CLIP_CHANNELS,
        "vision_cfg": {
            "layers": depth, "width": width, "head_width": 16, "patch_size": CELL, "image_size": CLIP_SIZE,
        },
        "text_cfg": of_text | {"heads": width // 16, "layers": max(1, depth // 2)},
    }  # fmt: skip


def _openclip(width: int, depth: int, scenes: Scenes, folder: Path, device: str) -> tuple[Task, torch.nn.Module]:
    words = json.loads((folder / "openclip-words.json").read_text(encoding="utf-8"))
    config = openclip_config(width, depth, len(words))
    model = CLIP(CLIP_CHANNELS, CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"])).to(device)
    return contrast(model, scenes, caption_ids(words, scenes.captions), device), model


def _dinov2(width: int, depth: int, scenes: Scenes, folder: Path, device: str) -> tuple[Task, torch.nn.Module]:
    student = Distilled(_encoder(transformers.Dinov2Config, width, depth)).to(device)
    task, teacher = distillation(student, scenes, device)
    return task, teacher


def _dinov3(width: int, depth: int, scenes: Scenes, folder: Path, device: str) -> tuple[Task, torch.nn.Module]:
    """As `_dinov2`, with registers, rotary positions and, at every size, the gated MLP of DINOv3's largest two."""
    gated = {"use_gated_mlp": True, "hidden_act": "silu", "intermediate_size": 4 * width}
    # A position is where a cell is, at every step: no stretched coordinates in training.
    more = gated | {"num_register_tokens": REGISTERS, "pos_embed_rescale": None}
    student = Distilled(_encoder(transformers.DINOv3ViTConfig, width, depth, **more)).to(device)
    task, teacher = distillation(student, scenes, device)
    return task, teacher


def _pixio(width: int, depth: int, scenes: Scenes, folder: Path, device: str) -> tuple[Task, torch.nn.Module]:
    model = Autoencoder(_encoder(transformers.PixioConfig, width, depth, n_cls_tokens=8)).to(device)
    return reconstruction(model, scenes, device), model


def _onestep(width: int, depth: int, scenes: Scenes, folder: Path, device: str) -> tuple[Task, torch.nn.Module]:
    model = OneStep(width, depth, CLASSES, scenes.codes.shape[1]).to(device)
    return rendering(model, scenes, device), model


def _write_clip(model: CLIP, training: Path, folder: Path) -> None:
    """Both towers as open_clip reads them, and the words of captions."""
    words = json.loads((training / "openclip-words.json").read_text(encoding="utf-8"))
    tower = model.visual.transformer
    shown = {"size": CLIP_SIZE, "mode": "RGB", "mean": [MEAN] * 3, "std": [STD] * 3, "interpolation": "bicubic"}
    config = {
        "model_cfg": openclip_config(tower.width, tower.layers, len(words)),
        "preprocess_cfg": shown | {"resize_mode": "squash"},
    }
    write_json(folder / HF_CONFIG_NAME, config)
    write_json(folder / WORDS, words)
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    write_whole(folder / HF_SAFE_WEIGHTS_NAME, lambda path: save_file(tensors, path, metadata={"format": "pt"}))


def _write_encoder(model: Distilled | Autoencoder, training: Path, folder: Path) -> None:
    """The encoder alone, as transformers reads it, and how it is shown images; heads and decoders are not kept."""
    copy.deepcopy(model.encoder).half().save_pretrained(folder)
    side = {"height": SIZE, "width": SIZE}
    transformers.ViTImageProcessor(
        size=side, resample=Image.Resampling.BICUBIC, image_mean=[MEAN] * 3, image_std=[STD] * 3
    ).save_pretrained(folder)


def _write_onestep(model: OneStep, training: Path, folder: Path) -> None:
    onestep.save(copy.deepcopy(model).half(), folder)


def _score_clip(spec: ModelSpec, learnt: CLIP) -> dict:
    folder = Path(spec.source)
    model, words = read_clip(folder), json.loads((folder / WORDS).read_text(encoding="utf-8"))
    return captions_found(model, open_vision(spec).prepare, partial(caption_ids, words)) | probes(spec)


def read_clip(folder: Path) -> CLIP:
    """Both towers of a CLIP of the zoo, in float32."""
    config = json.loads((folder / HF_CONFIG_NAME).read_text(encoding="utf-8"))["model_cfg"]
    model = CLIP(config["embed_dim"], CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"]))
    model.load_state_dict(load_file(folder / HF_SAFE_WEIGHTS_NAME))
    return model.eval()


def _score_distilled(spec: ModelSpec, learnt: Distilled) -> dict:
    return probes(spec)


def _score_pixio(spec: ModelSpec, learnt: Autoencoder) -> dict:
    return probes(spec) | reconstructed(spec, learnt)


def _score_onestep(spec: ModelSpec, learnt: OneStep) -> dict:
    return drawing(spec)


FAMILIES = {
    "openclip": Family(505, 1, "open_clip", _openclip, _write_clip, _score_clip),
    "dinov2": Family(606, 2, "transformers", _dinov2, _write_encoder, _score_distilled),
    "pixio": Family(707, 3, "transformers", _pixio, _write_encoder, _score_pixio),
    "onestep": Family(808, 4, "onestep", _onestep, _write_onestep, _score_onestep, rate=4e-3, balanced=True),
    "dinov3": Family(909, 5, "transformers", _dinov3, _write_encoder, _score_distilled),
}


def names(families=FAMILIES) -> list[str]:
    """The names of all vision models, by family and size: ``openclip-32x2``, ..."""
    return [f"{family}-{width}x{depth}" for family in families for width, depth in SIZES]


def parse(name: str) -> tuple[str, int, int]:
    """``"pixio-64x4"`` -> ``("pixio", 64, 4)``; a ValueError lists the models there are."""
    if name not in names():
        raise ValueError(f"there is no vision model {name!r}; there are {', '.join(names())}")
    family, _, size = name.partition("-")
    width, depth = size.split("x")
    return family, int(width), int(depth)


# ---------------------------------------------------------------------------------------------------------------------
# Captions


def vocabulary(captions) -> dict[str, int]:
    """A number for each word of the captions, from 1; 0 stands for no word, and the end of a text is the last of all.

    (CLIP reads a text off at its largest number.)
    """
    words = sorted({word for caption in captions for word in str(caption).split()})
    return {"<pad>": 0} | {word: number for number, word in enumerate(words, 1)} | {"<end>": len(words) + 1}


def caption_ids(words: dict[str, int], captions) -> torch.Tensor:
    """Captions in numbers: int64 [n, `CAPTION_TOKENS`].

    Raises
    ------
    ValueError
        If a caption is too long, or has a word that is not among `words`.
    """
    ids = np.zeros((len(captions), CAPTION_TOKENS), dtype=np.int64)
    for row, caption in zip(ids, captions, strict=True):
        parts = str(caption).split()
        if unknown := [part for part in parts if part not in words]:
            raise ValueError(
                f"the caption {str(caption)!r} has words that no caption in training has: {', '.join(unknown)}"
            )
        if len(parts) >= CAPTION_TOKENS:
            raise ValueError(
                f"the caption {str(caption)!r} has {len(parts)} words; at most {CAPTION_TOKENS - 1} are read"
            )
        row[: len(parts) + 1] = [*(words[part] for part in parts), words["<end>"]]
    return torch.from_numpy(ids)


# ---------------------------------------------------------------------------------------------------------------------
# Scenes


def _render(first: int, last: int, seed: int, balanced: bool) -> tuple[int, np.ndarray, tuple, tuple, np.ndarray]:
    scenes = [drawn(index, seed, index % CLASSES if balanced else None) for index in range(first, last)]
    pixels, captions, labels, codes = zip(*scenes, strict=True)
    return first, np.stack(pixels), captions, labels, np.stack(codes)


def prepare_family(family: str, count: int, folder: Path, jobs: int = 1) -> None:
    """Render the family's scenes and write them under `folder`, once; OpenCLIP's vocabulary, too."""
    pixels, facts = folder / f"{family}-{count}.npy", folder / f"{family}-{count}.npz"
    if pixels.exists() and facts.exists():
        return
    spec = FAMILIES[family]
    calls = [
        (first, min(first + SCENES_PER_CALL, count), spec.scenes, spec.balanced)
        for first in range(0, count, SCENES_PER_CALL)
    ]
    captions, labels, codes = [None] * count, np.empty(count, dtype=np.int64), [None] * count

    def render(path: Path) -> None:
        written = np.lib.format.open_memmap(path, "w+", dtype=np.uint8, shape=(count, SIZE, SIZE, 3))
        for first, some, said, classes, numbers in side_by_side(_render, calls, jobs):
            there = slice(first, first + len(some))
            written[there], captions[there], labels[there], codes[there] = some, said, classes, list(numbers)
        written.flush()

    write_whole(pixels, render)
    if family == "openclip":
        write_json(folder / "openclip-words.json", vocabulary(captions))
    write_whole(
        facts, lambda path: np.savez_compressed(path, captions=np.array(captions), labels=labels, codes=np.stack(codes))
    )


def open_scenes(family: str, count: int, folder: Path) -> Scenes:
    """What `prepare_family` wrote; pixels stay on the disk."""
    seed = FAMILIES[family].seed
    facts = np.load(folder / f"{family}-{count}.npz")
    pixels = np.load(folder / f"{family}-{count}.npy", mmap_mode="r")
    order = np.random.default_rng(seed).permutation(count)
    return Scenes(pixels, facts["captions"], facts["labels"], facts["codes"], order, seed)


# ---------------------------------------------------------------------------------------------------------------------
# Training


def learning_rate(family: str, step: int, steps: int, width: int) -> float:
    """The family's rate at width 64, in inverse proportion to the width's root; 5% linear warm-up, then a cosine to zero."""
    return warmup_cosine(step, steps, FAMILIES[family].rate * math.sqrt(64 / width))


def train(name: str, count: int, folder: Path, device: str = "cpu", stop_after: int | None = None) -> torch.nn.Module:
    """Train one model on its family's scenes and return all that it learnt, heads and decoders included.

    A run that was killed goes on from its checkpoint.

    Parameters
    ----------
    name : str
        One of `names()`.
    count : int
        Scenes; each is seen once.
    folder : Path
        Where `prepare_family` wrote; the checkpoint and the log go there too.
    device : str
    stop_after : int, optional
        Save a checkpoint and return after this step (used to test resumption).
    """
    family, width, depth = parse(name)
    scenes = open_scenes(family, count, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(FAMILIES[family].seed + width)
        task, learnt = FAMILIES[family].task(width, depth, scenes, folder, device)
    fit(
        task, scenes.steps, lambda step: learning_rate(family, step, scenes.steps, width), weight_decay=0.05,
        checkpoint=folder / f"{name}-{count}.safetensors", counted=("scenes", BATCH), stop_after=stop_after,
    )  # fmt: skip
    return learnt


def finish(name: str, learnt: torch.nn.Module, count: int, folder: Path, zoo: Path) -> dict:
    """Write one trained model to `zoo/name` in float16, as `open_vision` opens it, score it, and return its card."""
    family, _, _ = parse(name)
    FAMILIES[family].write(learnt, folder, zoo / name)
    spec = describe_vision(str((zoo / name).resolve()), FAMILIES[family].kind, name=name, family=family)
    card = {
        "name": name, "family": family, "path": name, "kind": spec.kind, "layers": spec.layers, "mlp_width": spec.mlp_width,
        "grid": spec.grid, "parameters": written_numbers(zoo / name), "scenes": count,
    }  # fmt: skip
    if spec.classes is not None:
        card["classes"] = spec.classes
    figures = FAMILIES[family].score(spec, learnt)
    card["heldout"] = {
        what: {key: round(value, 4) for key, value in figure.items()} for what, figure in figures.items()
    }
    write_json(zoo / name / "card.json", card)
    return card


def written_numbers(folder: Path) -> int:
    """How many numbers the weights of a folder are, OpenCLIP's text tower included."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            total += sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118, it is no dict
    return total


def train_all(zoo: Path, wanted: list[str], count: int, jobs: int) -> None:
    """Train every wanted model that has no card yet, the smallest first, `jobs` at a time."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = zoo / ".training"
    todo, families = without_card(zoo, wanted, parse)
    for family in families:
        logger.info("rendering for %s", family)
        prepare_family(family, count, folder, jobs)
    for card in side_by_side(_work, [(name, count, folder, zoo, device) for name in todo], jobs):
        logger.info("%s: %s", card["name"], {what: figure["value"] for what, figure in card["heldout"].items()})
    if todo:
        write_manifest(zoo / "scenes.json")


def _work(name: str, count: int, folder: Path, zoo: Path, device: str) -> dict:
    return finish(name, train(name, count, folder, device), count, folder, zoo)
