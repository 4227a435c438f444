"""Which positions are compared decides what chance can do: one pair of a profile, beyond the paper (notebook 02).

The positions are the first of the profile's text, as many as its largest budget; they are held in memory.
"""

from collections.abc import Callable
from functools import lru_cache
from itertools import product
from math import floor, log10
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from rosetta.matching import nulls, outliers, positions
from rosetta.matching.batches import HeldBatches
from rosetta.results import keep
from rosetta.studies.matches import Study


def by_budget(study: Study) -> pd.DataFrame:
    """What matching gives over growing numbers of positions: aligned, and under three nulls.

    The nulls are untrained networks (4.2), permuted positions (C.3), and positions shifted in a circle, by equal parts of
    the text; each is drawn as often as the profile has seeds.

    Returns
    -------
    DataFrame
        ``what`` (aligned, untrained, permuted or shifted), ``draw`` (seed or shift), ``positions``, ``pairs``, and of
        their correlations the ``mean`` and the null quantile, ``high``.
    """
    budgets = sorted(study.profile.positions.budgets)

    def measure() -> pd.DataFrame:
        firsts = [one for one in _matched(study) if isinstance(one.over, int)]
        return pd.DataFrame([{"what": one.what, "draw": one.draw, **_facts(study, one.table)} for one in firsts])

    return _kept(study, "by_budget", {"budgets": budgets}, measure)


def scaled_thresholds(by_budget: pd.DataFrame) -> pd.DataFrame:
    """What the permuted null over fewer positions says of its threshold over the most, and how wrong that is.

    So is it scaled wherever the profile permutes fewer positions than it counts over (`nulls.threshold`).

    Parameters
    ----------
    by_budget : DataFrame
        As the function of this name gives it.

    Returns
    -------
    DataFrame
        For each budget but the largest: ``positions``; means over the draws of the null quantile there, ``measured``, and of
        that times the root of how many times fewer positions they are, ``scaled``; and its ``error``: by what share it
        exceeds the null quantile over the most positions, geometric mean and 95% interval over the draws (``low``, ``high``).
    """
    permuted = by_budget[by_budget["what"] == "permuted"].pivot(index="positions", columns="draw", values="high")
    most = permuted.index.max()
    scaled = permuted.mul((permuted.index / most) ** 0.5, axis=0)
    exceeds = np.log(scaled / permuted.loc[most]).drop(index=most)
    error, low, high = np.expm1([nulls.mean_ci95(draws) for draws in exceeds.to_numpy()]).reshape(-1, 3).T
    means = pd.DataFrame({"measured": permuted.mean(axis=1), "scaled": scaled.mean(axis=1)}).drop(index=most)
    return means.assign(error=error, low=low, high=high).reset_index()


def by_thinning(study: Study) -> pd.DataFrame:
    """The same pair over all positions, and over thinned ones for every t that is shown.

    Returns
    -------
    DataFrame
        ``t`` (NaN: all positions), ``positions``, ``pairs``, ``strict`` (pairs above both nulls), ``mean`` correlation,
        ``untrained`` (mean count), ``untrained_high`` and ``permuted_high`` (their null quantiles), and
        ``permuted_scaled``: the permuted one over all positions, times the root of how many times fewer there are now.
        The counts of the curves (`counts.point`) use it in place of the one measured.
    """
    shown = sorted(study.profile.positions.shown, reverse=True)

    def measure() -> pd.DataFrame:
        matched = _matched(study)
        everything = _most(matched)
        table = pd.DataFrame([
            _thinned(t, [one for one in matched if one.over == (t or everything)], study.profile.nulls.quantile)
            for t in (None, *shown)
        ])  # fmt: skip
        fewer = table["positions"][0] / table["positions"]
        return table.assign(permuted_scaled=table["permuted_high"][0] * fewer**0.5)

    return _kept(study, "by_thinning", {"shown": shown}, measure)


def _thinned(t: float | None, matched: list["Matched"], quantile: float) -> dict:
    by_kind = {
        what: [one.table for one in matched if one.what == what] for what in ("aligned", "untrained", "permuted")
    }
    aligned, untrained = by_kind["aligned"][0], by_kind["untrained"]
    high = [nulls.threshold(tables, quantile) for tables in (untrained, by_kind["permuted"])]
    return {
        "t": t, "positions": aligned.attrs["positions"], "pairs": len(aligned),
        "strict": len(nulls.calibrated(aligned, max(high))), "mean": aligned["correlation"].mean(),
        "untrained": np.mean([len(table) for table in untrained]), "untrained_high": high[0], "permuted_high": high[1],
    }  # fmt: skip


