import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FAMILIES, texts
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from rosetta import models
from rosetta.filtering.filters import (
    Recovery,
    average_scores,
    bag_of_tokens,
    f1_interval,
    linear_probe,
    mean_activations,
    oracle_scores,
    precision_recall_curve,
    random_scores,
    rank_neurons,
    recovery,
    select_under_budget,
)
from rosetta.matching.activations import capture
from rosetta.matching.texts import Reader

# ---------------------------------------------------------------------------------------------------------------------
# The neuron


def contexts_of(neurons):
    """Rows of top contexts from {(layer, unit): (mean, std, [(activation, subset), ...])}."""
    return pd.DataFrame(
        [
            {"layer": layer, "unit": unit, "rank": rank, "activation": activation, "subset": subset, "mean": mean}
            | {"std": std, "context_mean": activation / rank}
            for (layer, unit), (mean, std, rows) in neurons.items()
            for rank, (activation, subset) in enumerate(rows, start=1)
        ]
    ).astype({"subset": "category", "activation": "float32"})


def labels_of(subsets):
    rows = [
        {"layer": layer, "unit": unit, "summary": "s", "subset": s, "share": 0.5}
        for (layer, unit), s in subsets.items()
    ]
    return pd.DataFrame(rows)


NEURONS = {
    (0, 1): (1.0, 2.0, [(9.0, "C"), (7.0, "C"), (5.0, "Python")]),  # z 3.0; share 2/3; of its peak 7/9
    (0, 2): (0.0, 1.0, [(4.0, "C"), (4.0, "C"), (4.0, "C")]),  # z 4.0; share 1; of its peak 1
    (1, 0): (0.0, 0.1, [(5.0, "Python"), (4.0, "Python"), (3.0, "C")]),  # z 40; share 1/3
    (1, 5): (-2.0, 1.0, [(3.0, "C"), (2.0, "C"), (1.0, "Python")]),  # z 4.0; share 2/3; of its peak 2/3
}
LABELS = labels_of({(1, 5): "C", (1, 0): "Python", (0, 2): "C", (0, 1): "C"})


def order_of(ranked):
    return list(zip(ranked.layer, ranked.unit, strict=True))


def test_neurons_that_qualify_come_by_their_normalized_activation_then_the_nearest():
    ranked = rank_neurons(LABELS, contexts_of(NEURONS), "C", least_share=0.6, normalize="zscore")
    assert order_of(ranked) == [(0, 2), (1, 5), (0, 1), (1, 0)]
    assert ranked.qualifies.tolist() == [True, True, True, False]
    np.testing.assert_allclose(ranked.normalized_activation, [4, 4, 3, 40], rtol=1e-6)
    np.testing.assert_allclose(ranked.target_share, [1, 2 / 3, 2 / 3, 1 / 3])
    assert ranked.summary.tolist() == ["s"] * 4
    ranked = rank_neurons(LABELS, contexts_of(NEURONS), "C", least_share=0.6, normalize="peak")
    assert order_of(ranked) == [(0, 2), (0, 1), (1, 5), (1, 0)]
    np.testing.assert_allclose(ranked.normalized_activation[:3], [1, 7 / 9, 2 / 3], rtol=1e-6)
    ranked = rank_neurons(LABELS, contexts_of(NEURONS), "C", least_share=0.6)
    assert order_of(ranked) == [(0, 2), (0, 1), (1, 5), (1, 0)]
    expected = [(4 + 4 / 2 + 4 / 3) / 12, (9 + 7 / 2 + 5 / 3) / 27, (3 + 2 / 2 + 1 / 3) / 9]
    np.testing.assert_allclose(ranked.normalized_activation[:3], expected, rtol=1e-6)


def test_where_no_neuron_qualifies_the_nearest_is_first():
    ranked = rank_neurons(LABELS, contexts_of(NEURONS), "Python", least_share=0.9)
    assert not ranked.qualifies.any() and order_of(ranked) == [(1, 0), (0, 1), (1, 5), (0, 2)]
    assert not rank_neurons(LABELS, contexts_of(NEURONS), "Ruby", least_share=0).qualifies.any()


def test_where_the_corpus_has_no_such_subset_the_label_must_name_the_target():
    labels = LABELS.assign(
        summary=["JavaScript functions", "scripts", "TypeScript, javascript", "Java"], share=[0.9, 1, 0.4, 1]
    )
    ranked = rank_neurons(labels, contexts_of(NEURONS), "JavaScript", least_share=0.5)
    assert order_of(ranked) == [(1, 5), (0, 2), (0, 1), (1, 0)]
    assert ranked.qualifies.tolist() == [True, False, False, False]
    assert ranked.target_share.tolist() == [0.9, 0.4, 0, 0]


