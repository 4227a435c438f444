"""Pictures: what a vision model is shown, and those that lie as image files in a folder or in ImageNet's folders."""

import hashlib
import io
import logging
import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

logger = logging.getLogger(__name__)

#: What is read, by the names of files, and what a file may hold, whatever its name says: only formats of pixels.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
#: Pixels. A file of some kilobytes may unfold to more than the memory holds; only its header is read to find that out.
LARGEST = 2**26


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


class Pictures:
    """The pictures of files in their order, opened one after another each time they are gone through.

    A file that cannot be read, or is no picture that a model can be shown, is left out and named in a warning, once.

    Parameters
    ----------
    files : dict of Path to int or None
        The files, in order, and their labels.
    least : int
        Pixels that height and width must have: one patch.

    Attributes
    ----------
    files : dict of Path to int or None
    left_out : dict of Path to str
        The files left out so far, and why.

    Raises
    ------
    ValueError
        While going through, if not one of the files can be read.
    """

    def __init__(self, files: dict[Path, int | None], least: int = 1):
        self.files, self.least = files, least
        self.left_out: dict[Path, str] = {}
        self._told: set[str] = set()

    def digest(self) -> str:
        """What tells these files from others, or from the same changed: their names, labels, sizes and times."""
        facts = [(str(path), label, path.stat().st_size, path.stat().st_mtime_ns) for path, label in self.files.items()]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def __iter__(self) -> Iterator[Picture]:
        for path, label in self.files.items():
            if path in self.left_out:
                continue
            try:
                pixels = self._read(path)
            except Exception as error:  # a format's reader raises whatever it meets in a broken file
                self.left_out[path] = f"{type(error).__name__}: {error}"
                logger.warning("left out %s: %s", path, self.left_out[path])
                continue
            yield Picture(pixels, str(path), label)
        if len(self.left_out) == len(self.files):
            path, why = next(iter(self.left_out.items()))
            raise ValueError(f"none of {len(self.files)} image files can be read; the first: {path}: {why}")
        if self.left_out:
            self._tell(f"{len(self.left_out)} of {len(self.files)} image files are left out")

    def _read(self, path: Path) -> np.ndarray:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > LARGEST:
                raise ValueError(
                    f"{width} x {height} pixels are more than the {LARGEST} that are read; make it smaller"
                )
            if min(width, height) < self.least:
                raise ValueError(f"{width} x {height} pixels; both must be at least {self.least}")
            if getattr(image, "is_animated", False):
                self._tell(f"{path} holds several frames; the first is read")
            return as_seen(image)

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            logger.warning(message)


def as_seen(image: Image.Image) -> np.ndarray:
    """The picture as a viewer shows it: turned as its EXIF orientation says, on white where it is transparent.

    16-bit values lose their lower byte. CMYK is converted without its colour profile.

    Returns
    -------
    uint8 [height, width, 3]

    Raises
    ------
    ValueError
        If the range of the values is not known: integers of 32 bits, floats.
    """
    ImageOps.exif_transpose(image, in_place=True)  # a copy would not know its format
    # Pillow would clip these at 255. Integers of a PGM file are of 16 bits.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError(f"values of mode {image.mode} have no stated range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def from_folder(path: str | Path, least: int = 1) -> Pictures:
    """The pictures of all image files anywhere below a folder, sorted by path, without labels.

    Parameters
    ----------
    path : str or Path
        Its sub-folders are entered, links to other folders too, each once; hidden ones and hidden files are not.
    least : int
        Pixels that height and width must have: one patch.

    Raises
    ------
    ValueError
        If the folder is not there, or has no image file.
    """
    return Pictures(dict.fromkeys(_image_files(Path(path))), least)


