"""What is counted of a study's matches: the points of every curve, power laws through them, and sweeps (Figures 33 to 35)."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import pandas as pd
from tqdm.auto import tqdm

from rosetta.laws import scaling
from rosetta.matching import nulls
from rosetta.matching.batches import AlignedBatches
from rosetta.matching.correlation import PearsonAccumulator, tiles
from rosetta.matching.mutual import collapse, mutual_nearest, top_k
from rosetta.matching.segments import Segment
from rosetta.results import keep
from rosetta.studies.budget import Budgeted
from rosetta.studies.matches import Study


def nulls_of(study: Study, pair: tuple[str, str], without: bool = False) -> dict[str, list[pd.DataFrame]]:
    """The top-1 MatchTables of two models under each null, one a seed: permuted, untrained and, of images, whole images.

    `without`: over the positions that are left without outliers.
    """
    tables = {"permuted": study.permuted_matches(pair, without), "untrained": study.untrained_matches(pair, without)}
    if study.profile.modality(pair) == "images":
        tables["images"] = study.whole_images_matches(pair)
    return {null: [top_k(table, 1) for table in of_null] for null, of_null in tables.items()}


def against_nulls(study: Study, pair: tuple[str, str]) -> pd.DataFrame:
    """The counts of two models beside the nulls': ``pairs``, and the r that they lie ``above r``, where there is one.

    Where the profile asks for it, all of them once more without outlier positions.
    """
    table = _against_nulls(study, pair)
    if study.profile.without_outliers(pair):
        left = _against_nulls(study, pair, without=True).drop("independent similarities, expected")
        table = pd.concat([table, left.rename(index="without outliers: {}".format)])
    return table


def _against_nulls(study: Study, pair: tuple[str, str], without: bool = False) -> pd.DataFrame:
    both = study.matches(pair, without), study.same_positions_matches(pair, without)
    by_null, quantile = nulls_of(study, pair, without), study.profile.nulls.quantile
    trained, same = (top_k(table, 1) for table in both)
    above = nulls.threshold(by_null["permuted"], quantile, trained.attrs["positions"])
    others = [nulls.threshold(tables, quantile) for null, tables in by_null.items() if null != "permuted"]
    over = nulls.which_positions([same.attrs["positions"]], [trained.attrs["positions"]])
    names = {
        "untrained": "untrained networks, mean", "permuted": f"permuted, over {over}, mean",
        "images": "whole images permuted, cells kept, mean",
    }  # fmt: skip
    strict = max(above, *others)
    rows = {
        "trained, all (the paper's count)": (len(trained), None),
        "trained, calibrated": (len(nulls.calibrated(trained, above)), above),
        "trained, strict": (len(nulls.calibrated(trained, strict)), strict),
        f"trained, over {over}": (len(same), None),
        **{names[null]: (nulls.mean_ci95([len(table) for table in tables]).mean, None) for null, tables in by_null.items()},
        "independent similarities, expected": (
            nulls.expected_by_chance(trained.attrs["neurons_a"], trained.attrs["neurons_b"]), None,
        ),
    }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index", columns=["pairs", "above r"])


def point(study: Study, models: tuple[str, ...], k: int = 1) -> dict:
    """One point of a curve: its size and its counts, raw and calibrated, beside all nulls'.

    For two models a count is of pairs; for more, of the anchor's neurons matched in every pair. ``raw`` is the
    paper's count, ``calibrated`` that of pairs above the permuted null, ``strict`` that of pairs above all nulls: of images
    one more, whole images permuted with their cells kept. ``share`` is the raw count's of the neurons. Of text, ``thinned``
    and ``thinned_strict`` are the raw and the strict count over thinned positions (`positions.thinning`), and where the
    profile asks for it, ``without`` and ``without_strict`` those over positions that are no outliers (`outliers.left`), beside
    the nulls over the same. ``aligned_same`` is
    the raw count over the positions that the permuted null was made over, ``permuted_positions``, all or the first of them
    (`nulls.which_positions`); its threshold is scaled to the number of positions that are counted over (`nulls.threshold`).
    """
    pairs, quantile = study.profile.pairs_of(models), study.profile.nulls.quantile
    text = study.profile.modality(models) == "text"

    def top(read) -> list:
        """For each pair its table, or the tables of its seeds, cut to the k asked for."""
        tables = [read(pair) for pair in pairs]
        return [[top_k(one, k) for one in table] if isinstance(table, list) else top_k(table, k) for table in tables]

    trained, permuted, aligned_same = (
        top(read) for read in (study.matches, study.permuted_matches, study.same_positions_matches)
    )
    without = {}  # before the untrained, which make room for themselves
    if all(map(study.profile.without_outliers, pairs)):
        reads = {
            "without": study.matches, "permuted": study.permuted_matches, "same": study.same_positions_matches,
            "untrained": study.untrained_matches,
        }  # fmt: skip
        without = {name: top(partial(read, without=True)) for name, read in reads.items()}
    untrained = top(study.untrained_matches)
    whole = [] if text else top(study.whole_images_matches)
    anchor = study.profile.anchor(models)

    def above_permuted(tables, permuted=permuted) -> list[float]:
        """The permuted null's threshold for each pair's table, whatever its positions."""
        return [
            nulls.threshold(null, quantile, table.attrs["positions"])
            for null, table in zip(permuted, tables, strict=True)
        ]

    def above_all_nulls(tables, *null_tables, permuted=permuted) -> list[float]:
        others = ([nulls.threshold(null, quantile) for null in of_null] for of_null in null_tables)
        return list(map(max, zip(above_permuted(tables, permuted), *others, strict=True)))

    def count(tables, thresholds=None) -> int:
        tables = list(tables)
        if thresholds:
            tables = [nulls.calibrated(table, r) for table, r in zip(tables, thresholds, strict=True)]
        return len(tables[0]) if len(tables) == 1 else len(collapse(tables, anchor))

    above, strict = above_permuted(trained), above_all_nulls(trained, untrained, *([] if text else [whole]))
    by_null = {"permuted": permuted, "untrained": untrained} | ({} if text else {"images": whole})
    of_text = {}
    if text:
        thinned, thinned_untrained = top(study.thinned_matches), top(study.thinned_untrained_matches)
        above_thinned = above_all_nulls(thinned, thinned_untrained)
        by_null |= {"thinned_untrained": thinned_untrained}
        of_text = {
            "thinned": count(thinned), "thinned_strict": count(thinned, above_thinned),
            "thinned_threshold": max(above_thinned), "thinned_positions": thinned[0].attrs["positions"],
        }  # fmt: skip
    if without:
        left = without["without"]
        above_left = above_all_nulls(left, without["untrained"], permuted=without["permuted"])
        by_null |= {f"without_{null}": without[null] for null in ("permuted", "untrained")}
        of_text |= {
            "without": count(left), "without_strict": count(left, above_left), "without_threshold": max(above_left),
            "without_positions": left[0].attrs["positions"], "without_aligned_same": count(without["same"]),
        }  # fmt: skip
    null_counts = {
        f"{null}_{key}": float(value)
        for null, by_pair in by_null.items()
        for key, value in nulls.mean_ci95([count(tables) for tables in zip(*by_pair, strict=True)])._asdict().items()
    }
    return {
        "models": " + ".join(models), "anchor": anchor, "neurons": study.profile.neurons(models), "k": k,
        "raw": count(trained), "share": count(trained) / study.profile.neurons(models),
        "calibrated": count(trained, above), "strict": count(trained, strict),
        "threshold": max(above), "strict_threshold": max(strict), **of_text,
        "mean_correlation": float(sum(table.correlation.mean() for table in trained) / len(trained)),
        "positions": trained[0].attrs["positions"], "dead": {
            name: int(table.attrs[f"dead_{side}"])
            for pair, table in zip(pairs, trained, strict=True) for side, name in zip("ab", pair, strict=True)
        },
        "permuted_positions": permuted[0][0].attrs["positions"], "aligned_same": count(aligned_same),
        **null_counts,
    }  # fmt: skip


def points(study: Study, modality: str = "text", k: int = 1) -> pd.DataFrame:
    """All points of all curves of a modality: the data of Figures 3, 4 and 26, and of Tables 2 and 3."""
    rows = [
        {"curve": curve, **point(study, models, k)}
        for curve, points_of_curve in study.profile.of(modality)[0].items()
        for models in tqdm(points_of_curve, desc=f"{curve}, k = {k}", leave=False)
    ]
    return pd.DataFrame(rows)


def fits(points: pd.DataFrame) -> pd.DataFrame:
    """A power law for each curve, by each of the counts."""
    kinds = ("raw", "calibrated", "strict", "thinned", "thinned_strict", "without", "without_strict")
    tables = [scaling.fits(points, ["curve"], count).assign(count=count) for count in kinds if count in points]
    return pd.concat(tables, ignore_index=True)


def shares(points: pd.DataFrame) -> pd.DataFrame:
    """The counts of every point as shares of its neurons: the shrinking half of the claim (4.3).

    Returns
    -------
    DataFrame
        ``curve, models, neurons, count, pairs, share`` and Wilson's 95% interval ``low, high``. ``neurons`` are the mean of
        the models', as in Figure 3. The interval takes neurons for independent draws; neighbours compete for a match, so they
        are not quite.
    """
    rows = []
    for count in (kind for kind in ("raw", "calibrated", "strict") if kind in points):
        for point in points.to_dict("records"):
            share = scaling.wilson(point[count], point["neurons"])
            row = {name: point[name] for name in ("curve", "models", "neurons")}
            rows.append(
                row | {"count": count, "pairs": point[count], "share": share.mean, "low": share.low, "high": share.high}
            )
    return pd.DataFrame(rows, columns=["curve", "models", "neurons", "count", "pairs", "share", "low", "high"])


def share_fits(shares: pd.DataFrame) -> pd.DataFrame:
    """The same power laws as `fits`, through shares: their exponent is that of the count less 1, and so is its interval.

    R2 is not that of the count: the same scatter is about a line that rises or falls less.
    """
    return scaling.fits(shares, ["curve", "count"], "share")


def k_points(study: Study, modality: str = "text") -> pd.DataFrame:
    """The points of one curve for every k of the profile (Figure 25)."""
    profile = study.profile
    curve = profile.curves[profile.k_curve if modality == "text" else profile.images.k_curve]
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

    Where the profile asks for separate samples, each number of tokens is read and matched for itself.

    Returns
    -------
    DataFrame
        ``tokens, positions, count`` and ``overlap``: the share of this set's pairs that the set before already held, with
        Wilson's 95% interval (``overlap_low``, ``overlap_high``), ``retained``: the share of the set before that is still
        held, and ``jaccard``; all NaN in the first row. A budget larger than the corpus ends the table with what the corpus
        holds. Budgets that one segment of text reaches together are one row: they are the same text.
    """
    sweep = study.profile.token_sweep
    separate = partial(study.separate, sweep.pair) if sweep.sweep == "separate" else None
    return _kept_sweep(study, "token_sweep", sweep.pair, "tokens", sweep.tokens, separate)


