"""Sections 5.1 and 5.2, Appendices A, E and H: what a neuron writes, fires on, and is called, and whether that is one thing."""

from rosetta.neurons.composites import composite, lettered
from rosetta.neurons.contexts import activations_on, top_contexts
from rosetta.neurons.images import maps_on, top_images
from rosetta.neurons.judging import Evidence, Judge, Unseen, Verdict
from rosetta.neurons.labels import label_neurons
from rosetta.neurons.looking import ChatJudge
from rosetta.neurons.selectivity import (
    output_weights,
    promoted_tokens,
    unembedding,
    vocab_excess_kurtosis,
    weights_by_layer,
)
from rosetta.neurons.specialization import depth_histogram, normalized_fire, token_share, trends

__all__ = [
    "ChatJudge", "Evidence", "Judge", "Unseen", "Verdict", "activations_on", "composite", "depth_histogram",
    "label_neurons", "lettered", "maps_on", "normalized_fire", "output_weights", "promoted_tokens", "token_share",
    "top_contexts", "top_images", "trends", "unembedding", "vocab_excess_kurtosis", "weights_by_layer",
]  # fmt: skip