def test_only_the_top_contexts_count():
    ranked = rank_neurons(LABELS, contexts_of(NEURONS), "C", least_share=1, normalize="zscore", top=2)
    assert order_of(ranked) == [(1, 5), (0, 2), (0, 1), (1, 0)]  # z 4.5, 4 and 3.5
    assert ranked.qualifies.tolist() == [True, True, True, False]


def test_a_neuron_whose_normalized_activation_is_undefined_is_last_of_those_that_qualify():
    flat = {(0, 0): (1.0, 0.0, [(1.0, "C")]), (0, 1): (0.0, 1.0, [(-2.0, "C")])}
    labels = labels_of(dict.fromkeys(flat, "C"))
    ranked = rank_neurons(labels, contexts_of(flat), "C", least_share=1, normalize="zscore")
    assert order_of(ranked) == [(0, 1), (0, 0)] and ranked.normalized_activation.isna().tolist() == [False, True]
    ranked = rank_neurons(labels, contexts_of(flat), "C", least_share=1, normalize="peak")
    assert order_of(ranked) == [(0, 0), (0, 1)] and ranked.normalized_activation.isna().tolist() == [False, True]


def test_what_neurons_cannot_be_ranked_by_is_refused():
    contexts = contexts_of(NEURONS)
    with pytest.raises(ValueError, match=r"'max'.*'tokens', 'peak' and 'zscore'"):
        rank_neurons(LABELS, contexts, "C", 0.5, normalize="max")
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="least_share is"):
            rank_neurons(LABELS, contexts, "C", share)
    with pytest.raises(ValueError, match=r"L1/U5 has a label but no contexts"):
        rank_neurons(LABELS, contexts[contexts.unit != 5], "C", 0.5)


# ---------------------------------------------------------------------------------------------------------------------
# Mean activations


def directly(reader, text, neurons, context):
    """The mean over a text's tokens, window by window without padding, in float64."""
    ids = reader.tokenizer(text, add_special_tokens=False)["input_ids"]
    room, rows = context - len(reader.prefix), []
    for start in range(0, len(ids), room):
        with capture(reader.mlps) as seen, torch.inference_mode():
            reader.model(input_ids=torch.tensor([[*reader.prefix, *ids[start : start + room]]]))
        acts = [seen[reader.mlps[layer].path].flatten(0, -2)[len(reader.prefix) :, unit] for layer, unit in neurons]
        rows.append(torch.stack(acts, dim=1).double().numpy())
    return np.concatenate(rows).mean(axis=0)


@pytest.fixture(scope="module")
def zoo_reader():
    return Reader.open(models.describe("zoo/pythia-32x2"))


def functions_of_many_lengths():
    source = "\n".join(texts())
    return [source[start : start + 7 * length + 1] for length, start in enumerate(range(0, 4_000, 97))] + [
        source[:3_000]
    ]


