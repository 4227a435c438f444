"""What notebooks show of images: those on which neurons fire most, one image on two grids, and how scenes were chosen."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from rosetta.matching import nulls
from rosetta.matching.alignment import resample_grid
from rosetta.matching.batches import Example, HeldBatches, strongest_pieces
from rosetta.matching.images import Wish
from rosetta.matching.mutual import match_batches, matched_neurons, numbered, top_k
from rosetta.neurons.images import maps_on, top_images
from rosetta.plots.images import Seen, SeenPair, as_they_are
from rosetta.results import keep
from rosetta.sources import development, scenes
from rosetta.sources.development import undevelop
from rosetta.sources.pictures import from_png, png
from rosetta.studies.matches import Study

#: Of the rule by which scenes are developed (`by_development`): grains, scenes and seeds of untrained networks.
GRAINS, RULE_SCENES, RULE_SEEDS = (0, 0.05, 0.1, 0.2), 400, (1, 2, 3)


def shown(study: Study) -> Callable[[np.ndarray], np.ndarray]:
    """What human eyes are shown of a profile's pictures: scenes undeveloped, all others as they are."""
    return undevelop if study.profile.images.real["kind"] == "scenes" else as_they_are


# ---------------------------------------------------------------------------------------------------------------------
# What neurons fire on


def best_pairs(study: Study, pair: tuple[str, str], n: int = 6, images: int = 3) -> list[SeenPair]:
    """The n matched pairs of highest correlation on the images on which both neurons fire most (Figures 2, 14 to 18)."""
    best = top_k(study.matches(pair), 1).head(n)
    path = study.folder / "examples" / f"{pair[0]}--{pair[1]}.parquet"
    by = study.profile.images.rank
    parameters = study.parameters(pair) | {"n": n, "images": images, "by": by}
    kept = keep(path, parameters, lambda: _stacked(study, pair, best, images, by))
    return [
        SeenPair(
            f"{match.model_a} L{match.layer_a}/U{match.unit_a}", f"{match.model_b} L{match.layer_b}/U{match.unit_b}",
            match.correlation, [_seen(row) for row in kept[kept["match"] == number].itertuples()],
        )
        for number, match in enumerate(best.itertuples())
    ]  # fmt: skip


def _stacked(study: Study, pair, best: pd.DataFrame, images: int, by: str) -> pd.DataFrame:
    batches = study.trained(pair)
    strongest = strongest_pieces(batches, numbered(best, batches.layers), images, by)
    return pd.DataFrame([
        {"match": match, "image": png(_pixels(study, pair, example)), "rows": len(example.a), "a": example.a.ravel(), "b": example.b.ravel()}
        for match, examples in enumerate(strongest) for example in examples
    ])  # fmt: skip


def _pixels(study: Study, pair, example: Example) -> np.ndarray:
    piece = example.piece
    return study.made_by(pair[0], study.amount(pair))[piece.index].pixels if isinstance(piece, Wish) else piece.pixels


def _seen(row) -> Seen:
    return Seen(from_png(row.image), *(np.reshape(side, (row.rows, -1)) for side in (row.a, row.b)))


def galleries(study: Study, pair: tuple[str, str]) -> dict[str, dict[str, list]]:
    """Top images of an encoder's Rosetta Neurons, and of as many of its others in the same layers (Figures 21 and 22).

    The Rosetta Neurons are those of highest correlation; the others are drawn at random, one for each of these, from
    its layer.

    Returns
    -------
    dict of dict of list of (uint8 [h, w, 3], float32 [H, W])
        As `plots.fig21` takes it.
    """
    asked, (partner, name) = study.profile.images.gallery, pair
    path = study.folder / "examples" / f"{partner}--{name}.gallery.parquet"
    parameters = study.parameters(pair) | asked.model_dump() | {"rank": study.profile.images.rank}
    kept = keep(path, parameters, lambda: _gallery(study, pair))
    return {
        kind: {
            f"L{layer}/U{unit}": [
                (from_png(row.image), np.reshape(row.map, (row.rows, -1))) for row in of_neuron.itertuples()
            ]
            for (layer, unit), of_neuron in of_kind.groupby(["layer", "unit"], sort=False)
        }
        for kind, of_kind in kept.groupby("kind", sort=False)
    }


def _gallery(study: Study, pair: tuple[str, str]) -> pd.DataFrame:
    asked, name = study.profile.images.gallery, pair[1]
    reader, pictures = study.reader(name), study.seen_by(pair)
    top = top_images(reader, pictures, asked.images, study.profile.images.rank, study.per_batch([name]))
    alive = set(top[["layer", "unit"]].itertuples(index=False, name=None))
    matches = top_k(study.matches(pair), 1)
    matched = set(matched_neurons(matches, name))
    rosetta = list(matches[["layer_b", "unit_b"]].head(asked.neurons).itertuples(index=False, name=None))
    rng, others = np.random.default_rng(asked.seed), []
    for layer, _ in rosetta:
        left = [
            (layer, unit) for unit in range(reader.layers[layer])
            if (layer, unit) in alive and (layer, unit) not in matched and (layer, unit) not in others
        ]  # fmt: skip
        if left:
            others.append(left[rng.integers(len(left))])
    rows = [
        {"kind": kind, "layer": layer, "unit": unit, "number": row.image}
        for kind, neurons in (("Rosetta Neurons", rosetta), ("other neurons of the same layers", others))
        for layer, unit in neurons
        for row in top[(top["layer"] == layer) & (top["unit"] == unit)].itertuples()
    ]
    wanted = dict.fromkeys(sorted({row["number"] for row in rows}))
    images = {number: picture for number, picture in enumerate(pictures) if number in wanted}
    columns = [sum(reader.layers[:layer]) + unit for layer, unit in rosetta + others]
    maps = maps_on(reader, images, dict.fromkeys(wanted, columns), study.per_batch([name]))
    at = {neuron: column for column, neuron in enumerate(rosetta + others)}
    for row in rows:
        values = maps[row["number"]][..., at[row["layer"], row["unit"]]]
        row |= {"image": png(images[row["number"]].pixels), "rows": len(values), "map": values.ravel()}
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------------------------------------------------------
# One image on two grids


