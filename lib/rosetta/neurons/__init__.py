"""Sections 5.1 and 5.2, Appendices A and E: what a neuron writes, fires on, and is called."""

from rosetta.neurons.chat import LabelError
from rosetta.neurons.contexts import TopPeaks, activations_on, top_contexts
from rosetta.neurons.labels import label_neurons
from rosetta.neurons.selectivity import (
    Selectivity,
    cosines,
    output_weights,
    promoted_tokens,
    unembedding,
    vocab_excess_kurtosis,
)  # fmt: skip
from rosetta.neurons.specialization import (
    depth_histogram,
    normalized_fire,
    random_neurons,
    token_counts,
    token_share,
    top_categories,
    trends,
)  # fmt: skip

__all__ = [
    "LabelError", "Selectivity", "TopPeaks", "activations_on", "cosines", "depth_histogram", "label_neurons",
    "normalized_fire", "output_weights", "promoted_tokens", "random_neurons", "token_counts", "token_share",
    "top_categories", "top_contexts", "trends", "unembedding", "vocab_excess_kurtosis",
]  # fmt: skip
