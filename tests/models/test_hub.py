import json
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from huggingface_hub import constants
from language_models import cached_on_the_hub, write_language

from rosetta.matching.texts import Reader
from rosetta.models.hub import asking, commit, fetched
from rosetta.models.load import (
    ROOT,
    ModelRefused,
    ModelSpec,
    describe,
    files,
    load,
    load_tokenizer,
    load_untrained,
)  # fmt: skip

NAME, COMMIT = "someone/tiny-opt", "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-opt"
    write_language(folder, "opt")
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def spec_of(revision=None, **more) -> ModelSpec:
    return ModelSpec("tiny", NAME, "opt", 2, 32, revision, **more)


# ---------------------------------------------------------------------------------------------------------------------
# What is in the cache


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_model_that_is_in_the_cache_is_as_its_folder_without_a_network(folder, cache, revision):
    snapshot = cached_on_the_hub(cache, NAME, folder, COMMIT)
    spec, here = spec_of(revision), ModelSpec("tiny", str(folder), "opt", 2, 32)
    assert files(spec) == snapshot and commit(NAME, revision) == COMMIT
    ids = load_tokenizer(here)("The neurons of one model", add_special_tokens=False)["input_ids"]
    found, expected = (Reader.open(one).read([ids])[0] for one in (spec, here))
    assert torch.equal(found, expected) and found.shape == (len(ids), 64) and found.std() > 0
    drawn = (load_untrained(one, 3).state_dict() for one in (spec, here))
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in drawn), strict=True))
    assert describe(NAME)[2:5] == ("mine", 2, 32)


def test_it_is_so_in_a_process_that_was_started_offline(folder, tmp_path):
    cached_on_the_hub(tmp_path / "hub", NAME, folder, COMMIT)
    code = (
        "from rosetta.matching.texts import Reader; from rosetta.models.load import ModelSpec; import sys\n"
        "acts, _ = Reader.open(ModelSpec('tiny', sys.argv[1], 'opt', 2, 32)).read([[5, 6, 7]]); print(acts.shape)"
    )
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT / "lib")
    }  # fmt: skip
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        environment.pop(name, None)
    run = partial(subprocess.run, env=environment, capture_output=True, text=True, check=False)
    assert run([sys.executable, "-c", code, NAME]).stdout == "torch.Size([3, 64])\n"


def test_what_is_not_in_the_cache_is_named_with_what_would_help(cache):
    said = rf"model tiny: HF_HUB_OFFLINE is set.*{cache}.*does not hold all of {NAME}\. .*hf download {NAME}.*HF_HOME.*folder"
    for ask in (load, load_tokenizer, partial(load_untrained, seed=1)):
        with pytest.raises(ModelRefused, match=said):
            ask(spec_of())


def test_another_revision_than_the_cached_one_is_not_had(folder, cache):
    cached_on_the_hub(cache, NAME, folder, COMMIT)
    for revision in ("step1000", "f" * 40):
        with pytest.raises(ModelRefused, match=rf"does not hold all of {NAME} at revision {revision}.*--revision"):
            load(spec_of(revision))


