"""One HTML file to explore Rosetta Neurons in: no server, no network, no framework.

`page.html` is its template, with the style `page.css` and the script `page.js`. What a file's neurons fire on are texts or
pictures. A text from a corpus may hold anything. It reaches the page as JSON in which no character can end the block, and
from there only as text nodes; the page's Content-Security-Policy allows its own script and style, pictures that stand in
the file itself where it has any, and nothing else.
"""

import base64
import hashlib
import html
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np

from rosetta.results import write_whole

TEMPLATE = Path(__file__).with_name("page.html")
#: An activation is kept as one of these digits: 0 for none, the last for the neuron's peak over its contexts.
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"


class Member(NamedTuple):
    """One model's neuron of a Rosetta Neuron."""

    model: str
    layer: int
    unit: int
    depth: float  #: layer / (layers - 1), from 0 to 1
    kurtosis: float  #: vocabulary-space excess kurtosis; may be NaN
    promotes: tuple[str, ...]  #: vocabulary tokens it promotes, strongest first
    correlation: float | None  #: with the anchor; None for the anchor itself
    description: str = ""  #: a judge's, where there is one; may hold anything


class Context(NamedTuple):
    """One text on which the anchor fires."""

    text: str  #: may hold anything
    subset: str
    category: str
    peak: tuple[int, int]  #: character range of the token on which the anchor peaks
    #: model -> (start, end, activation): character ranges of its tokens; a model left out was not read on this text
    heat: dict[str, list[tuple[int, int, float]]]


class Sight(NamedTuple):
    """One picture on which some members fire."""

    picture: bytes  #: a WebP file, square (`thumbnails.packed`); what several neurons fire on is written once
    number: int  #: in the set that it was chosen from
    caption: str  #: may hold anything; empty where nothing is known of the picture
    ranks: dict[
        str, int
    ]  #: model -> the how-many-th of its neuron's strongest pictures this is; left out where it is none
    maps: dict[str, np.ndarray]  #: model -> its neuron's activations [rows, columns], on its own grid


class RosettaNeuron(NamedTuple):
    """The matched neurons of all models, and what they fire on."""

    members: tuple[Member, ...]  #: one a model, the anchor first
    label: str
    category: str  #: the dominant one of its contexts
    contexts: tuple[Context, ...] | tuple[Sight, ...]  #: texts or pictures, strongest first


def write(path: str | Path, neurons: Sequence[RosettaNeuron], title: str, note: str = "") -> Path:
    """Write the explorer: one self-contained HTML file, whole or not at all; the same neurons give the same bytes.

    Each member's activations are scaled by its own peak over the neuron's contexts, negative ones to 0, and kept in
    `DIGITS`: of a text by characters, of a picture by cells. Where tokens share a character (each holds some of its bytes),
    the strongest counts. In the page's list a Rosetta Neuron has its anchor's layer, kurtosis and depth, and the anchor's
    correlation with its best match.

    Parameters
    ----------
    path : str or Path
    neurons : sequence of RosettaNeuron
    title : str
        Of the page.
    note : str
        A sentence under the title: what the neurons were matched on, for instance.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If there are no neurons, two share their anchor, a neuron has no members or two of one model, texts and pictures are
        mixed, a context's heat is of a model without a member, not finite, or outside its text, or a picture is no WebP file
        or a map of its neurons is missing, not finite or on another grid than the first.
    """
    if not neurons:
        raise ValueError("there are no Rosetta Neurons to show; the explorer needs at least one")
    packed, anchors, pictures = [], set(), {}
    of_pictures = any(isinstance(context, Sight) for neuron in neurons for context in neuron.contexts)
    for number, neuron in enumerate(neurons):
        if not neuron.members:
            raise ValueError(f"Rosetta Neuron number {number} has no members; the anchor is the first of them")
        anchor = neuron.members[0][:3]
        if anchor in anchors:
            raise ValueError(f"{_name(neuron.members[0])} is the anchor of two Rosetta Neurons; give each of them once")
        anchors.add(anchor)
        packed.append(_pack(neuron, pictures if of_pictures else None))
    data = {"digits": DIGITS, "neurons": packed}
    if of_pictures:
        data["pictures"] = [base64.b64encode(picture).decode() for picture in pictures]
    data = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # None of these is part of JSON's own syntax, so each stands in a string, where an escape means the same.
    data = re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", data)
    img_src = "img-src data:; " if of_pictures else ""
    page = fill(_template(), title=html.escape(title), note=html.escape(note), data=data, img_src=img_src)
    page = re.sub("[\ud800-\udfff]", "\ufffd", page)  # half a surrogate pair has no UTF-8 form
    path = Path(path)
    write_whole(path, lambda temporary: temporary.write_bytes(page.encode()))
    return path


