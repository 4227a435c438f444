"""The judge that knows what is in each example: does one value of one factor hold wherever a neuron fires? (5.1, I.2)

It needs no chat model, and what it says can be checked. `verdict` is its core, for images and texts alike; `Oracle` is the
judge of images whose factors are known, as those of scenes are; `neurons.surface` is the one of texts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from rosetta.matching.alignment import resample_grid
from rosetta.matching.images import Wish
from rosetta.models.generators.renderer import ROW
from rosetta.neurons.judging import Evidence, Unseen, Verdict, check_evidence
from rosetta.sources.development import CELLS
from rosetta.sources.drawing import VALUES
from rosetta.sources.scenes import scene

#: ``where(value)``: whether it holds in each of m things under what is conditioned on in each example, bool [k or 1, m].
Where = Callable[[int], np.ndarray]


def chance(holds: np.ndarray, base: np.ndarray) -> np.ndarray:
    """How likely a value holds by chance in as many examples as it does, or more.

    The number of examples is a sum of independent draws of unlike probability (Poisson-binomial); its tail is exact, by
    convolution.

    Parameters
    ----------
    holds : bool [k, ...]
    base : float [k, ...]
        The probability of each.

    Returns
    -------
    float64 [...]
    """
    # spread[j]: the probability of j so far.
    spread = np.zeros((len(base) + 1, *base.shape[1:]))
    spread[0] = 1
    for probability in base:
        spread[1:] = spread[1:] * (1 - probability) + spread[:-1] * probability
        spread[0] *= 1 - probability
    tails = np.cumsum(spread[::-1], axis=0)[::-1].clip(max=1)  # the small ones are added first
    return np.take_along_axis(tails, holds.sum(0, keepdims=True, dtype=np.int64), 0)[0]


class Reading(NamedTuple):
    """A verdict and what it rests on: the numbers of some ``values``, all of which hold in the examples, or ``any`` of them.

    Empty if nothing holds anywhere.
    """

    verdict: Verdict
    values: tuple[int, ...]
    any: bool = False


def verdict(
    holds: np.ndarray,
    base: np.ndarray,
    names: Sequence[str],
    alpha: float = 0.05,
    least_share: float = 0.85,
    hypotheses: int | None = None,
    where: Where | None = None,
    weights: np.ndarray | None = None,
    parts: Sequence[int] | None = None,
) -> Verdict:
    """Whether one value explains the examples in which a neuron fires most.

    A value *qualifies* if it holds in at least `least_share` of the examples, and if that would come by chance with a
    probability of at most alpha / hypotheses (Bonferroni): of neurons that know nothing of any value at most a share alpha is
    called monosemantic. All that qualify are named. A conjunction holds only where each of its values does, so it needs no
    test of its own.

    What neurons of several features share may qualify, too: one for red and for blue objects fires, always, inside an object. So
    a value that qualifies is held against all *mixtures*, pairs of values neither of which holds in `least_share` of the
    examples, though one of the two does. If some mixture is more frequent than it would be by chance where the value holds, the
    value leaves something unexplained; again with alpha over all pairs, so that of neurons for one value at most a share alpha
    is missed. A neuron is monosemantic if some value leaves nothing unexplained.

    Parameters
    ----------
    holds : bool [k, values]
        Whether a value holds where the neuron fires in its i-th strongest example.
    base : float [k, values]
        The probability of that by chance.
    names : sequence of str
    alpha, least_share : float
    hypotheses : int, optional
        How many values there are, if those that hold nowhere are not given; by default the values given.
    where : callable, optional
        What each value holds in, by which mixtures are tested (`Where`); without it none is.
    weights : float [m], optional
        How often each of these things occurs; by default once.
    parts : sequence of int, optional
        Values of which a mixture may consist; by default all.

    Returns
    -------
    Verdict
        Its score is the share of examples in which the best value holds: of those that are more frequent than by chance the
        one that holds most often, of a mixture its more frequent part. Zero if there is none.

    Raises
    ------
    ValueError
        If shapes or names do not fit, there are no examples, or a probability or parameter is none.
    """
    return read(holds, base, names, alpha, least_share, hypotheses, where, weights, parts).verdict


def read(holds, base, names, alpha, least_share, hypotheses=None, where=None, weights=None, parts=None) -> Reading:
    """`verdict`, with what it rests on."""
    holds, base = np.asarray(holds, dtype=bool), np.asarray(base, dtype=float)
    if holds.ndim != 2 or holds.shape != base.shape or holds.shape[1] != len(names) or not holds.size:
        got = f"holds is {list(holds.shape)}, base {list(base.shape)}, and there are {len(names)} names"
        raise ValueError(
            f"{got}; expected [k, values] twice, with k and values of at least 1, and a name for each value"
        )
    if not ((base >= 0) & (base <= 1)).all():
        raise ValueError("base holds NaN, or what is no probability; each must lie between 0 and 1")
    check_levels(alpha, least_share)
    k, total = len(holds), hypotheses or len(names)
    share = holds.mean(0)
    p = chance(holds, base)
    rare = p <= alpha / total
    # The one that holds most often first, and of these the one that would hardly come by chance.
    qualifying = sorted(np.flatnonzero(rare & (share >= least_share)), key=lambda v: (-share[v], p[v]))
    if qualifying:
        mixed = [
            _mixture(v, holds, alpha / max(total * (total - 1) / 2, 1), least_share, where, weights, parts)
            for v in qualifying
        ]
        if any(pair is None for pair in mixed):
            said = ", ".join(names[v] for v in qualifying)
            return Reading(Verdict(True, said, float(share[qualifying[0]])), tuple(map(int, qualifying)))
        one, other = mixed[0]
        both = f"{names[one]} ({holds[:, one].sum()} of {k}) or {names[other]} ({holds[:, other].sum()} of {k})"
        said = f"either {both}; all have {names[qualifying[0]]}"
        return Reading(Verdict(False, said, float(max(share[one], share[other]))), (one, other), True)
    if not holds.any():
        return Reading(Verdict(False, "no known value holds where it fires", 0.0), ())
    order = sorted(np.flatnonzero(holds.any(0)), key=lambda v: (p[v], -share[v]))
    best = int(order[0])
    count = f"{names[best]} holds in {holds[:, best].sum()} of {k}"
    if (share >= least_share).any():
        if rare[best]:
            said = f"{count}, and what holds in more may well be chance"
        else:
            most = max(np.flatnonzero(share >= least_share), key=lambda v: (share[v], -p[v]))
            held = f"{names[most]} holds in {holds[:, most].sum()} of {k}"
            said = f"what holds may well be chance: {held}, {base[:, most].mean():.0%} by chance"
    else:
        said = f"no value holds in {least_share:.0%}: {count}, {base[:, best].mean():.0%} by chance"
    return Reading(Verdict(False, said, float(share[rare].max(initial=0))), (best,))


def _mixture(v, holds, level, least_share, where, weights, parts) -> tuple[int, int] | None:
    """The two values that, between them, the examples of v have most surprisingly; None if that is no surprise."""
    if where is None:
        return None
    share = holds.mean(0)
    parts = np.array([u for u in (range(len(share)) if parts is None else parts) if 0 < share[u] < least_share], int)
    held = holds[:, parts].astype(np.int64)
    either = held.sum(0)[:, None] + held.sum(0) - held.T @ held  # examples in which one of the two holds
    pairs = [(int(u), int(w)) for u, w in parts[np.argwhere(np.triu(either / len(holds) >= least_share, 1))]]
    if not pairs:
        return None
    shown = holds[:, v]
    things = {u: np.asarray(where(u)) for u in {v, *(u for pair in pairs for u in pair)}}
    things = {u: (found[shown] if len(found) > 1 else found) for u, found in things.items()}
    weights = np.ones(things[v].shape[1]) if weights is None else weights
    given = things[v] @ weights
    base = np.stack([((things[u] | things[w]) & things[v]) @ weights / given for u, w in pairs], axis=1)
    either = np.stack([holds[shown, u] | holds[shown, w] for u, w in pairs], axis=1)
    p = chance(either, np.broadcast_to(base, either.shape))
    best = int(p.argmin())
    return pairs[best] if p[best] <= level else None


def check_levels(alpha: float, least_share: float) -> None:
    """Refuse an alpha that is no level, or a least share that is no share."""
    if not 0 < alpha < 1 or not 0 <= least_share <= 1:
        raise ValueError(f"alpha is {alpha} and least_share {least_share}; 0 < alpha < 1 and 0 <= least_share <= 1")


# ---------------------------------------------------------------------------------------------------------------------
# Images


class Known(NamedTuple):
    """What is known of each image of a set: in each of its 8 x 8 cells, the value of each factor.

    Attributes
    ----------
    factors : tuple of str
    cells : int8 [images, factors, 64]
        The number of the value, -1 where a cell has none.
    """

    factors: tuple[str, ...]
    cells: np.ndarray

    @classmethod
    def of(cls, cells: Iterable[Mapping[str, np.ndarray]]) -> "Known":
        """Of what scenes say of their cells (`Scene.cells`); ``part`` has a third value, the ground.

        Raises
        ------
        ValueError
            If there are no images, or their factors or cells are not a scene's.
        """
        factors, found = tuple(VALUES), []
        for number, one in enumerate(cells):
            if set(one) != set(factors) or any(np.shape(one[f]) != (CELLS, CELLS) for f in factors):
                got = {factor: list(np.shape(values)) for factor, values in one.items()}
                raise ValueError(f"image {number}: the cells are {got}; expected [{CELLS}, {CELLS}] of {list(factors)}")
            of_image = np.stack([np.asarray(one[f], dtype=np.int8).ravel() for f in factors])
            part = of_image[factors.index("part")]
            part[part < 0] = len(VALUES["part"])
            found.append(of_image)
        if not found:
            raise ValueError("there are no images; give the cells of at least one")
        return cls(factors, np.stack(found))

    @classmethod
    def of_scenes(cls, numbers: Iterable[int], seed: int = 0) -> "Known":
        """Of scenes of a seed's row (`scenes.Row`), about a millisecond each."""
        return cls.of(scene(number, seed).cells for number in numbers)

    @classmethod
    def of_wishes(cls, wishes: Iterable[Wish]) -> "Known":
        """Of what the zoo's generator was asked for; what it makes of that is blurred, and may lack some of it."""
        return cls.of(scene(int(wish.seed), ROW, wish.label).cells for wish in wishes)


