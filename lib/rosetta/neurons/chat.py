"""A chat model behind an OpenAI-compatible endpoint: every question is put once, and every answer kept.

The endpoint, the key and the model come from the environment and from nowhere else: ``OPENAI_BASE_URL``,
``OPENAI_API_KEY``, ``ROSETTA_LABEL_MODEL``.
"""

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
from tqdm.auto import tqdm

from rosetta.results import write_json

logger = logging.getLogger(__name__)

#: So many questions in a row without an answer, and the rest are not put.
GIVE_UP_AFTER = 20
#: A longer answer is broken off; so is one that takes so many times the timeout.
ANSWER_BYTES, ANSWER_TIMEOUTS = 1_000_000, 10
VARIABLES = ("OPENAI_BASE_URL", "OPENAI_API_KEY", "ROSETTA_LABEL_MODEL")
#: A status that no other request can change, and where to look.
HOPELESS = {401: "OPENAI_API_KEY", 403: "OPENAI_API_KEY", 404: "OPENAI_BASE_URL and ROSETTA_LABEL_MODEL"}


class LabelError(RuntimeError):
    """The chat endpoint gives no labels; the message says why and what to check."""


def ask_all(
    questions: dict[str, list[dict]],
    read: Callable[[str], Any],
    keep_in: Path,
    retries: int = 3,
    timeout: float = 60.0,
    concurrency: int = 8,
) -> dict[str, Any]:
    """The answers to some questions, by what each is about; one that got no usable answer is left out.

    Every raw answer is kept with its request, in a file named by the SHA-256 of model, address and messages, and a later
    run reads it instead of asking. An answer that is not the one asked for is kept too, as ``...refused-1.json``, and the
    question put again. For a question without a usable answer a warning says why, and the next run asks again.

    Parameters
    ----------
    questions : dict of str to list of dict
        The messages, by what they are about (``"L0/U3"``). The very same messages are sent once.
    read : callable
        What a raw answer says; ValueError if it is not the answer asked for.
    keep_in : Path
        Folder of the answers.
    retries : int
        How often a request is repeated when it fails (no connection, a timeout, status 408, 409, 429, 5xx; the client
        waits longer each time, or as long as ``Retry-After`` says, up to two minutes), and how often a question is put
        again when the answer is not the one asked for.
    timeout : float
        Seconds to wait for a connection, and for the next piece of an answer; a whole answer may take ten times as long.
    concurrency : int
        Requests at the same time.

    Raises
    ------
    LabelError
        If a variable is missing or unusable; at once if the endpoint refuses the key (401, 403) or knows no such
        address or model (404); if 20 questions in a row, or all there are, get no usable answer.
    """
    base_url, key, model = environment()
    files, requests = {}, {}
    for about, messages in questions.items():
        digest = hashlib.sha256(json.dumps([model, base_url, messages]).encode()).hexdigest()
        files[about] = Path(keep_in) / f"{digest}.json"
        requests[files[about]] = {"model": model, "messages": messages}
    answers = {file: answer for file in requests if (answer := _kept(file, read)) is not None}
    missing = {file: request for file, request in requests.items() if file not in answers}
    if missing:
        names = {file: ", ".join(about for about, of in files.items() if of == file) for file in missing}
        with openai.OpenAI(base_url=base_url, api_key=key, max_retries=retries, timeout=timeout) as client:
            new, reason = _put(client, missing, names, read, retries, concurrency)
        answers |= new
        if not answers:
            raise LabelError(f"{base_url} gives no usable answer for any neuron; the last time: {reason}")
    return {about: answers[file] for about, file in files.items() if file in answers}


def environment() -> tuple[str, str, str]:
    """(base URL, key, model)"""
    values = [os.environ.get(name, "").strip() for name in VARIABLES]
    missing = [name for name, value in zip(VARIABLES, values, strict=True) if not value]
    if missing:
        raise LabelError(f"labels by a chat model need {', '.join(VARIABLES)}; not set: {', '.join(missing)}")
    base_url, key, model = values
    parts = urlsplit(base_url)
    # Credentials in an address would reach logs and kept files.
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        raise LabelError("OPENAI_BASE_URL must be a plain https://host/path, without a user, password or query")
    if not (key.isascii() and key.isprintable()):
        raise LabelError("OPENAI_API_KEY holds a character that no header can carry")
    return base_url.rstrip("/"), key, model