def rule_for_t(thinnings: pd.DataFrame) -> float:
    """The t that the rule picks, from untrained networks alone: no trained pair has a say in it.

    The largest power of ten at which their null quantile falls below half of that over all positions; NaN where none
    that is shown does.
    """
    over_all = thinnings["untrained_high"][thinnings["t"].isna()].iloc[0]
    powers = thinnings[thinnings["t"].map(lambda t: t > 0 and floor(log10(t)) == log10(t))]
    return powers["t"][powers["untrained_high"] < over_all / 2].max()


def by_outliers(study: Study) -> pd.DataFrame:
    """What a few positions of enormous activation, planted in both models, do to every count, and what leaving them out does.

    They are left out by the profile's rule, from what the planted activations show of themselves.

    Returns
    -------
    DataFrame
        ``share`` of the positions and ``size`` in standard deviations (0: none planted), ``aligned`` and ``permuted``
        pairs (of the first permutation), and both models' participation ratios, ``directions_a`` and ``directions_b``;
        ``found``: the share of the positions that are larger than the profile's size (NaN: it has none); how many positions
        are ``left``; and ``left_aligned``, ``left_permuted``, ``left_directions_a`` and ``left_directions_b`` over those. With none
        planted, ``untrained`` and ``left_untrained`` as well: means over the seeds.
    """
    settings, seed = study.profile.positions, study.profile.nulls.permutation_seeds[0]

    def counted(batches: HeldBatches, tables: dict | None = None) -> dict:
        tables = tables or {"aligned": study.match(batches), "permuted": study.match(_permuted(batches, seed))}
        return {what: len(table) for what, table in tables.items()}

    def row(batches: HeldBatches, rule: tuple, of_all: dict | None = None, of_left: dict | None = None) -> dict:
        sizes, kept = rule
        left = positions.selected(batches, kept)
        counts = {**counted(left, of_left), **outliers.survey(left, device=study.device).attrs}
        return {
            **counted(batches, of_all), **sizes.attrs,
            "found": np.nan if settings.outliers.size is None else outliers.outlying(sizes, settings.outliers.size).mean(),
            "left": int(kept.sum()), **{f"left_{what}": value for what, value in counts.items()},
        }  # fmt: skip

    def measure() -> pd.DataFrame:
        matched, trained = _matched(study), _held(study)
        of_all, of_left = (
            {one[1:3]: one.table for one in matched if one.over == over} for over in (_most(matched), LEFT)
        )
        firsts = [{"aligned": of["aligned", 0], "permuted": of["permuted", seed]} for of in (of_all, of_left)]
        rows = [{"share": 0, "size": 0, **row(trained, _trained_left(study), *firsts)}]
        for name, of in {"untrained": of_all, "left_untrained": of_left}.items():
            rows[0][name] = np.mean([len(table) for (what, _), table in of.items() if what == "untrained"])
        for share, size in product(settings.planted.shares, settings.planted.sizes):
            batches = positions.planted(trained, share, size, study.profile.seed)
            rows.append({"share": share, "size": size, **row(batches, _left(study, batches))})
        return pd.DataFrame(rows)

    parameters = settings.planted.model_dump() | {"outliers": settings.outliers.model_dump()}
    return _kept(study, "by_outliers", parameters, measure)


def outlying(study: Study, pair: tuple[str, str]) -> pd.DataFrame:
    """How two models' positions are spread: in how many directions, and what those are that are larger than the profile's size.

    Returns
    -------
    DataFrame
        A row a model: ``model, neurons, positions``, ``directions`` (participation ratio, of at most `outliers.NEURONS`
        neurons), ``largest`` size of a position, the share that is ``outlying``, of these the share that are the ``first`` of
        their sequence (NaN: there are none), and the three most frequent texts, ``what``, with their numbers.
    """
    sizes, size = study.sizes(pair), study.profile.positions.outliers.size
    rows = []
    for side, name in zip("ab", pair, strict=True):
        of = sizes[f"size_{side}"].to_numpy()
        found = of > (np.inf if size is None else size)
        texts = outliers.described(study.pieces(pair), found)
        rows.append({
            "model": name, "neurons": study.profile.models[name].neurons, "positions": len(of),
            "directions": sizes.attrs[f"directions_{side}"], "largest": of.max(), "outlying": found.mean(),
            "first": texts["first"].sum() / found.sum() if found.any() else np.nan,
            "what": "  ".join(f"{one.text!r} x {one.count}" for one in texts.head(3).itertuples(index=False)),
        })  # fmt: skip
    return pd.DataFrame(rows)


