"""Shards of a pair's positions: what their jobs make together is what one job makes alone."""

import numpy as np
import pandas as pd
import pytest
from conftest import PAIR, matched_in_shards

from rosetta.matching.mutual import top_k
from rosetta.profiles import load
from rosetta.studies import shards
from rosetta.studies.matches import Study


@pytest.fixture
def study(profile, tmp_path) -> Study:
    return Study(str(profile(segments_per_document=None)), tmp_path / "results")


def is_as(table: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Assert the same pairs, with correlations that differ by rounding at most."""
    of = ["layer_a", "unit_a", "layer_b", "unit_b", "rank_a", "rank_b"]
    both = table.merge(expected, on=of, how="outer", suffixes=("", "_expected"), indicator=True)
    assert (both["_merge"] == "both").all()
    np.testing.assert_allclose(both["correlation"], both["correlation_expected"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("of", [1, 2, 5])
def test_x(study, tmp_path, of):
    expected = Study(study.profile, tmp_path / "alone")
    got = matched_in_shards(shards.Job(study, PAIR), tmp_path, of)
    for table, alone in zip(got, (expected.matches(PAIR), expected.thinned_matches(PAIR)), strict=True):
        is_as(table, alone)
