"""Lists of matches in the format in which the paper's authors publish theirs: read, written and compared.

What is known of it, from their repository (avdravid/rosetta-neuron-scaling): ``best_buddies.json`` is a list of objects, one
a pair. Of language models their keys begin with ``model1`` and ``model2``; of images with the generator's kind and ``disc``
(``pmf_neuron``, ``disc_neuron``), and layers have a number (``pmf_layer_idx``) beside their name. Ranks begin at 1. The
models are not named, correlations of language models are rounded to bfloat16, and a list may be of mutual top-k pairs for
any k (pMF's script has k = 10 by default): `mutual.top_k` cuts it to the paper's count.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from rosetta.matching.mutual import COLUMNS, top_k
from rosetta.results import write_json

#: Neurons of each layer, by the model's name.
Layers = Mapping[str, Sequence[int]]
NEURONS = ["layer_a", "unit_a", "layer_b", "unit_b"]


def read_released(path: str | Path, models: tuple[str, str], layers: Layers | None = None) -> pd.DataFrame:
    """The MatchTable of a released list of pairs (``best_buddies.json``).

    Parameters
    ----------
    path : path
    models : (str, str)
        What the first and the second model are called here; the file does not say.
    layers : mapping of str to sequence of int, optional
        Neurons of each layer, by model; where a model's are given, its neurons are held against them.

    Returns
    -------
    MatchTable
        Ranks from 1, also where the file counts from 0, which a rank of 0 shows: the best pair of all is either neuron's
        first. ``attrs`` have the file's name as ``released`` and, of models whose layers are given, ``neurons_a`` and
        ``neurons_b``.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no such list: not JSON, no objects, a key missing, a value that cannot be, a pair twice, a neuron that its
        model does not have; with the file, the pair's number and the key.
    """
    path, layers = Path(path), layers or {}
    if len(models) != 2 or not all(isinstance(name, str) for name in models):
        raise ValueError(f"models is {models!r}; it must be the names of the two models")
    records = _records(path)
    sides = _sides(records[0] if records else {})
    rows = []
    for number, record in enumerate(records):
        place = f"{path}, pair {number}"
        (layer_a, unit_a), (layer_b, unit_b) = (
            _neuron(record, side, place, name, layers) for side, name in zip(sides, models, strict=True)
        )
        ranks = [_whole(record, f"rank_in_{side}", place) for side in sides]
        rows.append((models[0], layer_a, unit_a, models[1], layer_b, unit_b, _correlation(record, place), *ranks))
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"correlation": "float32"})
    table = table.astype(dict.fromkeys([*NEURONS, "rank_a", "rank_b"], "int64"))
    if (twice := table.duplicated(NEURONS)).any():
        raise ValueError(f"{path}, pair {int(twice.to_numpy().argmax())}: these two neurons are a pair before already")
    if (table[["rank_a", "rank_b"]] == 0).any(axis=None):
        table[["rank_a", "rank_b"]] += 1
    table = table.sort_values(["correlation", *NEURONS], ascending=[False] + [True] * 4, ignore_index=True)
    neurons = {f"neurons_{side}": sum(layers[name]) for side, name in zip("ab", models, strict=True) if name in layers}
    table.attrs = {"released": path.name, **neurons}
    return table


def read_released_anchors(path: str | Path, anchor: str, layers: Layers | None = None) -> pd.DataFrame:
    """The released list of the anchor's neurons that are matched in every other model (``rosetta_anchors.json``; 4.1).

    Parameters
    ----------
    path : path
    anchor : str
        What the model that all pairs share is called here.
    layers : mapping of str to sequence of int, optional
        As for `read_released`; the other models by the names that the file has.

    Returns
    -------
    DataFrame
        A row for each neuron and other model: ``model, layer, unit, mean_correlation``, and ``other, other_layer,
        other_unit, correlation``. Its different (layer, unit) are what `mutual.collapse` gives.

    Raises
    ------
    OSError, ValueError
        As `read_released`.
    """
    path, layers, rows = Path(path), layers or {}, []
    for number, record in enumerate(_records(path)):
        place = f"{path}, anchor {number}"
        layer, unit = _neuron(record, "model1", place, anchor, layers)
        mean, per_model = _correlation(record, place, "avg_correlation"), _value(record, "per_model", place)
        if not isinstance(per_model, list) or not per_model or not all(isinstance(one, dict) for one in per_model):
            raise ValueError(f"{place}: per_model must be a list of objects, one for each other model")
        for one in per_model:
            if not isinstance(other := _value(one, "model", place), str):
                raise ValueError(f"{place}: model is {other!r}; it must be a name")
            found = _neuron(one, "model2", f"{place}, {other}", other, layers)
            rows.append((anchor, layer, unit, mean, other, *found, _correlation(one, f"{place}, {other}")))
    columns = ["model", "layer", "unit", "mean_correlation", "other", "other_layer", "other_unit", "correlation"]
    return pd.DataFrame(rows, columns=columns)


def write_released(table: pd.DataFrame, path: str | Path) -> None:
    """Write a MatchTable as such a list, of ``model1`` and ``model2``, whole or not at all; the models' names are not kept."""
    names = {
        "layer_a": "model1_layer", "unit_a": "model1_neuron", "layer_b": "model2_layer", "unit_b": "model2_neuron",
        "correlation": "correlation", "rank_a": "rank_in_model1", "rank_b": "rank_in_model2",
    }  # fmt: skip
    write_json(Path(path), table[list(names)].rename(columns=names).to_dict("records"))


