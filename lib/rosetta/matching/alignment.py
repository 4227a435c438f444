"""Bring two models' activations to the same positions (Appendix B).

Text: every token is an exact range of UTF-8 bytes; the boundaries that both tokenizations share cut the text into
*canonical spans*, and each model's activations are averaged over the tokens that overlap a span (Figure 23).
Images: every grid of patches is resampled, bilinearly, to one canonical grid (Figure 24).
"""

import re
from collections.abc import Iterable
from functools import cache
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.nn.functional import interpolate

from rosetta.models.load import token_ids


class TokenizerRefused(ValueError):
    """Exact byte spans cannot be had from this tokenizer."""


# ---------------------------------------------------------------------------------------------------------------------
# Tokens as ranges of bytes


def token_byte_spans(tokenizer, text: str) -> tuple[list[int], np.ndarray]:
    """Token ids of a text and the exact range of its UTF-8 bytes that each token stands for.

    Character offsets are not enough: a byte-level token may hold part of a character. So each token's own bytes are
    read from the vocabulary, and that together they spell the text is checked, for every text.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    text : str
        In NFC form (`sources.normalize`).

    Returns
    -------
    ids : list of int
        Without special tokens.
    spans : int64 [n, 2]
        Start and end of each token, in bytes. A space that the tokenizer puts before the text belongs to no byte.

    Raises
    ------
    TokenizerRefused
        If the tokens do not spell the text, with the tokenizer's name and what differs first.
    ValueError
        If the text cannot be written in UTF-8 (a lone surrogate).
    """
    return batch_byte_spans(tokenizer, [text])[0]


def batch_byte_spans(tokenizer, texts: list[str]) -> list[tuple[list[int], np.ndarray]]:
    """`token_byte_spans` of many texts, tokenized together."""
    spelled = spelled_batch(tokenizer, texts)
    if refused := [one for one in spelled if isinstance(one, TokenizerRefused)]:
        raise refused[0]
    return spelled


def spelled_batch(tokenizer, texts: list[str]) -> list[tuple[list[int], np.ndarray] | TokenizerRefused]:
    """For each text its ids and their spans, or why they cannot be had."""
    try:
        encoded = [text.encode("utf-8") for text in texts]
    except UnicodeEncodeError as error:
        raise ValueError(f"the text has no UTF-8 form: {error}") from error
    if not texts:
        return []
    token_bytes, lengths = vocabulary_bytes(tokenizer)
    result = []
    for ids, data in zip(token_ids(tokenizer, texts), encoded, strict=True):
        try:
            tokens = b"".join([token_bytes[i] for i in ids])
            added = len(tokens) - len(data)
            exact = tokens == data or (added == 1 and tokens == b" " + data)
        except TypeError:  # a token that stands for no bytes: an unknown-token mark
            tokens, added, exact = b"", 0, False
        if not exact:
            result.append(TokenizerRefused(_why_refused(tokenizer, data, tokens)))
            continue
        bounds = np.zeros(len(ids) + 1, dtype=np.int64)
        np.cumsum(lengths[ids] if ids else [], out=bounds[1:])
        bounds = np.maximum(bounds - added, 0)
        result.append((ids, np.stack([bounds[:-1], bounds[1:]], axis=1)))
    return result


