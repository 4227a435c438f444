"""Put together what is known of some neurons of models of images: the rows of the explorer whose examples are pictures.

For each matched pair of neurons of the profile's ``images.pair``: the images on which either is highest, each with both
neurons' maps on their own grids, depth, and what a judge says of them where that is given.
"""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from rosetta.matching.mutual import numbered, top_k
from rosetta.neurons.images import maps_on, top_images
from rosetta.results import keep
from rosetta.sources.document import batched
from rosetta.sources.drawing import VALUES
from rosetta.sources.pictures import Picture, from_png, png
from rosetta.studies.images import shown
from rosetta.studies.matches import Study
from rosetta.viewer import page
from rosetta.viewer.page import Member, RosettaNeuron, Sight
from rosetta.viewer.thumbnails import QUALITY, packed, squared

#: Columns of one neuron of a match.
NEURON = ("model", "layer", "unit")


def write(study: Study, neurons: list[RosettaNeuron]) -> Path:
    """Write the explorer of the profile's ``images.pair`` to ``results/<profile>/explorer_images.html``."""
    images = study.profile.images
    a, b = images.pair
    side = max((_side(sight.picture) for neuron in neurons for sight in neuron.contexts), default=0)
    by = "the mean over all cells" if images.rank == "mean" else "the strongest cell"
    note = (
        f"Neurons of {a} and {b} that are each other's nearest neighbours over {images.count:,} images; of each neuron its "
        f"strongest images among these, by {by}, as squares of at most {side} pixels (WebP, quality {QUALITY})."
    )
    return page.write(study.folder / "explorer_images.html", neurons, f"Rosetta Neurons of {a}, {b}", note)


def rosetta_neurons(
    study: Study, descriptions: Mapping[tuple[str, int, int], str] | None = None
) -> list[RosettaNeuron]:
    """The matched neurons of the profile's ``images.pair``: the highest correlations first.

    Parameters
    ----------
    study : Study
    descriptions : mapping of (model, layer, unit) to str, optional
        What a judge says of neurons. The anchor's, or else its partner's, is the label.
    """
    pair, asked, descriptions = study.profile.images.pair, study.profile.images.explorer, descriptions or {}
    matches = top_k(study.matches(pair), 1).head(asked.neurons).reset_index(drop=True)
    strongest, pictures = _kept(study, pair, matches, asked.images)
    files, _ = packed({row.number: from_png(row.picture) for row in pictures.itertuples()})
    known = pictures.set_index("number")
    layers, neurons = [study.profile.models[name].layers for name in pair], []
    examples = dict(list(strongest.groupby("match")))
    for number, match in enumerate(matches.itertuples()):
        members = []
        for side, correlation, deepest in (("a", None, layers[0]), ("b", float(match.correlation), layers[1])):
            name, layer, unit = (getattr(match, f"{part}_{side}") for part in NEURON)
            said = descriptions.get((name, layer, unit), "")
            members.append(Member(name, layer, unit, layer / max(1, deepest - 1), np.nan, (), correlation, said))
        rows = examples[number]
        label = next((member.description for member in members if member.description), "")
        classes = known.loc[rows[rows["rank_a"] > 0].sort_values("rank_a")["number"], "kind"]
        sights = tuple(
            _sight(row, files[row.number], known.at[row.number, "caption"], pair) for row in rows.itertuples()
        )
        neurons.append(RosettaNeuron(tuple(members), label, _most(classes), sights))
    return neurons


def _sight(row, file: bytes, caption: str, pair: tuple[str, str]) -> Sight:
    sides = zip(pair, ((row.rank_a, row.map_a, row.rows_a), (row.rank_b, row.map_b, row.rows_b)), strict=True)
    sides = {name: (rank, np.reshape(values, (rows, -1))) for name, (rank, values, rows) in sides}
    ranks = {name: int(rank) for name, (rank, _) in sides.items() if rank}
    return Sight(file, int(row.number), caption, ranks, {name: values for name, (_, values) in sides.items()})


def _most(classes: pd.Series) -> str:
    """The most frequent one; of several the first of the strongest image."""
    counted = classes[classes != ""].value_counts(sort=False)
    return str(counted.idxmax()) if len(counted) else ""


# ---------------------------------------------------------------------------------------------------------------------
# What is kept


