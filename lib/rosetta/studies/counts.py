"""What is counted of a study's matches: the points of every curve, power laws through them, and Figure 33's sweep."""

from collections.abc import Iterator

import pandas as pd
from tqdm.auto import tqdm

from rosetta.laws import scaling
from rosetta.matching import nulls
from rosetta.matching.batches import AlignedBatches
from rosetta.matching.correlation import PearsonAccumulator, tiles
from rosetta.matching.mutual import collapse, mutual_nearest, top_k
from rosetta.results import keep
from rosetta.studies.matches import Study


def point(study: Study, models: tuple[str, ...], k: int = 1) -> dict:
    """One point of a curve: its size and its counts, raw and calibrated, beside both nulls'.

    For two models a count is of pairs; for more, of the anchor's neurons matched in every pair. ``raw`` is the
    paper's count, ``calibrated`` that of pairs above the permuted null, ``strict`` that of pairs above both nulls.
    ``share`` is the raw count's of the neurons. ``thinned`` and ``thinned_strict`` are the raw and the strict count over
    thinned positions (`positions.thinning`). ``aligned_same`` is the raw count over the positions that the permuted null
    was made over, ``permuted_positions``, all or the first of them (`nulls.which_positions`); its threshold is scaled to the
    number of positions that are counted over (`nulls.threshold`).
    """
    pairs, quantile = study.profile.pairs_of(models), study.profile.nulls.quantile

    def top(read) -> list:
        """For each pair its table, or the tables of its seeds, cut to the k asked for."""
        tables = [read(pair) for pair in pairs]
        return [[top_k(one, k) for one in table] if isinstance(table, list) else top_k(table, k) for table in tables]

    trained, permuted, untrained = top(study.matches), top(study.permuted_matches), top(study.untrained_matches)
    thinned, thinned_untrained = top(study.thinned_matches), top(study.thinned_untrained_matches)
    aligned_same = top(study.same_positions_matches)
    anchor = study.profile.anchor(models)

    def above_permuted(tables) -> list[float]:
        """The permuted null's threshold for each pair's table, whatever its positions."""
        return [
            nulls.threshold(null, quantile, table.attrs["positions"])
            for null, table in zip(permuted, tables, strict=True)
        ]

    def above_both_nulls(tables, null_tables) -> list[float]:
        return list(map(max, above_permuted(tables), (nulls.threshold(null, quantile) for null in null_tables)))

    above, above_both = above_permuted(trained), above_both_nulls(trained, untrained)
    above_thinned = above_both_nulls(thinned, thinned_untrained)

    def count(tables, thresholds=None) -> int:
        tables = list(tables)
        if thresholds:
            tables = [nulls.calibrated(table, r) for table, r in zip(tables, thresholds, strict=True)]
        return len(tables[0]) if len(tables) == 1 else len(collapse(tables, anchor))

    by_null = {"permuted": permuted, "untrained": untrained, "thinned_untrained": thinned_untrained}
    null_counts = {
        f"{null}_{key}": float(value)
        for null, by_pair in by_null.items()
        for key, value in nulls.mean_ci95([count(tables) for tables in zip(*by_pair, strict=True)])._asdict().items()
    }
    return {
        "models": " + ".join(models), "anchor": anchor, "neurons": study.profile.neurons(models), "k": k,
        "raw": count(trained), "share": count(trained) / study.profile.neurons(models),
        "calibrated": count(trained, above), "strict": count(trained, above_both),
        "threshold": max(above), "strict_threshold": max(above_both),
        "thinned": count(thinned), "thinned_strict": count(thinned, above_thinned),
        "thinned_threshold": max(above_thinned), "thinned_positions": thinned[0].attrs["positions"],
        "mean_correlation": float(sum(table.correlation.mean() for table in trained) / len(trained)),
        "positions": trained[0].attrs["positions"], "dead": {
            name: int(table.attrs[f"dead_{side}"])
            for pair, table in zip(pairs, trained, strict=True) for side, name in zip("ab", pair, strict=True)
        },
        "permuted_positions": permuted[0][0].attrs["positions"], "aligned_same": count(aligned_same),
        **null_counts,
    }  # fmt: skip


def points(study: Study, k: int = 1) -> pd.DataFrame:
    """All points of all curves: the data of Figures 3a, 4 and 26, and of Table 2."""
    rows = [
        {"curve": curve, **point(study, models, k)}
        for curve, points_of_curve in study.profile.curves.items()
        for models in tqdm(points_of_curve, desc=f"{curve}, k = {k}", leave=False)
    ]
    return pd.DataFrame(rows)


def fits(points: pd.DataFrame) -> pd.DataFrame:
    """A power law for each curve, by each of the counts."""
    kinds = ("raw", "calibrated", "strict", "thinned", "thinned_strict")
    tables = [scaling.fits(points, ["curve"], count).assign(count=count) for count in kinds]
    return pd.concat(tables, ignore_index=True)


