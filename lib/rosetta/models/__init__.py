"""Models and where their MLPs are."""

from rosetta.models.load import (  # isort: skip
    ROOT, ModelRefused, ModelSpec, describe, fingerprint, load, load_tokenizer, load_untrained, zoo_cards,
)  # fmt: skip
from rosetta.models.mlps import Mlp, NoMlpFound, find_mlps

__all__ = [
    "ROOT", "Mlp", "ModelRefused", "ModelSpec", "NoMlpFound", "describe", "find_mlps", "fingerprint", "load",
    "load_tokenizer", "load_untrained", "zoo_cards",
]  # fmt: skip
