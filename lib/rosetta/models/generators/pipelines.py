"""Sana-Sprint and FLUX.2-klein, through diffusers, which is imported here alone and only where one of them is opened."""

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers
from huggingface_hub import hf_hub_download
from torch import Tensor

from rosetta.models.generators.prompts import class_names, longest_alias, prompt
from rosetta.models.hub import asking
from rosetta.models.load import ModelRefused, ModelSpec, check_files, check_weights
from rosetta.models.mlps import Mlp
from rosetta.models.opened import Vision, building, cells_of, check_labels, pictures, read_json, settled


def open_sana(
    spec: ModelSpec,
    device: torch.device,
    dtype: torch.dtype,
    seed: int | None,
    steps: int = 1,
    size: int = 256,
    binned: bool = True,
    guidance: float = 4.5,
    start: float = 1.5708,
    template: str = "{article} {name}",
    names: str | Path | None = None,
) -> Vision:
    """Sana-Sprint.

    m_t is what enters the last convolution of each block's gated MLP (1 x 1, so a linear layer at each cell); a 3 x 3
    convolution before the gate has mixed neighbouring cells into it.

    Parameters
    ----------
    spec, device, dtype, seed
        As of `open_vision`.
    steps : int
        With one there is no time between, for which diffusers' default would be refused.
    size : int
        Pixels on a side of the pictures.
    binned : bool
        Whether they are made at the size for which the model was trained (1,024), and then made smaller.
    guidance, start : float
        Strength of the guidance, which the network is told; the time at which it starts.
    template : str
        Of prompts, with ``{article}`` and ``{name}``; the long instruction of diffusers comes before it.
    names : str or Path, optional
        A file of classes' names (`prompts.class_names`); a class's are all given.

    Raises
    ------
    ModelRefused
        If diffusers is missing, files are missing or broken, weights are not those of the architecture, or there are no
        pictures of that size.
    """
    diffusers = _diffusers(spec)
    pipeline = _opened(spec, diffusers, "SanaSprintPipeline", device, dtype, seed)
    made = size
    if binned:
        bins = diffusers.pipelines.sana.pipeline_sana_sprint.ASPECT_RATIO_1024_BIN
        made, _ = pipeline.image_processor.classify_height_width_bin(size, size, ratios=bins)
    network = pipeline.transformer
    grid = cells_of(spec.name, made, pipeline.vae_scale_factor * network.config.patch_size)
    mlps = [
        Mlp(path, f"{path}.ff.conv_point", block.ff.conv_point, block.ff.conv_point.in_channels)
        for path, block in _blocks(network, "transformer_blocks")
    ]
    settings = {
        "num_inference_steps": steps, "intermediate_timesteps": 1.3 if steps == 2 else None, "max_timesteps": start,
        "guidance_scale": guidance, "height": size, "width": size, "use_resolution_binning": binned,
    }  # fmt: skip
    prompts = [prompt(template, name) for name in class_names(names)]
    return Vision(network, mlps, grid, 0, None, _running(spec, pipeline, mlps, prompts, settings), len(prompts))


def open_flux(
    spec: ModelSpec,
    device: torch.device,
    dtype: torch.dtype,
    seed: int | None,
    steps: int = 2,
    size: int = 256,
    template: str = "a sharp photo of {article} {name}",
    names: str | Path | None = None,
) -> Vision:
    """FLUX.2-klein, without guidance.

    m_t is what enters the output projection of each double-stream block's MLP on the image's stream, then of each
    single-stream block; there it is shared with attention, and the MLP's are the channels after that's. In the former there
    are only cells, in the latter the text's tokens come first.

    Parameters
    ----------
    spec, device, dtype, seed
        As of `open_vision`.
    steps : int
        The last one's activations count. The paper calls its generators one-step; its authors' release takes two here.
    size : int
        Pixels on a side of the pictures.
    template : str
        Of prompts, with ``{article}`` and ``{name}``.
    names : str or Path, optional
        A file of classes' names (`prompts.class_names`); the longest of a class's is given.

    Raises
    ------
    ModelRefused
        As `open_sana`.
    """
    pipeline = _opened(spec, _diffusers(spec), "Flux2KleinPipeline", device, dtype, seed)
    network = pipeline.transformer
    grid = cells_of(spec.name, size, 2 * pipeline.vae_scale_factor)
    mlps = [
        Mlp(path, f"{path}.ff.linear_out", block.ff.linear_out, block.ff.linear_out.in_features)
        for path, block in _blocks(network, "transformer_blocks")
    ]
    for path, block in _blocks(network, "single_transformer_blocks"):
        neurons, attention = block.attn.mlp_hidden_dim, block.attn.inner_dim
        mlps.append(Mlp(path, f"{path}.attn.to_out", block.attn.to_out, neurons, slice(attention, attention + neurons)))
    settings = {"num_inference_steps": steps, "guidance_scale": 0.0, "height": size, "width": size}
    prompts = [prompt(template, longest_alias(name)) for name in class_names(names)]
    return Vision(network, mlps, grid, None, None, _running(spec, pipeline, mlps, prompts, settings), len(prompts))


