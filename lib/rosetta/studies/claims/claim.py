"""What a claim of the paper is, and when an interval decides one: yes, no, or not at this size.

A rule is a function of what the notebooks wrote (`Tables`). Its docstring is what a reader is shown of it, and its answer has
three values. Most rules ask on which side of a bound an interval lies: on the claimed one, on the other, or on both, and then
nothing is decided. Of several such statements all must hold; one that fails is enough, and one that is open leaves the claim open.
"""

from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from rosetta.profiles.profile import Profile

VERDICTS = {True: "reproduced", False: "not reproduced", None: "not measurable at this size"}
#: An interval of an exponent that is as wide as this does not tell a count that stays from one that grows as the models do.
WIDE = 1.0


class Absent(LookupError):
    """A table that no notebook has written, or one without rows."""


class Tables:
    """What notebooks wrote of a profile: ``tables["fits"]`` is ``fits.csv`` of a folder.

    Parameters
    ----------
    folder : Path
    profile : Profile
    part : str
        For ``images``, ``tables["fits"]`` is ``fits_images.csv`` where there is one of either modality.
    """

    BOTH = ("points", "fits", "shares", "share_fits", "fits_by_k", "depths")

    def __init__(self, folder: str | Path, profile: Profile, part: str = "text"):
        self.folder, self.profile, self.part = Path(folder), profile, part

    def of(self, part: str) -> "Tables":
        return self if part == self.part else Tables(self.folder, self.profile, part)

    def __getitem__(self, name: str) -> pd.DataFrame:
        if name in self.BOTH and self.part == "images":
            name += "_images"
        if name not in self._read:
            path = self.folder / f"{name}.csv"
            if not path.is_file():
                raise Absent(f"not run: no {path.name}")
            self._read[name] = pd.read_csv(path)
        if not len(self._read[name]):
            raise Absent(f"{name}.csv has no rows")
        return self._read[name]

    @cached_property
    def _read(self) -> dict[str, pd.DataFrame]:
        return {}


class Figure(NamedTuple):
    """A measured number, with its 95% interval where it has one."""

    of: str
    value: float
    low: float = np.nan
    high: float = np.nan
    form: str = ".2f"

    def __str__(self) -> str:
        return f"{self.of} {told(self.value, self.low, self.high, self.form)}".strip()


class Finding(NamedTuple):
    """What a rule says: whether the claim holds (None where that cannot be told), by which figures."""

    holds: bool | None
    figures: tuple[Figure, ...] = ()
    why: str = ""

    @property
    def verdict(self) -> str:
        return VERDICTS[self.holds]


class Claim(NamedTuple):
    """A claim: its ``name``, the ``part`` it belongs to, the figure or table ``where`` the paper makes it, and its section."""

    name: str
    part: str
    where: str
    section: str
    says: str
    reported: str
    rule: Callable[..., Finding]
    arguments: tuple = ()

    @property
    def stated(self) -> str:
        """The rule as a sentence."""
        return " ".join(self.rule.__doc__.split())

    def judge(self, tables: Tables) -> Finding:
        """What the rule says of a profile's tables; "not measurable" where one of them is not there."""
        try:
            found = self.rule(tables.of("images" if self.part == "images" else "text"), *self.arguments)
        except Absent as absent:
            return Finding(None, why=str(absent))
        if found.holds is not None:
            return found
        bare = all(np.isnan(figure.low) for figure in found.figures)
        open_ = "too few sizes for an interval" if bare else "an interval reaches to both sides"
        return found._replace(why=found.why or open_)


def told(value: float, low: float = np.nan, high: float = np.nan, form: str = ".2f") -> str:
    """``0.55 [0.33, 0.77]``."""
    return f"{value:{form}}" + ("" if np.isnan(low) or np.isnan(high) else f" [{low:{form}}, {high:{form}}]")


def above(low: float, high: float, bound: float = 0.0) -> bool | None:
    """Whether an interval lies above a bound; None where it holds the bound, or has no ends."""
    return True if low > bound else False if high < bound else None


def below(low: float, high: float, bound: float = 0.0) -> bool | None:
    """Whether an interval lies below a bound."""
    return above(-high, -low, -bound)


def apart(first: pd.Series, second: pd.Series, of: str = "") -> bool | None:
    """Whether the interval of the first (``low, high``, after `of`) lies above the second's; None where they overlap."""
    if first[f"{of}low"] > second[f"{of}high"]:
        return True
    return False if first[f"{of}high"] < second[f"{of}low"] else None


def level(low: float, high: float, wide: float = WIDE) -> bool | None:
    """Whether there is no trend: an interval that holds 0 and is not `wide`."""
    return False if low > 0 or high < 0 else True if high - low < wide else None


def every(statements: Iterable[bool | None]) -> bool | None:
    """Whether all hold: one that fails is enough to say no, one that is open leaves it open, and so does none at all."""
    statements = list(statements)
    return False if False in statements else None if None in statements or not statements else True


def intervals(table: pd.DataFrame, value: str, low: str = "", high: str = "") -> list[tuple[float, float]]:
    """The ends of the intervals of a column."""
    return list(zip(table[low or f"{value}_low"], table[high or f"{value}_high"], strict=True))