def _kept(study: Study, pair: tuple[str, str], matches: pd.DataFrame, n: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The matches' strongest images with both neurons' maps, and these images."""
    parameters = study.parameters(pair) | {
        "neurons": len(matches), "images": n, "rank": study.profile.images.rank,
        "matching": study.profile.matching.model_dump(),
    }  # fmt: skip
    folder, name = study.folder / "examples", f"{pair[0]}--{pair[1]}"
    strongest = keep(folder / f"{name}.explorer.parquet", parameters, lambda: _strongest(study, pair, matches, n))
    numbers = set(strongest["number"])
    pictures = keep(folder / f"{name}.pictures.parquet", parameters, lambda: _pictures(study, pair, numbers))
    return strongest, pictures


def _strongest(study: Study, pair: tuple[str, str], matches: pd.DataFrame, n: int) -> pd.DataFrame:
    """A row for each match and image that is among the n on which one of its neurons is highest.

    ``match, number``; of each side its ``rank`` (from 1, 0 where it is not among them), its ``map`` and that one's ``rows``.
    """
    readers, found = [study.reader(name) for name in pair], {}
    # What each model is read on: a generator makes its pictures anew, and an encoder sees those that are kept.
    streams = study.pieces(pair), study.seen_by(pair)
    for side, reader, stream in zip("ab", readers, streams, strict=True):
        top = top_images(reader, stream, n, study.profile.images.rank, study.per_batch([reader.name]))
        by_neuron = dict(list(top.groupby(["layer", "unit"])))
        for number, match in enumerate(matches.itertuples()):
            rows = by_neuron[getattr(match, f"layer_{side}"), getattr(match, f"unit_{side}")]
            for row in rows.itertuples():
                found.setdefault((number, row.image), {"rank_a": 0, "rank_b": 0})[f"rank_{side}"] = row.rank
    columns = numbered(matches, [reader.layers for reader in readers])
    rows = [{"match": match, "number": number, **ranks} for (match, number), ranks in sorted(found.items())]
    for at, (side, reader, stream) in enumerate(zip("ab", readers, streams, strict=True)):
        wanted: dict[int, list[int]] = {}
        for row in rows:
            wanted.setdefault(row["number"], []).append(columns[row["match"]][at])
        per_batch = study.per_batch([reader.name])
        maps = {}
        for some in batched(_numbered(stream, set(wanted)), per_batch):
            few = dict(some)
            maps |= maps_on(reader, few, {number: wanted[number] for number in few}, per_batch)
        for row in rows:
            values = maps[row["number"]][..., wanted[row["number"]].index(columns[row["match"]][at])]
            row |= {f"rows_{side}": len(values), f"map_{side}": values.ravel()}
    return pd.DataFrame(rows)


def _pictures(study: Study, pair: tuple[str, str], numbers: set[int]) -> pd.DataFrame:
    """``number``; a ``picture`` as human eyes are shown it, small; its ``kind`` (class) and ``caption``, empty if there is none."""
    show, rows = shown(study), []
    for number, picture in _numbered(study.seen_by(pair), numbers):
        kind = _class_of(study, picture)
        known = picture.caption or ", ".join(filter(None, (kind, _file_of(study, pair, picture))))
        rows.append({"number": number, "picture": png(squared(show(picture.pixels))), "kind": kind, "caption": known})
    return pd.DataFrame(rows)


def _numbered(stream: Iterable, wanted: set[int]) -> Iterable[tuple[int, object]]:
    """Those of a stream that are wanted, with their numbers; no other is held."""
    return ((number, piece) for number, piece in enumerate(stream) if number in wanted)


def _class_of(study: Study, picture: Picture) -> str:
    """A picture's class in words: of scenes it is their first object's shape."""
    if picture.label is None:
        return ""
    return VALUES["shape"][picture.label] if study.profile.images.real["kind"] == "scenes" else f"class {picture.label}"


def _file_of(study: Study, pair: tuple[str, str], picture: Picture) -> str:
    """The name of a real image's file."""
    in_files = study.profile.images.real["kind"] == "folder" and not study.profile.models[pair[0]].generates
    return Path(picture.source).name if in_files else ""


def _side(file: bytes) -> int:
    return Image.open(io.BytesIO(file)).size[0]
