"""A chat endpoint on the loopback address: a real server, which answers as a test has laid out and remembers what it was asked."""

import hashlib
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-hidden-5c0ffee5"


def completion(content) -> bytes:
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    ).encode()


# A status is a failure that the server asks to repeat without delay, so that no test waits.
def status(code, body=b"{}", **headers):
    return code, {"retry-after-ms": "10"} | headers, body


def error(message) -> bytes:
    return json.dumps({"error": {"message": message, "type": "some"}}).encode()


NOTHING = None


class Endpoint(ThreadingHTTPServer):
    """Answers the n-th request with the n-th reply and later ones with the last; remembers what it was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies, self.delay, self.requests = [status(500)], 0.0, []
        self.now, self.most, self.lock = 0, 0, threading.Lock()
        self.released = threading.Event()
        self.piece, self.pause = 10**9, 0.0  # bytes that are sent together, and seconds until the next

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        pass  # a client that did not wait


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server = self.server
        with server.lock:
            server.now += 1
            server.most = max(server.most, server.now)
            number = len(server.requests)
            server.requests.append(
                {"body": body, "headers": dict(self.headers), "at": time.monotonic(), "path": self.path}
            )
        reply = server.replies[min(number, len(server.replies) - 1)]
        reply = reply(body) if callable(reply) else reply
        server.released.wait(server.delay)
        with server.lock:
            server.now -= 1
        self.close_connection = True
        if reply is NOTHING:
            return
        code, headers, data = reply
        self.send_response(code)
        for name, value in {"content-type": "application/json", "content-length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        for at in range(0, len(data), server.piece):
            self.wfile.write(data[at : at + server.piece])
            if server.piece < len(data) and server.released.wait(server.pause):
                return

    def log_message(self, *_):
        pass


@contextmanager
def serving():
    """An endpoint that is there while this is open, and the variables by which an environment names it."""
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    named = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": KEY, "ROSETTA_LABEL_MODEL": "some-model"}
    try:
        yield server, named | {"NO_PROXY": "127.0.0.1"}
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def answers_in(folder):
    return sorted(path for path in folder.iterdir() if "refused" not in path.name)


# ---------------------------------------------------------------------------------------------------------------------
# A model that answers whatever it is asked, in the form that is asked for


def obliging(body: dict) -> tuple:
    """The reply of a model that says something of any neuron: a label of texts, a verdict on pictures, or a prediction."""
    turns = body["messages"]
    asked = turns[-1]["content"]
    if isinstance(asked, str):
        said = labelled(asked)
    elif any(turn["role"] == "assistant" for turn in turns):
        said = {"neuron_description": "light", "predicted_activating": ["A", "C"], "reasoning": "They are light."}
    else:
        (shown,) = (part["image_url"]["url"] for part in asked if part["type"] == "image_url")
        number = hashlib.sha256(shown.encode()).digest()[0]
        said = {"is_monosemantic": number % 2 == 0, "description": f"light of kind {number}"}
    return 200, {}, completion(json.dumps(said))


def labelled(asked: str) -> dict:
    """A label of the contexts in a question, a line of JSON each: JavaScript if most are code, or else what is hottest."""
    views = [json.loads(line) for line in asked.splitlines() if line.startswith('{"')]
    texts = [next(iter(view.values())) for view in views if view]
    code = ["function" in "".join(piece for piece, _ in text) for text in texts]
    hottest = max((heat, piece) for text in texts for piece, heat in text)[1] if texts else ""
    summary = "JavaScript functions" if code and sum(code) > len(code) / 2 else f"the piece {hottest!r}"
    return {"summary": summary, "examples": [hottest]}