def address(page: Path, executed: Path) -> str:
    """Where a page lies, seen from the notebook that shows it: Jupyter serves files by relative addresses only.

    The notebook is the one that is open in Jupyter, which tells its kernel; a batch's lies in the folder `executed`.
    """
    notebook = os.environ.get("JPY_SESSION_NAME")
    # Quoted: it ends up in Markdown and in HTML, and a folder may have any name.
    return quote(Path(os.path.relpath(page, Path(notebook).parent if notebook else executed)).as_posix())


def _template() -> str:
    """The page with its style and script in their places."""
    page = TEMPLATE.read_text(encoding="utf-8")
    for tag, ending in (("style", ".css"), ("script", ".js")):
        page = page.replace(f"{{{{{tag}}}}}", "\n" + TEMPLATE.with_suffix(ending).read_text(encoding="utf-8"))
    return page


def fill(template: str, **texts: str) -> str:
    """The template with its ``{{...}}`` filled in, in one pass: a text that itself holds ``{{data}}`` stays as it is.

    ``{{style_hash}}`` and ``{{script_hash}}`` are those of its style and its script, if it has one, for its policy.
    """
    for tag in ("style", "script"):
        if found := re.search(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL):
            texts[f"{tag}_hash"] = "sha256-" + base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
    return re.sub(r"\{\{(\w+)\}\}", lambda found: texts[found[1]], template)


def _pack(neuron: RosettaNeuron, pictures: dict[bytes, int] | None = None) -> dict:
    """A Rosetta Neuron as the page's script reads it; what pictures it needs is added to those there, with their numbers."""
    models = [member.model for member in neuron.members]
    where = _name(neuron.members[0])
    if len(set(models)) < len(models):
        raise ValueError(f"{where} has two members of one model among {models}; a model gives one neuron")
    kind = Context if pictures is None else Sight
    if not all(isinstance(context, kind) for context in neuron.contexts):
        raise ValueError(f"{where} fires on a text, others on pictures; write a file for each")
    peaks, contexts = _texts(neuron, models, where) if kind is Context else _sights(neuron, models, where, pictures)
    return {
        "members": [
            {
                "model": member.model, "layer": int(member.layer), "unit": int(member.unit),
                "depth": _number(member.depth), "kurtosis": _number(member.kurtosis),
                "correlation": _number(member.correlation), "peak": _number(peak), "promotes": list(member.promotes),
                "description": member.description,
            }
            for member, peak in zip(neuron.members, peaks, strict=True)
        ],
        "label": neuron.label,
        "category": neuron.category,
        "contexts": contexts,
    }  # fmt: skip


def _name(member: Member) -> str:
    return f"L{member.layer}/U{member.unit} of {member.model}"