def special_prefix(tokenizer) -> list[int]:
    """The special tokens that the model expects before a text (OPT's ``</s>``); their positions are not compared."""
    bare = tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"]
    full = tokenizer("a", verbose=False)["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start]
    return []


_vocabularies: WeakKeyDictionary = WeakKeyDictionary()


def vocabulary_bytes(tokenizer) -> tuple[list[bytes | None], np.ndarray]:
    """The bytes that each token id stands for, and their number."""
    if tokenizer not in _vocabularies:
        vocabulary = tokenizer.get_vocab()
        added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
        to_bytes = _byte_level if _is_byte_level(vocabulary, added) else _sentencepiece
        by_id = {i: to_bytes(token) for token, i in vocabulary.items() if i not in added}
        by_id |= {i: content.encode() for i, content in added.items()}
        table = [by_id.get(i) for i in range(max(by_id, default=-1) + 1)]
        _vocabularies[tokenizer] = table, np.array([len(b or b"") for b in table], dtype=np.int64)
    return _vocabularies[tokenizer]


def token_texts(tokenizer, ids: Iterable[int]) -> list[str]:
    """What each token stands for, as text; bytes that are only part of a character are shown as U+FFFD.

    An id of no token stands for nothing: published models have more rows in their unembedding than their tokenizer has tokens.
    """
    table, _ = vocabulary_bytes(tokenizer)
    return [((table[i] if i < len(table) else None) or b"").decode(errors="replace") for i in ids]


@cache
def _byte_alphabet() -> dict[str, int]:
    """The 256 printable characters by which byte-level tokenizers write bytes (GPT-2's table, inverted)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _is_byte_level(vocabulary: dict[str, int], added: dict[int, str]) -> bool:
    alphabet = _byte_alphabet().keys()
    return all(i in added or alphabet >= set(token) for token, i in vocabulary.items())


def _byte_level(token: str) -> bytes:
    return bytes(map(_byte_alphabet().__getitem__, token))


def _sentencepiece(token: str) -> bytes:
    """SentencePiece: ▁ is a space and <0xE2> one byte of a character that has no token of its own."""
    byte = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token)
    return bytes.fromhex(byte[1]) if byte else token.replace("▁", " ").encode()


def _why_refused(tokenizer, data: bytes, spelled: bytes) -> str:
    at = next((i for i, (x, y) in enumerate(zip(data, spelled, strict=False)) if x != y), min(len(data), len(spelled)))
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    return (
        f"tokenizer {name!r}: its tokens do not spell the text, so exact byte spans cannot be had "
        f"(at byte {at} the text has {data[at : at + 12]!r}, the tokens {spelled[at : at + 12]!r}). It changes the text "
        "(lower case, accents, spaces) or has tokens for unknown text; use a byte-level tokenizer."
    )


# ---------------------------------------------------------------------------------------------------------------------
# Shared positions


def canonical_spans(spans_a: np.ndarray, spans_b: np.ndarray) -> np.ndarray:
    """The stretches between consecutive boundaries that both tokenizations share (Appendix B, Figure 23).

    Parameters
    ----------
    spans_a, spans_b : int64 [n_a, 2], [n_b, 2]
        Consecutive byte ranges of the same text, as `token_byte_spans` gives them.

    Returns
    -------
    int64 [m, 2]
        A partition of the text.

    Raises
    ------
    ValueError
        If the two do not cover the same bytes.
    """
    if not len(spans_a) and not len(spans_b):
        return np.empty((0, 2), dtype=np.int64)
    bounds_a, bounds_b = np.unique(spans_a), np.unique(spans_b)
    if not len(bounds_a) or not len(bounds_b) or bounds_a[0] != bounds_b[0] or bounds_a[-1] != bounds_b[-1]:
        raise ValueError("the two tokenizations do not cover the same text; they share no first and last boundary")
    shared = np.intersect1d(bounds_a, bounds_b, assume_unique=True)
    return np.stack([shared[:-1], shared[1:]], axis=1)


def pool(acts: torch.Tensor, token_spans: np.ndarray, canonical: np.ndarray) -> torch.Tensor:
    """Average activations over the tokens that overlap each canonical span (Appendix B).

    Parameters
    ----------
    acts : [n, N]
        One row a token.
    token_spans : int64 [n, 2]
        In order.
    canonical : int64 [m, 2]

    Returns
    -------
    [m, N], float32

    Raises
    ------
    ValueError
        If the number of rows is not the number of tokens, or a canonical span overlaps no token.
    """
    if len(acts) != len(token_spans):
        raise ValueError(f"{len(acts)} rows of activations for {len(token_spans)} tokens")
    first, last = overlapping_tokens(token_spans, canonical)
    return average_rows(acts, first, last)


def overlapping_tokens(token_spans: np.ndarray, canonical: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each canonical span, the range [first, last) of tokens that overlap it."""
    first = np.searchsorted(token_spans[:, 1], canonical[:, 0], side="right")
    last = np.searchsorted(token_spans[:, 0], canonical[:, 1], side="left")
    if (last <= first).any():
        raise ValueError(f"canonical span {canonical[np.argmax(last <= first)].tolist()} overlaps no token")
    return first, last


def average_rows(acts: torch.Tensor, first: np.ndarray, last: np.ndarray) -> torch.Tensor:
    """Row j of the result is the mean of rows first[j] .. last[j]-1 of `acts`: [m, N], float32."""
    counts = last - first
    starts = np.cumsum(counts) - counts
    rows = np.arange(counts.sum()) - np.repeat(starts - first, counts)
    acts = acts[torch.from_numpy(rows).to(acts.device)].float()
    if len(rows) == len(counts):  # one token a span
        return acts
    spans = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(acts.device)
    total = torch.zeros(len(counts), acts.shape[1], device=acts.device).index_add_(0, spans, acts)
    return total.div_(torch.from_numpy(counts).to(acts.device)[:, None])


# ---------------------------------------------------------------------------------------------------------------------
# Grids


def resample_grid(acts: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resample maps of activations to another grid, bilinearly (Appendix B, Figure 24).

    Parameters
    ----------
    acts : [B, H, W, N]
    size : (int, int)
        H' and W'.

    Returns
    -------
    [B, H', W', N], float32
    """
    if tuple(acts.shape[1:3]) == tuple(size):
        return acts.float()
    maps = acts.permute(0, 3, 1, 2).float()
    return interpolate(maps, size=size, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
