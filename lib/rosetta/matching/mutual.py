"""Mutual nearest neighbours between two models' neurons (section 3.3), and what is kept of them: the MatchTable.

A MatchTable is a DataFrame with the columns of `COLUMNS`, ranks from 1, sorted by falling correlation. Its ``attrs``
say how many positions and neurons it was made from and how many neurons of each side were dead.
"""

import logging
from collections.abc import Generator, Iterable, Sequence

import numpy as np
import pandas as pd
import torch

from rosetta.matching.cost import ROWS, cheaper, positions_of, rows_that_fit
from rosetta.matching.equals import lower_first
from rosetta.matching.memory import with_less_memory
from rosetta.matching.nearest import Neighbours, exact, mutual_pairs, neighbours, widths
from rosetta.matching.rates import Rates, nominal
from rosetta.matching.rounds import Round, run, together
from rosetta.matching.screening import by_products, by_sketches

logger = logging.getLogger(__name__)

COLUMNS = ["model_a", "layer_a", "unit_a", "model_b", "layer_b", "unit_b", "correlation", "rank_a", "rank_b"]
MEMORY_BYTES = 4 * 2**30


def mutual_nearest(corr: torch.Tensor, k: int = 1) -> torch.Tensor:
    """Pairs (u, v) with v among the k neurons of B most similar to u, and u among the k of A most similar to v.

    Parameters
    ----------
    corr : [n_a, n_b]
        Similarities; NaN (a dead neuron) never matches.
    k : int

    Returns
    -------
    int64 [pairs, 2]
        Sorted by u, then v. Of equal similarities the lower index is the nearer neighbour.

    Raises
    ------
    ValueError
        If k < 1 or corr is not a table.
    """
    if not isinstance(corr, torch.Tensor) or corr.ndim != 2 or corr.is_complex():
        shape = f"{type(corr).__name__} of shape {tuple(getattr(corr, 'shape', ()))}"
        raise ValueError(f"corr is a {shape}; expected a real torch.Tensor [n_a, n_b]")
    check_k(k)
    pairs, _, _ = mutual_pairs(*neighbours(corr, k))
    return torch.from_numpy(pairs)


def check_k(k: int) -> None:
    """ValueError unless k is a whole number of at least 1."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k is {k!r}; it must be a whole number of at least 1")


def match_batches(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    k: int = 1,
    method: str = "exact",
    *,
    names: tuple[str, str] | None = None,
    layers: tuple[Sequence[int], Sequence[int]] | None = None,
    memory_bytes: int = MEMORY_BYTES,
    device: str | torch.device = "cpu",
    methods: Sequence[str] = ("exact", "bfloat16", "sketch"),
    positions: int | None = None,
    **options,
) -> pd.DataFrame:
    """Match two models' neurons over batches of aligned activations.

    Parameters
    ----------
    batches : iterable of (A [T, n_a], B [T, n_b])
        Read as often as the method needs: exactly once where the table of correlations fits the memory given.
    k : int
        Mutual top-k (3.3).
    method : {"exact", "bfloat16", "sketch", "auto"}
        All correlations in float32; or screening by products in bfloat16 or by sketches, and exact correlations of what
        they leave open (`screening`), which gives the same pairs; or whichever is predicted to cost least (`cost`), which
        ``attrs`` and the log then tell.
    names : (str, str), optional
        Names of the models; by default those the batches carry.
    layers : (sequence of int, sequence of int), optional
        Neurons of each layer; by default what the batches carry, or else one layer.
    memory_bytes : int
        For the accumulators, and for sketches.
    device : str or torch.device
        Where the correlations are computed.
    methods : sequence of str
        What ``auto`` may choose. Where no correlation is larger than sampling noise, sketches can order nothing.
    positions : int, optional
        About how many to expect, for ``auto``, where the batches do not tell.
    **options
        ``rows, candidates, errors, exact_share, seed`` of `screening.by_sketches`.

    Returns
    -------
    MatchTable

    Raises
    ------
    ValueError
        On an unknown method, options that it does not have, no batches, names or layers that are no two, or batches that
        cannot be read as often as the method needs.
    """
    expected = methods, positions
    (table,) = _matched(batches, k, method, None, names, layers, memory_bytes, device, expected, options)
    return table


def match_thinned(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    kept: np.ndarray,
    k: int = 1,
    method: str = "exact",
    *,
    names: tuple[str, str] | None = None,
    layers: tuple[Sequence[int], Sequence[int]] | None = None,
    memory_bytes: int = MEMORY_BYTES,
    device: str | torch.device = "cpu",
    methods: Sequence[str] = ("exact", "bfloat16", "sketch"),
    positions: int | None = None,
    **options,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Match two models' neurons over all positions, and over some of them, in the same readings.

    Where tables are summed, the sums over the positions that are kept and over the others are taken apart, and joined for
    those over all: the second match costs hardly anything.

    Parameters
    ----------
    batches, k, method, names, layers, memory_bytes, device, methods, positions, **options
        As for `match_batches`.
    kept : bool [positions]
        For all batches together, in their order; what `positions.thinning` gives.

    Returns
    -------
    (MatchTable, MatchTable)
        Over all positions, and over those that are kept.

    Raises
    ------
    ValueError
        As `match_batches`, or if `kept` is not one for each position.
    """
    expected = methods, positions
    return _matched(batches, k, method, kept, names, layers, memory_bytes, device, expected, options)


