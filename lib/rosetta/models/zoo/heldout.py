"""How well the vision models do on scenes that none of them was trained on, each figure beside what ignorance would give.

A figure is a dict: ``value``; what it stands beside, by name (``chance``, ``majority``, ``untrained``, ``mean``, ``real``).
All are computed from the models as they were written, in float16.
"""

import copy
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from rosetta.models.generators.onestep import redrawn, standard
from rosetta.models.load import ModelSpec
from rosetta.models.opened import Vision
from rosetta.models.vision import open_vision
from rosetta.models.zoo.objectives import Autoencoder, hidden_pixels, picture_error, seen_cells
from rosetta.sources.development import develop
from rosetta.sources.scenes import CLASSES, Scene, drawn, scene

#: The seed of the scenes; none was trained on them.
SEED = 9
#: Scenes on which probes are fitted, and after them those on which everything is scored.
FITTED, SCORED = 2000, 1024
#: Among how many captions an image's own is looked for.
CAPTIONS = 128
FACTORS = ("shape", "colour")
#: Pictures of each class that the generator draws.
OF_CLASS = 50
IMAGES_PER_CALL = 128


@cache
def _scenes() -> list[Scene]:
    return [scene(index, SEED) for index in range(FITTED + SCORED)]


def _pixels(scenes: Sequence[Scene]) -> np.ndarray:
    return np.stack([one.pixels for one in scenes])


