"""Who is judged, and by what: neurons drawn from either population, their strongest images and maps, and the judges (5.1, H).

What a model is judged by are the images that its pair was matched on, or real ones, as the profile says: its *set*. It is gone
through once for the strongest images of all neurons, and once for the maps of those that are judged.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from rosetta.matching.activations import read_pieces
from rosetta.matching.batches import HEIGHTS
from rosetta.neurons.images import maps_on, top_images
from rosetta.neurons.judging import Evidence, Judge, trials
from rosetta.neurons.likeness import Likeness
from rosetta.neurons.oracle import Known, Oracle
from rosetta.plots.images import Show
from rosetta.profiles.judging import is_known
from rosetta.profiles.profile import ProfileError
from rosetta.results import keep
from rosetta.sources.document import batched
from rosetta.sources.pictures import Picture
from rosetta.studies.images import shown
from rosetta.studies.matches import Study
from rosetta.studies.properties import OTHERS, ROSETTA, rosetta_neurons

Neuron = tuple[int, int]

# ---------------------------------------------------------------------------------------------------------------------
# The set of images


def stream(study: Study, name: str, pair: tuple[str, str]) -> Iterable:
    """What a model of a pair is read on: a generator's wishes, or an encoder's pictures."""
    if study.profile.models[name].generates:
        return study.pieces(pair)
    return pictures(study, name, pair)


def pictures(study: Study, name: str, pair: tuple[str, str]) -> Iterable[Picture]:
    """The same as pictures, as models see them."""
    if study.profile.models[name].generates:
        return study.made_by(name, study.amount(pair))
    return study.real(study.amount(pair)) if study.profile.judging.seen == "real" else study.seen_by(pair)


def of_set(study: Study, name: str, pair: tuple[str, str]) -> list[str]:
    """The models that a set depends on, and what is found in it of one of them: itself, and the generator whose images it sees."""
    alone = study.profile.models[name].generates or study.profile.judging.seen == "real"
    return [name] if alone else list(pair)


class Pictured(Sequence):
    """Some pictures of a set as human eyes are shown them, uint8 [h, w, 3] each; made when they are asked for."""

    def __init__(self, numbers: Sequence[int], of: Sequence[Picture] | dict[int, Picture], show: Show):
        self.numbers, self.of, self.show = numbers, of, show

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, at):
        if isinstance(at, slice):
            return Pictured(self.numbers[at], self.of, self.show)
        return self.show(self.of[self.numbers[at]].pixels)


def by_number(some: Iterable, wanted: Iterable[int]) -> Sequence | dict:
    """Those of a set that are wanted, by their numbers; what lists its members is left as it is."""
    if hasattr(some, "__getitem__"):
        return some
    wanted = set(wanted)
    return {number: one for number, one in enumerate(some) if number in wanted}


# ---------------------------------------------------------------------------------------------------------------------
# Neurons


def most_images(study: Study, name: str) -> int:
    """How many of a neuron's strongest images are ever asked for, of a model."""
    judging = study.profile.judging
    most = [judging.images]
    if name == judging.by_images.pair[1]:
        most.append(max(judging.by_images.images))
    if name == judging.validation.pair[1]:
        most.append(judging.images + judging.validation.each)
    return max(most)


def strongest(study: Study, name: str, pair: tuple[str, str]) -> pd.DataFrame:
    """The images on which each neuron of a model is highest: ``layer, unit, rank, image, activation, mean`` (`top_images`).

    Dead neurons have no rows.
    """
    names, n, by = of_set(study, name, pair), most_images(study, name), study.profile.images.rank
    parameters = study.parameters(names) | {"n": n, "by": by, "seen": study.profile.judging.seen}

    def compute() -> pd.DataFrame:
        table = top_images(study.reader(name), stream(study, name, pair), n, by, study.per_batch([name]))
        return table[["layer", "unit", "rank", "image", "activation", "mean"]]

    return keep(study.folder / "neurons" / f"{'--'.join(names)}.{name}.images.parquet", parameters, compute)


def populations(study: Study, name: str, pair: tuple[str, str]) -> dict[str, list[list[Neuron]]]:
    """Neurons that are judged: of those matched with the pair's other model, and of all others, disjoint samples (H.1).

    Dead neurons are in neither population.
    """
    alive = alive_neurons(study, name, pair)
    rosetta = rosetta_neurons(study, name, pair)
    both = {ROSETTA: alive[alive.isin(rosetta)], OTHERS: alive[~alive.isin(rosetta)]}
    judging = study.profile.judging
    return {
        population: sample(study, f"{name}, {population} neurons", some, judging.trials, judging.neurons, "trials")
        for population, some in both.items()
    }


def alive_neurons(study: Study, name: str, pair: tuple[str, str]) -> pd.MultiIndex:
    """(layer, unit) of the neurons of a model that change over its set."""
    return pd.MultiIndex.from_frame(strongest(study, name, pair)[["layer", "unit"]].drop_duplicates())


def sample(study: Study, of: str, neurons: Iterable[Neuron], runs: int, each: int, key: str) -> list[list[Neuron]]:
    """So many disjoint random samples of some neurons; smaller ones, or fewer, where the profile allows it.

    Raises
    ------
    ProfileError
        If there are too few neurons: it says how many there are, and of what.
    """
    judging, neurons = study.profile.judging, list(neurons)
    if judging.fewer:
        runs = min(runs, len(neurons))
    try:
        return trials(neurons, runs, each, judging.seed, judging.fewer) if runs else []
    except ValueError as error:
        said = f"{study.profile.path}: judging.{key}: of {of} {error} (judging.fewer: true)"
        raise ProfileError(said) from error


