"""Sections 3 and 4.2, Appendix B: the same positions, correlations, mutual nearest neighbours and their nulls."""

from rosetta.matching.alignment import canonical_spans, pool, resample_grid, token_byte_spans, token_texts
from rosetta.matching.batches import AlignedBatches, strongest_pieces
from rosetta.matching.correlation import PearsonAccumulator
from rosetta.matching.generated import kept_pictures, wishes
from rosetta.matching.images import Generator, ImageReader
from rosetta.matching.mutual import collapse, match_batches, match_thinned, matched_neurons, mutual_nearest, top_k
from rosetta.matching.nulls import Permuted, calibrated, expected_by_chance, mean_ci95, threshold, which_positions
from rosetta.matching.positions import shifted, thinning
from rosetta.matching.released import Comparison, compare, read_released, read_released_anchors, write_released
from rosetta.matching.segments import segments, windows
from rosetta.matching.texts import Reader

__all__ = [
    "AlignedBatches", "Comparison", "Generator", "ImageReader", "PearsonAccumulator", "Permuted", "Reader",
    "calibrated", "canonical_spans", "collapse", "compare", "expected_by_chance", "kept_pictures", "match_batches",
    "match_thinned", "matched_neurons", "mean_ci95", "mutual_nearest", "pool", "read_released",
    "read_released_anchors", "resample_grid", "segments", "shifted", "strongest_pieces", "thinning", "threshold",
    "token_byte_spans", "token_texts", "top_k", "which_positions", "windows", "wishes", "write_released",
]  # fmt: skip
