"""Small pictures for a page that holds them all."""

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

#: Pixels of a side, the first of which all pictures together fit: none is made larger than it is.
SIDES = (192, 128, 96, 64, 48)
#: Of WebP, from 0 to 100, and how hard it tries, from 0 to 6.
QUALITY, EFFORT = 85, 4
#: Bytes of all pictures of a page, before they grow by a third in base64.
MOST = 7_500_000


def squared(pixels: np.ndarray, side: int = SIDES[0]) -> np.ndarray:
    """A picture as a square, for so models are shown it: resized, not cropped; no larger than it is.

    Parameters
    ----------
    pixels : uint8 [h, w, 3]
    side : int
        Pixels at most.

    Returns
    -------
    uint8 [s, s, 3]
    """
    side = min(side, max(pixels.shape[:2]))
    if pixels.shape[:2] == (side, side):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def packed(pictures: Mapping, most: int = MOST) -> tuple[dict, int]:
    """Pictures as WebP files, at the first of `SIDES` at which all of them together are no more than so many bytes.

    Parameters
    ----------
    pictures : mapping to uint8 [h, w, 3]
    most : int
        Bytes.

    Returns
    -------
    files : dict to bytes
        By the same keys.
    side : int
        Pixels of a side, at most.

    Raises
    ------
    ValueError
        If they are too many.
    """
    for side in SIDES:
        files, size = {}, 0
        for key, pixels in pictures.items():
            files[key] = webp(squared(pixels, side))
            size += len(files[key])
            if size > most:
                break
        else:
            return files, side
    raise ValueError(
        f"{len(pictures)} pictures of {SIDES[-1]} pixels take more than {most:,} bytes; show fewer neurons, or fewer images of each"
    )


def webp(pixels: np.ndarray) -> bytes:
    """One picture as a WebP file of `QUALITY`."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "WEBP", quality=QUALITY, method=EFFORT)
    return data.getvalue()