def image_sweep(study: Study) -> pd.DataFrame:
    """The same of a generator and an encoder over growing numbers of images (Figure 34): ``images, positions, ...``."""
    sweep = study.profile.images.sweep
    return _kept_sweep(study, "image_sweep", sweep.pair, "images", sweep.images)


def _kept_sweep(
    study: Study, name: str, pair: tuple[str, str], unit: str, budgets, separate: Callable | None = None
) -> pd.DataFrame:
    budgets = sorted(budgets)

    def rows() -> Iterator[dict]:
        before, batches = None, study.batches(pair, budgets[-1])
        if separate:
            found = _matched_anew(study, batches, separate, budgets)
        else:
            found = _reached(study, batches, partial(study.pieces, pair), budgets)
        for reached in found:
            yield _sweep_row(unit, reached, before)
            before = reached.pairs

    path = study.folder / "tables" / f"{name}.parquet"
    parameters = study.parameters(pair) | {unit: budgets, "separate": separate is not None}
    return keep(path, parameters, lambda: pd.DataFrame(rows()))


def real_and_generated(study: Study) -> pd.DataFrame:
    """Matches of two encoders over real images and over as many of a generator (Figure 35).

    Returns
    -------
    DataFrame
        ``images, real, generated``: pairs; ``jaccard`` of the two sets.
    """
    sweep = study.profile.images.sweep
    generator, encoders, budgets = sweep.pair[0], sweep.encoders, sorted(sweep.images)

    def rows() -> pd.DataFrame:
        batches = study.batches(encoders, budgets[-1])
        real = list(_reached(study, batches, partial(study.pieces, encoders), budgets))
        generated = _reached(study, batches, partial(study.made_by, generator), budgets)
        return pd.DataFrame([
            {"images": one.amount, "real": len(one.pairs), "generated": len(other.pairs),
             "jaccard": len(one.pairs & other.pairs) / max(1, len(one.pairs | other.pairs))}
            for one, other in zip(real, generated, strict=True)
        ])  # fmt: skip

    path = study.folder / "tables" / "real_and_generated.parquet"
    parameters = study.parameters(encoders) | {"generator": study.parameters([generator]), "images": budgets}
    return keep(path, parameters, rows)


