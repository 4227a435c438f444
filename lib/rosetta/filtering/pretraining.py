"""Continued pretraining on filtered data and the perplexity it leads to (section 5.3, Appendix F, Table 1).

Rank-1 LoRA in the attention and MLP layers, trained by `transformers.Trainer` for one epoch. Everything but the data
stays the same between filters. A run that was killed goes on from its last checkpoint; of a finished one the adapter
is kept, in `peft`'s format, with the parameters that made it beside it.
"""

import hashlib
import logging
import math
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from safetensors.torch import save_file
from tqdm.auto import tqdm
from transformers.pytorch_utils import Conv1D

from rosetta.models.likelihood import check_context, text_nats
from rosetta.models.load import ModelSpec, fingerprint, load_tokenizer, token_ids
from rosetta.models.load import load as load_model
from rosetta.models.mlps import NoMlpFound, find_mlps
from rosetta.profiles.sections import Training
from rosetta.results import made_by, vouch, why_stale, write_whole

logger = logging.getLogger(__name__)
# peft asks transformers by a name that is being replaced; nothing a reader could do about it
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)

ADAPTER = "adapter_model.safetensors"  # peft's name for it
#: What Trainer reads back from a checkpoint. It unpickles nothing: all three .pt files are read with weights_only=True.
CHECKPOINT_FILES = (ADAPTER, "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
#: A checkpoint after each quarter of a run.
CHECKPOINT_EVERY = 0.25


def packed(texts: Sequence[str], tokenizer, sequence_length: int) -> np.ndarray:
    """Functions as training sequences: an end-of-text token after each, all in one row, the row cut into windows.

    What is left at the end and fills no window is dropped, and logged.

    Parameters
    ----------
    texts : sequence of str
    tokenizer : transformers.PreTrainedTokenizerBase
    sequence_length : int
        Tokens.

    Returns
    -------
    int64 [sequences, sequence_length]

    Raises
    ------
    ValueError
        If the texts do not fill one window.
    """
    end = tokenizer.eos_token_id
    row = np.fromiter((i for ids in token_ids(tokenizer, texts) for i in (*ids, end)), dtype=np.int64)
    sequences, rest = divmod(len(row), sequence_length)
    if not sequences:
        made = f"{len(texts)} texts make {len(row)} tokens, less than one sequence of {sequence_length}"
        raise ValueError(f"{made}; give more text or a shorter sequence_length")
    logger.info("%d sequences of %d tokens; the last %d tokens are dropped", sequences, sequence_length, rest)
    return row[: len(row) - rest].reshape(sequences, sequence_length)


def lora_targets(model: torch.nn.Module) -> list[str]:
    """Paths of the attention and MLP layers: every linear layer inside the blocks, whatever the model's family.

    Embeddings and the unembedding lie outside the blocks.

    Raises
    ------
    ValueError
        If no blocks are found; the model's class is named.
    """
    try:
        mlps = find_mlps(model)
    except NoMlpFound as error:
        raise ValueError(f"{type(model).__name__} has no layers for LoRA to adapt: {error}") from error
    return [
        f"{mlp.block}.{name}"
        for mlp in mlps
        for name, module in model.get_submodule(mlp.block).named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
    ]


def with_lora(model: torch.nn.Module, training: Training, seed: int) -> peft.PeftModel:
    """The model with a LoRA beside each of its `lora_targets`: A initialized from the seed, B zero; all else frozen."""
    targets = lora_targets(model)
    transposed = isinstance(model.get_submodule(targets[0]), Conv1D)
    config = peft.LoraConfig(
        r=training.rank, lora_alpha=training.alpha, target_modules=targets, fan_in_fan_out=transposed,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config)


def continue_pretraining(
    spec: ModelSpec,
    texts: Sequence[str],
    training: Training,
    seed: int,
    folder: Path,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    sequences: int | None = None,
) -> peft.PeftModel:
    """Train the model's LoRA on the texts for one epoch, or load it if that has been done (section 5.3).

    AdamW; the learning rate rises linearly over the first `warmup_share` of the steps and falls to 0 as a cosine.
    ``ceil(sequences / effective_batch)`` steps; the last one takes the sequences that are left.

    Parameters
    ----------
    spec : ModelSpec
    texts : sequence of str
    training : Training
    seed : int
        Of LoRA's initial values, the order of the sequences, and dropout. Trainer seeds the process's generators.
    folder : Path
        Of this run alone. The adapter is kept here; checkpoints are, too, until it is done.
    device : str
        "cpu" or "cuda"; of several GPUs the first is trained on.
    dtype : torch.dtype
        bfloat16 trains in mixed precision on a GPU; a CPU always trains in float32.
    sequences : int, optional
        Train on the first so many sequences, so that runs on different texts have the same number of steps.

    Returns
    -------
    peft.PeftModel
        In evaluation mode, float32; as read back from the folder, so a first and a second run go on with the same.

    Raises
    ------
    ValueError
        Texts too short for one sequence, a sequence_length that the model cannot read, an effective batch that is not
        a multiple of the micro-batch, or a model without layers to adapt.
    FloatingPointError
        If the loss became NaN or infinite.
    """
    if training.effective_batch % training.micro_batch:
        rule = f"it must be a multiple of micro_batch, {training.micro_batch}"
        raise ValueError(f"effective_batch is {training.effective_batch}; {rule}")
    folder = Path(folder)
    mixed = dtype == torch.bfloat16 and torch.device(device).type == "cuda"
    ids = packed(texts, load_tokenizer(spec), training.sequence_length)[:sequences]
    parameters = {
        "model": spec.name, "weights": fingerprint(spec), **training.model_dump(), "seed": seed,
        "dtype": "bfloat16" if mixed else "float32", "data": hashlib.sha256(ids.tobytes()).hexdigest(),
        "sequences": len(ids), "steps": math.ceil(len(ids) / training.effective_batch),
        **made_by(__name__),
    }  # fmt: skip
    if reason := why_stale(folder / ADAPTER, parameters):
        if (folder / ADAPTER).exists():
            logger.warning("%s %s; it is trained again", folder / ADAPTER, reason)
        model = load_model(spec, device)
        check_context(model, training.sequence_length)
        model = _trained(with_lora(model, training, seed), ids, training, seed, folder, parameters, mixed)
        weights = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
        config = model.peft_config["default"]
        config.base_model_name_or_path, config.revision = spec.source, spec.revision
        config.save_pretrained(folder)
        write_whole(folder / ADAPTER, lambda temporary: save_file(weights, temporary))
        vouch(folder / ADAPTER, parameters)
        del model, weights  # room for the one that is loaded
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return peft.PeftModel.from_pretrained(load_model(spec, device), folder, torch_device=str(device)).eval()


def _trained(model, ids, training, seed, folder, parameters, mixed) -> peft.PeftModel:
    """The model after one epoch with `transformers.Trainer`, from this very run's last checkpoint if there is one."""
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "checkpoints"), num_train_epochs=1, seed=seed,
        per_device_train_batch_size=training.micro_batch,
        gradient_accumulation_steps=training.effective_batch // training.micro_batch,
        learning_rate=training.peak_learning_rate, warmup_steps=training.warmup_share, lr_scheduler_type="cosine",
        optim="adamw_torch_fused", weight_decay=training.weight_decay, bf16=mixed, use_cpu=model.device.type == "cpu",
        save_strategy="steps", save_steps=CHECKPOINT_EVERY, logging_strategy="no", logging_nan_inf_filter=False,
        report_to="none", disable_tqdm=True, dataloader_pin_memory=model.device.type == "cuda",
        train_sampling_strategy="sequential", remove_unused_columns=False,
    )  # fmt: skip
    arguments._n_gpu = min(arguments.n_gpu, 1)  # otherwise each of several GPUs would get a micro-batch of its own
    order = np.random.default_rng(seed).permutation(len(ids))
    model.get_base_model().loss_type = "ForCausalLM"  # Trainer cannot tell from GPT-2's class that labels are shifted
    trainer = transformers.Trainer(
        model, arguments, train_dataset=torch.from_numpy(ids[order]), data_collator=_batch,
        callbacks=[_Watch(parameters)],
    )  # fmt: skip
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.floating_point_ops = lambda _inputs: 0  # it would count all parameters at each step, and nobody reads it
    loss = trainer.train(resume_from_checkpoint=_last_checkpoint(folder / "checkpoints", parameters)).training_loss
    if not math.isfinite(loss):
        shutil.rmtree(folder / "checkpoints")  # they may hold what made it so
        run = f"training {parameters['model']} in {folder}"
        raise FloatingPointError(f"{run} ended with a loss of {loss}; lower peak_learning_rate")
    return model


