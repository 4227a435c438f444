"""What a profile's models are, and what they are shown: its text, cut for their tokenizers, or images.

An encoder of images beside a generator is shown what that makes, from seeded wishes; two encoders are shown real images.
"""

import logging
import zlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from rosetta.matching.batches import AlignedBatches, HeldBatches
from rosetta.matching.generated import Kept, kept_pictures, wishes
from rosetta.matching.images import Generator, ImageReader
from rosetta.matching.segments import Segment, Window, segments, windows
from rosetta.matching.texts import Reader
from rosetta.models.load import ROOT, ModelSpec, fingerprint, load_tokenizer, load_untrained
from rosetta.models.load import load as load_model
from rosetta.models.vision import Vision, open_vision
from rosetta.profiles.profile import Profile, ProfileError
from rosetta.profiles.profile import load as load_profile
from rosetta.sources import pictures, sampling, scenes, text
from rosetta.sources.document import Document, excerpt
from rosetta.studies import noticed
from rosetta.studies.amounts import (
    BATCH_SHARE,
    asked_per_batch,
    batch_bytes,
    canonical_positions,
    pictures_kept,
    pieces_that_fit,
    positions_per_piece,
)
from rosetta.studies.budget import Budgeted
from rosetta.studies.pinned import pinned

logger = logging.getLogger(__name__)