def from_imagenet(path: str | Path, labels: str | Path | None = None, least: int = 1) -> Pictures:
    """ImageNet's pictures (Section 4.1): a folder for each class, or the flat folder of the validation set.

    Parameters
    ----------
    path : str or Path
        Either the classes' folders are in it, numbered from 0 in the order of their names, those without images too; or
        the files ``ILSVRC2012_val_*``.
    labels : str or Path, optional
        For a flat folder: a text file with a line for each of its pictures, ``name label``, or only the label, in the
        order of their names. A label is a number from 0, or else all are WordNet's (``n01440764``), numbered in their
        order. Without it pictures have no label.
    least : int
        Pixels that height and width must have: one patch.

    Raises
    ------
    ValueError
        If the folder is not there or holds neither, or the labels do not fit the pictures.
    """
    path = Path(path)
    files = _image_files(path)
    flat = [file for file in files if file.parent == path and file.name.startswith("ILSVRC2012_val_")]
    if flat:
        return Pictures(_labelled(flat, Path(labels)) if labels else dict.fromkeys(flat), least)
    if labels:
        raise ValueError(f"{path} holds no file ILSVRC2012_val_*, so the labels {labels} have none to go with")
    classes = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if {"train", "val"} & set(classes):
        raise ValueError(f"{path} holds {', '.join(classes)}, which are no classes; name one of them")
    number = {name: i for i, name in enumerate(classes)}
    inside = {file: number[file.relative_to(path).parts[0]] for file in files if file.parent != path}
    if not inside:
        raise ValueError(f"{path} holds neither folders of classes with image files nor files ILSVRC2012_val_*")
    return Pictures(inside, least)


def _labelled(files: list[Path], labels: Path) -> dict[Path, int]:
    """Each file's label, of a text file as `from_imagenet` takes it."""
    lines = [line.split() for line in labels.read_text(encoding="utf-8").splitlines() if line.strip()]
    if all(len(line) == 2 for line in lines):
        label = dict(lines)
    elif all(len(line) == 1 for line in lines) and len(lines) == len(files):
        label = {file.name: line[0] for file, line in zip(files, lines, strict=True)}
    else:
        raise ValueError(
            f"{labels} has {len(lines)} lines for {len(files)} pictures; each must be `name label`, or else there must be "
            "one for each picture with its label alone"
        )
    missing = [file.name for file in files if file.name not in label]
    if missing:
        raise ValueError(f"{labels} has no label for {len(missing)} of {len(files)} pictures, {missing[0]} the first")
    if all(re.fullmatch(r"n\d{8}", value) for value in label.values()):
        number = {synset: i for i, synset in enumerate(sorted(set(label.values())))}
        return {file: number[label[file.name]] for file in files}
    for name, value in label.items():
        if not value.isdecimal() or int(value) >= 1000:
            raise ValueError(
                f"{labels} labels {name} {value!r}; a label is a number from 0 to 999, or WordNet's (n01440764). The "
                "development kit's ground truth counts from 1 in an order of its own: use WordNet's names"
            )
    return {file: int(label[file.name]) for file in files}


def _image_files(folder: Path) -> list[Path]:
    """The image files anywhere below a folder, sorted by path; no folder is entered twice, whatever links lead to it."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder that is there")
    home, entered, found = Path(os.path.realpath(folder)), set(), []

    def enters(sub_folder: Path) -> bool:
        target = Path(os.path.realpath(sub_folder))
        around = target.is_relative_to(home) or home.is_relative_to(target)  # a link to what is gone through anyway
        if sub_folder.name.startswith(".") or target in entered or (sub_folder.is_symlink() and around):
            return False
        entered.add(target)
        return True

    for here, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = [name for name in sorted(folders) if enters(Path(here, name))]
        found += [Path(here, name) for name in files if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    if not found:
        raise ValueError(
            f"{folder} has no image file; looked for names that end with {', '.join(SUFFIXES)}, anywhere below"
        )
    return sorted(found)


def _refuse(error: OSError) -> None:
    """A folder that cannot be listed may hold any share of the pictures, so it is no file to leave out."""
    raise error


class First:
    """The first so many pictures of a row, which may be gone through any number of times.

    Raises
    ------
    ValueError
        While going through, if there are fewer.
    """

    def __init__(self, count: int, of: Iterable[Picture]):
        self.count, self.of = count, of

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Picture]:
        given = 0
        for picture in islice(self.of, self.count):
            given += 1
            yield picture
        if given < self.count:
            raise ValueError(f"{self.count} pictures are asked for, and there are {given}; ask for fewer")


def png(pixels: np.ndarray) -> bytes:
    """A picture, uint8 [h, w, 3], in a file's bytes: without loss, and small enough for a table."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def from_png(data: bytes) -> np.ndarray:
    """The pixels, uint8 [h, w, 3]."""
    return np.asarray(Image.open(io.BytesIO(data)))
