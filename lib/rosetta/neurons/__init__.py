"""Sections 5.1 and 5.2, Appendices A and E: what a neuron writes, fires on, and is called."""

from rosetta.neurons.contexts import activations_on, top_contexts
from rosetta.neurons.images import maps_on, top_images
from rosetta.neurons.labels import label_neurons
from rosetta.neurons.selectivity import (
    output_weights,
    promoted_tokens,
    unembedding,
    vocab_excess_kurtosis,
    weights_by_layer,
)
from rosetta.neurons.specialization import depth_histogram, normalized_fire, token_share, trends

__all__ = [
    "activations_on", "depth_histogram", "label_neurons", "maps_on", "normalized_fire", "output_weights",
    "promoted_tokens", "token_share", "top_contexts", "top_images", "trends", "unembedding", "vocab_excess_kurtosis", "weights_by_layer",
]  # fmt: skip
