"""Section 5.3, Appendix F: what one neuron is worth as a filter of data."""

from rosetta.filtering.filters import precision_recall_curve, random_scores, rank_neurons, recovery, select_under_budget
from rosetta.filtering.pretraining import continue_pretraining, perplexity

__all__ = [
    "continue_pretraining", "perplexity", "precision_recall_curve", "random_scores", "rank_neurons", "recovery",
    "select_under_budget",
]  # fmt: skip
