"""What several test files share: texts, small tokenizers trained in memory, and untrained models of every family."""

import bisect
import functools
import gc
import heapq
import inspect
import json
import os
import re
import shutil
import string
import subprocess
import sys
import textwrap
from pathlib import Path

# Before anything reads them: tests run side by side, and what they start inherits it.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import hypothesis
import numpy as np
import pytest
import tokenizers
import torch
import transformers
import yaml
from answering import serving
from language_models import byte_level_tokenizer, cached_on_the_hub
from safetensors.numpy import load_file, save_file
from tokenizers import normalizers, pre_tokenizers, processors, trainers

from rosetta import sources
from rosetta.matching.segments import segments
from rosetta.matching.texts import Reader
from rosetta.models.load import ROOT
from rosetta.models.zoo import language
from rosetta.sources.document import Document, normalize

MANY_SCRIPTS = normalize(
    "Ångström naïve café: “quotes” — dashes… Größe, piñata, Łódź.\n"
    "Привет, мир! Γειά σου Κόσμε. שלום עולם مرحبا بالعالم\n"
    "漢字とかな交じり文。你好，世界！안녕하세요 세계\n"
    "👩‍👩‍👧‍👦 🇫🇷 👍🏽 😀😃 ∑∫√ x² ≤ 10³ a\u0323\u0307 e\u0301\u0327\n"
)
FAMILIES = tuple(language.FAMILIES)
BYTE_LEVEL = (*FAMILIES, "prefix space", "bytes only")
#: What `profile` matches.
PAIR, OTHER = ("pythia-32x2", "opt-32x2"), ("pythia-32x2", "gpt2-32x2")


def pytest_configure():
    torch.set_num_threads(1)
    # Tests run side by side: how long an example takes says more of the others than of what is tested.
    hypothesis.settings.register_profile("kit", deadline=None)
    hypothesis.settings.load_profile("kit")


def pytest_collection_finish():
    # All that was imported stays. The Trainer collects garbage after each run, and would go through it each time.
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()  # or extension modules would say at the end that it leaks


