"""Claims of section 4, C and G: how many Rosetta Neurons there are, and what they are told from."""

import pandas as pd

from rosetta.laws.scaling import fits, wilson
from rosetta.plots.style import label
from rosetta.studies.claims.claim import WIDE, Claim, Figure, Finding, Tables, above, below, every, intervals, level

#: What the paper says of exponents, and of R2.
EXPONENTS, R2 = (0.5, 0.7), 0.99
#: A line that leaves more than a tenth of the variance of the logarithms is no power law.
LINE = 0.9
#: "Most" of a set of pairs, and "about as many".
MOST, AS_MANY = 0.5, 0.9


def raw(tables: Tables) -> pd.DataFrame:
    """The fits of the paper's count, a row a curve."""
    return tables["fits"].query("count == 'raw'").set_index("curve")


def of_three(tables: Tables) -> pd.DataFrame:
    """Those of the curves whose points have three models."""
    models = tables["points"].groupby("curve")["models"].first().str.count(r" \+ ")
    fitted = raw(tables)
    return fitted[fitted.index.map(models) > 1]


def swept(tables: Tables) -> tuple[pd.DataFrame, str]:
    """The sweep over tokens or images, and what it counts."""
    unit = "images" if tables.part == "images" else "tokens"
    return tables["image_sweep" if unit == "images" else "token_sweep"], unit


def shared(tables: Tables) -> tuple[int, int]:
    """Of the most images, pairs that real and generated ones both give, and that either gives."""
    most = tables["real_and_generated"].iloc[-1]
    both = round(most.jaccard * (most.real + most.generated) / (1 + most.jaccard))
    return both, int(most.real + most.generated) - both


def null_trends(tables: Tables, null: str) -> pd.DataFrame:
    """The power laws of a null's mean count, a row a curve."""
    return fits(tables["points"], ["curve"], f"{null}_mean").set_index("curve")


def _figures(table: pd.DataFrame, column: str = "alpha", form: str = ".2f") -> tuple[Figure, ...]:
    rows = table[[column, f"{column}_low", f"{column}_high"]].itertuples()
    return tuple(Figure(str(of), *numbers, form) for of, *numbers in rows)


def _law(fitted: pd.DataFrame) -> bool | None:
    grows = every(above(*ends) for ends in intervals(fitted, "alpha"))
    return bool((fitted["r2"] >= LINE).all()) if grows else grows


# ---------------------------------------------------------------------------------------------------------------------
# Rules


def alike(tables: Tables) -> Finding:
    """Reproduced if at every point the mean r of matched pairs lies above the permuted null's 99.9th percentile; otherwise not."""
    points = tables["points"]
    ends = [points["mean_correlation"].min(), points["mean_correlation"].max(), points["threshold"].max()]
    figures = (Figure("mean r", ends[0]), Figure("to", ends[1]), Figure("99.9th percentile at most", ends[2]))
    return Finding(bool((points["mean_correlation"] > points["threshold"]).all()), figures)


def law(tables: Tables) -> Finding:
    """Reproduced if on every curve the exponent's interval lies above 0, and R2 is at least 0.9. Not reproduced if an interval
    lies below 0 or, where all lie above, an R2 is lower."""
    fitted = raw(tables)
    return Finding(_law(fitted), _figures(fitted, "r2", ".3f"))


def r2(tables: Tables) -> Finding:
    """Reproduced if the interval of every curve's R2 holds 0.99 and R2 is 0.985 or more; not reproduced if an interval lies below
    0.99."""
    fitted = raw(tables)
    under = [below(*ends, R2) for ends in intervals(fitted, "r2")]
    holds = (
        False
        if True in under
        else True
        if ((fitted["r2"] >= R2 - 0.005) & (fitted["r2_high"] >= R2)).all() and len(fitted)
        else None
    )
    return Finding(holds, _figures(fitted, "r2", ".3f"))


def sublinear(tables: Tables) -> Finding:
    """Reproduced if the interval of every curve's exponent lies below 1; not reproduced if one lies above."""
    fitted = raw(tables)
    return Finding(every(below(*ends, 1) for ends in intervals(fitted, "alpha")), _figures(fitted))


def in_range(tables: Tables) -> Finding:
    """Reproduced if the interval of every curve's exponent reaches into 0.5 to 0.7, and is narrower than 1 (wider, it would tell
    nothing); not reproduced if one lies outside."""
    fitted = raw(tables)

    def within(low: float, high: float) -> bool | None:
        if low > EXPONENTS[1] or high < EXPONENTS[0]:
            return False
        return True if high - low < WIDE else None

    return Finding(every(within(*ends) for ends in intervals(fitted, "alpha")), _figures(fitted))


def collapsed(tables: Tables) -> Finding:
    """Reproduced if on every curve of three models the exponent's interval lies between 0 and 1, and R2 is at least 0.9. Not
    reproduced if an interval lies below 0 or above 1 or, where all lie between, an R2 is lower."""
    fitted = of_three(tables)
    under = every(below(*ends, 1) for ends in intervals(fitted, "alpha"))
    return Finding(every([_law(fitted), under]), _figures(fitted))


def shrinks(tables: Tables) -> Finding:
    """Reproduced if on every curve the exponent of the share |R|/N has an interval below 0; not reproduced if one lies above."""
    fitted = tables["share_fits"].query("count == 'raw'").set_index("curve")
    return Finding(every(below(*ends) for ends in intervals(fitted, "alpha")), _figures(fitted))


