"""Claims of section 5.1 and H, I.1 on models of images: what a judge says of their neurons, and how far to trust it."""

import numpy as np
import pandas as pd

from rosetta.laws.scaling import fit_power_law
from rosetta.studies.claims.claim import Claim, Figure, Finding, Tables, above, apart, below, every
from rosetta.studies.claims.selectivity import FIRST, REST


def of_families(tables: Tables, name: str, which: str) -> pd.DataFrame:
    """The rows of the family that is judged first (Figure 6b), or of the others (Figure 37)."""
    table = tables[name]
    is_first = table["family"] == table["family"].iloc[0]
    return table[is_first if which == FIRST else ~is_first]


def _figures(table: pd.DataFrame, value: str, form: str = "+.0%") -> tuple[Figure, ...]:
    return tuple(Figure(str(row["family"]), row[value], row["low"], row["high"], form) for _, row in table.iterrows())


def share_rises(tables: Tables, which: str) -> Finding:
    """Reproduced if the slope of the share of Rosetta Neurons that are judged monosemantic, over a tenfold growth in neurons, has an
    interval above 0 in each family; not reproduced if one lies below."""
    table = of_families(tables, "judge_trends", which).query("population == 'Rosetta'")
    return Finding(every(map(above, table["low"], table["high"])), _figures(table, "slope"))


def share_falls(tables: Tables, which: str) -> Finding:
    """Reproduced if the slope of the share of the other neurons that are judged monosemantic has an interval below 0 in each family;
    not reproduced if one lies above."""
    table = of_families(tables, "judge_trends", which).query("population == 'other'")
    return Finding(every(map(below, table["low"], table["high"])), _figures(table, "slope"))


def judged_apart(tables: Tables, which: str) -> Finding:
    """Reproduced if at each family's largest size more of the Rosetta Neurons than of the others are judged monosemantic, by an
    interval of the difference above 0; not reproduced if one lies below."""
    table = of_families(tables, "judge_gaps", which)
    table = table.sort_values("neurons").groupby("family", sort=False).tail(1)
    return Finding(every(map(above, table["low"], table["high"])), _figures(table, "gap"))


def any_number(tables: Tables) -> Finding:
    """Reproduced if for every number of images the interval of the Rosetta Neurons' share lies above that of the others'; not
    reproduced if for one it lies below."""
    table = tables["judge_images"].set_index(["population", "images"])[["rate", "low", "high"]]
    ours, others = table.loc["Rosetta"], table.loc["other"]
    over = [apart(ours.loc[images], others.loc[images]) for images in ours.index]
    figures = [Figure(f"{images} images, {of}", *row, ".0%") for (of, images), row in table.iterrows()]
    return Finding(every(over), tuple(figures))


def foretells(tables: Tables) -> Finding:
    """Reproduced if each judge's accuracy on images that it was not shown has an interval above chance; not reproduced if one lies
    below."""
    table = tables["judge_validation"].query("measure == 'accuracy'")
    figures = tuple(Figure(str(row.judge), row.mean, row.low, row.high) for row in table.itertuples())
    return Finding(every(map(above, table["low"], table["high"], table["chance"])), figures)


def no_law(tables: Tables) -> Finding:
    """Reproduced if the count of the family that is compared, read as m_t, does not grow at every step, while that of the curve beside
    it does; not reproduced if both do. Two sizes tell nothing."""
    table = tables["fig38"].query("capture == 'm_t'").sort_values("neurons")
    curves = list(dict.fromkeys(tables["fig38"]["curve"]))
    if len(curves) < 2 or table.groupby("curve").size().min() < 3:
        return Finding(None, why="fewer than three sizes")
    counts = [table[table["curve"] == curve] for curve in curves[:2]]
    grows = [bool((of["count"].diff().dropna() > 0).all()) for of in counts]
    figures = []
    for curve, of in zip(curves, counts, strict=False):
        fit = fit_power_law(of["neurons"], of["count"]) if (of["count"] > 0).all() else None
        figures.append(Figure(str(curve), fit.alpha, *fit.alpha_ci95) if fit else Figure(str(curve), np.nan))
    return Finding(
        (not grows[1]) if grows[0] else None, tuple(figures), "" if grows[0] else "nor does the curve beside it"
    )


CLAIMS = [
    Claim(f"{name}-{where}", "images", where, section, says, reported, rule, (which,))
    for where, section, which in (("6b", "5.1", FIRST), ("37", "H.4", REST))
    for name, rule, says, reported in (
        ("judged-rise", share_rises, "With size, more of the Rosetta Neurons are judged monosemantic", "rises"),
        ("judged-fall", share_falls, "With size, fewer of the other neurons are judged monosemantic", "falls"),
        ("judged-parted", judged_apart, "More of the Rosetta Neurons than of the others are judged monosemantic", "at every size"),
    )
] + [
    Claim("judged-images", "images", "36", "H.2", "The gap between them is there for any number of images shown", "stable", any_number),
    Claim("judge-foretells", "images", "Table 5", "H.3", "A judge foretells which unseen images make a neuron fire", "accuracy 0.792 ± 0.032", foretells),
    Claim("no-law", "images", "38", "I.1", "DINOv3 shows no clear law, where DINOv2 does", "no monotonic trend", no_law),
]  # fmt: skip
