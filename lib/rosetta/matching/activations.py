"""m_t of eq. 1: what enters each MLP's output projection, for every layer, position and neuron.

One mechanism for all architectures: a hook on each output projection that `find_mlps` finds reads its input.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch

from rosetta.matching.alignment import average_rows, special_prefix
from rosetta.matching.memory import out_of_memory
from rosetta.matching.segments import Segment, Window
from rosetta.models.load import ModelRefused, ModelSpec, load_tokenizer
from rosetta.models.load import load as load_model
from rosetta.models.mlps import Mlp, find_mlps
from rosetta.sources.document import batched

logger = logging.getLogger(__name__)


class BadActivations(ValueError):
    """NaN or infinity among the activations of a layer."""


#: What a forward pass holds at its peak beside the activations that are kept, in layers of them.
LAYERS_BESIDE = 8


def peak_bytes(tokens: int, layers: list[int], size: int) -> int:
    """Bytes of memory that reading a batch takes at its peak, the model itself aside; a bound, measured in benchmarks/reading.py.

    The activations that are kept, and `LAYERS_BESIDE` times the widest layer: what the model computes there, and what is
    pooled of it (six were seen, of each of four architectures). From six layers on that is at most 5 bytes per token and
    neuron in bfloat16.

    Parameters
    ----------
    tokens : int
    layers : list of int
        Neurons of each layer.
    size : int
        Bytes of a number in the model's precision.
    """
    return tokens * size * (sum(layers) + LAYERS_BESIDE * max(layers))


@contextmanager
def capture(
    mlps: list[Mlp], take: Callable[[int, torch.Tensor], None] | None = None
) -> Iterator[dict[str, torch.Tensor]]:
    """While open, a forward pass hands each MLP's m_t to ``take(layer, m_t)`` as it enters the output projection.

    Without `take`, all are kept in the dict that is given, by the MLP's path: every layer of a batch at once.
    """
    seen: dict[str, torch.Tensor] = {}

    def keep(layer: int, m: torch.Tensor) -> None:
        seen[mlps[layer].path] = m

    def hook_of(layer):
        def hook(_module, inputs):
            (take or keep)(layer, inputs[0])

        return hook

    handles = [mlp.projection.register_forward_pre_hook(hook_of(layer)) for layer, mlp in enumerate(mlps)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


class Reader:
    """A language model with its tokenizer, ready to give the activations of token sequences.

    Parameters
    ----------
    name : str
        For messages and tables.
    model : torch.nn.Module
    tokenizer : transformers.PreTrainedTokenizerBase

    Attributes
    ----------
    mlps : list of Mlp
    layers : list of int
        Neurons of each layer.
    context : int or inf
        Tokens that the model can read at a time, special tokens included.

    Raises
    ------
    ModelRefused
        If the tokenizer has tokens for which the model has no embedding.
    """

    def __init__(self, name: str, model: torch.nn.Module, tokenizer):
        self.name, self.tokenizer = name, tokenizer
        self.model = getattr(model, "base_model", model)  # no unembedding: its logits are not needed
        self.mlps = find_mlps(self.model)
        self.layers = [mlp.neurons for mlp in self.mlps]
        self.prefix = special_prefix(tokenizer)
        self.context = getattr(self.model.config, "max_position_embeddings", None) or math.inf
        self.device = next(model.parameters()).device
        largest = max(tokenizer.get_vocab().values(), default=0)
        embeddings = self.model.get_input_embeddings().num_embeddings
        if largest >= embeddings:
            raise ModelRefused(
                f"model {name}: its tokenizer has tokens up to number {largest}, the model embeddings for {embeddings}; "
                "they are not of one model"
            )

    @classmethod
    def open(cls, spec: ModelSpec, device: str = "cpu", dtype: torch.dtype = torch.float32) -> "Reader":
        """The reader of a trained model and its own tokenizer."""
        return cls(spec.name, load_model(spec, device, dtype), load_tokenizer(spec))

    def read(self, sequences: list[list[int]]) -> tuple[torch.Tensor, np.ndarray]:
        """Activations of all layers side by side, for the tokens of some sequences.

        Returns
        -------
        acts : [tokens, neurons]
            In the model's own precision, the sequences one after the other; special tokens are fed to the model and left
            out here.
        starts : int64 [sequences]
            The row at which each sequence starts.

        Raises
        ------
        BadActivations
            NaN or infinity: the model and the layer are named.
        ValueError
            If a sequence is longer than the model's context.
        """
        lengths = np.array([len(ids) for ids in sequences])
        real = np.arange(lengths.max()) < lengths[:, None]
        rows = torch.from_numpy(np.flatnonzero(np.pad(real, ((0, 0), (len(self.prefix), 0)))))
        return self._collect(sequences, lambda m: m[rows.to(m.device)]), np.cumsum(lengths) - lengths

    def read_pooled(self, sequences: list[list[int]], spans: list[tuple[np.ndarray, np.ndarray]]) -> torch.Tensor:
        """Activations of all layers side by side, averaged over ranges of the tokens of some sequences.

        Each layer is pooled as soon as it is there, with means in float32, and only what is pooled is kept.

        Parameters
        ----------
        sequences : list of list of int
        spans : list of (int64 [spans], int64 [spans])
            For each sequence, the first token of each range and the one after its last.

        Returns
        -------
        [spans, neurons]
            In the model's own precision, the sequences one after the other.

        Raises
        ------
        BadActivations, ValueError
            As `read`.
        """
        skip, longest = len(self.prefix), max(map(len, sequences))
        starts = skip + (skip + longest) * np.arange(len(sequences))
        first, last = (
            np.concatenate([ranges[side] + start for ranges, start in zip(spans, starts, strict=True)])
            for side in (0, 1)
        )
        return self._collect(sequences, lambda m: average_rows(m, first, last))

    def _collect(self, sequences: list[list[int]], reduce: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """What `reduce` makes of each layer's [sequences x tokens, neurons], side by side.

        Sequences are padded to one length, prefix included. No more than one layer is held beside the result.
        """
        lengths = np.array([len(ids) for ids in sequences])
        skip, width = len(self.prefix), len(self.prefix) + int(lengths.max())
        if width > self.context:
            raise ValueError(
                f"{self.name} reads at most {self.context} tokens at a time, not {width}; give a smaller context"
            )
        # Padding comes after the text and these models look back only, so it cannot change what is kept.
        padded = np.zeros((len(sequences), width), dtype=np.int64)
        padded[:, :skip] = self.prefix
        padded[:, skip:][np.arange(width - skip) < lengths[:, None]] = np.concatenate(sequences)
        ends, acts = np.cumsum(self.layers), None

        def take(layer: int, m: torch.Tensor) -> None:
            nonlocal acts
            part = reduce(m.flatten(0, -2))
            if acts is None:
                acts = torch.empty(len(part), ends[-1], dtype=m.dtype, device=self.device)
            acts[:, ends[layer] - self.layers[layer] : ends[layer]] = part

        with capture(self.mlps, take), torch.inference_mode():
            self.model(input_ids=torch.from_numpy(padded).to(self.device), use_cache=False)
        self._check(acts)
        return acts

    def _check(self, acts: torch.Tensor) -> None:
        if torch.isfinite(acts.sum()):
            return
        for layer, part in enumerate(acts.split(self.layers, dim=1)):
            if not torch.isfinite(part).all():
                path = self.mlps[layer].path
                raise BadActivations(f"{self.name}, layer {layer}: NaN or infinity among the activations of {path}")


def read_windows(
    reader: Reader, windows: Iterable[Window], sequences_per_batch: int = 32
) -> Iterator[tuple[Window, torch.Tensor]]:
    """Each window with one model's activations on its tokens, [tokens, neurons]; memory holds one batch."""
    for batch in batched(windows, sequences_per_batch):
        acts, _ = reader.read([window.ids for window in batch])
        yield from zip(batch, acts.split([len(window.ids) for window in batch]), strict=True)


