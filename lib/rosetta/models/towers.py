"""OpenCLIP's image towers: its own transformers and timm's."""

import difflib
import logging
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import hf_hub_download
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from open_clip.factory import get_model_config
from open_clip.model import _build_vision_tower
from open_clip.timm_model import TimmModel
from open_clip.transform import PreprocessCfg
from open_clip.transformer import VisionTransformer
from safetensors import safe_open
from torch import Tensor

from rosetta.models.hub import asking
from rosetta.models.load import ModelRefused, ModelSpec, check_files, fill
from rosetta.models.mlps import find_mlps
from rosetta.models.opened import Vision, building, read_json, settled
from rosetta.models.preparation import Preparation, prepare

logger = logging.getLogger(__name__)


def open_tower(spec: ModelSpec, device: torch.device | str, dtype: torch.dtype, seed: int | None) -> Vision:
    """The image tower of a CLIP; its text tower is not read.

    `spec.source` is a folder with ``open_clip_config.json`` and ``open_clip_model.safetensors``, the hub's name of one, or
    the name of an architecture that open_clip knows, of which `spec.tag` says the weights.
    """
    config, shown = configuration(spec, seed is None and str(device) != "meta")
    with building(device, seed):
        tower = _build_vision_tower(config["embed_dim"], config["vision_cfg"], config.get("quick_gelu", False))
    grid, patch, prefix = _cells(spec, tower)
    side = _side(tower.image_size)
    if grid != (side // patch, side // patch):
        raise ModelRefused(
            f"model {spec.name}: its images are of {side} pixels, and its cells a grid of {grid[0]} x {grid[1]} of {patch}; only "
            "squares are read"
        )
    for says, size in (("the profile", spec.image_size), ("its preprocess_cfg", shown["size"])):
        if size is not None and _side(size) != side:
            raise ModelRefused(
                f"model {spec.name}: {says} asks for images of {_side(size)} pixels; its positions are for {side} and no other"
            )
    if seed is None and str(device) != "meta":
        fill(spec, tower, _weights(spec))
    tower = settled(tower, device, dtype)
    to = Preparation(side, tuple(shown["mean"]), tuple(shown["std"]), shown["interpolation"])
    to = to.checked(spec.name, "its preprocess_cfg")
    return Vision(
        tower, find_mlps(tower), grid, prefix, partial(prepare, to=to, patch=patch, device=device, dtype=dtype), tower
    )


def configuration(spec: ModelSpec, weights: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """The architecture, as open_clip describes it, and how images are shown to it.

    QuickGELU is a matter of the weights: where a tag names these, it is what open_clip knows of the tag, and not what the
    architecture's name says, by which ``ViT-B-16`` with the tag ``openai`` would silently be read with another activation.

    Parameters
    ----------
    spec : ModelSpec
    weights : bool
        Whether there must be weights, so that an architecture's name without a tag is refused.
    """
    if not (Path(spec.location).is_dir() or "/" in spec.source):
        return _known(spec, weights)
    content = read_json(spec, _file(spec, HF_CONFIG_NAME))
    config, shown = content.get("model_cfg"), content.get("preprocess_cfg", {})
    if not config or not {"embed_dim", "vision_cfg"} <= config.keys() or not {"mean", "std"} <= shown.keys():
        raise ModelRefused(
            f"model {spec.name}: {HF_CONFIG_NAME} in {spec.location} does not say model_cfg and preprocess_cfg with mean and "
            "std; how images are normalized is not guessed"
        )
    said, known = bool(config.get("quick_gelu", False)), _quick_gelu(spec)
    if spec.tag and "timm_model_name" not in config["vision_cfg"] and said not in known:
        raise ModelRefused(
            f"model {spec.name}: the weights tagged {spec.tag!r} were trained with quick_gelu {not said}, and its "
            f"{HF_CONFIG_NAME} says {said}; correct it there"
        )
    return config, {"size": None, "interpolation": "bicubic"} | shown


def _known(spec: ModelSpec, weights: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """`configuration` of an architecture by its name among open_clip's."""
    config, tags = get_model_config(spec.source), open_clip.list_pretrained_tags_by_model(spec.source)
    if config is None:
        near = difflib.get_close_matches(spec.source, open_clip.list_models(), cutoff=0.4)
        raise ModelRefused(
            f"model {spec.name}: {spec.source!r} is no folder and no architecture that open_clip knows"
            + (f"; near it are {', '.join(near)}" if near else "")
        )
    tagged = open_clip.get_pretrained_cfg(spec.source, spec.tag) if spec.tag else {}
    if (spec.tag and not tagged) or (weights and not spec.tag):
        what = (
            f"open_clip has no tag {spec.tag!r} for {spec.source}"
            if spec.tag
            else f"a tag must say which {spec.source}"
        )
        raise ModelRefused(f"model {spec.name}: {what}; there are {', '.join(tags) or 'none'}")
    if tagged:
        quick = bool(tagged.get("quick_gelu", False))
        if quick != config.get("quick_gelu", False):
            logger.info("%s: the tag %s was trained with quick_gelu %s, and is so read", spec.name, spec.tag, quick)
        config["quick_gelu"] = quick
    default = PreprocessCfg()
    return config, {
        "size": None,
        "mean": tagged.get("mean", default.mean),
        "std": tagged.get("std", default.std),
        "interpolation": tagged.get("interpolation", default.interpolation),
    }


def _quick_gelu(spec: ModelSpec) -> set[bool]:
    """What open_clip knows of a tag, whatever the architecture; ModelRefused if it does not know it."""
    if not spec.tag:
        return set()
    models = open_clip.list_pretrained_models_by_tag(spec.tag)
    if not models:
        raise ModelRefused(
            f"model {spec.name}: open_clip has no tag {spec.tag!r}; leave it out for weights of your own"
        )
    return {bool(open_clip.get_pretrained_cfg(model, spec.tag).get("quick_gelu", False)) for model in models}


def _cells(spec: ModelSpec, tower: torch.nn.Module) -> tuple[tuple[int, int], int, int]:
    """Grid, pixels of a patch, and tokens before the cells."""
    if isinstance(tower, VisionTransformer):
        return tower.grid_size, tower.patch_size[0], 1  # its class token
    if (
        isinstance(tower, TimmModel)
        and hasattr(tower.trunk, "patch_embed")
        and hasattr(tower.trunk, "num_prefix_tokens")
    ):
        patches = tower.trunk.patch_embed
        return tuple(patches.grid_size), patches.patch_size[0], tower.trunk.num_prefix_tokens
    raise ModelRefused(
        f"model {spec.name}: {type(getattr(tower, 'trunk', tower)).__name__} is no transformer of patches; its maps change "
        "size from layer to layer"
    )


def _side(size: int | tuple[int, int]) -> int:
    return size if isinstance(size, int) else size[0]


def _file(spec: ModelSpec, name: str) -> Path:
    """A file of the model, in its folder or from the hub."""
    folder = Path(spec.location)
    if not folder.is_dir():
        with asking(spec.name, spec.source, spec.revision):
            return Path(hf_hub_download(spec.source, name, revision=spec.revision))
    check_files(spec, folder)
    if not (folder / name).is_file():
        raise ModelRefused(f"model {spec.name}: there is no {name} in {folder}")
    return folder / name


def _weights(spec: ModelSpec) -> dict[str, Tensor]:
    if Path(spec.location).is_dir() or "/" in spec.source:
        file = _file(spec, HF_SAFE_WEIGHTS_NAME)
    else:
        file = _tagged_file(spec)
    with safe_open(file, "pt") as tensors:
        names = [name for name in tensors.keys() if name.startswith("visual.")]  # noqa: SIM118, it is no dict
        return {name.removeprefix("visual."): tensors.get_tensor(name) for name in names}


def _tagged_file(spec: ModelSpec) -> Path:
    """The weights of a tag, which open_clip has on the model hub, as safetensors."""
    where = open_clip.get_pretrained_cfg(spec.source, spec.tag).get("hf_hub")
    if not where:
        raise ModelRefused(
            f"model {spec.name}: open_clip has {spec.source} {spec.tag} as a pickle alone, which may run code when it is read; "
            "load it once where that is safe and write it with open_clip's push_to_hf_hub.save_for_hf, which makes safetensors"
        )
    repository, _, name = where.rpartition("/")
    file = f"{Path(name).stem}.safetensors" if name else HF_SAFE_WEIGHTS_NAME
    with asking(spec.name, repository, spec.revision):
        return Path(hf_hub_download(repository, file, revision=spec.revision))
