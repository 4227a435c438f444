"""Image files that the tests write, against the pixels they were written from."""

import logging
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rosetta import sources
from rosetta.sources import pictures

SEEN = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = SEEN[:, :, 0]


def read(path) -> np.ndarray:
    """The pixels of the only picture below a file's folder."""
    (picture,) = sources.from_folder(path.parent)
    assert picture.source == str(path) and picture.pixels.dtype == np.uint8
    assert picture.label is None and picture.caption is None
    return picture.pixels


def png(values: np.ndarray, colour: int, size: tuple[int, int] | None = None) -> bytes:
    """A PNG file of 16-bit values [height, width, channels], by the letter of its specification; or one that says it has
    another size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    width, height = size or values.shape[1::-1]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# ---------------------------------------------------------------------------------------------------------------------
# What a file looks like


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.bmp", "a.ppm", "a.tif", "a.tiff"])
def test_colours_are_read_as_they_are(tmp_path, name):
    Image.fromarray(SEEN).save(tmp_path / name)
    np.testing.assert_array_equal(read(tmp_path / name), SEEN)


def test_a_file_is_what_it_holds_not_what_its_name_says(tmp_path):
    Image.fromarray(SEEN).save(tmp_path / "a.jpeg", format="PNG")
    np.testing.assert_array_equal(read(tmp_path / "a.jpeg"), SEEN)


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.webp"])
def test_an_even_colour_survives_compression(tmp_path, name):
    colour = (200, 40, 90)
    Image.new("RGB", (16, 24), colour).save(tmp_path / name, quality=100)
    pixels = read(tmp_path / name).astype(int)
    assert pixels.shape == (24, 16, 3) and np.abs(pixels - colour).max() <= 2


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.pgm", "a.tif"])
def test_grey_is_three_equal_channels(tmp_path, name):
    Image.fromarray(GREY).save(tmp_path / name)
    np.testing.assert_array_equal(read(tmp_path / name), np.stack([GREY] * 3, axis=2))


def test_two_levels_are_black_and_white(tmp_path):
    Image.fromarray(GREY > 100).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        read(tmp_path / "a.png"), np.where((GREY > 100)[:, :, None], 255, 0).repeat(3, axis=2)
    )


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_a_palettes_numbers_become_its_colours(tmp_path, name):
    palette = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(GREY).convert("P")
    image.putpalette(palette.tobytes())
    image.save(tmp_path / name)
    np.testing.assert_array_equal(read(tmp_path / name), palette[GREY])


def test_a_palettes_transparent_number_is_white(tmp_path):
    numbers = np.arange(6, dtype=np.uint8).reshape(2, 3)
    palette = np.arange(18, dtype=np.uint8).reshape(6, 3)
    image = Image.fromarray(numbers).convert("P")
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "a.png", transparency=4)
    expected = palette[numbers]
    expected[1, 1] = 255
    np.testing.assert_array_equal(read(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("channels", [2, 4])
def test_what_is_transparent_lies_on_white(tmp_path, channels):
    values = np.random.default_rng(2).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    values[0, :3, -1] = [0, 128, 255]
    Image.fromarray(values, "LA" if channels == 2 else "RGBA").save(tmp_path / "a.png")
    alpha = values[:, :, -1:] / 255
    expected = np.broadcast_to(values[:, :, :-1] * alpha + 255 * (1 - alpha), (5, 7, 3))
    pixels = read(tmp_path / "a.png")
    assert np.abs(pixels - expected).max() <= 1
    assert (pixels[0, 0] == 255).all() and (pixels[0, 2] == values[0, 2, :-1]).all()


def test_cmyk_is_ink_on_white(tmp_path):
    ink = np.random.default_rng(3).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    Image.fromarray(ink, "CMYK").save(tmp_path / "a.tif")
    expected = 255 * (1 - ink[:, :, :3] / 255) * (1 - ink[:, :, 3:] / 255)
    assert np.abs(read(tmp_path / "a.tif") - expected).max() <= 1


def test_a_cmyk_photograph_is_not_a_negative(tmp_path):
    Image.new("CMYK", (16, 16), (0, 204, 102, 51)).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read(tmp_path / "a.jpg").astype(int) - [204, 41, 122]).max() <= 2  # (1 - ink) (1 - black), of 255


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_grey_of_16_bits_keeps_its_upper_byte(tmp_path, name):
    wide = np.random.default_rng(4).integers(0, 2**16, (5, 7), dtype=np.uint16)
    Image.fromarray(wide).save(tmp_path / name)
    np.testing.assert_array_equal(read(tmp_path / name), np.stack([wide // 256] * 3, axis=2))


@pytest.mark.parametrize(("channels", "colour"), [(1, 0), (3, 2), (2, 4), (4, 6)])
def test_every_png_of_16_bits_keeps_its_upper_byte(tmp_path, channels, colour):
    wide = np.random.default_rng(5).integers(0, 2**16, (5, 7, channels), dtype=np.uint16)
    if colour > 2:
        wide[:, :, -1] = 2**16 - 1
    (tmp_path / "a.png").write_bytes(png(wide, colour))
    expected = np.broadcast_to(wide[:, :, : channels - (colour > 2)] // 256, (5, 7, 3))
    np.testing.assert_array_equal(read(tmp_path / "a.png"), expected)


#: By the EXIF standard: the side of the picture on which the file's first row and its first column lie.
ORIENTATIONS = {
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("of", [SEEN, GREY.astype(np.uint16) * 257], ids=["colour", "16-bit"])
def test_a_picture_stands_upright_whichever_way_the_camera_was_held(tmp_path, orientation, of):
    row, column = ORIENTATIONS[orientation]
    stored = of if row in ("top", "bottom") else of.swapaxes(0, 1)
    stored = stored[::-1] if row in ("bottom", "right") else stored
    stored = stored[:, ::-1] if column in ("bottom", "right") else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    upright = SEEN if of is SEEN else np.stack([GREY] * 3, axis=2)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), upright)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.tif", "a.webp"])
def test_of_several_frames_the_first_is_read_and_that_is_said_once(tmp_path, caplog, name):
    first, *others = (Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue"))
    first.save(tmp_path / name, save_all=True, append_images=others, lossless=True)
    found = sources.from_folder(tmp_path)
    for _ in range(2):
        (picture,) = found
        assert (picture.pixels == [255, 0, 0]).all()
    assert caplog.text.count("several frames") == 1 and name in caplog.text


# ---------------------------------------------------------------------------------------------------------------------
# What is left out


def broken(folder) -> set[str]:
    """Files that a reader must survive."""
    Image.fromarray(SEEN).save(folder / "whole.png")
    whole = (folder / "whole.png").read_bytes()
    (folder / "whole.png").unlink()
    bomb = png(SEEN, 2, size=(2**16, 2**16))  # 24 GB, of a few bytes
    near = png(SEEN, 2, size=(2**13, 2**13 + 1))
    files = {
        "empty.png": b"", "text.jpg": b"no picture", "cut.png": whole[: len(whole) // 2], "bomb.png": bomb, "near.png": near,
        "script.tif": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
        "flipped.png": whole[:50] + bytes([whole[50] ^ 255]) + whole[51:],
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_bytes(content)
    Image.fromarray(SEEN[:, :, 0].astype(np.float32)).save(folder / "float.tif")
    Image.fromarray(SEEN[:, :, 0].astype(np.int32)).save(folder / "int.tif")
    os.symlink("nowhere.png", folder / "dangling.png")
    os.symlink("circle.png", folder / "circle.png")
    return {*files, "float.tif", "int.tif", "dangling.png", "circle.png"}


def test_broken_files_are_named_once_and_counted_and_the_others_survive(tmp_path, caplog):
    Image.fromarray(SEEN).save(tmp_path / "a good one.png")
    Image.fromarray(SEEN[::-1]).save(tmp_path / "the last good one.png")
    names = broken(tmp_path)
    found = sources.from_folder(tmp_path)
    assert not found.left_out and not caplog.records  # nothing is opened before it is asked for
    for _ in range(2):
        first, last = found
        np.testing.assert_array_equal(first.pixels, SEEN)
        np.testing.assert_array_equal(last.pixels, SEEN[::-1])
    assert {path.name for path in found.left_out} == names
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(messages) == len(names) + 1
    for name in names:
        assert sum(str(tmp_path / name) in message for message in messages) == 1, name
    assert "DecompressionBombError" in found.left_out[tmp_path / "bomb.png"]
    assert "8192 x 8193 pixels are more than" in found.left_out[tmp_path / "near.png"]
    assert messages[-1] == f"{len(names)} of {len(names) + 2} image files are left out"


def test_a_bomb_is_known_by_its_header(tmp_path, monkeypatch):
    Image.fromarray(SEEN).save(tmp_path / "a.png")
    monkeypatch.setattr(pictures, "LARGEST", 35)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), SEEN)
    monkeypatch.setattr(pictures, "LARGEST", 34)
    with pytest.raises(ValueError, match=r"7 x 5 pixels are more than the 34"):
        list(sources.from_folder(tmp_path))


def test_what_is_smaller_than_a_patch_is_left_out(tmp_path, caplog):
    sizes = [(8, 8), (7, 20), (20, 7), (20, 8), (8, 20)]
    for i, size in enumerate(sizes):
        Image.new("RGB", size).save(tmp_path / f"{i}.png")
    found = sources.from_folder(tmp_path, least=8)
    assert [picture.pixels.shape[1::-1] for picture in found] == [(8, 8), (20, 8), (8, 20)]
    assert {path.name for path in found.left_out} == {"1.png", "2.png"}
    assert "7 x 20 pixels; both must be at least 8" in caplog.text and "2 of 5" in caplog.text


def test_files_of_which_none_can_be_read_are_refused_with_the_first_and_why(tmp_path):
    for name in ("b.png", "a.png"):
        (tmp_path / name).write_bytes(b"no picture")
    found = sources.from_folder(tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"none of 2 .*a\.png: UnidentifiedImageError"):
            list(found)


# ---------------------------------------------------------------------------------------------------------------------
# Folders


def test_pictures_anywhere_below_come_by_path_as_often_as_gone_through(tmp_path):
    names = ["b.png", "a/2.png", "a/b/1.png", "c/deep/er/0.png"]
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / name)
    for hidden in (".cache/x.png", ".x.png", "notes.txt", "a/empty folder/.keep"):
        (tmp_path / hidden).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / hidden).write_bytes(b"none of it")
    found = sources.from_folder(str(tmp_path))
    for _ in range(2):
        assert [(p.source, p.pixels[0, 0, 0]) for p in found] == [
            (str(tmp_path / names[i]), i) for i in (1, 2, 0, 3)
        ]  # fmt: skip


def test_pixels_are_read_when_a_picture_is_reached(tmp_path):
    for name in ("0.png", "1.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    rows = iter(sources.from_folder(tmp_path))
    assert next(rows).pixels.max() == 0
    Image.new("RGB", (4, 4), "white").save(tmp_path / "1.png")
    assert next(rows).pixels.min() == 255


def test_links_lead_nowhere_twice(tmp_path):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home / "a", home / "b", elsewhere / "in"):
        folder.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(folder / "x.png")
    links = {home / "a" / "up": home, home / "0": home / "b", home / "c": elsewhere, home / "d": elsewhere}
    links |= {elsewhere / "in" / "up": elsewhere, elsewhere / "back": home, home / "b" / "all": tmp_path}
    for link, target in links.items():
        link.symlink_to(target, target_is_directory=True)
    found = [picture.source for picture in sources.from_folder(home)]
    assert found == [str(home / name) for name in ("a/x.png", "b/x.png", "c/in/x.png")]


@pytest.mark.parametrize("source", [sources.from_folder, sources.from_imagenet])
def test_a_folder_without_pictures_is_refused_with_what_was_looked_for(tmp_path, source):
    (tmp_path / "n01440764").mkdir()
    (tmp_path / "n01440764" / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"no image file.*\.jpeg.*\.png"):
        source(tmp_path)
    for path in (tmp_path / "missing", tmp_path / "n01440764" / "notes.txt"):
        with pytest.raises(ValueError, match=f"{path.name} is not a folder"):
            source(path)


# ---------------------------------------------------------------------------------------------------------------------
# ImageNet


def test_a_class_is_the_number_of_its_folder(tmp_path):
    for name in ("n02/b.JPEG", "n02/a.JPEG", "n10/images/x.JPEG", "n01/x.JPEG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "n03").mkdir()
    (tmp_path / ".hidden").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "of no class.png")
    found = sources.from_imagenet(tmp_path)
    assert [(p.source, p.label) for p in found] == [
        (str(tmp_path / name), label)
        for name, label in [("n01/x.JPEG", 0), ("n02/a.JPEG", 1), ("n02/b.JPEG", 1), ("n10/images/x.JPEG", 3)]
    ]


def test_the_folder_above_train_and_val_is_refused(tmp_path):
    for name in ("train", "val"):
        (tmp_path / name / "n01").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name / "n01" / "x.png")
    with pytest.raises(ValueError, match="train, val, which are no classes"):
        sources.from_imagenet(tmp_path)


def test_pictures_beside_the_folders_alone_are_neither_form(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"neither folders of classes .* ILSVRC2012_val_"):
        sources.from_imagenet(tmp_path)


@pytest.fixture
def validation(tmp_path):
    """Three pictures of a flat folder, and a function that writes a file of labels for them."""
    (tmp_path / "val").mkdir()
    for i in (3, 1, 2):
        Image.new("RGB", (8, 8)).save(tmp_path / "val" / f"ILSVRC2012_val_{i:08}.JPEG")

    def labels(*lines):
        (tmp_path / "labels.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path / "val", tmp_path / "labels.txt"

    return labels


def test_a_flat_folder_has_no_labels_by_itself(validation):
    folder, _ = validation()
    assert [(p.source[-6:], p.label) for p in sources.from_imagenet(folder)] == [
        ("1.JPEG", None), ("2.JPEG", None), ("3.JPEG", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["65", "970", "0"], [65, 970, 0]),
        (["n03", "n01", "n02"], None),
        (["n01751748", "n09193705", "n01751748"], [0, 1, 0]),
        ([f"ILSVRC2012_val_{i:08}.JPEG {i * 100}" for i in (2, 3, 1)], [100, 200, 300]),
        ([f"ILSVRC2012_val_{i:08}.JPEG n0000000{9 - i}" for i in (2, 3, 1, 7)], [3, 2, 1]),  # 7 is not in the folder
        (["1", "1000", "2"], None),
        (["1", "-1", "2"], None),
        (["1", "2"], None),
        (["1", "2", "a b"], None),
        (["a 1", "b 2", "c 3"], None),
    ],
)
def test_labels_of_a_file_go_with_its_pictures_or_are_refused(validation, lines, expected):
    folder, labels = validation(*lines)
    if expected is None:
        with pytest.raises(ValueError, match=r"labels\.txt (has|labels) "):
            sources.from_imagenet(folder, labels)
    else:
        assert [p.label for p in sources.from_imagenet(folder, labels)] == expected


def test_labels_without_a_flat_folder_are_refused(tmp_path):
    (tmp_path / "n01").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "n01" / "x.png")
    with pytest.raises(ValueError, match=r"no file ILSVRC2012_val_.*labels\.txt"):
        sources.from_imagenet(tmp_path, tmp_path / "labels.txt")


def test_a_picture_survives_its_png():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(pictures.from_png(pictures.png(pixels)), pixels)
