"""What the notebooks ask for: a profile's matches, nulls, counts and sweeps, computed once and kept.

Everything is kept under ``results/<profile>``: MatchTables in ``matches``, small tables in ``tables``. What is there
already and was made with the same models, text and numbers is read; the rest is computed, with a progress bar.
"""

import json
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from rosetta import corpora, models, nulls, scaling
from rosetta.activations import AlignedBatches, Example, Reader, strongest_segments
from rosetta.alignment import segments, windows
from rosetta.correlation import PearsonAccumulator
from rosetta.matching import collapse, match_batches, mutual_nearest, top_k
from rosetta.profiles import Profile
from rosetta.profiles import load as load_profile
from rosetta.results import code_digest, keep

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
            reader = Reader.open(spec, self.device, dtype)
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
        p = self.profile
        pieces = Budgeted(
            lambda: segments(self.documents(), a.tokenizer, b.tokenizer, p.context, p.segments_per_document),
            tokens or p.tokens,
            lambda segment: len(segment.ids_a),
        )
        return AlignedBatches(a, b, pieces, p.sequences_per_batch)

    def windows(self, tokenizer) -> "Budgeted":
        """The text in which top-activating contexts are sought (E.2), as one model reads it."""
        p = self.profile
        return Budgeted(
            lambda: windows(self.documents(), tokenizer, p.context, p.segments_per_document),
            p.contexts.tokens,
            lambda window: len(window.ids),
        )

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
        """The MatchTables of the trained models over permuted positions, one a permutation (C.3).

        The models are read once for all permutations where ``memory_gb`` holds their activations.
        """

        @cache
        def batches():
            read = self.batches(pair)
            size = 4 * self.profile.tokens * sum(map(sum, read.layers))
            return read.held() if size <= self.profile.memory_gb * 2**30 else read

        return [
            self._kept_matches(pair, f".permuted-{s}", {"permuted": s}, lambda s=s: nulls.Permuted(batches(), s))
            for s in self.profile.nulls.permutation_seeds
        ]

    def _kept_matches(self, pair, suffix: str, extra: dict, batches) -> pd.DataFrame:
        path = self.folder / "matches" / f"{pair[0]}--{pair[1]}{suffix}.parquet"
        k, memory = max(self.profile.k), int(self.profile.memory_gb * 2**30)
        parameters = self.parameters(pair) | {"k": k} | extra
        return keep(path, parameters, lambda: match_batches(batches(), k, memory_bytes=memory, device=self.device))

    def parameters(self, names: Iterable[str], *modules: str) -> dict:
        """All that the activations of some models depend on; and the code of further modules of the library."""
        p = self.profile
        corpus = dict(p.corpus)
        if corpus["kind"] == "environment":
            corpus["distributions"] = corpora.distributions()
        elif corpus["kind"] == "files":
            corpus["files"] = [[str(f), Path(f).stat().st_size, Path(f).stat().st_mtime_ns] for f in corpus["paths"]]
        return {
            "code": code_digest("corpora", "alignment", "activations", "correlation", "matching", "nulls", "models", *modules),
            "models": {name: models.fingerprint(p.models[name]) for name in names},
            "corpus": corpus, "tokens": p.tokens, "context": p.context, "excerpt_characters": p.excerpt_characters,
            "segments_per_document": p.segments_per_document, "seed": p.seed, "dtype": p.dtype,
        }  # fmt: skip

    def examples(self, pair: tuple[str, str], matches: pd.DataFrame, n: int = 3) -> list[pd.DataFrame]:
        """The texts on which matched neurons fire most, one table for each row of `matches` (Figure 2).

        Each table has one row a canonical span: ``example`` (0 is the strongest), ``text``, and a column of activations
        for each of the two neurons.
        """
        batches = self.batches(pair)
        starts = [[sum(layers[:i]) for i in range(len(layers))] for layers in batches.layers]
        pairs = [(starts[0][m.layer_a] + m.unit_a, starts[1][m.layer_b] + m.unit_b) for m in matches.itertuples()]
        return [
            _as_table(found, f"{m.model_a} L{m.layer_a}/U{m.unit_a}", f"{m.model_b} L{m.layer_b}/U{m.unit_b}")
            for m, found in zip(matches.itertuples(), strongest_segments(batches, pairs, n), strict=True)
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

    # -----------------------------------------------------------------------------------------------------------------
    # Counts

    def point(self, point: tuple[str, ...], k: int = 1) -> dict:
        """One point of a curve: its size and its counts, raw and calibrated, beside both nulls'.

        For two models a count is of pairs; for more, of the anchor's neurons matched in every pair. ``raw`` is the
        paper's count, ``calibrated`` that of pairs above the permuted null, ``strict`` that of pairs above both nulls.
        """
        pairs, quantile = self.profile.pairs_of(point), self.profile.nulls.quantile
        trained = [top_k(self.matches(pair), k) for pair in pairs]
        permuted = [[top_k(table, k) for table in self.permuted_matches(pair)] for pair in pairs]
        untrained = [[top_k(table, k) for table in self.untrained_matches(pair)] for pair in pairs]
        above = [nulls.threshold(tables, quantile) for tables in permuted]
        above_both = [max(r, nulls.threshold(tables, quantile)) for r, tables in zip(above, untrained, strict=True)]
        anchor = self.profile.anchor(point)

        def count(tables, thresholds=None) -> int:
            tables = list(tables)
            if thresholds:
                tables = [nulls.calibrated(table, r) for table, r in zip(tables, thresholds, strict=True)]
            return len(tables[0]) if len(tables) == 1 else len(collapse(tables, anchor))

        of_permuted = nulls.mean_ci95([count(tables) for tables in zip(*permuted, strict=True)])
        of_untrained = nulls.mean_ci95([count(tables) for tables in zip(*untrained, strict=True)])
        return {
            "models": " + ".join(point), "anchor": anchor, "neurons": self.profile.neurons(point), "k": k,
            "raw": count(trained), "calibrated": count(trained, above), "strict": count(trained, above_both),
            "threshold": max(above), "strict_threshold": max(above_both),
            "mean_correlation": float(sum(table.correlation.mean() for table in trained) / len(trained)),
            "positions": trained[0].attrs["positions"], "dead": {
                name: int(table.attrs[f"dead_{side}"])
                for pair, table in zip(pairs, trained, strict=True) for side, name in zip("ab", pair, strict=True)
            },
            **{f"permuted_{key}": float(value) for key, value in of_permuted._asdict().items()},
            **{f"untrained_{key}": float(value) for key, value in of_untrained._asdict().items()},
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
        """A power law for each curve, by each of the three counts."""
        tables = [
            scaling.fits(points, ["curve"], count).assign(count=count) for count in ("raw", "calibrated", "strict")
        ]
        return pd.concat(tables, ignore_index=True)

    def k_points(self) -> pd.DataFrame:
        """The points of one curve for every k of the profile (Figure 25)."""
        points = self.profile.curves[self.profile.k_curve]
        return pd.DataFrame([self.point(point, k) for k in self.profile.k for point in points])

    def predictions(self, points: pd.DataFrame, count: str = "raw") -> pd.DataFrame:
        """The largest point of each curve of four or more, predicted from the others (`scaling.leave_largest_out`)."""
        rows = [
            {"curve": curve, **scaling.leave_largest_out(group["neurons"], group[count])._asdict()}
            for curve, group in points.groupby("curve", sort=False)
            if len(group) >= 4 and (group[count] > 0).all()
        ]
        return pd.DataFrame(rows, columns=["curve", *scaling.Prediction._fields])

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
        budgets = sorted(sweep.tokens)
        parameters = self.parameters(sweep.pair) | {"tokens": budgets}
        return keep(path, parameters, lambda: self._token_sweep(sweep.pair, budgets))

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


def _as_table(examples: list[Example], name_a: str, name_b: str) -> pd.DataFrame:
    tables = []
    for number, example in enumerate(examples):
        data = example.segment.document.text.encode()
        texts = [data[start:end].decode(errors="replace") for start, end in example.segment.canonical]
        tables.append(pd.DataFrame({"example": number, "text": texts, name_a: example.a, name_b: example.b}))
    return pd.concat(tables, ignore_index=True)


def _stacked(examples: list[pd.DataFrame]) -> pd.DataFrame:
    """Tables of examples as one, the neurons' names in columns of their own."""
    renamed = [
        table.set_axis(["example", "text", "a", "b"], axis=1).assign(
            neuron_a=table.columns[2], neuron_b=table.columns[3]
        )
        for table in examples
    ]
    return pd.concat(renamed, ignore_index=True)


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


class Budgeted:
    """A stream of text up to a number of tokens, with a progress bar; the same pieces each time it is gone through.

    Parameters
    ----------
    stream : callable
        Gives the stream from its start.
    tokens : int
        The piece that reaches this number is the last.
    count : callable
        The tokens of a piece.
    """

    def __init__(self, stream: Callable[[], Iterator], tokens: int, count: Callable[[Any], int]):
        self.stream, self.tokens, self.count = stream, tokens, count

    def __iter__(self) -> Iterator:
        read = 0
        with tqdm(total=self.tokens, unit="token", unit_scale=True, leave=False) as bar:
            for piece in self.stream():
                yield piece
                read += self.count(piece)
                bar.update(self.count(piece))
                if read >= self.tokens:
                    return
        if not read:
            raise ValueError(
                "no stretch of the corpus fits the context and, for a pair, lies between boundaries that both tokenizers "
                "share"
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