def _called(run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """``run`` of all images, some at a time."""
    with torch.inference_mode():
        return torch.cat([run(some) for some in images.split(IMAGES_PER_CALL)])


# ---------------------------------------------------------------------------------------------------------------------
# Encoders


def captions_found(model: nn.Module, prepare: Callable, ids_of: Callable[[list[str]], Tensor]) -> dict:
    """Of a CLIP: how many images of each `CAPTIONS` find their own caption among these.

    Parameters
    ----------
    model : open_clip.model.CLIP
    prepare : callable
        Pixels uint8 [B, 64, 64, 3] to its input.
    ids_of : callable
        Captions to token ids.
    """
    scored = _scenes()[FITTED:]
    image = _called(
        lambda pixels: model.encode_image(prepare(pixels), normalize=True), torch.from_numpy(_pixels(scored))
    )
    text = _called(lambda ids: model.encode_text(ids, normalize=True), ids_of([one.caption for one in scored]))
    return {f"right_caption_of_{CAPTIONS}": {"value": own_found(image, text, CAPTIONS), "chance": 1 / CAPTIONS}}


def own_found(image: Tensor, text: Tensor, among: int) -> float:
    """The share of images [n, channels] that are likest to the text of their own row, in runs of `among` rows."""
    likeness = image.unflatten(0, (-1, among)) @ text.unflatten(0, (-1, among)).transpose(1, 2)
    return (likeness.argmax(2) == torch.arange(among)).float().mean().item()


def cell_means(vision: Vision, pixels: np.ndarray) -> np.ndarray:
    """The last layer's output, normalized as the model does, its mean over the cells: [n, width]."""
    if hasattr(vision.model, "output_tokens"):  # open_clip's, which else gives the class token alone
        vision.model.output_tokens = True

    def run(some: Tensor) -> Tensor:
        given = vision.run(vision.prepare(some))
        cells = given[1] if isinstance(given, tuple) else given[:, vision.prefix :]
        return cells.mean(1)

    return _called(run, torch.from_numpy(pixels)).numpy()


def probed(features: np.ndarray, values: np.ndarray, fitted: int) -> float:
    """How often a linear probe says the value: logistic regression, fitted to the first `fitted` rows, scored on the others."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000))
    probe.fit(features[:fitted], values[:fitted])
    return float((probe.predict(features[fitted:]) == values[fitted:]).mean())


def majority(values: np.ndarray, fitted: int) -> float:
    """How often the most frequent of the first `fitted` values is that of another."""
    names, counts = np.unique(values[:fitted], return_counts=True)
    return float((values[fitted:] == names[counts.argmax()]).mean())


def probes(spec: ModelSpec) -> dict:
    """How well the first object's shape and colour can be read off an encoder by a linear probe.

    It stands beside saying the most frequent value, and beside the same of the network as its training began.
    """
    scenes = _scenes()
    trained, untrained = (cell_means(open_vision(spec, seed=seed), _pixels(scenes)) for seed in (None, 0))
    figures = {}
    for factor in FACTORS:
        values = np.array([one.factors[factor] for one in scenes])
        figures[f"{factor}_by_probe"] = {
            "value": probed(trained, values, FITTED),
            "majority": majority(values, FITTED),
            "untrained": probed(untrained, values, FITTED),
        }
    return figures


def reconstruction(spec: ModelSpec, learnt: Autoencoder) -> dict:
    """Of a masked autoencoder: relative error of the cells that are masked, as drawn and as developed.

    The encoder is the one that was written; the decoder is no part of the model, and is taken from training.
    """
    vision, scored = open_vision(spec), _scenes()[FITTED:]
    whole = copy.deepcopy(learnt).eval()
    whole.encoder = vision.model
    seen = seen_cells(len(scored), torch.Generator().manual_seed(SEED))
    inputs = vision.prepare(_pixels(scored))
    with torch.inference_mode():
        parts = zip(inputs.split(IMAGES_PER_CALL), seen.split(IMAGES_PER_CALL), strict=True)
        said = torch.cat([whole(pixels, cells) for pixels, cells in parts])
    return _errors(said, np.stack([one.drawn for one in scored]), hidden_pixels(seen))


def _errors(said: Tensor, there: np.ndarray, where: Tensor) -> dict:
    _, errors = picture_error(said, torch.from_numpy(there), where)
    return {name: {"value": error.item(), "mean": 1.0} for name, error in errors.items()}


# ---------------------------------------------------------------------------------------------------------------------
# The generator


@cache
def _classes() -> tuple[np.ndarray, Tensor, Tensor]:
    """Of `OF_CLASS` scenes of each class: drawn pixels, labels, codes; classes take turns."""
    pixels, _, labels, codes = zip(*(drawn(i, SEED, i % CLASSES) for i in range(OF_CLASS * CLASSES)), strict=True)
    return np.stack(pixels), torch.tensor(labels), torch.from_numpy(np.stack(codes))


def drawing(spec: ModelSpec) -> dict:
    """Of a generator: how far its pictures are off those the renderer draws of the same codes, and how diverse they are.

    Diversity is beside that of the renderer's: with more, pictures of a class differ in what their codes do not ask for; with
    less, they leave some of it out. No grain is added on either side.
    """
    there, labels, codes = _classes()
    network = open_vision(spec).model
    with torch.inference_mode():
        said = torch.cat([network(*some) for some in zip(labels.split(128), codes.split(128), strict=True)])
    figures = _errors(said, there, torch.ones((), dtype=torch.bool))
    real = torch.from_numpy(there)
    looks = {"drawn": (said, standard(real)), "developed": (develop(redrawn(said)), develop(real))}
    for look, (mine, theirs) in looks.items():
        figures[f"diversity_{look}"] = {"value": diversity(mine, labels), "real": diversity(theirs, labels)}
    return figures


def diversity(pictures: Tensor, labels: Tensor) -> float:
    """Mean squared distance, a number of a pixel, between two pictures of one class; all classes count alike."""
    # Of all pairs that are not a picture with itself, the mean squared difference is twice the unbiased variance.
    of_class = [2 * pictures[labels == label].var(0).mean() for label in labels.unique()]
    return torch.stack(of_class).mean().item()


# ---------------------------------------------------------------------------------------------------------------------
# Sizes, and the table


def loss_of(name: str, figure: dict) -> float:
    """What falls where a figure gets better: an error; of an accuracy, its negative; of diversity, the distance to the real."""
    if name.startswith("error"):
        return figure["value"]
    if name.startswith("diversity"):
        return abs(figure["value"] - figure["real"])
    return -figure["value"]


def improves_with_size(cards: Sequence[dict]) -> dict[str, bool]:
    """For each figure of a family's cards, whether every size is better than the one below it; one size alone is not."""
    ordered = sorted(cards, key=lambda card: card["parameters"])
    figures = {name: [loss_of(name, card["heldout"][name]) for card in ordered] for name in ordered[0]["heldout"]}
    return {name: len(losses) > 1 and bool((np.diff(losses) < 0).all()) for name, losses in figures.items()}


def table(cards: Sequence[dict]) -> str:
    """The figures of vision models, a line for each of a family's, a column for each size: Markdown."""
    cards = [card for card in cards if "heldout" in card]
    if not cards:
        return ""
    cards = sorted(cards, key=lambda card: (card["family"], card["parameters"]))
    sizes = list(dict.fromkeys(card["name"].partition("-")[2] for card in sorted(cards, key=lambda c: c["mlp_width"])))
    lines = [
        f"| family | figure | {' | '.join(sizes)} | beside | better with each size |",
        "|---" * (len(sizes) + 4) + "|",
    ]
    for family in dict.fromkeys(card["family"] for card in cards):
        mine = {card["name"].partition("-")[2]: card for card in cards if card["family"] == family}
        improved = improves_with_size(list(mine.values()))
        for name in improved:
            found = [mine[size]["heldout"][name] if size in mine else None for size in sizes]
            values = " | ".join(f"{one['value']:.3f}" if one else "" for one in found)
            line = f"| `{family}` | {name.replace('_', ' ')} | {values} | {_beside([one for one in found if one])}"
            lines.append(f"{line} | {'yes' if improved[name] else 'no'} |")
    return "\n".join(lines)


def _beside(figures: Sequence[dict]) -> str:
    """``majority 0.301, untrained 0.35 to 0.41``."""
    parts = []
    for name in figures[0]:
        if name != "value":
            least, most = (f"{extreme(figure[name] for figure in figures):.3f}" for extreme in (min, max))
            parts.append(f"{name} {least}" if least == most else f"{name} {least} to {most}")
    return ", ".join(parts)
