"""What the notebooks ask of a profile, computed once and kept."""

from rosetta.studies.matches import Study

__all__ = [
    "Study", "captures", "counts", "explorer", "explorer_images", "judged", "monosemanticity", "positions", "properties",
    "scorecard", "simulations", "table1",
]  # fmt: skip
