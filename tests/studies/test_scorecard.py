"""Verdicts on planted tables, those of the published run computed again, and the README's tables of claims."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rosetta import marked, profiles
from rosetta.laws import fits as power_laws
from rosetta.models.load import ROOT
from rosetta.studies import counts, scorecard
from rosetta.studies.claims import claim, scaling

YES, NO, OPEN = claim.VERDICTS.values()
README = ROOT / "README.md"


@pytest.fixture(scope="module")
def micro():
    return profiles.load("micro")


@pytest.fixture(scope="module")
def published(micro):
    return scorecard.Tables(ROOT / "figures", micro)


@pytest.fixture(scope="module")
def card(published):
    return scorecard.scorecard(published).set_index("claim")


@pytest.fixture
def planted(tmp_path, micro):
    """Writes tables, and gives what a claim's rule says of them."""

    def judge(name: str, **tables: pd.DataFrame) -> claim.Finding:
        for table, content in tables.items():
            content.to_csv(tmp_path / f"{table}.csv", index=False)
        return scorecard.CLAIMS[name].judge(scorecard.Tables(tmp_path, micro))

    return judge


def table(columns: str, *rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns.split())


# ---------------------------------------------------------------------------------------------------------------------
# Three values

ENDS = st.tuples(st.floats(-5, 5), st.floats(-5, 5)).map(sorted)


@given(ENDS, st.floats(-5, 5))
def test_a_side_is_claimed_only_where_the_whole_interval_lies_there(ends, bound):
    low, high = ends
    inside = np.linspace(low, high, 11)
    assert (claim.above(low, high, bound) is True) == (inside > bound).all()
    assert (claim.above(low, high, bound) is False) == (inside < bound).all()
    opposite = {True: False, False: True, None: None}
    assert claim.below(low, high, bound) is opposite[claim.above(low, high, bound)]


def test_without_an_interval_nothing_is_decided():
    nan = float("nan")
    assert claim.above(nan, nan) is claim.below(nan, nan) is claim.level(nan, nan) is claim.every([]) is None


@given(st.lists(st.sampled_from([True, False, None])))
def test_all_must_hold_one_that_fails_is_enough_one_that_is_open_leaves_it_open(statements):
    """Whatever the open ones turn out to be: the answer is what both extremes agree on."""
    if not statements:
        return
    extremes = {all(default if s is None else s for s in statements) for default in (True, False)}
    assert claim.every(statements) is (extremes.pop() if len(extremes) == 1 else None)


def test_no_trend_is_an_interval_that_holds_none_and_is_narrow():
    assert claim.level(-0.3, 0.3) is True and claim.level(0.1, 0.3) is False and claim.level(-0.8, 0.8) is None


# ---------------------------------------------------------------------------------------------------------------------
# Rules on planted tables: claims that hold, that fail, that cannot be measured

FITS = "curve alpha alpha_low alpha_high r2 r2_low r2_high points count"


def fitted(*rows) -> pd.DataFrame:
    return table(FITS, *[(f"c{i}", *row, 6, "raw") for i, row in enumerate(rows)])


STEADY = (0.6, 0.5, 0.7, 0.99, 0.95, 0.995)
LINEAR = (1.2, 1.1, 1.3, 0.99, 0.95, 0.995)
WIDE = (0.6, -0.5, 1.7, 0.8, 0.0, 0.9)
FALLING = (-0.6, -0.7, -0.5, 0.99, 0.95, 0.995)
RAGGED = (0.6, 0.2, 0.9, 0.7, 0.1, 0.8)


