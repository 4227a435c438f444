import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
from itertools import pairwise

import numpy as np
import peft
import pytest
import torch
import transformers
from conftest import FAMILIES, texts, untrained
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from rosetta import models
from rosetta.filtering.pretraining import (
    ADAPTER,
    Training,
    continue_pretraining,
    lora_targets,
    packed,
    perplexity,
    with_lora,
)

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's, of transformers
TRAINING = Training(sequence_length=32, effective_batch=4, micro_batch=2)
FUNCTIONS = [text[:600] for text in texts()]


def training_of(sequence_length: int, effective_batch: int, micro_batch: int, **others) -> Training:
    return Training(
        sequence_length=sequence_length, effective_batch=effective_batch, micro_batch=micro_batch, **others
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, tokenizer_of):
    """A GPT-2 of a few thousand parameters in a folder; with dropout, so that a resumed run must restore its seed."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = tokenizer_of["gpt2"]
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=8, n_layer=2, n_head=2, n_positions=40, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return models.describe(folder)


@pytest.fixture(scope="session")
def without_dropout(tiny, tmp_path_factory):
    """The tiny model, deterministic."""
    folder = tmp_path_factory.mktemp("models") / "plain"
    model = models.load(tiny)
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        setattr(model.config, name, 0.0)
    model.save_pretrained(folder)
    models.load_tokenizer(tiny).save_pretrained(folder)
    return models.describe(folder)


@pytest.fixture
def rates():
    """The learning rate of every optimizer step of the test."""
    seen = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    yield seen
    handle.remove()


def weights_in(folder):
    return load_file(folder / ADAPTER)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------------------------------------------------------------
# Sequences


@settings(max_examples=40, deadline=None)
@given(
    some=st.lists(st.sampled_from([*FUNCTIONS, "", "x = 1\n", "é"]), min_size=1, max_size=6), length=st.integers(1, 70)
)
def test_sequences_are_the_functions_with_an_end_after_each_cut_into_windows(tokenizer_of, some, length):
    tokenizer = tokenizer_of["gpt2"]
    row = []
    for text in some:
        row += [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    if len(row) < length:
        with pytest.raises(ValueError, match=f"{len(row)} tokens, less than one sequence of {length}"):
            packed(some, tokenizer, length)
        return
    sequences = packed(some, tokenizer, length)
    assert sequences.dtype == np.int64 and sequences.shape == (len(row) // length, length)
    assert sequences.flatten().tolist() == row[: len(row) // length * length]


def test_more_texts_than_are_tokenized_at_once_and_no_token_before_a_text(tokenizer_of):
    tokenizer = tokenizer_of["opt"]  # would begin every text with its end-of-text token
    some = [f"value_{i}" for i in range(600)]
    row = [i for text in some for i in (*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id)]
    assert packed(some, tokenizer, 1).flatten().tolist() == row


def test_what_is_dropped_is_said(tokenizer_of, caplog):
    tokenizer = tokenizer_of["gpt2"]
    total = packed(FUNCTIONS, tokenizer, 1).size
    with caplog.at_level(logging.INFO):
        packed(FUNCTIONS, tokenizer, total - 3)
    assert f"1 sequences of {total - 3} tokens; the last 3 tokens are dropped" in caplog.text


# ---------------------------------------------------------------------------------------------------------------------
# LoRA

LAYERS_OF_A_BLOCK = {
    "pythia": {"attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"},
    "gpt2": {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"},
    "opt": {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "fc1", "fc2"},
    "qwen": {f"self_attn.{x}_proj" for x in "qkvo"} | {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"},
}
BLOCKS = {"pythia": "gpt_neox.layers", "gpt2": "transformer.h", "opt": "model.decoder.layers", "qwen": "model.layers"}


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_goes_into_attention_and_mlp_of_every_block_and_nowhere_else(family):
    model = untrained(family)
    expected = {f"{BLOCKS[family]}.{i}.{layer}" for i in range(2) for layer in LAYERS_OF_A_BLOCK[family]}
    targets = lora_targets(model)
    assert len(targets) == len(expected) and set(targets) == expected
    # That peft puts an adapter at exactly these is another matter: it matches names by their ends.
    adapted = {
        name.removeprefix("base_model.model.")
        for name, module in with_lora(model, TRAINING, 0).named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }
    assert adapted == expected


def test_a_model_without_layers_to_adapt_is_named():
    with pytest.raises(ValueError, match="Sequential has no layers for LoRA"):
        lora_targets(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU()))


def test_only_the_adapter_can_be_trained_and_at_first_it_changes_nothing(recwarn):
    plain, ids = untrained("gpt2"), torch.arange(20)[None]
    expected = plain(input_ids=ids).logits
    model = with_lora(untrained("gpt2"), training_of(32, 1, 1, rank=3), seed=0)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    # 3 (inputs + outputs) for each of c_attn, c_proj, c_fc, c_proj in two blocks of width 32
    assert sum(p.numel() for p in trained.values()) == 2 * 3 * (32 + 96 + 32 + 32 + 32 + 128 + 128 + 32)
    torch.testing.assert_close(model(input_ids=ids).logits, expected)
    assert not [w for w in recwarn if "fan_in_fan_out" in str(w.message)]


def test_the_seed_decides_the_first_values_and_the_global_state_is_left_alone():
    before = torch.random.get_rng_state()
    one, again, other = (with_lora(untrained("gpt2"), TRAINING, seed).state_dict() for seed in (1, 1, 2))
    assert same(one, again) and not same(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


# ---------------------------------------------------------------------------------------------------------------------
# Training


def rate_by_hand(step, steps, training):
    """Linear from 0 over the warm-up, then a half cosine to 0."""
    warmup = math.ceil(steps * training.warmup_share)
    if step < warmup:
        return training.peak_learning_rate * step / warmup
    return training.peak_learning_rate * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def trained_by_hand(spec, ids, training, seed):
    """AdamW from its definition (Loshchilov and Hutter, algorithm 2) on whole batches, in a plain loop."""
    model = with_lora(models.load(spec), training, seed).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    order = np.random.default_rng(seed).permutation(len(ids))
    steps = math.ceil(len(ids) / training.effective_batch)
    for step in range(steps):
        batch = torch.from_numpy(ids[order[step * training.effective_batch :][: training.effective_batch]])
        log_p = model(input_ids=batch).logits.log_softmax(-1)[:, :-1]
        loss = -log_p.gather(-1, batch[:, 1:, None]).mean()
        gradients = torch.autograd.grad(loss, parameters)
        clip = min(1.0, 1.0 / torch.stack([g.norm() for g in gradients]).norm().item())
        rate = rate_by_hand(step, steps, training)
        with torch.no_grad():
            for p, g, (m, v) in zip(parameters, gradients, moments, strict=True):
                m.mul_(0.9).add_(0.1 * clip * g)
                v.mul_(0.999).add_(0.001 * (clip * g) ** 2)
                update = m / (1 - 0.9 ** (step + 1)) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
                p.sub_(rate * (update + training.weight_decay * p))
    return peft.get_peft_model_state_dict(model, save_embedding_layers=False)


@pytest.mark.parametrize(
    "training",
    [
        TRAINING,
        training_of(24, 5, 5, weight_decay=0.1, peak_learning_rate=1e-2, alpha=2, rank=2),
        training_of(16, 6, 2, warmup_share=0.3),
        training_of(40, 1, 1, warmup_share=0.0),
    ],
)
def test_a_run_is_what_a_plain_loop_gives(without_dropout, training, tmp_path, rates):
    ids = packed(FUNCTIONS, models.load_tokenizer(without_dropout), training.sequence_length)
    steps = math.ceil(len(ids) / training.effective_batch)
    model = continue_pretraining(without_dropout, FUNCTIONS, training, 7, tmp_path)
    assert rates == pytest.approx([rate_by_hand(step, steps, training) for step in range(steps)])
    expected, start = (trained_by_hand(without_dropout, some, training, 7) for some in (ids, ids[:0]))
    found = weights_in(tmp_path)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=2e-6)
        assert not torch.equal(found[name], start[name])
    assert not model.training and model.peft_config["default"].r == training.rank


def test_the_rate_rises_to_its_peak_and_ends_near_zero(without_dropout, tmp_path, rates):
    training = training_of(8, 1, 1, peak_learning_rate=1e-3, warmup_share=0.03)
    continue_pretraining(without_dropout, FUNCTIONS[:1], training, 0, tmp_path)
    warmup = math.ceil(0.03 * len(rates))
    assert rates[0] == 0 and rates[warmup] == pytest.approx(1e-3) == max(rates) and rates[-1] < 1e-5
    assert all(a < b for a, b in pairwise(rates[: warmup + 1])) and all(a > b for a, b in pairwise(rates[warmup:]))


def test_the_base_weights_are_those_of_the_model(tiny, tmp_path):
    model = continue_pretraining(tiny, FUNCTIONS, TRAINING, 0, tmp_path)
    base = models.load(tiny).state_dict()
    inside = {name.replace(".base_layer", ""): tensor for name, tensor in model.get_base_model().state_dict().items()}
    assert base.keys() <= inside.keys() and all(torch.equal(inside[name], base[name]) for name in base)


def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(tiny, tmp_path):
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        torch.manual_seed(99)
        continue_pretraining(tiny, FUNCTIONS, TRAINING, seed, tmp_path / name)
    assert same(weights_in(tmp_path / "one"), weights_in(tmp_path / "again"))
    assert not same(weights_in(tmp_path / "one"), weights_in(tmp_path / "other"))


def test_training_helps_a_zoo_model_on_what_it_was_trained_on(tmp_path):
    spec = models.describe("zoo/gpt2-32x2")
    tokenizer = models.load_tokenizer(spec)
    before = perplexity(models.load(spec), tokenizer, FUNCTIONS, 64, 8)
    after = perplexity(
        continue_pretraining(spec, FUNCTIONS * 8, training_of(64, 2, 2), 0, tmp_path), tokenizer, FUNCTIONS, 64, 8
    )
    assert after < 0.97 * before


def test_bad_numbers_are_refused_before_anything_is_written(tiny, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="effective_batch is 4; it must be a multiple of micro_batch, 3"):
        continue_pretraining(tiny, FUNCTIONS, training_of(16, 4, 3), 0, folder)
    with pytest.raises(ValueError, match="less than one sequence of 32"):
        continue_pretraining(tiny, ["x"], TRAINING, 0, folder)
    for length in (1, 41):
        with pytest.raises(ValueError, match=f"gpt2 can be read in windows of 2 to 40 tokens, not {length}"):
            continue_pretraining(tiny, FUNCTIONS, TRAINING.model_copy(update={"sequence_length": length}), 0, folder)
    assert not folder.exists()


def test_a_loss_that_is_not_a_number_is_an_error_and_leaves_nothing_to_go_on_from(tiny, tmp_path):
    with pytest.raises(FloatingPointError, match="lower peak_learning_rate"):
        continue_pretraining(tiny, FUNCTIONS, TRAINING.model_copy(update={"peak_learning_rate": 1e38}), 0, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cpu_trains_in_float32_whatever_is_asked(tiny, tmp_path):
    model = continue_pretraining(tiny, FUNCTIONS, TRAINING, 0, tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert json.loads((tmp_path / f"{ADAPTER}.made-with.json").read_text())["parameters"]["dtype"] == "float32"


def test_nothing_is_printed(tiny, tmp_path, capfd):
    continue_pretraining(tiny, FUNCTIONS, TRAINING, 0, tmp_path)
    out, err = capfd.readouterr()
    assert out == "" and "Warning" not in err and "loss_type" not in err and "train_runtime" not in err


# ---------------------------------------------------------------------------------------------------------------------
# Kept, and gone on with


def test_a_finished_run_is_loaded_and_not_trained_again(tiny, tmp_path, rates):
    first = continue_pretraining(tiny, FUNCTIONS, TRAINING, 0, tmp_path)
    ids = packed(FUNCTIONS, models.load_tokenizer(tiny), 32)
    steps = math.ceil(len(ids) / 4)
    assert {path.name for path in tmp_path.iterdir()} == {ADAPTER, f"{ADAPTER}.made-with.json", "adapter_config.json"}
    record = json.loads((tmp_path / f"{ADAPTER}.made-with.json").read_text())["parameters"]
    assert (record["steps"], record["sequences"]) == (len(rates), len(ids)) == (steps, len(ids))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == tiny.source
    second = continue_pretraining(tiny, FUNCTIONS, TRAINING, 0, tmp_path)
    assert len(rates) == steps and same(first.state_dict(), second.state_dict())


@pytest.mark.parametrize("change", ["training", "data", "seed", "file"])
def test_a_run_with_other_parameters_or_a_broken_adapter_is_named_and_trained_again(
    tiny, tmp_path, change, caplog, rates
):
    continue_pretraining(tiny, FUNCTIONS, TRAINING, 0, tmp_path)
    before = len(rates)
    if change == "file":
        (tmp_path / ADAPTER).write_bytes((tmp_path / ADAPTER).read_bytes()[:-9])
    functions = FUNCTIONS[::-1] if change == "data" else FUNCTIONS
    training = TRAINING.model_copy(update={"alpha": 4}) if change == "training" else TRAINING
    continue_pretraining(tiny, functions, training, int(change == "seed"), tmp_path)
    assert len(rates) == 2 * before
    why = {"training": "another alpha", "data": "another data", "seed": "another seed", "file": "half-written"}
    assert f"{tmp_path / ADAPTER} " in caplog.text and why[change] in caplog.text and "trained again" in caplog.text


STEPS = 11
KILLED_AT = 8  # checkpoints lie after steps 3, 6 and 9
KILLED_RUN = """
import os, signal, sys
sys.path[:0] = {path!r}
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from rosetta import models
from rosetta.filtering.pretraining import Training, continue_pretraining
torch.set_num_threads(1)
steps = 0
def kill(*_):
    global steps
    steps += 1
    if steps == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