class Reached(NamedTuple):
    """What is found once so many tokens of the first model, or images, have been read."""

    amount: int
    positions: int
    pairs: set


def _reached(
    study: Study, batches: AlignedBatches, pieces_of: Callable[[int], Iterable], budgets: list[int]
) -> Iterator[Reached]:
    """The mutual nearest neighbours at each budget: two models read ``pieces_of(budget)``, so much of the text or images."""
    batches.pieces = pieces_of(budgets[-1])
    fits = len(list(tiles(*map(sum, batches.layers), int(study.profile.memory_gb * 2**30)))) == 1
    return _read_off(study, batches, budgets) if fits else _matched_anew(study, batches, pieces_of, budgets)


def _amount(piece) -> int:
    """Tokens of a segment of text as the first model reads it; an image is one."""
    return len(piece.ids_a) if isinstance(piece, Segment) else 1


def _read_off(study: Study, batches: AlignedBatches, budgets: list[int]) -> Iterator[Reached]:
    """One pass, and the sums as they stand when each budget is reached."""
    sums = PearsonAccumulator(*map(sum, batches.layers), device=study.device)
    unread, amount, told = [], 0, 1

    def reached() -> Reached:
        return Reached(amount, sums.positions, set(map(tuple, mutual_nearest(sums.correlation()).tolist())))

    for piece in batches.pieces:
        unread.append(piece)
        amount += _amount(piece)
        if amount >= budgets[0] or len(unread) == batches.per_batch:
            sums.update(*batches.aligned(unread))
            unread = []
        if amount >= budgets[0]:
            yield reached()
            told, budgets = sums.positions, [budget for budget in budgets if budget > amount]
        if not budgets:
            return
    if unread:  # the corpus ended inside a budget
        sums.update(*batches.aligned(unread))
    if sums.positions > told:
        yield reached()


