"""Vision models on images: the activations of the cells of a canonical grid, of one model or of two (Appendix B, Figure 24).

An encoder reads pictures; a generator is read while it makes them, one picture a wish. In a pair the two see the same
pictures: an encoder beside a generator is shown what that has just made.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from rosetta.matching.activations import side_by_side
from rosetta.matching.alignment import resample_grid
from rosetta.models.load import ModelRefused, ModelSpec
from rosetta.models.mlps import Mlp
from rosetta.models.opened import Vision
from rosetta.models.vision import open_vision
from rosetta.sources.pictures import Picture

#: How a pair's canonical grid is chosen: the larger of the two in each direction (Appendix B), or the first model's.
GRIDS = ("larger", "first")


class Wish(NamedTuple):
    """A picture that is asked of a generator: its number in the set, its label, and the seed of its noise."""

    index: int
    label: int
    seed: int


class _Cells:
    """A vision model of which the cells' activations can be had.

    Parameters
    ----------
    name : str
        For messages and tables.
    vision : Vision

    Attributes
    ----------
    mlps : list of Mlp
    layers : list of int
        Neurons of each layer.
    grid : (int, int)
        Rows and columns of its own cells.
    """

    def __init__(self, name: str, vision: Vision):
        self.name, self.vision, self.model, self.mlps = name, vision, vision.model, vision.mlps
        self.layers = [mlp.neurons for mlp in vision.mlps]
        self.grid = tuple(vision.grid)
        self.device = next(vision.model.parameters()).device

    @classmethod
    def open(
        cls,
        spec: ModelSpec,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
        **protocol,
    ) -> Self:
        """The reader of a trained model, or with a seed of an untrained one (`models.vision.open_vision`)."""
        return cls(spec.name, open_vision(spec, device, dtype, seed, **protocol))

    def _collect(
        self, run: Callable[[], Any], names: Sequence[str], size: tuple[int, int] | None
    ) -> tuple[torch.Tensor, Any]:
        """The activations of a forward pass on the cells of so many images, and what the pass returned.

        Each layer is resampled as soon as it is there, in float32, and only that is kept, in the model's own precision.
        """
        size = size or self.grid
        cells = size[0] * size[1]

        def reduce(layer: int, m: torch.Tensor) -> torch.Tensor:
            maps = self._maps(layer, m, len(names))
            return (maps if tuple(size) == self.grid else resample_grid(maps, size)).flatten(0, 2)

        return side_by_side(self.name, self.mlps, run, reduce, lambda row: f" on {names[row // cells]}")

    def _maps(self, layer: int, m: torch.Tensor, images: int) -> torch.Tensor:
        """What enters an output projection, without the tokens that are no cells: [images, rows, columns, neurons].

        It comes as tokens, [images, tokens, channels], of which the last are the cells, or as maps, [images, channels, rows,
        columns].
        """
        mlp, (rows, columns) = self.mlps[layer], self.grid
        if m.ndim == 4:
            m = m.movedim(1, 3)
            before, fits = 0, tuple(m.shape[1:3]) == self.grid
        elif m.ndim == 3:
            before = m.shape[1] - rows * columns
            fits = before >= 0 and self.vision.prefix in (None, before)
        else:
            fits = False
        if not fits or len(m) != images:
            raise ModelRefused(self._why_refused(mlp, layer, m, images))
        m = m[..., mlp.channels]
        return m if m.ndim == 4 else m[:, before:].unflatten(1, self.grid)

    def _why_refused(self, mlp: Mlp, layer: int, m: torch.Tensor, images: int) -> str:
        rows, columns = self.grid
        tokens = "any number of" if self.vision.prefix is None else str(self.vision.prefix)
        found = f"a map of {m.shape[1]} x {m.shape[2]} cells" if m.ndim == 4 else f"{m.shape[-2]} tokens"
        if m.ndim not in (3, 4):
            found = f"an array of {m.ndim} dimensions"
        return (
            f"model {self.name}, layer {layer}: {found} of {len(m)} images enter {mlp.path}; of {images} images the grid of "
            f"{rows} x {columns} cells was expected, after {tokens} tokens that are no cells"
        )


class ImageReader(_Cells):
    """An encoder, ready to give the activations of the cells of pictures."""

    def read(
        self,
        pixels: np.ndarray | torch.Tensor | Sequence[np.ndarray],
        size: tuple[int, int] | None = None,
        names: Sequence[str] | None = None,
    ) -> torch.Tensor:
        """Activations of all layers side by side, on the cells of some pictures.

        Parameters
        ----------
        pixels : uint8 [B, h, w, 3]
            Or B arrays [h, w, 3] of sizes of their own.
        size : (int, int), optional
            The canonical grid, rows and columns; by default the model's own.
        names : sequence of str, optional
            Of the pictures, for messages.

        Returns
        -------
        [B * rows * columns, neurons]
            In the model's own precision; picture by picture, row by row.

        Raises
        ------
        BadActivations
            NaN or infinity: the model, the layer and the picture are named.
        ModelRefused
            If the number of tokens is not that of the model's cells and of the tokens before them.
        ValueError
            If the model cannot be shown a picture: it is named.
        """
        names = names or [f"picture {i} of the batch" for i in range(len(pixels))]
        with torch.inference_mode():
            prepared = self._prepared(pixels, names)
        return self._collect(lambda: self.vision.run(prepared), names, size)[0]

    def _prepared(self, pixels, names: Sequence[str]) -> torch.Tensor:
        """Pictures of one size together, of several one by one; what cannot be prepared is named."""
        if not isinstance(pixels, np.ndarray | torch.Tensor):
            if len({picture.shape for picture in pixels}) > 1:
                return torch.cat(
                    [self._prepared(picture[None], [name]) for picture, name in zip(pixels, names, strict=True)]
                )
            pixels = np.stack(pixels)
        try:
            return self.vision.prepare(torch.as_tensor(pixels))
        except ValueError as error:
            raise ValueError(f"{self.name} cannot be shown {names[0]}: {error}") from error

    def read_pictures(self, pictures: Sequence[Picture], size: tuple[int, int] | None = None) -> torch.Tensor:
        """`read` of pictures, each named by its source."""
        return self.read([picture.pixels for picture in pictures], size, [picture.source for picture in pictures])

    def parts(self, pictures: Sequence[Picture]) -> Sequence[torch.Tensor]:
        """Activations on each picture, on the model's own grid: [rows * columns, neurons]."""
        return self.read_pictures(pictures).split(self.grid[0] * self.grid[1])

    def features(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """What the encoder says of each picture as a whole, float32 [pictures, channels]: of what it gives for each cell the mean.

        Raises
        ------
        ValueError
            If the model cannot be shown a picture: it is named.
        """
        with torch.inference_mode():
            prepared = self._prepared(
                [picture.pixels for picture in pictures], [picture.source for picture in pictures]
            )
            given = self.vision.run(prepared).float().cpu()
        return given if given.ndim == 2 else given[:, -self.grid[0] * self.grid[1] :].mean(1)

    def beside(self, other: "ImageReader", grid: str = "larger") -> "PicturePair":
        """How this encoder and another one are read together: of the same pictures."""
        return PicturePair(self, other, grid)


class Generator(_Cells):
    """A generator, ready to give the activations of the cells of the pictures that it makes, while it makes them."""

    @property
    def classes(self) -> int | None:
        """How many labels there are."""
        return self.vision.classes

    def make(
        self, labels: Sequence[int], seeds: Sequence[int], size: tuple[int, int] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures, and the activations of all layers side by side while they are made: in the last step, where there are several.

        Parameters
        ----------
        labels : sequence of int
            One a picture.
        seeds : sequence of int
            One a picture, so that it does not depend on those it is made with.
        size : (int, int), optional
            The canonical grid, rows and columns; by default the model's own.

        Returns
        -------
        acts : [B * rows * columns, neurons]
            As `ImageReader.read`.
        pictures : uint8 [B, h, w, 3]
            On the model's device.

        Raises
        ------
        ValueError
            If a label is none of the model's, or a picture is broken.
        BadActivations, ModelRefused
            As `ImageReader.read`.
        """
        numbers = torch.tensor(labels, device=self.device)
        names = [f"the picture of label {label}, seed {seed}" for label, seed in zip(labels, seeds, strict=True)]
        return self._collect(lambda: self.vision.run(numbers, list(seeds)), names, size)

    def pictures(self, wishes: Sequence[Wish]) -> np.ndarray:
        """The pictures alone, uint8 [B, h, w, 3]."""
        labels, seeds = _labels_and_seeds(wishes)
        with torch.inference_mode():
            return self.vision.run(torch.tensor(labels, device=self.device), seeds).cpu().numpy()

    def parts(self, wishes: Sequence[Wish]) -> Sequence[torch.Tensor]:
        """Activations on each picture that is wished for, on the model's own grid: [rows * columns, neurons]."""
        return self.make(*_labels_and_seeds(wishes))[0].split(self.grid[0] * self.grid[1])

    def beside(self, other: ImageReader, grid: str = "larger", shown: Sequence[Picture] | None = None) -> "WishPair":
        """How this generator and an encoder are read together: that sees what the generator makes, or what is shown to it.

        Parameters
        ----------
        other : ImageReader
        grid : {"larger", "first"}
        shown : sequence of Picture, optional
            The generator's own pictures, made before and kept, by the index of the wish.
        """
        return WishPair(self, other, grid, shown)


def _labels_and_seeds(wishes: Sequence[Wish]) -> tuple[list[int], list[int]]:
    return [wish.label for wish in wishes], [wish.seed for wish in wishes]


# ---------------------------------------------------------------------------------------------------------------------
# Two models


class PicturePair:
    """Two encoders over the same pictures: what one batch reads of both (`batches.AlignedBatches`).

    Parameters
    ----------
    a, b : ImageReader
    grid : {"larger", "first"}

    Attributes
    ----------
    size : (int, int)
        Rows and columns of the canonical grid.
    many, remedy, by : str
        As `texts.TextPair`.

    Raises
    ------
    ModelRefused
        If the second is no encoder.
    ValueError
        If `grid` is none of `GRIDS`.
    """

    many = "images"
    remedy = "give smaller models, or models and tables devices of their own"
    by = "mean"

    def __init__(self, a: _Cells, b: ImageReader, grid: str = "larger"):
        if not isinstance(b, ImageReader):
            raise ModelRefused(
                f"{a.name} and {b.name} are no pair: beside a vision model comes an encoder of images, and {b.name} is none"
            )
        if grid not in GRIDS:
            raise ValueError(f"grid is {grid!r}; it must be one of {', '.join(GRIDS)}")
        self.a, self.b = a, b
        self.size = a.grid if grid == "first" else tuple(map(max, a.grid, b.grid))

    def read(self, pictures: list[Picture]) -> tuple[torch.Tensor, torch.Tensor]:
        """Both models' activations on the cells of some pictures."""
        return self.a.read_pictures(pictures, self.size), self.b.read_pictures(pictures, self.size)

    def one(self, _piece: Picture | Wish) -> str:
        """A piece in words."""
        return "one image"

    def shape(self, _piece: Picture | Wish) -> tuple[int, int]:
        """Of the positions of a piece."""
        return self.size


class WishPair(PicturePair):
    """A generator and an encoder over what the generator makes.

    Parameters
    ----------
    a : Generator
    b : ImageReader
    grid : {"larger", "first"}
    shown : sequence of Picture, optional
        As `Generator.beside`.
    """

    def __init__(self, a: Generator, b: ImageReader, grid: str = "larger", shown: Sequence[Picture] | None = None):
        super().__init__(a, b, grid)
        self.shown = shown

    def read(self, wishes: list[Wish]) -> tuple[torch.Tensor, torch.Tensor]:
        """The generator's activations while it makes some pictures, and the encoder's on them."""
        labels, seeds = _labels_and_seeds(wishes)
        acts, made = self.a.make(labels, seeds, self.size)
        if self.shown is not None:
            return acts, self.b.read_pictures([self.shown[wish.index] for wish in wishes], self.size)
        names = [f"{self.a.name}'s picture of label {wish.label}, seed {wish.seed}" for wish in wishes]
        return acts, self.b.read(made.to(self.b.device), self.size, names)
