"""A chat model behind an OpenAI-compatible endpoint: every question is put once, and every answer kept.

The endpoint, the key and the model come from the environment and from nowhere else: ``OPENAI_BASE_URL``,
``OPENAI_API_KEY``, ``ROSETTA_LABEL_MODEL``; a judge of images may be another model, ``ROSETTA_JUDGE_MODEL``.
"""

import hashlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from tqdm.auto import tqdm

from rosetta.neurons.messages import has_pictures, shortened, without_pictures
from rosetta.results import write_json

if TYPE_CHECKING:  # much is imported with it, which only those need who ask
    import openai

logger = logging.getLogger(__name__)

#: So many questions in a row without an answer, and the rest are not put.
GIVE_UP_AFTER = 20
#: A longer answer is broken off; so is one that takes so many times the timeout.
ANSWER_BYTES, ANSWER_TIMEOUTS = 1_000_000, 10
VARIABLES = ("OPENAI_BASE_URL", "OPENAI_API_KEY")
#: A status that no other request can change, and where to look; {model} is the variable that names the model.
HOPELESS = {401: "OPENAI_API_KEY", 403: "OPENAI_API_KEY", 404: "OPENAI_BASE_URL and {model}"}
#: How endpoints say that a model does not look at pictures, as servers and providers word it.
BLIND = re.compile(
    r"(not support|only supported|found that support|at most 0|must be a|should be|unknown variant)"
    r".{0,60}(image|vision|picture|multi-?modal|string|'text')"
    r"|not an? (image|vision|multi-?modal)"
    r"|(image|vision|multi-?modal).{0,60}(not.{0,20}support|only supported|mmproj)",
    re.IGNORECASE | re.DOTALL,
)


class ChatError(RuntimeError):
    """The chat endpoint gives no answers; the message says why and what to check."""


LabelError = ChatError  # its name when labels were all that was asked for


class Purpose(NamedTuple):
    """What is asked for, as messages call it, and the variables that may name the model: the first that is set does."""

    answer: str
    models: tuple[str, ...]


LABELS = Purpose("label", ("ROSETTA_LABEL_MODEL",))


class Question(NamedTuple):
    """What it is about (``"L0/U3"``), and a function that makes its messages.

    They are made when they are needed, which is twice: pictures for a thousand questions would fill the memory.
    """

    about: str
    messages: Callable[[], list[dict]]


class Tally(NamedTuple):
    """How questions fared; the very same ones count once.

    Attributes
    ----------
    put : int
        Questions that the endpoint was asked.
    kept : int
        Questions whose answer was there already.
    refused : int
        Answers that were not the one asked for. After each the question is put again, as often as ``retries`` says.
    unanswered : int
        Questions that got no usable answer.
    tokens : int
        As the endpoint counts them, of all it was asked and all it answered; 0 if it does not say.
    """

    put: int = 0
    kept: int = 0
    refused: int = 0
    unanswered: int = 0
    tokens: int = 0

    def and_then(self, other: "Tally") -> "Tally":
        """Both together."""
        return Tally(*map(sum, zip(self, other, strict=True)))


def ask_all(
    questions: Sequence[Question],
    read: Callable[[str], Any],
    keep_in: Path,
    retries: int = 3,
    timeout: float = 60.0,
    concurrency: int = 8,
    purpose: Purpose = LABELS,
) -> tuple[list, Tally]:
    """The answers to some questions, None for one that got no usable answer, and how all fared.

    Every raw answer is kept with its request, in a file named by the SHA-256 of model, address and messages, and a later
    run reads it instead of asking. A picture stands in both as the digest of its pixels (`without_pictures`). An answer that is
    not the one asked for is kept too, as ``...refused-1.json``, and the question put again. For a question without a usable
    answer a warning says why, and the next run asks again.

    Parameters
    ----------
    questions : sequence of Question
        The very same messages are sent once. A message's content may be a list of parts, pictures among them (`picture`).
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
    purpose : Purpose

    Raises
    ------
    ChatError
        If a variable is missing or unusable; at once if the endpoint refuses the key (401, 403), knows no such
        address or model (404), or says that the model takes no pictures; if 20 questions in a row, or all there are, get no
        usable answer.
    """
    base_url, key, model = environment(purpose)
    files, asked = [], {}
    for question in questions:
        messages = without_pictures(question.messages())
        digest = hashlib.sha256(json.dumps([model, base_url, messages]).encode()).hexdigest()
        files.append(Path(keep_in) / f"{digest}.json")
        asked.setdefault(files[-1], []).append(question)
    answers = {file: answer for file in asked if (answer := _kept(file, read)) is not None}
    missing = {file: some for file, some in asked.items() if file not in answers}
    tally = Tally(kept=len(answers))
    if missing:
        import openai

        with openai.OpenAI(base_url=base_url, api_key=key, max_retries=retries, timeout=timeout) as client:
            asking = _Asking(client, model, purpose, read, retries)
            new, reason = asking.put(missing, concurrency, bool(answers))
        answers |= new
        tally = tally.and_then(Tally(len(missing), 0, asking.refused, len(missing) - len(new), asking.tokens))
        logger.info("%ss of %s: %s", purpose.answer, model, tally)
        if not answers:
            raise ChatError(f"{base_url} gives no usable answer for any neuron; the last time: {reason}")
    return [answers.get(file) for file in files], tally


