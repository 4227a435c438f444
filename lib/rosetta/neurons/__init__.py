"""Sections 5.1 and 5.2, Appendices A, E and H: what a neuron writes, fires on, and is called, and whether that is one thing."""

from rosetta.neurons.composites import composite, lettered
from rosetta.neurons.contexts import activations_on, top_contexts
from rosetta.neurons.images import maps_on, top_images
from rosetta.neurons.judging import Evidence, Judge, Unseen, Verdict, rate, trials
from rosetta.neurons.labels import label_neurons
from rosetta.neurons.likeness import Likeness
from rosetta.neurons.looking import ChatJudge
from rosetta.neurons.oracle import Known, Oracle, verdict
from rosetta.neurons.selectivity import (
    output_weights,
    promoted_tokens,
    unembedding,
    vocab_excess_kurtosis,
    weights_by_layer,
)
from rosetta.neurons.specialization import depth_histogram, normalized_fire, token_share, trends
from rosetta.neurons.surface import judge_texts
from rosetta.neurons.validation import agreement, by_chance, held_out, measured, table5

__all__ = [
    "ChatJudge", "Evidence", "Judge", "Known", "Likeness", "Oracle", "Unseen", "Verdict", "activations_on", "agreement",
    "by_chance", "composite", "depth_histogram", "held_out", "judge_texts", "label_neurons", "lettered", "maps_on",
    "measured", "normalized_fire", "output_weights", "promoted_tokens", "rate", "table5", "token_share", "top_contexts",
    "top_images", "trends", "trials", "unembedding", "verdict", "vocab_excess_kurtosis", "weights_by_layer",
]  # fmt: skip
