"""From pixels to an encoder's input: resized to a square and normalized, as the model's own configuration says."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rosetta.models.load import ModelRefused

FILTERS = ("bilinear", "bicubic")


class Preparation(NamedTuple):
    """What a model was trained to be shown.

    Attributes
    ----------
    size : int
        Pixels on a side. An image is resized to that square whatever its sides, and never cropped, so that all models of a
        pair see the same picture at the same places (the paper's protocol).
    mean, std : tuple of float
        Of red, green and blue, on a scale from 0 to 1.
    filter : str
        One of `FILTERS`; antialiased.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    filter: str

    def checked(self, name: str, where: str) -> "Preparation":
        """Itself; ModelRefused where a model's configuration asks for what is none of these."""
        if self.filter not in FILTERS:
            raise ModelRefused(
                f"model {name}: {where} asks for resizing by {self.filter!r}; there are {', '.join(FILTERS)}"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or not min(self.std) > 0:
            raise ModelRefused(
                f"model {name}: {where} says mean {list(self.mean)}, std {list(self.std)}; each is three numbers, std above 0"
            )
        return self


def prepare(pixels: Tensor, to: Preparation, patch: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Pixels as a model wants them.

    Parameters
    ----------
    pixels : [B, h, w, 3]
        0 to 255, uint8 or float.
    to : Preparation
    patch : int
        Pixels on a side of the model's patches.

    Returns
    -------
    [B, 3, size, size]
        Resized in float32, without a step of 8 bits; a bicubic filter may overshoot.

    Raises
    ------
    ValueError
        If they are no such pixels, or fewer on a side than a patch has.
    """
    pixels = torch.as_tensor(pixels)
    if pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ValueError(f"pixels are [B, h, w, 3], not {list(pixels.shape)}")
    height, width = pixels.shape[1:3]
    if min(height, width) < patch:
        raise ValueError(f"an image of {width} x {height} pixels is smaller than a patch of {patch} x {patch}")
    if pixels.is_floating_point() and not (pixels.min() >= 0 and 1 < pixels.max() <= 255):
        low, high = pixels.min().item(), pixels.max().item()
        raise ValueError(f"pixels go from 0 to 255, and these from {low:.3g} to {high:.3g}; scale them, or give uint8")
    x = pixels.to(device).movedim(3, 1).float() / 255
    if (height, width) != (to.size, to.size):
        x = functional.interpolate(x, (to.size, to.size), mode=to.filter, align_corners=False, antialias=True)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (to.mean, to.std))
    return ((x - mean) / std).to(dtype)
