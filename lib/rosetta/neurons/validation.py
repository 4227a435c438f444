"""How far to trust a judge: what it predicts of unseen images (H.3, Table 5), and how well two judges agree."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binom

from rosetta.matching.nulls import mean_ci95
from rosetta.neurons.judging import Unseen, Verdict

#: What the paper reports of its judge: mean and half of the 95% interval (Table 5).
REPORTED = {"accuracy": (0.792, 0.032), "precision": (0.865, 0.042), "recall": (0.698, 0.038), "f1": (0.764, 0.037)}


class Measures(NamedTuple):
    """Of which images fire as predicted: the share predicted rightly, precision, recall, and F1."""

    accuracy: float
    precision: float
    recall: float
    f1: float


def held_out(
    strengths: np.ndarray, images: Sequence[np.ndarray], shown: int = 20, each: int = 5, seed: int | Sequence[int] = 0
) -> Unseen:
    """Images that a judge has not been shown of a neuron: the next strongest, and random ones of the lower half, shuffled (H.3).

    Parameters
    ----------
    strengths : float [n]
        Of the neuron on every image of the set. Of equal ones the earlier counts as stronger, as in `images.top_images`.
    images : sequence of uint8 [h, w, 3]
        The set; only those chosen are looked up.
    shown : int
        How many of the strongest the judge has been shown.
    each : int
        Of both kinds.
    seed : int or sequence of int
        Another one for each neuron: ``(seed, number of the neuron)``.

    Raises
    ------
    ValueError
        If there are too few images, they are not as many as strengths, or these are not finite or all the same.
    """
    strengths = np.asarray(strengths, dtype=float)
    n = len(strengths)
    if strengths.ndim != 1 or len(images) != n:
        raise ValueError(f"strengths have the shape {list(strengths.shape)}, and there are {len(images)} images")
    if not np.isfinite(strengths).all():
        raise ValueError("strengths hold NaN or infinity; the model broke there")
    if shown < 1 or each < 1 or shown + each > n - n // 2 or each > n // 2:
        took = f"{shown} shown and {each} of each kind to predict"
        raise ValueError(f"{took} do not fit {n} images; the strong ones must lie in the upper half")
    if strengths.min() == strengths.max():
        raise ValueError("the neuron is equally strong on all images: it is dead, and there is nothing to predict")
    rng = np.random.default_rng(seed)
    order = np.argsort(-strengths, kind="stable")
    weak = rng.choice(order[n - n // 2 :], each, replace=False)
    chosen = rng.permutation(np.r_[order[shown : shown + each], weak]).tolist()
    strong = set(order[shown : shown + each].tolist())
    return Unseen(tuple(chosen), [images[number] for number in chosen], tuple(number in strong for number in chosen))


def measured(predicted: Sequence[bool], fires: Sequence[bool]) -> Measures:
    """Of one neuron. Where nothing is marked precision and F1 are 0, and where nothing fires recall and F1."""
    predicted, fires = np.asarray(predicted, dtype=bool), np.asarray(fires, dtype=bool)
    if predicted.shape != fires.shape or predicted.ndim != 1 or not len(fires):
        raise ValueError(
            f"{list(predicted.shape)} images are predicted, {list(fires.shape)} asked; they must be as many"
        )
    return Measures(*(float(x) for x in _measures((predicted & fires).sum(), predicted.sum(), fires.sum(), fires.size)))


def _measures(right, marked, firing, n) -> tuple:
    """Of numbers, or arrays of them: how many are marked rightly, marked, firing, and asked."""
    wrong = (marked - right) + (firing - right)
    both = np.maximum(marked + firing, 1)
    return 1 - wrong / n, right / np.maximum(marked, 1), right / np.maximum(firing, 1), 2 * right / both


def by_chance(strong: int = 5, weak: int = 5, mark: float = 0.5) -> Measures:
    """What is expected of one who marks each image with the same probability: the exact sum over all answers.

    With five of each and a probability of one half: accuracy .5, precision .4995 (nothing is marked once in 1,024), recall .5, F1
    .4865. The text of H.3 has precision and recall the other way round.

    Raises
    ------
    ValueError
        Without an image that fires, or if `mark` is no probability.
    """
    if strong < 1 or weak < 0 or not 0 <= mark <= 1:
        raise ValueError(f"strong is {strong}, weak {weak} and mark {mark}; strong >= 1, weak >= 0 and 0 <= mark <= 1")
    right, false = np.meshgrid(np.arange(strong + 1), np.arange(weak + 1), indexing="ij")
    chance = binom.pmf(right, strong, mark) * binom.pmf(false, weak, mark)
    found = _measures(right, right + false, np.full_like(right, strong), strong + weak)
    return Measures(*(float((chance * of_answer).sum()) for of_answer in found))


def table5(
    predicted: Sequence[Sequence[Sequence[bool] | None]], fires: Sequence[Sequence[Sequence[bool]]]
) -> pd.DataFrame:
    """How well a judge predicts unseen images: Table 5.

    The measures are means over the neurons of a run, and what stands in the table is their mean over runs, with Student's 95%
    interval. That they are taken neuron by neuron is what the paper's chance values tell.

    Parameters
    ----------
    predicted : sequence of runs of neurons of bool [images], or None
        A judge's answers; neurons without one are left out.
    fires : sequence of runs of neurons of bool [images]

    Returns
    -------
    DataFrame
        ``measure, mean, low, high, chance, reported, reported_half``. ``attrs``: the number of ``runs``, of neurons ``judged``
        and ``left_out``.

    Raises
    ------
    ValueError
        If no neuron has an answer, or answers and questions are not as many.
    """
    runs, judged, asked = [], 0, 0
    chances = []
    for of_run, known in zip(predicted, fires, strict=True):
        answered = [(said, truth) for said, truth in zip(of_run, known, strict=True) if said is not None]
        asked, judged = asked + len(known), judged + len(answered)
        if answered:
            runs.append(np.mean([measured(*pair) for pair in answered], axis=0))
            chances += [by_chance(sum(truth), len(truth) - sum(truth)) for _, truth in answered]
    if not runs:
        raise ValueError(f"none of {asked} neurons has an answer")
    rows = [
        (measure, *mean_ci95(values), chance, *REPORTED[measure])
        for measure, values, chance in zip(Measures._fields, np.transpose(runs), np.mean(chances, axis=0), strict=True)
    ]
    table = pd.DataFrame(rows, columns=["measure", "mean", "low", "high", "chance", "reported", "reported_half"])
    table.attrs = {"runs": len(runs), "judged": judged, "left_out": asked - judged}
    return table


class Agreement(NamedTuple):
    """Cohen's kappa of two judges with its 95% interval.

    ``share`` of equal verdicts, ``both`` neurons that have two verdicts, and those ``left_out``. Kappa is NaN where both judges
    say the same of all neurons, or none has two verdicts.
    """

    kappa: float
    low: float
    high: float
    share: float
    both: int
    left_out: int


def agreement(first: Sequence[Verdict | None], second: Sequence[Verdict | None]) -> Agreement:
    """How far two judges agree on which neurons are monosemantic, beyond chance: Cohen's kappa, large-sample interval.

    Parameters
    ----------
    first, second : sequence of Verdict or None
        Of the same neurons in the same order; one of which either judge has no verdict is left out.

    Raises
    ------
    ValueError
        If they are not as many.
    """
    if len(first) != len(second):
        raise ValueError(f"one judge has verdicts of {len(first)} neurons, the other of {len(second)}")
    pairs = [(a.is_monosemantic, b.is_monosemantic) for a, b in zip(first, second, strict=True) if None not in (a, b)]
    table = np.zeros((2, 2), dtype=int)
    for a, b in pairs:
        table[int(a), int(b)] += 1
    both, left_out = len(pairs), len(first) - len(pairs)
    share = float(np.trace(table) / both) if both else np.nan
    if not both or both in np.diag(table):
        return Agreement(np.nan, np.nan, np.nan, share, both, left_out)
    from statsmodels.stats.inter_rater import cohens_kappa  # slow to import

    with np.errstate(all="ignore"):  # two who never agree have a test statistic of 0 / 0, which nobody asks for
        found = cohens_kappa(table)
    low, high = np.clip([found.kappa_low, found.kappa_upp], -1, 1)
    return Agreement(float(found.kappa), float(low), float(high), share, both, left_out)