def environment(purpose: Purpose = LABELS) -> tuple[str, str, str]:
    """(base URL, key, model)"""
    base_url, key = (os.environ.get(name, "").strip() for name in VARIABLES)
    models = " or ".join(purpose.models)
    model = os.environ.get(_model_variable(purpose), "").strip()
    named = dict(zip((*VARIABLES, models), (base_url, key, model), strict=True))
    if missing := [name for name, value in named.items() if not value]:
        raise ChatError(f"{purpose.answer}s by a chat model need {', '.join(named)}; not set: {', '.join(missing)}")
    parts = urlsplit(base_url)
    # Credentials in an address would reach logs and kept files.
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        raise ChatError("OPENAI_BASE_URL must be a plain https://host/path, without a user, password or query")
    if not (key.isascii() and key.isprintable()):
        raise ChatError("OPENAI_API_KEY holds a character that no header can carry")
    return base_url.rstrip("/"), key, model


def _model_variable(purpose: Purpose) -> str:
    """The variable that names the model."""
    return next((name for name in purpose.models if os.environ.get(name, "").strip()), purpose.models[-1])


class _Asking:
    """Questions on their way: how many answers were refused so far, and the tokens that the endpoint has counted."""

    def __init__(self, client: "openai.OpenAI", model: str, purpose: Purpose, read, retries: int) -> None:
        self.client, self.model, self.purpose, self.read, self.retries = client, model, purpose, read, retries
        self.refused, self.tokens, self.lock = 0, 0, threading.Lock()

    def put(self, missing: dict[Path, list[Question]], concurrency: int, answered: bool) -> tuple[dict, str | None]:
        """(answers by file, the last reason for having none); stops where going on makes no sense.

        ``answered`` says whether other questions of the kind have been, by this model.
        """
        import openai

        answers, reason, failed = {}, None, 0
        pool = ThreadPoolExecutor(concurrency)  # threads, since in a notebook an event loop is already running
        try:
            asked = {pool.submit(self._ask, some[0], file): file for file, some in missing.items()}
            for future in tqdm(as_completed(asked), total=len(asked), desc=f"{self.purpose.answer}s", unit="neuron"):
                file, error = asked[future], future.exception()
                if error is None:
                    answers[file], failed = future.result(), 0
                    continue
                if not isinstance(error, openai.OpenAIError | ValueError):
                    raise error  # no fault of the endpoint: a full disk, say
                failed, reason = failed + 1, _reason(error, self.client.api_key)
                about = ", ".join(dict.fromkeys(question.about for question in missing[file]))
                logger.warning("no %s for %s: %s", self.purpose.answer, about, reason)
                self._stop_if_hopeless(error, reason, missing[file][0], answered or bool(answers))
                if failed == GIVE_UP_AFTER:
                    often = f"{failed} times in a row; the last: {reason}"
                    raise ChatError(f"{self.client.base_url} gives no usable answer, {often}")
        finally:
            pool.shutdown(cancel_futures=True)  # what is under way is still kept
        return answers, reason

    def _stop_if_hopeless(self, error: Exception, reason: str, question: Question, answered: bool) -> None:
        status, variable = getattr(error, "status_code", None), _model_variable(self.purpose)
        if (
            status
            and has_pictures(question.messages())
            and (BLIND.search(str(error)) or (status == 422 and not answered))
        ):
            says = f"answers a picture with status {status}: the model {self.model} does not take pictures"
            raise ChatError(f"{self.client.base_url} {says}; name one that does in {variable}. {reason}")
        if status in HOPELESS:
            where = HOPELESS[status].format(model=variable)
            raise ChatError(f"{self.client.base_url} answers with status {status}: check {where}. {reason}")

    def _ask(self, question: Question, file: Path) -> Any:
        """Put a question until it is answered as asked, and keep every answer."""
        request = {"model": self.model, "messages": question.messages()}
        record = request | {"messages": without_pictures(request["messages"])}
        for attempt in range(1, self.retries + 2):
            raw = None
            try:
                raw = _without(self.client.api_key, _answer(self.client, request))
                answer = self.read(raw)
            except ValueError:
                self._count(raw, refused=1)
                if raw is not None:
                    write_json(file.with_suffix(f".refused-{attempt}.json"), _record(self.client, record, raw))
                if attempt > self.retries:
                    raise
            else:
                self._count(raw)
                write_json(file, _record(self.client, record, raw))
                return answer

    def _count(self, raw: str | None, refused: int = 0) -> None:
        with self.lock:
            self.refused += refused
            self.tokens += _tokens(raw)


def _record(client: "openai.OpenAI", request: dict, raw: str) -> dict:
    return {"base_url": str(client.base_url).rstrip("/"), "request": request, "answer": raw}


def _answer(client: "openai.OpenAI", request: dict) -> str:
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


def _tokens(raw: str | None) -> int:
    """What the endpoint counted of a question and its answer."""
    try:
        return max(0, int(json.loads(raw)["usage"]["total_tokens"]))
    except (ValueError, LookupError, TypeError, RecursionError, OverflowError):
        return 0


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
