"""Models and where their MLPs are."""

from rosetta.models.load import (  # isort: skip
    ROOT, ModelRefused, ModelSpec, describe, fingerprint, load, load_tokenizer, load_untrained, zoo_cards,
)  # fmt: skip
from rosetta.models.mlps import Mlp, NoMlpFound, find_mlps
from rosetta.models.opened import BadPicture, Vision
from rosetta.models.vision import describe_vision, open_vision

__all__ = [
    "ROOT", "BadPicture", "Mlp", "ModelRefused", "ModelSpec", "NoMlpFound", "Vision", "describe", "describe_vision",
    "find_mlps", "fingerprint", "load", "load_tokenizer", "load_untrained", "open_vision", "zoo_cards",
]  # fmt: skip
