"""What the notebooks ask for: a profile's matches, nulls, counts and sweeps, computed once and kept.

Everything is kept under ``results/<profile>``: MatchTables in ``matches``, small tables in ``tables``. What is there
already and was made with the same models, text and numbers is read; the rest is computed, with a progress bar.
"""

import json
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from rosetta.matching import nulls
from rosetta.matching.activations import peak_bytes
from rosetta.matching.batches import AlignedBatches, Example, HeldBatches, strongest_pieces
from rosetta.matching.mutual import match_batches, match_thinned, top_k
from rosetta.matching.positions import thinning
from rosetta.matching.segments import Segment, Window, segments, windows
from rosetta.matching.texts import Reader
from rosetta.models.load import ROOT, fingerprint, load_tokenizer, load_untrained
from rosetta.models.load import load as load_model
from rosetta.profiles.profile import Profile, ProfileError
from rosetta.profiles.profile import load as load_profile
from rosetta.results import keep, made_by, why_stale
from rosetta.sources import environment, text
from rosetta.sources.document import Document, excerpt
from rosetta.studies.budget import Budgeted

logger = logging.getLogger(__name__)

#: Of a profile's ``memory_gb``, what a batch of both models may take while it is read; the rest is for tables.
BATCH_SHARE = 0.5


