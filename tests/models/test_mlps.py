import numpy as np
import pytest
import torch
import transformers
from conftest import FAMILIES, untrained
from scipy.special import expit

from rosetta.matching.texts import Reader
from rosetta.models.mlps import NoMlpFound, as_released, find_mlps
from rosetta.profiles.profile import load as load_profile

# ---------------------------------------------------------------------------------------------------------------------
# Finding the MLPs


def matrix(parameter):
    return parameter.detach().double().numpy()


PROJECTION = {"pythia": "mlp.dense_4h_to_h", "gpt2": "mlp.c_proj", "opt": "fc2", "qwen": "mlp.down_proj"}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mlps_of_every_family_are_found_in_order(family):
    mlps = find_mlps(untrained(family))
    assert [mlp.neurons for mlp in mlps] == [128, 128]
    assert all(mlp.path.endswith(f"{i}.{PROJECTION[family]}") for i, mlp in enumerate(mlps))


def test_more_than_nine_layers_come_in_order_of_depth():
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=9, n_embd=8, n_layer=12, n_head=2, n_inner=20)
    )
    assert [int(mlp.path.split(".")[2]) for mlp in find_mlps(model)] == list(range(12))
    assert {mlp.neurons for mlp in find_mlps(model)} == {20}


def dinov3(gated: bool) -> torch.nn.Module:
    sizes = {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    return transformers.AutoModel.from_config(
        transformers.DINOv3ViTConfig(image_size=16, patch_size=8, use_gated_mlp=gated, **sizes)
    )


def test_what_the_released_script_reads_of_a_gated_mlp_is_the_blocks_normed_input():
    model = dinov3(gated=True)
    mlps = find_mlps(model)
    read = as_released(model, mlps)
    assert [mlp.neurons for mlp in mlps] == [40, 40] and [mlp.neurons for mlp in read] == [16, 16]
    seen, normed = {}, {}
    for number, (mlp, block) in enumerate(zip(read, mlps, strict=True)):
        assert mlp.block == block.block
        mlp.projection.register_forward_pre_hook(lambda _m, inputs, number=number: seen.update({number: inputs[0]}))
        norm = model.get_submodule(block.block).norm2
        norm.register_forward_hook(lambda _m, _i, output, number=number: normed.update({number: output}))
    with torch.inference_mode():
        model(torch.randn(1, 3, 16, 16))
    assert len(seen) == 2 and all((seen[number] == normed[number]).all() for number in seen)


def test_an_mlp_without_a_gate_is_read_as_it_should_be():
    model = dinov3(gated=False)
    assert as_released(model, find_mlps(model)) == find_mlps(model)


def test_gate_and_up_in_one_layer_count_once(tokenizer_of):
    config = transformers.Phi3Config(
        vocab_size=2048, hidden_size=16, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Phi3ForCausalLM(config).eval()
    assert [mlp.neurons for mlp in find_mlps(model)] == [40, 40, 40]
    ids = [5, 6, 7, 8]
    entering = []
    model.model.layers[2].mlp.register_forward_pre_hook(lambda _module, inputs: entering.append(inputs[0]))
    acts, _ = Reader("phi", model, tokenizer_of["pythia"]).read([ids])
    gate, up = np.split(matrix(entering[0][0]) @ matrix(model.model.layers[2].mlp.gate_up_proj.weight).T, 2, axis=1)
    np.testing.assert_allclose(acts[:, 80:], gate * expit(gate) * up, atol=1e-6)


def test_projections_around_the_decoder_are_no_mlps():
    config = transformers.OPTConfig(
        vocab_size=50, hidden_size=32, word_embed_proj_dim=16, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2,
        do_layer_norm_before=False,
    )  # fmt: skip
    model = transformers.OPTForCausalLM(config)
    assert model.model.decoder.project_out is not None
    assert [(mlp.path[-12:], mlp.neurons) for mlp in find_mlps(model)] == [("layers.0.fc2", 64), ("layers.1.fc2", 64)]


class AttentionOnly(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.ModuleDict({"query": torch.nn.Linear(8, 8)}) for _ in range(3)])


def test_a_model_without_mlps_is_refused_by_its_class():
    with pytest.raises(NoMlpFound, match=r"AttentionOnly.*'layers'.*query"):
        find_mlps(AttentionOnly())
    with pytest.raises(NoMlpFound, match="Linear"):
        find_mlps(torch.nn.Linear(3, 4))


def test_two_towers_of_the_same_depth_are_refused_until_one_is_passed():
    both = torch.nn.ModuleDict({"text": untrained("gpt2"), "image": untrained("pythia")})
    with pytest.raises(NoMlpFound, match=r"several towers of 2 blocks .*text.*image"):
        find_mlps(both)
    assert len(find_mlps(both["text"])) == 2


# ---------------------------------------------------------------------------------------------------------------------
# Table 2


def neox(width: int, layers: int, heads: int, rows: int) -> transformers.PretrainedConfig:
    return transformers.GPTNeoXConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width,
        vocab_size=rows, tie_word_embeddings=False,
    )  # fmt: skip