def _matched(
    batches, k, method, kept, names, layers, memory_bytes, device, expected, options
) -> tuple[pd.DataFrame, ...]:
    names, layers = _names_and_layers(batches, k, names, layers)
    batches, n_a, n_b = widths(batches, layers)
    layers, choice = layers or ([n_a], [n_b]), {}
    if method == "auto":
        again, reading = iter(batches) is not batches, getattr(batches, "flop", 0)
        methods, positions = expected
        method, options, why = chosen(
            n_a, n_b, positions_of(batches) or positions, memory_bytes, nominal(device), methods, kept is not None, again,
            reading, **options,
        )  # fmt: skip
        logger.info("%s with %s: method '%s'; %s", *names, method, why)
        choice = {"why": why}
    rounds = matching(n_a, n_b, k, method, twin=kept is not None, memory_bytes=memory_bytes, device=device, **options)
    return tuple(match_table(*found, names, layers, choice) for found in run(rounds, batches, kept))


def chosen(
    n_a: int, n_b: int, positions: int | None, memory_bytes: int, rates: Rates,
    methods: Sequence[str] = ("exact", "bfloat16", "sketch"), twin: bool = False, again: bool = True, reading: float = 0,
    **options,
) -> tuple[str, dict, str]:  # fmt: skip
    """What ``method="auto"`` takes: the method (`cost.cheaper`), those of the options that it has, and why."""
    rows = rows_that_fit(n_a, n_b, memory_bytes, options.get("rows", ROWS), twin)
    method, why = cheaper(n_a, n_b, positions, memory_bytes, rows, again, rates, methods, reading)
    options |= {"rows": rows}
    return method, {name: value for name, value in options.items() if name in OPTIONS[method]}, why


#: What each method may be told.
OPTIONS = {
    "exact": (),
    "bfloat16": ("candidates", "errors", "seed"),
    "sketch": ("rows", "candidates", "errors", "exact_share", "seed"),
}