@pytest.mark.parametrize(
    ("name", "rows", "holds"),
    [
        ("law", [STEADY, LINEAR], True), ("law", [STEADY, FALLING], False), ("law", [STEADY, WIDE], None),
        ("law", [STEADY, RAGGED], False), ("law", [RAGGED, WIDE], None),
        ("r2", [STEADY], True), ("r2", [RAGGED], False), ("r2", [(0.6, 0.5, 0.7, 0.97, 0.6, 0.993)], None),
        ("sublinear", [STEADY, RAGGED], True), ("sublinear", [STEADY, LINEAR], False), ("sublinear", [STEADY, WIDE], None),
        ("range", [STEADY, RAGGED], True), ("range", [STEADY, LINEAR], False), ("range", [WIDE], None),
    ],
)  # fmt: skip
def test_claims_of_exponents(planted, name, rows, holds):
    found = planted(name, fits=fitted(*rows))
    assert found.holds is holds and len(found.figures) == len(rows) and (found.why != "") == (holds is None)


def test_two_sizes_have_no_interval_and_tell_nothing(planted):
    two = (0.6, np.nan, np.nan, 1.0, np.nan, np.nan)
    found = [planted(name, fits=fitted(two)) for name in ("law", "r2", "sublinear", "range")]
    assert {(one.verdict, one.why) for one in found} == {(OPEN, "too few sizes for an interval")}


@pytest.mark.parametrize(
    ("rows", "holds"),
    [([(0.6, 0.5, 0.7), (0.7, 0.6, 0.8)], True), ([(0.6, 0.5, 0.7), (0.9, 0.85, 0.95)], False), ([(0.6, 0.1, 1.1)], None),
     ([(1.2, 1.1, 1.3)], False)],
)  # fmt: skip
def test_the_range_over_k(planted, rows, holds):
    by_k = table("k alpha alpha_low alpha_high", *[(k, *row) for k, row in enumerate(rows, 1)])
    assert planted("k", fits_by_k=by_k).holds is holds