def _put(client, requests: dict[Path, dict], names: dict[Path, str], read, retries: int, concurrency: int):
    """(answers by file, the last reason for having none); stops where going on makes no sense."""
    answers, reason, failed = {}, None, 0
    pool = ThreadPoolExecutor(concurrency)  # threads, since in a notebook an event loop is already running
    try:
        asked = {pool.submit(_ask, client, request, file, read, retries): file for file, request in requests.items()}
        for future in tqdm(as_completed(asked), total=len(asked), desc="labels", unit="neuron"):
            file, error = asked[future], future.exception()
            if error is None:
                answers[file], failed = future.result(), 0
                continue
            if not isinstance(error, openai.OpenAIError | ValueError):
                raise error  # no fault of the endpoint: a full disk, say
            failed, reason, status = failed + 1, _reason(error, client.api_key), getattr(error, "status_code", None)
            logger.warning("no label for %s: %s", names[file], reason)
            if status in HOPELESS:
                raise LabelError(f"{client.base_url} answers with status {status}: check {HOPELESS[status]}. {reason}")
            if failed == GIVE_UP_AFTER:
                often = f"{failed} times in a row; the last: {reason}"
                raise LabelError(f"{client.base_url} gives no usable answer, {often}")
    finally:
        pool.shutdown(cancel_futures=True)  # what is under way is still kept
    return answers, reason


def _ask(client: openai.OpenAI, request: dict, file: Path, read, retries: int) -> Any:
    """Put a question until it is answered as asked, and keep every answer."""
    for attempt in range(1, retries + 2):
        raw = None
        try:
            raw = _without(client.api_key, _answer(client, request))
            answer = read(raw)
        except ValueError:
            if raw is not None:
                write_json(file.with_suffix(f".refused-{attempt}.json"), _record(client, request, raw))
            if attempt > retries:
                raise
        else:
            write_json(file, _record(client, request, raw))
            return answer


def _record(client: openai.OpenAI, request: dict, raw: str) -> dict:
    return {"base_url": str(client.base_url).rstrip("/"), "request": request, "answer": raw}


def _answer(client: openai.OpenAI, request: dict) -> str:
    """A raw answer; ValueError if it breaks off, is too large, or takes too long from its first piece to its last."""
    limit, pieces, size, began = ANSWER_TIMEOUTS * client.timeout, [], 0, time.monotonic()
    with client.chat.completions.with_streaming_response.create(**request) as response:
        incoming = response.iter_bytes()
        while piece := _next(incoming):
            pieces.append(piece)
            size += len(piece)
            if size > ANSWER_BYTES:
                raise ValueError(f"the answer is larger than {ANSWER_BYTES:,} bytes")
            if time.monotonic() - began > limit:
                raise ValueError(f"the answer took longer than {limit:g} s")
    return b"".join(pieces).decode(errors="replace")


def _next(incoming: Iterator[bytes]) -> bytes:
    """The next piece of an answer; nothing at its end."""
    try:
        return next(incoming, b"")
    except Exception as error:  # the client's own errors end with the headers; here it is the connection's
        raise ValueError(f"the answer broke off: {error or type(error).__name__}") from error


def _kept(file: Path, read) -> Any:
    """The answer that a file keeps; None, with a message if the file is there, where none can be read."""
    try:
        return read(json.loads(file.read_text(encoding="utf-8"))["answer"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s is no kept answer (%s); the model is asked again", file, error)
        return None


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


def _reason(error: Exception, key: str) -> str:
    cause = f" ({type(error.__cause__).__name__})" if error.__cause__ else ""
    return shortened(_without(key, f"{error}{cause}"))


def _without(key: str, text: str) -> str:
    """Text of the endpoint's without the key, any six characters of it in a row, or a key that is masked by asterisks.

    A stand-in such as "none" is no secret, and may be a word.
    """
    if len(key) < 8:
        return text
    parts = "|".join({re.escape(key[i : i + 6]) for i in range(len(key) - 5)})
    # Wherever six of them begin, one after the other, and the five that follow the last beginning.
    return re.sub(rf"(?:(?:(?={parts}).)+.{{5}}|[\w-]*\*{{3,}}[\w-]*)+", "[key]", text)


def shortened(text: object, characters: int = 200) -> str:
    """One line of it."""
    return " ".join(str(text).split())[:characters]
