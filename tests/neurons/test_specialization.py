from collections import Counter
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from conftest import as_documents, texts
from hypothesis import given
from hypothesis import strategies as st

from rosetta import sources
from rosetta.matching.alignment import token_byte_spans
from rosetta.matching.segments import windows
from rosetta.neurons import specialization
from rosetta.neurons.specialization import depth_histogram, normalized_fire

#: Table 4, as printed.
SHARES = {
    "code": 0.1195,
    "math": 0.0317,
    "formal/scientific": 0.4644,
    "general prose": 0.3430,
    "conversational": 0.0415,
}
PILE = {
    "code": "Github",
    "math": "DM Mathematics",
    "formal/scientific": "ArXiv, PubMed Central, PubMed Abstracts, FreeLaw, USPTO Backgrounds, NIH ExPorter, StackExchange, "
    "PhilPapers",
    "general prose": "Pile-CC, OpenWebText2, Wikipedia (en), Books3, Gutenberg (PG-19), EuroParl, BookCorpus2",
    "conversational": "OpenSubtitles, Ubuntu IRC, HackerNews, Enron Emails, YoutubeSubtitles",
}


def test_normalized_fire_is_the_formula_of_e2():
    fired = normalized_fire(["code"] * 3 + ["math"], {"code": 0.5, "math": 0.125, "general prose": 0.375})
    assert fired == {"code": pytest.approx(1.5), "math": pytest.approx(2.0), "general prose": 0.0}


@given(st.lists(st.sampled_from(list(SHARES)), min_size=1, max_size=60))
def test_weighted_by_the_shares_normalized_fire_sums_to_one(categories):
    fired = normalized_fire(categories, SHARES)
    assert sum(fired[c] * SHARES[c] for c in SHARES) == pytest.approx(1)
    assert all(fired[c] * SHARES[c] * len(categories) == pytest.approx(categories.count(c)) for c in SHARES)


def test_contexts_that_fall_as_the_tokens_do_give_the_corpus_baseline():
    assert normalized_fire(["a"] * 3 + ["b"], {"a": 0.75, "b": 0.25}) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize("share", [0.0, -0.1, float("nan"), float("inf")])
def test_a_category_without_tokens_is_an_error_not_infinity(share):
    with pytest.raises(ValueError, match="'math' has a token share"):
        normalized_fire(["code"], {"code": 1.0, "math": share})


def test_no_contexts_and_contexts_of_an_unknown_category_are_errors():
    with pytest.raises(ValueError, match="no top activations"):
        normalized_fire([], SHARES)
    with pytest.raises(ValueError, match="category 'poetry', which has no token share; there are code"):
        normalized_fire(["poetry"], {"code": 1.0})


def test_the_pile_has_22_subsets_in_the_categories_of_table_4():
    assert len(sources.PILE_CATEGORIES) == 22 and set(SHARES) == set(sources.CATEGORIES)
    expected = {subset: category for category, line in PILE.items() for subset in line.split(", ")}
    assert expected == sources.PILE_CATEGORIES
    assert specialization.REPORTED_SHARES == SHARES


def test_token_counts_are_those_of_the_tokenizer(tokenizer_of):
    tokenizer = tokenizer_of["pythia"]
    documents = [d._replace(subset=f"s{i % 2}", category=f"c{i % 2}") for i, d in enumerate(as_documents(texts()))]
    table = specialization.token_counts(windows(documents, tokenizer, 50), tokenizer)
    expected = Counter(
        (document.subset, i) for document in documents for i in token_byte_spans(tokenizer, document.text)[0]
    )
    found = {(subset, i): n for subset, i, n in table[["subset", "id", "count"]].itertuples(index=False)}
    assert found == expected
    assert (table["category"] == table["subset"].str.replace("s", "c")).all()
    ascii_token = table[table["token"].str.contains("def")].iloc[0]
    assert tokenizer.decode([ascii_token["id"]]) == ascii_token["token"]


def test_token_shares_are_shares_of_tokens():
    counts = pd.DataFrame({"category": ["a", "b", "a"], "subset": ["x", "y", "z"], "count": [1, 5, 2]})
    assert specialization.token_share(counts) == {"b": 0.625, "a": 0.375}
    assert specialization.token_share(counts, "subset") == {"y": 0.625, "z": 0.25, "x": 0.125}


def test_random_neurons_are_others_and_differ_with_the_seed():
    others = pd.DataFrame({"layer": 0, "unit": range(300)})
    a, b = (specialization.random_neurons(others, 100, seed) for seed in (1, 2))
    assert len(a) == 100 and set(a["unit"]) <= set(range(300)) and a["unit"].is_unique
    assert a["unit"].tolist() != b["unit"].tolist()
    assert a.equals(specialization.random_neurons(others, 100, 1))
    assert len(specialization.random_neurons(others, 1_000, 1)) == 150


def test_top_categories_are_those_of_the_neurons_asked_for():
    table = pd.DataFrame({
        "layer": [0, 0, 1, 1], "unit": [4, 4, 4, 5], "activation": [2.0, 0.0, 1.0, 3.0], "category": list("abcd"),
    })  # fmt: skip
    assert specialization.top_categories(table, [(0, 4), (1, 5)]).tolist() == ["a", "d"]


def test_trends_are_the_regressions_of_statsmodels():
    rng = np.random.default_rng(0)
    neurons = np.array([256, 576, 1024, 1920, 3072])
    firing = pd.DataFrame({"neurons": neurons, "population": "Rosetta", "category": "code", "mean": rng.random(5)})
    row = specialization.trends(firing).iloc[0]
    fit = sm.OLS(firing["mean"], sm.add_constant(np.log10(neurons))).fit()
    low, high = fit.conf_int().to_numpy()[1]
    np.testing.assert_allclose([row.slope, row.low, row.high], [fit.params.iloc[1], low, high])
    assert np.isnan(specialization.trends(firing.head(2)).low.iloc[0])


# ---------------------------------------------------------------------------------------------------------------------
# Depth


@given(st.integers(1, 70), st.integers(1, 20), st.data())
def test_depths_are_the_shares_of_a_histogram_of_exact_fractions(n_layers, bins, data):
    layers = data.draw(st.lists(st.integers(0, n_layers - 1), min_size=1, max_size=50))
    depths = [Fraction(layer, n_layers - 1) if n_layers > 1 else Fraction(0) for layer in layers]
    expected = [0] * bins
    for depth in depths:
        expected[min(int(depth * bins), bins - 1)] += 1
    np.testing.assert_allclose(depth_histogram(layers, n_layers, bins), np.array(expected) / len(layers))


def test_the_first_and_the_last_layer_are_the_first_and_the_last_bin():
    assert depth_histogram([0, 0, 5, 5], 6).tolist() == [0.5] + [0] * 10 + [0.5]
    np.testing.assert_array_equal(depth_histogram([0, 1, 2], 3), np.histogram([0, 0.5, 1], 12, (0, 1))[0] / 3)


def test_one_layer_models_and_no_neurons_are_defined():
    assert depth_histogram([0, 0], 1).tolist() == [1] + [0] * 11
    assert depth_histogram([], 6).tolist() == [0] * 12


@pytest.mark.parametrize("layers, n_layers, bins", [([6], 6, 12), ([-1], 6, 12), ([0], 0, 12), ([0], 6, 0)])
def test_layers_that_the_model_does_not_have_are_refused(layers, n_layers, bins):
    with pytest.raises(ValueError, match="layers"):
        depth_histogram(layers, n_layers, bins)
