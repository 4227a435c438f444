"""How scenes are drawn: shapes, textures, glyphs of a font and photographs, from a plan that says which and where.

The same bytes come out on every machine: all numbers are integers or float32, and arrays are combined one operation at a
time.
"""

import importlib.util
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rosetta.sources.development import SIZE

PHOTOGRAPHS = {
    "flowery": ("sklearn", "datasets/images/flower.jpg"),
    "templed": ("sklearn", "datasets/images/china.jpg"),
    "portrayed": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
}
FONT = ("matplotlib", "mpl-data/fonts/ttf/DejaVuSans.ttf")
GLYPHS = {"letter": "A", "digit": "5", "note": "♫", "ampersand": "&", "heart": "♥", "question": "?", "omega": "Ω"}
COLOURS = {
    "red": (214, 39, 40), "blue": (31, 94, 200), "green": (44, 150, 60), "yellow": (240, 210, 40),
    "white": (245, 245, 245), "purple": (140, 60, 180), "orange": (250, 130, 20), "black": (20, 20, 20),
    "pink": (245, 140, 190), "brown": (120, 72, 40),
}  # fmt: skip
#: The values of each factor, the most frequent first.
VALUES = {
    "shape": ("circle", "square", "triangle", "ring", "letter", "cross", "star", "digit", "diamond", "note", "bar",
              "ampersand", "heart", "crescent", "question", "omega"),
    "texture": ("plain", "striped", "checked", "flowery", "dotted", "graded", "templed", "portrayed"),
    "colour": tuple(COLOURS),
    "size": ("medium", "small", "large"),
    "turn": ("upright", "turned", "upended", "left", "right", "tilted", "leaning", "slanted"),
    "place": ("middle", "left", "right", "top", "bottom", "top left", "bottom right", "top right", "bottom left"),
    "background": ("plain", "graded", "flowery", "striped", "templed", "checked", "portrayed"),
    "ground": tuple(COLOURS),
    "part": ("inside", "edge"),
}  # fmt: skip
RADIUS = {"small": 8, "medium": 13, "large": 19}
_HALF = 0.5**0.5
#: Cosine and sine of each turn.
_TURNS = ((1, 0), (_HALF, _HALF), (-1, 0), (0, 1), (0, -1), (_HALF, -_HALF), (-_HALF, _HALF), (-_HALF, -_HALF))
#: Of a colour as it is on the ground: one part in three, the rest grey, so that objects stand out.
_MUTED = 3
#: Pixels of a period of a texture on an object, and on the ground.
_PERIOD, _WIDE = 6, 16


class Object(NamedTuple):
    """The numbers of an object's values; its centre in pixels; where its photograph is cut, from 0 to 1."""

    shape: int
    texture: int
    colour: int
    size: int
    turn: int
    place: int
    x: int
    y: int
    cut: tuple[float, float]


class Plan(NamedTuple):
    """All that a scene is drawn from."""

    objects: list[Object]
    background: int
    ground: int
    cut: tuple[float, float]


#: The middles of pixels.
_Y, _X = np.mgrid[:SIZE, :SIZE].astype(np.float32) + np.float32(0.5)


def painted(plan: Plan) -> tuple[np.ndarray, list[np.ndarray]]:
    """The pixels, uint8 [64, 64, 3], and by object how much of each it covers, float32 [64, 64]: what lies on top of it taken off."""
    base = (np.array(list(COLOURS.values())[plan.ground], np.float32) + np.float32(128 * (_MUTED - 1))) / _MUTED
    image = _textured(VALUES["background"][plan.background], base, _X, _Y, _WIDE, plan.cut)
    covers: list[np.ndarray] = []
    for one in reversed(plan.objects):  # the first lies on top
        cover, u, v = _shaped(one)
        colour = np.array(list(COLOURS.values())[one.colour], np.float32)
        fill = _textured(VALUES["texture"][one.texture], colour, u, v, _PERIOD, one.cut)
        image = image + cover[..., None] * (fill - image)
        covers = [cover, *(below * (1 - cover) for below in covers)]
    return np.floor(image + np.float32(0.5)).clip(0, 255).astype(np.uint8), covers


