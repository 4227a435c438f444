"""How much of text or images a profile's models read at a time, how many pictures are kept, and who chooses text."""

from collections.abc import Iterable

import torch

from rosetta.matching.activations import peak_bytes
from rosetta.profiles.profile import Profile

#: Of a profile's ``memory_gb``, what a batch of both models may take while it is read; the rest is for tables.
BATCH_SHARE = 0.5
#: Tokens before an image's cells, at most: pMF has 20, Pixio 8, DINOv3 5.
BEFORE_CELLS = 32
#: Who chooses what is trained on in Table 1, once for each seed.
FILTERS = ("random", "non-Rosetta", "Rosetta", "oracle")


def pictures_kept(profile: Profile) -> int:
    """How many pictures of a generator are kept: as many as any part of a profile asks for, so that none makes them anew."""
    return max(profile.images.count, *profile.images.sweep.images)


def canonical_positions(profile: Profile, names: Iterable[str]) -> int:
    """Positions of two models in what they read at a time: of a full context, at most, or of an image the canonical grid's."""
    names = list(names)
    if profile.modality(names) == "text":
        return profile.context
    sides = [profile.models[name].grid for name in names]
    return (sides[0] if profile.images.grid == "first" else max(sides)) ** 2


def positions_per_piece(profile: Profile, names: Iterable[str]) -> int:
    """Positions of what models read at a time: of a full context, or of an image, the tokens before its cells included."""
    names = list(names)
    if profile.modality(names) == "text":
        return profile.context
    return max(profile.models[name].grid for name in names) ** 2 + BEFORE_CELLS


def batch_bytes(profile: Profile, name: str, positions: int) -> int:
    """What reading so many positions takes of one model (`activations.peak_bytes`)."""
    spec, size = profile.models[name], getattr(torch, profile.dtype).itemsize
    return peak_bytes(positions, [spec.mlp_width] * spec.layers, size)


def pieces_that_fit(profile: Profile, names: Iterable[str]) -> int:
    """How many sequences or images `BATCH_SHARE` of a profile's memory holds of some models; 0 where not one fits."""
    names = list(names)
    each = sum(batch_bytes(profile, name, positions_per_piece(profile, names)) for name in names)
    return int(BATCH_SHARE * profile.memory_gb * 2**30 / each)


def asked_per_batch(profile: Profile, names: Iterable[str]) -> int:
    """How many of them a profile wants to be read at a time."""
    return profile.sequences_per_batch if profile.modality(names) == "text" else profile.images.images_per_batch
