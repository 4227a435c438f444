"""One HTML file to explore Rosetta Neurons in: no server, no network, no framework; `page.html` is its template.

A text from a corpus may hold anything. It reaches the page as JSON in which no character can end the block, and from
there only as text nodes; the page's Content-Security-Policy allows its own script and style, and nothing else.
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


class Context(NamedTuple):
    """One text on which the anchor fires."""

    text: str  #: may hold anything
    subset: str
    category: str
    peak: tuple[int, int]  #: character range of the token on which the anchor peaks
    #: model -> (start, end, activation): character ranges of its tokens; a model left out was not read on this text
    heat: dict[str, list[tuple[int, int, float]]]


class RosettaNeuron(NamedTuple):
    """The matched neurons of all models, and what they fire on."""

    members: tuple[Member, ...]  #: one a model, the anchor first
    label: str
    category: str  #: the dominant one of its contexts
    contexts: tuple[Context, ...]  #: strongest first


def write(path: str | Path, neurons: Sequence[RosettaNeuron], title: str, note: str = "") -> Path:
    """Write the explorer: one self-contained HTML file, whole or not at all; the same neurons give the same bytes.

    Each member's activations are scaled by its own peak over the neuron's contexts, negative ones to 0, and kept in
    `DIGITS`. Where tokens share a character (each holds some of its bytes), the strongest counts. In the page's list a
    Rosetta Neuron has its anchor's layer, kurtosis and depth, and the anchor's correlation with its best match.

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
        If there are no neurons, two share their anchor, a neuron has no members or two of one model, or a context's
        heat is of a model without a member, not finite, or outside its text.
    """
    if not neurons:
        raise ValueError("there are no Rosetta Neurons to show; the explorer needs at least one")
    packed, anchors = [], set()
    for number, neuron in enumerate(neurons):
        if not neuron.members:
            raise ValueError(f"Rosetta Neuron number {number} has no members; the anchor is the first of them")
        anchor = neuron.members[0][:3]
        if anchor in anchors:
            raise ValueError(f"{_name(neuron.members[0])} is the anchor of two Rosetta Neurons; give each of them once")
        anchors.add(anchor)
        packed.append(_pack(neuron))
    data = {"digits": DIGITS, "neurons": packed}
    data = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # None of these is part of JSON's own syntax, so each stands in a string, where an escape means the same.
    data = re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", data)
    template = TEMPLATE.read_text(encoding="utf-8")
    page = fill(template, title=html.escape(title), note=html.escape(note), data=data)
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


def fill(template: str, **texts: str) -> str:
    """The template with its ``{{...}}`` filled in, in one pass: a text that itself holds ``{{data}}`` stays as it is.

    ``{{style_hash}}`` and ``{{script_hash}}`` are those of its style and its script, if it has one, for its policy.
    """
    for tag in ("style", "script"):
        if found := re.search(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL):
            texts[f"{tag}_hash"] = "sha256-" + base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
    return re.sub(r"\{\{(\w+)\}\}", lambda found: texts[found[1]], template)


def _pack(neuron: RosettaNeuron) -> dict:
    """A Rosetta Neuron as the page's script reads it."""
    models = [member.model for member in neuron.members]
    where = _name(neuron.members[0])
    if len(set(models)) < len(models):
        raise ValueError(f"{where} has two members of one model among {models}; a model gives one neuron")
    tokens = []
    for number, context in enumerate(neuron.contexts):
        if not set(context.heat) <= set(models):
            raise ValueError(f"{where}, context {number}: heat of {sorted(context.heat)}, but members of {models}")
        if not 0 <= context.peak[0] <= context.peak[1] <= len(context.text):
            raise ValueError(f"{where}, context {number}: the peak {context.peak} is not a part of its text")
        tokens.append([_tokens(context, model, f"{where}, context {number}") for model in models])
    peaks = [max((found[i][:, 2].max(initial=0.0) for found in tokens), default=0.0) for i in range(len(models))]
    return {
        "members": [
            {
                "model": member.model, "layer": int(member.layer), "unit": int(member.unit),
                "depth": _number(member.depth), "kurtosis": _number(member.kurtosis),
                "correlation": _number(member.correlation), "peak": _number(peak), "promotes": list(member.promotes),
            }
            for member, peak in zip(neuron.members, peaks, strict=True)
        ],
        "label": neuron.label,
        "category": neuron.category,
        "contexts": [
            {
                "text": context.text, "subset": context.subset, "category": context.category,
                "peak": [int(end) for end in context.peak],
                "heat": [
                    _runs(len(context.text), found, peak) if model in context.heat else None
                    for model, found, peak in zip(models, of_context, peaks, strict=True)
                ],
            }
            for context, of_context in zip(neuron.contexts, tokens, strict=True)
        ],
    }  # fmt: skip


def _name(member: Member) -> str:
    return f"L{member.layer}/U{member.unit} of {member.model}"


def _number(value: float | None) -> float | None:
    """Five digits are more than the page shows; JSON has no NaN."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


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
    scaled = np.clip(tokens[:, 2] / peak, 0, 1) if peak > 0 else np.zeros(len(tokens))
    levels = np.rint(scaled * (len(DIGITS) - 1)).astype(int)
    heat = np.zeros(characters, dtype=int)
    np.maximum.at(heat, np.repeat(tokens[:, 0].astype(int), lengths) + within, np.repeat(levels, lengths))
    starts = np.flatnonzero(np.diff(heat, prepend=-1))
    runs = []
    for level, length in zip(heat[starts].tolist(), np.diff(starts, append=characters).tolist(), strict=True):
        full, rest = divmod(length, len(DIGITS))
        runs.append((DIGITS[level] + DIGITS[-1]) * full + (DIGITS[level] + DIGITS[rest - 1] if rest else ""))
    return "".join(runs)