def _batch(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    ids = torch.stack(rows)
    return {"input_ids": ids, "labels": ids}


class _Watch(transformers.TrainerCallback):
    """A progress bar, and a record beside each file of a checkpoint: only what has one is gone on from."""

    def __init__(self, parameters: dict):
        self.parameters = parameters

    def on_train_begin(self, arguments, state, control, **_):
        name = f"{self.parameters['model']}, seed {self.parameters['seed']}"
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=name, unit="step", leave=False)

    def on_step_end(self, arguments, state, control, **_):
        self.bar.update()

    def on_train_end(self, arguments, state, control, **_):
        self.bar.close()

    def on_save(self, arguments, state, control, **_):
        for file in CHECKPOINT_FILES:
            vouch(Path(arguments.output_dir) / f"checkpoint-{state.global_step}" / file, self.parameters)


def _last_checkpoint(checkpoints: Path, parameters: dict) -> str | None:
    """The newest whole checkpoint of a run with these parameters; others are named and removed."""
    by_step = sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    for checkpoint in reversed(by_step):
        reasons = [f"{file} {why}" for file in CHECKPOINT_FILES if (why := why_stale(checkpoint / file, parameters))]
        if not reasons:
            logger.info("going on from %s", checkpoint)
            return str(checkpoint)
        logger.warning("%s is not used: %s", checkpoint, reasons[0])
        shutil.rmtree(checkpoint)
    return None


def perplexity(model: torch.nn.Module, tokenizer, texts: Sequence[str], context: int, batch: int) -> float:
    """exp(mean -log p per token) over all tokens of all texts (Table 1), each read on its own (`text_nats`).

    Raises
    ------
    ValueError
        If the texts hold no token, or the context is below 2 or beyond the model's.
    """
    nats, tokens = text_nats(model, tokenizer, texts, context, batch)
    if not tokens:
        raise ValueError(f"{len(texts)} texts hold no token; there is nothing to measure perplexity on")
    return math.exp(nats / tokens)
