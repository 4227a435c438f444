"""One function a figure, one style for the whole kit; a file for each notebook.

Each function takes tables or arrays, draws on a new figure and returns it; `save` writes it under a study's folder.
"""

from rosetta.plots.alignment import fig23, tokens_per_span
from rosetta.plots.filtering import language_mix, perplexity, precision_recall, what_a_neuron_is_worth
from rosetta.plots.images import Seen, SeenPair, fig14, fig21, fig24, fig35, scenes
from rosetta.plots.judging import composite, fig06b, fig36, fig38, judged, lettered
from rosetta.plots.matching import correlation_histogram, fig02, positions
from rosetta.plots.properties import examples, fig06a, fig07, fig08, fig31, kurtosis_tails
from rosetta.plots.scaling import exponents, fig03a, fig25, fig33, null_counts, predictions
from rosetta.plots.style import label, save
from rosetta.plots.tables import table
from rosetta.plots.theory import fig05, fig27, packing, panel_c, slope_errors

__all__ = [
    "Seen", "SeenPair", "composite", "correlation_histogram", "examples", "exponents", "fig02", "fig03a", "fig05",
    "fig06a", "fig06b", "fig07", "fig08", "fig14", "fig21", "fig23", "fig24", "fig25", "fig27", "fig31", "fig33", "fig35", "fig36",
    "fig38", "judged", "kurtosis_tails", "label", "language_mix", "lettered", "null_counts", "packing", "panel_c",
    "perplexity", "positions", "precision_recall", "predictions", "save", "scenes", "slope_errors", "table",
    "tokens_per_span", "what_a_neuron_is_worth",
]  # fmt: skip
