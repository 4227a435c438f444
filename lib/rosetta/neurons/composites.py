"""What a judge looks at: a neuron's strongest images with its maps, and the lettered images that it has not seen (H.1, H.3).

Drawn as arrays of pixels, once for chat models, notebooks and the explorer. The paper says what stands in a row and that bright is
strong; all else are parameters here.
"""

from collections.abc import Sequence
from math import ceil
from string import ascii_uppercase

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

from rosetta.neurons.judging import Evidence
from rosetta.sources.drawing import FONT, file_of

#: Bright is strong, and the order of its colours is seen by colour-blind eyes too; the authors' release has the same.
COLOURS = "viridis"
#: Pixels between tiles, and of the margin that holds ranks, headings or letters.
GAP, MARGIN = 4, 26
HEADINGS = ("image", "map", "overlay")
#: How maps become colours.
SCALES = ("all", "above mean", "each")


def composite(
    evidence: Evidence, tile: int = 96, scale: str = "all", overlay: float = 0.6, rows: int = 20
) -> np.ndarray:
    """One picture of a neuron's strongest images, the strongest first: in each row the image, the map, and the map over the image.

    Twenty images at the default size are 326 pixels wide and 2,026 high, fifty 978 and 1,726: no side is above 2,048, beyond which
    endpoints shrink a picture. As PNG, scenes take 0.2 and 0.5 MB, photographs 0.6 and 1.6.

    Parameters
    ----------
    evidence : Evidence
    tile : int
        Pixels of a tile's side. Images are drawn as squares, for so models are shown them; cells of maps keep their borders.
    scale : {"all", "above mean", "each"}
        What is dark and what is bright: from 0, or from the neuron's mean, to the highest cell of all these images; or of each
        map by itself from its lowest to its highest cell, as the authors' release has it. Where no cell is above 0 or the
        mean, colours begin at the lowest one.
    overlay : float
        From 0 to 1: how much of the colours is seen over the image, which is in grey there (the release: 0.45, over the image in
        its own colours).
    rows : int
        With more images than this they stand in several blocks side by side, to be read block by block.

    Returns
    -------
    uint8 [height, width, 3]

    Raises
    ------
    ValueError
        Naming the neuron, if an image or a map cannot be drawn; if a parameter cannot be.
    """
    _check(tile=tile, rows=rows)
    if not 0 <= overlay <= 1:
        raise ValueError(f"overlay is {overlay!r}; it must be from 0 to 1")
    check(evidence)
    height, width = composite_size(len(evidence.images), tile, rows)
    canvas = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(canvas), _font(15)
    deep, wide = _deep(len(evidence.images), rows), _block(tile)
    for number, (pixels, strength) in enumerate(zip(evidence.images, shades(evidence, scale), strict=True)):
        block, row = divmod(number, deep)
        left, top = MARGIN + block * wide, MARGIN + row * (tile + GAP)
        if row == 0:
            for column, heading in enumerate(HEADINGS):
                draw.text((left + column * (tile + GAP) + tile / 2, MARGIN / 2), heading, "black", font, anchor="mm")
        draw.text((left - MARGIN / 2, top + tile / 2), str(number + 1), "black", font, anchor="mm")
        picture, heat = squared(pixels, tile), coloured(strength, tile)
        for column, drawn in enumerate((picture, heat, blended(picture, heat, overlay))):
            canvas.paste(Image.fromarray(drawn), (left + column * (tile + GAP), top))
    return np.asarray(canvas)


def composite_size(images: int, tile: int = 96, rows: int = 20) -> tuple[int, int]:
    """(height, width) of the composite of so many images."""
    deep = _deep(images, rows)
    return MARGIN + deep * (tile + GAP), ceil(images / deep) * _block(tile)


def _deep(images: int, rows: int) -> int:
    """Rows of a block: as many in each, as far as that goes."""
    return ceil(images / ceil(images / rows))


def _block(tile: int) -> int:
    return MARGIN + len(HEADINGS) * (tile + GAP)


