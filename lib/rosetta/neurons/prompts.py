"""What a chat model is asked: turns of text with marked places, the kit's own or a file's.

A turn is what a message says before its places are filled; a line ``---`` parts one from the next.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from rosetta.neurons.chat import ChatError

#: A line that parts a prompt's turns.
TURN = "---"
#: The name of a prompt that no file holds.
OWN = "the kit's own"
NUMBERS = ("no", "one", "two", "three")
ORDINALS = ("first", "second", "third")


def read_turns(file: Path | None, own: str, whose: str, places: Sequence[str], shows: Sequence[str]) -> tuple[str, ...]:
    """A prompt's name, its system's message (empty if it has none) and its turns.

    Parameters
    ----------
    file : Path, optional
        UTF-8; without one the prompt is `own`.
    own : str
    whose : str
        ``"the judge's prompt"``, for messages.
    places : sequence of str
        The place that each turn has exactly once, and no other turn nor the system's message; there are as many turns, or one more
        where the system's message comes before them.
    shows : sequence of str
        What each turn does, for messages.

    Returns
    -------
    tuple of str
        The name is ``"the kit's own"``, or the file's name and the first digits of its SHA-256.

    Raises
    ------
    ChatError
        If there is no such file or it is no text; if turns or places are missing, or a place is there twice.
    """
    if file is None:
        return _parted(OWN, own, whose, places, shows)
    file = Path(file)
    try:
        data = file.read_bytes()
        text = data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ChatError(f"{whose} {file} cannot be read: {error}") from None
    return _parted(f"{file.name}, sha256 {hashlib.sha256(data).hexdigest()[:12]}", text, whose, places, shows)


def _parted(name: str, text: str, whose: str, places: Sequence[str], shows: Sequence[str]) -> tuple[str, ...]:
    turns = [""]
    for line in text.splitlines():
        if line.strip() == TURN:
            turns.append("")
        else:
            turns[-1] += f"{line}\n"
    turns = [turn.strip() for turn in turns]
    has, wanted = f"{whose} ({name})", len(places)
    if len(turns) not in (wanted, wanted + 1):
        must = (
            f"{NUMBERS[wanted]}, parted by a line {TURN}: {' and '.join(shows)}" if wanted > 1 else f"one, {shows[0]}"
        )
        more = f"or {NUMBERS[wanted + 1]}, with the system's message before {'them' if wanted > 1 else f'it and a line {TURN}'}"
        raise ChatError(f"{has} has {len(turns)} turns; it must have {must}; {more}")
    system, *rest = turns if len(turns) > wanted else ["", *turns]
    named = (
        ["system's message", *(f"{ordinal} turn" for ordinal in ORDINALS)]
        if wanted > 1
        else ["system's message", "turn"]
    )
    for where, turn, own in zip(named, (system, *rest), (None, *places), strict=False):
        for place in places:
            if turn.count(place) != (place == own):
                often = "exactly once" if place == own else "not at all"
                raise ChatError(f"{has}: its {where} has {place} {turn.count(place)} times; it must be there {often}")
    return name, system, *rest