class Study:
    """A profile and the folder in which its results are kept.

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
        self._listed: dict[tuple, Budgeted] = {}  # the text that was asked for last
        self._trained: dict[tuple, AlignedBatches | HeldBatches] = {}  # the same of what was read

    # -----------------------------------------------------------------------------------------------------------------
    # Text and models

    def documents(self) -> Iterator[Document]:
        """The profile's documents, or a random excerpt of each, in the profile's seeded order."""
        profile = self.profile
        if profile.corpus["kind"] == "environment":
            _notice_other_environment(profile.corpus.get("split", "heldout"), self.results / "corpus")
        for document in text.documents(profile.corpus, profile.seed, self.results / "corpus"):
            yield excerpt(document, profile.excerpt_characters, profile.seed)

    def device_of(self, name: str) -> str:
        """Where a model is loaded: its own device, or else the profile's; `SPREAD` for all GPUs together."""
        own = self.profile.models[name].device
        return _there(self.profile, f"models.{name}.device", own) if own else self.device

    def model(self, name: str) -> torch.nn.Module:
        """A trained model of the profile, in its precision and where it says."""
        return load_model(self.profile.models[name], self.device_of(name), getattr(torch, self.profile.dtype))

    def reader(self, name: str, untrained_seed: int | None = None) -> Reader:
        """A model of the profile, trained or as an untrained network, with its tokenizer."""
        spec, dtype = self.profile.models[name], getattr(torch, self.profile.dtype)
        if untrained_seed is None:
            model = self.model(name)
        else:  # the same seed must not give two families the same numbers
            seed = zlib.crc32(f"{name}-{untrained_seed}".encode())
            model = load_untrained(spec, seed, self.device_of(name), dtype)
        reader = Reader(name, model, load_tokenizer(spec))
        if sum(reader.layers) != spec.neurons or len(reader.layers) != spec.layers:
            raise ValueError(
                f"profile {self.profile.name}: {name} is said to have {spec.layers} layers of {spec.mlp_width} neurons; "
                f"the model has {len(reader.layers)} of {reader.layers[0]}"
            )
        return reader

    def batches(
        self, pair: tuple[str, str], tokens: int | None = None, untrained_seed: int | None = None
    ) -> AlignedBatches:
        """Aligned batches of two models over the profile's text, up to a number of tokens of the first."""
        a, b = (self.reader(name, untrained_seed) for name in pair)
        return AlignedBatches(a, b, self.pieces(pair, tokens), self.sequences_per_batch(pair))

    def pieces(self, pair: tuple[str, str], tokens: int | None = None) -> "Budgeted":
        """The profile's text as two models read it together, up to a number of tokens of the first."""
        key = (*pair, tokens or self.profile.tokens)
        if key not in self._listed:
            tokenizers = [load_tokenizer(self.profile.models[name]) for name in pair]
            context, per_document = self.profile.context, self.profile.segments_per_document

            def stream() -> Iterator[Segment]:
                return segments(self.documents(), *tokenizers, context, per_document)

            self._listed = {key: Budgeted(stream, key[-1], lambda segment: len(segment.ids_a))}
        return self._listed[key]

    def trained(self, pair: tuple[str, str], tokens: int | None = None) -> AlignedBatches | HeldBatches:
        """The `batches` of two trained models: read once, and kept for what follows, where ``memory_gb`` holds them."""
        key = (*pair, tokens or self.profile.tokens)
        if key not in self._trained:
            self._trained = {}  # room for these
            batches = self.batches(pair, tokens)
            self._trained = {key: batches.held() if self._held(batches, key[-1]) else batches}
        return self._trained[key]

    def _untrained(self, pair: tuple[str, str], seed: int) -> AlignedBatches | HeldBatches:
        """The same of two untrained models; what is held of the trained makes room for it."""
        self._trained = {}
        batches = self.batches(pair, None, seed)
        return batches.held() if self._held(batches, self.profile.tokens) else batches

    def _held(self, batches: AlignedBatches, tokens: int) -> bool:
        size = getattr(torch, self.profile.dtype).itemsize * tokens * sum(map(sum, batches.layers))
        return size <= self.profile.memory_gb * 2**30

    def sequences_per_batch(self, names: Iterable[str]) -> int:
        """How many sequences some models read at a time: as many as the profile says, or as `BATCH_SHARE` of its memory holds.

        It is reckoned for full contexts (`activations.peak_bytes`), and that it is cut is said once in a warning.

        Raises
        ------
        ProfileError
            If not even one sequence fits.
        """
        profile, names = self.profile, list(names)
        fit = sequences_that_fit(profile, names)
        has = f"{profile.path}: memory_gb is {profile.memory_gb:g}, and {BATCH_SHARE:.0%} of it are for a batch"
        if fit < 1:
            one = sum(batch_bytes(profile, name, 1) for name in names)
            raise ProfileError(
                f"{has}; one sequence of {profile.context} tokens takes {one / 2**30:.3g} GB of {' and '.join(names)}: "
                "give more memory or a smaller context"
            )
        if fit < profile.sequences_per_batch:
            _say(f"{has}: {' and '.join(names)} read {fit} sequences at a time, not {profile.sequences_per_batch}")
        return min(fit, profile.sequences_per_batch)

    def windows(self, tokenizer) -> "Budgeted":
        """The text in which top-activating contexts are sought (E.2), as one model reads it."""
        # The models of a family have one tokenizer, each its own copy.
        backend = getattr(tokenizer, "backend_tokenizer", None)
        key = (backend.to_str() if backend else tokenizer,)
        if key not in self._listed:
            context, per_document = self.profile.context, self.profile.segments_per_document

            def stream() -> Iterator[Window]:
                return windows(self.documents(), tokenizer, context, per_document)

            self._listed = {key: Budgeted(stream, self.profile.contexts.tokens, lambda window: len(window.ids))}
        return self._listed[key]

    # -----------------------------------------------------------------------------------------------------------------
    # Matches

    def matches(self, pair: tuple[str, str]) -> pd.DataFrame:
        """The MatchTable of two trained models (section 3), for the largest k that is asked for of them (`Profile.k_of`)."""
        return self._kept_both(pair, None)[0]

    def thinned_matches(self, pair: tuple[str, str]) -> pd.DataFrame:
        """The same over thinned positions: frequent spans left out, most of them (`positions.thinning`)."""
        return self._kept_both(pair, None)[1]

    def untrained_matches(self, pair: tuple[str, str]) -> list[pd.DataFrame]:
        """The MatchTables of the same two architectures without training, one a seed (section 4.2)."""
        return [self._kept_both(pair, seed)[0] for seed in self.profile.nulls.untrained_seeds]

    def thinned_untrained_matches(self, pair: tuple[str, str]) -> list[pd.DataFrame]:
        """The same over thinned positions, those of the trained models."""
        return [self._kept_both(pair, seed)[1] for seed in self.profile.nulls.untrained_seeds]

    def permuted_matches(self, pair: tuple[str, str]) -> list[pd.DataFrame]:
        """The MatchTables of the trained models over permuted positions, one a permutation (C.3).

        They are those of the profile's ``permuted_tokens``, or all.
        """
        first = self.profile.nulls.permuted_tokens
        return [
            keep(
                *self._place(pair, {"permuted": seed} | _first(first)),
                lambda seed=seed: self.match(nulls.Permuted(self.trained(pair, first), seed), self.profile.k_of(pair)),
            )
            for seed in self.profile.nulls.permutation_seeds
        ]

    def same_positions_matches(self, pair: tuple[str, str]) -> pd.DataFrame:
        """The MatchTable of the trained models over the positions of the permuted null: `matches` where those are all."""
        first = self.profile.nulls.permuted_tokens
        if first is None:
            return self.matches(pair)
        return keep(
            *self._place(pair, _first(first)), lambda: self.match(self.trained(pair, first), self.profile.k_of(pair))
        )

    def _kept_both(self, pair, untrained_seed: int | None) -> tuple[pd.DataFrame, pd.DataFrame]:
        def match() -> tuple[pd.DataFrame, pd.DataFrame]:
            batches = self.trained(pair) if untrained_seed is None else self._untrained(pair, untrained_seed)
            thinned = _thinning(self.pieces(pair), self.profile.positions.t, self.profile.seed)
            return self.match(batches, self.profile.k_of(pair), thinned)

        return self.keep_both(pair, untrained_seed, match)

    def keep_both(self, pair, untrained_seed: int | None, match: Callable) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Two models' MatchTables over all positions and over thinned ones, which `match` makes together if need be."""
        both = cache(match)
        of_all, of_thinned = self._places(pair, untrained_seed)
        return keep(*of_all, lambda: both()[0]), keep(*of_thinned, lambda: both()[1])

    def why_stale(self, pair, untrained_seed: int | None) -> dict[Path, str | None]:
        """For the files of these two tables, what is wrong with each; None if nothing is."""
        places = self._places(pair, untrained_seed)
        return {path: why_stale(path, made_with | made_by(__name__)) for path, made_with in places}

    def _places(self, pair, untrained_seed: int | None) -> list[tuple[Path, dict]]:
        of_all = {} if untrained_seed is None else {"untrained": untrained_seed}
        return [self._place(pair, variant) for variant in (of_all, {**of_all, "thinned": self.profile.positions.t})]

    def match(self, batches, k: int = 1, kept: np.ndarray | None = None):
        """The MatchTable of these batches, or both where some positions are kept, by the profile's method."""
        settings = self.settings(isinstance(batches, nulls.Permuted)) | {"positions": self.profile.tokens}
        if kept is None:
            return match_batches(batches, k, **settings)
        return match_thinned(batches, kept, k, **settings)

    def settings(self, permuted: bool = False) -> dict:
        """What `match_batches` is told of method, memory and device."""
        asked, methods = self.profile.matching, ("exact", "bfloat16", "sketch")
        if permuted:  # every correlation is sampling noise then, which no sketch can order (4.2)
            methods = ("exact", "bfloat16")
        method = asked.method if asked.method in methods else "auto"
        settings = {"method": method, "memory_bytes": int(self.profile.memory_gb * 2**30), "device": self.device}
        if method in ("auto", "sketch"):
            settings |= {"rows": asked.rows, "exact_share": asked.exact_share}
        return settings | {"methods": methods}

    def _place(self, pair, variant: dict) -> tuple[Path, dict]:
        """``a--b.parquet``, or that of a variant, ``a--b.untrained-1.first-10000.parquet``; and what it is made with."""
        suffix = "".join(f".{what}-{value}" for what, value in variant.items())
        path = self.folder / "matches" / f"{pair[0]}--{pair[1]}{suffix}.parquet"
        how = {"k": self.profile.k_of(pair), "matching": self.profile.matching.model_dump()}
        return path, self.parameters(pair) | how | variant

    def parameters(self, names: Iterable[str]) -> dict:
        """All that the activations of some models depend on, but for code."""
        profile, corpus = self.profile, dict(self.profile.corpus)
        if corpus["kind"] == "environment":
            corpus["distributions"] = environment.distributions()
        elif corpus["kind"] == "files":
            corpus["files"] = [[str(f), Path(f).stat().st_size, Path(f).stat().st_mtime_ns] for f in corpus["paths"]]
        same_names = ("tokens", "context", "excerpt_characters", "segments_per_document", "seed", "dtype")
        return {
            "models": {name: fingerprint(profile.models[name]) for name in names}, "corpus": corpus,
            **{key: getattr(profile, key) for key in same_names},
            "sequences_per_batch": self.sequences_per_batch(names),
        }  # fmt: skip

    def examples(self, pair: tuple[str, str], matches: pd.DataFrame, n: int = 3) -> list[pd.DataFrame]:
        """The texts on which matched neurons fire most, one table for each row of `matches` (Figure 2).

        Each table has one row a canonical span: ``example`` (0 is the strongest), ``text``, and a column of activations
        for each of the two neurons.
        """
        batches = self.trained(pair)
        starts = [[sum(layers[:i]) for i in range(len(layers))] for layers in batches.layers]
        pairs = [(starts[0][m.layer_a] + m.unit_a, starts[1][m.layer_b] + m.unit_b) for m in matches.itertuples()]
        return [
            _as_table(strongest, f"{m.model_a} L{m.layer_a}/U{m.unit_a}", f"{m.model_b} L{m.layer_b}/U{m.unit_b}")
            for m, strongest in zip(matches.itertuples(), strongest_pieces(batches, pairs, n), strict=True)
        ]

    def best_pairs(self, pair: tuple[str, str], n: int = 10) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
        """The n matched pairs of highest correlation with the spans on which both neurons peak, and their examples."""
        best = top_k(self.matches(pair), 1).head(n)
        path = self.folder / "examples" / f"{pair[0]}--{pair[1]}.parquet"
        kept = keep(path, self.parameters(pair) | {"n": n}, lambda: _stacked(self.examples(pair, best)))
        examples = [
            table[["example", "text", "a", "b"]].rename(columns={"a": a, "b": b}).reset_index(drop=True)
            for (a, b), table in kept.groupby(["neuron_a", "neuron_b"], sort=False)
        ]
        rows = []
        for match, table in zip(best.itertuples(), examples, strict=True):
            a, b = table.columns[2:]
            peaks = [group["text"][group[a].idxmax()] for _, group in table.groupby("example")]
            rows.append({"A": a, "B": b, "r": match.correlation, "peaks on": "  ".join(map(repr, peaks))})
        return pd.DataFrame(rows), examples