def _shaped(one: Object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How much of each pixel the object covers, and the pixels' places in its own, turned frame."""
    radius = np.float32(RADIUS[VALUES["size"][one.size]])
    cosine, sine = (np.float32(x) for x in _TURNS[one.turn])
    dx, dy = _X - np.float32(one.x), _Y - np.float32(one.y)
    u, v = dx * cosine + dy * sine, dy * cosine - dx * sine
    shape = VALUES["shape"][one.shape]
    if shape in GLYPHS:
        return _glyph(GLYPHS[shape], u / radius, v / radius), u, v
    outside = _distance(shape, u / radius, v / radius) * radius
    return (np.float32(0.5) - outside).clip(0, 1), u, v


def _distance(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How far a point lies outside a shape of radius 1, about; negative inside."""
    across, along = np.abs(u), np.abs(v)
    radius = np.sqrt(u * u + v * v)
    match shape:
        case "circle":
            return radius - np.float32(0.9)
        case "square":
            return np.maximum(across, along) - np.float32(0.75)
        case "triangle":
            return np.maximum(
                v - np.float32(0.5), np.float32(0.75**0.5) * across - v * np.float32(0.5) - np.float32(0.5)
            )
        case "ring":
            return np.abs(radius - np.float32(0.7)) - np.float32(0.2)
        case "cross":
            arms = np.maximum(across, along) - np.float32(0.95)
            return np.maximum(arms, np.minimum(across, along) - np.float32(0.28))
        case "star":
            return (np.sqrt(across) + np.sqrt(along) - np.float32(1.05)) * np.float32(0.7)
        case "diamond":
            return (across * np.float32(1.4) + along - 1) * np.float32(0.6)
        case "bar":
            return np.maximum(across - np.float32(0.95), along - np.float32(0.28))
        case "crescent":
            shifted = u - np.float32(0.45)
            bite = np.sqrt(shifted * shifted + v * v) - np.float32(0.7)
            return np.maximum(radius - np.float32(0.9), -bite)
    raise ValueError(f"no such shape: {shape}")


def _textured(texture: str, colour: np.ndarray, u: np.ndarray, v: np.ndarray, period: int, cut) -> np.ndarray:
    """float32 [64, 64, 3]: a colour and its second tone in a pattern, or a photograph tinted with the colour."""
    if texture in PHOTOGRAPHS:
        return _photograph(texture, cut) * colour / np.float32(200)
    second = colour / 3 if colour.sum() > 450 else np.float32(255) - (np.float32(255) - colour) / 3
    return colour + _pattern(texture, u, v, period)[..., None] * (second - colour)


def _pattern(texture: str, u: np.ndarray, v: np.ndarray, period: int) -> np.ndarray:
    """Where, from 0 to 1, a texture has its second tone."""
    half = np.float32(period / 2)
    columns, rows = np.floor(u / half), np.floor(v / half)
    match texture:
        case "plain":
            return np.zeros_like(u)
        case "striped":
            return columns % 2
        case "checked":
            return (columns + rows) % 2
        case "dotted":
            x, y = u / half - columns - np.float32(0.5), v / half - rows - np.float32(0.5)
            return ((x * x + y * y < 0.16) & (columns % 2 == 0) & (rows % 2 == 0)).astype(np.float32)
        case "graded":
            return (v / (4 * period) + np.float32(0.5)).clip(0, 1)
    raise ValueError(f"no such texture: {texture}")


def _photograph(name: str, cut: tuple[float, float]) -> np.ndarray:
    """float32 [64, 64, 1]: a piece of a photograph, in grey."""
    whole = _photographs()[name]
    top, left = (int(at * (side - SIZE)) for at, side in zip(cut, whole.shape, strict=True))
    return whole[top : top + SIZE, left : left + SIZE, None]


@cache
def _photographs() -> dict[str, np.ndarray]:
    photographs = {}
    for name, where in PHOTOGRAPHS.items():
        with Image.open(file_of(*where)) as image:
            photographs[name] = np.asarray(image.convert("L").reduce(4), np.float32)
    return photographs


def _glyph(character: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How much of each pixel a glyph covers whose box reaches from -1 to 1."""
    mask = _glyphs()[character]
    side = np.float32(len(mask) / 2)
    column, row = (np.floor((x + 1) * side).astype(np.int64) for x in (u, v))
    inside = (column >= 0) & (column < len(mask)) & (row >= 0) & (row < len(mask))
    return np.where(inside, mask[row.clip(0, len(mask) - 1), column.clip(0, len(mask) - 1)], np.float32(0))


@cache
def _glyphs() -> dict[str, np.ndarray]:
    """float32 [48, 48] from 0 to 1 for each glyph, its ink in the middle."""
    font = ImageFont.truetype(str(file_of(*FONT)), 180, layout_engine=ImageFont.Layout.BASIC)
    masks = {}
    for character in GLYPHS.values():
        left, top, right, bottom = font.getbbox(character)
        canvas = Image.new("L", (192, 192))
        at = (96 - (left + right) // 2, 96 - (top + bottom) // 2)
        ImageDraw.Draw(canvas).text(at, character, 255, font)
        masks[character] = np.asarray(canvas.reduce(4), np.float32) / np.float32(255)
    return masks


def file_of(package: str, path: str) -> Path:
    """A file that an installed package brings along, without importing it."""
    return Path(importlib.util.find_spec(package).origin).parent / path
