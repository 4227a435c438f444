"""The judge that looks for likeness: are a neuron's strongest images alike in the eyes of an independent encoder?"""

from collections.abc import Sequence

import numpy as np

from rosetta.neurons.judging import Evidence, Unseen, Verdict, check_evidence


def directions(features: np.ndarray, centred: bool = True) -> np.ndarray:
    """Features of length 1, float32 [n, channels], of which cosines are products.

    Parameters
    ----------
    features : float [n, channels]
        Of each image of a set.
    centred : bool
        Take the set's mean off first: features of most encoders share a large part, which makes any two images look alike. An image
        that is the mean itself has no direction, and is like no other (0).

    Raises
    ------
    ValueError
        If these are not the features of two images or more, or not finite.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) < 2 or not features.shape[1]:
        raise ValueError(
            f"features have the shape {list(features.shape)}; expected [images, channels], two images at least"
        )
    if not np.isfinite(features).all():
        raise ValueError("features hold NaN or infinity; the encoder broke there")
    if centred:
        features = features - features.mean(0)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    # What is left of equal features is rounding.
    return np.divide(features, length, out=np.zeros_like(features), where=length > 1e-9).astype(np.float32)


def likeness(cosines: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean cosine of all pairs of images, each pair weighted by the product of its weights.

    This is the MonoSemanticity score of Pach et al. 2025 (arXiv 2504.02821): the sum of w_i w_j cos(e_i, e_j) over pairs, divided
    by that of w_i w_j.

    Parameters
    ----------
    cosines : float [..., k, k]
    weights : float [..., k]
        Not negative.

    Returns
    -------
    float [...]
        NaN where fewer than two images have a weight.
    """
    pairs = weights[..., :, None] * weights[..., None, :] * (1 - np.eye(weights.shape[-1]))
    total = pairs.sum((-2, -1))
    return (pairs * cosines).sum((-2, -1)) / np.where(total > 0, total, np.nan)


def weights_of(one: Evidence) -> np.ndarray:
    """How far each image's strength lies above the neuron's mean, of the highest; float64 [k]. Zero where it does not."""
    above = (np.asarray(one.strengths, dtype=np.float64) - one.mean).clip(min=0)
    return above / max(above.max(), np.finfo(float).tiny)


class Likeness:
    """The judge by likeness in an independent encoder.

    A neuron is monosemantic if its images' `likeness` is higher than that of random sets of as many images with the same
    weights: among the highest 1 - `quantile` of them. So of neurons that know nothing a share of 1 - `quantile` is called
    monosemantic. It is a weak standard: images of two features, too, are more alike than any. The score, the `likeness` itself,
    says more.

    It differs from Pach et al. in three ways: only the images shown count, not all of the set; weights begin at the neuron's
    mean instead of its lowest activation; and features are centred, unless asked not to be.

    Parameters
    ----------
    features : float [n, channels]
        Of each image of the set, in an encoder that is not the model judged.
    quantile : float
    sets : int
        Random sets, the same for all neurons that are shown equally many images.
    seed : int
    centred : bool
        As `directions` has it.

    Raises
    ------
    ValueError
        As `directions` does; or if there are too few sets to tell the quantile.
    """

    def __init__(
        self, features: np.ndarray, quantile: float = 0.95, sets: int = 1_000, seed: int = 0, centred: bool = True
    ):
        if not 0 < quantile < 1 or (sets + 1) * (1 - quantile) < 1 - 1e-9:
            raise ValueError(
                f"quantile is {quantile} of {sets} sets; it is a share of 1, and takes 1 / (1 - quantile) sets"
            )
        self.directions = directions(features, centred)
        self.quantile, self.sets, self.seed = quantile, sets, seed
        self._cosines: dict[int, np.ndarray] = {}

    def judge(self, evidence: Sequence[Evidence]) -> list[Verdict]:
        """Whether each neuron's images are more alike than random ones.

        Raises
        ------
        ValueError
            As `judging.check_evidence` does.
        """
        check_evidence(evidence, len(self.directions))
        return [self._verdict(one) for one in evidence]

    def predict(self, evidence: Sequence[Evidence], unseen: Sequence[Unseen]) -> list[tuple[bool, ...]]:
        """On which unseen images each neuron would fire.

        Those whose cosine with the weighted mean of the images shown is at least half-way from the median of all images of
        the set to that of the images shown, each compared with the mean of the others; and above the former.

        Raises
        ------
        ValueError
            As `judging.check_evidence` does; or if the unseen images are not of the set.
        """
        check_evidence(evidence, len(self.directions))
        predicted = []
        for one, asked in zip(evidence, unseen, strict=True):
            if not all(0 <= number < len(self.directions) for number in asked.numbers):
                raise ValueError(
                    f"{one.neuron}: unseen images {list(asked.numbers)}; the set has {len(self.directions)}"
                )
            shown, weights = self.directions[list(one.numbers)], weights_of(one)[:, None]
            total = (weights * shown).sum(0)
            of_set = self.directions @ total / max(np.linalg.norm(total), np.finfo(float).tiny)
            others = total - weights * shown
            of_shown = (shown * others).sum(1) / np.linalg.norm(others, axis=1).clip(min=np.finfo(float).tiny)
            usual = np.median(of_set)
            least = (usual + np.median(of_shown)) / 2
            predicted.append(tuple(bool(of_set[n] > usual and of_set[n] >= least) for n in asked.numbers))
        return predicted

    def _verdict(self, one: Evidence) -> Verdict:
        weights = weights_of(one)
        chosen = self.directions[list(one.numbers)].astype(np.float64)
        score = float(likeness(chosen @ chosen.T, weights))
        if np.isnan(score):
            return Verdict(False, "fewer than two of its images are above its mean", score)
        by_chance = likeness(self._of_random_sets(len(weights)), weights[None])
        as_high = (1 + (by_chance >= score).sum()) / (1 + self.sets)
        more_alike = bool(as_high <= 1 - self.quantile + 1e-9)
        than = f"a cosine of {score:.2f} between its images; of random ones {np.quantile(by_chance, self.quantile):.2f}"
        return Verdict(more_alike, f"{than} at the {self.quantile:.0%} quantile", score)

    def _of_random_sets(self, k: int) -> np.ndarray:
        """Cosines within each, float32 [sets, k, k]; the images of a set are all different."""
        if k not in self._cosines:
            rng, n = np.random.default_rng([self.seed, k]), len(self.directions)
            chosen = self.directions[np.stack([rng.permutation(n)[:k] for _ in range(self.sets)])]
            self._cosines[k] = chosen @ chosen.transpose(0, 2, 1)
        return self._cosines[k]
