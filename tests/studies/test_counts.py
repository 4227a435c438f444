import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import OTHER, PAIR, mutual
from scipy import stats

from rosetta import plots
from rosetta.matching.correlation import PearsonAccumulator
from rosetta.studies import amounts, counts
from rosetta.studies.matches import Study


def test_a_point_counts_what_its_tables_hold(profile, tmp_path):
    one = Study(profile(), tmp_path)
    point, table = counts.point(one, PAIR), one.matches(PAIR)
    assert point["raw"] == ((table.rank_a == 1) & (table.rank_b == 1)).sum() > 0
    permuted = [((t.rank_a == 1) & (t.rank_b == 1)).sum() for t in one.permuted_matches(PAIR)]
    untrained = [((t.rank_a == 1) & (t.rank_b == 1)).sum() for t in one.untrained_matches(PAIR)]
    assert point["permuted_mean"] == pytest.approx(np.mean(permuted))
    assert point["untrained_mean"] == pytest.approx(np.mean(untrained))
    assert len(permuted) == len(untrained) == 2
    null = np.concatenate([t.correlation[(t.rank_a == 1) & (t.rank_b == 1)] for t in one.permuted_matches(PAIR)])
    assert np.median(null) < point["threshold"] <= null.max()
    above = table[(table.rank_a == 1) & (table.rank_b == 1) & (table.correlation > point["threshold"])]
    assert point["calibrated"] == len(above) <= point["raw"]
    assert point["neurons"] == 2 * 128 and point["models"] == "pythia-32x2 + opt-32x2"
    assert counts.point(one, PAIR, k=2)["raw"] == ((table.rank_a <= 2) & (table.rank_b <= 2)).sum() > point["raw"]


def test_a_point_counts_thinned_positions_against_the_untrained_nulls_own_and_the_permuted_ones_scaled(
    profile, tmp_path
):
    one = Study(profile(), tmp_path)
    point, best = counts.point(one, PAIR), lambda t: t[(t.rank_a == 1) & (t.rank_b == 1)].correlation
    thinned, everything = one.thinned_matches(PAIR), one.matches(PAIR)
    assert point["thinned"] == len(best(thinned)) and point["thinned_positions"] == thinned.attrs["positions"]
    untrained = [best(table) for table in one.thinned_untrained_matches(PAIR)]
    assert point["thinned_untrained_mean"] == pytest.approx(np.mean(list(map(len, untrained))))
    permuted = np.quantile(np.concatenate([best(table) for table in one.permuted_matches(PAIR)]), 0.999)
    scaled = permuted * np.sqrt(everything.attrs["positions"] / thinned.attrs["positions"])
    above = max(scaled, np.quantile(np.concatenate(untrained), 0.999))
    assert point["thinned_threshold"] == pytest.approx(above)
    assert point["thinned_strict"] == (best(thinned) > above).sum()


