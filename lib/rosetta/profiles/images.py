"""What a profile may hold of images: where real ones are from, how many are seen, and what is shown of them."""

from typing import Annotated, Literal

from pydantic import AfterValidator

from rosetta.models.load import ROOT
from rosetta.profiles.values import (
    Count,
    Counts,
    Limit,
    Natural,
    Pair,
    Section,
    Text,
    TwoOrMore,
    Words,
    by_kind,
)  # fmt: skip


class Scenes(Section):
    """The embedded scenes of a seed (`rosetta.sources.scenes`)."""

    seed: Natural = 0


class Folder(Section):
    """Image files anywhere below a folder, relative to the kit; ``imagenet``: one folder for each class.

    That it is there is asked when images are wanted, as of models on the hub.
    """

    path: Annotated[Text, AfterValidator(lambda path: str(ROOT / path))]
    imagenet: Annotated[bool, Words("true or false")] = False


class ImageSweep(Section):
    """Matches over growing numbers of images (Figures 34 and 35): of a generator with an encoder, and of two encoders
    over real and over generated images, those of that generator."""

    pair: Pair
    encoders: Pair
    images: Counts


class Gallery(Section):
    """The strongest images of single neurons (Figures 21 and 22), for every pair: neurons, images of each, and the seed that
    draws the others."""

    neurons: Count
    images: Count
    seed: Natural


class ImageExplorer(Section):
    """The page of neurons that fire on images: those of ``pair`` with the highest correlations, at most so many, and of each
    of both models its strongest images."""

    neurons: Count
    images: Count


class Images(Section):
    """What models of images see, and what is shown of them.

    ``count`` images each pair: generated ones, as many of each class, for a generator with an encoder; ``real`` ones for two
    encoders. A generator's i-th image follows from its weights, ``seed`` and i alone. ``grid``: the canonical grid is
    the larger of both models' (Appendix B), or the first's. ``untrained``: an untrained encoder sees what the untrained
    generator makes, its ``own``, or what the ``trained`` one made, as some make grey only. ``permuted`` images for the permuted
    null (null: all). ``rank``: an example's strength is the mean over its cells, as the judge of H.1 has it, or the peak.
    """

    real: by_kind(scenes=Scenes, folder=Folder)
    count: TwoOrMore
    seed: Natural
    grid: Annotated[Literal["larger", "first"], Words("larger or first")] = "larger"
    untrained: Annotated[Literal["own", "trained"], Words("own or trained")] = "own"
    permuted: Limit
    rank: Annotated[Literal["mean", "peak"], Words("mean or peak")] = "mean"
    pair: Pair
    sweep: ImageSweep
    gallery: Gallery
    explorer: ImageExplorer
    k_curve: Text
    images_per_batch: Count
