"""Images that are on board: scenes of 64 x 64 pixels, drawn from known factors, without end.

A scene holds one to three objects on a background. What there is of each factor (shape, texture, colour, size, turn, place,
background) has power-law frequencies, the r-th value 1/r times that of the first: the theory of section 4 is about a
spectrum of importances. Some shapes are glyphs of a font, some textures photographs, both from the locked environment.

What models see is the scene *developed* (`sources.development`): grain is added and each patch whitened.

The same bytes come out on every machine: all draws are integers or comparisons, and arrays are combined one operation at a
time.
"""

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rosetta.results import write_json
from rosetta.sources.development import CELL, CELLS, SIZE, developed, grain
from rosetta.sources.pictures import Picture

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
#: The values of each factor, the most frequent first. A scene has one to three objects.
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
CLASSES = len(VALUES["shape"])
OBJECTS = 3
RADIUS = {"small": 8, "medium": 13, "large": 19}
_HALF = 0.5**0.5
#: Cosine and sine of each turn.
_TURNS = ((1, 0), (_HALF, _HALF), (-1, 0), (0, 1), (0, -1), (_HALF, -_HALF), (-_HALF, _HALF), (-_HALF, -_HALF))
_CENTRES = {"left": (15, 32), "right": (49, 32), "top": (32, 15), "bottom": (32, 49), "middle": (32, 32),
            "top left": (15, 15), "top right": (49, 15), "bottom left": (15, 49), "bottom right": (49, 49)}  # fmt: skip
_JITTER = 6
#: Of a colour as it is on the ground: one part in three, the rest grey, so that objects stand out.
_MUTED = 3
#: Pixels of a period of a texture on an object, and on the ground.
_PERIOD, _WIDE = 6, 16


class Scene(NamedTuple):
    """A scene: as models see it, what it is made of, and as it was drawn.

    Attributes
    ----------
    pixels : uint8 [64, 64, 3]
        Developed: with grain, whitened, 128 + 24 z.
    factors : dict of str
        Factor to value. Those of the second and third object are ``shape 2``, ``colour 3``, ...
    cells : dict of int8 [8, 8]
        For each factor of `VALUES` the number of its value in each cell: that of the object that covers most of the cell, if
        it covers a fourth. -1 where the cell has none. ``background`` and ``ground`` are those of cells of which half is ground.
    caption : str
    label : int
        The class: the number of the first object's shape.
    drawn : uint8 [64, 64, 3]
        For human eyes.
    code : float32 [CODE]
        All that it was drawn from but for the label: values as ones among zeros, places from -1 to 1.
    """

    pixels: np.ndarray
    factors: dict[str, str]
    cells: dict[str, np.ndarray]
    caption: str
    label: int
    drawn: np.ndarray
    code: np.ndarray


class _Object(NamedTuple):
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


class _Plan(NamedTuple):
    """All that a scene is drawn from."""

    objects: list[_Object]
    background: int
    ground: int
    cut: tuple[float, float]


def scene(index: int, seed: int = 0, label: int | None = None) -> Scene:
    """The scene of this number in the endless row of a seed.

    Parameters
    ----------
    index : int
        From 0.
    seed : int
        Not negative. No two rows have a scene in common, but by chance.
    label : int, optional
        The class asked for: the first object then has this shape, and all else is as it would have been.

    Raises
    ------
    ValueError
        If there is no such class, or index or seed is negative.
    """
    if label is not None and not 0 <= label < CLASSES:
        raise ValueError(
            f"label is {label}; the classes are 0 to {CLASSES - 1}, the shapes {', '.join(VALUES['shape'])}"
        )
    plan, rng = _planned(index, seed, label)
    drawn, covers = _painted(plan)
    return Scene(
        developed(drawn, grain(rng)), _factors(plan), _cells(plan, covers), _caption(plan), plan.objects[0].shape,
        drawn, _code(plan),
    )  # fmt: skip