def test_counts_without_outliers_stand_beside_those_over_all_positions_where_the_profile_asks(profile, tmp_path):
    asked = {"first": 1, "size": 2.5, "curves": True}
    positions = yaml.safe_load(profile().read_text())["positions"] | {"outliers": asked}
    one, plain = (Study(path, tmp_path) for path in (profile("both", positions=positions), profile()))
    point, best = counts.point(one, PAIR), lambda t: t[(t.rank_a == 1) & (t.rank_b == 1)].correlation
    before = counts.point(plain, PAIR)
    assert {name: point[name] for name in before} == before  # nothing else has changed
    assert {*point} - {*before} == {"without", *(
        f"without_{name}" for name in ("strict", "threshold", "positions", "aligned_same", *(
            f"{null}_{part}" for null in ("permuted", "untrained") for part in ("mean", "low", "high")
        ))
    )}  # fmt: skip
    left = one.matches(PAIR, without=True)
    assert point["without"] == point["without_aligned_same"] == len(best(left)) > 20
    assert point["without_positions"] == one.left(PAIR).sum() < point["positions"]
    highs = []
    for null, read in (("permuted", one.permuted_matches), ("untrained", one.untrained_matches)):
        tables = [best(table) for table in read(PAIR, without=True)]
        assert point[f"without_{null}_mean"] == pytest.approx(np.mean(list(map(len, tables))))
        highs.append(np.quantile(np.concatenate(tables), 0.999))
    assert point["without_threshold"] == pytest.approx(max(highs))
    assert point["without_strict"] == (best(left) > max(highs)).sum()

    table, of_all = counts.against_nulls(one, PAIR), counts.against_nulls(plain, PAIR)
    assert table.iloc[: len(of_all)].equals(of_all)
    assert table["pairs"]["without outliers: trained, all (the paper's count)"] == point["without"]
    assert table["pairs"]["without outliers: trained, strict"] == point["without_strict"]
    points = pd.DataFrame([{"curve": "one", **point, "neurons": n} for n in (256, 512)])
    fits = counts.fits(points).set_index("count")["alpha"]
    assert {"without", "without_strict"} <= {*fits.index} and fits["without"] == pytest.approx(0, abs=1e-9)


def test_a_permuted_null_over_fewer_positions_is_scaled_to_those_that_are_counted_over(profile, tmp_path):
    nulls = yaml.safe_load(profile().read_text())["nulls"]
    fewer = Study(profile(nulls=nulls | {"permuted_tokens": 700}), tmp_path)
    point, best = counts.point(fewer, PAIR), lambda t: t[(t.rank_a == 1) & (t.rank_b == 1)].correlation
    permuted, everything = fewer.permuted_matches(PAIR), fewer.matches(PAIR).attrs["positions"]
    assert point["permuted_positions"] == permuted[0].attrs["positions"] < everything == point["positions"]
    assert point["aligned_same"] == len(best(fewer.same_positions_matches(PAIR)))
    measured = np.quantile(np.concatenate([best(table) for table in permuted]), 0.999)
    assert point["threshold"] == pytest.approx(measured * np.sqrt(point["permuted_positions"] / everything))
    trained = best(fewer.matches(PAIR))
    assert point["raw"] == len(trained) and point["calibrated"] == (trained > point["threshold"]).sum()
    untrained = np.quantile(np.concatenate([best(table) for table in fewer.untrained_matches(PAIR)]), 0.999)
    assert point["strict_threshold"] == pytest.approx(max(point["threshold"], untrained))


def test_a_permuted_null_over_all_positions_is_compared_with_the_papers_count(profile, tmp_path):
    point = counts.point(Study(profile(), tmp_path), PAIR)
    assert point["permuted_positions"] == point["positions"] and point["aligned_same"] == point["raw"]


def test_a_collapsed_point_counts_the_anchors_neurons_that_every_pair_matches(profile, tmp_path):
    three = ["opt-32x2", "pythia-32x2", "gpt2-32x2"]
    curves = {"pythia-opt": [list(PAIR)], "pythia-gpt2": [list(OTHER)], "opt-pythia-gpt2": [three]}
    one = Study(profile(curves=curves), tmp_path)
    neurons = []
    for pair in (PAIR, OTHER):
        table = one.matches(pair)
        best = table[(table.rank_a == 1) & (table.rank_b == 1)]
        neurons.append(set(zip(best.layer_a, best.unit_a, strict=True)))
    point = counts.point(one, tuple(three))
    assert point["anchor"] == "pythia-32x2" and point["raw"] == len(neurons[0] & neurons[1]) > 0
    assert point["calibrated"] <= point["raw"] <= min(map(len, neurons))


