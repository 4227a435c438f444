"""Is a neuron monosemantic? What a judge is shown of it, and what it says (section 5.1, Appendix H).

A judge is any object with the two methods of `Judge`: the oracle, which knows what is in each image (`neurons.oracle`), the
likeness of images in an independent encoder (`neurons.likeness`), and a chat model that looks at them (`neurons.looking`).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from rosetta.laws.scaling import wilson
from rosetta.matching.nulls import Interval, mean_ci95

T = TypeVar("T")


class Evidence(NamedTuple):
    """A neuron's strongest images, the strongest first, with its maps on them (H.1).

    Attributes
    ----------
    neuron : str
        ``"openclip-64x4 L1/U20"``.
    numbers : tuple of int
        Of the images, in the set that they were chosen from.
    images : sequence of uint8 [h, w, 3]
        As human eyes are shown them.
    maps : float32 [k, H, W]
        The neuron's activations on the model's own grid.
    strengths : float32 [k]
        What images are ranked by: the mean over all cells, or the peak.
    mean : float
        Of the neuron, over all cells of all images of the set.
    """

    neuron: str
    numbers: tuple[int, ...]
    images: Sequence[np.ndarray]
    maps: np.ndarray
    strengths: np.ndarray
    mean: float


class Verdict(NamedTuple):
    """What a judge says of a neuron: whether one feature explains its images, which one or why none, and how clearly.

    ``score`` is the judge's own measure, higher for more monosemantic; NaN where it has none.
    """

    is_monosemantic: bool
    description: str
    score: float


class Unseen(NamedTuple):
    """Images of the set that no judge has been shown of a neuron, strong and weak ones shuffled (H.3).

    ``numbers`` of the images in the set, the ``images`` themselves (uint8 [h, w, 3]), and whether the neuron ``fires`` on each,
    which is not shown.
    """

    numbers: tuple[int, ...]
    images: Sequence[np.ndarray]
    fires: tuple[bool, ...]


class Judge(Protocol):
    """One interface for all judges. A neuron of which nothing usable is said has None."""

    def judge(self, evidence: Sequence[Evidence]) -> list[Verdict | None]:
        """Whether each neuron responds to one feature."""

    def predict(self, evidence: Sequence[Evidence], unseen: Sequence[Unseen]) -> list[tuple[bool, ...] | None]:
        """On which of some unseen images each neuron would fire, from what was shown of it (Table 5)."""


def check_evidence(evidence: Iterable[Evidence], images: int) -> None:
    """Refuse what no judge can say anything of.

    Parameters
    ----------
    evidence : iterable of Evidence
    images : int
        Of the set that they were chosen from.

    Raises
    ------
    ValueError
        If a neuron is shown no image, one twice or one that the set does not have; if its maps or strengths are not as many
        as its images; or if a number of it is not finite.
    """
    for one in evidence:
        k, maps, strengths = len(one.numbers), np.asarray(one.maps), np.asarray(one.strengths)
        if not k:
            raise ValueError(f"{one.neuron}: no images are shown; give at least one")
        if len(set(one.numbers)) < k:
            raise ValueError(f"{one.neuron}: an image is shown twice among {list(one.numbers)}")
        if not (min(one.numbers) >= 0 and max(one.numbers) < images):
            shown = f"images {min(one.numbers)} to {max(one.numbers)} are shown"
            raise ValueError(f"{one.neuron}: {shown}; the set has {images}, numbered from 0")
        if maps.ndim != 3 or len(maps) != k or strengths.shape != (k,):
            shapes = f"maps are {list(maps.shape)} and strengths {list(strengths.shape)}"
            raise ValueError(f"{one.neuron}: {k} images are shown, but {shapes}; expected [{k}, H, W] and [{k}]")
        if not (np.isfinite(maps).all() and np.isfinite(strengths).all() and np.isfinite(one.mean)):
            raise ValueError(f"{one.neuron}: its maps, strengths or mean hold NaN or infinity; the model broke there")


def trials(
    neurons: Sequence[T], trials: int = 5, per_trial: int = 100, seed: int = 0, fewer: bool = False
) -> list[list[T]]:
    """Disjoint random subsets of some neurons, one for each trial (H.1).

    Parameters
    ----------
    neurons : sequence
    trials, per_trial, seed : int
    fewer : bool
        Where there are too few neurons for these trials, give each as many as there are for all of them, the same number each.

    Raises
    ------
    ValueError
        If there are too few neurons, and `fewer` is not allowed; or fewer than one a trial.
    """
    if trials < 1 or per_trial < 1:
        raise ValueError(f"trials is {trials} and per_trial is {per_trial}; each must be at least 1")
    there, wanted = len(neurons), trials * per_trial
    if there < (trials if fewer else wanted):
        advice = f"at least {trials} are needed" if fewer else "ask for less, or allow fewer"
        raise ValueError(f"there are {there} neurons; {trials} disjoint trials of {per_trial} take {wanted}: {advice}")
    size = min(per_trial, there // trials)
    order = np.random.default_rng(seed).permutation(there)[: trials * size].reshape(trials, size)
    return [[neurons[number] for number in row] for row in order.tolist()]


class Rate(NamedTuple):
    """The share of judged neurons that are monosemantic.

    Attributes
    ----------
    pooled : Interval
        Over all judged neurons, with Wilson's interval.
    by_trial : Interval
        The mean of the trials' shares, with Student's interval over trials: the paper's.
    judged, left_out : int
        Neurons with a verdict, and without.
    """

    pooled: Interval
    by_trial: Interval
    judged: int
    left_out: int


def rate(verdicts: Sequence[Sequence[Verdict | None]]) -> Rate:
    """How many of the judged neurons are monosemantic, with 95% intervals (Figures 6b, 36 and 37).

    Wilson's interval treats the judged neurons as independent draws: it covers about as often as it says at every rate, and too often
    where they are a good part of all neurons there are. The paper's interval over trials covers where every trial has some
    neurons of either kind. Where hardly any neuron is of one kind, all trials often have the same share; its width is then
    zero, and it misses. Neither knows that the judge may err.

    Parameters
    ----------
    verdicts : sequence of sequence of Verdict or None
        One a trial. Neurons without a verdict are left out, and counted; so is a trial of nothing else.
    """
    found = [[one.is_monosemantic for one in trial if one is not None] for trial in verdicts]
    judged, shown = sum(map(len, found)), sum(map(len, verdicts))
    shares = [np.mean(trial) for trial in found if trial]
    by_trial = mean_ci95(shares) if shares else Interval(np.nan, np.nan, np.nan)
    return Rate(wilson(sum(map(sum, found)), judged), by_trial, judged, shown - judged)