def gpt2(width: int, layers: int, heads: int) -> transformers.PretrainedConfig:
    return transformers.GPT2Config(n_embd=width, n_layer=layers, n_head=heads, n_positions=1_024, vocab_size=50_257)


def opt(width: int, layers: int, heads: int, **more) -> transformers.PretrainedConfig:
    return transformers.OPTConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, ffn_dim=4 * width, vocab_size=50_272,
        max_position_embeddings=2_048, **{"word_embed_proj_dim": width, **more},
    )  # fmt: skip


def qwen(width: int, layers: int, heads: int, shared: int, neurons: int, rows: int = 152_064):
    return transformers.Qwen2Config(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=shared,
        intermediate_size=neurons, vocab_size=rows, tie_word_embeddings=rows == 151_936,
    )  # fmt: skip


#: By the names of `paper`: the released configuration, layers, neurons of each, and all parameters of the released weights.
TABLE_2 = {
    "pythia-160m": (neox(768, 12, 12, 50_304), 12, 3_072, 162_322_944),
    "pythia-410m": (neox(1_024, 24, 16, 50_304), 24, 4_096, 405_334_016),
    "pythia-1.4b": (neox(2_048, 24, 16, 50_304), 24, 8_192, 1_414_647_808),
    "pythia-2.8b": (neox(2_560, 32, 32, 50_304), 32, 10_240, 2_775_208_960),
    "pythia-6.9b": (neox(4_096, 32, 32, 50_432), 32, 16_384, 6_857_302_016),
    "pythia-12b": (neox(5_120, 36, 40, 50_688), 36, 20_480, 11_846_072_320),
    "gpt2-124m": (gpt2(768, 12, 12), 12, 3_072, 124_439_808),
    "gpt2-355m": (gpt2(1_024, 24, 16), 24, 4_096, 354_823_168),
    "gpt2-1.5b": (gpt2(1_600, 48, 25), 48, 6_400, 1_557_611_200),
    "opt-125m": (opt(768, 12, 12), 12, 3_072, 125_239_296),
    "opt-350m": (opt(1_024, 24, 16, word_embed_proj_dim=512, do_layer_norm_before=False), 24, 4_096, 331_196_416),
    "opt-1.3b": (opt(2_048, 24, 32), 24, 8_192, 1_315_758_080),
    "opt-2.7b": (opt(2_560, 32, 32), 32, 10_240, 2_651_596_800),
    "opt-6.7b": (opt(4_096, 32, 32), 32, 16_384, 6_658_473_984),
    "opt-13b": (opt(5_120, 40, 40), 40, 20_480, 12_853_473_280),
    "opt-30b": (opt(7_168, 48, 56), 48, 28_672, 29_974_540_288),
    "qwen2.5-1.5b": (qwen(1_536, 28, 12, 2, 8_960, 151_936), 28, 8_960, 1_543_714_304),
    "qwen2.5-3b": (qwen(2_048, 36, 16, 2, 11_008, 151_936), 36, 11_008, 3_085_938_688),
    "qwen2.5-7b": (qwen(3_584, 28, 28, 4, 18_944), 28, 18_944, 7_615_616_512),
    "qwen2.5-14b": (qwen(5_120, 48, 40, 8, 13_824), 48, 13_824, 14_770_033_664),
    "qwen2.5-32b": (qwen(5_120, 64, 40, 8, 27_648), 64, 27_648, 32_763_876_352),
}  # fmt: skip
PAPER = load_profile("paper")