def test_a_score_is_the_mean_activation_over_all_tokens_whatever_the_windows_and_batches(zoo_reader):
    neurons = [(1, 7), (0, 0), (1, 127), (0, 31)]
    some = functions_of_many_lengths()
    for sequences_per_batch, context in ((1, None), (8, 40), (64, None)):
        means = mean_activations(zoo_reader, some, neurons, sequences_per_batch, context)
        expected = [directly(zoo_reader, text, neurons, context or 128) for text in some]
        assert means.dtype == np.float32 and means.shape == (len(some), 4)
        np.testing.assert_allclose(means, expected, atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_are_read_but_do_not_count(family, reader_of):
    reader, some = reader_of[family], ["def f(x):\n    return x\n", "x", "y " * 400]
    expected = [directly(reader, text, [(1, 3), (0, 2)], 128) for text in some]
    np.testing.assert_allclose(mean_activations(reader, some, [(1, 3), (0, 2)]), expected, atol=2e-5)


def test_texts_are_streamed_and_keep_their_order(zoo_reader):
    some = functions_of_many_lengths() * 3  # several rounds of sorting
    waiting = []

    def stream():
        for text in some:
            waiting.append(text)
            yield text

    streamed = mean_activations(zoo_reader, stream(), [(0, 5)], sequences_per_batch=1)
    assert waiting == some
    np.testing.assert_allclose(streamed, mean_activations(zoo_reader, some, [(0, 5)]), atol=1e-5)


def test_only_a_round_of_texts_is_held(zoo_reader, monkeypatch):
    monkeypatch.setattr("rosetta.filtering.filters.SORTED_BATCHES", 2)
    given_out, read = [0], []
    original = Reader.read

    def watched(self, sequences):
        read.append(given_out[0])
        return original(self, sequences)

    def stream():
        for i in range(40):
            given_out[0] = i + 1
            yield "a b c"

    monkeypatch.setattr(Reader, "read", watched)
    mean_activations(zoo_reader, stream(), [(0, 0)], sequences_per_batch=4)
    assert read == [8, 8, 16, 16, 24, 24, 32, 32, 40, 40]


def test_sorting_by_length_leaves_little_padding(zoo_reader, monkeypatch):
    sizes = []
    original = Reader.read

    def watched(self, sequences):
        lengths = [len(ids) for ids in sequences]
        sizes.append((sum(lengths), max(lengths) * len(lengths)))
        return original(self, sequences)

    monkeypatch.setattr(Reader, "read", watched)
    lengths = np.random.default_rng(0).integers(1, 120, size=512)
    mean_activations(zoo_reader, ["x " * int(n) for n in lengths], [(0, 0)], sequences_per_batch=16)
    real, padded = np.sum(sizes, axis=0)
    assert real > 0.95 * padded


def test_a_text_without_tokens_is_named(zoo_reader, monkeypatch):
    monkeypatch.setattr("rosetta.filtering.filters.SORTED_BATCHES", 2)
    with pytest.raises(ValueError, match="text 5 has no tokens"):
        mean_activations(zoo_reader, ["a", "b", "c", "d", "e", "", "g"], [(0, 0)], sequences_per_batch=2)
    assert mean_activations(zoo_reader, [], [(0, 0), (0, 1)]).shape == (0, 2)


def test_neurons_and_contexts_that_a_model_lacks_are_refused(zoo_reader):
    for neuron in ((2, 0), (0, 128), (-1, 0), (0, -1)):
        with pytest.raises(ValueError, match=rf"pythia-32x2 has no neuron L{neuron[0]}/U{neuron[1]}"):
            mean_activations(zoo_reader, ["a"], [(0, 0), neuron])
    with pytest.raises(ValueError, match="no room"):
        mean_activations(zoo_reader, ["a"], [(0, 0)], context=len(zoo_reader.prefix) or -1)


# ---------------------------------------------------------------------------------------------------------------------
# Other scores


def test_random_scores_are_uniform_and_seeded():
    scores = random_scores(20_000, seed=3)
    assert np.array_equal(scores, random_scores(20_000, seed=3)) and not np.array_equal(
        scores, random_scores(20_000, 4)
    )
    np.testing.assert_allclose(np.histogram(scores, bins=4, range=(0, 1))[0] / 20_000, 0.25, atol=0.02)


def test_the_average_standardizes_each_neuron_and_passes_over_constant_ones():
    rng = np.random.default_rng(0)
    activations = rng.normal(size=(50, 3)) * [1, 100, 0.01] + [0, 5, -3]
    expected = ((activations - activations.mean(0)) / activations.std(0)).mean(1)
    np.testing.assert_allclose(average_scores(activations), expected, rtol=1e-9)
    with_constant = np.column_stack([activations, np.full(50, 7.0)])
    np.testing.assert_allclose(average_scores(with_constant), expected * 3 / 4, rtol=1e-9)


def test_a_linear_probe_finds_a_direction_that_no_single_neuron_shows():
    rng = np.random.default_rng(0)
    activations = rng.normal(size=(2_000, 2)) * [1, 1_000]
    is_target = activations[:, 0] - activations[:, 1] / 1_000 > 0
    scores = linear_probe(activations[:1_000], is_target[:1_000], activations[1_000:])
    assert scores.shape == (1_000,)
    assert ((scores > 0) == is_target[1_000:]).mean() > 0.98
    single = [((activations[1_000:, i] > 0) == is_target[1_000:]).mean() for i in range(2)]
    assert max(single) < 0.8


def test_a_bag_of_tokens_tells_languages_apart_by_their_tokens(tokenizer_of):
    python = [f"def f{i}(x):\n    return x + {i}\n" for i in range(20)]
    c = [f"int f{i}(int x) {{\n  return x + {i};\n}}\n" for i in range(20)]
    is_target = np.repeat([False, True], 10)
    scores = bag_of_tokens(tokenizer_of["gpt2"], python[:10] + c[:10], is_target, python[10:] + c[10:])
    assert scores[10:].min() > 0 > scores[:10].max()


def test_classifiers_need_both_classes(tokenizer_of):
    for labels in ([True, True], [False, False]):
        with pytest.raises(ValueError, match="all the same"):
            linear_probe(np.zeros((2, 3)), labels, np.zeros((4, 3)))
        with pytest.raises(ValueError, match="all the same"):
            bag_of_tokens(tokenizer_of["gpt2"], ["a", "b"], labels, ["c"])


# ---------------------------------------------------------------------------------------------------------------------
# Selection


def select_by_hand(scores, n_tokens, budget):
    ranked = sorted((-s, i) for i, s in enumerate(scores) if not np.isnan(s))
    selected, left = [], budget
    for _, i in ranked:
        if n_tokens[i] > left:
            break
        selected.append(i)
        left -= n_tokens[i]
    return selected


levels = st.sampled_from([-np.inf, -1.5, 0.0, -0.0, 0.25, 1.0, 1e30, np.inf, np.nan])
pools = st.lists(st.tuples(levels | st.floats(-10, 10, width=32), st.integers(1, 30)), min_size=1, max_size=25)


@given(pool=pools, budget=st.integers(1, 400))
@settings(max_examples=300, deadline=None)
def test_functions_are_taken_in_order_of_score_until_one_would_exceed_the_budget(pool, budget):
    scores, n_tokens = map(list, zip(*pool, strict=True))
    selected = select_under_budget(scores, n_tokens, budget)
    assert selected.dtype == np.int64 and selected.tolist() == select_by_hand(scores, n_tokens, budget)
    assert sum(n_tokens[i] for i in selected) <= budget
    rest = [s for i, s in enumerate(scores) if i not in selected and not np.isnan(s)]
    if len(selected) and rest:
        assert min(scores[i] for i in selected) >= max(rest)
    for kind in (np.array, torch.tensor, tuple):
        assert select_under_budget(kind(scores), kind(n_tokens), budget).tolist() == selected.tolist()


@given(
    scores=hnp.arrays(np.float64, 20, elements=st.floats(-5, 5), unique=True),
    budget=st.integers(1, 200),
    order=st.permutations(range(20)),
)
@settings(max_examples=100, deadline=None)
def test_of_distinct_scores_only_their_order_decides(scores, budget, order):
    n_tokens = np.arange(1, 21)
    selected = select_under_budget(scores, n_tokens, budget).tolist()
    order = np.array(order)
    assert [order[i] for i in select_under_budget(scores[order], n_tokens[order], budget)] == selected
    ranks = np.argsort(np.argsort(scores))
    assert select_under_budget(ranks, n_tokens, budget).tolist() == selected
    larger = select_under_budget(scores, n_tokens, budget + 7).tolist()
    assert larger[: len(selected)] == selected


def test_tensors_of_any_kind_are_read():
    scores = torch.tensor([0.5, 2.0, 1.0], dtype=torch.bfloat16, requires_grad=True)
    assert select_under_budget(scores, torch.tensor([1, 1, 1], dtype=torch.int32), 2).tolist() == [1, 2]


def test_a_budget_larger_than_the_pool_selects_all_of_it_with_a_warning(caplog):
    assert select_under_budget([1, np.nan, 3], [5, 5, 5], 15).tolist() == [2, 0]
    assert not caplog.records
    assert select_under_budget([1, 2, 3], [5, 5, 5], 16).tolist() == [2, 1, 0]
    assert "budget of 16 tokens is larger than the pool of 15" in caplog.text


def test_a_budget_that_the_best_function_exceeds_selects_nothing_with_a_warning(caplog):
    assert select_under_budget([2, 1], [9, 1], 8).tolist() == []
    assert "nothing is selected" in caplog.text


@pytest.mark.parametrize(
    ("scores", "n_tokens", "budget", "message"),
    [
        ([], [], 5, "pool is empty"),
        ([1.0, 2.0], [3], 5, r"\(2,\) and n_tokens \(1,\)"),
        ([[1.0]], [[3]], 5, "expected two of one length"),
        ([1.0], [3], 0, "budget is 0"),
        ([1.0], [3], -3, "budget is -3"),
        ([1.0], [3], float("nan"), "budget is nan"),
        ([1.0, 2.0], [3, 0], 5, "function 1 has 0 tokens"),
        ([1.0, 2.0], [float("nan"), 1], 5, "function 0 has nan tokens"),
    ],
)
def test_what_cannot_be_selected_from_is_refused(scores, n_tokens, budget, message):
    with pytest.raises(ValueError, match=message):
        select_under_budget(scores, n_tokens, budget)


# ---------------------------------------------------------------------------------------------------------------------
# Recovery


@given(
    pool=st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(1, 50)), min_size=1, max_size=30).filter(
        lambda rows: any(target for target, _, _ in rows)
    )
)
@settings(max_examples=150, deadline=None)
def test_recovery_is_precision_recall_and_f1_by_their_definitions(pool):
    is_target, chosen, n_tokens = (np.array(column) for column in zip(*pool, strict=True))
    found = recovery(np.flatnonzero(chosen), is_target, n_tokens)
    expected = []
    for weight in (np.ones(len(pool)), n_tokens):
        hits = weight[is_target & chosen].sum()
        precision = hits / weight[chosen].sum() if chosen.any() else 0
        recall = hits / weight[is_target].sum()
        expected += [precision, recall, 2 * precision * recall / (precision + recall) if hits else 0]
    np.testing.assert_allclose(found, expected)


