"""What goes into a chat model's messages and comes out of its answers: pictures, and JSON among prose."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rosetta.sources.pictures import from_png, png

PNG_URL = "data:image/png;base64,"

# ---------------------------------------------------------------------------------------------------------------------
# Pictures in messages


def picture(pixels: np.ndarray) -> dict:
    """The part of a message that shows a picture, uint8 [h, w, 3]."""
    return {"type": "image_url", "image_url": {"url": PNG_URL + base64.b64encode(png(pixels)).decode()}}


def has_pictures(messages: list[dict]) -> bool:
    return any(part["type"] == "image_url" for message in messages for part in _parts(message))


def without_pictures(messages: list[dict]) -> list[dict]:
    """The messages with each picture's size and the SHA-256 of its pixels where the picture was.

    Of its pixels, since another version of the compressor would spell the same picture in other bytes, and every question would
    be put again.
    """

    def stand_in(part: dict) -> dict:
        if part["type"] != "image_url" or not part["image_url"]["url"].startswith(PNG_URL):
            return part
        shown = from_png(base64.b64decode(part["image_url"]["url"].removeprefix(PNG_URL)))
        digest = f"{shown.shape[1]} x {shown.shape[0]} pixels, sha256:{hashlib.sha256(shown.tobytes()).hexdigest()}"
        return part | {"image_url": part["image_url"] | {"url": digest}}

    return [
        message | {"content": [stand_in(part) for part in message["content"]]} if _parts(message) else message
        for message in messages
    ]


def _parts(message: dict) -> list[dict]:
    """Of a message whose content is no mere text."""
    return [] if isinstance(message["content"], str) else message["content"]


# ---------------------------------------------------------------------------------------------------------------------
# What is in an answer


def last_object(raw: str, usable: Callable[[dict], Any], wanted: str) -> Any:
    """What the last JSON object of a raw answer that is usable says, prose around it or not.

    Parameters
    ----------
    usable : callable
        What an object says; None if it is not one that was asked for.
    wanted : str
        What was asked for, in a message's words.

    Raises
    ------
    ValueError
        If it is not a chat completion, or holds no such object.
    """
    found = [said for value in json_objects(raw) if (said := usable(value)) is not None]
    if not found:
        raise ValueError(f"no JSON object with {wanted}: {shortened(message(raw))!r}")
    return found[-1]


def json_objects(raw: str) -> Iterator[dict]:
    """The JSON objects in the message of a raw answer, prose around them or not.

    Raises
    ------
    ValueError
        If it is not a chat completion.
    """
    content = message(raw)
    at = 0
    while isinstance(content, str) and (at := content.find("{", at)) >= 0:
        try:
            value, at = json.JSONDecoder().raw_decode(content, at)
        except ValueError:
            at += 1
        except RecursionError:
            return
        else:
            yield value


def message(raw: str) -> Any:
    """The content of a raw answer's first message; ValueError if it is not a chat completion."""
    try:
        return json.loads(raw)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ValueError(f"not a chat completion: {shortened(raw)!r}") from None


def encodable(text: str) -> str:
    """Without halves of surrogate pairs, which JSON can spell and no file can hold."""
    return text.encode(errors="replace").decode()


def shortened(text: object, characters: int = 200) -> str:
    """One line of it."""
    return " ".join(str(text).split())[:characters]
