"""The composite is what H.1 says, tile by tile; what cannot be drawn is refused by the neuron's name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import colormaps
from PIL import Image
from seeing import SIDE, some_evidence, some_unseen

from rosetta.neurons.composites import GAP, HEADINGS, MARGIN, composite, composite_size, lettered, lettered_size, shades
from rosetta.neurons.judging import Evidence
from rosetta.sources.pictures import png

TILE = 48


def tile_of(drawn, rank, column, tile=TILE, deep=99):
    """Of the image of a rank (from 1), the column of HEADINGS."""
    block, row = divmod(rank - 1, deep)
    left = MARGIN + block * (MARGIN + 3 * (tile + GAP)) + HEADINGS.index(column) * (tile + GAP)
    top = MARGIN + row * (tile + GAP)
    return drawn[top : top + tile, left : left + tile]


def colours(values, tile=TILE):
    return np.kron(
        colormaps["viridis"](values, bytes=True)[..., :3], np.ones((tile // len(values),) * 2 + (1,), np.uint8)
    )


@pytest.mark.parametrize("scale", ["all", "above mean", "each"])
def test_each_row_is_an_image_its_map_and_the_map_over_it(scale):
    (of,) = some_evidence(1, k=4)
    of = of._replace(images=np.repeat(np.repeat(of.images, 2, 1), 2, 2))  # 48 pixels, as a tile: nothing is resized
    drawn = composite(of, TILE, scale, overlay=0.25)
    assert drawn.dtype == np.uint8 and drawn.shape == (*composite_size(4, TILE), 3)
    for rank, (pixels, values) in enumerate(zip(of.images, of.maps.astype(float), strict=True), start=1):
        low, high = {
            "all": (0, of.maps.max()),
            "above mean": (0.5, of.maps.max()),
            "each": (values.min(), values.max()),
        }[scale]
        heat = colours(np.clip((values - low) / (high - low), 0, 1))
        assert np.array_equal(tile_of(drawn, rank, "image"), pixels)
        assert np.array_equal(tile_of(drawn, rank, "map"), heat)
        over = 0.75 * pixels.mean(-1, keepdims=True) + 0.25 * heat
        assert np.abs(tile_of(drawn, rank, "overlay") - over).max() <= 0.5 + 1e-9


def test_bright_is_strong_and_shades_follow_the_activations():
    lightness = colormaps["viridis"](np.linspace(0, 1, 50))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all()
    (of,) = some_evidence(1, k=5)
    order = of.maps.ravel().argsort()
    assert (np.diff(shades(of).ravel()[order]) >= 0).all() and shades(of).max() == 1
    assert (shades(of, "each").max((1, 2)) == 1).all() and (shades(of, "each").min((1, 2)) == 0).all()
    assert (shades(of, "above mean")[of.maps <= 0.5] == 0).all()


@pytest.mark.parametrize("scale", ["all", "above mean", "each"])
def test_maps_without_a_cell_above_zero_or_without_any_range_are_drawn(scale):
    (of,) = some_evidence(1)
    below = shades(of._replace(maps=-1 - of.maps), scale)
    assert below.min() == 0 and below.max() == 1
    assert (shades(of._replace(maps=np.zeros_like(of.maps)), scale) == 0).all()


@given(k=st.integers(1, 50), rows=st.integers(1, 25), tile=st.sampled_from([6, 12]))
def test_every_image_is_there_once_in_blocks_of_no_more_than_so_many_rows(k, rows, tile):
    images = [np.full((2, 2, 3), 5 * number, np.uint8) for number in range(k)]
    of = Evidence("some L0/U0", tuple(range(k)), images, np.ones((k, 2, 2), np.float32), np.ones(k), 0.0)
    drawn = composite(of, tile, rows=rows)
    assert drawn.shape == (*composite_size(k, tile, rows), 3)
    deep = -(-k // -(-k // rows))
    assert deep <= rows
    for rank in range(1, k + 1):
        assert (tile_of(drawn, rank, "image", tile, deep) == 5 * (rank - 1)).all()


@pytest.mark.parametrize(("k", "size"), [(2, (226, 326)), (20, (2026, 326)), (50, (1726, 978))])
def test_fifty_images_stay_within_what_endpoints_show(k, size):
    (of,) = some_evidence(1, k)
    assert composite_size(k) == size and max(size) <= 2048
    assert len(png(composite(of))) < 3 * size[0] * size[1] < 6e6  # noise does not compress


def test_ranks_headings_and_letters_are_written_beside_the_tiles():
    (of,), (unseen,) = some_evidence(1, k=12), some_unseen(1)
    drawn = composite(of, TILE).astype(int)
    top, left = drawn[:MARGIN], drawn[MARGIN:, :MARGIN]
    for n in range(3):
        assert (top[:, MARGIN + n * (TILE + GAP) :][:, :TILE] < 100).any()
    ranks = [left[n * (TILE + GAP) :][:TILE] for n in range(12)]
    assert all((rank < 100).any() and (rank[:, 0] > 200).all() for rank in ranks)  # whole, and none like another
    assert len({rank.tobytes() for rank in ranks}) == 12
    grid = lettered(unseen.images, TILE)
    letters = [grid[n // 5 * (MARGIN + TILE + GAP) :, GAP + n % 5 * (TILE + GAP) :][:MARGIN, :TILE] for n in range(10)]
    assert len({letter.tobytes() for letter in letters}) == 10 and all((letter < 100).any() for letter in letters)


def test_lettered_images_are_raw_and_in_their_order():
    (unseen,) = some_unseen(1)
    grid = lettered(unseen.images, SIDE)
    assert grid.shape == (*lettered_size(10, SIDE), 3)
    for n, pixels in enumerate(unseen.images):
        top, left = n // 5 * (MARGIN + SIDE + GAP) + MARGIN, GAP + n % 5 * (SIDE + GAP)
        assert np.array_equal(grid[top : top + SIDE, left : left + SIDE], pixels)
    assert lettered(unseen.images[:2], SIDE).shape == (MARGIN + SIDE + GAP, 2 * (SIDE + GAP) + GAP, 3)


def test_images_of_any_shape_become_squares():
    (of,) = some_evidence(1, k=2)
    photograph = np.random.default_rng(0).integers(0, 256, (30, 70, 3), dtype=np.uint8)
    drawn = composite(of._replace(images=[photograph, np.zeros((1, 1, 3), np.uint8)]), TILE)
    expected = np.asarray(Image.fromarray(photograph).resize((TILE, TILE), Image.Resampling.BICUBIC))
    assert np.array_equal(tile_of(drawn, 1, "image"), expected)


UNFIT = {
    "no images": ({"images": [], "maps": np.ones((0, 2, 2))}, "no images"),
    "floats": ({"images": np.zeros((3, 4, 4, 3))}, r"image 1 is float64 of shape \(4, 4, 3\)"),
    "grey": ({"images": np.zeros((3, 4, 4), np.uint8)}, r"image 1 is uint8 of shape \(4, 4\)"),
    "no pixels": ({"images": np.zeros((3, 0, 4, 3), np.uint8)}, r"image 1 .* \(0, 4, 3\)"),
    "no array": ({"images": ["a.png"] * 3}, "image 1 is str"),
    "NaN": ({"maps": np.where(np.arange(3)[:, None, None] == 1, np.nan, np.ones((3, 2, 2)))}, "map on image 2 is not finite"),
    "infinite": ({"maps": np.full((3, 2, 2), np.inf)}, "map on image 1 is not finite"),
    "fewer maps": ({"maps": np.ones((2, 2, 2))}, r"3 images and maps of shape \(2, 2, 2\)"),
    "flat maps": ({"maps": np.ones((3, 4))}, r"maps of shape \(3, 4\)"),
    "empty maps": ({"maps": np.ones((3, 0, 4))}, r"maps of shape \(3, 0, 4\)"),
    "words": ({"maps": np.full((3, 2, 2), "x")}, "must be real numbers"),
    "a mean of nothing": ({"mean": float("nan")}, "its mean is nan"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), UNFIT.values(), ids=UNFIT)
def test_what_cannot_be_drawn_is_refused_by_the_neurons_name(change, said):
    (of,) = some_evidence(1)
    with pytest.raises(ValueError, match=f"^seer L0/U0: .*{said}"):
        composite(of._replace(**change))


def test_unfit_parameters_and_unseen_images_are_refused():
    (of,), (unseen,) = some_evidence(1), some_unseen(1)
    wrong = ({"tile": 0}, {"tile": 1.5}, {"rows": 0}, {"overlay": 1.5}, {"overlay": float("nan")}, {"scale": "mine"})
    for options in wrong:
        with pytest.raises(ValueError, match=f"^{next(iter(options))} is .*must be"):
            composite(of, **options)
    for images in ([], [unseen.images[0]] * 27):
        with pytest.raises(ValueError, match=f"^x L0/U1: {len(images)} unseen images; there are letters for 1 to 26"):
            lettered(images, neuron="x L0/U1")
    with pytest.raises(ValueError, match=r"^x L0/U1: unseen image B is float64"):
        lettered([unseen.images[0], unseen.images[1] / 1.0], neuron="x L0/U1")
