"""What a profile may hold of judges: who says whether a neuron is monosemantic, of which neurons, on which images (5.1, H, I.1)."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from rosetta.profiles.values import (
    Count,
    Counts,
    Mapped,
    Natural,
    Pair,
    Positive,
    PromptFile,
    Real,
    Section,
    Several,
    Text,
    TwoOrMore,
    Words,
    among,
    refuse,
    safe,
)  # fmt: skip

#: The kind of generators whose pictures are of known scenes.
KNOWN = "onestep"


class ByImages(Section):
    """Figure 36: the second model of a pair, judged by growing numbers of images."""

    pair: Pair
    images: Counts


class Validation(Section):
    """Table 5: random neurons of the second model of a pair, and what judges foretell of images that they were not shown.

    ``runs`` disjoint samples of so many ``neurons``; of each neuron the next so many images, ``each``, and as many of the
    lower half.
    """

    pair: Pair
    runs: TwoOrMore
    neurons: Count
    each: Count


class Oracle(Section):
    """When the oracle says yes (`neurons.oracle`): the level of its test, the share of a neuron's images that one value must
    explain, and what counts as firing on a cell, as a share of the neuron's highest activation."""

    alpha: Annotated[Real, Field(gt=0, lt=1), Words("a number between 0 and 1")] = 0.05
    least_share: Annotated[Real, Field(gt=0, le=1), Words("a number above 0, and at most 1")] = 0.85
    fires_above: Annotated[Real, Field(gt=0, lt=1), Words("a number between 0 and 1")] = 0.5


class Embedding(Section):
    """Whose features say how alike images are: an encoder of a family that is not judged."""

    encoder: Text


class Chat(Section):
    """A chat model that looks at images, named by the environment; ``prompt``: a file with another prompt than the kit's own
    (`looking.read_prompt`)."""

    prompt: PromptFile = None
    concurrency: Count = 4
    timeout_seconds: Positive = 60
    retries: Natural = 4


class Compared(Section):
    """Figure 38: pairs of generators with another family, beside a curve. They are on no curve themselves: the paper
    fits no law to them."""

    beside: Text
    name: Annotated[Text, AfterValidator(safe)]
    pairs: Annotated[Several[Pair], Words("a list of pairs of models")]


class Judging(Section):
    """Who judges neurons of models of images, and which (5.1, Appendix H).

    ``judge``: the ``oracle``, which knows the factors of embedded scenes and of what the zoo's generator makes; the likeness of
    images in an independent encoder (``embedding``); or a ``chat`` model. ``seen``: neurons are judged by the images that their
    models were matched on (``own``), or encoders by ``real`` ones, as many. ``images``: the strongest of a neuron that a judge is
    shown, by the mean or peak as ``images.rank`` says. ``trials`` disjoint samples of so many ``neurons`` of either
    population; with ``fewer``, of as many as there are where those are fewer. ``curves``: for a family the curve of pairs whose
    matches are its Rosetta Neurons; the first one is Figure 6b's, the others Figure 37's.
    """

    judge: Annotated[Literal["oracle", "embedding", "chat"], Words("oracle, embedding or chat")]
    seen: Annotated[Literal["own", "real"], Words("own or real")] = "own"
    images: TwoOrMore
    trials: Count
    neurons: Count
    fewer: Annotated[bool, Words("true or false")] = False
    seed: Natural
    curves: Annotated[Mapped[str], Words("a mapping of families to curves")]
    by_images: ByImages
    validation: Validation
    oracle: Oracle = Oracle()
    embedding: Annotated[Embedding | None, Words("a mapping, or null for no judge of this kind")] = None
    chat: Chat = Chat()
    compared: Annotated[Compared | None, Words("a mapping, or null where nothing is compared")] = None