def _diffusers(spec: ModelSpec) -> ModuleType:
    try:
        import diffusers
    except ImportError as error:
        raise ModelRefused(
            f"model {spec.name}: a model of kind {spec.kind} is run by diffusers, which is not installed ({error}); `make env` "
            "installs it, or `pip install diffusers` in an environment of your own, in the version of requirements.txt"
        ) from error
    diffusers.utils.logging.disable_progress_bar()  # one bar for the run, none for the loading of each part
    return diffusers


def _blocks(network: torch.nn.Module, name: str) -> list[tuple[str, torch.nn.Module]]:
    return [(f"{name}.{i}", block) for i, block in enumerate(getattr(network, name))]


def _opened(
    spec: ModelSpec, diffusers: ModuleType, name: str, device: torch.device, dtype: torch.dtype, seed: int | None
) -> Any:
    """A pipeline whose networks were read strictly; on the ``meta`` device its transformer and autoencoder without weights."""
    index = read_json(spec, _index(spec))
    if index.get("_class_name") != name:
        raise ModelRefused(f"model {spec.name}: {spec.location} is a {index.get('_class_name')}, not a {name}")
    networks = [part for part in ("transformer", "vae", "text_encoder") if part in index]
    classes = {
        part: getattr(diffusers if index[part][0] == "diffusers" else transformers, index[part][1]) for part in networks
    }
    if device.type == "meta":
        with building(device, seed):
            parts = {part: _from_config(spec, classes[part], part) for part in ("transformer", "vae")}
        needed = inspect.signature(getattr(diffusers, name)).parameters.values()
        absent = {part.name: None for part in needed if part.default is part.empty and part.name not in parts}
        return getattr(diffusers, name)(**parts, **absent)
    parts = {
        part: _loaded(spec, classes[part], part, dtype) for part in networks if part != "transformer" or seed is None
    }
    if seed is not None:
        with building(device, seed):
            parts["transformer"] = _from_config(spec, classes["transformer"], "transformer")
    parts = {part: settled(network, device, dtype) for part, network in parts.items()}
    pipeline = getattr(diffusers, name).from_pretrained(spec.location, revision=spec.revision, dtype=dtype, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _index(spec: ModelSpec) -> Path:
    folder = Path(spec.location)
    if not folder.is_dir():
        with asking(spec.name, spec.source, spec.revision):
            return Path(hf_hub_download(spec.source, "model_index.json", revision=spec.revision))
    if not (folder / "model_index.json").is_file():
        raise ModelRefused(f"model {spec.name}: there is no model_index.json in {folder}, as diffusers' pipelines have")
    return folder / "model_index.json"


def _from_config(spec: ModelSpec, network: type, part: str) -> torch.nn.Module:
    return network.from_config(network.load_config(spec.location, subfolder=part, revision=spec.revision))


def _loaded(spec: ModelSpec, network: type, part: str, dtype: torch.dtype) -> torch.nn.Module:
    """One of a pipeline's networks, with all its weights and no others."""
    check_files(spec, Path(spec.location) / part)
    model, report = network.from_pretrained(
        spec.location, subfolder=part, revision=spec.revision, dtype=dtype, use_safetensors=True,
        output_loading_info=True, ignore_mismatched_sizes=True,
    )  # fmt: skip
    check_weights(spec, network.__name__, report)
    return model


def _running(spec: ModelSpec, pipeline: Any, mlps: list[Mlp], prompts: list[str], settings: dict[str, Any]) -> Callable:
    def run(labels: Tensor, seeds) -> Tensor:
        check_labels(spec.name, labels, len(prompts))
        wanted = [prompts[label] for label in torch.as_tensor(labels).tolist()]

        def make() -> Tensor:
            # Of generators on the CPU, one a picture, each picture's noise is its own whatever it is made with.
            own = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
            return pipeline(prompt=wanted, generator=own, output_type="pt", **settings).images

        return pictures(spec.name, mlps, make, labels, seeds)

    return run