def _name(factor: str, value: int) -> str:
    return f"{factor} {(*VALUES[factor], 'ground')[value] if factor == 'part' else VALUES[factor][value]}"


class Oracle:
    """The judge of images that knows what is in each of their cells.

    A neuron *fires* in the cells in which its map, brought to the known 8 x 8 grid, lies at least `fires_above` of the way from
    its mean over all images to its highest cell in that image. A value *holds* if at least `cell_share` of these cells have it.
    By chance it holds as often as it does in those very cells over all images of the set: so where a neuron fires says nothing,
    and one that only knows places is told apart. The image itself is among them: of a neuron that knows nothing its image is any one
    of the set. (Left out, a value that no other image has there would be a proof by itself.)

    Parameters
    ----------
    known : Known
        Of all images of the set from which a neuron's strongest were chosen. Hypotheses are the values that occur in it.
    alpha, least_share : float
        As `verdict` has them.
    fires_above, cell_share : float

    Attributes
    ----------
    names : tuple of str
        Of the values, ``"colour red"``.
    """

    def __init__(
        self,
        known: Known,
        alpha: float = 0.05,
        least_share: float = 0.85,
        fires_above: float = 0.5,
        cell_share: float = 0.5,
    ):
        check_levels(alpha, least_share)
        if not (0 <= fires_above <= 1 and 0 < cell_share <= 1):
            raise ValueError(f"fires_above is {fires_above} and cell_share {cell_share}; each is a share of 1")
        self.known, self.alpha, self.least_share = known, alpha, least_share
        self.fires_above, self.cell_share = fires_above, cell_share
        self.images = len(known.cells)
        # A column [64] for each image and each value that it has somewhere, those of a value side by side.
        names, values, image, columns = [], [], [], []
        for number, factor in enumerate(known.factors):
            of_factor = known.cells[:, number]
            for value in np.unique(of_factor[of_factor >= 0]).tolist():
                there = of_factor == value
                image.append(np.flatnonzero(there.any(1)))
                columns.append(there[image[-1]].T)
                names.append(_name(factor, value))
                values.append((number, value))
        self.names, self._values = tuple(names), np.array(values, dtype=np.int64)
        # Inside or at an edge is a matter of degree: where most of an object fires, one of the two holds.
        self._parts = [v for v, name in enumerate(names) if not name.startswith("part ")]
        self._image, self._starts = image, np.cumsum([0, *map(len, image)])
        self._columns = np.concatenate(columns, 1).astype(np.float32)

    def judge(self, evidence: Sequence[Evidence]) -> list[Verdict]:
        """Whether one value holds where each neuron fires.

        Raises
        ------
        ValueError
            As `check_evidence` does.
        """
        return [reading.verdict for reading in self._readings(evidence)]

    def predict(self, evidence: Sequence[Evidence], unseen: Sequence[Unseen]) -> list[tuple[bool, ...]]:
        """On which unseen images each neuron would fire.

        An image's *amount* is the number of its cells that have all values by which the neuron is explained; either of the two,
        if it is a mixture; the least likely value, if nothing explains it. The neuron is said to fire where the amount is at
        least half-way from the median of all images of the set to that of the images shown, and above the former.

        Raises
        ------
        ValueError
            As `check_evidence` does; or if the unseen images are not of the set.
        """
        predicted = []
        for one, reading, asked in zip(evidence, self._readings(evidence), unseen, strict=True):
            if not all(0 <= number < self.images for number in asked.numbers):
                raise ValueError(f"{one.neuron}: unseen images {list(asked.numbers)}; the set has {self.images}")
            amount = self._amount(reading)
            usual = np.median(amount)
            least = (usual + np.median(amount[list(one.numbers)])) / 2
            predicted.append(tuple(bool(amount[n] > usual and amount[n] >= least) for n in asked.numbers))
        return predicted

    def _amount(self, reading: Reading) -> np.ndarray:
        """float [images]."""
        if not reading.values:
            return np.zeros(self.images)
        cells = [np.zeros((self.images, self._columns.shape[0]), dtype=bool) for _ in reading.values]
        for filled, value in zip(cells, reading.values, strict=True):
            filled[self._image[value]] = self._columns[:, self._starts[value] : self._starts[value + 1]].T > 0
        return (np.any(cells, 0) if reading.any else np.all(cells, 0)).sum(1).astype(float)

    def _fired(self, one: Evidence) -> np.ndarray:
        """The cells in which it fires, bool [k, 64]; none in an image in which it is nowhere above its mean."""
        maps = torch.as_tensor(np.asarray(one.maps, dtype=np.float32))[..., None]
        above = resample_grid(maps, (CELLS, CELLS)).numpy().reshape(len(maps), -1) - np.float32(one.mean)
        highest = above.max(1, keepdims=True)
        return (above >= self.fires_above * highest) & (highest > 0)

    def _holding(self, fired: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Which columns hold under each mask, bool [masks, columns]."""
        cells = fired.sum(1, keepdims=True)
        least = np.where(cells > 0, self.cell_share * cells, np.inf).astype(np.float32)
        return fired.astype(np.float32) @ columns >= least - np.float32(1e-4)

    def _base(self, fired: np.ndarray) -> np.ndarray:
        """The share of all images in which each value holds under each mask, [masks, values]."""
        counts = [
            np.add.reduceat(self._holding(some, self._columns), self._starts[:-1], axis=1, dtype=np.int32)
            for some in np.array_split(fired, -(-len(fired) // 256))
        ]
        return np.concatenate(counts) / self.images

    def _readings(self, evidence: Sequence[Evidence]) -> list[Reading]:
        check_evidence(evidence, self.images)
        if not evidence:
            return []
        masks = [self._fired(one) for one in evidence]
        bases = np.split(self._base(np.concatenate(masks)), np.cumsum([len(fired) for fired in masks])[:-1])
        return [self._reading(*of_neuron) for of_neuron in zip(evidence, masks, bases, strict=True)]

    def _reading(self, one: Evidence, fired: np.ndarray, base: np.ndarray) -> Reading:
        if not fired.any():
            return Reading(Verdict(False, "it is nowhere above its mean", float("nan")), ())
        factor, value = self._values.T
        has = self.known.cells[list(one.numbers)][:, factor] == value[:, None]  # [k, values, 64]
        cells = fired.sum(1)
        holds = (has & fired[:, None]).sum(2) >= np.where(cells, self.cell_share * cells, np.inf)[:, None] - 1e-4

        def where(number: int) -> np.ndarray:
            some = slice(self._starts[number], self._starts[number + 1])
            held = np.zeros((len(fired), self.images), dtype=bool)
            held[:, self._image[number]] = self._holding(fired, self._columns[:, some])
            return held

        reading = read(holds, base, self.names, self.alpha, self.least_share, where=where, parts=self._parts)
        said = reading.verdict
        if not said.is_monosemantic and self._stays(fired):
            said = said._replace(description=f"it fires in the same cells, whatever they hold: {said.description}")
        return reading._replace(verdict=said)

    def _stays(self, fired: np.ndarray) -> bool:
        """Whether most of the cells in which it fires are the same in nearly all images."""
        always = fired.mean(0) >= self.least_share
        return bool(fired[:, always].sum() > fired.sum() / 2)