class Row:
    """The endless row of a seed's scenes, as pictures; may be gone through any number of times."""

    def __init__(self, seed: int = 0):
        self.seed = seed

    def __iter__(self) -> Iterator[Picture]:
        for index in count():
            one = scene(index, self.seed)
            yield Picture(one.pixels, f"scenes-{self.seed}#{index}", one.label, one.caption)


def drawn(index: int, seed: int = 0, label: int | None = None) -> tuple[np.ndarray, str, int, np.ndarray]:
    """What training needs of a scene: its `drawn` pixels, caption, label and code. Grain is drawn anew each time."""
    plan, _ = _planned(index, seed, label)
    return _painted(plan)[0], _caption(plan), plan.objects[0].shape, _code(plan)


# ---------------------------------------------------------------------------------------------------------------------
# What there is


@cache
def _cumulative(n: int) -> np.ndarray:
    weights = 1 / np.arange(1, n + 1)
    return np.cumsum(weights) / np.sum(weights)


def _draw(rng: np.random.Generator, n: int) -> int:
    """A number below n, r with a probability in proportion to 1 / (r + 1)."""
    return int(np.searchsorted(_cumulative(n)[:-1], rng.random(), side="right"))


def _planned(index: int, seed: int, label: int | None) -> tuple[_Plan, np.random.Generator]:
    if index < 0 or seed < 0:
        raise ValueError(f"scene {index} of seed {seed}: neither may be negative")
    rng = np.random.default_rng([seed, index])
    objects = [_object(rng) for _ in range(1 + _draw(rng, OBJECTS))]
    if label is not None:
        objects[0] = objects[0]._replace(shape=label)
    background, ground = (_draw(rng, len(VALUES[factor])) for factor in ("background", "ground"))
    return _Plan(objects, background, ground, (rng.random(), rng.random())), rng


def _object(rng: np.random.Generator) -> _Object:
    names = ("shape", "texture", "colour", "size", "turn", "place")
    values = [_draw(rng, len(VALUES[factor])) for factor in names]
    x, y = _CENTRES[VALUES["place"][values[-1]]]
    dx, dy = rng.integers(-_JITTER, _JITTER + 1, 2).tolist()
    return _Object(*values, x + dx, y + dy, (rng.random(), rng.random()))


def _factors(plan: _Plan) -> dict[str, str]:
    factors = {"background": VALUES["background"][plan.background], "ground": VALUES["ground"][plan.ground]}
    for number, one in enumerate(plan.objects, start=1):
        for factor in ("shape", "texture", "colour", "size", "turn", "place"):
            name = factor if number == 1 else f"{factor} {number}"
            factors[name] = VALUES[factor][getattr(one, factor)]
    return factors


def _caption(plan: _Plan) -> str:
    """``a small red striped circle at the top left and a green plain ring in the middle on blue``."""
    objects = []
    for one in plan.objects:
        size, colour, texture, shape = (VALUES[f][getattr(one, f)] for f in ("size", "colour", "texture", "shape"))
        turn, place = VALUES["turn"][one.turn], VALUES["place"][one.place]
        objects.append(f"a {turn} {size} {colour} {texture} {shape} {place}")
    ground = f"{VALUES['background'][plan.background]} {VALUES['ground'][plan.ground]}"
    return f"{' and '.join(objects)} on {ground}"


def _code(plan: _Plan) -> np.ndarray:
    parts = [_one_hot(plan.background, "background"), _one_hot(plan.ground, "ground"), 2 * np.array(plan.cut) - 1]
    of_object = sum(len(VALUES[f]) for f in ("shape", "texture", "colour", "size", "turn")) + 5
    for number in range(OBJECTS):
        if number >= len(plan.objects):
            parts.append(np.zeros(of_object))
            continue
        one = plan.objects[number]
        shape = _one_hot(one.shape, "shape") if number else np.zeros(CLASSES)  # the first one's is the label
        values = [_one_hot(getattr(one, f), f) for f in ("texture", "colour", "size", "turn")]
        place = np.array([one.x, one.y]) / (SIZE / 2) - 1
        parts += [[1.0], shape, *values, place, 2 * np.array(one.cut) - 1]
    return np.concatenate(parts).astype(np.float32)


