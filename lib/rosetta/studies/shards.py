"""A pair's positions shared out over jobs, each of which reads its own part of the text or images (section 3, where one job is slow).

Matching is rounds of sums over positions (`rosetta.matching.rounds`). A job goes through the rounds that others have filled
and then fills its share of the next one; another joins the shares; the last makes the MatchTables. A position's key is its
running number in the whole text, so that what is found depends neither on the shares nor on the batches.

The jobs are Snakemake's (``workflow/shards.smk``). Each is a command::

    rosetta.studies.shards PROFILE RESULTS A B --shard 1-of-2 --to screen.1           a share of the first round
    rosetta.studies.shards PROFILE RESULTS A B --join screen.* --to screened          the whole round
    rosetta.studies.shards PROFILE RESULTS A B --after screened --shard 1-of-2 --to verify.1
    rosetta.studies.shards PROFILE RESULTS A B --after screened --join verify.*       the MatchTables

With ``--without`` all this is over the positions that are no outliers, whose sizes ``--sizes`` makes before.
"""

import argparse
import logging
from collections.abc import Generator, Sequence
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rosetta.matching import rounds
from rosetta.matching.batches import AlignedBatches
from rosetta.matching.mutual import chosen, match_table, matching
from rosetta.matching.outliers import Selected
from rosetta.matching.positions import thinning
from rosetta.matching.rates import PRESETS
from rosetta.matching.rounds import Round
from rosetta.profiles.profile import Profile
from rosetta.results import made_by
from rosetta.studies.matches import Study, without_name

logger = logging.getLogger(__name__)


class Job:
    """What the jobs of one match have in common.

    Parameters
    ----------
    study : Study
    pair : (str, str)
        Two models of its profile.
    untrained_seed : int, optional
        Of untrained networks in their place.
    without : bool
        Over the positions that are left without outliers.

    Attributes
    ----------
    parameters : dict
        What all their rounds are made with.
    piece : int64 [positions]
        The running number of the segment or image that each position lies in.
    kept : bool [positions] or None
        Which of them are left when frequent spans of text are thinned.
    left : bool [positions] or None
        Which of them are read: without outliers, or all.
    """

    def __init__(self, study: Study, pair: tuple[str, str], untrained_seed: int | None = None, without: bool = False):
        self.study, self.pair, self.untrained_seed, self.without = study, pair, untrained_seed, without
        self.parameters = parameters(study, pair, untrained_seed, without)
        self.left = study.left(pair) if without else None
        if study.profile.modality(pair) == "images":
            self.kept, self.piece = None, np.repeat(np.arange(study.amount(pair)), study.cells(pair))
            return
        sizes = []

        def counted():
            for piece in study.pieces(pair):
                sizes.append(len(piece.canonical))
                yield piece

        self.kept = thinning(counted(), study.profile.positions.t, study.profile.seed)
        if without:  # no thinned twin
            self.kept = None
        self.piece = np.repeat(np.arange(len(sizes)), sizes)

    def share(self, number: int, of: int, after: Sequence[Path], to: Path) -> None:
        """Fill the share of a round that has every `of`-th segment or image, from the `number`-th on, and save it.

        Parameters
        ----------
        number, of : int
            From 1.
        after : sequence of Path
            The rounds before, joined.
        to : Path

        Raises
        ------
        ValueError
            If one of the rounds cannot be used (`Round.restore`), or `number` is not one of 1 to `of`.
        """
        if not 1 <= number <= of:
            raise ValueError(f"the shard is {number}-of-{of}; allowed are 1-of-{of} to {of}-of-{of}")
        way, _ = self.way()
        empty, _ = self._replay(way, after)
        if empty is None:  # nothing is left to read for; the last job knows it too
            empty = rounds.Nothing(*self._neurons())
        else:
            batches = self.study.batches(self.pair, untrained_seed=self.untrained_seed)
            batches.pieces = islice(batches.pieces, number - 1, None, of)
            self._fill(empty, batches, np.flatnonzero(self.piece % of == number - 1))
        empty.save(to, **self.parameters, round=1 + len(after), shard=[number, of])

    def join(self, shares: Sequence[Path], after: Sequence[Path], to: Path) -> None:
        """Add up all shares of a round and save it.

        Raises
        ------
        ValueError
            If a share cannot be used (`Round.restore`), or shares overlap or are not all of the text.
        """
        way, _ = self.way()
        empty, _ = self._replay(way, after)
        if empty is None:
            raise ValueError(f"there is no round {1 + len(after)} of {' and '.join(self.pair)}: all is found before it")
        self._joined(empty, shares, 1 + len(after)).save(to, **self.parameters, round=1 + len(after))

    def match(self, shares: Sequence[Path], after: Sequence[Path]) -> list[pd.DataFrame]:
        """Add up all shares of a round and keep the MatchTables over all positions and, of text, over thinned ones.

        Should matching want further rounds, all is read for them here.

        Raises
        ------
        ValueError
            As `join`.
        """
        made = partial(self._matched, shares, after)
        return self.study.keep_all(self.pair, self.untrained_seed, lambda: made(), self.without)

    def _matched(self, shares: Sequence[Path], after: Sequence[Path]) -> tuple[pd.DataFrame, ...]:
        way, choice = self.way()
        empty, found = self._replay(way, after)
        filled = empty and self._joined(empty, shares, 1 + len(after))
        while found is None:
            try:
                filled = way.send(filled)
            except StopIteration as end:
                found = end.value
            else:
                batches = self.study.batches(self.pair, untrained_seed=self.untrained_seed)
                self._fill(filled, batches, np.arange(len(self.piece)))
        specs = [self.study.profile.models[name] for name in self.pair]
        layers = tuple([spec.mlp_width] * spec.layers for spec in specs)
        return tuple(match_table(*one, self.pair, layers, choice) for one in found)

    def _neurons(self) -> list[int]:
        return [self.study.profile.models[name].neurons for name in self.pair]

    def way(self) -> tuple[Generator[Round, Round, Any], dict]:
        """The way of matching from its start, and why it was chosen."""
        settings, sizes, choice = self.study.settings(), self._neurons(), {}
        memory, device = settings.pop("memory_bytes"), settings.pop("device")
        method, methods = settings.pop("method"), settings.pop("methods")
        if method == "auto":
            # By one device's rates, wherever this runs: all jobs of a match must choose alike.
            rates = PRESETS["H200"]
            method, settings, why = chosen(
                *sizes, self.positions, memory, rates, methods, twin=self.kept is not None, **settings
            )
            choice = {"why": why}
        k = self.study.profile.k_of(self.pair)
        return matching(
            *sizes, k, method, twin=self.kept is not None, memory_bytes=memory, device=device, **settings
        ), choice

    def _replay(self, way: Generator, after: Sequence[Path]) -> tuple[Round | None, Any]:
        """The round that comes after those that were saved, empty; or None, and what was found."""
        try:
            empty = next(way)
            for number, path in enumerate(after, 1):
                empty = way.send(empty.restore(path, **self.parameters, round=number))
        except StopIteration as end:
            return None, end.value
        return empty, None

    def _joined(self, whole: Round, shares: Sequence[Path], number: int) -> Round:
        """An empty round, with all shares added."""
        for i, path in enumerate(shares, 1):
            whole.join(whole.empty().restore(path, **self.parameters, round=number, shard=[i, len(shares)]))
        if whole.positions != self.positions:
            raise ValueError(
                f"{len(shares)} shards of {self.pair[0]} and {self.pair[1]} hold {whole.positions} positions; the text has "
                f"{self.positions}"
            )
        return whole

    @property
    def positions(self) -> int:
        """How many are read."""
        return len(self.piece) if self.left is None else int(self.left.sum())

    def _fill(self, empty: Round, batches: AlignedBatches, keys: np.ndarray) -> None:
        """Add all batches to a round; `keys` are those of their positions."""
        if self.left is not None:
            batches, keys = Selected(batches, self.left[keys]), keys[self.left[keys]]
        for a, b in batches:
            here = keys[empty.positions : empty.positions + len(a)]
            empty.update(a, b, here, *([] if self.kept is None else [self.kept[here]]))


