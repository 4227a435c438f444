import numpy as np
import pytest
import torch
import transformers
from conftest import FAMILIES, untrained
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rosetta.models.mlps import find_mlps
from rosetta.neurons import selectivity
from rosetta.neurons.selectivity import vocab_excess_kurtosis


def by_scipy(w_out, w_u) -> np.ndarray:
    """scipy's kurtosis of the full table of cosines, in float64."""
    a, b = np.asarray(w_out, np.float64), np.asarray(w_u, np.float64)
    cosine = (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)[None, :]
    return stats.kurtosis(cosine, axis=1)


def normal(*shape, seed=0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("neurons, tokens, width", [(1, 5, 3), (300, 5_000, 16), (40, 9_000, 64), (7, 20, 1)])
def test_kurtosis_is_scipys(neurons, tokens, width):
    w_out, w_u = normal(neurons, width), normal(tokens, width, seed=1)
    np.testing.assert_allclose(vocab_excess_kurtosis(w_out, w_u), by_scipy(w_out, w_u), rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 12), st.integers(3, 60), st.integers(2, 9), st.integers(0, 10**6),
    st.floats(-12, 12), st.floats(-12, 12), st.floats(0, 50),
)  # fmt: skip
def test_kurtosis_is_scipys_whatever_the_scale_and_the_mean(neurons, tokens, width, seed, scale_out, scale_u, offset):
    w_out = normal(neurons, width, seed=seed) * 10**scale_out
    w_u = (normal(tokens, width, seed=seed + 1) + offset) * 10**scale_u
    np.testing.assert_allclose(vocab_excess_kurtosis(w_out, w_u), by_scipy(w_out, w_u), rtol=1e-4, atol=1e-6)


def test_a_neuron_that_stands_for_one_token_has_the_kurtosis_of_one_outlier():
    # Cosine 1 with one token and 0 with all others: m4 / m2^2 - 3 in closed form.
    tokens, share = 500, 1 / 500
    expected = (share * (1 - share) * (1 - 3 * share + 3 * share**2)) / (share * (1 - share)) ** 2 - 3
    found = vocab_excess_kurtosis(torch.eye(tokens)[:3], torch.eye(tokens))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("block_bytes", [1, 3_000, 10**6])
def test_blocks_change_nothing(block_bytes):
    w_out, w_u = normal(50, 8), normal(10_000, 8, seed=1)
    whole = vocab_excess_kurtosis(w_out, w_u, block_bytes=10**9)
    np.testing.assert_allclose(vocab_excess_kurtosis(w_out, w_u, block_bytes=block_bytes), whole, rtol=1e-12)


@pytest.mark.parametrize("sizes", [[130, 130, 130], [1, 300, 0, 7], [50] * 9, [128, 256]])
def test_layer_by_layer_gives_the_very_numbers_of_one_table(sizes):
    """Blocks hold 128 neurons, whichever layers they are of."""
    w_out, w_u = normal(sum(sizes), 24), normal(5_000, 24, seed=1)
    whole = vocab_excess_kurtosis(w_out, w_u)
    assert torch.equal(vocab_excess_kurtosis(iter(w_out.split(sizes)), w_u), whole)
    assert torch.equal(vocab_excess_kurtosis((x.T.contiguous().T for x in w_out.split(sizes)), w_u), whole)


