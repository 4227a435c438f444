"""A generator's pictures, made once and kept: what encoders are shown, and what figures show.

They are class-balanced, and each has a seed of its own: a picture is the same whatever it is made with (4.1).
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from tqdm.auto import tqdm

from rosetta.matching.images import Generator, Wish
from rosetta.results import keep_file
from rosetta.sources.document import batched
from rosetta.sources.pictures import Picture

#: Pictures in a file.
PER_FILE = 1_000


def wishes(n: int, classes: int, seed: int) -> list[Wish]:
    """n pictures to ask of a generator: labels in turn, so that classes are balanced, and a seed for each picture.

    The seeds of one set are all different; the first ones are the same however many are wished for.
    """
    first = int(np.random.SeedSequence(seed).generate_state(1)[0])
    # 32 bits are what torch's generator on a CPU makes use of.
    return [Wish(index, index % classes, (first + index) % 2**32) for index in range(n)]


def kept_pictures(
    folder: Path,
    name: str,
    open_generator: Callable[[], Generator],
    wished: Sequence[Wish],
    parameters: dict,
    per_batch: int = 32,
) -> "Kept":
    """The pictures that a generator makes of some wishes: those that are not kept yet are made, and kept.

    Files of `PER_FILE` pictures are written whole: what is interrupted goes on with the file it was at.

    Parameters
    ----------
    folder : Path
        Of this generator's pictures alone.
    name : str
        Of the generator: ``source`` of its 17th picture is ``name#17``.
    open_generator : callable
        Called once, and only if there is something to make.
    wished : sequence of Wish
        From index 0 on, in order.
    parameters : dict
        All that the pictures depend on but the wishes and code (`results.keep`).
    per_batch : int
        Pictures made at a time.
    """
    opened, files = cache(open_generator), []
    for number, some in enumerate(batched(wished, PER_FILE)):
        digest = hashlib.sha256(json.dumps([[wish.label, wish.seed] for wish in some]).encode()).hexdigest()
        made_with = parameters | {"wishes": digest[:16], "per_batch": per_batch}

        def write(path: Path, some: list[Wish] = some) -> None:
            generator, progress = opened(), tqdm(some, f"{name} makes pictures", unit="picture", leave=False)
            pixels = np.concatenate([generator.pictures(batch) for batch in batched(progress, per_batch)])
            save_file({"pixels": pixels}, path)

        files.append(keep_file(Path(folder) / f"{number:05d}.safetensors", made_with, write))
    return Kept(name, files, wished)


class Kept(Sequence[Picture]):
    """Kept pictures in their order: one by its number, some of them by a slice, all by going through them.

    Memory holds those that are asked for, or one file's.

    Parameters
    ----------
    name : str
    files : list of Path
    wished : sequence of Wish
        Of the pictures that these are; the index of each says where it lies.
    """

    def __init__(self, name: str, files: list[Path], wished: Sequence[Wish]):
        self.name, self.files, self.wished = name, files, wished

    def __len__(self) -> int:
        return len(self.wished)

    def __getitem__(self, number):
        if isinstance(number, slice):
            return Kept(self.name, self.files, self.wished[number])
        return next(iter(Kept(self.name, self.files, [self.wished[number]])))

    def __iter__(self) -> Iterator[Picture]:
        opened, at = None, None
        for wish in self.wished:
            file, row = divmod(wish.index, PER_FILE)
            if file != at:
                opened, at = safe_open(self.files[file], framework="numpy").get_slice("pixels"), file
            yield Picture(opened[row : row + 1][0], f"{self.name}#{wish.index}", wish.label)
