"""Images that are on board: scenes of 64 x 64 pixels, drawn from known factors, without end.

A scene holds one to three objects on a background. What there is of each factor (shape, texture, colour, size, turn, place,
background) has power-law frequencies, the r-th value 1/r times that of the first: the theory of section 4 is about a
spectrum of importances. Some shapes are glyphs of a font, some textures photographs, both from the locked environment.

A scene is planned here and drawn as planned (`sources.drawing`). What models see is the scene *developed*
(`sources.development`): grain is added and each patch whitened. The same bytes come out on every machine: all draws are
integers or comparisons.
"""

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rosetta.results import write_json
from rosetta.sources.development import CELL, CELLS, SIZE, developed, grain
from rosetta.sources.drawing import FONT, PHOTOGRAPHS, VALUES, Object, Plan, file_of, painted
from rosetta.sources.pictures import Picture

CLASSES = len(VALUES["shape"])
OBJECTS = 3
_CENTRES = {"left": (15, 32), "right": (49, 32), "top": (32, 15), "bottom": (32, 49), "middle": (32, 32),
            "top left": (15, 15), "top right": (49, 15), "bottom left": (15, 49), "bottom right": (49, 49)}  # fmt: skip
_JITTER = 6


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
    drawn, covers = painted(plan)
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
    return painted(plan)[0], _caption(plan), plan.objects[0].shape, _code(plan)


def code(index: int, seed: int = 0, label: int | None = None) -> np.ndarray:
    """A scene's ``code`` alone, for which nothing is drawn."""
    return _code(_planned(index, seed, label)[0])


# ---------------------------------------------------------------------------------------------------------------------
# What there is


@cache
def _cumulative(n: int) -> np.ndarray:
    weights = 1 / np.arange(1, n + 1)
    return np.cumsum(weights) / np.sum(weights)


def _draw(rng: np.random.Generator, n: int) -> int:
    """A number below n, r with a probability in proportion to 1 / (r + 1)."""
    return int(np.searchsorted(_cumulative(n)[:-1], rng.random(), side="right"))


def _planned(index: int, seed: int, label: int | None) -> tuple[Plan, np.random.Generator]:
    if index < 0 or seed < 0:
        raise ValueError(f"scene {index} of seed {seed}: neither may be negative")
    rng = np.random.default_rng([seed, index])
    objects = [_object(rng) for _ in range(1 + _draw(rng, OBJECTS))]
    if label is not None:
        objects[0] = objects[0]._replace(shape=label)
    background, ground = (_draw(rng, len(VALUES[factor])) for factor in ("background", "ground"))
    return Plan(objects, background, ground, (rng.random(), rng.random())), rng


def _object(rng: np.random.Generator) -> Object:
    names = ("shape", "texture", "colour", "size", "turn", "place")
    values = [_draw(rng, len(VALUES[factor])) for factor in names]
    x, y = _CENTRES[VALUES["place"][values[-1]]]
    dx, dy = rng.integers(-_JITTER, _JITTER + 1, 2).tolist()
    return Object(*values, x + dx, y + dy, (rng.random(), rng.random()))


def _factors(plan: Plan) -> dict[str, str]:
    factors = {"background": VALUES["background"][plan.background], "ground": VALUES["ground"][plan.ground]}
    for number, one in enumerate(plan.objects, start=1):
        for factor in ("shape", "texture", "colour", "size", "turn", "place"):
            name = factor if number == 1 else f"{factor} {number}"
            factors[name] = VALUES[factor][getattr(one, factor)]
    return factors


def _caption(plan: Plan) -> str:
    """``a small red striped circle at the top left and a green plain ring in the middle on blue``."""
    objects = []
    for one in plan.objects:
        size, colour, texture, shape = (VALUES[f][getattr(one, f)] for f in ("size", "colour", "texture", "shape"))
        turn, place = VALUES["turn"][one.turn], VALUES["place"][one.place]
        objects.append(f"a {turn} {size} {colour} {texture} {shape} {place}")
    ground = f"{VALUES['background'][plan.background]} {VALUES['ground'][plan.ground]}"
    return f"{' and '.join(objects)} on {ground}"


def _code(plan: Plan) -> np.ndarray:
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
# What a cell holds


def _cells(plan: Plan, covers: list[np.ndarray]) -> dict[str, np.ndarray]:
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
    files = {name: file_of(*where) for name, where in {**PHOTOGRAPHS, "font": FONT}.items()}
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
