"""Sections 3 and 4.2, Appendix B: the same positions, correlations, mutual nearest neighbours and their nulls."""

from rosetta.matching.activations import (
    AlignedBatches,
    BadActivations,
    Example,
    HeldBatches,
    Reader,
    capture,
    read_windows,
    strongest_segments,
)  # fmt: skip
from rosetta.matching.alignment import (
    Segment,
    TokenizerRefused,
    Window,
    batch_byte_spans,
    canonical_spans,
    pool,
    resample_grid,
    segments,
    special_prefix,
    token_byte_spans,
    token_texts,
    windows,
)  # fmt: skip
from rosetta.matching.correlation import PearsonAccumulator, tiles
from rosetta.matching.mutual import COLUMNS, collapse, locate, match_batches, matched_neurons, mutual_nearest, top_k
from rosetta.matching.nulls import Interval, Permuted, calibrated, expected_by_chance, mean_ci95, threshold

__all__ = [
    "COLUMNS", "AlignedBatches", "BadActivations", "Example", "HeldBatches", "Interval", "PearsonAccumulator",
    "Permuted", "Reader", "Segment", "TokenizerRefused", "Window", "batch_byte_spans", "calibrated", "canonical_spans",
    "capture", "collapse", "expected_by_chance", "locate", "match_batches", "matched_neurons", "mean_ci95",
    "mutual_nearest", "pool", "read_windows", "resample_grid", "segments", "special_prefix", "strongest_segments",
    "threshold", "tiles", "token_byte_spans", "token_texts", "top_k", "windows",
]  # fmt: skip
