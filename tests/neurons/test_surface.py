import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta

from rosetta.neurons.oracle import verdict
from rosetta.neurons.surface import KINDS, judge_texts, kind, normalized

WORDS = ["the", "of", "and", "to", "in", "is", "for", "it", "self", "def", "return", "import", "class", "sum", "mean"]
SUBSETS = {"Python": "code", "C": "code", "Pages": "prose", "Numbers": "math"}


@pytest.fixture(scope="module")
def corpus():
    """Power-law words, numbers and signs; each subset has a mix of its own."""
    rng, rows = np.random.default_rng(0), []
    tokens = (
        [f" {word}" for word in WORDS]
        + [word.title() for word in WORDS]
        + [*"0123456789", *"(),.:;", "\n", "    ", "x1"]
    )
    for number in range(60):
        tokens.append(f" rare{chr(97 + number % 26)}{chr(97 + number // 26)}")
    for subset, category in SUBSETS.items():
        for number, token in enumerate(tokens):
            lift = 4 if (subset == "Numbers" and token.isdigit()) else 1
            rows.append((number, token, subset, category, int(lift * rng.integers(50, 150) / (1 + number % 30)) + 1))
    return pd.DataFrame(rows, columns=["id", "token", "subset", "category", "count"])


def contexts(corpus, which, n, seed=0, k=20):
    """Contexts of n neurons, drawn from some tokens of a corpus as often as they occur."""
    rng = np.random.default_rng(seed)
    some = corpus[which] if which is not None else corpus
    drawn = some.iloc[rng.choice(len(some), n * k, p=some["count"] / some["count"].sum())]
    table = drawn[["token", "subset", "category"]].reset_index(drop=True)
    neuron, rank = np.divmod(np.arange(n * k), k)
    table.insert(0, "rank", rank + 1)
    table.insert(0, "unit", neuron % 50)
    table.insert(0, "layer", neuron // 50)
    return table.astype({"token": "category", "subset": "category", "category": "category"})


def test_tokens_are_compared_by_their_surface_and_each_is_of_one_kind():
    assert [normalized(t) for t in (" The", "the", "\n", "  ", "Σ ")] == ["the", "the", "\n", "  ", "σ"]
    said = {" 12": "digits", "\n\n": "white space", "": "white space", " the": "word", "The": "capitalized word",
            "();": "punctuation", "x1": "mixed", "_a": "mixed", "\N{REPLACEMENT CHARACTER}": "part of a character"}  # fmt: skip
    assert {token: kind(token) for token in said} == said and set(said.values()) == set(KINDS)


@pytest.mark.parametrize(
    ("which", "named"),
    [
        (lambda c: c.token.str.strip().str.lower() == "def", "token 'def'"),
        (lambda c: c.token.str.isdigit(), "kind digits"),
        (lambda c: c.subset == "Numbers", "subset Numbers"),
        (lambda c: c.token == "\n", r"token '\n'"),
        (lambda c: (c.token == "    ") & (c.subset == "Python"), "kind white space"),
    ],
)
def test_neurons_of_one_value_are_told_with_it(corpus, which, named):
    found = judge_texts(contexts(corpus, which(corpus), 100), corpus)
    right = found.is_monosemantic & found.description.str.contains(named, regex=False)
    assert len(found) == 100 and right.mean() >= 0.99 and (found.score[right] == 1).all()


def test_a_neuron_of_two_tokens_is_told_though_both_are_words(corpus):
    two = corpus.token.isin([" rareaa", " rareba"])
    found = judge_texts(contexts(corpus, two, 200), corpus)
    assert (~found.is_monosemantic).mean() >= 0.99 and found.description.str.contains("either").mean() > 0.9


def test_of_neurons_that_know_nothing_at_most_alpha_are_called_monosemantic(corpus):
    for least_share in (0.85, 0.0):
        found = judge_texts(contexts(corpus, None, 1_000, seed=1), corpus, 0.05, least_share)
        wrong = int(found.is_monosemantic.sum())
        assert (beta.ppf(0.05, wrong, 1_001 - wrong) if wrong else 0) <= 0.05


def test_a_verdict_is_that_of_the_core_on_all_values(corpus):
    table = contexts(corpus, corpus.subset == "Python", 1)
    rows = [
        (normalized(t), kind(t), s, c) for t, s, c in zip(corpus.token, corpus.subset, corpus.category, strict=True)
    ]
    peaks = [(normalized(t), kind(t), s, c) for t, s, c in zip(table.token, table.subset, table.category, strict=True)]
    values = sorted({(factor, row[factor]) for row in rows for factor in range(4)})
    share = [corpus["count"][[row[f] == v for row in rows]].sum() / corpus["count"].sum() for f, v in values]
    holds = np.array([[peak[factor] == value for factor, value in values] for peak in peaks])
    names = [f"{('token', 'kind', 'subset', 'category')[f]} {v!r}" if f == 0 else
             f"{('token', 'kind', 'subset', 'category')[f]} {v}" for f, v in values]  # fmt: skip
    expected = verdict(holds, np.tile(share, (20, 1)), names)
    found = judge_texts(table, corpus).iloc[0]
    assert expected.is_monosemantic and "subset Python" in expected.description
    assert (found.is_monosemantic, found.score) == (expected.is_monosemantic, expected.score)
    assert set(found.description.split(", ")) == set(expected.description.split(", "))


def test_contexts_come_in_any_order_and_any_number(corpus):
    table = contexts(corpus, corpus.token.str.isdigit(), 60)
    again = judge_texts(table.sample(frac=1, random_state=0), corpus)
    pd.testing.assert_frame_equal(again, judge_texts(table, corpus))
    few = table[table["rank"] <= np.where(table.unit == 3, 2, 20)]
    assert len(judge_texts(few, corpus)) == 60
    assert judge_texts(table.iloc[:0], corpus).empty


def test_what_does_not_fit_is_refused(corpus):
    table = contexts(corpus, None, 2)
    with pytest.raises(ValueError, match="no column category"):
        judge_texts(table.drop(columns="category"), corpus)
    with pytest.raises(ValueError, match="empty places"):
        judge_texts(table.assign(subset=None), corpus)
    with pytest.raises(ValueError, match=r"the token 'elsewhere'.*count the same text"):
        judge_texts(table.astype({"token": str}).assign(token="elsewhere"), corpus)
    with pytest.raises(ValueError, match="no tokens"):
        judge_texts(table, corpus.iloc[:0])
    with pytest.raises(ValueError, match="alpha"):
        judge_texts(table, corpus, alpha=2)
