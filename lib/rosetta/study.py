"""What the notebooks ask for: a profile's matches, nulls, counts and sweeps, computed once and kept.

Everything is kept under ``results/<profile>``: MatchTables in ``matches``, small tables in ``tables``. What is there
already and was made with the same models, text and numbers is read; the rest is computed, with a progress bar.
"""

import json
import logging
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm

from rosetta import corpora, models, nulls, scaling
from rosetta.activations import AlignedBatches, Reader
from rosetta.alignment import Segment, segments
from rosetta.correlation import PearsonAccumulator
from rosetta.matching import collapse, match_batches, mutual_nearest, top_k
from rosetta.profiles import Profile
from rosetta.profiles import load as load_profile
from rosetta.results import keep

logger = logging.getLogger(__name__)


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
    """

    def __init__(self, profile: str | Profile = "micro", results: str | Path = "results"):
        self.profile = profile if isinstance(profile, Profile) else load_profile(profile)
        self.results = models.ROOT / results
        self.folder = self.results / self.profile.name
        device = self.profile.device
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device

    # -----------------------------------------------------------------------------------------------------------------
    # Text and models

    def documents(self) -> Iterator[corpora.Document]:
        """The profile's documents, or a random excerpt of each, in the profile's seeded order."""
        profile = self.profile
        if profile.corpus["kind"] == "environment":
            _notice_other_environment(profile.corpus.get("split", "heldout"), self.results / "corpus")
        for document in corpora.documents(profile.corpus, profile.seed, self.results / "corpus"):
            yield corpora.excerpt(document, profile.excerpt_characters, profile.seed)

    def reader(self, name: str, untrained_seed: int | None = None) -> Reader:
        """A model of the profile, trained or as an untrained network, with its tokenizer."""
        spec, dtype = self.profile.models[name], getattr(torch, self.profile.dtype)
        if untrained_seed is None:
            model = models.load(spec, self.device, dtype)
        else:  # the same seed must not give two families the same numbers
            seed = zlib.crc32(f"{name}-{untrained_seed}".encode())
            model = models.load_untrained(spec, seed, self.device, dtype)
        reader = Reader(name, model, models.load_tokenizer(spec))
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
        pieces = Pieces(self, a.tokenizer, b.tokenizer, tokens or self.profile.tokens)
        return AlignedBatches(a, b, pieces, self.profile.sequences_per_batch)

    # -----------------------------------------------------------------------------------------------------------------
    # Matches

    def matches(self, pair: tuple[str, str]) -> pd.DataFrame:
        """The MatchTable of two trained models (section 3), for the largest k of the profile."""
        return self._kept_matches(pair, "", {}, lambda: self.batches(pair))

    def untrained_matches(self, pair: tuple[str, str]) -> list[pd.DataFrame]:
        """The MatchTables of the same two architectures without training, one a seed (section 4.2)."""
        return [
            self._kept_matches(
                pair, f".untrained-{s}", {"untrained": s}, lambda s=s: self.batches(pair, untrained_seed=s)
            )
            for s in self.profile.nulls.untrained_seeds
        ]

    def permuted_matches(self, pair: tuple[str, str]) -> list[pd.DataFrame]:
        """The MatchTables of the trained models over permuted positions, one a permutation (C.3)."""
        return [
            self._kept_matches(
                pair, f".permuted-{s}", {"permuted": s}, lambda s=s: nulls.Permuted(self.batches(pair), s)
            )
            for s in self.profile.nulls.permutation_seeds
        ]

    def _kept_matches(self, pair, suffix: str, extra: dict, batches) -> pd.DataFrame:
        path = self.folder / "matches" / f"{pair[0]}--{pair[1]}{suffix}.parquet"
        k, memory = max(self.profile.k), int(self.profile.memory_gb * 2**30)
        parameters = self.parameters(pair) | {"k": k} | extra
        return keep(path, parameters, lambda: match_batches(batches(), k, memory_bytes=memory, device=self.device))

    def parameters(self, pair: tuple[str, str]) -> dict:
        """All that the activations of a pair depend on."""
        p = self.profile
        corpus = dict(p.corpus)
        if corpus["kind"] == "environment":
            corpus["distributions"] = corpora.distributions()
        elif corpus["kind"] == "files":
            corpus["files"] = [[str(f), Path(f).stat().st_size, Path(f).stat().st_mtime_ns] for f in corpus["paths"]]
        return {
            "models": {name: models.fingerprint(p.models[name]) for name in pair},
            "corpus": corpus, "tokens": p.tokens, "context": p.context, "excerpt_characters": p.excerpt_characters,
            "segments_per_document": p.segments_per_document, "seed": p.seed, "dtype": p.dtype,
        }  # fmt: skip

    def threshold(self, pair: tuple[str, str], k: int = 1) -> float:
        """The correlation above which a pair counts as more than the permuted null gives."""
        return nulls.threshold([top_k(t, k) for t in self.permuted_matches(pair)], self.profile.nulls.quantile)

    # -----------------------------------------------------------------------------------------------------------------
    # Counts

    def point(self, point: tuple[str, ...], k: int = 1) -> dict:
        """One point of a curve: its size and its counts, raw and calibrated, beside both nulls'.

        For two models a count is of pairs; for more, of the anchor's neurons matched in every pair.
        """
        pairs, profile = self.profile.pairs_of(point), self.profile
        tables = [top_k(self.matches(pair), k) for pair in pairs]
        above = [self.threshold(pair, k) for pair in pairs]
        anchor = profile.anchor(point)

        def count(tables) -> int:
            return len(tables[0]) if len(tables) == 1 else len(collapse(tables, anchor))

        def of_null(tables_of_pairs) -> nulls.Interval:
            return nulls.mean_ci95(
                [count([top_k(t, k) for t in seeds]) for seeds in zip(*tables_of_pairs, strict=True)]
            )

        permuted = of_null([self.permuted_matches(pair) for pair in pairs])
        untrained = of_null([self.untrained_matches(pair) for pair in pairs])
        return {
            "models": " + ".join(point), "anchor": anchor, "neurons": profile.neurons(point), "k": k,
            "raw": count(tables),
            "calibrated": count([nulls.calibrated(t, above) for t, above in zip(tables, above, strict=True)]),
            "threshold": max(above),
            "mean_correlation": sum(t.correlation.mean() for t in tables) / len(tables),
            "positions": tables[0].attrs["positions"],
            "dead": sum(tables[0].attrs[f"dead_{side}"] for side in "ab") if len(point) == 2 else None,
            **{f"permuted_{key}": value for key, value in permuted._asdict().items()},
            **{f"untrained_{key}": value for key, value in untrained._asdict().items()},
        }  # fmt: skip

    def points(self, k: int = 1) -> pd.DataFrame:
        """All points of all curves: the data of Figures 3a, 4 and 26, and of Table 2."""
        rows = [
            {"curve": curve, **self.point(point, k)}
            for curve, points in self.profile.curves.items()
            for point in tqdm(points, desc=f"{curve}, k = {k}", leave=False)
        ]
        return pd.DataFrame(rows)

    def fits(self, points: pd.DataFrame) -> pd.DataFrame:
        """A power law for each curve, by the raw and by the calibrated count."""
        by_count = {count: scaling.fits(points, ["curve"], count) for count in ("raw", "calibrated")}
        return pd.concat([table.assign(count=count) for count, table in by_count.items()], ignore_index=True)

    def k_points(self) -> pd.DataFrame:
        """The points of one curve for every k of the profile (Figure 25)."""
        points = self.profile.curves[self.profile.k_curve]
        return pd.DataFrame([self.point(point, k) for k in self.profile.k for point in points])

    def token_sweep(self) -> pd.DataFrame:
        """Matches of one pair over growing numbers of tokens (Figure 33), in one pass.

        Returns
        -------
        DataFrame
            ``tokens, positions, count`` and, from the second row on, ``overlap``: the share of this set's pairs that
            the set before already held, ``jaccard``, and ``retained``: the share of the set before that is still held.
            A budget larger than the corpus ends the table with what the corpus holds.
        """
        sweep = self.profile.token_sweep
        path = self.folder / "tables" / "token_sweep.parquet"
        parameters = self.parameters(sweep.pair) | {"tokens": list(sweep.tokens)}
        return keep(path, parameters, lambda: self._token_sweep(sweep.pair, list(sweep.tokens)))

    def _token_sweep(self, pair: tuple[str, str], budgets: list[int]) -> pd.DataFrame:
        batches = self.batches(pair, tokens=budgets[-1])
        accumulator = PearsonAccumulator(*map(sum, batches.layers), device=self.device)
        rows, before, some, tokens = [], None, [], 0
        for piece in batches.pieces:
            some.append(piece)
            tokens += len(piece.ids_a)
            if tokens >= budgets[len(rows)] or len(some) == batches.sequences_per_batch:
                accumulator.update(*batches.aligned(some))
                some = []
            if tokens >= budgets[len(rows)]:
                row, before = _sweep_row(tokens, accumulator, before)
                rows.append(row)
        if some:  # the corpus ended inside a budget
            accumulator.update(*batches.aligned(some))
        if len(rows) < len(budgets) and accumulator.positions > (rows[-1]["positions"] if rows else 1):
            rows.append(_sweep_row(tokens, accumulator, before)[0])
        return pd.DataFrame(rows)


def _sweep_row(tokens: int, accumulator: PearsonAccumulator, before: set | None) -> tuple[dict, set]:
    pairs = set(map(tuple, mutual_nearest(accumulator.correlation()).tolist()))
    row = {"tokens": tokens, "positions": accumulator.positions, "count": len(pairs)}
    if before is not None:
        both = len(pairs & before)
        row |= {
            "overlap": both / max(1, len(pairs)),
            "retained": both / max(1, len(before)),
            "jaccard": both / max(1, len(pairs | before)),
        }
    return row, pairs


class Pieces:
    """The segments of a study's text up to a number of tokens of the first model; the same ones each time."""

    def __init__(self, study: Study, tokenizer_a, tokenizer_b, tokens: int):
        self.study, self.tokenizers, self.tokens = study, (tokenizer_a, tokenizer_b), tokens

    def __iter__(self) -> Iterator[Segment]:
        profile, read = self.study.profile, 0
        found = segments(self.study.documents(), *self.tokenizers, profile.context, profile.segments_per_document)
        with tqdm(total=self.tokens, unit="token", unit_scale=True, leave=False) as bar:
            for piece in found:
                yield piece
                read += len(piece.ids_a)
                bar.update(len(piece.ids_a))
                if read >= self.tokens:
                    return
        if not read:
            raise ValueError(
                "no stretch of the corpus lies between boundaries that both tokenizers share and fits the context"
            )
        logger.warning("the corpus holds %d of the %d tokens asked for", read, self.tokens)


@cache
def _notice_other_environment(split: str, keep_in: Path) -> None:
    """Warn, once, if this environment's text is not what the zoo's manifest records."""
    path = models.ROOT / "zoo" / "corpus.json"
    if not path.exists():
        return
    for difference in corpora.differences(
        split, corpora.environment(split, keep_in), json.loads(path.read_text(encoding="utf-8"))
    ):
        logger.warning(difference)
