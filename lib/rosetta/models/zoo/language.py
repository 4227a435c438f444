"""The embedded language models: four small families, trained independently on the environment corpus.

"Independently" means what it means in the paper: each family has its own architecture, its own tokenizer trained on
its own sample, its own initialization, its own mix of the corpus and its own data order. Within a family every size
reads the same tokens in the same order.
"""

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import decoders, normalizers, pre_tokenizers, processors, trainers

from rosetta.models.likelihood import next_token_nats, text_nats
from rosetta.models.load import from_config, token_ids
from rosetta.models.zoo.training import Task, fit, side_by_side, warmup_cosine, without_card
from rosetta.results import write_json, write_whole
from rosetta.sources.document import Document, interleave
from rosetta.sources.environment import ENVIRONMENT_SHARES, environment_documents, write_manifest

logger = logging.getLogger(__name__)

CONTEXT = 128
SIZES = ((32, 2), (48, 3), (64, 4), (96, 5), (128, 6))  # width x depth; the MLP is four times as wide
LARGEST = (192, 6)
SEQUENCES_PER_STEP = 16
TOKENS = 5_000_000
TOKENIZER_BYTES = 4_000_000
#: Bytes of held-out text on which every model of every family is scored.
HELDOUT_BYTES = 500_000

# Qwen's splitting rule: digits one by one, punctuation apart, the other way round than GPT-2's in several cases.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Family(NamedTuple):
    """What sets one family apart from the others."""

    seed: int
    vocabulary: int
    end_of_text: str
    sizes: tuple
    architecture: type[transformers.PretrainedConfig]
    settings: Callable[[int], dict]  # its own, for a width
    left_out: tuple[str, ...] = ()  # corpus subsets it never sees

    def config(self, width: int, depth: int, vocabulary: int) -> transformers.PretrainedConfig:
        """The configuration of one of its models."""
        return self.architecture(
            vocab_size=vocabulary, hidden_size=width, num_hidden_layers=depth, num_attention_heads=width // 16,
            max_position_embeddings=CONTEXT, bos_token_id=0, eos_token_id=0, **self.settings(width),
        )  # fmt: skip


def _spread(width: int) -> float:
    """Of the initial values: GPT-NeoX's "small init", as 0.02 is meant for models far wider than these."""
    return math.sqrt(2 / (5 * width))


def _pythia(width: int) -> dict:
    of_width = {"intermediate_size": 4 * width, "initializer_range": _spread(width)}
    return of_width | {"use_parallel_residual": True, "tie_word_embeddings": False}