def check_judging(profile) -> None:
    """What the section says of the profile's models, curves and images; `profile` is a `Profile`."""
    judging, images = profile.judging, profile.images
    if judging is None:
        return
    if images is None:
        refuse("judging is about models of images; the key images is missing, which says what they are shown")
    curves, pairs = profile.of("images")
    of_pairs = [curve for curve, points in curves.items() if all(len(point) == 2 for point in points)]
    families = sorted({spec.family for spec in profile.models.values() if spec.modality == "images"})
    among("judging.curves names the family", judging.curves, families)
    among(
        "judging.curves names the curve",
        judging.curves.values(),
        of_pairs,
        "; allowed are the curves of pairs of images, ",
    )
    for family, curve in judging.curves.items():
        if not profile.family_points(family, curve):
            refuse(f"judging.curves.{family} is {curve!r}, which has no model of that family")
    for key, pair in {"by_images": judging.by_images.pair, "validation": judging.validation.pair}.items():
        if pair not in pairs:
            refuse(f"judging.{key}.pair is {list(pair)}; it must be a point of one of the curves of images")
    _check_amounts(judging, images.count)
    judged = [name for pair in judged_pairs(profile) for name in pair if profile.models[name].family in judging.curves]
    judged += [judging.by_images.pair[1], judging.validation.pair[1]]
    if judging.judge == "oracle" and (unknown := [name for name in judged if not is_known(profile, name)]):
        refuse(
            f"judging.judge is 'oracle', which knows embedded scenes and what generators of kind {KNOWN} make of them; the images by "
            f"which {unknown[0]} is judged are neither: take embedding or chat"
        )
    _check_encoder(profile, sorted({profile.models[name].family for name in judged}))
    if judging.compared:
        _check_compared(profile, of_pairs)


def _check_amounts(judging: Judging, count: int) -> None:
    """No more images are shown of a neuron than there are, and those of Table 5 leave its halves apart."""
    for key, most in {"images": judging.images, "by_images.images": max(judging.by_images.images)}.items():
        if most > count:
            refuse(f"judging.{key} asks for the {most} strongest images; there are {count} (images.count)")
    if min(judging.by_images.images) < 2:
        refuse("judging.by_images.images has a number below 2; what one image shows, one image explains")
    upper, each = judging.images + judging.validation.each, judging.validation.each
    if upper > count // 2:
        refuse(
            f"judging.validation.each is {each}; with the {judging.images} images that are shown of a neuron that is {upper}, and "
            f"they must be in the upper half of the {count} that there are (images.count)"
        )


def _check_encoder(profile, judged: Sequence[str]) -> None:
    judging = profile.judging
    if judging.embedding is None:
        if judging.judge == "embedding":
            refuse("the key judging.embedding is missing; it holds the encoder by whose features images are alike")
        return
    name = judging.embedding.encoder
    encoders = [one for one, spec in profile.models.items() if spec.modality == "images" and not spec.generates]
    among("judging.embedding.encoder is", [name], encoders, "; allowed are encoders of images, ")
    if profile.models[name].family in judged:
        refuse(
            f"judging.embedding.encoder is {name!r}, whose family is judged ({', '.join(judged)} are); one that is judged is no "
            "independent judge"
        )


def _check_compared(profile, of_pairs: Iterable[str]) -> None:
    compared = profile.judging.compared
    among("judging.compared.beside is", [compared.beside], of_pairs, "; allowed are the curves of pairs of images, ")
    if compared.name in profile.curves:
        refuse(f"judging.compared.name is {compared.name!r}, which is the name of a curve; take another")
    of_images = [name for name, spec in profile.models.items() if spec.modality == "images"]
    for a, b in compared.pairs:
        among("judging.compared.pairs names the model", (a, b), of_images, ", which is no model of images; those are ")
        if not profile.models[a].generates or profile.models[b].generates:
            refuse(f"judging.compared.pairs has {[a, b]}; a generator comes first, and an encoder second")
    if len(set(compared.pairs)) < len(compared.pairs):
        refuse("judging.compared.pairs has a pair twice")


def judged_pairs(profile) -> list[tuple[str, str]]:
    """The pairs whose matches say which neurons of the judged families are Rosetta Neurons, and those of Figure 36 and Table 5."""
    judging = profile.judging
    pairs = [pair for family, curve in judging.curves.items() for _, pair in profile.family_points(family, curve)]
    return list(dict.fromkeys([*pairs, judging.by_images.pair, judging.validation.pair]))


def is_known(profile, name: str) -> bool:
    """Whether the factors of the images are known by which a model is judged, of its pairs all the same."""
    spec, scenes = profile.models[name], profile.images.real["kind"] == "scenes"
    if spec.generates:
        return spec.kind == KNOWN
    if profile.judging.seen == "real":
        return scenes
    firsts = {profile.models[a] for a, b in judged_pairs(profile) if b == name}
    return all(first.kind == KNOWN if first.generates else scenes for first in firsts)