def _matched_anew(
    study: Study, batches: AlignedBatches, pieces_of: Callable[[int], Iterable], budgets: list[int]
) -> Iterator[Reached]:
    """For a table that the memory does not hold, or budgets of different text: each is read and matched for itself.

    As they grow by a factor, all together read little more than the last.
    """
    told = 0
    for budget in budgets:
        batches.pieces = pieces_of(budget)
        table = study.match(batches)
        amount = batches.pieces.read if isinstance(batches.pieces, Budgeted) else len(batches.pieces)
        if amount > told:
            pairs = table[["layer_a", "unit_a", "layer_b", "unit_b"]]
            yield Reached(amount, table.attrs["positions"], set(pairs.itertuples(index=False, name=None)))
        if amount < budget:
            return
        told = amount


def _sweep_row(unit: str, reached: Reached, before: set | None) -> dict:
    pairs = reached.pairs
    row = {unit: reached.amount, "positions": reached.positions, "count": len(pairs)}
    shares = {"overlap": pairs, "retained": before, "jaccard": pairs | (before or set())}
    for share, of in shares.items():
        row[share] = float("nan") if before is None else len(pairs & before) / max(1, len(of))
    interval = scaling.wilson(len(pairs & before), len(pairs)) if before else nulls.Interval(*3 * [float("nan")])
    return row | {"overlap_low": interval.low, "overlap_high": interval.high}
