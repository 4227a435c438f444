"""Language models on texts: the activations of tokens, of spans of them, and of two models over the same segments."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from rosetta.matching.activations import side_by_side
from rosetta.matching.alignment import average_rows, special_prefix
from rosetta.matching.segments import Segment, Window
from rosetta.models.load import ModelRefused, ModelSpec, load_tokenizer
from rosetta.models.load import load as load_model
from rosetta.models.mlps import find_mlps


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

    def parts(self, windows: Sequence[Window]) -> Sequence[torch.Tensor]:
        """Activations on the tokens of each window, [tokens, neurons]."""
        acts, _ = self.read([window.ids for window in windows])
        return acts.split([len(window.ids) for window in windows])

    def beside(self, other: "Reader") -> "TextPair":
        """How this model and another one are read together."""
        return TextPair(self, other)

    def _collect(self, sequences: list[list[int]], reduce: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """What `reduce` makes of each layer's [sequences x tokens, neurons], side by side.

        Sequences are padded to one length, prefix included.
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
        ids = torch.from_numpy(padded).to(self.device)
        acts, _ = side_by_side(
            self.name,
            self.mlps,
            lambda: self.model(input_ids=ids, use_cache=False),
            lambda _, m: reduce(m.flatten(0, -2)),
        )
        return acts


class TextPair:
    """Two language models over segments of text: what one batch reads of both (`batches.AlignedBatches`).

    Attributes
    ----------
    many, remedy : str
        What is read, and what to do where memory does not hold even one: for messages.
    by : str
        How the pieces are ranked on which a pair fires most (`batches.strongest_pieces`).

    Raises
    ------
    ModelRefused
        If the second is no language model.
    """

    many = "sequences"
    by = "peak"
    remedy = "give a smaller context, or models and tables devices of their own"

    def __init__(self, a: Reader, b: Reader):
        if not isinstance(b, Reader):
            raise ModelRefused(f"{a.name} and {b.name} are no pair: {a.name} reads texts, {b.name} does not")
        self.a, self.b = a, b

    def read(self, segments: list[Segment]) -> tuple[torch.Tensor, torch.Tensor]:
        """Both models' activations over some segments, pooled to their canonical spans."""
        return (
            self.a.read_pooled([segment.ids_a for segment in segments], [segment.tokens_a for segment in segments]),
            self.b.read_pooled([segment.ids_b for segment in segments], [segment.tokens_b for segment in segments]),
        )

    def one(self, segment: Segment) -> str:
        """A piece in words."""
        return f"one sequence of {max(len(segment.ids_a), len(segment.ids_b))} tokens"

    def shape(self, segment: Segment) -> tuple[int]:
        """Of the positions of a piece."""
        return (len(segment.canonical),)
