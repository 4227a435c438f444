"""Two models' activations at the same positions, read in batches: of texts or images, of any two readers (Appendix B)."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from rosetta.matching.memory import out_of_memory
from rosetta.sources.document import batched

logger = logging.getLogger(__name__)

#: Activations of A and of B: [positions, neurons of A], [positions, neurons of B].
Both = tuple[torch.Tensor, torch.Tensor]


class AlignedBatches:
    """Two models' activations at the same positions, in batches; may be gone through any number of times.

    Each batch is a pair (A [positions, neurons of A], B [positions, neurons of B]), each on its model's device and in its
    model's own precision; memory does not grow with the number of pieces. Where a device runs out of memory, fewer
    pieces are read at a time, and a warning says so. What a batch reads is asked of the pair: ``a.beside(b)``.

    Parameters
    ----------
    a, b : texts.Reader, images.ImageReader or images.Generator
        Both of one modality; a generator comes first.
    pieces : iterable
        What the two read: what `segments.segments` gives, pictures, or a generator's wishes; a list, or anything else that
        can be gone through again.
    per_batch : int
        Pieces read at a time.
    **how
        Of the pair; images know the rule of the canonical ``grid``, and what is ``shown``.

    Attributes
    ----------
    layers : (list of int, list of int)
        Neurons of each layer of A and B.

    Raises
    ------
    ModelRefused
        If the two do not go together.
    MemoryError
        While they are gone through, if not even one piece fits.
    """

    def __init__(self, a, b, pieces: Iterable, per_batch: int = 32, **how):
        self.a, self.b, self.pieces, self.per_batch = a, b, pieces, per_batch
        self.together = a.beside(b, **how)
        self.names, self.layers = (a.name, b.name), (a.layers, b.layers)

    def __iter__(self) -> Iterator[Both]:
        return (batch for _, batch in self.with_pieces())

    def with_pieces(self) -> Iterator[tuple[list, Both]]:
        """Each batch with the pieces that it was read from."""
        for pieces in batched(self.pieces, self.per_batch):
            yield from self._parts(pieces)

    @property
    def flop(self) -> float:
        """Of reading a position with both models, roughly: twice their parameters."""
        return 2.0 * sum(p.numel() for reader in (self.a, self.b) for p in reader.model.parameters())

    def held(self) -> "HeldBatches":
        """The same batches, read once and kept in memory, for work that goes through them several times."""
        pieces, batches = zip(*self.with_pieces(), strict=True)
        return HeldBatches(batches, self.names, self.layers, pieces, self.together)

    def aligned(self, pieces: list) -> Both:
        """Both models' activations over some pieces."""
        sides = zip(*(read for _, read in self._parts(pieces)), strict=True)
        return tuple(parts[0] if len(parts) == 1 else torch.cat(parts) for parts in sides)

    def _parts(self, pieces: list) -> Iterator[tuple[list, Both]]:
        """Some pieces and what is read of them: together, or fewer at a time where memory does not hold that."""
        while pieces:
            part = pieces[: self.per_batch]
            read = self._read(part)
            if read is not None:
                yield part, read
                pieces = pieces[len(part) :]

    def _read(self, batch: list) -> Both | None:
        """Both models' activations; None where memory ran out, and from then on half as many are read at a time."""
        try:
            return self.together.read(batch)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(batch) == 1:
                raise MemoryError(
                    f"{self.together.one(batch[0])} does not fit what memory {self.a.name} on {self.a.device} and "
                    f"{self.b.name} on {self.b.device} have; {self.together.remedy}"
                ) from error
        # Not while the error is at hand, which holds on to what was read so far.
        self.per_batch = len(batch) // 2
        said = "out of memory: %s and %s read %d %s at a time from here on, not %d"
        logger.warning(said, *self.names, self.per_batch, self.together.many, len(batch))
        return None


class HeldBatches(list):
    """Batches in memory, with the names and layers of the models and the pieces that they were read from, and how."""

    def __init__(
        self,
        batches: Iterable[Both],
        names: tuple[str, str],
        layers: tuple[list[int], list[int]],
        pieces: Sequence[list] = (),
        together=None,
    ):
        super().__init__(batches)
        self.names, self.layers, self.pieces, self.together = names, layers, pieces, together

    def with_pieces(self) -> Iterator[tuple[list, Both]]:
        """As `AlignedBatches` gives them."""
        return zip(self.pieces, self, strict=True)


# ---------------------------------------------------------------------------------------------------------------------
# What a pair of neurons fires on


class Example(NamedTuple):
    """A piece on which a pair of neurons fires, with both neurons' activations there.

    Of a text ``a`` and ``b`` are [canonical spans], of an image [H, W], the cells of the canonical grid; float32.
    """

    score: float
    piece: Any
    a: np.ndarray
    b: np.ndarray


#: How high a neuron is on a piece, [positions, neurons] -> [neurons].
HEIGHTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "peak": lambda acts: acts.amax(0),
    "mean": lambda acts: acts.mean(0),
}


def strongest_pieces(
    batches: AlignedBatches | HeldBatches, pairs: Sequence[tuple[int, int]], n: int = 3, by: str | None = None
) -> list[list[Example]]:
    """For each pair of neurons the n pieces on which both fire most: by the product of how high they are there.

    Where one of the two is not above 0, the lower one counts.

    Parameters
    ----------
    batches : AlignedBatches or HeldBatches
    pairs : sequence of (int, int)
        Neurons of A and of B, numbered through all layers.
    n : int
    by : {"peak", "mean"}, optional
        How high a neuron is on a piece: its highest activation, or its mean over all positions. By default the peak for
        texts, and the mean for images (H.1).

    Returns
    -------
    list of lists of Example
        Strongest first; of equal ones the earlier.
    """
    height, shape = HEIGHTS[by or batches.together.by], batches.together.shape
    best: list[list[Example]] = [[] for _ in pairs]
    columns_a, columns_b = (list(column) for column in zip(*pairs, strict=True))
    for batch, (a, b) in batches.with_pieces():
        sizes = [math.prod(shape(piece)) for piece in batch]
        parts_a, parts_b = (x.float().cpu().split(sizes) for x in (a[:, columns_a], b[:, columns_b]))
        for piece, part_a, part_b in zip(batch, parts_a, parts_b, strict=True):
            for i, score in enumerate(_both(height(part_a), height(part_b)).tolist()):
                if len(best[i]) < n or score > best[i][-1].score:
                    maps = (part[:, i].reshape(shape(piece)).numpy() for part in (part_a, part_b))
                    best[i].append(Example(score, piece, *maps))
                    best[i] = sorted(best[i], key=lambda example: -example.score)[:n]
    return best


def _both(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    lower = torch.minimum(x, y)
    return torch.where(lower > 0, x * y, lower)