def _number(value: float | None) -> float | None:
    """Five digits are more than the page shows; JSON has no NaN."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def _levels(activations: np.ndarray, peak: float) -> np.ndarray:
    """How hot each is, as the number of a digit."""
    scaled = np.clip(activations / peak, 0, 1) if peak > 0 else np.zeros(np.shape(activations))
    return np.rint(scaled * (len(DIGITS) - 1)).astype(int)


# ---------------------------------------------------------------------------------------------------------------------
# Texts


def _texts(neuron: RosettaNeuron, models: list[str], where: str) -> tuple[list[float], list[dict]]:
    """Each member's peak, and the texts with all members' heat."""
    tokens = []
    for number, context in enumerate(neuron.contexts):
        if not set(context.heat) <= set(models):
            raise ValueError(f"{where}, context {number}: heat of {sorted(context.heat)}, but members of {models}")
        if not 0 <= context.peak[0] <= context.peak[1] <= len(context.text):
            raise ValueError(f"{where}, context {number}: the peak {context.peak} is not a part of its text")
        tokens.append([_tokens(context, model, f"{where}, context {number}") for model in models])
    peaks = [max((found[i][:, 2].max(initial=0.0) for found in tokens), default=0.0) for i in range(len(models))]
    return peaks, [
        {
            "text": context.text, "subset": context.subset, "category": context.category,
            "peak": [int(end) for end in context.peak],
            "heat": [
                _runs(len(context.text), found, peak) if model in context.heat else None
                for model, found, peak in zip(models, of_context, peaks, strict=True)
            ],
        }
        for context, of_context in zip(neuron.contexts, tokens, strict=True)
    ]  # fmt: skip


def _tokens(context: Context, model: str, where: str) -> np.ndarray:
    """(start, end, activation) of one model's tokens of a context, float64 [n, 3], checked; none if it was not read."""
    tokens = np.array(context.heat.get(model, ()), dtype=np.float64).reshape(-1, 3)
    start, end, activation = tokens.T
    outside = np.flatnonzero((start < 0) | (end < start) | (end > len(context.text)))
    if outside.size:
        bad = tuple(int(x) for x in tokens[outside[0], :2])
        raise ValueError(f"{where}: {model!r} has heat at {bad}, not a part of its text of {len(context.text)}")
    if not np.isfinite(activation).all():
        raise ValueError(f"{where}: {model!r} has an activation that is not finite")
    return tokens


def _runs(characters: int, tokens: np.ndarray, peak: float) -> str:
    """The heat of each character as runs of two digits each: how hot, and how many characters less one."""
    lengths = (tokens[:, 1] - tokens[:, 0]).astype(int)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    levels = np.repeat(_levels(tokens[:, 2], peak), lengths)
    heat = np.zeros(characters, dtype=int)
    np.maximum.at(heat, np.repeat(tokens[:, 0].astype(int), lengths) + within, levels)
    starts = np.flatnonzero(np.diff(heat, prepend=-1))
    runs = []
    for level, length in zip(heat[starts].tolist(), np.diff(starts, append=characters).tolist(), strict=True):
        full, rest = divmod(length, len(DIGITS))
        runs.append((DIGITS[level] + DIGITS[-1]) * full + (DIGITS[level] + DIGITS[rest - 1] if rest else ""))
    return "".join(runs)


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def _sights(
    neuron: RosettaNeuron, models: list[str], where: str, pictures: dict[bytes, int]
) -> tuple[list[float], list[dict]]:
    """Each member's peak, and the numbers of the pictures with all members' maps."""
    maps = []
    for sight in neuron.contexts:
        there = f"{where}, image {sight.number}"
        if sight.picture[:4] != b"RIFF" or sight.picture[8:12] != b"WEBP":
            raise ValueError(f"{there}: the picture is no WebP file; `thumbnails.packed` makes one")
        if set(sight.maps) != set(models) or not set(sight.ranks) <= set(models):
            found = f"maps of {sorted(sight.maps)} and ranks of {sorted(sight.ranks)}"
            raise ValueError(f"{there}: {found}, but members of {models}")
        maps.append([np.asarray(sight.maps[model], dtype=np.float64) for model in models])
        for model, values, first in zip(models, maps[-1], maps[0], strict=True):
            if values.ndim != 2 or values.shape != first.shape or not np.isfinite(values).all():
                raise ValueError(f"{there}: the map of {model!r} is not finite, or no grid as that of the first image")
    peaks = [max((float(found[i].max()) for found in maps), default=0.0) for i in range(len(models))]
    return [max(0.0, peak) for peak in peaks], [
        {
            "picture": pictures.setdefault(sight.picture, len(pictures)),
            "number": int(sight.number),
            "caption": sight.caption,
            "ranks": [sight.ranks.get(model) and int(sight.ranks[model]) for model in models],
            "columns": [values.shape[1] for values in of_sight],
            "maps": ["".join(DIGITS[level] for level in _levels(values, peak).flat) for values, peak in zip(of_sight, peaks, strict=True)],
        }
        for sight, of_sight in zip(neuron.contexts, maps, strict=True)
    ]  # fmt: skip
