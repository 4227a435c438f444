"""Vision models of a few neurons each, of which all is known: what they see, what they make, and who knows the same."""

import numpy as np
import torch

from rosetta.matching.images import Generator, ImageReader
from rosetta.models.mlps import Mlp
from rosetta.models.opened import Vision
from rosetta.neurons.judging import Evidence, Unseen
from rosetta.sources.pictures import Picture

#: Pixels of a picture's side and of a patch's, and so rows and columns of cells.
SIDE, PATCH, GRID = 24, 4, 6
CLASSES = 5


class Seer(torch.nn.Module):
    """Each neuron takes one direction of a cell's pixels; one of the last layer, if asked for, lights up in the top row.

    Parameters
    ----------
    directions : list of [pixels of a patch, neurons]
        One a layer.
    prefix : int
        Tokens before the cells.
    top_row : int, optional
        The number of that neuron.
    """

    def __init__(self, directions, prefix=1, patch=PATCH, top_row=None):
        super().__init__()
        self.prefix, self.patch, self.top_row, self.directions = prefix, patch, top_row, directions
        self.projections = torch.nn.ModuleList(torch.nn.Linear(d.shape[1], 3) for d in directions)
        self.limit, self.tried = np.inf, []

    def forward(self, x):
        """[B, 3, h, w] -> what enters each projection goes through it."""
        self.tried.append(len(x))
        if len(x) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        cells = torch.nn.functional.unfold(x, self.patch, stride=self.patch).transpose(1, 2)
        rows = int(cells.shape[1] ** 0.5)
        for layer, (projection, directions) in enumerate(zip(self.projections, self.directions, strict=True)):
            m = cells @ directions.to(cells)
            if self.top_row is not None and layer == len(self.directions) - 1:
                m[..., self.top_row] = (torch.arange(cells.shape[1]) < rows).to(m)
            before = torch.full((len(m), self.prefix, m.shape[-1]), 7.0, dtype=m.dtype)
            projection(torch.cat([before, m], 1).to(projection.weight.dtype))


def vision(seer, grid, prefix, **more) -> Vision:
    mlps = [
        Mlp(f"blocks.{i}", f"projections.{i}", p, p.in_features) for i, p in enumerate(getattr(seer, "projections", ()))
    ]
    more = {"prepare": lambda pixels: (pixels.movedim(-1, 1).float() - 128) / 32, "run": seer} | more
    return Vision(**{"model": seer, "mlps": mlps, "grid": grid, "prefix": prefix} | more)


def directions(neurons, seed, patch=PATCH):
    """Random ones, [pixels of a patch, neurons]."""
    return torch.randn(3 * patch**2, neurons, generator=torch.Generator().manual_seed(seed))


def encoder(name="seer", of=None, prefix=1, patch=PATCH, top_row=None) -> ImageReader:
    of = [directions(7, 1, patch), directions(5, 2, patch)] if of is None else of
    seer = Seer(of, prefix, patch, top_row)
    return ImageReader(name, vision(seer, (SIDE // patch, SIDE // patch), prefix))


def pixels_of(label, seed) -> torch.Tensor:
    """Noise, uint8 [SIDE, SIDE, 3], another one for each label and seed."""
    noise = torch.randn(SIDE, SIDE, 3, generator=torch.Generator().manual_seed(CLASSES * seed + label))
    return (128 + 32 * noise).clamp(0, 255).to(torch.uint8)


def generator(name="maker", of=None, prefix=3, top_row=None, steps=2) -> Generator:
    """It looks at what it makes; at something else in all steps but the last."""
    seer = Seer([directions(7, 1), directions(5, 2)] if of is None else of, prefix, PATCH, top_row)
    seen = []

    def run(labels, seeds):
        pictures = torch.stack([pixels_of(*wish) for wish in zip(labels.tolist(), seeds, strict=True)])
        x = (pictures.movedim(-1, 1).float() - 128) / 32
        for step in range(steps):
            seer(x if step == steps - 1 else -x)
        seen.append((labels.tolist(), list(seeds)))
        return pictures

    made = Generator(name, vision(seer, (GRID, GRID), prefix, prepare=None, run=run, classes=CLASSES))
    made.seen = seen
    return made


def some_pictures(n, seed=0, side=SIDE) -> list[Picture]:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    return [Picture(pixels[i], f"noise-{seed}#{i}", i % CLASSES) for i in range(n)]


def some_evidence(neurons, k=3, seed=0) -> list[Evidence]:
    """Of so many neurons, no two alike: noise, and maps of gamma noise."""
    rng = np.random.default_rng(seed)
    return [
        Evidence(
            f"seer L0/U{unit}", tuple(range(k)), rng.integers(0, 256, (k, SIDE, SIDE, 3), dtype=np.uint8),
            rng.gamma(2, 1, (k, GRID, GRID)).astype(np.float32), np.linspace(3, 2, k, dtype=np.float32), 0.5,
        )
        for unit in range(neurons)
    ]  # fmt: skip


def some_unseen(neurons, images=10, seed=1) -> list[Unseen]:
    rng = np.random.default_rng(seed)
    fires = tuple(number % 2 == 0 for number in range(images))
    return [
        Unseen(tuple(range(images)), rng.integers(0, 256, (images, SIDE, SIDE, 3), dtype=np.uint8), fires)
        for _ in range(neurons)
    ]


def bilinear(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[B, H, W, N] in float64 on another grid: each cell is where it lies, and what lies beyond the border is the border."""
    for axis, n in ((1, size[0]), (2, size[1])):
        old = maps.shape[axis]
        at = np.clip((np.arange(n) + 0.5) * old / n - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        share = (at - low).reshape([-1 if i == axis else 1 for i in range(4)])
        high = np.minimum(low + 1, old - 1)
        maps = np.take(maps, low, axis) * (1 - share) + np.take(maps, high, axis) * share
    return maps