def parameters(study: Study, pair: tuple[str, str], untrained_seed: int | None, without: bool = False) -> dict:
    """All that the rounds of a match depend on."""
    profile = study.profile
    return study.parameters(pair) | made_by(__name__) | {
        "k": profile.k_of(pair), "untrained": untrained_seed, "thinned": profile.positions.t, "memory_gb": profile.memory_gb,
        "matching": profile.matching.model_dump(), "without": without and without_name(profile),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Before the jobs start


def stale(profile: Profile, results: str | Path, remove: bool = True) -> list[str]:
    """The matches that are to be made, by the names of their tables; what is of no use for them is removed.

    That is a MatchTable that `results.keep` would make again, and a round that is cut short or was made with other
    parameters. Snakemake makes again what is not there.

    Parameters
    ----------
    profile : Profile
    results : str or Path
    remove : bool
        False to leave all as it is.
    """
    anywhere = {name: spec._replace(device=None) for name, spec in profile.models.items()}  # no job runs here
    study, names = Study(profile.model_copy(update={"device": "cpu", "models": anywhere}), results), []
    for pair in profile.pairs:
        both = (False, True) if profile.without_outliers(pair) else (False,)
        for seed, without in product((None, *profile.nulls.untrained_seeds), both):
            reasons = study.why_stale(pair, seed, without)
            if not any(reasons.values()):
                continue
            name, expected = next(iter(reasons)).stem, parameters(study, pair, seed, without)
            shards = (study.folder / "shards" / name).glob("*.safetensors")
            reasons |= {path: rounds.unusable(path, **expected) for path in shards}
            reasons |= study.why_sizes_stale(pair) if without else {}
            for path, reason in reasons.items():
                if reason and remove and path.exists():
                    logger.warning("%s %s; it is made again", path, reason)
                    path.unlink()
            names.append(name)
    return names


def main(arguments: Sequence[str] | None = None) -> None:
    """One job, by the command's arguments."""
    parser = argparse.ArgumentParser(prog="rosetta.studies.shards", description=__doc__.partition("\n")[0])
    for name in ("profile", "results", "a", "b"):
        parser.add_argument(name)
    parser.add_argument("--untrained", type=int, metavar="SEED")
    parser.add_argument("--without", action="store_true", help="over the positions that are no outliers")
    parser.add_argument("--after", nargs="+", type=Path, default=[], metavar="ROUND", help="the rounds before, joined")
    parser.add_argument("--to", type=Path, metavar="FILE", help="what is made; the MatchTables without")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--shard", metavar="I-of-N", help="the share to read")
    what.add_argument("--join", nargs="+", type=Path, metavar="SHARE", help="all shares of a round")
    what.add_argument("--sizes", action="store_true", help="how large each position is in the trained models")
    given = parser.parse_args(arguments)
    if given.sizes:
        Study(given.profile, given.results).sizes((given.a, given.b))
        return
    job = Job(Study(given.profile, given.results), (given.a, given.b), given.untrained, given.without)
    if given.shard:
        job.share(*map(int, given.shard.split("-of-")), given.after, given.to)
    elif given.to:
        job.join(given.join, given.after, given.to)
    else:
        job.match(given.join, given.after)


if __name__ == "__main__":
    main()
