"""Screening gives the pairs of exact matching: for every kind of data, however small the sketches are."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from rosetta.matching import verification
from rosetta.matching.batches import AlignedBatches
from rosetta.matching.mutual import match_batches
from rosetta.matching.nulls import Permuted
from rosetta.matching.segments import segments

COLUMNS = ["unit_a", "unit_b", "rank_a", "rank_b"]


class Counted(list):
    """Batches that count how often they are read."""

    readings = 0

    def __iter__(self):
        yield from super().__iter__()
        self.readings += 1  # to the end, that is


def cut(a, b, cuts=(10, 1000, 1001, 2500)) -> Counted:
    a, b = (torch.from_numpy(np.asarray(side)).float() for side in (a, b))
    return Counted((a[i:j], b[i:j]) for i, j in pairwise((0, *cuts, len(a))))


def normal(n_a=150, n_b=130, positions=4000, seed=0):
    """Half of the neurons of each side share a feature of their own; all have part in a few common ones."""
    rng = np.random.default_rng(seed)
    common, own = rng.standard_normal((positions, 8)), rng.standard_normal((positions, n_b // 2))
    a = 0.3 * common @ rng.standard_normal((8, n_a)) + rng.standard_normal((positions, n_a))
    b = 0.3 * common @ rng.standard_normal((8, n_b)) + rng.standard_normal((positions, n_b))
    a[:, : n_b // 2] += 1.5 * own
    b[:, : n_b // 2] += 1.5 * own[:, ::-1]
    return 100 + a, b - 30


def sparse(seed=1):
    """ReLU of the same with heavy tails: silent at most positions, and a few outlier positions that all neurons share."""
    a, b = normal(seed=seed)
    rng = np.random.default_rng(seed)
    size = rng.standard_t(3, (len(a), 1)) ** 2
    a, b = (np.maximum(size * (side - side.mean(0)) - 1.5, 0) for side in (a, b))
    a[:, 3], b[:, 5] = 0, 7  # dead
    return a, b


def spikes(seed=2):
    """Half of the neurons of each side have most of their variance at one position, a random one."""
    a, b = normal(seed=seed)
    rng = np.random.default_rng(seed)
    for side in (a, b):
        some = rng.permutation(side.shape[1])[: side.shape[1] // 5]
        side[rng.integers(len(side), size=len(some)), some] += 300
    return a, b


def untrained(seed=3):
    """Few directions, and two different views of all of them: many neighbours nearly as near as the nearest."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((4000, 12))
    return tuple(np.tanh(latent @ rng.standard_normal((12, n))) for n in (150, 130))


def permuted(seed=4):
    a, b = sparse(seed)
    return a, b[np.random.default_rng(seed).permutation(len(b))]