def batch_bytes(profile: Profile, name: str, sequences: int) -> int:
    """What reading so many sequences of a full context takes of one model (`activations.peak_bytes`)."""
    spec, size = profile.models[name], getattr(torch, profile.dtype).itemsize
    return peak_bytes(profile.context * sequences, [spec.mlp_width] * spec.layers, size)


def sequences_that_fit(profile: Profile, names: Iterable[str]) -> int:
    """How many sequences `BATCH_SHARE` of a profile's memory holds of some models; 0 where not one fits."""
    return int(BATCH_SHARE * profile.memory_gb * 2**30 / sum(batch_bytes(profile, name, 1) for name in names))


def _first(tokens: int | None) -> dict:
    """The variant of a MatchTable over the positions of the first so many tokens: none where those are all."""
    return {} if tokens is None else {"first": tokens}


def _as_table(examples: list[Example], name_a: str, name_b: str) -> pd.DataFrame:
    tables = []
    for number, example in enumerate(examples):
        data = example.piece.document.text.encode()
        texts = [data[start:end].decode(errors="replace") for start, end in example.piece.canonical]
        tables.append(pd.DataFrame({"example": number, "text": texts, name_a: example.a, name_b: example.b}))
    return pd.concat(tables, ignore_index=True)


def _stacked(examples: list[pd.DataFrame]) -> pd.DataFrame:
    """Tables of examples as one, the neurons' names in columns of their own."""
    renamed = []
    for table in examples:
        _, _, a, b = table.columns
        renamed.append(table.set_axis(["example", "text", "a", "b"], axis=1).assign(neuron_a=a, neuron_b=b))
    return pd.concat(renamed, ignore_index=True)


@lru_cache(maxsize=1)
def _thinning(pieces: "Budgeted", t: float, seed: int) -> np.ndarray:
    return thinning(pieces, t, seed)


@cache
def _notice_other_environment(split: str, keep_in: Path) -> None:
    """Warn, once, if this environment's text is not what the zoo's manifest records."""
    path = ROOT / "zoo" / "corpus.json"
    if not path.exists():
        return
    recorded = json.loads(path.read_text(encoding="utf-8"))
    for difference in environment.differences(split, environment.environment_documents(split, keep_in), recorded):
        logger.warning(difference)


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
