"""Pictures: what a vision model is shown."""

from typing import NamedTuple

import numpy as np


class Picture(NamedTuple):
    """A picture with its origin.

    Attributes
    ----------
    pixels : uint8 [height, width, 3]
    source : str
        The path it came from, or what made it and its number (``scenes-0#17``).
    label : int, optional
        The number of its class.
    caption : str, optional
    """

    pixels: np.ndarray
    source: str
    label: int | None = None
    caption: str | None = None