def by_k(tables: Tables) -> Finding:
    """Reproduced if for every k the exponent's interval lies below 1, and exponents differ by 0.2 at most, as wide as the paper's
    range. Not reproduced if an interval lies above 1 or they differ by more."""
    fitted = tables["fits_by_k"].set_index("k")
    narrow = fitted["alpha"].max() - fitted["alpha"].min() <= EXPONENTS[1] - EXPONENTS[0]
    under = [below(*ends, 1) for ends in intervals(fitted, "alpha")]
    return Finding(every([bool(narrow), *under]), _figures(fitted.rename("k = {}".format)))


def null(tables: Tables, name: str, beside: str) -> Finding:
    """Reproduced if at every point the interval of the null's count lies below the count of trained pairs, over the same positions,
    and on no curve the null's count has a trend (an exponent whose interval holds 0 and is narrower than 1). Not reproduced if at
    one point it lies above, or on one curve there is a trend."""
    points, trends = tables["points"], null_trends(tables, name)
    fewer = [
        below(*ends, count)
        for ends, count in zip(intervals(points, f"{name}"), points[beside].astype(float), strict=True)
    ]
    no_trend = [level(*ends) for ends in intervals(trends, "alpha")]
    return Finding(every([*fewer, *no_trend]), _figures(trends))


def settles(tables: Tables) -> Finding:
    """Reproduced if the share of the last set's pairs that the set before it held has an interval above a half, and above that of
    the first share. Not reproduced if it lies below either."""
    sweep, unit = swept(tables)
    known = sweep.dropna(subset=["overlap"])
    figures = tuple(
        Figure(f"{row[unit]:,.0f} {unit}", row.overlap, row.overlap_low, row.overlap_high, ".0%")
        for _, row in known.iloc[[0, -1] if len(known) > 1 else slice(None)].iterrows()
    )
    if len(known) < 2:
        return Finding(None, figures, "fewer than three amounts")
    (_, _, low, high, _), (_, _, last_low, last_high, _) = figures
    rises = True if last_low > high else False if last_high < low else None
    return Finding(every([above(last_low, last_high, MOST), rises]), figures)


def real_count(tables: Tables) -> Finding:
    """Reproduced if generated images give at least nine tenths as many pairs as real ones, of the most images; otherwise not."""
    most = tables["real_and_generated"].iloc[-1]
    figures = Figure("generated", most.generated, form=".0f"), Figure("real", most.real, form=".0f")
    return Finding(bool(most.generated >= AS_MANY * most.real), figures)


def real_same(tables: Tables) -> Finding:
    """Reproduced if the Jaccard index of the pairs over real and over generated images, of the most images, has an interval
    (Wilson's, over the pairs of either) above a half; not reproduced if it lies below."""
    index = wilson(*shared(tables))
    return Finding(above(index.low, index.high, MOST), (Figure("Jaccard index", *index),))


def example(tables: Tables) -> str:
    """The curve of which a null's counts are told, as readers know it."""
    profile = tables.profile
    return label(profile.k_curve if tables.part == "text" else profile.images.k_curve)


# ---------------------------------------------------------------------------------------------------------------------
# Claims


def _both(name, where, section, says, reported, rule, *arguments) -> list[Claim]:
    """A claim that is made of texts and of images; `where` names the figure of either, if there are two."""
    places = where if isinstance(where, tuple) else (where, where)
    return [
        Claim(name if part == "text" else f"{name}-images", part, place, section, says, reported, rule, arguments)
        for part, place in zip(("text", "images"), places, strict=True)
    ]


CLAIMS = [
    *_both("alike", "2", "3.2", "Matched neurons respond alike to the same inputs", "r well above chance", alike),
    *_both("law", ("3a", "3b"), "4.2", "The number of Rosetta Neurons grows as a power law of the number of neurons", "R² about 0.99", law),
    *_both("r2", ("3a", "3b"), "4.2", "The power law fits closely", "R² about 0.99", r2),
    *_both("sublinear", ("3a", "3b"), "4.2", "The exponent is sublinear", "alpha below 1", sublinear),
    *_both("range", ("3a", "3b"), "4.2", "The exponent lies in a narrow range", "about 0.5 to 0.7", in_range),
    *_both("collapsed", ("3a", "3b"), "4.2", "The laws hold for neurons that three models share", "as for two", collapsed),
    *_both("share", ("3a", "3b"), "4.3", "Rosetta Neurons are a shrinking fraction of all neurons", "alpha - 1 below 0", shrinks),
    *_both("k", "25", "C.2", "Exponents stay in a narrow sublinear range for any k of the mutual top-k", "narrow, below 1", by_k),
    *_both("untrained", "4", "4.2", "Untrained networks give few matches, without a trend", "marginal, no trend", null, "untrained", "raw"),
    *_both("permuted", "26", "C.3", "Permuted inputs give few matches, without a trend", "20 to 100, no trend", null, "permuted", "aligned_same"),
    *_both("settles", ("33", "34"), "G", "The set of matches settles as there are more inputs", "overlap rises towards 1", settles),
    Claim("real-count", "images", "35", "G.3", "Generated images give about as many pairs of two encoders as real ones", "93%", real_count),
    Claim("real-same", "images", "35", "G.3", "These are largely the same pairs", "Jaccard index about 0.8", real_same),
]  # fmt: skip
