"""Files of JSON lines, plain or compressed, read at the speed of the disk: every line, or those at some places."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import zstandard

logger = logging.getLogger(__name__)

#: Bytes read at a time.
CHUNK = 2**18
#: Of what is left out of a file so many lines are named; all are counted.
NAMED = 10
#: Endings of files that hold a document a line.
ENDINGS = (".jsonl", ".jsonl.zst")


def holds_lines(path: Path) -> bool:
    """Whether a file holds JSON lines, by its name."""
    return path.name.endswith(ENDINGS)


def lines(path: Path, wanted: Iterable[int] | None = None) -> Iterator[tuple[int, bytes]]:
    """The lines of a ``.jsonl`` or ``.jsonl.zst`` file, each with its place: the byte of the uncompressed file it begins at.

    Parameters
    ----------
    path : Path
    wanted : iterable of int, optional
        Only the lines at these places, which are in order. A plain file is read nowhere else; a compressed one is
        unpacked once more.

    Raises
    ------
    ValueError
        If a compressed file breaks off or is damaged.
    """
    compressed = path.name.endswith(".zst")
    if wanted is None:
        yield from _split(_unpacked(path) if compressed else _chunks(path))
    elif compressed:
        wanted = set(wanted)
        yield from ((place, line) for place, line in _split(_unpacked(path)) if place in wanted)
    else:
        with open(path, "rb") as file:
            for place in wanted:
                file.seek(place)
                yield place, file.readline().removesuffix(b"\n")


def _chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _unpacked(path: Path) -> Iterator[bytes]:
    """What a zst file of one or more frames holds; ValueError where it breaks off, which its reader would not say."""
    unpacked, frame = 0, None
    try:
        for chunk in _chunks(path):
            while chunk:
                frame = frame or zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
                data = frame.decompress(chunk)
                unpacked += len(data)
                yield data
                chunk, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
        if frame is not None:
            raise zstandard.ZstdError("its end is missing")
    except zstandard.ZstdError as error:
        raise ValueError(f"{path} breaks off after {unpacked:,} bytes of text: {error}; fetch it again") from error


def _split(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    place, parts = 0, []
    for chunk in chunks:
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            line = b"".join((*parts, end)) if parts else end
            parts = []
            yield place, line
            place += len(line) + 1
        if rest:
            parts.append(rest)
    if parts:
        yield place, b"".join(parts)


class LeftOut:
    """Counts what is left out of a file; the first `NAMED` are named in warnings, the rest in one.

    Attributes
    ----------
    count : int
    first : str
        Where and why the first was left out.
    """

    def __init__(self, name: str):
        self.name, self.count, self.first = name, 0, ""

    def add(self, where: str, why: object) -> None:
        """One more."""
        self.count += 1
        self.first = self.first or f"{where}: {why}"
        if self.count <= NAMED:
            logger.warning("left out %s, %s: %s", self.name, where, why)

    def say(self) -> None:
        """How many there were, if not all were named."""
        if self.count > NAMED:
            logger.warning("left out %s: %d in all, of which %d are named above", self.name, self.count, NAMED)