def lettered(images: Sequence[np.ndarray], tile: int = 192, columns: int = 5, neuron: str = "a neuron") -> np.ndarray:
    """Images without maps in a grid, each under a letter from A on (H.3, Table 5).

    Parameters
    ----------
    images : sequence of uint8 [h, w, 3]
        26 at most.
    tile, columns : int
        Pixels of a tile's side, and tiles side by side.
    neuron : str
        Whose they are, for messages.

    Returns
    -------
    uint8 [height, width, 3]

    Raises
    ------
    ValueError
        Naming the neuron, if an image cannot be drawn, or there are none or more than letters.
    """
    _check(tile=tile, columns=columns)
    if not 0 < len(images) <= len(ascii_uppercase):
        raise ValueError(f"{neuron}: {len(images)} unseen images; there are letters for 1 to {len(ascii_uppercase)}")
    height, width = lettered_size(len(images), tile, columns)
    canvas = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(canvas), _font(22)
    for number, (letter, pixels) in enumerate(zip(ascii_uppercase, images, strict=False)):
        _check_image(pixels, f"{neuron}: unseen image {letter}")
        row, column = divmod(number, columns)
        left, top = GAP + column * (tile + GAP), row * (MARGIN + tile + GAP)
        draw.text((left + tile / 2, top + MARGIN / 2), letter, "black", font, anchor="mm")
        canvas.paste(Image.fromarray(squared(pixels, tile)), (left, top + MARGIN))
    return np.asarray(canvas)


def lettered_size(images: int, tile: int = 192, columns: int = 5) -> tuple[int, int]:
    """(height, width) of the grid of so many images."""
    return ceil(images / columns) * (MARGIN + tile + GAP), min(columns, images) * (tile + GAP) + GAP


def shades(evidence: Evidence, scale: str = "all") -> np.ndarray:
    """The maps from 0, dark, to 1, bright, float64 [k, H, W]; `composite` says how."""
    maps = np.asarray(evidence.maps, dtype=np.float64)
    if scale == "each":
        low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    elif scale in SCALES:
        low, high = 0.0 if scale == "all" else float(evidence.mean), maps.max()
        low = low if low < high else maps.min()
    else:
        raise ValueError(f"scale is {scale!r}; it must be one of {', '.join(SCALES)}")
    return np.clip((maps - low) / np.where(high > low, high - low, 1), 0, 1)


def coloured(strength: np.ndarray, tile: int) -> np.ndarray:
    """A map from 0 to 1, [H, W], as colours, uint8 [tile, tile, 3]; each cell a square of one colour."""
    return _resized(colormaps[COLOURS](strength, bytes=True)[..., :3], tile, Image.Resampling.NEAREST)


def squared(pixels: np.ndarray, tile: int) -> np.ndarray:
    """An image, uint8 [h, w, 3], as a square, uint8 [tile, tile, 3]."""
    return _resized(pixels, tile, Image.Resampling.BICUBIC)


def blended(picture: np.ndarray, heat: np.ndarray, overlay: float) -> np.ndarray:
    """Colours over an image in grey: its own colours would be taken for those of the map."""
    grey = picture.mean(-1, keepdims=True)
    return np.round((1 - overlay) * grey + overlay * heat).astype(np.uint8)


def _resized(pixels: np.ndarray, tile: int, how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((tile, tile), how))


def _font(points: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(file_of(*FONT)), points, layout_engine=ImageFont.Layout.BASIC)


# ---------------------------------------------------------------------------------------------------------------------
# What cannot be drawn


def check(evidence: Evidence) -> None:
    """ValueError, naming the neuron, if its images and maps cannot be drawn."""
    neuron, maps = evidence.neuron, np.asarray(evidence.maps)
    if not len(evidence.images):
        raise ValueError(f"{neuron}: no images to judge by")
    for rank, pixels in enumerate(evidence.images, start=1):
        _check_image(pixels, f"{neuron}: image {rank}")
    if maps.ndim != 3 or not maps.size or len(maps) != len(evidence.images):
        raise ValueError(f"{neuron}: {len(evidence.images)} images and maps of shape {maps.shape}; one [H, W] an image")
    if not (np.issubdtype(maps.dtype, np.number) and np.isrealobj(maps)):
        raise ValueError(f"{neuron}: maps of {maps.dtype}; they must be real numbers")
    unfit = ~np.isfinite(maps).all((1, 2))
    if unfit.any():
        raise ValueError(f"{neuron}: its map on image {unfit.argmax() + 1} is not finite everywhere")
    if not np.isfinite(evidence.mean):
        raise ValueError(f"{neuron}: its mean is {evidence.mean}")


def _check_image(pixels: np.ndarray, what: str) -> None:
    shape, dtype = np.shape(pixels), getattr(pixels, "dtype", type(pixels).__name__)
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or not min(shape):
        raise ValueError(f"{what} is {dtype} of shape {shape}; it must be uint8 [h, w, 3] with pixels in it")


def _check(**counts: int) -> None:
    for name, value in counts.items():
        if not (isinstance(value, int) and value > 0):
            raise ValueError(f"{name} is {value!r}; it must be a whole number above 0")
