"""Vision models of every architecture of Table 3, opened: encoders of images, and generators."""

from functools import partial

import torch
import transformers

from rosetta.models.load import SPREAD, Device, ModelRefused, ModelSpec, check_precision, files, load, load_untrained
from rosetta.models.mlps import find_mlps
from rosetta.models.opened import Vision, building, cells_of
from rosetta.models.preparation import Preparation, prepare

#: Tokens before the cells, by the configurations of those of transformers' encoders of which it is known.
PREFIX = {
    "dinov2": lambda config: 1,
    "dinov2_with_registers": lambda config: 1 + config.num_register_tokens,
    "dinov3_vit": lambda config: 1 + config.num_register_tokens,
    "pixio": lambda config: config.n_cls_tokens,
}
#: The filters by which image processors resize, by PIL's numbers.
RESAMPLE = {2: "bilinear", 3: "bicubic"}


def open_vision(
    spec: ModelSpec, device: Device = "cpu", dtype: torch.dtype = torch.float32, seed: int | None = None, **protocol
) -> Vision:
    """A vision model, ready to be read.

    Parameters
    ----------
    spec : ModelSpec
        Its ``kind`` says how it is opened.
    device : str, torch.device or dict
        ``meta`` gives the structure alone, without weights and not to be run; only ``transformers`` can be spread (`load`).
    dtype : torch.dtype
        Of the weights.
    seed : int, optional
        Untrained: its architecture's own initialization from this seed (section 4.2). Of a generator that is conditioned on
        text the rest (text encoder, autoencoder) stays trained.
    **protocol
        Of a generator: see `generators.flow.open_pmf`, `generators.pipelines.open_sana` and `open_flux`.

    Raises
    ------
    ValueError
        If dtype is float16 on a CPU.
    ModelRefused
        If it is no vision model, its files are missing or broken, its weights are not those of its architecture (they are
        named), or it takes no images of the size that is asked for.
    """
    check_precision(device, dtype)
    if spec.kind == "transformers":
        return _open_encoder(spec, device, dtype, seed, **protocol)
    if spec.kind == "open_clip":  # each of these imports what it alone needs
        from rosetta.models.towers import open_tower as opened
    elif spec.kind == "pmf":
        from rosetta.models.generators.flow import open_pmf as opened
    elif spec.kind == "sana":
        from rosetta.models.generators.pipelines import open_sana as opened
    elif spec.kind == "flux":
        from rosetta.models.generators.pipelines import open_flux as opened
    elif spec.kind == "onestep":
        from rosetta.models.generators.renderer import open_onestep as opened
    else:
        raise ModelRefused(f"model {spec.name}: a model of kind {spec.kind} neither reads nor makes images")
    if device == SPREAD or isinstance(device, dict):
        raise ModelRefused(
            f"model {spec.name}: a model of kind {spec.kind} is not spread over devices; give it one, as cuda:0"
        )
    return opened(spec, torch.device(device), dtype, seed, **protocol)


def describe_vision(
    source: str, kind: str, tag: str | None = None, name: str | None = None, family: str = "mine", **more
) -> ModelSpec:
    """The `ModelSpec` of any vision model, its layers and neurons read off its structure; no weights are loaded.

    Parameters
    ----------
    source, kind, tag
        As in `ModelSpec`; `more` of its fields, too.
    name, family : str, optional
        For tables; by default the last part of the source.
    """
    spec = ModelSpec(name or source.rstrip("/").rpartition("/")[2], source, family, 0, 0, kind=kind, tag=tag, **more)
    vision = open_vision(spec, "meta")
    widths = {mlp.neurons for mlp in vision.mlps}
    if len(widths) > 1:
        raise ModelRefused(
            f"model {spec.name}: its layers have {sorted(widths)} neurons; only layers of one width are counted"
        )
    size = {"layers": len(vision.mlps), "mlp_width": widths.pop(), "grid": vision.grid[0], "classes": vision.classes}
    return spec._replace(**size)


def _open_encoder(spec: ModelSpec, device: Device, dtype: torch.dtype, seed: int | None) -> Vision:
    """One of transformers' encoders, from a folder with ``preprocessor_config.json`` or by its hub name."""
    config = transformers.AutoConfig.from_pretrained(files(spec))
    if config.model_type not in PREFIX:
        raise ModelRefused(
            f"model {spec.name}: of a {config.model_type} it is not known how many tokens come before the cells, nor whether it "
            f"shows all of them to its blocks; it is of {', '.join(PREFIX)}"
        )
    to = _preparation(spec)
    grid = cells_of(spec.name, to.size, config.patch_size)
    if str(device) == "meta":
        with building(device, seed):
            model = transformers.AutoModel.from_config(config)
    elif seed is None:
        model = load(spec, device, dtype)
    else:
        model = load_untrained(spec, seed, device, dtype)

    def run(prepared: torch.Tensor) -> torch.Tensor:
        return model(pixel_values=prepared).last_hidden_state

    place = next(model.parameters()).device
    ready = partial(prepare, to=to, patch=config.patch_size, device=place, dtype=dtype)
    return Vision(model, find_mlps(model), grid, PREFIX[config.model_type](config), ready, run)


def _preparation(spec: ModelSpec) -> Preparation:
    """As the model's image processor says, except that nothing is cropped."""
    folder = files(spec)
    where = f"preprocessor_config.json in {folder}"
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
        said, _ = processor.get_image_processor_dict(folder)
    except (OSError, ValueError) as error:
        raise ModelRefused(
            f"model {spec.name}: how images are resized and normalized is not said by {where}: {error}"
        ) from error
    if not {"image_mean", "image_std"} <= said.keys():  # a processor's own defaults may be another model's
        raise ModelRefused(f"model {spec.name}: {where} does not say image_mean and image_std; they are not guessed")
    if not (processor.do_rescale and processor.do_normalize and round(1 / processor.rescale_factor) == 255):
        raise ModelRefused(
            f"model {spec.name}: {where} does not rescale by 1/255 and normalize; it is read no other way"
        )
    asked = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    sides = {spec.image_size} if spec.image_size else {side for side in dict(asked).values() if side}
    if len(sides) != 1:
        raise ModelRefused(f"model {spec.name}: {where} asks for images of {dict(asked)}; only squares are read")
    mode = RESAMPLE.get(int(processor.resample), str(processor.resample))
    return Preparation(sides.pop(), tuple(said["image_mean"]), tuple(said["image_std"]), mode).checked(spec.name, where)