def matching(
    n_a: int, n_b: int, k: int, method: str, *, twin: bool = False, memory_bytes: int = MEMORY_BYTES, device="cpu",
    **options,
) -> Generator[Round, Round, list[tuple[Neighbours, Neighbours, dict]]]:  # fmt: skip
    """A way of matching as rounds of sums (`rounds`), for shards of the text that are read apart.

    Parameters
    ----------
    n_a, n_b : int
        Neurons of the two models.
    k, method, memory_bytes, device, **options
        As for `match_batches`; ``auto`` has been decided before.
    twin : bool
        Whether the positions that are kept are matched apart, too.

    Returns
    -------
    list of (Neighbours, Neighbours, dict)
        What `match_table` takes; over all positions and, of twins, over those that are kept.

    Raises
    ------
    ValueError
        On an unknown method, or options that it does not have.
    """
    check_k(k)
    if method not in OPTIONS:
        raise ValueError(f"method is {method!r}; allowed are auto, {', '.join(OPTIONS)}")
    if strange := sorted({*options} - {*OPTIONS[method]}):
        raise ValueError(f"method {method!r} has no option {', '.join(strange)}; it has {OPTIONS[method] or 'none'}")
    sizes = n_a, n_b, k
    ways = {
        "exact": lambda memory: exact(*sizes, memory, device, twin),
        "bfloat16": lambda memory: by_products(*sizes, twin=twin, memory_bytes=memory, device=device, **options),
        "sketch": lambda memory: together([
            by_sketches(*sizes, memory_bytes=memory // (1 + twin), device=device, **options) for _ in range(1 + twin)
        ]),
    }  # fmt: skip
    return lower_first(with_less_memory(ways[method], memory_bytes, device))


def _names_and_layers(batches, k, names, layers) -> tuple:
    """Those given, or else what the batches carry; ValueError if they or k cannot be."""
    check_k(k)
    names = names or getattr(batches, "names", ("a", "b"))
    layers = layers or getattr(batches, "layers", None)
    if len(names) != 2 or not all(isinstance(name, str) for name in names):
        raise ValueError(f"names is {names!r}; it must be the names of the two models")
    if layers and (len(layers) != 2 or not all(size >= 1 for of_model in layers for size in of_model)):
        raise ValueError(f"layers is {layers!r}; it must be two lists of neurons a layer, each at least 1")
    return names, layers


def match_table(
    of_rows: Neighbours, of_columns: Neighbours, facts: dict, names, layers, more: dict | None = None
) -> pd.DataFrame:
    """The MatchTable of both models' neighbours; its ``attrs`` are the facts and more."""
    pairs, rank_a, rank_b = mutual_pairs(of_rows, of_columns)
    values = of_rows.values[pairs[:, 0], rank_a - 1]
    layer_a, unit_a = locate(pairs[:, 0], layers[0])
    layer_b, unit_b = locate(pairs[:, 1], layers[1])
    table = pd.DataFrame({
        "model_a": names[0], "layer_a": layer_a, "unit_a": unit_a,
        "model_b": names[1], "layer_b": layer_b, "unit_b": unit_b,
        "correlation": values.astype(np.float32), "rank_a": rank_a, "rank_b": rank_b,
    })[COLUMNS]  # fmt: skip
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -values))
    table = table.iloc[order].reset_index(drop=True)
    table.attrs = {"neurons_a": int(sum(layers[0])), "neurons_b": int(sum(layers[1])), **facts, **(more or {})}
    return table


def locate(neurons: np.ndarray, layers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(layer, unit) of neurons numbered through all layers."""
    ends = np.cumsum(layers)
    layer = np.searchsorted(ends, neurons, side="right")
    return layer, neurons - (ends - np.asarray(layers))[layer]


def numbered(table: pd.DataFrame, layers: tuple[Sequence[int], Sequence[int]]) -> list[tuple[int, int]]:
    """A MatchTable's pairs as numbers through all layers of A and of B: the inverse of `locate`."""
    sides = (
        np.cumsum([0, *of_model])[table[f"layer_{side}"]] + table[f"unit_{side}"]
        for side, of_model in zip("ab", layers, strict=True)
    )
    return list(zip(*(side.tolist() for side in sides), strict=True))


def top_k(table: pd.DataFrame, k: int) -> pd.DataFrame:
    """The part of a MatchTable, made with a larger k, that mutual top-k would have found."""
    part = table[(table.rank_a <= k) & (table.rank_b <= k)].reset_index(drop=True)
    part.attrs = dict(table.attrs)
    return part


def matched_neurons(table: pd.DataFrame, model: str) -> pd.MultiIndex:
    """The (layer, unit) of one model's neurons that a table matches.

    Raises
    ------
    ValueError
        If the table is not about that model.
    """
    for side in "ab":
        if not len(table) or (table[f"model_{side}"] == model).any():
            neurons = table[[f"layer_{side}", f"unit_{side}"]].drop_duplicates()
            return pd.MultiIndex.from_frame(neurons, names=["layer", "unit"])
    raise ValueError(f"model {model!r} is not in this table; it has {table.model_a[0]!r} and {table.model_b[0]!r}")


def collapse(tables: Sequence[pd.DataFrame], anchor: str) -> pd.DataFrame:
    """The anchor's neurons that are matched in every table (section 4.1, the collapsed curves).

    Parameters
    ----------
    tables : sequence of MatchTable
    anchor : str
        The model that all the tables share.

    Returns
    -------
    DataFrame
        ``model, layer, unit``, sorted.
    """
    if not tables:
        raise ValueError("there are no tables to collapse")
    shared = matched_neurons(tables[0], anchor)
    for table in tables[1:]:
        shared = shared.intersection(matched_neurons(table, anchor))
    frame = shared.to_frame(index=False).astype("int64").sort_values(["layer", "unit"], ignore_index=True)
    frame.insert(0, "model", anchor)
    return frame
