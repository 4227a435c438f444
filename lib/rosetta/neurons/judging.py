"""Is a neuron monosemantic? What a judge is shown of it, and what it says (section 5.1, Appendix H).

A judge is any object with the two methods of `Judge`: the oracle, which knows what is in each image (`neurons.oracle`), the
likeness of images in an independent encoder (`neurons.likeness`), and a chat model that looks at them (`neurons.looking`).
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np


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
