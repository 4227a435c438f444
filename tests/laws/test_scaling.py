import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rosetta.laws.scaling import fit_power_law, fits, leave_largest_out, local_slopes, r2_interval, wilson

SIZES = np.array([9216.0, 24576.0, 49152.0, 98304.0, 196608.0, 131072.0])


def noisy(seed=0, alpha=0.7, c=3.0, noise=0.1, sizes=SIZES):
    return c * sizes**alpha * np.exp(noise * np.random.default_rng(seed).standard_normal(len(sizes)))


@settings(max_examples=60, deadline=None)
@given(
    alpha=st.floats(-2, 2).filter(lambda alpha: abs(alpha) > 0.01),
    c=st.floats(1e-3, 1e3),
    sizes=st.lists(st.integers(100, 10**8), min_size=3, max_size=8, unique=True),
)
def test_an_exact_power_law_is_recovered(alpha, c, sizes):
    sizes = np.array(sizes, dtype=float)
    if np.ptp(np.log(sizes)) < 0.1:  # sizes too close for float64 to tell the slope
        return
    fit = fit_power_law(sizes, c * sizes**alpha)
    assert fit.alpha == pytest.approx(alpha, abs=1e-7)
    assert fit.c == pytest.approx(c, rel=1e-5)
    assert fit.r2 == pytest.approx(1, abs=1e-7)
    assert fit.alpha_ci95[0] <= alpha + 1e-7 and fit.alpha_ci95[1] >= alpha - 1e-7
    np.testing.assert_allclose(fit.predict(sizes), c * sizes**alpha, rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_a_noisy_power_law_is_fitted_as_by_numpy_and_scipy(seed):
    counts = noisy(seed)
    fit = fit_power_law(SIZES, counts)
    slope, intercept = np.polyfit(np.log(SIZES), np.log(counts), 1)
    assert fit.alpha == pytest.approx(slope, rel=1e-9)
    assert fit.c == pytest.approx(np.exp(intercept), rel=1e-8)
    line = stats.linregress(np.log(SIZES), np.log(counts))
    assert fit.r2 == pytest.approx(line.rvalue**2, rel=1e-9)
    half = stats.t.ppf(0.975, len(SIZES) - 2) * line.stderr
    np.testing.assert_allclose(fit.alpha_ci95, (line.slope - half, line.slope + half), rtol=1e-9)


def test_the_interval_holds_the_true_exponent_about_95_times_in_100():
    hits = sum(low <= 0.7 <= high for low, high in (fit_power_law(SIZES, noisy(s)).alpha_ci95 for s in range(400)))
    assert stats.binomtest(hits, 400, 0.95).pvalue > 1e-3


@pytest.mark.parametrize("noise", [0.1, 0.3, 1.0])
def test_the_interval_of_r2_holds_that_of_the_noiseless_line_about_95_times_in_100(noise):
    x = np.log(SIZES)
    explained = 0.7**2 * x.var()
    true = explained / (explained + noise**2)
    hits = sum(
        low <= true <= high for low, high in (fit_power_law(SIZES, noisy(s, noise=noise)).r2_ci95 for s in range(400))
    )
    assert stats.binomtest(hits, 400, 0.95).pvalue > 1e-3


@pytest.mark.parametrize(("r2", "points"), [(0.3, 6), (0.8, 5), (0.9, 12), (0.02, 8), (0.5, 3)])
def test_the_bounds_of_r2_leave_two_and_a_half_percent_on_either_side(r2, points):
    low, high = r2_interval(r2, points)
    assert 0 <= low < r2 and low < high < 1
    rng = np.random.default_rng(0)
    for bound, sides in ((high, 0.025), (low, 0.975)):
        if bound == 0:  # even without any slope more than 2.5% exceed what was found
            sides = None
        d = np.sqrt(points * bound / (1 - bound))
        z, chi2 = rng.standard_normal(200_000) + d, rng.chisquare(points - 2, 200_000)
        drawn = z**2 / (z**2 + chi2)
        share = (drawn <= r2).mean()
        assert share == pytest.approx(sides, abs=0.002) if sides else share < 0.975


def test_the_interval_of_r2_of_a_perfect_line_and_of_too_few_points():
    assert fit_power_law(SIZES, [37] * len(SIZES)).r2_ci95 == (1, 1)
    assert np.isnan(fit_power_law([10, 1000], [5, 50]).r2_ci95).all()
    low, high = r2_interval(1 - 1e-12, 5)
    assert 1 - 1e-9 < low < high <= 1


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (0, 50), (3, 7), (137, 383), (256, 303), (1, 1), (10**6, 10**7)])
def test_wilsons_interval_holds_the_shares_that_the_score_test_does_not_reject(successes, n):
    share, low, high = wilson(successes, n)
    assert (low == 0) == (successes == 0) and (high == 1) == (successes == n)
    assert share == successes / n and 0 <= low <= share <= high <= 1
    for bound in (low, high):  # (share - p)^2 = z^2 p (1 - p) / n at both ends
        score = (share - bound) ** 2 - stats.norm.ppf(0.975) ** 2 * bound * (1 - bound) / n
        assert score == pytest.approx(0, abs=1e-12)
    by_scipy = stats.binomtest(successes, n).proportion_ci(0.95, "wilson")
    assert (low, high) == pytest.approx((by_scipy.low, by_scipy.high), abs=1e-12)


