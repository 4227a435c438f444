import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PAIR, mutual
from scipy import stats

from rosetta import plots
from rosetta.matching.outliers import first_positions
from rosetta.matching.positions import thinning
from rosetta.studies import positions
from rosetta.studies.matches import Study


def sides(study, seed=None):
    """Both models' activations over all positions, float64."""
    batches = study.batches(PAIR, untrained_seed=seed)
    return [torch.cat(side).double().numpy() for side in zip(*batches, strict=True)]


def pairs(a, b) -> tuple[int, np.ndarray]:
    """Mutual nearest neighbours by numpy, and their correlations."""
    with np.errstate(invalid="ignore", divide="ignore"):
        corr = np.corrcoef(a, b, rowvar=False)[: a.shape[1], a.shape[1] :]
    found = mutual(corr)
    return len(found), np.array([corr[pair] for pair in found])


@pytest.fixture(scope="module")
def study(tmp_path_factory, library):
    from conftest import write_profile

    folder = tmp_path_factory.mktemp("positions")
    settings = {
        "t": 1e-3, "pair": list(PAIR), "shown": [1e-2, 1e-3], "budgets": [400, 800, 10**6],
        "planted": {"shares": [0.01], "sizes": [30]}, "outliers": {"first": 1, "size": 5, "curves": False},
    }  # fmt: skip
    return Study(write_profile(folder, library, positions=settings), folder)