def test_shares_are_counts_over_the_mean_of_the_models_neurons_and_their_exponent_is_one_less():
    sizes = np.array([256.0, 568.5, 1024.0, 4608.0])
    raw, strict = np.array([60, 100, 160, 400]), np.array([40, 50, 90, 0])
    points = pd.DataFrame({
        "curve": "pythia-opt", "models": list("abcd"), "neurons": sizes, "raw": raw, "calibrated": raw - 1, "strict": strict
    })  # fmt: skip
    shares = counts.shares(points)
    assert shares.groupby("count", sort=False).size().to_dict() == {"raw": 4, "calibrated": 4, "strict": 4}
    for count, pairs in (("raw", raw), ("strict", strict)):
        of = shares[shares["count"] == count]
        assert of["pairs"].tolist() == pairs.tolist() and of["share"].to_numpy() == pytest.approx(pairs / sizes)
        p, z = pairs / sizes, stats.norm.ppf(0.975)  # Wilson's interval: where |p - q| = z sqrt(q (1 - q) / n)
        for end in (of["low"].to_numpy(), of["high"].to_numpy()):
            assert (p - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / sizes, abs=1e-12)
        assert (of["low"] <= of["share"]).all() and (of["share"] < of["high"]).all()
    fitted = counts.share_fits(shares).set_index("count")
    assert list(fitted.index) == ["raw", "calibrated"]  # a share of 0 has no logarithm
    line = stats.linregress(np.log(sizes), np.log(raw))
    half = stats.t.ppf(0.975, 2) * line.stderr
    assert fitted.loc["raw", ["alpha", "alpha_low", "alpha_high"]].tolist() == pytest.approx(
        [line.slope - 1, line.slope - 1 - half, line.slope - 1 + half]
    )


# ---------------------------------------------------------------------------------------------------------------------
# The token sweep


@pytest.fixture(params=["in one pass", "each budget anew"])
def either_way(request, monkeypatch):
    """A table that fits the memory and one that does not."""
    if request.param == "each budget anew":
        monkeypatch.setattr(counts, "tiles", lambda *_: [slice(1), slice(1, 2)])


def test_the_sweep_says_how_far_each_set_agrees_with_the_one_before(profile, tmp_path, either_way):
    one = Study(profile(), tmp_path)
    sweep = counts.token_sweep(one)
    assert len(sweep) == 3 and sweep.positions.is_monotonic_increasing and sweep.positions.is_unique
    before = None
    for row, budget in zip(sweep.itertuples(), (300, 900, 2_000), strict=True):
        assert budget <= row.tokens < budget + one.profile.context
        batches = one.batches(PAIR, budget)
        accumulator = PearsonAccumulator(256, 256)
        for a, b in batches:
            accumulator.update(a, b)
        pairs = mutual(accumulator.correlation().numpy())
        assert row.positions == accumulator.positions and abs(row.count - len(pairs)) <= 2
        if before is None:
            assert np.isnan([row.overlap, row.retained, row.jaccard, row.overlap_low, row.overlap_high]).all()
        else:
            # The sweep adds up its batches in other groups, so near ties may fall the other way.
            assert row.overlap == pytest.approx(len(pairs & before) / len(pairs), abs=0.05)
            held = stats.binomtest(round(row.overlap * row.count), row.count).proportion_ci(0.95, "wilson")
            assert (row.overlap_low, row.overlap_high) == pytest.approx((held.low, held.high))
            assert row.retained == pytest.approx(len(pairs & before) / len(before), abs=0.05)
            assert row.jaccard == pytest.approx(len(pairs & before) / len(pairs | before), abs=0.05)
        before = pairs


def test_a_sweep_whose_table_the_memory_does_not_hold_has_the_same_rows(profile, tmp_path, monkeypatch):
    """A table of 256 by 256 takes 1 MB with what is made of it; one sequence of both models, as they read it, .7 MB."""
    roomy = counts.token_sweep(Study(profile(sequences_per_batch=1), tmp_path / "a"))
    monkeypatch.setattr(amounts, "BATCH_SHARE", 1)
    monkeypatch.setattr(counts, "PearsonAccumulator", None)  # no table of them all
    tight = counts.token_sweep(Study(profile(sequences_per_batch=1, memory_gb=0.0009), tmp_path / "b"))
    assert list(tight) == list(roomy) and len(tight) == 3
    assert (tight[["tokens", "positions", "count"]] == roomy[["tokens", "positions", "count"]]).all(axis=None)
    np.testing.assert_array_equal(tight, roomy)