def test_a_share_of_nothing_and_one_above_1():
    assert np.isnan(wilson(0, 0)).all()
    for successes, n in ((3, 2), (-1, 5), (1, 0), (float("nan"), 4)):
        with pytest.raises(ValueError, match="0 <= successes <= n"):
            wilson(successes, n)


def test_two_points_fit_any_line_and_have_no_interval():
    fit = fit_power_law([10, 1000], [5, 50])
    assert fit.alpha == pytest.approx(0.5) and fit.c == pytest.approx(5 / np.sqrt(10)) and fit.r2 == pytest.approx(1)
    assert np.isnan(fit.alpha_ci95).all()


def test_equal_counts_are_a_flat_line_that_explains_them():
    fit = fit_power_law(SIZES, [37] * len(SIZES))
    assert fit.alpha == pytest.approx(0, abs=1e-9) and fit.c == pytest.approx(37) and fit.r2 == 1


def test_a_fit_reads_as_one_line():
    text = str(fit_power_law(SIZES, 3 * SIZES**0.5))
    assert text == "alpha = 0.50 [0.50, 0.50], R2 = 1.000"


@pytest.mark.parametrize(
    ("sizes", "counts", "message"),
    [
        ([10, 100, 1000], [5, 0, 20], "positive"),
        ([10, 100, 1000], [5, -1, 20], "positive"),
        ([10, 100, 1000], [5, np.nan, 20], "positive"),
        ([0, 100, 1000], [5, 10, 20], "positive"),
        ([10, 100, np.inf], [5, 10, 20], "positive"),
        ([10, 10, 10], [5, 6, 7], "two different sizes"),
        ([10], [5], "two different sizes"),
        ([], [], "two different sizes"),
        ([10, 100], [5, 6, 7], "two equal rows"),
        ([[10, 100]], [[5, 6]], "two equal rows"),
    ],
)
def test_what_has_no_power_law_is_refused(sizes, counts, message):
    with pytest.raises(ValueError, match=message):
        fit_power_law(sizes, counts)


def test_local_slopes_are_the_exponents_between_neighbours_in_size():
    np.testing.assert_allclose(local_slopes(SIZES, 3 * SIZES**0.7), 0.7)
    # From 100 to 10 000 the count doubles, from there to 1 000 000 it grows tenfold.
    np.testing.assert_allclose(local_slopes([1_000_000, 100, 10_000], [20, 1, 2]), [np.log10(2) / 2, 0.5])


@pytest.mark.parametrize("seed", range(3))
def test_the_largest_point_is_predicted_from_the_others(seed):
    counts = noisy(seed)
    largest = np.argmax(SIZES)
    x, y = np.log(np.delete(SIZES, largest)), np.log(np.delete(counts, largest))
    line = stats.linregress(x, y)
    at = np.log(SIZES[largest])
    centre = line.intercept + line.slope * at
    n = len(x)
    residual = np.sqrt(((y - line.intercept - line.slope * x) ** 2).sum() / (n - 2))
    half = (
        stats.t.ppf(0.975, n - 2) * residual * np.sqrt(1 + 1 / n + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    )
    expected = [SIZES[largest], *np.exp([centre, centre - half, centre + half]), counts[largest]]
    np.testing.assert_allclose(leave_largest_out(SIZES, counts), expected, rtol=1e-8)


def test_leaving_one_of_three_points_out_is_refused():
    with pytest.raises(ValueError, match="at least 4"):
        leave_largest_out(SIZES[:3], [1, 2, 3])
    assert leave_largest_out(SIZES[:4], 2 * SIZES[:4]).predicted == pytest.approx(2 * SIZES[3])


def test_every_group_of_a_table_gets_its_own_fit():
    points = pd.DataFrame(
        [
            {"curve": curve, "k": k, "neurons": size, "raw": 2 * size**alpha}
            for curve, k, alpha in (("z", 1, 0.5), ("a", 1, 0.8), ("z", 5, 0.9))
            for size in SIZES
        ]
    )
    table = fits(points, ["curve", "k"], "raw")
    assert list(zip(table.curve, table.k, strict=True)) == [("z", 1), ("a", 1), ("z", 5)]
    np.testing.assert_allclose(table.alpha, [0.5, 0.8, 0.9])
    np.testing.assert_allclose(table.c, 2)
    np.testing.assert_allclose(table.r2, 1)
    assert (table.points == len(SIZES)).all()
    by_one = fits(points[points.k == 1], ["curve"], "raw")
    assert by_one.curve.tolist() == ["z", "a"]


def test_a_group_that_cannot_be_fitted_is_left_out():
    points = pd.DataFrame(
        {
            "curve": ["good"] * 3 + ["one size"] * 2 + ["no count"] * 3,
            "neurons": [10, 100, 1000, 10, 10, 10, 100, 1000],
            "raw": [1, 10, 100, 4, 5, 0, 0, 7],
        }
    )
    table = fits(points, ["curve"], "raw")
    assert table.curve.tolist() == ["good"] and table.alpha[0] == pytest.approx(1)