def k_points(study: Study) -> pd.DataFrame:
    """The points of one curve for every k of the profile (Figure 25)."""
    curve = study.profile.curves[study.profile.k_curve]
    return pd.DataFrame([point(study, models, k) for k in study.profile.k for models in curve])


def predictions(points: pd.DataFrame, count: str = "raw") -> pd.DataFrame:
    """The largest point of each curve of four or more, predicted from the others (`scaling.leave_largest_out`)."""
    rows = [
        {"curve": curve, **scaling.leave_largest_out(group["neurons"], group[count])._asdict()}
        for curve, group in points.groupby("curve", sort=False)
        if len(group) >= 4 and (group[count] > 0).all()
    ]
    return pd.DataFrame(rows, columns=["curve", *scaling.Prediction._fields])


def token_sweep(study: Study) -> pd.DataFrame:
    """Matches of one pair over growing numbers of tokens (Figure 33): in one pass where ``memory_gb`` holds their table.

    Returns
    -------
    DataFrame
        ``tokens, positions, count`` and ``overlap``: the share of this set's pairs that the set before already held, with
        Wilson's 95% interval (``overlap_low``, ``overlap_high``), ``retained``: the share of the set before that is still
        held, and ``jaccard``; all NaN in the first row. A budget larger than the corpus ends the table with what the corpus holds. Budgets that one segment of text reaches
        together are one row: they are the same text.
    """
    sweep = study.profile.token_sweep
    path = study.folder / "tables" / "token_sweep.parquet"
    budgets = sorted(sweep.tokens)
    parameters = study.parameters(sweep.pair) | {"tokens": budgets}
    return keep(path, parameters, lambda: _token_sweep(study, sweep.pair, budgets))


def _token_sweep(study: Study, pair: tuple[str, str], budgets: list[int]) -> pd.DataFrame:
    batches = study.batches(pair, tokens=budgets[-1])
    memory = int(study.profile.memory_gb * 2**30)
    fits = len(list(tiles(*map(sum, batches.layers), memory))) == 1
    rows, before = [], None
    for tokens, positions, pairs in (
        _read_off(study, batches, budgets) if fits else _matched_anew(study, batches, budgets)
    ):
        rows.append(_sweep_row(tokens, positions, pairs, before))
        before = pairs
    return pd.DataFrame(rows)


#: Tokens of the first model, canonical positions, and the mutual nearest neighbours over them.
Reached = tuple[int, int, set]


def _read_off(study: Study, batches: AlignedBatches, budgets: list[int]) -> Iterator[Reached]:
    """One pass, and the sums as they stand when each budget is reached."""
    sums = PearsonAccumulator(*map(sum, batches.layers), device=study.device)
    unread, tokens, told = [], 0, 1

    def reached() -> Reached:
        return tokens, sums.positions, set(map(tuple, mutual_nearest(sums.correlation()).tolist()))

    for segment in batches.pieces:
        unread.append(segment)
        tokens += len(segment.ids_a)
        if tokens >= budgets[0] or len(unread) == batches.per_batch:
            sums.update(*batches.aligned(unread))
            unread = []
        if tokens >= budgets[0]:
            yield reached()
            told, budgets = sums.positions, [budget for budget in budgets if budget > tokens]
        if not budgets:
            return
    if unread:  # the corpus ended inside a budget
        sums.update(*batches.aligned(unread))
    if sums.positions > told:
        yield reached()


def _matched_anew(study: Study, batches: AlignedBatches, budgets: list[int]) -> Iterator[Reached]:
    """For a table that the memory does not hold: each budget is read and matched for itself.

    As they grow by a factor, all together read little more than the last.
    """
    told = 0
    for budget in budgets:
        some = AlignedBatches(batches.a, batches.b, study.pieces(batches.names, budget), batches.per_batch)
        table = study.match(some)
        tokens = some.pieces.read
        if tokens > told:
            pairs = table[["layer_a", "unit_a", "layer_b", "unit_b"]]
            yield tokens, table.attrs["positions"], set(pairs.itertuples(index=False, name=None))
        if tokens < budget:
            return
        told = tokens


def _sweep_row(tokens: int, positions: int, pairs: set, before: set | None) -> dict:
    row = {"tokens": tokens, "positions": positions, "count": len(pairs)}
    shares = {"overlap": pairs, "retained": before, "jaccard": pairs | (before or set())}
    for share, of in shares.items():
        row[share] = float("nan") if before is None else len(pairs & before) / max(1, len(of))
    interval = scaling.wilson(len(pairs & before), len(pairs)) if before else nulls.Interval(*3 * [float("nan")])
    return row | {"overlap_low": interval.low, "overlap_high": interval.high}
