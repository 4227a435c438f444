"""What the notebooks ask for: a profile's matches, nulls, counts and sweeps, computed once and kept.

Everything is kept under ``results/<profile>``: MatchTables in ``matches``, small tables in ``tables``. What is there
already and was made with the same models, text or images and numbers is read; the rest is computed, with a progress bar.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from rosetta.matching import nulls, outliers
from rosetta.matching.batches import Example, strongest_pieces
from rosetta.matching.mutual import match_batches, match_thinned, numbered, top_k
from rosetta.matching.positions import thinning
from rosetta.profiles.profile import Profile
from rosetta.results import keep, made_by, why_stale
from rosetta.studies.budget import Budgeted
from rosetta.studies.shown import Shown


class Study(Shown):
    """A profile, and what is found by it: kept in its folder of results.

    Parameters and attributes are those of `Shown`.
    """

    def matches(self, pair: tuple[str, str], without: bool = False) -> pd.DataFrame:
        """The MatchTable of two trained models (section 3), for the largest k that is asked for of them (`Profile.k_of`).

        Here and below, `without`: over the positions of text that are left without outliers (`left`).
        """
        return self._kept(pair, None, without)[0]

    def thinned_matches(self, pair: tuple[str, str]) -> pd.DataFrame:
        """The same over thinned positions of text: frequent spans left out, most of them (`positions.thinning`)."""
        return self._kept(pair, None)[1]

    def untrained_matches(self, pair: tuple[str, str], without: bool = False) -> list[pd.DataFrame]:
        """The MatchTables of the same two architectures without training, one a seed (section 4.2)."""
        return [self._kept(pair, seed, without)[0] for seed in self.profile.nulls.untrained_seeds]

    def thinned_untrained_matches(self, pair: tuple[str, str]) -> list[pd.DataFrame]:
        """The same over thinned positions, those of the trained models."""
        return [self._kept(pair, seed)[1] for seed in self.profile.nulls.untrained_seeds]

    def permuted_matches(self, pair: tuple[str, str], without: bool = False) -> list[pd.DataFrame]:
        """The MatchTables of the trained models over permuted positions, one a permutation (C.3).

        They are those of the profile's ``permuted_tokens``, or ``images.permuted``, or all.
        """
        return self._permuted(pair, "permuted", 1, without)

    def whole_images_matches(self, pair: tuple[str, str]) -> list[pd.DataFrame]:
        """The same with whole images permuted and cells kept: what neurons share that only know where they are."""
        return self._permuted(pair, "images", self.cells(pair))

    def _permuted(self, pair: tuple[str, str], name: str, whole: int, without: bool = False) -> list[pd.DataFrame]:
        first, k = self.permuted_amount(pair), self.profile.k_of(pair)
        return [
            keep(
                *self._place(pair, {name: seed} | self._without(without) | _first(first)),
                lambda seed=seed: self.match(nulls.Permuted(self._over(pair, first, without), seed, whole=whole), k),
            )
            for seed in self.profile.nulls.permutation_seeds
        ]

    def same_positions_matches(self, pair: tuple[str, str], without: bool = False) -> pd.DataFrame:
        """The MatchTable of the trained models over the positions of the permuted null: `matches` where those are all."""
        first = self.permuted_amount(pair)
        if first is None:
            return self.matches(pair, without)
        return keep(
            *self._place(pair, self._without(without) | _first(first)),
            lambda: self.match(self._over(pair, first, without), self.profile.k_of(pair)),
        )

    def sizes(self, pair: tuple[str, str]) -> pd.DataFrame:
        """How large each position is in either of two trained models, and their participation ratios (`outliers.survey`)."""
        seed = self.profile.seed
        return keep(
            *self._sizes_place(pair), lambda: outliers.survey(self.trained(pair), seed=seed, device=self.device)
        )

    def _sizes_place(self, pair: tuple[str, str]) -> tuple[Path, dict]:
        return self.folder / "positions" / f"{'--'.join(pair)}.sizes.parquet", self.parameters(pair)

    def left(self, pair: tuple[str, str], amount: int | None = None) -> np.ndarray:
        """bool [positions]: those of text, up to an amount of it, that are no outliers of the trained models by the profile."""
        asked = self.profile.positions.outliers
        sizes = None if asked.size is None else self.sizes(pair)
        return outliers.left(outliers.first_positions(self.pieces(pair, amount), asked.first or 0), sizes, asked.size)

    def _over(self, pair, amount: int | None, without: bool, untrained_seed: int | None = None):
        """What two models are matched over."""
        left = self.left(pair, amount) if without else None
        batches = self.trained(pair, amount) if untrained_seed is None else self.untrained(pair, untrained_seed)
        return batches if left is None else outliers.Selected(batches, left)

    def _kept(self, pair, untrained_seed: int | None, without: bool = False) -> list[pd.DataFrame]:
        def match() -> list[pd.DataFrame]:
            batches = self._over(pair, None, without, untrained_seed)
            if without or self.profile.modality(pair) == "images":
                return [self.match(batches, self.profile.k_of(pair))]
            thinned = _thinning(self.pieces(pair), self.profile.positions.t, self.profile.seed)
            return self.match(batches, self.profile.k_of(pair), thinned)

        return self.keep_all(pair, untrained_seed, match, without)

    def keep_all(self, pair, untrained_seed: int | None, match: Callable, without: bool = False) -> list[pd.DataFrame]:
        """Two models' MatchTables which `match` makes together if need be: over all positions and, of text, over thinned ones;
        or the one over the positions that are no outliers."""
        made = cache(match)
        places = self._places(pair, untrained_seed, without)
        return [keep(*place, lambda i=i: made()[i]) for i, place in enumerate(places)]

    def why_stale(self, pair, untrained_seed: int | None, without: bool = False) -> dict[Path, str | None]:
        """For the files of these tables, what is wrong with each; None if nothing is."""
        return _why_stale(self._places(pair, untrained_seed, without))

    def why_sizes_stale(self, pair: tuple[str, str]) -> dict[Path, str | None]:
        """The same of the file of `sizes`."""
        return _why_stale([self._sizes_place(pair)])

    def _without(self, without: bool) -> dict:
        """The variant of a MatchTable without outlier positions."""
        return {"without": without_name(self.profile)} if without else {}

    def _places(self, pair, untrained_seed: int | None, without: bool = False) -> list[tuple[Path, dict]]:
        of_all = ({} if untrained_seed is None else {"untrained": untrained_seed}) | self._without(without)
        variants = [of_all]
        if not without and self.profile.modality(pair) == "text":
            variants.append({**of_all, "thinned": self.profile.positions.t})
        return [self._place(pair, variant) for variant in variants]

    def match(self, batches, k: int = 1, kept: np.ndarray | None = None):
        """The MatchTable of these batches, or both where some positions are kept, by the profile's method."""
        settings = self.settings(isinstance(batches, nulls.Permuted)) | {"positions": self.positions(batches.names)}
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

    def examples(self, pair: tuple[str, str], matches: pd.DataFrame, n: int = 3) -> list[pd.DataFrame]:
        """The texts on which matched neurons fire most, one table for each row of `matches` (Figure 2).

        Each table has one row a canonical span: ``example`` (0 is the strongest), ``text``, and a column of activations
        for each of the two neurons.
        """
        batches = self.trained(pair)
        pairs = numbered(matches, batches.layers)
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


def _why_stale(places: list[tuple[Path, dict]]) -> dict[Path, str | None]:
    return {path: why_stale(path, made_with | made_by(__name__)) for path, made_with in places}


def without_name(profile: Profile) -> str:
    """What a MatchTable's name says of the outlier positions that it is without: how many first ones, and above which size."""
    asked = profile.positions.outliers
    return f"{asked.first or 0}-{asked.size or 0}"


def _first(amount: int | None) -> dict:
    """The variant of a MatchTable over the positions of the first so many tokens or images: none where those are all."""
    return {} if amount is None else {"first": amount}


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
def _thinning(pieces: Budgeted, t: float, seed: int) -> np.ndarray:
    return thinning(pieces, t, seed)