def test_each_budget_is_its_first_positions_matched_and_the_last_is_all_there_are(study):
    table = positions.by_budget(study)
    a, b = sides(study)
    assert sorted(set(table.positions)) == [400, 800, len(a)]
    assert table.groupby(["positions", "what"]).size().unstack().iloc[0].to_dict() == {
        "aligned": 1, "untrained": 2, "permuted": 2, "shifted": 2,
    }  # fmt: skip
    for n in (400, 800):
        count, correlations = pairs(a[:n], b[:n])
        row = table[(table.positions == n) & (table.what == "aligned")].iloc[0]
        assert abs(row.pairs - count) <= 2 and row["mean"] == pytest.approx(correlations.mean(), abs=0.02)
        shifted = table[(table.positions == n) & (table.what == "shifted")]
        for one in shifted.itertuples():
            assert abs(one.pairs - pairs(a[:n], np.roll(b[:n], -one.draw, axis=0))[0]) <= 2
        assert list(shifted.draw) == [n // 3, 2 * n // 3]
        for one in table[(table.positions == n) & (table.what == "untrained")].itertuples():
            x, y = sides(study, one.draw)
            count, correlations = pairs(x[:n], y[:n])
            assert abs(one.pairs - count) <= 2 and one.high == pytest.approx(np.quantile(correlations, 0.999), abs=0.02)


def test_a_null_quantile_is_scaled_to_the_most_positions_and_compared_with_the_one_there():
    highs = {(100, 1): 0.5, (100, 2): 0.3, (400, 1): 0.2, (400, 2): 0.1}
    table = pd.DataFrame([{"what": "permuted", "draw": d, "positions": n, "high": h} for (n, d), h in highs.items()])
    other = table.assign(what="shifted", high=0.7)
    (row,) = positions.scaled_thresholds(pd.concat([other, table])).itertuples()
    assert row.positions == 100 and row.measured == pytest.approx(0.4) and row.scaled == pytest.approx(0.2)
    logs = np.log([0.25 / 0.2, 0.15 / 0.1])  # of two draws; the quantile of Student's t with 1 degree of freedom
    mean, half = logs.mean(), stats.t.ppf(0.975, 1) * logs.std(ddof=1) / np.sqrt(2)
    expected = np.exp([mean, mean - half, mean + half]) - 1
    assert (row.error, row.low, row.high) == pytest.approx(tuple(expected))


def test_sampling_noise_alone_leaves_no_error_and_one_budget_nothing_to_compare():
    table = pd.DataFrame({"what": "permuted", "draw": 1, "positions": [50, 200, 800], "high": [0.4, 0.2, 0.1]})
    scaled = positions.scaled_thresholds(table)
    assert scaled["error"].to_numpy() == pytest.approx([0, 0], abs=1e-12) and scaled["low"].isna().all()
    assert len(positions.scaled_thresholds(table[:1])) == 0


def test_each_network_is_opened_once_for_what_the_section_matches(study, tmp_path, monkeypatch):
    opened, reader = [], Study.reader
    monkeypatch.setattr(Study, "reader", lambda self, *args: opened.append(args) or reader(self, *args))
    again = Study(study.profile, tmp_path)
    tables = positions.by_budget(again), positions.by_thinning(again), positions.by_outliers(again)
    assert sorted(opened, key=str) == sorted(((name, seed) for name in PAIR for seed in (None, 1, 2)), key=str)
    budgets, thinnings, outliers = tables
    everything = budgets[budgets.positions == budgets.positions.max()].set_index(["what", "draw"])
    assert thinnings.pairs[0] == outliers.aligned[0] == everything.pairs["aligned", 0]
    assert outliers.permuted[0] == everything.pairs["permuted", 1]


def test_a_thinned_row_is_the_matches_over_what_is_kept_above_both_nulls(study):
    table = positions.by_thinning(study)
    a, b = sides(study)
    assert np.isnan(table.t[0]) and list(table.t[1:]) == [1e-2, 1e-3] and table.positions[0] == len(a)
    for row in table.itertuples():
        t = 1.0 if np.isnan(row.t) else row.t
        kept = thinning(study.batches(PAIR).pieces, t, study.profile.seed)
        assert row.positions == kept.sum()
        count, correlations = pairs(a[kept], b[kept])
        nulls = [pairs(*(side[kept] for side in sides(study, seed))) for seed in (1, 2)]
        high = np.quantile(np.concatenate([r for _, r in nulls]), 0.999)
        assert abs(row.pairs - count) <= 2 and row.untrained_high == pytest.approx(high, abs=0.02)
        above = max(row.untrained_high, row.permuted_high)
        assert abs(row.strict - (correlations > above).sum()) <= 2
        assert row.permuted_scaled == pytest.approx(table.permuted_high[0] * np.sqrt(len(a) / kept.sum()))


@pytest.mark.parametrize(
    ("highs", "expected"),
    [
        ({None: 0.4, 0.1: 0.39, 1e-2: 0.25, 1e-3: 0.15, 1e-4: 0.1}, 1e-3),
        ({None: 0.4, 2e-2: 0.1, 1e-2: 0.19, 1e-3: 0.15}, 1e-2),  # 2e-2 is no power of ten
        ({None: 0.4, 1e-2: 0.2}, np.nan),  # half of it is not below half of it
    ],
)
def test_the_rule_picks_the_largest_power_of_ten_that_halves_the_untrained_quantile(highs, expected):
    table = pd.DataFrame({"t": list(highs), "untrained_high": list(highs.values())}).astype(float)
    assert positions.rule_for_t(table) == pytest.approx(expected, nan_ok=True)


def test_outliers_leave_fewer_directions_and_fewer_matches_by_chance(study):
    none, planted = positions.by_outliers(study).itertuples()
    a, b = sides(study)
    assert abs(none.aligned - pairs(a, b)[0]) <= 2 and (none.share, none.size) == (0, 0)
    for column, acts in (("directions_a", a), ("directions_b", b)):
        corr = np.corrcoef(acts[:, acts.std(0) > 0], rowvar=False)
        assert getattr(none, column) == pytest.approx(np.trace(corr) ** 2 / (corr**2).sum(), rel=1e-3)
        assert getattr(planted, column) < getattr(none, column) / 5
    assert planted.permuted < none.permuted and (planted.share, planted.size) == (0.01, 30)


def sizes(acts) -> np.ndarray:
    x = acts[:, acts.std(0) > 0]
    return np.sqrt((((x - x.mean(0)) / x.std(0)) ** 2).mean(1))


def test_leaving_out_what_is_found_gives_the_matches_of_the_models_without_it(study):
    none, planted = positions.by_outliers(study).itertuples()
    a, b = sides(study)
    firsts = first_positions(study.batches(PAIR).pieces, 1)
    kept = ~firsts & (np.maximum(sizes(a), sizes(b)) <= 5)
    assert none.left == kept.sum() < len(a) and none.found == pytest.approx((np.maximum(sizes(a), sizes(b)) > 5).mean())
    assert abs(none.left_aligned - pairs(a[kept], b[kept])[0]) <= 2
    untrained = [pairs(*(side[kept] for side in sides(study, seed)))[0] for seed in (1, 2)]
    assert abs(none.left_untrained - np.mean(untrained)) <= 2
    # Planted ones are no neighbours any more: what is left varies as before, and matches as before.
    assert round(planted.found * len(a)) >= round(0.01 * len(a)) and planted.left < none.left
    for name in ("directions_a", "directions_b", "aligned", "permuted"):
        before, drowned, after = (
            getattr(*one) for one in ((none, f"left_{name}"), (planted, name), (planted, f"left_{name}"))
        )
        within = 0.3 if name == "permuted" else 0.1  # of another permutation
        assert abs(after - before) < within * before < abs(drowned - before), name


def test_a_profile_may_leave_out_the_first_positions_alone(study, tmp_path):
    asked = study.profile.positions.outliers.model_copy(update={"size": None})
    settings = study.profile.positions.model_copy(update={"outliers": asked})
    other = Study(study.profile.model_copy(update={"positions": settings}), tmp_path)
    none, planted = positions.by_outliers(other).itertuples()
    firsts = first_positions(other.batches(PAIR).pieces, 1)
    assert none.left == planted.left == (~firsts).sum() and np.isnan([none.found, planted.found]).all()
    assert planted.left_directions_a < none.left_directions_a / 5
    spread = positions.outlying(other, PAIR)
    assert (spread["outlying"] == 0).all() and (spread["what"] == "").all() and spread["first"].isna().all()


def test_each_models_directions_and_outlying_positions_are_told(study, monkeypatch):
    a, b = sides(study)
    settings = study.profile.positions
    small = settings.outliers.model_copy(update={"size": 2.0})
    study = Study(
        study.profile.model_copy(update={"positions": settings.model_copy(update={"outliers": small})}), study.results
    )
    table = positions.outlying(study, PAIR)
    firsts = first_positions(study.batches(PAIR).pieces, 1)
    for acts, row in zip((a, b), table.itertuples(), strict=True):
        found = sizes(acts) > 2
        assert row.outlying == pytest.approx(found.mean()) and 0 < row.outlying < 0.2
        assert row.largest == pytest.approx(sizes(acts).max(), rel=1e-4)
        corr = np.corrcoef(acts[:, acts.std(0) > 0], rowvar=False)
        assert row.directions == pytest.approx(len(corr) ** 2 / (corr**2).sum(), rel=1e-3)
        assert row.first == pytest.approx((found & firsts).sum() / found.sum()) and " x " in row.what
    assert list(table["model"]) == list(PAIR) and list(table["neurons"]) == [256, 256]
    monkeypatch.setattr(Study, "trained", None)  # sizes are kept
    assert positions.outlying(study, PAIR).equals(table)


def test_they_are_kept_and_drawn(study, monkeypatch):
    tables = positions.by_budget(study), positions.by_thinning(study), positions.by_outliers(study)
    monkeypatch.setattr(positions, "_held", None)  # nothing is read again
    again = positions.by_budget(study), positions.by_thinning(study), positions.by_outliers(study)
    for one, other in zip(tables, again, strict=True):
        pd.testing.assert_frame_equal(one, other)
    figure = plots.positions(*tables)
    assert [axes.get_title()[0] for axes in figure.axes] == list("abcd")
    figure.canvas.draw()