def test_every_language_model_of_the_papers_profile_is_looked_at():
    assert set(TABLE_2) == {name for name, spec in PAPER.models.items() if spec.modality == "text"}
    small = {name: spec for name, spec in load_profile("small").models.items() if spec.modality == "text"}
    assert all(spec == PAPER.models[name] for name, spec in small.items()) and len(small) == 6


@pytest.mark.parametrize("name", TABLE_2)
def test_a_model_of_table_2_has_the_layers_and_neurons_of_the_profile(name):
    config, layers, neurons, parameters = TABLE_2[name]
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    mlps = find_mlps(model)
    assert [mlp.neurons for mlp in mlps] == [neurons] * layers
    assert [int(mlp.block.rpartition(".")[2]) for mlp in mlps] == list(range(layers))
    assert {mlp.path.partition(mlp.block)[2] for mlp in mlps} == {f".{PROJECTION[PAPER.models[name].family]}"}
    assert sum(p.numel() for p in model.parameters()) == parameters
    spec = PAPER.models[name]
    assert (spec.layers, spec.mlp_width, spec.neurons) == (layers, neurons, layers * neurons)
    assert (spec.hidden_size or spec.mlp_width // 4) == config.hidden_size


#: Its 21 runs in order, with the mean number of neurons of a run's models, the x of Figure 3a. The table names models, not sizes.
RUNS = {
    ("opt-1.3b", "qwen2.5-1.5b"): 223_744, ("opt-2.7b", "qwen2.5-3b"): 361_984, ("opt-6.7b", "qwen2.5-7b"): 527_360,
    ("opt-13b", "qwen2.5-14b"): 741_376, ("opt-30b", "qwen2.5-32b"): 1_572_864, ("pythia-160m", "opt-125m"): 36_864,
    ("pythia-410m", "opt-350m"): 98_304, ("pythia-1.4b", "opt-1.3b"): 196_608, ("pythia-2.8b", "opt-2.7b"): 327_680,
    ("pythia-6.9b", "opt-6.7b"): 524_288, ("pythia-12b", "opt-13b"): 778_240, ("pythia-160m", "gpt2-124m"): 36_864,
    ("pythia-410m", "gpt2-355m"): 98_304, ("pythia-1.4b", "gpt2-1.5b"): 251_904,
    ("opt-125m", "pythia-160m", "gpt2-124m"): 36_864, ("opt-350m", "pythia-410m", "gpt2-355m"): 98_304,
    ("opt-1.3b", "pythia-1.4b", "gpt2-1.5b"): 233_472, ("pythia-1.4b", "opt-1.3b", "qwen2.5-1.5b"): 214_699,
    ("pythia-2.8b", "opt-2.7b", "qwen2.5-3b"): 350_549, ("pythia-6.9b", "opt-6.7b", "qwen2.5-7b"): 526_336,
    ("pythia-12b", "opt-13b", "qwen2.5-14b"): 740_011,
}  # fmt: skip


def test_the_21_runs_of_table_2_have_the_stated_sizes():
    curves, _ = PAPER.of("text")
    assert [point for points in curves.values() for point in points] == list(RUNS)
    sizes = [sum(TABLE_2[name][1] * TABLE_2[name][2] for name in run) / len(run) for run in RUNS]
    assert [round(size) for size in sizes] == list(RUNS.values())


# ---------------------------------------------------------------------------------------------------------------------
# What eq. 1 does not speak of

SMALL = {
    "vocab_size": 50,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
EXPERTS = {
    "Qwen2MoeConfig": {"moe_intermediate_size": 96, "shared_expert_intermediate_size": 176, "num_experts": 4},
    "Qwen3MoeConfig": {"moe_intermediate_size": 96, "num_experts": 4, "head_dim": 16},
    "MixtralConfig": {"intermediate_size": 96, "num_local_experts": 4},
    "OlmoeConfig": {"intermediate_size": 96, "num_experts": 4},
    "GptOssConfig": {"intermediate_size": 96, "num_local_experts": 4, "head_dim": 16},
    "Llama4TextConfig": {"intermediate_size": 128, "intermediate_size_mlp": 128, "num_local_experts": 4, "head_dim": 16},
    "GraniteMoeSharedConfig": {"intermediate_size": 128, "shared_intermediate_size": 256, "num_local_experts": 4},
    "DeepseekV3Config": {
        "num_key_value_heads": 4, "intermediate_size": 256, "moe_intermediate_size": 48, "n_routed_experts": 4,
        "n_shared_experts": 2, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2,
        "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "qk_nope_head_dim": 16,
    },
}  # fmt: skip


def on_meta(config: str, **arguments) -> torch.nn.Module:
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(getattr(transformers, config)(**arguments))


@pytest.mark.parametrize("config", EXPERTS)
def test_a_mixture_of_experts_is_refused_with_the_reason(config):
    model = on_meta(config, **SMALL | EXPERTS[config])
    with pytest.raises(NoMlpFound, match=rf"{type(model).__name__} holds a mixture of experts \(.*experts\).*eq. 1"):
        find_mlps(model)


@pytest.mark.parametrize("config", ["MambaConfig", "Mamba2Config"])
def test_a_state_space_model_is_refused_with_the_reason(config):
    heads = {"num_heads": 8, "head_dim": 16, "n_groups": 1} if config == "Mamba2Config" else {}
    model = on_meta(config, vocab_size=50, hidden_size=64, num_hidden_layers=3, state_size=8, **heads)
    with pytest.raises(NoMlpFound, match=r"state-space mixer \(backbone.layers.0.mixer\).*eq. 1"):
        find_mlps(model)


def test_an_mlp_narrower_than_the_model_is_not_read_the_wrong_way_round():
    sizes = {"vocab_size": 50, "num_hidden_layers": 2, "num_attention_heads": 2}
    narrow = on_meta("OPTConfig", hidden_size=32, word_embed_proj_dim=32, ffn_dim=16, **sizes)
    assert [(mlp.path[-12:], mlp.neurons) for mlp in find_mlps(narrow)] == [("layers.0.fc2", 16), ("layers.1.fc2", 16)]
    with pytest.raises(NoMlpFound, match="OPTForCausalLM"):  # both layers are square: nothing tells which leads out
        find_mlps(on_meta("OPTConfig", hidden_size=32, word_embed_proj_dim=32, ffn_dim=32, **sizes))


@pytest.mark.parametrize("config", ["LlamaConfig", "Gemma2Config", "Qwen3Config", "BitNetConfig", "GlmConfig"])
def test_dense_decoders_with_norms_in_attention_and_mlp_are_found(config):
    more = {"pad_token_id": 0} if config == "GlmConfig" else {}
    mlps = find_mlps(on_meta(config, **SMALL, intermediate_size=176, head_dim=16, **more))
    assert [(mlp.path, mlp.neurons) for mlp in mlps] == [(f"model.layers.{i}.mlp.down_proj", 176) for i in range(3)]
