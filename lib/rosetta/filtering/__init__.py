"""Section 5.3, Appendix F: what one neuron is worth as a filter of data."""

from rosetta.filtering.filters import (
    Recovery,
    average_scores,
    bag_of_tokens,
    linear_probe,
    mean_activations,
    oracle_scores,
    precision_recall_curve,
    random_scores,
    rank_neurons,
    recovery,
    select_under_budget,
)  # fmt: skip
from rosetta.filtering.pretraining import continue_pretraining, perplexity

__all__ = [
    "Recovery", "average_scores", "bag_of_tokens", "continue_pretraining", "linear_probe", "mean_activations",
    "oracle_scores", "perplexity", "precision_recall_curve", "random_scores", "rank_neurons", "recovery",
    "select_under_budget",
]  # fmt: skip