def correlations(batches) -> np.ndarray:
    """By numpy in float64; -2 for a dead neuron. Equal neurons have equal ones."""
    a, b = (torch.cat(side).double().numpy() for side in zip(*batches, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.corrcoef(a.T, b.T)[: a.shape[1], a.shape[1] :]
    return np.where(np.isnan(r), -2, r).round(9)


def ranks(r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each pair in its row and in its column, from 1; of equals the lower index first."""
    return tuple(1 + (-r).argsort(axis=axis, kind="stable").argsort(axis=axis, kind="stable") for axis in (1, 0))


def wrong(batches, table, k=1, tie=5e-6) -> list:
    """Pairs that a table has and should not have, or has not and should, ties within float32's rounding aside."""
    r = correlations(batches)
    found = np.zeros(r.shape, int), np.zeros(r.shape, int)
    for side, rank in zip(found, (table.rank_a, table.rank_b), strict=True):
        side[table.unit_a, table.unit_b] = rank
    in_order = ranks(r)
    mutual = (in_order[0] <= k) & (in_order[1] <= k) & (r > -2)
    off = (mutual != (found[0] > 0)) | (mutual & ((found[0] != in_order[0]) | (found[1] != in_order[1])))
    bad = []
    for u, v in zip(*np.nonzero(off), strict=True):
        near_u, near_v = np.abs(r[u] - r[u, v]), np.abs(r[:, v] - r[u, v])
        if ((near_u > 0) & (near_u < tie)).sum() + ((near_v > 0) & (near_v < tie)).sum() == 0:
            bad.append((u, v, in_order[0][u, v], in_order[1][u, v], found[0][u, v], found[1][u, v]))
    return bad


def check(batches, k=1, method="sketch", **options):
    table = match_batches(batches, k, method, **options)
    r = correlations(batches)
    assert not wrong(batches, table, k)
    assert not table.duplicated(["unit_a", "unit_b"]).any()
    # As near as exact matching itself comes to float64 (test_correlation): processors add float32 products in different orders.
    np.testing.assert_allclose(table.correlation, r[table.unit_a, table.unit_b], rtol=0, atol=1e-5)
    assert table.attrs["method"] == method
    return table.attrs


DATA = {"normal": normal, "sparse": sparse, "spikes": spikes, "untrained": untrained, "permuted": permuted}


@pytest.mark.parametrize("rows", [3, 64, 512, 2048])
@pytest.mark.parametrize("name", DATA)
def test_the_pairs_are_those_of_float64_for_any_data_and_any_sketch(name, rows):
    batches = cut(*DATA[name]())
    attrs = check(batches, rows=rows)
    assert attrs["rows"] == rows
    assert batches.readings == attrs["readings"] + 1 + 1  # widths, oracle


@pytest.mark.parametrize("k", [1, 5, 70, 200])
@pytest.mark.parametrize("name", DATA)
def test_products_in_bfloat16_lead_to_the_pairs_of_float64(name, k):
    batches = cut(*DATA[name]())
    attrs = check(batches, k, "bfloat16")
    assert batches.readings == attrs["readings"] + 1 + 1
    if name != "spikes":
        assert attrs["certified_a"] > 0.9 or k > 20


@pytest.mark.parametrize("k", [2, 5, 70, 200])
@pytest.mark.parametrize("name", ["normal", "sparse", "untrained"])
def test_the_k_nearest_are_those_of_float64(name, k):
    check(cut(*DATA[name]()), k, rows=1024)


@pytest.mark.parametrize("seed", range(8))
def test_no_seed_gives_other_pairs(seed):
    attrs = check(cut(*normal(seed=seed)), rows=256, seed=seed)
    assert 0.1 < attrs["certified_a"] < 1 and attrs["exact_block"][0] > 0


def test_shared_features_are_certified_and_read_twice():
    a, b = normal()
    attrs = check(cut(a[:, :65], b[:, :65]), rows=1024)
    assert (attrs["certified_a"], attrs["certified_b"], attrs["readings"]) == (1, 1, 2)
    assert attrs["exact_block"] == [0, 0] and attrs["exact_rows"] == [0, 0] and "note" not in attrs


def test_where_there_is_nothing_to_order_all_is_done_exactly_and_said(caplog):
    caplog.set_level("INFO")
    attrs = check(cut(*permuted()), rows=256)
    assert attrs["note"] == "nothing to order: done exactly" and attrs["readings"] == 3
    assert attrs["exact_block"] == [150, 130] and attrs["certified_a"] == 0
    assert "cannot order the neighbours" in caplog.text


def noise():
    rng = np.random.default_rng(5)
    return rng.standard_normal((300, 400)), rng.standard_normal((300, 400))


@pytest.mark.parametrize("method, data, options", [("sketch", untrained, {"rows": 64}), ("bfloat16", noise, {})])
def test_without_certificates_pairs_are_wrong(monkeypatch, method, data, options):
    """So that the other tests can fail: with estimates taken for exact, pairs are missed and invented."""
    batches = cut(*data(), cuts=(10, 200))
    check(batches, method=method, candidates=2, **options)

    def nearest(sides, *_):
        return [np.arange(side.values.shape[1]) < 1 + 0 * side.values for side in sides]

    monkeypatch.setattr(verification.Screened, "weak", lambda side, *_: np.zeros_like(side.alive))
    monkeypatch.setattr(verification, "_first", nearest)
    monkeypatch.setattr(verification.Law, "most", lambda _, estimate: verification.fisher(estimate))
    assert len(wrong(batches, match_batches(batches, 1, method, candidates=1, **options))) > 0


@pytest.mark.parametrize("name", ["normal", "spikes", "permuted"])
def test_what_may_not_be_done_exactly_is_left_open_and_in_no_pair(name):
    batches = cut(*DATA[name]())
    attrs = check(batches, rows=256)
    table = match_batches(batches, method="sketch", rows=256, exact_share=0.01)
    whole, part = (
        set(zip(one.unit_a, one.unit_b, strict=True)) for one in (match_batches(batches, method="exact"), table)
    )
    assert part < whole
    for side, n in (("a", 150), ("b", 130)):
        left = table.attrs[f"left_open_{side}"]
        assert left > 0 and table.attrs[f"certified_{side}"] == pytest.approx(1 - left / (n - attrs[f"dead_{side}"]))
        assert len(table) <= n - left
    assert table.attrs["exact_block"] == table.attrs["exact_rows"] == [0, 0] and table.attrs["readings"] <= 3
    assert "left_open_a" not in attrs


def test_where_nothing_is_left_open_no_exact_share_is_needed():
    a, b = normal()
    assert "left_open_a" not in check(cut(a[:, :65], b[:, :65]), rows=1024, exact_share=0)


def test_few_candidates_or_little_memory_change_nothing():
    batches = cut(*normal())
    for candidates in (1, 5, 10_000):
        check(batches, rows=512, candidates=candidates)
    for over in (1000, 16 * 400, 10**6):
        check(batches, rows=64, memory_bytes=8 * 64 * 280 + over)


class Keyed(Counted):
    keys = np.random.default_rng(0).integers(0, 2**62, 4000)


def test_neither_batches_nor_keys_change_the_pairs():
    a, b = normal()
    for cuts in ((), (1,), (7, 1999, 2000), range(100, 4000, 100)):
        check(cut(a, b, cuts), rows=512)
        check(Keyed(cut(a, b, cuts)), rows=512)


def test_keys_decide_on_buckets_and_signs():
    attrs = check(Keyed(cut(*normal())), rows=512)
    assert attrs["deviation"] != check(cut(*normal()), rows=512)["deviation"]


def test_equal_neurons_go_to_the_lower_index_as_in_exact_matching():
    a, b = normal()
    a, b = a[:, np.r_[0:90, 0:20, 40, 40, 40]], b[:, np.r_[0:100, 60:70, 110]]
    a[:, 80], b[:, 80] = a[:, 0] * 2, a[:, 0]
    batches = cut(a, b)
    for k in (1, 3):
        for rows in (64, 256, 2048):
            table = match_batches(batches, k, "sketch", rows=rows)
            assert not wrong(batches, table, k, tie=0)
            assert not wrong(batches, match_batches(batches, k, "bfloat16"), k, tie=0)
            if rows == 2048 and k == 1:
                assert table.attrs["certified_a"] > 0.5


def test_dead_neurons_and_dead_layers():
    a, b = normal()
    a[:, 10:60], b[:, :] = 1.0, 2.0
    table = match_batches(cut(a, b), method="sketch", rows=64)
    assert len(table) == 0 and (table.attrs["dead_a"], table.attrs["dead_b"]) == (50, 130)
    a, b = normal()
    a[:, 10:148], b[:, 1:] = 1.0, 2.0
    assert check(cut(a, b), 3, rows=64)["dead_b"] == 129


@pytest.mark.parametrize("positions", [2, 3, 20])
def test_a_few_positions_are_enough(positions):
    a, b = normal(20, 16, positions)
    table = match_batches(cut(a, b, ()), method="sketch", rows=16)
    assert table.attrs["positions"] == positions
    if positions > 3:  # with fewer all are equal
        check(cut(a, b, ()), rows=16)


@pytest.fixture(scope="module")
def models(reader_of, documents):
    a, b = reader_of["pythia"], reader_of["opt"]
    pieces = list(segments(documents, a.tokenizer, b.tokenizer, 64))
    return AlignedBatches(a, b, pieces, 8).held()


def test_two_models_aligned_and_permuted(models):
    for batches in (list(models), list(Permuted(models, 0))):  # as one layer each
        for rows in (128, 1024):
            check(batches, 2, rows=rows)


# ---------------------------------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize("method", ["sketch", "bfloat16"])
def test_fewer_candidates_than_neighbours_are_refused(method):
    with pytest.raises(ValueError, match="candidates is 2"):
        match_batches(cut(*normal()), 3, method, candidates=2)


@pytest.mark.parametrize("method", ["sketch", "bfloat16"])
def test_batches_that_can_be_read_once_are_refused(method):
    with pytest.raises(ValueError, match="read only once"):
        match_batches(iter(cut(*normal())), method=method, layers=([150], [130]))


@pytest.mark.parametrize("method", ["sketch", "bfloat16"])
@pytest.mark.parametrize("data", [normal, permuted])
def test_batches_that_change_between_readings_are_refused(data, method):
    class Fickle(Counted):  # counts what is read of it to the end, and then gives less
        def __iter__(self):
            yield from self[: 4 if self.readings else 5]
            self.readings += 1

    with pytest.raises(ValueError, match="changed between two readings: 4000 positions first, then 2500"):
        match_batches(Fickle(cut(*data())), method=method, layers=([150], [130]))


@pytest.mark.parametrize("method", ["exact", "sketch", "bfloat16"])
def test_one_position_is_refused(method):
    with pytest.raises(ValueError, match="at least 2 positions"):
        match_batches([(torch.ones(1, 3), torch.ones(1, 2))], method=method)


@pytest.mark.parametrize("n", [3999, 4001])
def test_keys_for_other_positions_are_refused(n):
    batches = Keyed(cut(*normal()))
    batches.keys = np.arange(n)
    with pytest.raises(ValueError, match="keys are"):
        match_batches(batches, method="sketch")