def _one_hot(value: int, factor: str) -> np.ndarray:
    return np.eye(len(VALUES[factor]))[value]


# ---------------------------------------------------------------------------------------------------------------------
# How it is drawn

_Y, _X = np.mgrid[:SIZE, :SIZE].astype(np.float32) + np.float32(0.5)


def _painted(plan: _Plan) -> tuple[np.ndarray, list[np.ndarray]]:
    """The pixels, and how much of each an object covers, by object: what lies on top of it taken off."""
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


def _shaped(one: _Object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
        with Image.open(_file(*where)) as image:
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
    font = ImageFont.truetype(str(_file(*FONT)), 180, layout_engine=ImageFont.Layout.BASIC)
    masks = {}
    for character in GLYPHS.values():
        left, top, right, bottom = font.getbbox(character)
        canvas = Image.new("L", (192, 192))
        at = (96 - (left + right) // 2, 96 - (top + bottom) // 2)
        ImageDraw.Draw(canvas).text(at, character, 255, font)
        masks[character] = np.asarray(canvas.reduce(4), np.float32) / np.float32(255)
    return masks


def _file(package: str, path: str) -> Path:
    """A file that an installed package brings along, without importing it."""
    return Path(importlib.util.find_spec(package).origin).parent / path


# ---------------------------------------------------------------------------------------------------------------------
# What a cell holds


def _cells(plan: _Plan, covers: list[np.ndarray]) -> dict[str, np.ndarray]:
    shares = np.stack([_by_cell(cover) for cover in covers])  # [objects, 8, 8]
    most = shares.argmax(0)
    held, ground = shares.max(0) >= 0.25, shares.sum(0) <= 0.5
    cells = {}
    for factor in ("shape", "texture", "colour", "size", "turn", "place"):
        values = np.array([getattr(one, factor) for one in plan.objects])
        cells[factor] = np.where(held, values[most], -1).astype(np.int8)
    for factor, value in (("background", plan.background), ("ground", plan.ground)):
        cells[factor] = np.where(ground, value, -1).astype(np.int8)
    total = shares.sum(0)
    cells["part"] = np.where(total > 0.98, 0, np.where(total > 0.02, 1, -1)).astype(np.int8)
    return cells


def _by_cell(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(CELLS, CELL, CELLS, CELL).astype(np.float64).mean((1, 3))


# ---------------------------------------------------------------------------------------------------------------------
# The same everywhere


def digest(scenes: int = 100, seed: int = 0) -> str:
    """SHA-256 of the first scenes: pixels, captions and cells."""
    sha = hashlib.sha256()
    for index in range(scenes):
        one = scene(index, seed)
        sha.update(one.pixels.tobytes() + one.drawn.tobytes() + one.caption.encode() + one.code.tobytes())
        sha.update(b"".join(one.cells[factor].tobytes() for factor in sorted(one.cells)))
    return sha.hexdigest()


def manifest() -> dict[str, str]:
    """What the scenes hang on: the digests of their files, of the first scenes, and the versions that drew them."""
    files = {name: _file(*where) for name, where in {**PHOTOGRAPHS, "font": FONT}.items()}
    of_files = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    return {**of_files, "scenes": digest(), "pillow": version("pillow"), "numpy": version("numpy")}


def write_manifest(path: Path) -> None:
    """Record the `manifest` beside the models that were trained on these scenes."""
    write_json(path, manifest())


def differences(path: Path) -> dict[str, tuple[str, str]]:
    """What is otherwise here than in a recorded manifest: (there, here) by name; empty if the scenes are the same."""
    there, here = json.loads(Path(path).read_text(encoding="utf-8")), manifest()
    return {name: (there.get(name), here[name]) for name in here if there.get(name) != here[name]}


#: Numbers of a code.
CODE = len(_code(_planned(0, 0, None)[0]))
