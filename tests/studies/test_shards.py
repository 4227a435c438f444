"""A pair's positions in shards: what their jobs make together is what one job makes alone."""

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import OTHER, PAIR, matched_in_shards

from rosetta.studies import shards
from rosetta.studies.matches import Study


@pytest.fixture
def study(profile, tmp_path) -> Study:
    return Study(str(profile(segments_per_document=None)), tmp_path / "results")


@pytest.fixture
def job(study) -> shards.Job:
    return shards.Job(study, PAIR)


def is_as(table: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Assert the same pairs, with correlations that differ by rounding at most."""
    of = ["model_a", "layer_a", "unit_a", "model_b", "layer_b", "unit_b", "rank_a", "rank_b"]
    both = table.merge(expected, on=of, how="outer", suffixes=("", "_expected"), indicator=True)
    assert len(both) > 10 and (both["_merge"] == "both").all()
    np.testing.assert_allclose(both["correlation"], both["correlation_expected"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("of", "sequences", "method"), [(1, 32, "exact"), (2, 3, "bfloat16"), (5, 32, "sketch"), (2, 32, "sketch")]
)
def test_the_same_pairs_for_any_number_of_shards_and_any_batch(profile, tmp_path, of, sequences, method):
    alone = Study(str(profile(segments_per_document=None)), tmp_path / "alone")
    asked = {"method": method, "rows": 512, "exact_share": 1}
    path = profile("cut", segments_per_document=None, sequences_per_batch=sequences, matching=asked)
    tables = matched_in_shards(shards.Job(Study(str(path), tmp_path / "shards"), PAIR), tmp_path, of)
    for table, expected in zip(tables, (alone.matches(PAIR), alone.thinned_matches(PAIR)), strict=True):
        is_as(table, expected)
        assert table.attrs["positions"] == expected.attrs["positions"] and table.attrs["method"] == method


def test_a_sample_is_shared_out_as_any_text_is(profile, tmp_path):
    sampled = {"sampling": "iid", "short_documents": "whole", "excerpt_characters": 200, "segments_per_document": None}
    study = Study(str(profile(**sampled)), tmp_path / "alone")
    alone = study.matches(PAIR)
    sources = [piece.document.source for piece in study.pieces(PAIR)]
    job = shards.Job(Study(str(profile(**sampled)), tmp_path / "shards"), PAIR)
    assert [piece.document.source for piece in job.study.pieces(PAIR)] == sources
    assert len(job.piece) == alone.attrs["positions"]
    table, _ = matched_in_shards(job, tmp_path, 4)
    is_as(table, alone)


@pytest.mark.parametrize("seed", [None, 1])
def test_what_is_left_without_outliers_is_matched_in_shards_as_alone(profile, tmp_path, seed):
    asked = yaml.safe_load(profile().read_text())["positions"] | {"outliers": {"first": 1, "size": 2, "curves": True}}
    path = str(profile(positions=asked, sequences_per_batch=3))
    alone, study = (Study(path, tmp_path / name) for name in ("alone", "shards"))
    shards.main([path, str(tmp_path / "shards"), *PAIR, "--sizes"])
    (sizes,) = study.why_sizes_stale(PAIR)
    assert sizes.is_file() and study.why_sizes_stale(PAIR) == {sizes: None}
    job = shards.Job(study, PAIR, seed, without=True)
    (table,) = matched_in_shards(job, tmp_path, 2)
    expected = alone.matches(PAIR, True) if seed is None else alone.untrained_matches(PAIR, True)[0]
    is_as(table, expected)
    assert table.attrs["positions"] == expected.attrs["positions"] == study.left(PAIR).sum() < len(study.left(PAIR))
    name = f"{'--'.join(PAIR)}{'' if seed is None else '.untrained-1'}.without-1-2"
    assert (study.folder / "matches" / f"{name}.parquet").is_file()
    sizes.with_name(f"{sizes.name}.made-with.json").unlink()
    names = shards.stale(study.profile, study.results)
    assert name not in names and f"{'--'.join(PAIR)}.untrained-2.without-1-2" in names and not sizes.exists()


def test_the_notebooks_find_the_tables_made(profile, tmp_path, monkeypatch):
    nulls = {"untrained_seeds": [1], "permutation_seeds": [1], "permuted_tokens": None, "quantile": 0.999}
    study = Study(str(profile(nulls=nulls)), tmp_path / "results")
    made = matched_in_shards(shards.Job(study, PAIR, 1), tmp_path, 2)
    monkeypatch.setattr(study, "batches", None)  # the models are not read again
    found = [*study.untrained_matches(PAIR), *study.thinned_untrained_matches(PAIR)]
    for table, expected in zip(found, made, strict=True):
        pd.testing.assert_frame_equal(table, expected)
    assert shards.stale(study.profile, tmp_path / "results") == [f"{a}--{b}{null}" for a, b, null in [
        (*PAIR, ""), (*OTHER, ""), (*OTHER, ".untrained-1"),
    ]]  # fmt: skip


def test_readings_that_no_shard_has_made_are_the_last_jobs_own(profile, tmp_path):
    """Memory for less than half of the table."""
    study = Study(str(profile(context=16, tokens=600, memory_gb=0.4 * 5 * 4 * 256**2 / 2**30)), tmp_path / "results")
    alone = Study(study.profile, tmp_path / "alone").matches(PAIR)
    table, _ = matched_in_shards(shards.Job(study, PAIR), tmp_path, 2)
    is_as(table, alone)
    assert table.attrs["readings"] > 2


# ---------------------------------------------------------------------------------------------------------------------
# What cannot be used


def test_a_shard_of_another_run_is_refused_by_name(job, profile, tmp_path):
    other = shards.Job(Study(str(profile("other", context=32)), tmp_path / "results"), PAIR)
    other.share(1, 2, [], tmp_path / "one")
    job.share(2, 2, [], tmp_path / "two")
    with pytest.raises(ValueError, match="one was made with another run's context 32, expected 64"):
        job.join([tmp_path / "one", tmp_path / "two"], [], tmp_path / "all")


def test_a_shard_in_the_place_of_another_is_refused(job, tmp_path):
    job.share(1, 2, [], tmp_path / "first")
    with pytest.raises(ValueError, match=r"first was made with another run's shard \[1, 2\], expected \[2, 2\]"):
        job.join([tmp_path / "first"] * 2, [], tmp_path / "all")
    with pytest.raises(ValueError, match=r"shard \[1, 2\], expected \[1, 1\]"):
        job.join([tmp_path / "first"], [], tmp_path / "all")


def test_shards_whose_positions_overlap_or_are_not_all_are_refused(job, tmp_path):
    job.share(1, 2, [], tmp_path / "first")
    for name, shard in (("second", [2, 2]), ("only", [1, 1])):  # one that says it is another
        first = next(job.way()[0]).restore(tmp_path / "first", **job.parameters, round=1, shard=[1, 2])
        first.save(tmp_path / name, **job.parameters, round=1, shard=shard)
    with pytest.raises(ValueError, match=r"positions overlap: \d+ of \d+ have been added already"):
        job.join([tmp_path / "first", tmp_path / "second"], [], tmp_path / "all")
    with pytest.raises(ValueError, match=r"1 shards of pythia-32x2 and opt-32x2 hold \d+ positions; the text has"):
        job.join([tmp_path / "only"], [], tmp_path / "all")


def test_what_is_of_no_use_is_removed_so_that_it_is_made_again(job, study, profile, tmp_path, caplog):
    folder = study.folder / "shards" / "--".join(PAIR)
    whole, cut, foreign = (folder / f"screen.{i}-of-3.safetensors" for i in (1, 2, 3))
    job.share(1, 3, [], whole)
    job.share(2, 3, [], cut)
    cut.write_bytes(cut.read_bytes()[:-100])
    other = profile("other", segments_per_document=None, tokens=1_500)
    shards.Job(Study(str(other), tmp_path), PAIR).share(3, 3, [], foreign)
    table = study.folder / "matches" / f"{'--'.join(PAIR)}.parquet"
    table.parent.mkdir()
    table.write_bytes(b"half a table")

    names = shards.stale(study.profile, study.results, remove=False)
    nulls = ("", ".untrained-1", ".untrained-2")
    assert names == [f"{a}--{b}{null}" for a, b in (PAIR, OTHER) for null in nulls]
    assert all(path.exists() for path in (whole, cut, foreign, table)) and not caplog.messages
    assert shards.stale(study.profile, study.results) == names
    assert [path.exists() for path in (whole, cut, foreign, table)] == [True, False, False, False]
    said = sorted(caplog.messages)
    assert len(said) == 3 and all(message.endswith("; it is made again") for message in said)
    assert said[0].startswith(f"{table} has no readable record")
    assert said[1].startswith(f"{cut} cannot be read as a round")
    assert said[2].startswith(f"{foreign} was made with another tokens")


@pytest.mark.parametrize("number", [0, 3])
def test_a_shard_that_there_is_not_is_refused(job, tmp_path, number):
    with pytest.raises(ValueError, match=f"the shard is {number}-of-2; allowed are 1-of-2 to 2-of-2"):
        job.share(number, 2, [], tmp_path / "share")