@given(
    rows=st.lists(st.tuples(st.booleans(), st.integers(1, 500)), min_size=1, max_size=40).filter(
        lambda rows: any(target for target, _ in rows)
    )
)
@settings(max_examples=100, deadline=None)
def test_the_oracle_recovers_all_of_the_target_with_a_budget_of_its_tokens(rows):
    is_target, n_tokens = map(list, zip(*rows, strict=True))
    budget = sum(n for target, n in rows if target)
    selected = select_under_budget(oracle_scores(is_target), n_tokens, budget)
    assert recovery(selected, is_target, n_tokens) == Recovery(1, 1, 1, 1, 1, 1)


def test_a_random_selection_recovers_about_the_share_of_the_target():
    rng = np.random.default_rng(0)
    is_target, n_tokens = rng.random(40_000) < 0.06, rng.integers(1, 60, 40_000)
    budget = int(n_tokens[is_target].sum())
    found = recovery(select_under_budget(random_scores(40_000, 1), n_tokens, budget), is_target, n_tokens)
    np.testing.assert_allclose(found, 0.06, atol=0.012)  # Table 1: 0.06


@pytest.mark.parametrize("informative", [0.0, 1.0, 3.0])
def test_the_interval_of_f1_is_that_of_functions_drawn_anew_and_selected_anew(informative):
    rng = np.random.default_rng(3)
    is_target, n_tokens = rng.random(4_000) < 0.1, rng.integers(1, 60, 4_000)
    scores = rng.standard_normal(4_000) + informative * is_target

    def f1(functions) -> float:
        labels, tokens = is_target[functions], n_tokens[functions]
        selected = select_under_budget(scores[functions], tokens, int(tokens[labels].sum()))
        return recovery(selected, labels, tokens).f1

    everything = np.arange(4_000)
    drawn = [f1(rng.integers(0, 4_000, 4_000)) for _ in range(300)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    selected = select_under_budget(scores, n_tokens, int(n_tokens[is_target].sum()))
    found = f1_interval(selected, is_target)
    assert found.mean == pytest.approx(f1(everything)) and found.low < found.mean < found.high
    assert found.high - found.low == pytest.approx(high - low, rel=0.25)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.25 * (high - low))


