"""Train the embedded models that are missing; log to, checkpoint in and go on from ``zoo/.training``."""

import argparse
import json
import logging
import os
from pathlib import Path

from rosetta.models.zoo import language, vision
from rosetta.results import write_json


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
    write_json(zoo / "models.json", listed(zoo))


def listed(zoo: Path) -> list[dict]:
    """The cards of the models that are in the zoo, with what they read or make (``modality``)."""
    cards = []
    for modality, names in (("text", language.names()), ("images", vision.names())):
        files = [zoo / name / "card.json" for name in names]
        cards += [json.loads(file.read_text()) | {"modality": modality} for file in files if file.exists()]
    return cards


if __name__ == "__main__":
    main()