class Shown:
    """A profile's models and what they are shown; `Study` adds what is found by it.

    Parameters
    ----------
    profile : str or Profile
        A profile's name, the path of one, or one already read.
    results : str or Path
        Relative to the kit, or absolute.

    Attributes
    ----------
    profile : Profile
    folder : Path
        ``results/<profile>``.
    device : str
        Where tables are made, and models are that have no device of their own.

    Raises
    ------
    ProfileError
        If a device that the profile names is not there.
    """

    def __init__(self, profile: str | Profile = "micro", results: str | Path = "results"):
        self.profile = profile if isinstance(profile, Profile) else load_profile(profile)
        self.results = ROOT / results
        self.folder = self.results / self.profile.name
        self.device = _there(self.profile, "device", self.profile.device)
        for name in self.profile.models:
            self.device_of(name)
        self._listed: dict[tuple, Iterable] = {}  # what was asked for last
        self._trained: dict[tuple, AlignedBatches | HeldBatches] = {}  # the same of what was read

    # -----------------------------------------------------------------------------------------------------------------
    # Models

    def device_of(self, name: str) -> str:
        """Where a model is loaded: its own device, or else the profile's; `SPREAD` for all GPUs together."""
        own = self.profile.models[name].device
        return _there(self.profile, f"models.{name}.device", own) if own else self.device

    def spec(self, name: str) -> ModelSpec:
        """What a model of the profile is; of the hub, at the commit that this run has opened (`pinned`)."""
        return pinned(self.profile.models[name], self.folder)

    def tokenizer(self, name: str) -> PreTrainedTokenizerBase:
        """A language model's own tokenizer."""
        return load_tokenizer(self.spec(name))

    def model(self, name: str, untrained_seed: int | None = None) -> torch.nn.Module:
        """A language model of the profile, trained or as an untrained network, in its precision and where it says."""
        spec, where = self.spec(name), (self.device_of(name), self.dtype)
        if untrained_seed is None:
            return load_model(spec, *where)
        return load_untrained(spec, _of_family(name, untrained_seed), *where)

    def vision(self, name: str, untrained_seed: int | None = None) -> Vision:
        """The same of a model of images, trained or as an untrained network."""
        seed = None if untrained_seed is None else _of_family(name, untrained_seed)
        return open_vision(self.spec(name), self.device_of(name), self.dtype, seed)

    @property
    def dtype(self) -> torch.dtype:
        """The profile's precision."""
        return getattr(torch, self.profile.dtype)

    def reader(self, name: str, untrained_seed: int | None = None) -> Reader | ImageReader | Generator:
        """A model of the profile, trained or as an untrained network, ready to be read."""
        spec = self.spec(name)
        if spec.modality == "images":
            reader = (Generator if spec.generates else ImageReader)(name, self.vision(name, untrained_seed))
            if reader.grid != (spec.grid, spec.grid):
                raise ValueError(
                    f"profile {self.profile.name}: {name} is said to have a grid of {spec.grid} x {spec.grid} cells; the "
                    f"model has {reader.grid[0]} x {reader.grid[1]}"
                )
            if spec.generates and reader.classes != spec.classes:
                raise ValueError(
                    f"profile {self.profile.name}: {name} is said to have {spec.classes} classes; the model has {reader.classes}"
                )
        else:
            reader = Reader(name, self.model(name, untrained_seed), self.tokenizer(name))
        if sum(reader.layers) != spec.neurons or len(reader.layers) != spec.layers:
            raise ValueError(
                f"profile {self.profile.name}: {name} is said to have {spec.layers} layers of {spec.mlp_width} neurons; "
                f"the model has {len(reader.layers)} of {reader.layers[0]}"
            )
        return reader

    # -----------------------------------------------------------------------------------------------------------------
    # Two models together

    def amount(self, pair: tuple[str, str]) -> int:
        """What two models are shown: so many tokens of the first, or so many images."""
        return self.profile.tokens if self.profile.modality(pair) == "text" else self.profile.images.count

    def permuted_amount(self, pair: tuple[str, str]) -> int | None:
        """The same for the permuted null; None for all."""
        profile = self.profile
        return profile.nulls.permuted_tokens if profile.modality(pair) == "text" else profile.images.permuted

    def positions(self, pair: tuple[str, str], amount: int | None = None) -> int:
        """How many positions they are compared over: of text at most so many, a token each; of images so many cells."""
        each = 1 if self.profile.modality(pair) == "text" else self.cells(pair)
        return each * (amount or self.amount(pair))

    def cells(self, pair: tuple[str, str]) -> int:
        """Cells of the canonical grid of two models of images."""
        return canonical_positions(self.profile, pair)

    def batches(
        self,
        pair: tuple[str, str],
        amount: int | None = None,
        untrained_seed: int | None = None,
        second: ImageReader | None = None,
    ) -> AlignedBatches:
        """Aligned batches of two models over the profile's text or images, up to an amount of it.

        An encoder sees the kept pictures of a trained generator; an untrained one what the untrained generator makes, or
        the same, as the profile says. `second` is read in place of the second model.
        """
        a, b = self.reader(pair[0], untrained_seed), second or self.reader(pair[1], untrained_seed)
        how = {}
        if self.profile.modality(pair) == "images":
            how = {"grid": self.profile.images.grid}
            if isinstance(a, Generator) and (untrained_seed is None or self.profile.images.untrained == "trained"):
                how["shown"] = self.made_by(
                    a.name, amount or self.amount(pair), (lambda: a) if untrained_seed is None else None
                )
        return AlignedBatches(a, b, self.pieces(pair, amount), self.per_batch(pair), **how)

    def pieces(self, pair: tuple[str, str], amount: int | None = None) -> Iterable:
        """What two models are shown: segments of the profile's text, a generator's wishes, or real images."""
        key = (*pair, amount or self.amount(pair))
        if key not in self._listed:
            self._listed = {
                key: self._text(pair, key[-1]) if self.profile.modality(pair) == "text" else self._images(pair, key[-1])
            }
        return self._listed[key]

    def trained(self, pair: tuple[str, str], amount: int | None = None) -> AlignedBatches | HeldBatches:
        """The `batches` of two trained models: read once, and kept for what follows, where ``memory_gb`` holds them."""
        key = (*pair, amount or self.amount(pair))
        if key not in self._trained:
            self._trained = {}  # room for these
            batches = self.batches(pair, amount)
            self._trained = {key: batches.held() if self._held(batches, key[-1]) else batches}
        return self._trained[key]

    def untrained(self, pair: tuple[str, str], seed: int) -> AlignedBatches | HeldBatches:
        """The same of two untrained models; what is held of the trained makes room for it."""
        self._trained = {}
        batches = self.batches(pair, None, seed)
        return batches.held() if self._held(batches, self.amount(pair)) else batches

    def _held(self, batches: AlignedBatches, amount: int) -> bool:
        size = self.dtype.itemsize * self.positions(batches.names, amount) * sum(map(sum, batches.layers))
        return size <= self.profile.memory_gb * 2**30

    def per_batch(self, names: Iterable[str]) -> int:
        """How many sequences or images some models read at a time: as many as the profile says, or as `BATCH_SHARE` of its
        memory holds.

        It is reckoned for full contexts (`activations.peak_bytes`), and that it is cut is said once in a warning.

        Raises
        ------
        ProfileError
            If not even one fits.
        """
        profile, names = self.profile, list(names)
        fit, asked = pieces_that_fit(profile, names), asked_per_batch(profile, names)
        text = profile.modality(names) == "text"
        has = f"{profile.path}: memory_gb is {profile.memory_gb:g}, and {BATCH_SHARE:.0%} of it are for a batch"
        if fit < 1:
            one = sum(batch_bytes(profile, name, positions_per_piece(profile, names)) for name in names)
            piece = f"one sequence of {profile.context} tokens" if text else "one image"
            raise ProfileError(
                f"{has}; {piece} takes {one / 2**30:.3g} GB of {' and '.join(names)}: give more memory or "
                f"{'a smaller context' if text else 'smaller models'}"
            )
        if fit < asked:
            many = "sequences" if text else "images"
            _say(f"{has}: {' and '.join(names)} read {fit} {many} at a time, not {asked}")
        return min(fit, asked)

    # -----------------------------------------------------------------------------------------------------------------
    # Text

    def documents(self, sample: int | None = None) -> Iterator[Document]:
        """The profile's documents, or a random excerpt of each, in its seeded order; or sequences sampled from all of them.

        With `sample` another sample: one number gives one, whatever the profile reads besides.
        """
        profile, keep_in = self.profile, self.results / "corpus"
        seed = profile.seed if sample is None else zlib.crc32(f"{profile.seed}-{sample}".encode())
        if profile.corpus["kind"] == "environment":
            noticed.other_environment(profile.corpus.get("split", "heldout"), keep_in)
        if profile.sampling == "iid":
            yield from sampling.sequences(
                profile.corpus, seed, profile.excerpt_characters, keep_in, profile.short_documents
            )
            return
        for document in text.documents(profile.corpus, seed, keep_in):
            yield excerpt(document, profile.excerpt_characters, seed)

    def separate(self, pair: tuple[str, str], tokens: int) -> Iterable:
        """Text for two models up to a number of tokens, a sample of its own: that of this number (Figure 33)."""
        return self._text(pair, tokens, sample=tokens)

    def _text(self, pair: tuple[str, str], tokens: int, sample: int | None = None) -> Budgeted:
        tokenizers = [self.tokenizer(name) for name in pair]
        context, per_document = self.profile.context, self.profile.segments_per_document

        def stream() -> Iterator[Segment]:
            return segments(self.documents(sample), *tokenizers, context, per_document)

        return Budgeted(stream, tokens, lambda segment: len(segment.ids_a), self._exact)

    def windows(self, tokenizer) -> Budgeted:
        """The text in which top-activating contexts are sought (E.2), as one model reads it.

        Of a sample, each sequence is a document: one that was drawn twice gives two.
        """
        # The models of a family have one tokenizer, each its own copy.
        backend = getattr(tokenizer, "backend_tokenizer", None)
        key = (backend.to_str() if backend else tokenizer,)
        if key not in self._listed:
            context, per_document = self.profile.context, self.profile.segments_per_document

            def stream() -> Iterator[Window]:
                return windows(self.documents(), tokenizer, context, per_document)

            tokens = self.profile.contexts.tokens
            self._listed = {key: Budgeted(stream, tokens, lambda window: len(window.ids), self._exact)}
        return self._listed[key]

    @property
    def _exact(self) -> bool:
        return self.profile.sampling == "iid"

    # -----------------------------------------------------------------------------------------------------------------
    # Images

    def _images(self, pair: tuple[str, str], count: int) -> Iterable:
        generator = self.profile.models[pair[0]]
        return self.wishes(generator, count) if generator.generates else self.real(count)

    def wishes(self, generator: ModelSpec, count: int) -> list:
        """The first so many pictures that a generator is asked for."""
        return wishes(count, generator.classes, self.profile.images.seed)

    def made_by(self, name: str, count: int, opened=None) -> Kept:
        """The first so many pictures of a trained generator, made once and kept."""
        spec, images = self.profile.models[name], self.profile.images
        parameters = {"model": fingerprint(spec), "dtype": self.profile.dtype}
        folder = self.folder / "images" / name
        most = max(count, pictures_kept(self.profile))
        kept = kept_pictures(
            folder,
            name,
            opened or (lambda: self.reader(name)),
            self.wishes(spec, most),
            parameters,
            images.images_per_batch,
        )
        return kept[:count]

    def seen_by(self, pair: tuple[str, str]) -> Iterable:
        """The pictures that the second model of a pair is shown."""
        generates, count = self.profile.models[pair[0]].generates, self.amount(pair)
        return self.made_by(pair[0], count) if generates else self.real(count)

    def real(self, count: int) -> Iterable:
        """The first so many real images: held-out scenes, or those of a folder."""
        return pictures.First(count, self.real_images())

    def real_images(self) -> Iterable:
        """All of the profile's real images; ProfileError if their folder is not there."""
        real = self.profile.images.real
        if real["kind"] == "scenes":
            noticed.other_scenes()
            return scenes.Row(real.get("seed", 0))
        imagenet = real.get("imagenet", False)
        if not Path(real["path"]).is_dir():
            put = "image files"
            if imagenet:
                put = "ImageNet's images, a folder for each class or the validation set's files ILSVRC2012_val_*, or a link to them"
            raise ProfileError(
                f"{self.profile.path}: images.real.path is {real['path']}, which is no folder; put {put}, there"
            )
        return pictures.from_imagenet(real["path"]) if imagenet else pictures.from_folder(real["path"])

    # -----------------------------------------------------------------------------------------------------------------

    def parameters(self, names: Iterable[str]) -> dict:
        """All that the activations of some models depend on, but for code."""
        names = list(names)
        models = {name: fingerprint(self.profile.models[name]) for name in names}
        of_modality = self._of_text if self.profile.modality(names) == "text" else self._of_images
        return {"models": models, "dtype": self.profile.dtype} | of_modality(names)

    def _of_text(self, names: list[str]) -> dict:
        same_names = (
            "tokens", "context", "sampling", "short_documents", "excerpt_characters", "segments_per_document", "seed",
        )  # fmt: skip
        return {
            "corpus": text.state(self.profile.corpus), **{key: getattr(self.profile, key) for key in same_names},
            "sequences_per_batch": self.per_batch(names),
        }  # fmt: skip

    def _of_images(self, names: list[str]) -> dict:
        images = self.profile.images
        if self.profile.models[names[0]].generates:
            shown = {"generated": images.seed}
        else:
            scenic = images.real["kind"] == "scenes"
            shown = {"real": images.real | {"digest": scenes.digest() if scenic else self.real_images().digest()}}
        same_names = ("count", "grid", "untrained")
        return shown | {key: getattr(images, key) for key in same_names} | {"images_per_batch": self.per_batch(names)}


def _of_family(name: str, seed: int) -> int:
    """A model's own seed: the same one must not give two families the same numbers."""
    return zlib.crc32(f"{name}-{seed}".encode())


def _there(profile: Profile, key: str, device: str) -> str:
    """A device by its name in torch; ProfileError if this machine has none such."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    kind, _, number = name.partition(":")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ProfileError(f"{profile.path}: {key} is {device!r}, but there are {torch.cuda.device_count()} GPUs here")
    return name


@cache
def _say(warning: str) -> None:
    """Warn, once."""
    logger.warning(warning)