@pytest.mark.parametrize("how", [{}, {"sampling": "iid", "excerpt_characters": 200, "segments_per_document": None}])
def test_a_sweep_over_separate_samples_matches_each_for_itself(profile, tmp_path, how):
    budgets = [300, 900]
    one = Study(profile(token_sweep={"pair": list(PAIR), "tokens": budgets, "sweep": "separate"}, **how), tmp_path)
    sweep, before = counts.token_sweep(one), None
    assert len(sweep) == 2 and (not how or list(sweep.tokens) == budgets)
    for row, budget in zip(sweep.itertuples(), budgets, strict=True):
        batches = one.batches(PAIR, budget)
        batches.pieces = list(one.separate(PAIR, budget))
        accumulator = PearsonAccumulator(256, 256)
        for a, b in batches:
            accumulator.update(a, b)
        pairs = mutual(accumulator.correlation().numpy())
        assert row.tokens == sum(len(piece.ids_a) for piece in batches.pieces)
        assert row.positions == accumulator.positions and abs(row.count - len(pairs)) <= 2
        if before is not None:
            assert row.overlap == pytest.approx(len(pairs & before) / len(pairs), abs=0.05)
        before = pairs
    nested = counts.token_sweep(
        Study(profile("nested", token_sweep={"pair": list(PAIR), "tokens": budgets}, **how), tmp_path)
    )
    assert nested.overlap[1] > sweep.overlap[1]  # the smaller text is part of the larger


def test_a_sweep_beyond_the_corpus_ends_with_what_the_corpus_holds(profile, tmp_path, caplog, either_way):
    text = tmp_path / "short.txt"
    text.write_text("".join(f"x_{i} = {i} * (y + {i})\n" for i in range(60)))
    path = profile(
        corpus={"kind": "files", "paths": [str(text)]}, segments_per_document=None, excerpt_characters=None,
        token_sweep={"pair": list(PAIR), "tokens": [100, 100_000, 200_000]},
    )  # fmt: skip
    one = Study(path, tmp_path)
    sweep = counts.token_sweep(one)
    assert len(sweep) == 2 and sweep.positions[1] == sum(len(a) for a, _ in one.batches(PAIR, 10**6))
    assert "00000 tokens asked for" in caplog.text.splitlines()[0]


def test_budgets_that_one_segment_reaches_together_are_one_row_and_none_is_lost(profile, tmp_path, either_way):
    sweep = {"pair": list(PAIR), "tokens": [1, 2, 3, 900, 900]}
    found = counts.token_sweep(Study(profile(token_sweep=sweep), tmp_path))
    assert len(found) == 2 and found["tokens"].iloc[0] >= 3 and found["tokens"].iloc[1] >= 900
    assert np.isnan(found["overlap"].iloc[0]) and 0 <= found["overlap"].iloc[1] <= 1
    alone = counts.token_sweep(
        Study(profile(name="alone", token_sweep={"pair": list(PAIR), "tokens": [300]}), tmp_path)
    )
    assert len(alone) == 1 and list(alone) == list(found)
    plots.fig33(alone)


def test_curves_of_one_point_have_no_fit_and_no_error(profile, tmp_path):
    points = counts.points(Study(profile(), tmp_path))
    fits = counts.fits(points)
    assert len(points) == 2 and len(fits) == 0 and {"curve", "count", "alpha", "alpha_high", "r2"} <= set(fits)
    plots.fig03a(points, "strict")
    shares = counts.shares(points)
    assert shares[shares["count"] == "raw"]["share"].tolist() == points["share"].tolist()
    assert len(counts.share_fits(shares)) == 0
    plots.fig03a(shares, "strict", share=True)