def _gpt2(width: int) -> dict:
    return {"initializer_range": _spread(width), "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def _opt(width: int) -> dict:
    of_width = {"ffn_dim": 4 * width, "word_embed_proj_dim": width, "init_std": _spread(width)}
    return of_width | {"activation_function": "relu", "dropout": 0.0, "attention_dropout": 0.0, "pad_token_id": 1}


def _qwen(width: int) -> dict:
    of_width = {"intermediate_size": 4 * width, "initializer_range": _spread(width)}
    return of_width | {"num_key_value_heads": max(1, width // 32), "tie_word_embeddings": True}


FAMILIES = {
    "pythia": Family(101, 2048, "<|endoftext|>", (*SIZES, LARGEST), transformers.GPTNeoXConfig, _pythia),
    "gpt2": Family(202, 1536, "<|endoftext|>", SIZES, transformers.GPT2Config, _gpt2, left_out=("C/C++",)),
    "opt": Family(303, 1792, "</s>", (*SIZES, LARGEST), transformers.OPTConfig, _opt),
    "qwen": Family(404, 2304, "<|endoftext|>", SIZES, transformers.Qwen2Config, _qwen),
}


def names(families=FAMILIES) -> list[str]:
    """The names of all zoo models, by family and size: ``pythia-32x2``, ..."""
    return [f"{family}-{width}x{depth}" for family in families for width, depth in FAMILIES[family].sizes]


def parse(name: str) -> tuple[str, int, int]:
    """``"pythia-64x4"`` -> ``("pythia", 64, 4)``; a ValueError lists the models there are."""
    if name not in names():
        raise ValueError(f"there is no zoo model {name!r}; there are {', '.join(names())}")
    family, _, size = name.partition("-")
    width, depth = size.split("x")
    return family, int(width), int(depth)


def untrained(name: str, seed: int) -> torch.nn.Module:
    """A zoo model as its training began, from its architecture's own random initialization and this seed."""
    family, width, depth = parse(name)
    return from_config(FAMILIES[family].config(width, depth, FAMILIES[family].vocabulary), seed)


# ---------------------------------------------------------------------------------------------------------------------
# Tokenizers and tokens


def training_documents(family: str, documents: list[Document] | None = None) -> Iterator[Document]:
    """The family's endless stream of training documents, in its own order."""
    spec = FAMILIES[family]
    shares = {s: share for s, share in ENVIRONMENT_SHARES.items() if s not in spec.left_out}
    return interleave(documents or environment_documents("train"), shares, spec.seed, repeat=True)


def train_tokenizer(family: str, documents: Iterator[Document]) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer after the family's manner, trained on the first `TOKENIZER_BYTES` of its stream."""
    spec = FAMILIES[family]
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    if family in ("pythia", "qwen"):
        bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=family != "qwen")
    if family == "qwen":
        split = pre_tokenizers.Split(tokenizers.Regex(QWEN_SPLIT), "isolated")
        bpe.pre_tokenizer = pre_tokenizers.Sequence([split, bpe.pre_tokenizer])
    bpe.decoder = decoders.ByteLevel()
    special = [spec.end_of_text] + (["<pad>"] if family == "opt" else [])
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocabulary, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    bpe.train_from_iterator((document.text for document in _first(TOKENIZER_BYTES, documents)), trainer)
    if family == "opt":  # like the real one, it begins every text with its end-of-text token
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{spec.end_of_text} $A", special_tokens=[(spec.end_of_text, 0)]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=spec.end_of_text, eos_token=spec.end_of_text,
        pad_token="<pad>" if family == "opt" else None, model_max_length=CONTEXT, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _first(size: int, documents: Iterable[Document]) -> Iterator[Document]:
    """The documents that hold the first `size` bytes."""
    for document in documents:
        if size <= 0:
            return
        size -= len(document.text.encode())
        yield document


def prepare_family(family: str, tokens: int, folder: Path, documents: list[Document] | None = None) -> None:
    """Write the family's tokenizer and its training tokens (uint16, one long row) under `folder`, once."""
    row_file, tokenizer_folder = folder / f"{family}-{tokens}.npy", folder / f"{family}-tokenizer"
    if row_file.exists():
        return
    documents = documents or environment_documents("train")
    tokenizer = train_tokenizer(family, training_documents(family, documents))
    tokenizer.save_pretrained(tokenizer_folder)
    row = np.empty(tokens, dtype=np.uint16)
    filled = 0
    stream = training_documents(family, documents)
    while filled < tokens:
        texts = [document.text for document in islice(stream, 256)]
        for ids in token_ids(tokenizer, texts):
            ids = [*ids, tokenizer.eos_token_id][: tokens - filled]
            row[filled : filled + len(ids)] = ids
            filled += len(ids)
    write_whole(row_file, lambda path: np.save(path, row))


# ---------------------------------------------------------------------------------------------------------------------
# Training


def learning_rate(step: int, steps: int, width: int) -> float:
    """8e-3 at width 64 and in inverse proportion to the width; 5% linear warm-up, then a cosine to zero."""
    return warmup_cosine(step, steps, 8e-3 * 64 / width)


def train(name: str, tokens: int, folder: Path, device: str = "cpu", stop_after: int | None = None) -> torch.nn.Module:
    """Train one model on the family's tokens and return it; a run that was killed goes on from its checkpoint.

    Parameters
    ----------
    name : str
        One of `names()`.
    tokens : int
        Budget; each token is read once.
    folder : Path
        Where `prepare_family` wrote; the checkpoint and the log go there too.
    device : str
    stop_after : int, optional
        Save a checkpoint and return after this step (used to test resumption).
    """
    family, width, _ = parse(name)
    rows = np.load(folder / f"{family}-{tokens}.npy", mmap_mode="r")
    blocks = rows[: len(rows) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    order = np.random.default_rng(FAMILIES[family].seed).permutation(len(blocks))
    steps = len(order) // SEQUENCES_PER_STEP
    # Sizes of a family differ in their initial values as well as in shape, as separately trained models do.
    model = untrained(name, seed=FAMILIES[family].seed + width).to(device)

    def loss(step: int) -> tuple[torch.Tensor, dict]:
        batch = blocks[order[step * SEQUENCES_PER_STEP : (step + 1) * SEQUENCES_PER_STEP]]
        nats = next_token_nats(model, torch.from_numpy(batch.astype(np.int64)).to(device)).mean()
        return nats, {"nats_per_token": nats}

    fit(
        Task(model, loss), steps, lambda step: learning_rate(step, steps, width), weight_decay=0.1,
        checkpoint=folder / f"{name}-{tokens}.safetensors", counted=("tokens", SEQUENCES_PER_STEP * CONTEXT),
        stop_after=stop_after,
    )  # fmt: skip
    return model


# ---------------------------------------------------------------------------------------------------------------------
# Held-out loss


def heldout_sample() -> list[Document]:
    """The held-out documents on which every model is scored: about `HELDOUT_BYTES` in the corpus's proportions."""
    return list(_first(HELDOUT_BYTES, interleave(environment_documents("heldout"), ENVIRONMENT_SHARES, seed=0)))


def bits_per_byte(model, tokenizer, documents: list[Document], context: int = CONTEXT) -> float:
    """Mean bits the model needs for a byte of these texts, each read on its own (`text_nats`).

    Bytes rather than tokens, because the families' tokenizers cut the same text into different numbers of tokens.
    """
    nats, _ = text_nats(model, tokenizer, [document.text for document in documents], context)
    return nats / math.log(2) / sum(len(document.text.encode()) for document in documents)


# ---------------------------------------------------------------------------------------------------------------------
# All of them


def finish(name: str, model, tokens: int, folder: Path, zoo: Path) -> dict:
    """Write one trained model to `zoo/name` as `from_pretrained` reads it, score it, and return its card."""
    family, width, depth = parse(name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / f"{family}-tokenizer")
    model.half().save_pretrained(zoo / name)
    tokenizer.save_pretrained(zoo / name)
    vocabulary = zoo / name / "tokenizer.json"  # written with an indent for every merge; there are 22 of them
    vocabulary.write_text(json.dumps(json.loads(vocabulary.read_text(encoding="utf-8"))), encoding="utf-8")
    shipped = transformers.AutoModelForCausalLM.from_pretrained(zoo / name, dtype=torch.float32).eval()
    card = {
        "name": name, "family": family, "path": name, "layers": depth, "mlp_width": 4 * width,
        "parameters": sum(p.numel() for p in shipped.parameters()), "tokens": tokens,
        "heldout_bits_per_byte": round(bits_per_byte(shipped, tokenizer, heldout_sample()), 4),
    }  # fmt: skip
    write_json(zoo / name / "card.json", card)
    return card


def train_all(zoo: Path, wanted: list[str], tokens: int, jobs: int) -> None:
    """Train every wanted model that has no card yet, the smallest first, `jobs` at a time."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = zoo / ".training"
    todo, families = without_card(zoo, wanted, parse)
    missing = [family for family in families if not (folder / f"{family}-{tokens}.npy").exists()]
    documents = environment_documents("train") if missing else []
    for family in missing:
        logger.info("tokenizing for %s", family)
        prepare_family(family, tokens, folder, documents)
    for card in side_by_side(_work, [(name, tokens, folder, zoo, device) for name in todo], jobs):
        logger.info("%s: %.4f bits per byte", card["name"], card["heldout_bits_per_byte"])
    if todo:
        write_manifest(zoo / "corpus.json")


def _work(name: str, tokens: int, folder: Path, zoo: Path, device: str) -> dict:
    return finish(name, train(name, tokens, folder, device), tokens, folder, zoo)