register_optimizer_step_pre_hook(kill)
continue_pretraining(models.ModelSpec(*{spec!r}), {functions!r}, Training(**{training!r}), 3, {folder!r})
"""


@pytest.fixture(scope="session")
def killed(tiny, tmp_path_factory):
    """(what a run is made of, the folder of an undisturbed one, the folder of one that was killed before step 8)."""
    folder = tmp_path_factory.mktemp("runs")
    tokens = packed(FUNCTIONS, models.load_tokenizer(tiny), 1).size
    training = training_of(tokens // (4 * STEPS - 1), 4, 2)
    made_of = (tiny, FUNCTIONS, training, 3)
    continue_pretraining(*made_of, folder / "whole")
    code = KILLED_RUN.format(
        path=sys.path, at=KILLED_AT, spec=tuple(tiny), functions=FUNCTIONS, training=training.model_dump(),
        folder=str(folder / "killed"),
    )  # fmt: skip
    process = subprocess.run([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "killed" / ADAPTER).exists()
    return made_of, folder / "whole", folder / "killed"


@pytest.fixture
def killed_run(killed, tmp_path):
    """A copy of the killed run that a test may spoil."""
    made_of, whole, folder = killed
    shutil.copytree(folder, tmp_path / "run")
    return made_of, weights_in(whole), tmp_path / "run"


def checkpoints(folder):
    return sorted(int(path.name.split("-")[1]) for path in (folder / "checkpoints").iterdir())


def test_a_killed_run_goes_on_from_its_checkpoint_and_ends_as_an_undisturbed_one(killed_run, rates):
    made_of, whole, folder = killed_run
    assert checkpoints(folder) == [3, 6]
    continue_pretraining(*made_of, folder)
    assert len(rates) == STEPS - 6
    assert rates == pytest.approx([rate_by_hand(step, STEPS, made_of[2]) for step in range(6, STEPS)])
    assert same(weights_in(folder), whole)
    assert not (folder / "checkpoints").exists()


def spoil(checkpoint, how):
    if how == "half-written weights":
        (checkpoint / ADAPTER).write_bytes(b"half")
    elif how == "changed optimizer":  # never handed to torch.load
        (checkpoint / "optimizer.pt").write_bytes(b"something else")
    elif how == "killed while saving":
        for file in checkpoint.glob("*.made-with.json"):
            file.unlink()
        (checkpoint / "trainer_state.json").unlink()


@pytest.mark.parametrize("how", ["half-written weights", "changed optimizer", "killed while saving"])
def test_a_broken_checkpoint_is_named_and_the_one_before_it_is_used(killed_run, how, caplog, rates):
    made_of, whole, folder = killed_run
    spoil(folder / "checkpoints" / "checkpoint-6", how)
    continue_pretraining(*made_of, folder)
    assert "checkpoint-6 is not used" in caplog.text and "checkpoint-3 is" not in caplog.text
    assert len(rates) == STEPS - 3 and same(weights_in(folder), whole)


def test_the_checkpoints_of_another_run_are_named_and_it_starts_anew(killed_run, caplog, rates):
    (spec, functions, training, seed), whole, folder = killed_run
    continue_pretraining(spec, functions[::-1], training, seed, folder)
    assert "checkpoint-6 is not used" in caplog.text and "checkpoint-3 is not used" in caplog.text
    assert "another data" in caplog.text
    assert len(rates) == STEPS and not same(weights_in(folder), whole)


def test_a_run_killed_between_its_last_step_and_its_adapter_trains_no_step_more(killed_run, monkeypatch, rates):
    made_of, whole, folder = killed_run
    monkeypatch.setattr("rosetta.filtering.pretraining.save_file", lambda *_: pytest.exit("killed"))
    with pytest.raises(pytest.exit.Exception):
        continue_pretraining(*made_of, folder)
    monkeypatch.undo()
    done = len(rates)
    continue_pretraining(*made_of, folder)
    assert len(rates) == done and same(weights_in(folder), whole)


def test_checkpoints_hold_nothing_that_must_be_unpickled(killed):
    """Each of the files that Trainer reads back loads under torch's weights-only rule (numpy's arrays allowed)."""
    checkpoint = killed[2] / "checkpoints" / "checkpoint-6"
    with transformers.trainer_pt_utils.safe_globals():
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            assert torch.load(checkpoint / name, weights_only=True)


# ---------------------------------------------------------------------------------------------------------------------
# Perplexity


def perplexity_by_hand(model, tokenizer, some, context):
    """Token by token in float64: each from the end-of-text token and what stands before it in its window."""
    nats = []
    for text in some:
        ids = tokenizer.encode(text, add_special_tokens=False)
        for at, token in enumerate(ids):
            seen = ids[at // (context - 1) * (context - 1) : at]
            logits = model(input_ids=torch.tensor([[tokenizer.eos_token_id, *seen]])).logits[0, -1]
            nats.append(-logits.double().log_softmax(-1)[token].item())
    return math.exp(np.mean(nats))


@pytest.mark.parametrize(("context", "batch"), [(2, 3), (17, 1), (17, 4), (40, 1000)])
def test_perplexity_is_that_of_every_token_on_its_own(tiny, context, batch):
    model, tokenizer = models.load(tiny), models.load_tokenizer(tiny)
    model.train()  # its dropout must not count
    some = ["", "x", *(text[:80] for text in FUNCTIONS)]
    found = perplexity(model, tokenizer, some, context, batch)
    assert not model.training
    with torch.inference_mode():
        assert found == pytest.approx(perplexity_by_hand(model, tokenizer, some, context), rel=1e-5)


def test_the_order_of_the_texts_and_the_batch_do_not_matter(tiny):
    model, tokenizer = models.load(tiny), models.load_tokenizer(tiny)
    expected = perplexity(model, tokenizer, FUNCTIONS, 32, 64)
    for batch in (1, 3, 50):
        assert perplexity(model, tokenizer, FUNCTIONS[::-1], 32, batch) == pytest.approx(expected, rel=1e-6)


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(tiny):
    model, tokenizer = models.load(tiny), models.load_tokenizer(tiny)
    for parameter in model.parameters():
        parameter.zero_()
    assert perplexity(model, tokenizer, FUNCTIONS, 32, 8) == pytest.approx(model.config.vocab_size)


def test_an_adapter_reads_as_the_model_it_is_merged_into(tiny, tmp_path):
    model, tokenizer = continue_pretraining(tiny, FUNCTIONS, TRAINING, 0, tmp_path), models.load_tokenizer(tiny)
    adapted = perplexity(model, tokenizer, FUNCTIONS, 32, 8)
    assert adapted != pytest.approx(perplexity(models.load(tiny), tokenizer, FUNCTIONS, 32, 8), rel=1e-6)
    assert perplexity(model.merge_and_unload(), tokenizer, FUNCTIONS, 32, 8) == pytest.approx(adapted, rel=1e-5)


def test_perplexity_of_nothing_or_of_windows_that_do_not_fit_is_refused(tiny):
    model, tokenizer = models.load(tiny), models.load_tokenizer(tiny)
    for context in (1, 41):
        with pytest.raises(ValueError, match=f"2 to 40 tokens, not {context}"):
            perplexity(model, tokenizer, FUNCTIONS, context, 8)
    with pytest.raises(ValueError, match="2 texts hold no token"):
        perplexity(model, tokenizer, ["", ""], 32, 8)