# ---------------------------------------------------------------------------------------------------------------------
# What a judge is shown


def evidence(study: Study, name: str, pair: tuple[str, str], neurons: Sequence[Neuron], k: int) -> list[Evidence]:
    """The k strongest images of some neurons of a model, with their maps: what a judge is shown of them.

    Raises
    ------
    ValueError
        If one of them is dead: it never changes, so no images are its strongest.
    """
    top = strongest(study, name, pair)
    top = top[(top["rank"] <= k) & pd.MultiIndex.from_frame(top[["layer", "unit"]]).isin(neurons)]
    rows = dict(iter(top.groupby(["layer", "unit"])))
    if dead := [neuron for neuron in neurons if neuron not in rows]:
        layer, unit = dead[0]
        raise ValueError(
            f"{name} L{layer}/U{unit} never changes over these images; a dead neuron has no strongest ones"
        )
    reader = study.reader(name)
    column = {(layer, unit): sum(reader.layers[:layer]) + unit for layer, unit in neurons}
    wanted: dict[int, list[int]] = {number: [] for number in sorted(set(top["image"].tolist()))}
    at = {}
    for neuron in neurons:
        for number in rows[neuron]["image"]:
            at[neuron, number] = len(wanted[number])
            wanted[number].append(column[neuron])
    maps = maps_on(reader, by_number(stream(study, name, pair), wanted), wanted, study.per_batch([name]))
    seen, show = by_number(pictures(study, name, pair), wanted), shown(study)
    return [
        Evidence(
            f"{name} L{neuron[0]}/U{neuron[1]}",
            numbers := tuple(rows[neuron]["image"].tolist()),
            Pictured(numbers, seen, show),
            np.stack([maps[number][..., at[neuron, number]] for number in numbers]),
            rows[neuron]["activation"].to_numpy(np.float32),
            float(rows[neuron]["mean"].iloc[0]),
        )
        for neuron in neurons
    ]


def cut(evidence: Sequence[Evidence], k: int) -> list[Evidence]:
    """The same by fewer images: the k strongest of each."""
    return [
        one._replace(numbers=one.numbers[:k], images=one.images[:k], maps=one.maps[:k], strengths=one.strengths[:k])
        for one in evidence
    ]


def strengths(study: Study, name: str, pair: tuple[str, str], neurons: Sequence[Neuron]) -> np.ndarray:
    """How high some neurons are on each image of the set, float32 [images, neurons]: what images are ranked by."""
    reader, height = study.reader(name), HEIGHTS[study.profile.images.rank]
    columns = [sum(reader.layers[:layer]) + unit for layer, unit in neurons]
    read = read_pieces(reader, stream(study, name, pair), study.per_batch([name]))
    return np.stack([height(acts[:, columns].float()).cpu().numpy() for _, acts in read])


# ---------------------------------------------------------------------------------------------------------------------
# Judges


def judges(study: Study, name: str) -> list[str]:
    """The judges of a model's neurons: the profile's own, and those beside it that ask nobody."""
    judging = study.profile.judging
    free = {"oracle": is_known(study.profile, name), "embedding": judging.embedding is not None}
    return [judging.judge, *(kind for kind, there in free.items() if there and kind != judging.judge)]


def judge_of(study: Study, kind: str, name: str, pair: tuple[str, str]) -> Judge:
    """A judge of the neurons of a model on its set."""
    judging = study.profile.judging
    if kind == "oracle":
        return Oracle(known(study, name, pair), **judging.oracle.model_dump())
    if kind == "embedding":
        return Likeness(features(study, name, pair))
    from rosetta.neurons.looking import ChatJudge  # what asks somebody is needed only where one is asked

    asked = judging.chat
    return ChatJudge(
        study.folder / "judge", asked.prompt, retries=asked.retries, timeout=asked.timeout_seconds,
        concurrency=asked.concurrency,
    )  # fmt: skip


def of_judge(study: Study, kind: str) -> dict:
    """What a judge's verdicts depend on but the evidence."""
    judging = study.profile.judging
    if kind == "embedding":
        return {"embedding": study.parameters([judging.embedding.encoder])["models"]}
    return {kind: getattr(judging, kind).model_dump()}


def known(study: Study, name: str, pair: tuple[str, str]) -> Known:
    """What is in each image of a set, for the oracle."""
    own = study.profile.models[name].generates or study.profile.judging.seen == "own"
    if own and study.profile.models[pair[0]].generates:
        return _of_wishes(tuple(study.pieces(pair)))
    return _of_scenes(study.amount(pair), study.profile.images.real.get("seed", 0))


@lru_cache(maxsize=1)
def _of_wishes(wishes: tuple) -> Known:
    return Known.of_wishes(wishes)


@lru_cache(maxsize=1)
def _of_scenes(count: int, seed: int) -> Known:
    return Known.of_scenes(range(count), seed)


def features(study: Study, name: str, pair: tuple[str, str]) -> np.ndarray:
    """What the independent encoder says of each image of a set, float32 [images, channels]."""
    encoder = study.profile.judging.embedding.encoder
    names = dict.fromkeys([*of_set(study, name, pair)[:1], encoder])
    parameters = study.parameters([*names]) | {"seen": study.profile.judging.seen, "images": study.amount(pair)}

    def compute() -> pd.DataFrame:
        reader, some = study.reader(encoder), pictures(study, name, pair)
        given = [reader.features(batch).numpy() for batch in batched(some, study.per_batch([encoder]))]
        return pd.DataFrame(np.concatenate(given)).rename(columns=str)

    # All encoders beside one generator see the same pictures.
    path = study.folder / "neurons" / f"{'--'.join(names)}.features.parquet"
    return keep(path, parameters, compute).to_numpy()