class AlignedBatches:
    """Two models' activations at the same positions, in batches; may be gone through any number of times.

    Each batch is a pair (A [positions, neurons of A], B [positions, neurons of B]), each on its model's device and in its
    model's own precision; memory does not grow with the number of tokens. Where a device runs out of memory, fewer
    sequences are read at a time, and a warning says so.

    Parameters
    ----------
    a, b : Reader
    pieces : iterable of Segment
        What `segments.segments` gives; a list, or anything else that can be gone through again.
    sequences_per_batch : int

    Attributes
    ----------
    layers : (list of int, list of int)
        Neurons of each layer of A and B.

    Raises
    ------
    MemoryError
        While they are gone through, if not even one sequence fits.
    """

    def __init__(self, a: Reader, b: Reader, pieces: Iterable[Segment], sequences_per_batch: int = 32):
        self.a, self.b, self.pieces, self.sequences_per_batch = a, b, pieces, sequences_per_batch
        self.names, self.layers = (a.name, b.name), (a.layers, b.layers)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return (batch for _, batch in self.with_segments())

    def with_segments(self) -> Iterator[tuple[list[Segment], tuple[torch.Tensor, torch.Tensor]]]:
        """Each batch with the segments that it was read from."""
        for segments in batched(self.pieces, self.sequences_per_batch):
            yield from self._parts(segments)

    @property
    def flop(self) -> float:
        """Of reading a position with both models, roughly: twice their parameters."""
        return 2.0 * sum(p.numel() for reader in (self.a, self.b) for p in reader.model.parameters())

    def held(self) -> "HeldBatches":
        """The same batches, read once and kept in memory, for work that goes through them several times."""
        segments, batches = zip(*self.with_segments(), strict=True)
        return HeldBatches(batches, self.names, self.layers, segments)

    def aligned(self, batch: list[Segment]) -> tuple[torch.Tensor, torch.Tensor]:
        """Both models' activations over some segments, pooled to their canonical spans."""
        sides = zip(*(read for _, read in self._parts(batch)), strict=True)
        return tuple(parts[0] if len(parts) == 1 else torch.cat(parts) for parts in sides)

    def _parts(self, segments: list[Segment]) -> Iterator[tuple[list[Segment], tuple[torch.Tensor, torch.Tensor]]]:
        """Some segments and what is read of them: together, or fewer at a time where memory does not hold that."""
        while segments:
            part = segments[: self.sequences_per_batch]
            read = self._read(part)
            if read is not None:
                yield part, read
                segments = segments[len(part) :]

    def _read(self, batch: list[Segment]) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Both models' activations; None where memory ran out, and from then on half as many are read at a time."""
        try:
            return (
                self.a.read_pooled([segment.ids_a for segment in batch], [segment.tokens_a for segment in batch]),
                self.b.read_pooled([segment.ids_b for segment in batch], [segment.tokens_b for segment in batch]),
            )
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(batch) == 1:
                tokens = max(len(batch[0].ids_a), len(batch[0].ids_b))
                raise MemoryError(
                    f"one sequence of {tokens} tokens does not fit what memory {self.a.name} on {self.a.device} and "
                    f"{self.b.name} on {self.b.device} have; give a smaller context, or models and tables devices of their own"
                ) from error
        # Not while the error is at hand, which holds on to what was read so far.
        self.sequences_per_batch = len(batch) // 2
        said = "out of memory: %s and %s read %d sequences at a time from here on, not %d"
        logger.warning(said, *self.names, self.sequences_per_batch, len(batch))
        return None