def test_a_layer_is_asked_for_when_those_before_it_are_done(monkeypatch):
    done, kurtosis = [], selectivity._kurtosis
    monkeypatch.setattr(selectivity, "_kurtosis", lambda part, *rest: done.append(len(part)) or kurtosis(part, *rest))

    def layers():
        for number in range(4):
            assert sum(done) >= 128 * (number * 200 // 128)  # all whole blocks of the layers before
            yield normal(200, 8, seed=number)

    assert len(vocab_excess_kurtosis(layers(), normal(5_000, 8))) == 800
    assert done == [128] * 6 + [32]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_read_as_they_are(dtype):
    w_out, w_u = normal(30, 16).to(dtype), normal(800, 16, seed=1).to(dtype)
    np.testing.assert_allclose(vocab_excess_kurtosis(w_out, w_u), by_scipy(w_out.double(), w_u.double()), rtol=1e-9)


def test_no_layers_give_no_values_and_one_of_another_width_is_refused():
    assert vocab_excess_kurtosis(iter([]), normal(9, 4)).shape == (0,)
    with pytest.raises(ValueError, match=r"w_out is \(3, 5\) and w_u is \(9, 4\); expected \[N, d\]"):
        vocab_excess_kurtosis(iter([normal(3, 4), normal(3, 5)]), normal(9, 4))
    with pytest.raises(ValueError, match=r"w_u is \(9,\); expected \[V, d\]"):
        vocab_excess_kurtosis(normal(3, 4), normal(9))


def test_what_has_no_direction_is_nan_or_left_out():
    w_out, w_u = normal(4, 5), normal(60, 5, seed=1)
    w_out[2] = 0
    w_u[[0, 30]] = 0
    found = vocab_excess_kurtosis(w_out, w_u)
    assert found.isnan().tolist() == [False, False, True, False]
    kept = [0, 1, 3]
    np.testing.assert_allclose(found[kept], by_scipy(w_out[kept], w_u[w_u.norm(dim=1) > 0]), rtol=1e-9)


def test_equal_cosines_have_no_kurtosis():
    assert vocab_excess_kurtosis(normal(3, 5), normal(1, 5)).isnan().all()
    assert vocab_excess_kurtosis(normal(3, 5), normal(1, 5).repeat(40, 1) * 3).isnan().all()


@pytest.mark.parametrize("w_out, w_u", [((3, 4), (5, 6)), ((3,), (5, 3)), ((3, 4), (0, 4))])
def test_shapes_that_do_not_fit_are_refused(w_out, w_u):
    with pytest.raises(ValueError, match=r"expected \[N, d\]|no token"):
        vocab_excess_kurtosis(torch.ones(w_out), torch.ones(w_u))


def test_no_neurons_give_no_values():
    assert vocab_excess_kurtosis(torch.ones(0, 4), normal(9, 4)).shape == (0,)


# ---------------------------------------------------------------------------------------------------------------------
# Weights


@pytest.mark.parametrize("family", FAMILIES)
def test_a_neurons_output_weight_is_what_it_adds_to_the_logits(family):
    """Raise one neuron by 1: the residual stream moves by its output weight, whatever the family's layout."""
    model = untrained(family)
    w_out, mlps = selectivity.output_weights(model), find_mlps(model)
    starts = np.cumsum([0, *(mlp.neurons for mlp in mlps)])
    for layer, unit in ((0, 5), (1, 100)):
        projection = mlps[layer].projection
        one = torch.zeros(1, mlps[layer].neurons)
        moved = projection(one.index_fill(1, torch.tensor([unit]), 1.0)) - projection(one)
        torch.testing.assert_close(w_out[starts[layer] + unit], moved[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_unembedding_is_what_gives_the_logits(family):
    model = untrained(family)
    w_u = selectivity.unembedding(model)
    assert w_u.shape == (model.config.vocab_size, model.config.hidden_size)
    seen = {}
    model.get_output_embeddings().register_forward_hook(lambda _m, inputs, output: seen.update(x=inputs[0], y=output))
    model(torch.tensor([[1, 2, 3]]))
    torch.testing.assert_close(seen["x"] @ w_u.T, seen["y"])


FINAL_NORM = {
    "pythia": "gpt_neox.final_layer_norm.weight", "gpt2": "transformer.ln_f.weight",
    "opt": "model.decoder.final_layer_norm.weight", "qwen": "model.norm.weight",
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_the_folded_gain_is_the_final_norms(family):
    model = untrained(family)
    gain = model.state_dict()[FINAL_NORM[family]].double().numpy()
    assert gain.std() > 0.1
    w_u = model.get_output_embeddings().weight.double().numpy()
    folded = selectivity.unembedding(model, fold_gain=True)
    # Up to a factor for all columns (the norm's epsilon), which no cosine sees.
    np.testing.assert_allclose(folded, w_u * gain, rtol=2e-5, atol=1e-7)
    w_out, written = selectivity.output_weights(model), np.linalg.norm(w_u, axis=1) > 0  # OPT's padding row is zero
    expected = by_scipy(w_out, w_u[written] * gain)
    np.testing.assert_allclose(vocab_excess_kurtosis(w_out, folded), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected - by_scipy(w_out, w_u[written])).max() > 0.1


def test_a_norm_that_adds_1_to_its_weight_has_that_gain():
    config = transformers.GemmaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    model = transformers.GemmaForCausalLM(config).eval()
    model.model.norm.weight.data = normal(16)
    expected = model.lm_head.weight.double() * (1 + normal(16).double())
    np.testing.assert_allclose(selectivity.unembedding(model, True), expected.detach(), rtol=1e-4, atol=1e-7)


def opt_without_final_norm(width: int) -> transformers.OPTForCausalLM:
    config = transformers.OPTConfig(
        vocab_size=50, hidden_size=24, word_embed_proj_dim=width, num_hidden_layers=2, num_attention_heads=2, ffn_dim=96,
        max_position_embeddings=32, do_layer_norm_before=False,
    )  # fmt: skip
    return transformers.OPTForCausalLM(config).eval()


def test_where_no_norm_stands_in_front_of_the_unembedding_there_is_nothing_to_fold():
    model = opt_without_final_norm(8)
    assert torch.equal(selectivity.unembedding(model, fold_gain=True), selectivity.unembedding(model))


def test_a_norm_of_the_embeddings_is_not_the_one_in_front_of_the_unembedding():
    config = transformers.BloomConfig(vocab_size=30, hidden_size=16, n_layer=2, n_head=2)
    model = transformers.BloomForCausalLM(config).eval()
    model.transformer.ln_f.weight.data = normal(16)
    model.transformer.word_embeddings_layernorm.weight.data = normal(16, seed=1)
    expected = model.lm_head.weight.detach() * normal(16)
    torch.testing.assert_close(selectivity.unembedding(model, True), expected, rtol=1e-4, atol=1e-7)


def test_where_it_is_not_clear_which_norm_stands_in_front_the_gain_is_not_folded():
    model = untrained("gpt2")
    model.another = torch.nn.LayerNorm(32)
    with pytest.raises(
        ValueError, match=r"GPT2LMHeadModel: the norms outside its blocks are transformer\.ln_f, another"
    ):
        selectivity.unembedding(model, fold_gain=True)
    assert len(selectivity.unembedding(model)) == model.config.vocab_size


def test_where_widths_differ_the_weight_goes_through_the_projection_in_front_of_the_unembedding():
    model = opt_without_final_norm(8)
    w_out, w_u = selectivity.output_weights(model), selectivity.unembedding(model)
    assert w_out.shape == (192, 8) and w_u.shape == (50, 8)
    last = find_mlps(model)[1].projection.weight[:, 7]  # neuron 96 + 7
    torch.testing.assert_close(w_out[96 + 7], model.model.decoder.project_out(last).detach())


def test_a_model_without_unembedding_or_with_another_width_is_refused():
    bare = transformers.GPT2Model(transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20))
    with pytest.raises(ValueError, match="GPT2Model has no unembedding"):
        selectivity.unembedding(bare)
    model = untrained("gpt2")
    model.set_output_embeddings(torch.nn.Linear(7, model.config.vocab_size))
    with pytest.raises(ValueError, match="neurons write 32 numbers and the unembedding reads 7"):
        selectivity.output_weights(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_layer_by_layer_are_the_models_own_and_no_copies(family):
    model = untrained(family).bfloat16()
    layers = list(selectivity.weights_by_layer(model))
    assert torch.equal(torch.cat(layers), selectivity.output_weights(model))
    for layer, mlp in zip(layers, find_mlps(model), strict=True):
        assert layer.shape == (128, 32) and layer.dtype == torch.bfloat16
        assert layer.untyped_storage().data_ptr() == mlp.projection.weight.untyped_storage().data_ptr()


def test_of_weights_in_bfloat16_what_is_computed_is_float32_or_better():
    """Against float64 on the same weights; arithmetic in bfloat16 would be off by about 1 in 250."""
    model = opt_without_final_norm(8).bfloat16()
    w_out, w_u = selectivity.output_weights(model), selectivity.unembedding(model)
    projected = model.model.decoder.project_out.weight.double()
    of_layer = find_mlps(model)[1].projection.weight.double()
    np.testing.assert_allclose(w_out[96:].double(), (of_layer.T @ projected.T).detach(), rtol=1e-4, atol=1e-7)
    a, b = w_out.double().numpy(), w_u.detach().double().numpy()
    cosine = a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1).clip(1e-12)
    np.testing.assert_allclose(selectivity.cosines(w_out, w_u), cosine, atol=1e-5)
    expected = [(-row).argsort()[:5].tolist() for row in cosine]
    assert selectivity.promoted_tokens(w_out, w_u, 5).tolist() == expected


def test_a_gain_folded_in_bfloat16_is_rounded_no_further():
    model = untrained("qwen").bfloat16()
    w_u, gain = selectivity.unembedding(model).double(), model.model.norm.weight.double()
    folded = selectivity.unembedding(model, fold_gain=True)
    assert folded.dtype == torch.float32
    columns = (folded.double() / w_u).nan_to_num().median(0).values  # one factor a column, to float32
    np.testing.assert_allclose(folded.double(), w_u * columns, rtol=1e-6)
    np.testing.assert_allclose(columns / columns[0], gain / gain[0], rtol=0.02)


def test_promoted_tokens_are_those_of_the_largest_cosine(monkeypatch):
    w_out, w_u = normal(20, 6), normal(40, 6, seed=1)
    cosine = np.asarray(w_out, float) @ np.asarray(w_u, float).T / np.linalg.norm(w_u, axis=1)
    expected = np.argsort(-cosine, axis=1)[:, :5]
    monkeypatch.setattr(selectivity, "BLOCK_BYTES", 4 * 40 * 3)  # three neurons at a time
    assert selectivity.promoted_tokens(w_out, w_u, 5).tolist() == expected.tolist()
    assert selectivity.promoted_tokens(w_out, w_u, 100).shape == (20, 40)


# ---------------------------------------------------------------------------------------------------------------------
# Populations


def test_a_population_is_described_by_its_mean_median_and_shares():
    values = np.array([0.5, 1.5, 2.5, 11.0, np.nan])
    found = selectivity.describe(values, above=(1, 3))
    assert (found.neurons, found.mean, found.median) == (4, pytest.approx(3.875), 2.0)
    assert found.shares == {1.0: 0.75, 3.0: 0.25}
    assert found.low < found.mean < found.high


def test_the_interval_is_the_percentile_bootstraps():
    values = np.random.default_rng(3).standard_exponential(400)
    found = selectivity.describe(values, resamples=4_000, seed=1)
    means = np.random.default_rng(9).choice(values, (4_000, 400)).mean(axis=1)
    np.testing.assert_allclose([found.low, found.high], np.quantile(means, [0.025, 0.975]), atol=0.01)
    assert selectivity.describe(values, resamples=4_000, seed=1) == found


def test_too_few_neurons_have_no_interval():
    one, none = selectivity.describe(np.array([2.0]), above=(1,)), selectivity.describe(np.array([np.nan]), above=(1,))
    assert one.mean == 2.0 and np.isnan(one.low) and np.isnan(one.high)
    assert none.neurons == 0 and np.isnan([none.mean, none.median, none.shares[1.0]]).all()


# ---------------------------------------------------------------------------------------------------------------------
# Gaps between populations


def test_a_gap_is_the_difference_of_means_within_strata_weighted_by_the_rosetta_neurons():
    rng = np.random.default_rng(0)
    rosetta, others = [rng.normal(1, 1, n) for n in (5, 20, 3)], [rng.normal(0, 1, n) for n in (40, 10, 6)]
    rosetta[1][0] = others[0][3] = np.nan
    rosetta.append(np.array([9.0, 9.0]))
    others.append(np.array([np.nan]))  # a stratum without others says nothing
    found = selectivity.kurtosis_gap(rosetta, others, 200)
    by_hand = [
        (np.nanmean(a) - np.nanmean(b), np.sum(~np.isnan(a))) for a, b in zip(rosetta[:3], others[:3], strict=True)
    ]
    differences, weights = zip(*by_hand, strict=True)
    assert found.gap == pytest.approx(np.average(differences, weights=weights))
    assert found.low < found.gap < found.high


def test_the_interval_of_a_gap_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(300):
        gap = selectivity.kurtosis_gap([rng.exponential(1.5, 60)], [rng.exponential(1.0, 200)], 300, seed)
        covered += gap.low <= 0.5 <= gap.high
    assert 0.90 <= covered / 300 <= 0.985


def test_a_change_of_gaps_is_the_difference_of_two_and_widens_their_intervals():
    rng = np.random.default_rng(2)
    small, large = [(rng.normal(g, 1, 50), rng.normal(0, 1, 400)) for g in (0.2, 0.8)]
    gaps = [selectivity.kurtosis_gap([a], [b]) for a, b in (small, large)]
    change = selectivity.gap_change(small, large)
    assert change.gap == pytest.approx(gaps[1].gap - gaps[0].gap)
    widths = [gap.high - gap.low for gap in (*gaps, change)]
    assert widths[2] == pytest.approx(np.hypot(*widths[:2]), rel=0.15)


def test_gaps_without_both_populations_are_nan():
    nothing = np.array([])
    assert np.isnan(selectivity.kurtosis_gap([nothing], [np.ones(3)]).gap)
    one = selectivity.kurtosis_gap([np.array([2.0])], [np.array([1.0, 1.5])])
    assert one.gap == pytest.approx(0.75) and np.isnan(one.low)