def grids(study: Study, pair: tuple[str, str], images: int = 100) -> tuple[np.ndarray, dict]:
    """An image, and of two neurons that fire alike the maps on their own grids and on the canonical one (Figure 24).

    They are the best pair over a few images (all that there are, where those are fewer), on the image on which both fire most.

    Returns
    -------
    pixels : uint8 [h, w, 3]
    maps : dict of str to ([H, W], [H', W'])
        As `plots.fig24` takes it.
    """
    batches = study.batches(pair, min(images, study.amount(pair)))
    held = batches.held()
    table = match_batches(held, 1).head(1)
    columns = numbered(table, held.layers)[0]
    example = strongest_pieces(held, [columns], 1)[0][0]
    pixels, maps = _pixels(study, pair, example), {}
    for side, reader, column in zip("ab", (batches.a, batches.b), columns, strict=True):
        read = (
            reader.parts([example.piece])
            if isinstance(example.piece, Wish) and side == "a"
            else reader.read(pixels[None])[None]
        )
        own = read[0][:, column].float().cpu().reshape(reader.grid)
        name = f"{reader.name} L{table[f'layer_{side}'][0]}/U{table[f'unit_{side}'][0]}"
        canonical = resample_grid(own[None, ..., None], batches.together.size)[0, ..., 0]
        maps[name] = own.numpy(), canonical.numpy()
    return pixels, maps


# ---------------------------------------------------------------------------------------------------------------------
# How scenes were chosen


def by_development(study: Study, pair: tuple[str, str]) -> pd.DataFrame:
    """What two untrained encoders share on scenes with more and more grain, whitened or not: the rule looks at this alone.

    Returns
    -------
    DataFrame
        ``grain, whitened``; ``dimensions``: the participation ratio of a patch's covariance; over three draws of the
        networks the mean number of ``pairs``, their mean ``r``, and ``high``, the quantile that calibrates counts.
    """
    path = study.folder / "tables" / "development.parquet"
    parameters = study.parameters(pair) | {"grains": GRAINS, "scenes": RULE_SCENES, "seeds": RULE_SEEDS}

    def rows() -> pd.DataFrame:
        drawn = torch.from_numpy(np.stack([scenes.drawn(index)[0] for index in range(RULE_SCENES)]))
        grain = torch.randn(drawn.shape, generator=torch.Generator().manual_seed(0))
        return pd.DataFrame([
            _with_development(study, pair, drawn, grain, share, whitened) for share in GRAINS for whitened in (False, True)
        ])  # fmt: skip

    return keep(path, parameters, rows)


def _with_development(study, pair, drawn, grain, share: float, whitened: bool) -> dict:
    rows = development.patches(drawn.float() + 255 * share * grain).flatten(0, 1).double()
    if whitened:
        matrix, mean = (torch.from_numpy(x) for x in development.whitening_of(drawn.numpy(), share))
        rows = (rows - mean) @ matrix
    values = torch.linalg.eigvalsh(torch.cov(rows.T))
    z = (rows - rows.mean()) / rows.std()
    scaled = development.MIDDLE + development.SPREAD * z.reshape(len(drawn), -1, rows.shape[1]).float()
    pixels = development.joined(scaled).clamp(0, 255)  # as developed scenes, cut off at five deviations
    tables = []
    for seed in RULE_SEEDS:
        a, b = (study.reader(name, seed) for name in pair)
        size = tuple(map(max, a.grid, b.grid))
        read = [(a.read(some, size), b.read(some, size)) for some in pixels.split(study.per_batch(pair))]
        tables.append(match_batches(HeldBatches(read, pair, (a.layers, b.layers)), 1))
    return {
        "grain": share, "whitened": whitened, "dimensions": float(values.sum() ** 2 / values.square().sum()),
        "pairs": float(np.mean([len(one) for one in tables])),
        "r": float(np.mean([one["correlation"].mean() for one in tables])),
        "high": nulls.threshold(tables, study.profile.nulls.quantile),
    }  # fmt: skip


def rule_for_development(table: pd.DataFrame) -> tuple[float, bool]:
    """The least grain, without whitening or else with it, at which untrained networks' quantile falls below half of that on
    scenes as drawn.

    Raises
    ------
    ValueError
        If it nowhere does.
    """
    as_drawn = table[(table["grain"] == 0) & ~table["whitened"]]["high"].iloc[0]
    enough = table[table["high"] < as_drawn / 2].sort_values(["grain", "whitened"])
    if enough.empty:
        raise ValueError("no grain of the table is enough, whitened or not; try more")
    return float(enough["grain"].iloc[0]), bool(enough["whitened"].iloc[0])
