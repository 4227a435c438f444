"""The training loop of every embedded model: steps, learning rate, log, checkpoints.

A run that was killed goes on from its last whole checkpoint and ends with the weights of one that was not.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rosetta.results import write_whole

CHECKPOINT_SECONDS = 60
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's names for what it remembers of each weight
STEPS_PER_LINE = 50


class Task(NamedTuple):
    """What is trained, and on what: all that differs between two runs of `fit`.

    Attributes
    ----------
    model : torch.nn.Module
        All that is trained, parts that are not kept afterwards (heads, decoders) included.
    loss : callable
        The step, from 0, to its batch's loss and what the log says of it. All chance in it is seeded by the step.
    after : callable
        Called with the step once the weights have moved.
    state : dict of torch.Tensor
        What `after` and `loss` change in place and a checkpoint has to hold beside the weights.
    """

    model: torch.nn.Module
    loss: Callable[[int], tuple[torch.Tensor, dict[str, torch.Tensor]]]
    after: Callable[[int], None] = lambda step: None
    state: dict[str, torch.Tensor] = {}


def warmup_cosine(step: int, steps: int, peak: float) -> float:
    """The learning rate of a step: 5% linear warm-up to `peak`, then a cosine to zero."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def without_card(
    zoo: Path, wanted: Sequence[str], parse: Callable[[str], tuple[str, int, int]]
) -> tuple[list[str], list[str]]:
    """The wanted models that have no card yet, the smallest first, and their families."""
    names = sorted(
        (name for name in wanted if not (zoo / name / "card.json").exists()), key=lambda name: parse(name)[1]
    )
    return names, sorted({parse(name)[0] for name in names})


def fit(
    task: Task, steps: int, rate: Callable[[int], float], weight_decay: float, checkpoint: Path, counted: tuple[str, int],
    stop_after: int | None = None,
) -> None:  # fmt: skip
    """Train with AdamW (betas .9 and .95), gradients clipped at 1; go on from `checkpoint` where there is one.

    Parameters
    ----------
    task : Task
    steps : int
    rate : callable
        The step to its learning rate.
    weight_decay : float
        Of matrices; vectors are not decayed.
    checkpoint : Path
        A safetensors file, written each minute. The log, one JSON line each 50 steps, lies beside it (``.jsonl``).
    counted : (str, int)
        What a step reads and how many of it: ``("tokens", 2048)`` puts ``tokens_per_s`` into the log.
    stop_after : int, optional
        Save a checkpoint and return after this step (used to test resumption).
    """
    model = task.model
    decayed = {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": weight_decay}
    plain = {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([decayed, plain], lr=0.0, betas=(0.9, 0.95), fused=True)
    unit, per_step = counted
    first = _restore(checkpoint, task, optimizer)
    model.train()
    saved, began = time.monotonic(), time.monotonic()
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        loss, figures = task.loss(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        task.after(step)
        done = step + 1
        if done % STEPS_PER_LINE == 0 or done == steps:
            speed = (done - first) * per_step / (time.monotonic() - began)
            figures = {name: round(value.item(), 4) for name, value in figures.items()}
            with checkpoint.with_suffix(".jsonl").open("a") as file:
                print(json.dumps({"step": done, "of": steps, **figures, f"{unit}_per_s": round(speed)}), file=file)
        if time.monotonic() - saved > CHECKPOINT_SECONDS or done in (steps, stop_after):
            _save(checkpoint, task, optimizer, done)
            saved = time.monotonic()
        if done == stop_after:
            break


def _save(path: Path, task: Task, optimizer, step: int) -> None:
    """Weights, both AdamW moments and the task's own state as one safetensors file."""
    tensors = {f"state/{name}": tensor.contiguous() for name, tensor in task.state.items()}
    for name, parameter in task.model.named_parameters():
        tensors[f"weight/{name}"] = parameter.detach().contiguous()
        tensors |= {f"{key}/{name}": optimizer.state[parameter][key].contiguous() for key in MOMENTS}
    write_whole(path, lambda temporary: save_file(tensors, temporary, metadata={"step": str(step)}))


def _restore(path: Path, task: Task, optimizer) -> int:
    """Load a checkpoint into the task and its optimizer; the number of steps done, 0 where there is none."""
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
        for name, tensor in task.state.items():
            tensor.copy_(file.get_tensor(f"state/{name}"))
        for name, parameter in task.model.named_parameters():
            parameter.data.copy_(file.get_tensor(f"weight/{name}"))
            moments = {key: file.get_tensor(f"{key}/{name}").to(parameter.device) for key in MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
    return step


def side_by_side(work: Callable, calls: Sequence[tuple], jobs: int) -> Iterator:
    """``work(*call)`` for each call, in processes of their own, `jobs` at a time; results as they come."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        for future in as_completed([pool.submit(work, *call) for call in calls]):
            yield future.result()
