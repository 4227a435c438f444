"""Which positions are compared decides what chance can do: one pair of a profile, beyond the paper (notebook 02).

The positions are the first of the profile's text, as many as its largest budget; they are held in memory.
"""

from collections.abc import Callable
from math import floor, log10

import numpy as np
import pandas as pd
import torch

from rosetta.matching import nulls, positions
from rosetta.matching.activations import HeldBatches
from rosetta.matching.mutual import match_batches
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
    budgets, seeds = sorted(study.profile.positions.budgets), study.profile.nulls

    def draws(seed: int | None, batches: HeldBatches):
        """What is matched over these positions of one network, or of the trained one (None)."""
        if seed is not None:
            yield "untrained", seed, batches
            return
        yield "aligned", 0, batches
        for permutation in seeds.permutation_seeds:
            yield "permuted", permutation, _permuted(batches, permutation)
        parts = len(seeds.permutation_seeds) + 1
        for by in (len(batches[0][0]) * part // parts for part in range(1, parts)):
            yield "shifted", by, positions.shifted(batches, by)

    def measure() -> pd.DataFrame:
        found = []
        for seed in (None, *seeds.untrained_seeds):
            batches = _held(study, seed)
            available = len(batches[0][0])
            for budget in dict.fromkeys(min(budget, available) for budget in budgets):
                first = positions.selected(batches, slice(budget))
                found += [
                    {"what": what, "draw": draw, **_facts(study, _match(study, drawn))}
                    for what, draw, drawn in draws(seed, first)
                ]
        return pd.DataFrame(found)

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
    shown, seeds = sorted(study.profile.positions.shown, reverse=True), study.profile.nulls
    pair, seed = study.profile.positions.pair, study.profile.seed

    def measure() -> pd.DataFrame:
        trained = _held(study)
        available = len(trained[0][0])
        kept = {None: np.ones(available, bool)}
        kept |= {t: positions.thinning(study.batches(pair).pieces, t, seed)[:available] for t in shown}
        aligned, permuted = {}, {}
        for t, rows in kept.items():
            some = positions.selected(trained, rows)
            aligned[t] = _match(study, some)
            permuted[t] = [_match(study, _permuted(some, one)) for one in seeds.permutation_seeds]
        del trained, some  # one network at a time
        untrained = {t: [] for t in kept}
        for one in seeds.untrained_seeds:
            batches = _held(study, one)
            for t, rows in kept.items():
                untrained[t].append(_match(study, positions.selected(batches, rows)))
        table = pd.DataFrame([_thinned(t, aligned[t], untrained[t], permuted[t], seeds.quantile) for t in kept])
        fewer = available / table["positions"]
        return table.assign(permuted_scaled=table["permuted_high"][0] * fewer**0.5)

    return _kept(study, "by_thinning", {"shown": shown}, measure)


def _thinned(t: float | None, aligned: pd.DataFrame, untrained: list, permuted: list, quantile: float) -> dict:
    high = [nulls.threshold(tables, quantile) for tables in (untrained, permuted)]
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
    """What a few positions of enormous activation, planted in both models, do to every count.

    Returns
    -------
    DataFrame
        ``share`` of the positions and ``size`` in standard deviations (0: none planted), ``aligned`` and ``permuted``
        pairs (of the first permutation), and both models' participation ratios, ``directions_a`` and ``directions_b``.
    """
    planted, seed = study.profile.positions.planted, study.profile.nulls.permutation_seeds[0]

    def row(trained: HeldBatches, share: float, size: float) -> dict:
        batches = positions.planted(trained, share, size, study.profile.seed) if size else trained
        ((a, b),) = batches
        return {
            "share": share, "size": size, "aligned": len(_match(study, batches)),
            "permuted": len(_match(study, _permuted(batches, seed))),
            "directions_a": positions.participation_ratio(a), "directions_b": positions.participation_ratio(b),
        }  # fmt: skip

    def measure() -> pd.DataFrame:
        trained = _held(study)
        settings = [(share, size) for share in planted.shares for size in planted.sizes]
        return pd.DataFrame([row(trained, share, size) for share, size in [(0, 0), *settings]])

    return _kept(study, "by_outliers", planted.model_dump(), measure)


def _permuted(batches: HeldBatches, seed: int) -> nulls.Permuted:
    return nulls.Permuted(batches, seed, pool_batches=1)  # there is but one


def _match(study: Study, batches) -> pd.DataFrame:
    memory = int(study.profile.memory_gb * 2**30)
    return match_batches(batches, memory_bytes=memory, device=study.device)


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
    most, parts, held = max(study.profile.positions.budgets), [], 0
    batches = study.batches(study.profile.positions.pair, untrained_seed=untrained_seed)
    for a, b in batches:
        parts.append((a, b))
        held += len(a)
        if held >= most:
            break
    a, b = (torch.cat(side)[:most] for side in zip(*parts, strict=True))
    return HeldBatches([(a, b)], batches.names, batches.layers)
