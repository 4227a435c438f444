"""How well a language model predicts text: what perplexity (Table 1) and bits per byte (the zoo's card) rest on."""

import math
from collections.abc import Sequence

import torch

from rosetta.models.load import token_ids


def next_token_nats(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """-log p of each token but the first, given those before it: [sequences, tokens - 1], in nats."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return losses.view(len(ids), -1)


@torch.inference_mode()
def text_nats(
    model: torch.nn.Module, tokenizer, texts: Sequence[str], context: int, batch: int = 32
) -> tuple[float, int]:
    """-log p of some texts, summed over all their tokens, in nats; and how many tokens that are.

    Each text is read on its own, in windows of `context` tokens that do not overlap. A window opens with the
    end-of-text token, as every text does in training, so each token of a text is predicted exactly once; the first of
    a window without what came before it. The end of a text is not predicted.

    Parameters
    ----------
    model : torch.nn.Module
        Any causal language model; it is put in evaluation mode.
    tokenizer : transformers.PreTrainedTokenizerBase
    texts : sequence of str
    context : int
        Tokens, the end-of-text token included.
    batch : int
        Windows per forward pass; no effect but on speed and memory.

    Raises
    ------
    ValueError
        If the context is below 2 or beyond the model's.
    """
    check_context(model, context)
    model.eval()
    end, room = tokenizer.eos_token_id, context - 1
    windows = [ids[i : i + room] for ids in token_ids(tokenizer, texts) for i in range(0, len(ids), room)]
    windows.sort(key=len)  # little padding
    nats = 0.0
    for start in range(0, len(windows), batch):
        part = windows[start : start + batch]
        lengths = torch.tensor([len(window) for window in part])
        # Padding comes after the text and the model looks back only, so it cannot change what is counted.
        padded = torch.tensor([[end, *window] + [end] * (len(part[-1]) - len(window)) for window in part])
        losses = next_token_nats(model, padded.to(model.device)).cpu()
        nats += losses[torch.arange(losses.shape[1]) < lengths[:, None]].double().sum().item()
    return nats, sum(map(len, windows))


def check_context(model: torch.nn.Module, tokens: int) -> None:
    """ValueError if the model cannot be read in windows of so many tokens."""
    most = getattr(model.config, "max_position_embeddings", math.inf)
    if not 2 <= tokens <= most:  # of a single token nothing is predicted
        raise ValueError(f"{model.config.model_type} can be read in windows of 2 to {most} tokens, not {tokens}")