def test_a_hub_that_cannot_be_reached_is_said_at_once(folder, cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    at_hub(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(ModelRefused, match=rf"model tiny: http://127.0.0.1:9 cannot be reached.*of {NAME}\. .*HF_HOME"):
        load(spec_of())
    cached_on_the_hub(cache, NAME, folder, COMMIT)
    assert load(spec_of()).config.model_type == "opt"


def test_a_cached_model_that_is_a_pickle_or_cut_short_is_refused(folder, cache, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[:-100])
    cached_on_the_hub(cache, "someone/short", copy, COMMIT)
    with pytest.raises(ModelRefused, match=r"tiny: .*model\.safetensors is no whole safetensors file .*fetch it again"):
        load(spec_of()._replace(source="someone/short"))
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    cached_on_the_hub(cache, "someone/pickle", copy, COMMIT)
    said = rf"tiny: someone/pickle at commit {COMMIT} holds no safetensors, and pytorch_model.bin is a pickle"
    with pytest.raises(ModelRefused, match=said):
        load(spec_of()._replace(source="someone/pickle"))
    (copy / "pytorch_model.bin").unlink()
    cached_on_the_hub(cache, "someone/nothing", copy, COMMIT)
    with pytest.raises(ModelRefused, match=rf"someone/nothing at commit {COMMIT} holds no safetensors$"):
        load(spec_of()._replace(source="someone/nothing"))


def test_a_pickle_is_converted_by_what_its_refusal_says(folder, tmp_path):
    published, made = shutil.copytree(folder, tmp_path / "published"), tmp_path / "FOLDER"
    torch.save(load(describe(published)).state_dict(), published / "pytorch_model.bin")
    (published / "model.safetensors").unlink()
    with pytest.raises(ModelRefused) as refused:
        load(describe_as(published))
    code = str(refused.value).partition('python -c "')[2].partition('"')[0]
    exec(code.replace("FOLDER", str(made)))
    assert same(load(describe(made)), load(describe(folder)))
    text = "Größe, 1998\n  </s> x"
    assert load_tokenizer(describe(made))(text)["input_ids"] == load_tokenizer(describe(folder))(text)["input_ids"]


def describe_as(folder) -> ModelSpec:
    return ModelSpec(folder.name, str(folder), "opt", 2, 32)


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_code_of_a_models_own_is_not_run_unasked(folder, cache, tmp_path):
    ran = tmp_path / "ran"
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    classes = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"}
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": classes}))
    (copy / "own.py").write_text(
        "from pathlib import Path\nfrom transformers import OPTConfig, OPTForCausalLM\n"
        f"Path({str(ran)!r}).touch()\n"
        "class Own(OPTConfig):\n    model_type = 'own'\n"
        "class OwnModel(OPTForCausalLM):\n    config_class = Own\n"
    )
    cached_on_the_hub(cache, NAME, copy, COMMIT)
    for spec in (spec_of(COMMIT), describe_as(copy)):
        with pytest.raises(ModelRefused, match=r"brings code of its own, .*remote_code: true .*revision the commit"):
            load(spec)
    assert not ran.exists()
    assert same(load(spec_of(COMMIT, remote_code=True)), load(describe_as(folder))) and ran.exists()


# ---------------------------------------------------------------------------------------------------------------------
# What the hub answers


class Hub(BaseHTTPRequestHandler):
    """As the model hub: `folder`'s files at `COMMIT`; or a refusal."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path, server = self.path.partition("?")[0], self.server
        server.asked.append(path)
        refused = server.refuses.get(next((part for part in server.refuses if part in path), None))
        names = sorted(server.folder.iterdir())
        if refused:
            self.answer(b"{}", *refused)
        elif "/revision/" in path:
            asked = path.rpartition("/")[2]
            found = asked in ("main", COMMIT)
            content = {"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": file.name} for file in names]}
            self.answer(*((json.dumps(content).encode(),) if found else (b"{}", 404, "RevisionNotFound")))
        elif "/tree/" in path:
            listed = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": file.name} for file in names
            ]
            self.answer(json.dumps(listed).encode())
        else:
            self.answer((server.folder / path.rpartition("/")[2]).read_bytes())

    def answer(self, body: bytes, status: int = 200, code: str = ""):
        self.send_response(status)
        headers = {"Content-Length": len(body), "ETag": f'"{len(body)}"', "X-Repo-Commit": COMMIT}
        headers |= {"X-Error-Code": code, "X-Error-Message": "refused"} if code else {}
        for key, value in headers.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def at_hub(monkeypatch, address: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def hub(folder, cache, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.refuses, server.asked = folder, {}, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    at_hub(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_model_is_fetched_at_one_commit_and_weights_only_where_they_are_asked_for(hub, folder, monkeypatch):
    load_tokenizer(spec_of())
    assert not any(path.endswith(".safetensors") for path in hub.asked) and any("vocab.json" in p for p in hub.asked)
    assert same(load(spec_of()), load(describe_as(folder))) and commit(NAME) == COMMIT
    assert all(COMMIT in path for path in hub.asked if "/resolve/" in path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same(load(spec_of()), load(describe_as(folder)))


def test_a_hub_that_holds_pickles_alone_is_said_with_the_way_to_convert_them(hub, folder, tmp_path):
    hub.folder = shutil.copytree(folder, tmp_path / "copy")
    (hub.folder / "model.safetensors").rename(hub.folder / "pytorch_model.bin")
    with pytest.raises(ModelRefused, match=rf"{NAME} at commit {COMMIT} .* pytorch_model.bin is a pickle.*'{NAME}'"):
        load(spec_of())
    assert not any("/resolve/" in path and path.endswith(".bin") for path in hub.asked)


ANSWERS = {
    "a licence, to a file": ({"/resolve/": (401, "GatedRepo")}, rf"accept its licence; accept it on .*/{NAME}, and set HF_TOKEN"),
    "a licence, to an account": ({"/resolve/": (403, "GatedRepo")}, "accept its licence; .*HF_TOKEN"),
    "no such name": ({"/api/": (404, "RepoNotFound")}, rf"the model hub shows no {NAME}; .*HF_TOKEN"),
    "private": ({"/api/": (401, "")}, rf"the model hub shows no {NAME}; .*HF_TOKEN"),
}  # fmt: skip


@pytest.mark.parametrize("case", ANSWERS)
def test_what_the_hub_refuses_is_said_with_what_would_help(hub, case):
    hub.refuses, said = ANSWERS[case]
    with pytest.raises(ModelRefused, match=f"model tiny: .*{said}"):
        load(spec_of())


def test_a_wrong_revision_is_named(hub):
    with pytest.raises(ModelRefused, match=rf"model tiny: {NAME} has no revision v9; .*commits/main"):
        load(spec_of("v9"))


@pytest.mark.parametrize("source", ["a/b/c", "no such name", "some--one/x"])
def test_what_is_neither_a_folder_nor_a_name_is_said_to_be_neither(cache, source):
    with pytest.raises(ModelRefused, match=f"model m: {source} is neither a folder here nor a name on the model hub"):
        fetched("m", source)


def test_other_errors_pass_as_they_are():
    with pytest.raises(KeyError), asking("m", NAME):
        raise KeyError


@pytest.mark.parametrize("source", ["zoo/opt-32x2/x", "/nowhere", "some/one"])
def test_of_what_was_never_fetched_no_commit_is_known(cache, source):
    assert commit(source) is None and commit(source, COMMIT) == COMMIT