class HeldBatches(list):
    """Batches in memory, with the names and layers of the models and the segments that they were read from."""

    def __init__(
        self,
        batches: Iterable,
        names: tuple[str, str],
        layers: tuple[list[int], list[int]],
        segments: Sequence[list[Segment]] = (),
    ):
        super().__init__(batches)
        self.names, self.layers, self.segments = names, layers, segments

    def with_segments(self) -> Iterator[tuple[list[Segment], tuple[torch.Tensor, torch.Tensor]]]:
        """As `AlignedBatches` gives them."""
        return zip(self.segments, self, strict=True)


class Example(NamedTuple):
    """A segment on which a pair of neurons fires, with both neurons' activations on its canonical spans."""

    score: float
    segment: Segment
    a: np.ndarray
    b: np.ndarray


def strongest_segments(
    batches: AlignedBatches | HeldBatches, pairs: list[tuple[int, int]], n: int = 3
) -> list[list[Example]]:
    """For each pair of neurons the n segments on which both fire most: by the product of the two peaks.

    Parameters
    ----------
    batches : AlignedBatches or HeldBatches
    pairs : list of (int, int)
        Neurons of A and of B, numbered through all layers.
    n : int

    Returns
    -------
    list of lists of Example
        Strongest first.
    """
    best: list[list[Example]] = [[] for _ in pairs]
    columns_a, columns_b = (list(column) for column in zip(*pairs, strict=True))
    for batch, (a, b) in batches.with_segments():
        sizes = [len(segment.canonical) for segment in batch]
        parts_a, parts_b = (x.float().cpu().split(sizes) for x in (a[:, columns_a], b[:, columns_b]))
        for segment, part_a, part_b in zip(batch, parts_a, parts_b, strict=True):
            scores = (part_a.amax(0).clamp(min=0) * part_b.amax(0).clamp(min=0)).tolist()
            for i, score in enumerate(scores):
                if len(best[i]) < n or score > best[i][-1].score:
                    best[i].append(Example(score, segment, part_a[:, i].numpy(), part_b[:, i].numpy()))
                    best[i] = sorted(best[i], key=lambda example: -example.score)[:n]
    return best
