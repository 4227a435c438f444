"""Claims of section 4.3 and D.7: whether the simulation has the theory's exponents (Figure 27)."""

from rosetta.studies.claims.claim import Claim, Figure, Finding, Tables

#: What D.7 calls within: "epsilon about 0.05".
WITHIN = 0.05


def _slopes(table) -> tuple[Figure, ...]:
    return tuple(
        Figure(f"beta = {row.beta:g}", row.alpha, row.alpha_low, row.alpha_high, ".3f") for row in table.itertuples()
    )


def _worst(table) -> Finding:
    if not len(table):
        return Finding(None, why="no slope could be fitted")
    return Finding(bool((table["error"].abs() <= WITHIN).all()), _slopes(table))


def slope(tables: Tables, panel: str) -> Finding:
    """Reproduced if at every beta the fitted slope is within 0.05 of the theory's, the paper's own tolerance; otherwise not."""
    table = tables["theory_slopes"]
    return _worst(table[table["panel"] == panel])


def slope_of(tables: Tables, reading: str) -> Finding:
    """Reproduced if at every beta the fitted slope of this reading of "non-Rosetta" (backgrounds of all features) is within 0.05 of the
    theory's; otherwise not."""
    table = tables["theory_readings"]
    return _worst(table[(table["reading"] == reading) & (table["background"] == "all")])


def falls(tables: Tables) -> Finding:
    """Reproduced if by every reading of "non-Rosetta" every slope that could be fitted is below 0; otherwise not."""
    table = tables["theory_readings"]
    ends = table["alpha"].min(), table["alpha"].max()
    return Finding(bool((table["alpha"] < 0).all()), (Figure("slopes from", ends[0]), Figure("to", ends[1])))


def robust(tables: Tables) -> Finding:
    """Reproduced if over all values of kappa, gamma and M every fitted slope of all three panels is within 0.05 of the theory's (of c
    below the threshold tau); otherwise not. Figures are the largest errors."""
    table = tables["theory_robustness"]
    worst = table["error"].abs().groupby(table["panel"]).max()
    figures = tuple(Figure(f"({panel})", error, form=".3f") for panel, error in worst.items())
    return Finding(bool((worst <= WITHIN).all()), figures)


CLAIMS = [
    Claim("theory-count", "theory", "27a", "D.7", "Mutual nearest neighbours recover the count's exponent", "1/beta", slope, ("a",)),
    Claim("theory-isolation", "theory", "27b", "D.7", "Rosetta Neurons' isolation grows as the theory says", "(beta-1)/beta", slope, ("b",)),
    Claim("theory-falls", "theory", "27c", "D.7", "That of the other neurons falls", "falls", falls),
    Claim("theory-others", "theory", "27c", "D.7", "It falls as the theory says, over all neurons without a match", "close to -(beta-1)/beta", slope_of, ("coordinates",)),
    Claim("theory-tail", "theory", "27c", "D.7", "It falls as the theory says, over neurons below the threshold", "close to -(beta-1)/beta", slope_of, ("below_tau",)),
    Claim("theory-robust", "theory", "27", "D.7", "Exponents are the same for other kappa, gamma and M", "within about 0.05", robust),
]  # fmt: skip
