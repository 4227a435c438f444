import io

import numpy as np
import pytest
from PIL import Image

from rosetta.viewer import thumbnails
from rosetta.viewer.thumbnails import packed, squared, webp


def smooth(height: int, width: int) -> np.ndarray:
    """A ramp from left to right in red, from top to bottom in green."""
    red, green = np.meshgrid(np.linspace(20, 220, width), np.linspace(20, 220, height))
    return np.stack([red, green, np.full_like(red, 90)], -1).astype(np.uint8)


def opened(file: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(file)) as image:
        assert image.format == "WEBP"
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize(
    ("height", "width", "side"), [(375, 500, 192), (64, 64, 64), (30, 90, 90), (1, 1, 1), (1000, 3, 192)]
)
def test_a_picture_becomes_a_square_no_larger_than_it_is_and_nothing_is_cropped(height, width, side):
    small = squared(smooth(height, width))
    assert small.shape == (side, side, 3) and small.dtype == np.uint8
    if min(height, width) > 20:  # the whole ramp is there
        expected = smooth(side, side).astype(int)
        assert abs(small.astype(int) - expected).max() < 6


def test_a_square_of_the_right_size_stays_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert (squared(pixels) == pixels).all()


def test_a_file_shows_the_picture():
    assert abs(opened(webp(smooth(64, 64))) - smooth(64, 64).astype(int)).mean() < 4


def test_pictures_are_as_large_as_all_of_them_fit():
    rng = np.random.default_rng(0)
    noise = {i: rng.integers(0, 256, (300, 200, 3), dtype=np.uint8) for i in range(3)}
    sizes = {side: sum(len(webp(squared(pixels, side))) for pixels in noise.values()) for side in thumbnails.SIDES}
    assert list(sizes.values()) == sorted(sizes.values(), reverse=True)
    for side, size in sizes.items():
        files, found = packed(noise, size)
        assert found == side and list(files) == [0, 1, 2] and sum(map(len, files.values())) == size
        assert all(opened(file).shape == (side, side, 3) for file in files.values())
    with pytest.raises(ValueError, match=r"3 pictures of 48 pixels take more than .* bytes; show fewer neurons"):
        packed(noise, min(sizes.values()) - 1)


def test_no_pictures_are_no_files():
    assert packed({}) == ({}, thumbnails.SIDES[0])
