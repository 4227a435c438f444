import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rosetta.models.load import ModelRefused
from rosetta.models.preparation import Preparation, prepare

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def prepared(pixels, size, mode="bicubic", patch=4) -> np.ndarray:
    return prepare(pixels, Preparation(size, MEAN, STD, mode), patch, torch.device("cpu"), torch.float32).numpy()


def kernel(x, mode):
    x = np.abs(x)
    if mode == "bilinear":
        return np.clip(1 - x, 0, None)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2  # Keys' with a = -1/2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def weights(before: int, after: int, mode: str) -> np.ndarray:
    """Antialiased resizing along one side, float64 [after, before]: the kernel is as much wider as the image shrinks."""
    scale = max(1.0, before / after)
    centres = (np.arange(after) + 0.5) * before / after
    weight = kernel((np.arange(before) + 0.5 - centres[:, None]) / scale, mode)
    return weight / weight.sum(1, keepdims=True)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@given(height=st.integers(4, 40), width=st.integers(4, 40), size=st.integers(4, 24), seed=st.integers(0, 99))
def test_images_of_any_sides_are_resized_whole_to_a_square_and_normalized(mode, height, width, size, seed):
    pixels = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8))
    rows, columns = weights(height, size, mode), weights(width, size, mode)
    expected = (np.einsum("ih,jw,bhwc->bijc", rows, columns, pixels.double().numpy() / 255) - MEAN) / STD
    np.testing.assert_allclose(prepared(pixels, size, mode), expected.transpose(0, 3, 1, 2), atol=2e-5)


def test_it_is_what_an_image_library_does_but_for_its_rounding():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 37, 21, 3), dtype=np.uint8)
    theirs = np.asarray(Image.fromarray(pixels[0]).resize((16, 16), Image.Resampling.BICUBIC)) / 255
    ours = prepared(torch.from_numpy(pixels), 16)[0].transpose(1, 2, 0) * STD + MEAN
    assert np.abs(np.clip(ours, 0, 1) - theirs).max() < 1.5 / 255


def test_floats_are_read_on_the_same_scale_and_no_other():
    pixels = torch.randint(0, 256, (1, 9, 9, 3), dtype=torch.uint8)
    assert np.array_equal(prepared(pixels, 8), prepared(pixels.float(), 8))
    for wrong in (pixels / 255, pixels.float() - 128, pixels.float() * 2):
        with pytest.raises(ValueError, match="pixels go from 0 to 255, and these from"):
            prepared(wrong, 8)


def test_what_is_no_image_or_smaller_than_a_patch_is_refused():
    with pytest.raises(ValueError, match=r"pixels are \[B, h, w, 3\], not \[1, 3, 9, 9\]"):
        prepared(torch.zeros(1, 3, 9, 9, dtype=torch.uint8), 8)
    with pytest.raises(ValueError, match="an image of 9 x 3 pixels is smaller than a patch of 4 x 4"):
        prepared(torch.zeros(1, 3, 9, 3, dtype=torch.uint8), 8)


def test_a_preparation_that_cannot_be_is_refused():
    assert Preparation(8, MEAN, STD, "bilinear").checked("m", "x").size == 8
    with pytest.raises(ModelRefused, match=r"model m: x asks for resizing by 'nearest'; there are bilinear, bicubic"):
        Preparation(8, MEAN, STD, "nearest").checked("m", "x")
    with pytest.raises(ModelRefused, match=r"model m: x says mean \[0.5, 0.4\]"):
        Preparation(8, MEAN[:2], STD, "bicubic").checked("m", "x")