def points_of(null, spread, trained=lambda n: 2 * n**0.6) -> pd.DataFrame:
    sizes = np.array([256, 576, 1024, 1920, 3072, 4608])
    mean = np.array([null(n) for n in sizes])
    return pd.DataFrame({
        "curve": "c", "models": "a + b", "neurons": sizes, "raw": trained(sizes).round(), "aligned_same": trained(sizes).round(),
        "untrained_mean": mean, "untrained_low": mean - spread, "untrained_high": mean + spread,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("null", "spread", "holds"),
    [(lambda n: 20 + n % 7, 2, True), (lambda n: 0.5 * n**0.6, 1, False), (lambda n: 4 * n**0.6, 1, False),
     (lambda n: 50 + n % 7, 45, None)],
)  # fmt: skip
def test_a_null_is_few_and_level_or_it_is_not(planted, null, spread, holds):
    assert planted("untrained", points=points_of(null, spread)).holds is holds


@pytest.mark.parametrize(
    ("first", "last", "holds"),
    [((0.3, 0.2, 0.4), (0.9, 0.8, 0.95), True), ((0.3, 0.2, 0.4), (0.45, 0.42, 0.48), False),
     ((0.3, 0.2, 0.4), (0.5, 0.39, 0.6), None), ((0.9, 0.85, 0.95), (0.6, 0.55, 0.7), False)],
)  # fmt: skip
def test_a_set_settles(planted, first, last, holds):
    sweep = table("tokens overlap overlap_low overlap_high", (10, np.nan, np.nan, np.nan), (100, *first), (1000, *last))
    assert planted("settles", token_sweep=sweep).holds is holds


def trends(*rows) -> pd.DataFrame:
    return table("population category slope low high family", *[(*row, "pythia") for row in rows])


@pytest.mark.parametrize(
    ("code", "prose", "holds"),
    [((0.2, 0.1, 0.3), (-0.2, -0.3, -0.1), True), ((-0.2, -0.3, -0.1), (0, -1, 1), False), ((0.2, 0.1, 0.3), (0, -1, 1), None)],
)  # fmt: skip
def test_a_shift_towards_code_and_away_from_prose(planted, code, prose, holds):
    rows = trends(
        ("Rosetta", "code", *code), ("Rosetta", "general prose", *prose), ("Rosetta", "formal/scientific", 9, 8, 10)
    )
    assert planted("specializes-7", firing_trends=rows).holds is holds


def table1(rosetta, other, oracle=(51, 50, 52), random=(90, 85, 95)) -> pd.DataFrame:
    rows = {"base": (120, np.nan, np.nan), "random": random, "non-Rosetta": other, "Rosetta": rosetta, "oracle": oracle}
    return table("filter mean low high", *[(name, *numbers) for name, numbers in rows.items()])


@pytest.mark.parametrize(
    ("rosetta", "random", "holds"),
    [((52, 51, 53), (90, 85, 95), True), ((60, 58, 62), (90, 85, 95), False), ((52, 51, 53), (52, 50, 54), None)],
)
def test_as_good_as_the_true_label_where_a_random_sample_is_not(planted, rosetta, random, holds):
    assert planted("oracle", table1=table1(rosetta, (53, 52, 54), random=random)).holds is holds


def test_one_neuron_against_another(planted):
    found = [
        planted("other-neuron", table1=table1((52, 51, 53), other)).verdict
        for other in ((56, 55, 57), (45, 44, 46), (53, 52, 54))
    ]
    assert found == [YES, NO, OPEN]


@pytest.mark.parametrize(("error", "holds"), [(0.01, True), (0.2, False)])
def test_slopes_of_the_simulation(planted, error, holds):
    row = ("a", 2.0, 0.5 + error, 0.5, 0.6, error)
    assert planted("theory-count", theory_slopes=table("panel beta alpha alpha_low alpha_high error", row)).holds is holds  # fmt: skip


RATES = "family population slope low high"


def test_claims_by_judges_have_verdicts_once_their_tables_are_there(planted):
    rows = [("openclip", "Rosetta", 0.2, 0.1, 0.3), ("openclip", "other", 0.1, -0.1, 0.2), ("dinov2", "Rosetta", -0.2, -0.3, -0.1),
            ("dinov2", "other", -0.2, -0.3, -0.1)]  # fmt: skip
    judged = {
        "judge_trends": table(RATES, *rows),
        "judge_gaps": table("family model neurons gap low high", ("openclip", "a", 9, -0.2, -0.3, -0.1),
                            ("openclip", "b", 90, 0.2, 0.1, 0.3), ("dinov2", "c", 9, 0.1, -0.1, 0.2)),
        "judge_images": table("model images population rate low high", ("a", 2, "Rosetta", 0.9, 0.8, 1), ("a", 2, "other", 0.5, 0.4, 0.6),
                              ("a", 20, "Rosetta", 0.5, 0.4, 0.6), ("a", 20, "other", 0.2, 0.1, 0.3)),
        "judge_validation": table("judge measure mean low high chance", ("oracle", "accuracy", 0.7, 0.6, 0.8, 0.5), ("oracle", "f1", 0.1, 0, 0.2, 0.5)),
        "fig38": table("curve capture neurons count", *[("x", "m_t", n, n) for n in (9, 99, 999)],
                       *[("y", "m_t", n, c) for n, c in ((9, 20), (99, 10), (999, 30))], ("y", "as released", 9, 1)),
    }  # fmt: skip
    expected = {"judged-rise-6b": True, "judged-fall-6b": None, "judged-parted-6b": True, "judged-rise-37": False,
                "judged-fall-37": True, "judged-parted-37": None, "judged-images": True, "judge-foretells": True, "no-law": True}  # fmt: skip
    assert {name: planted(name, **judged).holds for name in expected} == expected


def test_what_was_not_run_is_not_measurable_and_the_table_is_named(tmp_path, micro):
    card = scorecard.scorecard(scorecard.Tables(tmp_path, micro))
    assert (card["verdict"] == OPEN).all() and card["why"].str.fullmatch(r"not run: no [\w]+\.csv").all()
    assert "not run: no fits_images.csv" in set(card["why"])


def test_a_run_of_two_sizes_has_a_scorecard(tmp_path, micro, published):
    """As the smoke profile has it: no intervals, and much that is missing."""
    for end in ("", "_images"):
        points = pd.read_csv(ROOT / "figures" / f"points{end}.csv")
        points = points[points["neurons"].rank(method="dense") <= 3].groupby("curve").head(2)
        points.to_csv(tmp_path / f"points{end}.csv", index=False)
        counts.fits(points).to_csv(tmp_path / f"fits{end}.csv", index=False)
        counts.share_fits(counts.shares(points)).to_csv(tmp_path / f"share_fits{end}.csv", index=False)
        power_laws(points.assign(k=1), ["k"], "raw").to_csv(tmp_path / f"fits_by_k{end}.csv", index=False)
    card = scorecard.scorecard(scorecard.Tables(tmp_path, micro)).set_index("claim")
    assert (card.loc[["law", "sublinear", "range", "share", "collapsed"], "verdict"] == OPEN).all()
    for part in scorecard.HEADS:
        assert scorecard.readme_table(part, scorecard.Tables(tmp_path, micro)).count("\n") > 8


# ---------------------------------------------------------------------------------------------------------------------
# The published run


def test_every_claim_has_a_rule_in_words_a_place_and_a_verdict(card):
    assert len(card) == len(scorecard.CLAIMS) and set(card["verdict"]) == {YES, NO, OPEN}
    assert (
        card["rule"].str.startswith("Reproduced if ").all() and card["where"].str.fullmatch(r"\d+[a-c]?|Table \d").all()
    )
    figures = {"2", "3a", "3b", "4", "6a", "6b", "7", "25", "26", "28", "29", "30", "31", "32", "33", "34", "35", "36", "37", "38"}  # fmt: skip
    assert figures | {"27a", "27b", "27c", "Table 1", "Table 5"} <= set(card["where"])
    assert scorecard.verdicts(card.reset_index()).to_numpy().sum() == len(card)
    assert ((card["why"] != "") == (card["verdict"] == OPEN)).all()


def test_every_figure_that_has_an_interval_has_it(published):
    """Counts of trained pairs, of which there is one, tallies, maxima and the base model have none."""
    figures = scorecard.figures(published)
    without = figures[figures["low"].isna()]
    alone = {"alike", "alike-images", "depths", "depths-images", "real-count", "theory-falls", "theory-robust"}
    assert set(without["claim"]) == alone | {"random"} and list(without[without["claim"] == "random"]["of"]) == ["base"]
    rest = figures.dropna()
    assert ((rest["low"] <= rest["value"]) & (rest["value"] <= rest["high"])).all() and len(rest) > 80


def test_exponents_are_those_of_a_line_through_the_published_counts(card):
    points = pd.read_csv(ROOT / "figures" / "points.csv")
    for curve, group in points.groupby("curve"):
        x, y = np.log(group["neurons"]), np.log(group["raw"])
        line = stats.linregress(x, y)
        half = stats.t.ppf(0.975, len(x) - 2) * line.stderr
        alpha = f"{curve} {line.slope:.2f} [{line.slope - half:.2f}, {line.slope + half:.2f}]"
        assert alpha in card.loc["sublinear", "measured"]
        assert (line.slope + half < 1) and card.loc["sublinear", "verdict"] == YES
        share = f"{curve} {line.slope - 1:.2f} [{line.slope - 1 - half:.2f}, {line.slope - 1 + half:.2f}]"
        assert share in card.loc["share", "measured"]


def test_verdicts_on_nulls_are_those_of_their_counts(card):
    points = pd.read_csv(ROOT / "figures" / "points.csv")
    grow = [stats.linregress(np.log(g["neurons"]), np.log(g["untrained_mean"])) for _, g in points.groupby("curve")]
    assert any(line.slope > 0 and line.pvalue < 0.05 for line in grow)
    assert (points["permuted_low"] > points["aligned_same"]).any()
    assert (card.loc[["untrained", "permuted"], "verdict"] == NO).all()


def test_the_jaccard_index_has_the_interval_of_the_pairs_that_either_set_has(published, card):
    most = pd.read_csv(ROOT / "figures" / "real_and_generated.csv").iloc[-1]
    both, either = scaling.shared(published.of("images"))
    assert both / either == pytest.approx(most.jaccard) and both + either == most.real + most.generated
    bounds = stats.binomtest(both, either).proportion_ci(0.95, "wilson")
    assert f"{most.jaccard:.2f} [{bounds.low:.2f}, {bounds.high:.2f}]" in card.loc["real-same", "measured"]


def test_published_shares_are_those_of_the_published_counts(published):
    for part in ("text", "images"):
        shares = counts.shares(published.of(part)["points"])
        pd.testing.assert_frame_equal(shares, published.of(part)["shares"])
        pd.testing.assert_frame_equal(counts.share_fits(shares), published.of(part)["share_fits"])


def test_the_published_scorecard_is_that_of_the_published_tables(card):
    kept = pd.read_csv(ROOT / "figures" / "scorecard.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(kept.astype(str), card.reset_index()[list(kept)].astype(str))


# ---------------------------------------------------------------------------------------------------------------------
# The README


def test_the_readmes_tables_of_claims_are_those_of_the_published_run(published, tmp_path):
    copy = shutil.copy(README, tmp_path)
    scorecard.describe(tmp_path / "README.md", published)
    assert (tmp_path / "README.md").read_bytes() == README.read_bytes(), f"run `make figures`, or compare with {copy}"


def test_its_first_words_follow_from_the_verdicts(published, card):
    assert "| **Not here.** Fewer than trained ones" in scorecard.readme_table("text", published)
    for name, words in {"law": "It does: R²", "sublinear": "Sublinear: "}.items():
        assert card.loc[name, "verdict"] == YES and words in scorecard.readme_table("text", published)


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [([True, True], "yes"), ([True, False], "**Half of it.**"), ([False, None], "**Not here.**"), ([True, None], "**Not measurable at this size.**")],
)  # fmt: skip
def test_first_words(verdicts, words):
    from rosetta.studies.claims.sentences import lead

    assert lead(verdicts, "yes") == words


def test_another_run_gives_other_sentences(tmp_path, micro):
    """Numbers, words and verdicts change with the tables: the templates hold none."""
    for file in (ROOT / "figures").glob("*.csv"):
        shutil.copy(file, tmp_path)
    fits = pd.read_csv(tmp_path / "fits.csv")
    fits[["alpha", "alpha_low", "alpha_high"]] += 1
    fits.to_csv(tmp_path / "fits.csv", index=False)
    effects = pd.read_csv(tmp_path / "separation.csv")
    slopes = [column for column in effects if column.startswith("other, per decade")]
    effects[slopes] = -effects[slopes]
    effects = effects.rename(columns={slopes[1]: slopes[2], slopes[2]: slopes[1]})
    effects.to_csv(tmp_path / "separation.csv", index=False)
    said = scorecard.readme_table("text", scorecard.Tables(tmp_path, micro))
    assert "| **Not here.** 1.55 [1.33, 1.77] (pythia-opt-qwen)" in said and "Sublinear: 0.55" not in said
    assert "They fall: by -0.17 to -0.13" in said
    of_others = next(line for line in said.splitlines() if "fall towards zero" in line)
    assert "**Not here.**" not in of_others and "Qwen -0.13 [-0.35, +0.10]" in of_others


def test_no_number_stands_in_a_sentence_of_what_was_not_run(tmp_path, micro):
    said = scorecard.readme_table("images", scorecard.Tables(tmp_path, micro)).splitlines()[2:]
    assert all(re.search(r"\| Not run: no \w+\.csv\. \|$", line) for line in said) and len(said) == 10


def test_only_what_stands_between_the_marks_is_written(tmp_path):
    mark, path = marked.begin("x", "y"), tmp_path / "a.md"
    path.write_text(f"before\n{mark}\nold\n{marked.END}\nafter\n", encoding="utf-8")
    marked.fill(path, {mark: "new"})
    marked.fill(path, {mark: "new"})
    assert path.read_text(encoding="utf-8") == f"before\n{mark}\nnew\n{marked.END}\nafter\n"
    for text in ("none", f"{mark} open"):
        with pytest.raises(ValueError, match="put it back"):
            marked.between(text, mark, "new")
