"""What the notebooks ask of a profile, computed once and kept."""

from rosetta.studies.matches import Study

__all__ = ["Study", "counts", "explorer", "positions", "properties", "scorecard", "simulations", "table1"]
