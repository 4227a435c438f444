"""Tiny random instances of every language architecture of Table 2, as files, each with a tokenizer of its published kind."""

from collections.abc import Sequence
from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, processors, trainers
from vision_models import moved

from rosetta.models.load import ModelSpec
from rosetta.models.zoo.language import QWEN_SPLIT

# ---------------------------------------------------------------------------------------------------------------------
# Tokenizers

SPACES = tuple(" " * n for n in range(24, 1, -1))  # GPT-NeoX's runs of spaces, its last tokens, not special
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|fim_prefix|>")

#: Of each kind: its tokens before the vocabulary and after it, its roles, and pieces that BPE learns, other ones for each.
KINDS = {
    "pythia": {
        "before": ("<|endoftext|>", "<|padding|>"), "plain": SPACES, "nfc": True, "vocabulary": 420,
        "roles": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    },
    "gpt2": {
        "after": ("<|endoftext|>",), "vocabulary": 380,
        "roles": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    },
    "opt": {
        "before": ("<s>", "<pad>", "</s>", "<unk>"), "vocabulary": 340, "begins": "</s>",
        "roles": {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"},
    },
    "qwen": {
        "after": QWEN_SPECIAL, "nfc": True, "split": QWEN_SPLIT, "vocabulary": 460,
        "roles": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    },
}  # fmt: skip

#: What they learn from: prose, code and other scripts, small enough that training takes a few milliseconds.
SAMPLE = (
    "The neurons of one model and the neurons of another were shown the same text, and some of them answered alike.\n"
    "def correlate(first, second):\n    return [other.index(max(other)) for other in zip(first, second)]\n\n"
    "It was in 1998 that they found 12 of them; by 2024 there were 3,600, which is not what anyone had thought.\n"
    "Привет, мир! Größe, piñata, naïve café. 漢字とかな交じり文。 x² ≤ 10³\n"
    "for (let index = 0; index < items.length; index += 1) {\n\tconsole.log(items[index], \"there\");\n}\n"
)  # fmt: skip


def byte_level_tokenizer(
    sample: Sequence[str], vocabulary: int, add_prefix_space: bool = False, before=(), after=(), plain=(),
    nfc: bool = False, split: str | None = None, begins: str | None = None, roles=None,
) -> transformers.PreTrainedTokenizerFast:  # fmt: skip
    """A byte-level BPE, trained on a sample up to so many tokens, with those of ``after`` and ``plain`` added behind them.

    ``before`` and ``after`` are special tokens, ``plain`` are none; ``begins`` is put before each text; ``split`` is the rule by
    which a text is cut first, where it is not GPT-2's; ``roles``: its ``bos_token`` and so on.
    """
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.normalizer = normalizers.NFC() if nfc else None
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=split is None)
    if split:
        first = pre_tokenizers.Split(tokenizers.Regex(split), "isolated")
        bpe.pre_tokenizer = pre_tokenizers.Sequence([first, bpe.pre_tokenizer])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=list(before),
    )  # fmt: skip
    bpe.train_from_iterator(sample, trainer)
    bpe.add_special_tokens(list(after))
    bpe.add_tokens([AddedToken(token, normalized=True) for token in plain])
    if begins:
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{begins} $A", special_tokens=[(begins, bpe.token_to_id(begins))]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, clean_up_tokenization_spaces=False, **(roles or {})
    )


def tokenizer_of(kind: str, context: int | None = None) -> transformers.PreTrainedTokenizerFast:
    """One of `KINDS`; each learns from another part of `SAMPLE`, so that they cut a text differently."""
    lines = SAMPLE.splitlines(keepends=True)
    number = list(KINDS).index(kind)
    made = byte_level_tokenizer([*lines[:number], *lines[number + 1 :]], **KINDS[kind])
    if context:
        made.model_max_length = context
    return made


# ---------------------------------------------------------------------------------------------------------------------
# Models

#: Of each architecture: its tokenizer, its positions, its configuration, and what that has beside its sizes.
LANGUAGE = {
    "pythia": ("pythia", 2_048, transformers.GPTNeoXConfig, lambda width, neurons: {
        "intermediate_size": neurons, "use_parallel_residual": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000, "partial_rotary_factor": 0.25},
    }),
    "gpt2": ("gpt2", 1_024, transformers.GPT2Config, lambda width, neurons: {"n_inner": neurons}),
    "opt": ("opt", 2_048, transformers.OPTConfig, lambda width, neurons: {
        "ffn_dim": neurons, "word_embed_proj_dim": width, "pad_token_id": 1,
    }),
    # OPT-350m alone: norms behind attention and MLP, and embeddings narrower than the model.
    "opt-350m": ("opt", 2_048, transformers.OPTConfig, lambda width, neurons: {
        "ffn_dim": neurons, "word_embed_proj_dim": width // 2, "pad_token_id": 1, "do_layer_norm_before": False,
    }),
    "qwen": ("qwen", 32_768, transformers.Qwen2Config, lambda width, neurons: {
        "intermediate_size": neurons, "num_key_value_heads": 1, "tie_word_embeddings": True, "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000},
    }),
}  # fmt: skip


def write_language(
    folder: Path, name: str, layers: int = 2, neurons: int = 32, width: int = 16, heads: int = 2, context: int | None = None,
    seed: int = 0,
) -> ModelSpec:  # fmt: skip
    """One of `LANGUAGE` as its publishers write it, random: config, weights, tokenizer and settings of generation.

    Its embeddings have rows beyond the tokenizer's tokens, as published ones have, GPT-2 apart.

    Parameters
    ----------
    folder : Path
    name : str
    layers, neurons, width, heads : int
        Neurons are those of a layer. With as many as the width, nothing would tell which layer of an MLP leads out.
    context : int, optional
        Positions; by default those of the published models.
    seed : int
        Of the weights.
    """
    kind, positions, configured, settings = LANGUAGE[name]
    tokenizer = tokenizer_of(kind, context or positions)
    rows, end = len(tokenizer), tokenizer.eos_token_id
    config = configured(
        vocab_size=rows if kind == "gpt2" else 8 * (rows // 8 + 1), hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=context or positions, bos_token_id=end, eos_token_id=end,
        **settings(width, neurons),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = moved(transformers.AutoModelForCausalLM.from_config(config), seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelSpec(folder.name, str(folder), kind, layers, neurons)


def cached_on_the_hub(cache: Path, name: str, folder: Path, commit: str = "0" * 40, revision: str = "main") -> Path:
    """A model's folder as the hub's client keeps it once it was fetched: ``models--owner--name`` with refs and a snapshot."""
    kept = cache / f"models--{name.replace('/', '--')}"
    snapshot = kept / "snapshots" / commit
    for part in (kept / "blobs", snapshot, (kept / "refs" / revision).parent):
        part.mkdir(parents=True, exist_ok=True)
    (kept / "refs" / revision).write_text(commit)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        inside = file.relative_to(folder)
        blob = kept / "blobs" / f"{commit[:8]}-{inside.as_posix().replace('/', '-')}"
        blob.write_bytes(file.read_bytes())
        (snapshot / inside).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / inside).symlink_to(blob)
    return snapshot
