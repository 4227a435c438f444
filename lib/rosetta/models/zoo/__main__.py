"""Train the embedded models that are missing; log to, checkpoint in and go on from ``zoo/.training``."""

import argparse
import json
import logging
import os
from pathlib import Path

from rosetta import marked
from rosetta.models.zoo import language, vision
from rosetta.models.zoo.heldout import improves_with_size, table
from rosetta.results import write_json

#: In the zoo's README, before the table of held-out figures.
MARK = marked.begin("held-out figures", "make zoo")


def main() -> None:
    everything = [*language.names(), *vision.names()]
    parser = argparse.ArgumentParser(prog="python -m rosetta.models.zoo", description=__doc__)
    parser.add_argument("--zoo", type=Path, default=Path("zoo"), help="where the models go (default: zoo)")
    parser.add_argument(
        "--tokens", type=int, default=language.TOKENS, help="of a language model (default: %(default)s)"
    )
    parser.add_argument("--scenes", type=int, default=vision.SCENES, help="of a vision model (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="models trained side by side")
    parser.add_argument("--models", nargs="*", default=everything, help="which ones (default: all)")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.models if name not in everything]:
        parser.error(f"there is no model {', '.join(unknown)}; there are {', '.join(everything)}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    zoo, wanted = arguments.zoo, set(arguments.models)
    language.train_all(zoo, [name for name in language.names() if name in wanted], arguments.tokens, arguments.jobs)
    vision.train_all(zoo, [name for name in vision.names() if name in wanted], arguments.scenes, arguments.jobs)
    cards = listed(zoo)
    write_json(zoo / "models.json", cards)
    describe(zoo / "README.md", cards)


def listed(zoo: Path) -> list[dict]:
    """The cards of the models that are in the zoo, with what is no matter of the model alone.

    ``modality``: what it reads or makes; of a vision model, ``improves_with_size``: for each figure, whether it is better at
    each size of the family than at the one before.
    """
    cards = []
    for modality, names in (("text", language.names()), ("images", vision.names())):
        files = [zoo / name / "card.json" for name in names]
        cards += [json.loads(file.read_text()) | {"modality": modality} for file in files if file.exists()]
    for family in vision.FAMILIES:
        mine = [card for card in cards if card["family"] == family]
        for card in mine:
            card["improves_with_size"] = improves_with_size(mine)
    return cards


def describe(readme: Path, cards: list[dict]) -> None:
    """Put the table of held-out figures into the zoo's README, after its mark."""
    if readme.exists():
        marked.fill(readme, {MARK: table(cards)})


if __name__ == "__main__":
    main()
