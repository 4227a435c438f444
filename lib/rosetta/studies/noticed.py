"""What is said, once, where this machine's text or scenes are not those that the embedded models were trained on."""

import json
import logging
from functools import cache
from pathlib import Path

from rosetta.models.load import ROOT
from rosetta.sources import environment, scenes

logger = logging.getLogger(__name__)


@cache
def other_environment(split: str, keep_in: Path) -> None:
    """Warn, once, if this environment's text is not what the zoo's manifest records."""
    path = ROOT / "zoo" / "corpus.json"
    if not path.exists():
        return
    recorded = json.loads(path.read_text(encoding="utf-8"))
    for difference in environment.differences(split, environment.environment_documents(split, keep_in), recorded):
        logger.warning(difference)


@cache
def other_scenes() -> None:
    """Warn, once, if this environment draws other scenes than the zoo was trained on."""
    path = ROOT / "zoo" / "scenes.json"
    for name, (there, here) in scenes.differences(path).items() if path.exists() else ():
        logger.warning("scenes: %s is %s here; the zoo was trained with %s", name, here, there)
