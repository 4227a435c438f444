"""What a judge of monosemanticity looks at (5.1, H)."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rosetta.neurons import composites as drawing
from rosetta.neurons.judging import Evidence, Unseen

#: Of a figure that shows pixels as they are.
DPI = 110


def composite(evidence: Evidence, **options) -> Figure:
    """The picture by which a neuron is judged (H.1), pixel by pixel as a chat model is sent it.

    Parameters
    ----------
    evidence : Evidence
    **options
        ``tile``, ``scale``, ``overlay``, ``rows`` of `neurons.composites.composite`.
    """
    return _as_it_is(drawing.composite(evidence, **options))


def lettered(unseen: Unseen, **options) -> Figure:
    """The images, A to J, among which a judge says which would make a neuron fire (H.3).

    Parameters
    ----------
    unseen : Unseen
    **options
        ``tile``, ``columns`` of `neurons.composites.lettered`.
    """
    return _as_it_is(drawing.lettered(unseen.images, **options))


def _as_it_is(pixels: np.ndarray) -> Figure:
    height, width = pixels.shape[:2]
    figure = plt.figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(pixels, interpolation="nearest", aspect="auto")
    axes.axis("off")
    return figure
