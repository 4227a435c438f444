"""How a drawn scene becomes what models see: grain is added, and each patch whitened by one fixed matrix.

As drawn, a patch has about two effective dimensions, so among random features of it each finds its twin: untrained networks
share pairs of r up to .98. Grain and whitening follow from untrained networks alone, by a rule: *the least grain of 0, .05,
.1, .2, ..., without whitening or else with it, at which the 99.9th percentile of their pairs falls below half of that on
scenes as drawn* (notebook 02 measures it).

The matrix is made of whole numbers, so its sums are exact in whatever order a machine takes them: the bytes are the same
everywhere.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file, save_file

from rosetta.results import write_whole

if TYPE_CHECKING:  # text is sampled without it: it takes more memory than all else there
    import torch

#: Pixels of a side of a scene, and of a patch that is whitened; a cell of the grid whose factors are known.
SIZE, CELL = 64, 8
CELLS = SIZE // CELL
#: Standard deviation of the grain, as a share of the range of a pixel.
GRAIN = 0.05
#: A developed pixel is 128 + 24 z, z of unit variance.
MIDDLE, SPREAD = 128, 24
#: What models subtract and divide by, of pixels from 0 to 1.
MEAN, STD = MIDDLE / 255, SPREAD / 255
WHITENING = Path(__file__).with_name("whitening.safetensors")
_BITS = 16  # the whitening's whole numbers are 2^16 times as large
_SIXTEENTHS = 16  # of a grey level: what grain and the mean patch are counted in


def grain(rng: np.random.Generator) -> np.ndarray:
    """int64 [64, 64, 3], in sixteenths of a grey level: nearly normal, the sum of four bytes."""
    draws = rng.integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8).sum(0, dtype=np.int64)
    deviation = (4 * (256**2 - 1) / 12) ** 0.5
    return (draws - 510) * round(GRAIN * 255 * _SIXTEENTHS * 256 / deviation) // 256


def developed(drawn: np.ndarray, grain: np.ndarray) -> np.ndarray:
    """A drawn scene as models see it, uint8 [64, 64, 3]; `grain` in sixteenths of a grey level, as whole numbers."""
    matrix, mean = _whitening()
    less_mean = patches((_SIXTEENTHS * drawn.astype(np.int64) + grain)[None])[0] - mean
    # Whole numbers far below 2^53: sums in float64 are exact, whatever a machine's order of adding.
    whitened = less_mean.astype(np.float64) @ matrix.astype(np.float64)
    z = np.floor((whitened + 2 ** (_BITS - 1)) / 2**_BITS) + MIDDLE
    return joined(z.clip(0, 255).astype(np.uint8)[None])[0]


def develop(drawn: "torch.Tensor", grain: "torch.Tensor | None" = None) -> "torch.Tensor":
    """Drawn scenes as a model's input, for training: whitened, of about unit variance.

    Parameters
    ----------
    drawn : uint8 or float [B, 64, 64, 3]
    grain : float [B, 64, 64, 3], optional
        Standard normal draws; left out, there is no grain.

    Returns
    -------
    float32 [B, 3, 64, 64]
    """
    pixels = drawn.float() if grain is None else drawn.float() + GRAIN * 255 * grain
    matrix, mean = (pixels.new_tensor(x.astype(np.float32)) for x in _whitening())
    z = (patches(_SIXTEENTHS * pixels) - mean) @ (matrix / (2**_BITS * SPREAD))
    return joined(z).permute(0, 3, 1, 2)


def undevelop(pixels: np.ndarray) -> np.ndarray:
    """What developed pictures show, for human eyes: uint8 [..., 64, 64, 3]."""
    matrix, mean = (x.astype(np.float64) for x in _whitening())
    z = patches(pixels.reshape(-1, SIZE, SIZE, 3).astype(np.float64) - MIDDLE)
    shown = (z @ np.linalg.inv(matrix / 2**_BITS) + mean) / _SIXTEENTHS
    return joined(np.rint(shown).clip(0, 255).astype(np.uint8)).reshape(pixels.shape)


def patches(images):
    """[B, 64, 64, 3] -> [B, 64 patches, 192], of arrays or tensors."""
    cut = images.reshape(-1, CELLS, CELL, CELLS, CELL, 3)
    return cut.swapaxes(2, 3).reshape(-1, CELLS**2, 3 * CELL**2)


def joined(patches):
    """The inverse of `patches`."""
    cut = patches.reshape(-1, CELLS, CELLS, CELL, CELL, 3)
    return cut.swapaxes(2, 3).reshape(-1, SIZE, SIZE, 3)


@cache
def _whitening() -> tuple[np.ndarray, np.ndarray]:
    """int64 [192, 192] and [192]: the fixed matrix, and the mean patch in sixteenths of a grey level."""
    tensors = load_file(WHITENING)
    return tensors["matrix"].astype(np.int64), tensors["mean"].astype(np.int64)


def whitening_of(drawn: np.ndarray, grain: float) -> tuple[np.ndarray, np.ndarray]:
    """The whitening (ZCA) of the patches of drawn scenes [B, 64, 64, 3] with grain, in float64.

    Returns
    -------
    matrix : [192, 192]
        Symmetric. Patches less their mean, times it, have the unit matrix as covariance.
    mean : [192]
        In grey levels.
    """
    rows = patches(drawn).reshape(-1, 3 * CELL**2).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(rows.T) + (255 * grain) ** 2 * np.eye(rows.shape[1]))
    return (vectors / np.sqrt(values)) @ vectors.T, rows.mean(0)


def write_whitening(drawn: np.ndarray, path: Path = WHITENING) -> None:
    """Make the fixed matrix anew from drawn scenes. What has been trained on developed ones is then of no use."""
    matrix, mean = whitening_of(drawn, GRAIN)
    whole = {
        "matrix": np.rint(matrix * (2**_BITS * SPREAD / _SIXTEENTHS)).astype(np.int32),
        "mean": np.rint(mean * _SIXTEENTHS).astype(np.int32),
    }
    write_whole(path, lambda temporary: save_file(whole, temporary))
