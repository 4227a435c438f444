"""Claims of section 5.3 and F: one neuron as a filter of data (Table 1)."""

import pandas as pd

from rosetta.studies.amounts import FILTERS
from rosetta.studies.claims.claim import Claim, Figure, Finding, Tables, above, apart, every

#: "Nearly all" of the target.
NEARLY = 0.9
RANDOM, OTHER, ROSETTA, ORACLE = FILTERS
BASE = "base"


def rows(tables: Tables) -> pd.DataFrame:
    """Table 1, a row a filter."""
    return tables["table1"].set_index("filter")


def f1(table: pd.DataFrame, *filters: str) -> tuple[Figure, ...]:
    return tuple(Figure(name, *table.loc[name, ["f1", "f1_low", "f1_high"]]) for name in filters)


def perplexity(table: pd.DataFrame, *filters: str) -> tuple[Figure, ...]:
    return tuple(Figure(name, *table.loc[name, ["mean", "low", "high"]], ".1f") for name in filters)


def recovers(tables: Tables) -> Finding:
    """Reproduced if F1 of the Rosetta Neuron's choice has an interval above 0.9, nearly all of the target; not reproduced if it lies
    below."""
    figures = f1(rows(tables), ROSETTA)
    return Finding(above(figures[0].low, figures[0].high, NEARLY), figures)


def recovers_more(tables: Tables) -> Finding:
    """Reproduced if F1 of the Rosetta Neuron's choice has an interval above that of the non-Rosetta neuron's; not reproduced if it
    lies below."""
    table = rows(tables)
    holds = apart(table.loc[ROSETTA], table.loc[OTHER], "f1_")
    return Finding(holds, f1(table, ROSETTA, OTHER))


def as_good_as_oracle(tables: Tables) -> Finding:
    """Reproduced if the intervals of perplexity after training on the Rosetta Neuron's choice and on the true label overlap, or the
    first lies below, while a random sample's lies above both; not reproduced if the first lies above the second. If a random sample is
    not told from the true label, nothing is."""
    table = rows(tables)
    worse = apart(table.loc[ROSETTA], table.loc[ORACLE])
    told = every(apart(table.loc[RANDOM], table.loc[name]) for name in (ROSETTA, ORACLE))
    return Finding(False if worse else True if told else None, perplexity(table, ROSETTA, ORACLE, RANDOM))


def better_than_random(tables: Tables) -> Finding:
    """Reproduced if perplexity after training on either neuron's choice and on the true label has an interval below a random sample's,
    and that one lies below the base model's. Not reproduced if one lies on the other side."""
    table = rows(tables)
    untrained = table.loc[BASE, "mean"]
    holds = every([
        above(untrained - table.loc[RANDOM, "high"], untrained - table.loc[RANDOM, "low"]),
        *(apart(table.loc[RANDOM], table.loc[name]) for name in (OTHER, ROSETTA, ORACLE)),
    ])  # fmt: skip
    return Finding(holds, perplexity(table, BASE, RANDOM, OTHER, ROSETTA, ORACLE))


def better_than_other(tables: Tables) -> Finding:
    """Reproduced if perplexity after training on the non-Rosetta neuron's choice has an interval above the Rosetta Neuron's; not
    reproduced if it lies below."""
    table = rows(tables)
    return Finding(apart(table.loc[OTHER], table.loc[ROSETTA]), perplexity(table, ROSETTA, OTHER))


CLAIMS = [
    Claim("recovers", "filtering", "Table 1", "5.3", "One Rosetta Neuron filters a language nearly perfectly", "F1 0.98", recovers),
    Claim("recovers-more", "filtering", "Table 1", "5.3", "A non-Rosetta neuron of its layer does worse", "F1 0.09 against 0.98", recovers_more),
    Claim("oracle", "filtering", "Table 1", "5.3", "Training on its choice is as good as on the true label", "perplexity 3.02 ± 0.05 against 3.01 ± 0.04", as_good_as_oracle),
    Claim("random", "filtering", "Table 1", "5.3", "All filters help; a random sample helps least", "6.73 untrained, 3.59 random, 3.23 or less", better_than_random),
    Claim("other-neuron", "filtering", "Table 1", "5.3", "Training on a non-Rosetta neuron's choice helps less", "3.23 ± 0.07 against 3.02 ± 0.05", better_than_other),
]  # fmt: skip