def test_the_interval_of_f1_holds_its_expected_value_about_95_times_in_100():
    # Of the functions 5% are selected and the target's, 5% only selected, 10% only the target's.
    true, hits, rng = 2 * 0.05 / (2 * 0.05 + 0.05 + 0.1), 0, np.random.default_rng(0)
    for _ in range(400):
        kind = rng.choice(4, size=1_000, p=[0.05, 0.05, 0.1, 0.8])
        _, low, high = f1_interval(np.flatnonzero(kind < 2), (kind == 0) | (kind == 2))
        hits += low <= true <= high
    assert stats.binomtest(hits, 400, 0.95).pvalue > 1e-3


def test_the_interval_of_f1_at_its_ends():
    assert f1_interval([], [True, False])[:2] == (0, 0) and f1_interval([0], [True, False]).high == 1
    assert np.isnan(f1_interval([], [False, False])).all()


def test_a_pool_without_the_target_has_nothing_to_recover():
    with pytest.raises(ValueError, match="no function of the target"):
        recovery([0], [False, False], [1, 1])


def test_the_curve_holds_precision_and_recall_at_every_threshold():
    rng = np.random.default_rng(1)
    scores, is_target, n_tokens = rng.integers(0, 9, 60).astype(float), rng.random(60) < 0.3, rng.integers(1, 20, 60)
    for weights in (None, n_tokens):
        curve = precision_recall_curve(torch.tensor(scores), is_target, weights)
        assert (np.diff(curve.threshold) < 0).all() and set(curve.threshold) <= set(scores)
        assert curve.recall.iloc[-1] == 1
        for row in curve.itertuples():
            found = recovery(np.flatnonzero(scores >= row.threshold), is_target, n_tokens)
            expected = found[:2] if weights is None else found[3:5]
            np.testing.assert_allclose((row.precision, row.recall), expected)
