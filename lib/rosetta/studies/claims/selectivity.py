"""Claims of sections 5.1 and 5.2, E: what Rosetta Neurons write, what they fire on, where they lie."""

import pandas as pd

from rosetta.studies.claims.claim import Claim, Figure, Finding, Tables, above, below, every, level

FIRST, REST = "first", "rest"


def of_families(tables: Tables, name: str, which: str, families: str = "rosetta") -> pd.DataFrame:
    """The rows of the profile's first family, which has a figure in the text, or of the others, in an appendix."""
    listed = list(getattr(tables.profile.properties, families))
    chosen = listed[:1] if which == FIRST else listed[1:]
    table = tables[name]
    return table[table["family"].isin(chosen)].set_index("family")


def _slopes(tables: Tables, which: str, population: str) -> list[Figure]:
    name = f"{population}, per decade"
    rows = of_families(tables, "separation", which)[[name, f"{name}, low", f"{name}, high"]].itertuples()
    return [Figure(family, *numbers, "+.2f") for family, *numbers in rows]


def _by_sign(figures: list[Figure], side) -> Finding:
    return Finding(every(side(figure.low, figure.high) for figure in figures), tuple(figures))


# ---------------------------------------------------------------------------------------------------------------------
# Rules


def rosetta_rise(tables: Tables, which: str) -> Finding:
    """Reproduced if the slope of the Rosetta Neurons' mean kurtosis over a tenfold growth in neurons has an interval above 0 in each
    family; not reproduced if one lies below."""
    return _by_sign(_slopes(tables, which, "Rosetta"), above)


def others_fall(tables: Tables, which: str) -> Finding:
    """Reproduced if the slope of the other neurons' mean kurtosis has an interval below 0 in each family; not reproduced if one lies
    above."""
    return _by_sign(_slopes(tables, which, "other"), below)


def parted(tables: Tables, which: str) -> Finding:
    """Reproduced if at each family's largest size the gap between the two means has an interval above 0; not reproduced if one lies
    below."""
    table = of_families(tables, "gaps", which)
    largest = table.sort_values("neurons").groupby(level=0, sort=False).tail(1)
    rows = largest[["gap", "low", "high"]].itertuples()
    return _by_sign([Figure(family, *numbers, "+.2f") for family, *numbers in rows], above)


def widens(tables: Tables, which: str) -> Finding:
    """Reproduced if in each family the gap at the largest size less that at the smallest has an interval above 0; not reproduced if
    one lies below."""
    rows = of_families(tables, "widening", which)[["gap", "low", "high"]].itertuples()
    return _by_sign([Figure(family, *numbers, "+.2f") for family, *numbers in rows], above)


def firing_trends(tables: Tables, which: str, population: str) -> pd.DataFrame:
    """The trends of NormalizedFire of a population, a row a family and category."""
    table = of_families(tables, "firing_trends", which, "firing")
    return table[table["population"] == population]


def _fired(table: pd.DataFrame) -> tuple[Figure, ...]:
    return tuple(
        Figure(f"{row.Index} {row.category}", row.slope, row.low, row.high, "+.2f") for row in table.itertuples()
    )


def specializes(tables: Tables, which: str) -> Finding:
    """Reproduced if the slopes of NormalizedFire of code and math over a tenfold growth in neurons have intervals above 0, and those
    of general prose and conversational text, if the corpus has any, below. Not reproduced if one lies on the other side."""
    table = firing_trends(tables, which, "Rosetta")
    expected = {"code": above, "math": above, "general prose": below, "conversational": below}
    table = table[table["category"].isin(expected)]
    return Finding(every(expected[row.category](row.low, row.high) for row in table.itertuples()), _fired(table))


def others_stable(tables: Tables, which: str) -> Finding:
    """Reproduced if the other neurons' slopes of NormalizedFire all have intervals that hold 0 and are narrower than 1; not
    reproduced if one does not hold 0."""
    table = firing_trends(tables, which, "other")
    return Finding(every(level(row.low, row.high) for row in table.itertuples()), _fired(table))


def spread(tables: Tables) -> Finding:
    """Reproduced if at every size of two layers or more several bins of depth hold Rosetta Neurons, and no bin nine tenths of them;
    otherwise not. Figures are the largest share of a bin, of the smallest and the largest size."""
    depths = tables["depths"].set_index("model")
    several = ((depths > 0).sum(axis=1) > 1) & (depths.max(axis=1) < 0.9)
    figures = tuple(
        Figure(str(name), depths.loc[name].max(), form=".0%") for name in dict.fromkeys(depths.index[[0, -1]])
    )
    return Finding(bool(several.all()), figures)


def layers_of(tables: Tables) -> list[int]:
    """How many layers the models of the table of depths have."""
    return [tables.profile.models[name].layers for name in tables["depths"]["model"]]


_SAYS = {
    rosetta_rise: ("Rosetta Neurons grow more selective with size", "rises"),
    others_fall: ("The other neurons fall towards zero", "falls, to near zero"),
    parted: ("Rosetta Neurons are more selective than the others", "yes, at the larger sizes"),
    widens: ("The gap between the two grows with size", "yes"),
}
CLAIMS = [
    Claim(f"{name}-{where}", "text", where, section, f"{says}, by the kurtosis of what they write to the vocabulary", reported, rule, (which,))
    for where, section, which in (("6a", "5.1", FIRST), ("28", "E.1", REST))
    for name, (rule, (says, reported)) in zip(("rise", "fall", "parted", "widens"), _SAYS.items(), strict=True)
] + [
    Claim("specializes-7", "text", "7", "5.2", "With size, Rosetta Neurons fire more on code and math, less on prose", "code and math rise, prose falls", specializes, (FIRST,)),
    Claim("stable-29", "text", "29", "E.2", "The other neurons' firing by type of document is stable", "no shift", others_stable, (FIRST,)),
    Claim("specializes-30", "text", "30", "E.2", "The same shift in another family", "code and math rise", specializes, (REST,)),
    Claim("stable-30", "text", "30", "E.2", "And the same stability of its other neurons", "no shift", others_stable, (REST,)),
    Claim("depths", "text", "31", "E.3", "Rosetta Neurons are spread over all depths", "several depths", spread),
    Claim("depths-images", "images", "32", "E.3", "Rosetta Neurons of OpenCLIP lie at many depths", "several depths, in L/14 more early", spread),
]  # fmt: skip