#: Files of which all tests go to one worker.
WHOLE = ("end_to_end/test_reproduce.py", "end_to_end/test_miniatures.py", "viewer/test_page.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """All tests go to the workers one by one, but for files that go whole, and first: they run whole profiles, which takes
    longest, or have a browser and a thousand neurons to start with."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file.endswith(WHOLE) else nodeid

    return Scheduling(config, log)


def texts() -> list[str]:
    return [inspect.getsource(module) for module in (bisect, heapq, string, textwrap)] + [MANY_SCRIPTS]


def as_documents(some: list[str]) -> list[Document]:
    return [Document(text, "tests", "code", f"text {i}") for i, text in enumerate(some)]


def sentencepiece_tokenizer(sample: list[str]):
    """▁ for a space, one before the text, and single bytes for characters outside the vocabulary (as Llama 2)."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=600, limit_alphabet=80, show_progress=False)
    bpe.train_from_iterator(sample, trainer)
    trained = json.loads(bpe.to_str())["model"]
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocabulary |= {piece: 256 + i for piece, i in trained["vocab"].items()}
    bpe.model = tokenizers.models.BPE(vocabulary, [tuple(pair) for pair in trained["merges"]], byte_fallback=True)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bpe)


def wordpiece_tokenizer(sample: list[str]):
    """Lower-cases and drops accents (as BERT), so its tokens cannot spell the text."""
    model = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    model.normalizer = normalizers.BertNormalizer(lowercase=True)
    model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    model.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    special = ["[UNK]", "[CLS]"]
    model.train_from_iterator(
        sample, trainers.WordPieceTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, unk_token="[UNK]", cls_token="[CLS]", name_or_path="bert-like"
    )


@pytest.fixture(scope="session")
def tokenizer_of():
    """Every kind of tokenizer by its name; each family's is trained on other texts, so that they cut differently."""
    sample = texts()
    made = {
        family: language.train_tokenizer(family, as_documents(sample[i:] + sample[: i - 1]))
        for i, family in enumerate(FAMILIES)
    }
    made["prefix space"] = byte_level_tokenizer(sample[1:], 500, add_prefix_space=True)
    made["bytes only"] = byte_level_tokenizer([], 256)
    made["sentencepiece"] = sentencepiece_tokenizer(sample)
    made["wordpiece"] = wordpiece_tokenizer(sample)
    return made


@pytest.fixture(scope="session")
def documents():
    return as_documents([*(text[:1500] for text in texts()), "", "x", " \n", "👍🏽"])


@pytest.fixture(scope="session")
def reader_of(tokenizer_of):
    """An untrained model of each family with its tokenizer."""
    return {family: Reader(family, untrained(family), tokenizer_of[family]) for family in FAMILIES}


@pytest.fixture(scope="session")
def pieces(tokenizer_of, documents):
    some = as_documents([document.text[:400] for document in documents[:4]]) + documents[4:]
    return list(segments(some, tokenizer_of["opt"], tokenizer_of["qwen"], context=64, per_document=2))


def untrained(family: str, seed: int = 0) -> torch.nn.Module:
    model = language.untrained(f"{family}-32x2", seed).eval().requires_grad_(False)
    noise = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases begin at zero and norms at one; a test would not miss them
            parameter += 0.3 * torch.randn(parameter.shape, generator=noise)
    return model


# ---------------------------------------------------------------------------------------------------------------------
# A tiny profile


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> Path:
    """The library's own source as a corpus of JSON lines."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    pieces = [
        piece
        for file in sorted((ROOT / "lib" / "rosetta").rglob("*.py"))
        for piece in sources.split_at_lines(file.read_text(encoding="utf-8"), 1_500)
    ]
    path.write_text("".join(json.dumps({"text": piece}) + "\n" for piece in pieces[:60]), encoding="utf-8")
    return path


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Puts a configuration into an otherwise empty cache of the model hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def put(name: str, config: dict) -> None:
        folder = tmp_path / "configured" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        cached_on_the_hub(tmp_path, name, folder)

    return put


@pytest.fixture
def profile(tmp_path, library):
    """Writes a tiny profile, and whatever is changed of it; gives its path."""
    return functools.partial(write_profile, tmp_path, library)


def write_profile(folder: Path, text: Path, name="tiny", **changes) -> Path:
    """The smoke profile with two pairs and 2,000 tokens of one file."""
    content = yaml.safe_load((ROOT / "profiles" / "smoke.yaml").read_text(encoding="utf-8"))
    content |= {
        "models": {name: content["models"][name] for name in ("pythia-32x2", "opt-32x2", "gpt2-32x2")},
        "corpus": {"kind": "files", "paths": [str(text)]},
        "tokens": 2_000,
        "curves": {"pythia-opt": [list(PAIR)], "pythia-gpt2": [list(OTHER)]},
        "positions": content["positions"] | {"pair": list(PAIR), "outliers": {"first": 1, "size": 5, "curves": False}},
        "token_sweep": {"pair": list(PAIR), "tokens": [300, 900, 2_000]},
        "properties": content["properties"] | {"rosetta": {"pythia": "pythia-opt"}, "firing": ["pythia"]},
        "explorer": content["explorer"] | {"point": list(PAIR)},
        "examples": content["examples"] | {"points": [list(PAIR)]},
        "filtering": content["filtering"] | {"pair": list(PAIR), "scorer": PAIR[0]},
        "images": None,
        "judging": None,
        "device": "cpu",
    }
    content |= changes
    files = [Path(str(file)) for file in content["corpus"].get("paths", [])]
    if files and ".jsonl" not in files[0].suffixes:  # offline labels name the corpus's subsets, which are its files
        content["filtering"] = content["filtering"] | {"labelled": files[0].stem}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def matched_in_shards(job, folder: Path, of: int) -> tuple:
    """The MatchTables of a `shards.Job`, by what the rules of workflow/shards.smk do one after the other."""
    after = []
    for name in ("screen", "verify"):
        shares = [folder / f"{name}.{i}-of-{of}" for i in range(1, of + 1)]
        for i, path in enumerate(shares, 1):
            job.share(i, of, after, path)
        if not after:
            job.join(shares, after, folder / "screened")
            after = [folder / "screened"]
    return job.match(shares, after)


def mutual(corr: np.ndarray) -> set[tuple[int, int]]:
    corr = np.where(np.isnan(corr), -np.inf, corr)
    return {
        (u, v) for u, v in enumerate(corr.argmax(axis=1).tolist()) if corr[:, v].argmax() == u and corr[u, v] > -np.inf
    }


def edited(folder: Path, name: str, edit) -> Path:
    """A copy of a model of the zoo whose tensors `edit` changed, in place."""
    shutil.copytree(ROOT / "zoo" / name, folder)
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


# ---------------------------------------------------------------------------------------------------------------------
# The batch


#: The engine's options in `make reproduce`.
BATCH = re.search(r"^BATCH\s*:= (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1].split()


def snakemake(results: Path, *arguments: str, profile="smoke", python=sys.executable, cwd=ROOT, offline=False):
    """Start the batch, as `make reproduce` does, in a process group of its own; of a copy of the kit, with its library.

    Offline it reaches this machine alone (`tests/offline`).
    """
    config = ["--config", f"profile={profile}", f"results={results}"]
    environment = os.environ | {"PYTHONPATH": str(cwd / "lib")}
    if offline:
        environment["PYTHONPATH"] += f"{os.pathsep}{ROOT / 'tests' / 'offline'}"
        environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return subprocess.Popen(
        [python, "-m", "snakemake", *arguments, "--cores", "2", *config, *BATCH],
        cwd=cwd,
        env=environment,
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


# ---------------------------------------------------------------------------------------------------------------------
# A browser


#: The last of them leaves it no network, so that what a page asks of others fails at once.
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--no-first-run", "--disable-quic", "--host-resolver-rules=MAP * ~NOTFOUND"]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    """Chromium, one for all tests of a file."""
    from playwright.sync_api import sync_playwright  # most tests have no use for it

    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    executable = next(filter(None, found), None)
    if executable is None:
        pytest.skip("no Chromium here; install chromium (apt-get install chromium) or Google Chrome to run this test")
    with sync_playwright() as p:
        started = p.chromium.launch(executable_path=executable, args=CHROMIUM)
        yield started
        started.close()


@pytest.fixture
def open_page(browser):
    """Open a file in a page of its own. Whatever a test does there: no request but the file, no error, no script."""
    opened = []

    def open_(path: Path, address: str = "", **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        page = context.new_page()
        page.set_default_timeout(5000)
        requests, errors = [], []
        page.on("request", lambda request: requests.append(request.url.partition("#")[0]))
        page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else 0)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(path.as_uri() + address)
        opened.append((page, path, requests, errors))
        return page

    yield open_
    for page, path, requests, errors in opened:
        assert {url for url in requests if not url.startswith("data:")} == {path.as_uri()}
        assert errors == []
        assert page.evaluate("() => window.pwned === undefined")
        page.context.close()


@pytest.fixture
def endpoint(monkeypatch):
    """A chat endpoint that the environment names."""
    with serving() as (server, named):
        for name, value in named.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("ROSETTA_JUDGE_MODEL", raising=False)
        yield server
