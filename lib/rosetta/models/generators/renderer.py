"""The zoo's generator opened: pictures of classes from the codes of scenes, with fresh grain."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from rosetta.models.generators.onestep import configured, redrawn
from rosetta.models.load import ModelRefused, ModelSpec, check_files, fill
from rosetta.models.mlps import find_mlps
from rosetta.models.opened import Vision, building, check_labels, noise, pictures, settled
from rosetta.sources.development import MEAN, SIZE, STD, develop
from rosetta.sources.scenes import code

#: The row of scenes whose codes it is given: none that a model was trained or scored on.
ROW = 100


def open_onestep(spec: ModelSpec, device: torch.device, dtype: torch.dtype, seed: int | None) -> Vision:
    """A generator of the zoo, from a folder with ``config.json`` and ``model.safetensors``.

    A picture of label and seed is what the network draws of that class and of the code of the seed's scene (of `ROW`), and
    then developed as scenes are, with grain drawn from the seed.

    Raises
    ------
    ModelRefused
        If files are missing or broken, or the weights are not those of its configuration.
    """
    folder = Path(spec.location)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ModelRefused(f"model {spec.name}: there is no {name} in {folder}")
    with building(device, seed):
        network = configured(folder)
    if seed is None and device.type != "meta":
        check_files(spec, folder)
        fill(spec, network, load_file(folder / "model.safetensors"))
    network = settled(network, device, dtype)
    mlps = find_mlps(network)

    def run(labels: Tensor, seeds) -> Tensor:
        check_labels(spec.name, labels, network.classes)
        wanted = torch.as_tensor(labels)
        pairs = zip(seeds, wanted.tolist(), strict=True)
        codes = torch.stack([torch.from_numpy(code(int(one), ROW, label)) for one, label in pairs]).to(device, dtype)
        grain = noise(seeds, (SIZE, SIZE, 3)).to(device)

        def make() -> Tensor:
            drawn = redrawn(network(wanted.to(device), codes).float())
            return MEAN + STD * develop(drawn, grain)

        return pictures(spec.name, mlps, make, wanted, seeds)

    return Vision(network, mlps, network.grid, network.prefix, None, run, network.classes)
