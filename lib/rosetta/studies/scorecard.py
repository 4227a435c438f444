"""The scorecard: every claim of sections 3 to 5, what was measured, and the verdict of a stated rule (notebook 08).

All of it is computed from the tables that the other notebooks write; the rules are in `studies.claims`, a function a claim.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from rosetta import marked
from rosetta.studies.claims import filters, judges, scaling, selectivity, theory
from rosetta.studies.claims.claim import VERDICTS, Absent, Claim, Finding, Tables
from rosetta.studies.claims.scaling import EXPONENTS
from rosetta.studies.claims.sentences import IMAGES, TEXT, cells

__all__ = [
    "CLAIMS", "EXPONENTS", "Absent", "Tables", "describe", "figures", "findings", "readme_table", "rules", "scorecard", "verdicts",
]  # fmt: skip

CLAIMS: dict[str, Claim] = {
    claim.name: claim for module in (scaling, selectivity, judges, filters, theory) for claim in module.CLAIMS
}
PARTS = ("text", "images", "theory", "filtering")
#: What the README's tables of claims are headed by, and what stands before them.
HEADS = {"text": "the paper", "images": "the paper, of models of images"}
MARKS = {part: marked.begin(f"claims of {part}", "make figures") for part in HEADS}


def scorecard(tables: Tables) -> pd.DataFrame:
    """Every claim with what the paper has, what was measured, and the verdict.

    Parameters
    ----------
    tables : Tables
        What the notebooks wrote of a profile.

    Returns
    -------
    DataFrame
        ``claim, part, where, section, says, reported, measured, verdict, why, rule, profile``, a row a claim; ``measured`` has
        each figure with its 95% interval, where it has one; ``why`` says why something is not measurable.
    """
    rows = [
        {
            "claim": claim.name, "part": claim.part, "where": claim.where, "section": claim.section, "says": claim.says,
            "reported": claim.reported, "measured": "; ".join(map(str, found.figures)), "verdict": found.verdict,
            "why": found.why, "rule": claim.stated, "profile": tables.profile.name,
        }
        for claim, found in findings(tables)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def figures(tables: Tables) -> pd.DataFrame:
    """The numbers behind the scorecard: ``claim, of, value, low, high``, a row a figure."""
    rows = [(claim.name, *figure[:4]) for claim, found in findings(tables) for figure in found.figures]
    return pd.DataFrame(rows, columns=["claim", "of", "value", "low", "high"])


def findings(tables: Tables) -> list[tuple[Claim, Finding]]:
    """Each claim with what its rule says."""
    return [(claim, claim.judge(tables)) for claim in sorted(CLAIMS.values(), key=lambda one: PARTS.index(one.part))]


def verdicts(card: pd.DataFrame) -> pd.DataFrame:
    """How many claims of each part have which verdict."""
    counts = pd.crosstab(card["part"], card["verdict"])
    return counts.reindex(index=PARTS, columns=list(VERDICTS.values()), fill_value=0).rename_axis(columns=None)


def rules(names: Iterable[str] | None = None) -> pd.Series:
    """The rules as sentences, each once, by the first claim that is judged by it."""
    stated = pd.Series({name: CLAIMS[name].stated for name in names or CLAIMS}, name="rule").rename_axis("claim")
    return stated[~stated.duplicated()]


def readme_table(part: str, tables: Tables) -> str:
    """The table of claims of the README, of text or of images, in Markdown."""
    rows = cells({"text": TEXT, "images": IMAGES}[part], part, tables, CLAIMS)
    return "\n".join(["| " + HEADS[part] + " | here |", "|---|---|", *(f"| {says} | {here} |" for says, here in rows)])


def describe(readme: Path, tables: Tables) -> None:
    """Put both tables of claims into the README, after their marks."""
    marked.fill(readme, {mark: readme_table(part, tables) for part, mark in MARKS.items()})