#: Of positions: those that are left without outliers.
LEFT = "left"


class Matched(NamedTuple):
    """What is matched over some positions: the first so many, those that thinning with a t (a float) keeps of all, or `LEFT`."""

    over: int | float | str
    what: str  # aligned, untrained, permuted or shifted
    draw: int
    table: pd.DataFrame


@lru_cache(maxsize=1)
def _matched(study: Study) -> list[Matched]:
    """All that is matched for the section, one network read at a time, but for the planted outliers."""
    settings, seeds = study.profile.positions, study.profile.nulls
    parts, found = len(seeds.permutation_seeds) + 1, []
    for untrained_seed in (None, *seeds.untrained_seeds):
        batches = _held(study, untrained_seed)
        available = len(batches[0][0])
        rows = {budget: slice(budget) for budget in sorted(min(budget, available) for budget in settings.budgets)}
        for t in sorted(settings.shown, reverse=True):
            rows[t] = positions.thinning(study.pieces(settings.pair), t, study.profile.seed)[:available]
        _, rows[LEFT] = _trained_left(study)
        for over, some in rows.items():
            some = positions.selected(batches, some)
            if untrained_seed is not None:
                found.append(Matched(over, "untrained", untrained_seed, study.match(some)))
                continue
            found.append(Matched(over, "aligned", 0, study.match(some)))
            drawn = seeds.permutation_seeds[: 1 if over == LEFT else None]  # the one that `by_outliers` shows
            found += [Matched(over, "permuted", seed, study.match(_permuted(some, seed))) for seed in drawn]
            if isinstance(over, int):
                found += [
                    Matched(over, "shifted", by, study.match(positions.shifted(some, by)))
                    for by in (over * part // parts for part in range(1, parts))
                ]
    return found


def _most(matched: list[Matched]) -> int:
    """All positions that are held."""
    return max(one.over for one in matched if isinstance(one.over, int))


def _left(study: Study, batches: HeldBatches) -> tuple[pd.DataFrame, np.ndarray]:
    """How large held positions are, and which of them the profile's rule leaves."""
    asked, pieces = study.profile.positions.outliers, study.pieces(study.profile.positions.pair)
    sizes = outliers.survey(batches, device=study.device)
    firsts = outliers.first_positions(pieces, asked.first or 0)[: len(sizes)]
    return sizes, outliers.left(firsts, sizes, asked.size)


@lru_cache(maxsize=1)
def _trained_left(study: Study) -> tuple[pd.DataFrame, np.ndarray]:
    """The same of the trained models as they are, for the untrained as well."""
    return _left(study, _held(study))


def _permuted(batches: HeldBatches, seed: int) -> nulls.Permuted:
    return nulls.Permuted(batches, seed, pool_batches=1)  # there is but one


def _facts(study: Study, table: pd.DataFrame) -> dict:
    high = nulls.threshold([table], study.profile.nulls.quantile)
    mean = table["correlation"].mean()
    return {"positions": table.attrs["positions"], "pairs": len(table), "mean": mean, "high": high}


def _kept(study: Study, name: str, parameters: dict, measure: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    settings = study.profile.positions
    parameters |= {"most": max(settings.budgets), "nulls": study.profile.nulls.model_dump()}
    return keep(study.folder / "positions" / f"{name}.parquet", study.parameters(settings.pair) | parameters, measure)


def _held(study: Study, untrained_seed: int | None = None) -> HeldBatches:
    """The pair's activations over the positions of the section, as one batch."""
    pair, most = study.profile.positions.pair, max(study.profile.positions.budgets)
    batches = study.trained(pair) if untrained_seed is None else study.batches(pair, None, untrained_seed)
    parts, held = [], 0
    for a, b in batches:
        parts.append((a, b))
        held += len(a)
        if held >= most:
            break
    a, b = (torch.cat(side)[:most] for side in zip(*parts, strict=True))
    return HeldBatches([(a, b)], batches.names, batches.layers)