class Comparison(NamedTuple):
    """Two lists of matches of the same two models.

    ``ours`` and ``theirs``: pairs in each. ``shared``: a row for each pair in both, its neurons and its correlation in
    either. ``jaccard``: shared pairs over all different ones, NaN if there are none. ``rank_correlation``: Spearman's, of the
    correlations of the shared pairs; NaN with fewer than two. ``layers``: how many pairs are between a layer of A and one of
    B, in ours, in theirs and shared.
    """

    ours: int
    theirs: int
    shared: pd.DataFrame
    jaccard: float
    rank_correlation: float
    layers: pd.DataFrame


def compare(ours: pd.DataFrame, theirs: pd.DataFrame, k: int = 1) -> Comparison:
    """Two MatchTables of the same two models beside each other, both cut to mutual top-k.

    Parameters
    ----------
    ours, theirs : MatchTable
        Of the same two models; the sides of `theirs` are exchanged where it has them the other way round.
    k : int
        A list that was made with a smaller one stays as it is.

    Raises
    ------
    ValueError
        If they are about other models.
    """
    of_ours, of_theirs = _models(ours), _models(theirs)
    if of_ours and of_theirs and of_theirs == of_ours[::-1] != of_ours:
        theirs, of_theirs = _exchanged(theirs), of_ours
    if of_ours and of_theirs and of_ours != of_theirs:
        raise ValueError(
            f"ours matches {' with '.join(of_ours)}, theirs {' with '.join(of_theirs)}: no two lists to compare"
        )
    ours, theirs = (top_k(table, k)[[*NEURONS, "correlation"]] for table in (ours, theirs))
    shared = ours.merge(theirs, on=NEURONS, suffixes=("_ours", "_theirs"))
    either = len(ours) + len(theirs) - len(shared)
    r = shared[["correlation_ours", "correlation_theirs"]].rank()
    varied = (r.nunique() > 1).all()
    counts = {"ours": ours, "theirs": theirs, "shared": shared}
    return Comparison(
        len(ours), len(theirs), shared,
        len(shared) / either if either else math.nan,
        float(r.iloc[:, 0].corr(r.iloc[:, 1])) if varied else math.nan,
        pd.DataFrame({of: table.groupby(["layer_a", "layer_b"]).size() for of, table in counts.items()})
        .fillna(0).astype(int).sort_index(),
    )  # fmt: skip


def _models(table: pd.DataFrame) -> tuple[str, str] | None:
    """The two models of a MatchTable; None of an empty one, which may be any two's."""
    pairs = list(table[["model_a", "model_b"]].drop_duplicates().itertuples(index=False, name=None))
    if len(pairs) > 1:
        raise ValueError(f"a table matches {len(pairs)} pairs of models; compare takes those of one")
    return pairs[0] if pairs else None


def _exchanged(table: pd.DataFrame) -> pd.DataFrame:
    sides = {"_a": "_b", "_b": "_a"}
    return table.rename(columns=lambda name: name[:-2] + sides.get(name[-2:], name[-2:]))


# ---------------------------------------------------------------------------------------------------------------------
# One object of a file


def _records(path: Path) -> list[dict]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
        got = "a list of other things" if isinstance(content, list) else type(content).__name__
        raise ValueError(f"{path} holds {got}; it must be a list of objects")
    return content


def _sides(record: dict) -> list[str]:
    """What the keys of the two models begin with, in their order."""
    found = [key.removesuffix("_neuron") for key in record if key.endswith("_neuron")]
    return found if len(found) == 2 else ["model1", "model2"]


def _value(record: dict, key: str, place: str) -> Any:
    if key not in record:
        raise ValueError(f"{place} has no {key}; it has {', '.join(record) or 'nothing'}")
    return record[key]


def _whole(record: dict, key: str, place: str) -> int:
    value = _value(record, key, place)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise ValueError(f"{place}: {key} is {value!r}; it must be a whole number of at least 0")
    return value


def _neuron(record: dict, side: str, place: str, model: str, layers: Layers) -> tuple[int, int]:
    """(layer, unit), which the model must have."""
    key = f"{side}_layer_idx" if f"{side}_layer_idx" in record else f"{side}_layer"
    layer, unit = _whole(record, key, place), _whole(record, f"{side}_neuron", place)
    if model in layers:
        if layer >= len(layers[model]):
            raise ValueError(f"{place}: {key} is {layer}; {model} has {len(layers[model])} layers, counted from 0")
        if unit >= layers[model][layer]:
            has = f"layer {layer} of {model} has {layers[model][layer]} neurons, counted from 0"
            raise ValueError(f"{place}: {side}_neuron is {unit}; {has}")
    return layer, unit


def _correlation(record: dict, place: str, key: str = "correlation") -> float:
    value = _value(record, key, place)
    # Rounded to bfloat16, a correlation may end a little beyond 1.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1.01:
        raise ValueError(f"{place}: {key} is {value!r}; it must be a number from -1 to 1")
    return value
