"""Bad input, one table: each case is refused with an error that names what is wrong, or left out and named in a warning."""

import copy
import json
import logging
import math
import sys

import numpy as np
import pytest
import torch
import yaml
from conftest import edited, mutual
from safetensors.torch import load_file

from rosetta import laws, matching, models, profiles, report, sources
from rosetta.matching.correlation import PearsonAccumulator
from rosetta.matching.mutual import match_batches, mutual_nearest
from rosetta.models import ROOT, ModelRefused, NoMlpFound

SMOKE = yaml.safe_load((ROOT / "profiles" / "smoke.yaml").read_text(encoding="utf-8"))
FLOATS, HUGE = (math.nan, math.inf, -math.inf), 10**400

# ---------------------------------------------------------------------------------------------------------------------
# Profiles

#: Dotted key of the smoke profile -> values that are refused there.
WHOLE = (0, -1, 1.5, "5", True, None, [3], {}, HUGE, *FLOATS)
VALUES = {
    **dict.fromkeys(("tokens", "sequences_per_batch", "shards", "contexts.tokens", "contexts.n", "properties.bootstrap"), WHOLE),
    "context": (7, 0, 100.0, "64", True, None, 10_000_000),
    "memory_gb": (0, -1, "1", True, None, HUGE, *FLOATS),
    "seed": (1.0, "1", True, None, 2**40, *FLOATS),
    "k": (0, [], [0], [1.5], ["1"], [True], 2, None, [math.nan]),
    "dtype": ("float16", "", None, 32, True, ["float32"]),
    "device": ("gpu", "cuda:banana", "cpu:foo", "cuda:", "spread", "", None, 0, True),
    "k_curve": ("nothing", "", None, 1, ["pythia-opt"]),
    "nulls.quantile": (0, 1, 1.5, "0.9", True, None, *FLOATS),
    "nulls.untrained_seeds": ([], [1, 1], [1.0], ["1"], [True], 1, None, [2**40]),
    "nulls.permutation_seeds": ([], [2, 2, 2], [None], "1"),
    "nulls.permuted_tokens": (0, -1, 1.5, "5", True, [3], HUGE, 10**6, *FLOATS),
    "token_sweep.pair": ([], ["opt-32x2"], ["opt-32x2", "opt-32x2"], ["opt-32x2", "gpt-5"], "opt-32x2", [1, 2], None),
    "positions.t": ([], 0, -1e-3, "1e-3", True, None, math.inf),
    "positions.outliers": ({}, [], None, {"first": 1, "size": 5}, {"first": None, "size": None, "curves": True}),
    "positions.outliers.first": (0, -1, 1.5, "1", True, [1], HUGE, *FLOATS),
    "positions.outliers.size": (0, 1, -5, "5", True, [5], HUGE, *FLOATS),
    "positions.outliers.curves": (1, 0, "yes", None, []),
    "positions.pair": ([], ["opt-32x2"], ["opt-32x2", "opt-32x2"], ["opt-32x2", "gpt-5"], ["opt-32x2", "qwen-48x3"], None),
    "positions.shown": ([], [0], 1e-3, ["all"], None),
    "positions.budgets": ([], [1], [1.5], "100", None),
    "positions.planted": ([], {}, {"shares": [0.1]}, {"shares": [1.5], "sizes": [10]}, {"shares": [0.1], "sizes": [0]}, None),
    "token_sweep.tokens": ([], [0], [1.5], "100", None, [HUGE]),
    "theory.grid.betas": ([], [1], [0.5], ["2"], 2, [math.nan], [math.inf], [HUGE]),
    "theory.grid.size_exponents": ([], [21], [-1], [2.0], 8),
    "theory.kappa": (0, -1, "1", True, HUGE, 1_000, *FLOATS),  # 1,000: more isolated features than neurons
    "theory.robustness.kappa": ([], [0], [1, 40], [HUGE]),
    "theory.gamma": (0, "4", HUGE, *FLOATS),
    "theory.sensitivity.background": ([], ["some"], "all", [1]),
    "properties.rosetta": ({}, {"bert": "pythia-opt"}, {"opt": "nothing"}, {"opt": 1}, [], {"o/p": "pythia-opt"}),
    "properties.firing": ([], ["bert"], "pythia", [1]),
    "labels.kind": ("human", "", None, 1, True),
    "labels.timeout_seconds": (0, -1, "5", True, None, *FLOATS),
    "explorer.point": ([], ["opt-32x2"], ["opt-32x2", "gpt2-32x2"], "opt-32x2+qwen-32x2", None),
    "examples.points": ([], [[]], [["opt-32x2"]], [["opt-32x2", "gpt2-32x2"]], ["opt-32x2"], [[1, 2]], "opt-32x2+qwen-32x2", [None], None),
    **dict.fromkeys(("examples.neurons", "examples.contexts"), WHOLE),
    "examples.seed": (-1, 1.0, "1", True, None, *FLOATS),
    "filtering.share": (0, 1, 1.5, "0.1", True, None),
    "filtering.pool": ({}, {"kind": "github"}, {"kind": ["environment"]}, {"kind": "codesearchnet"}, "environment", None),
    "filtering.normalize": ("rank", "", None, 1),
    "filtering.scorer": ("gpt-5", "qwen-32x2", None, 1, ""),
    "filtering.training.warmup_share": (1, -0.1, "0", True, None),
    "filtering.training.rank": (0, 1.5, "1", None),
    "corpus": ({}, {"kind": "s3"}, {"kind": None}, {"kind": "files"}, {"kind": "files", "paths": []},
               {"kind": "files", "paths": [1]}, {"kind": "files", "paths": [None]}, {"kind": "files", "paths": "a.txt"},
               {"kind": "files", "paths": ["nowhere.txt"]}, {"kind": "environment", "split": "test"}, [], None),
    "curves": ({}, {"pythia-opt": []}, {"pythia-opt": [["opt-32x2"]]}, {"pythia-opt": [["opt-32x2", "opt-32x2"]]},
               {"pythia-opt": [["opt-32x2", None]]}, {"a b": [["pythia-32x2", "opt-32x2"]]}, [], None,
               {"pythia-opt": [["pythia-32x2", "opt-32x2"]] * 2}),
    "models": ({}, None, [], {"opt-32x2": None}, {"opt-32x2": "zoo/opt-32x2"}),
    "images": ({}, [], 1, "scenes", None),
    **dict.fromkeys(("images.images_per_batch", "images.gallery.neurons", "images.gallery.images", "images.explorer.neurons", "images.explorer.images"), WHOLE),
    "images.count": (0, 1, 1.5, "5", True, None, [3], {}, *FLOATS),
    "images.seed": (-1, 1.0, "1", True, None, *FLOATS),
    "images.gallery.seed": (-1, 1.0, "1", True, None),
    "images.permuted": (0, -1, 1.5, "5", True, [3], HUGE, 10**6, *FLOATS),
    "images.grid": ("smaller", "", None, 8, True),
    "images.untrained": ("", "both", None, 1, True),
    "images.rank": ("median", "", None, 1, True),
    "images.real": ({}, {"kind": "imagenet"}, {"kind": None}, {"kind": "folder"}, {"kind": "folder", "path": 1}, {"kind": "folder", "path": ""},
                    {"kind": "scenes", "seed": -1}, {"kind": "scenes", "seed": 1.0}, {"kind": "scenes", "path": "x"}, "scenes", [], None),
    "images.real.seed": (-1, 1.0, "1", True, None, *FLOATS),
    "images.sweep": ({}, {"pair": ["onestep-32x2", "openclip-32x2"]}, [], None),
    "images.sweep.images": ([], [0], [1.5], ["1"], [True], 100, None, [HUGE]),
    **dict.fromkeys(("images.gallery", "images.explorer"), ({}, [], None)),
    "images.k_curve": ("nothing", "pythia-opt", "", None, 1, ["onestep-openclip"]),
    "judging": ({}, [], "oracle", 1),
    "judging.judge": ("human", "", None, 1, True, ["oracle"]),
    "judging.seen": ("all", "", None, 1, True),
    "judging.images": (*WHOLE, 1, 49),  # 48 there are
    **dict.fromkeys(("judging.trials", "judging.neurons", "judging.chat.concurrency"), WHOLE),
    "judging.fewer": ("yes", 1, None, []),
    "judging.seed": (-1, 1.0, "1", True, None, *FLOATS),
    "judging.curves": ({}, {"bert": "onestep-openclip"}, {"openclip": "nothing"}, {"openclip": "pythia-opt"}, {"openclip": "onestep-dinov2"},
                       {"openclip": "onestep-dinov2-openclip"}, {"pythia": "pythia-opt"}, {"openclip": 1}, [], None),
    "judging.by_images": ({}, [], None),
    "judging.by_images.images": ([], [0], [1, 6], [1.5], ["2"], [49], 6, None, [HUGE]),
    **dict.fromkeys(
        ("judging.by_images.pair", "judging.validation.pair"),
        ([], ["openclip-32x2"], ["onestep-32x2", "openclip-48x3"], ["pythia-32x2", "opt-32x2"], ["onestep-32x2", "gpt-5"], "onestep-32x2", None),
    ),
    "judging.validation.runs": (0, 1, 1.5, "2", True, None),
    "judging.validation.neurons": WHOLE,
    "judging.validation.each": (*WHOLE, 19),  # with the 6 shown more than half of 48
    "judging.oracle.alpha": (0, 1, -0.1, "0.05", True, None, *FLOATS),
    "judging.oracle.least_share": (0, 1.1, "0.5", True, None, *FLOATS),
    "judging.oracle.fires_above": (0, 1, "0.5", True, None, *FLOATS),
    "judging.embedding": ({}, [], "pixio-32x2", {"encoder": None}),
    "judging.embedding.encoder": ("nothing", "", "opt-32x2", "onestep-32x2", "openclip-32x2", "dinov2-48x3", None, 1),
    **dict.fromkeys(("judging.chat.prompt", "labels.prompt"), ("", 1, True, ["x"], "no/such/prompt.txt", "profiles")),
    "judging.chat.timeout_seconds": (0, -1, "5", True, None, *FLOATS),
    "judging.compared": ({}, [], "onestep-dinov3", {"beside": "onestep-dinov2"}),
    "judging.compared.beside": ("nothing", "pythia-opt", "onestep-dinov2-openclip", "", None, 1),
    "judging.compared.name": ("onestep-dinov2", "a b", "", None, 1),
    "judging.compared.pairs": ([], [["dinov3-32x2", "onestep-32x2"]], [["onestep-32x2", "onestep-48x3"]], [["onestep-32x2", "opt-32x2"]],
                               [["onestep-32x2"]], [["onestep-32x2", "gpt-5"]], [["onestep-32x2", "dinov3-32x2"]] * 2, "onestep-32x2", None),
    **dict.fromkeys(
        ("images.pair", "images.sweep.pair", "images.sweep.encoders"),
        ([], ["onestep-32x2"], ["onestep-32x2", "onestep-32x2"], ["onestep-32x2", "gpt-5"], ["onestep-32x2", "opt-32x2"], "onestep-32x2", [1, 2], None),
    ),
    "models.onestep-32x2.kind": ("", "clip", "Pmf", None, 1, True, ["pmf"]),
    **dict.fromkeys(("models.onestep-32x2.grid", "models.onestep-32x2.classes", "models.openclip-32x2.image_size"), WHOLE),
    "models.openclip-32x2.tag": ("", None, 1, ["openai"], True),
    "models.opt-32x2.source": ("", None, 1, ["zoo"]),
    "models.opt-32x2.family": ("", "o p", "../../fam", "<b>", None, 1),
    "models.opt-32x2.layers": (0, 2.0, "2", True, None),
    "models.opt-32x2.remote_code": ("yes", 1, None),
    "models.opt-32x2.device": ("gpu", "cuda:banana", "spread:1", "", None, 0, ["cpu"]),
}  # fmt: skip
#: Names that are no names: in a path, in a shell, in a figure or in HTML.
NAMES = (
    "x$(touch PWNED_BY_PROFILE)", "/../../../../x", "../x", "a/b", "a b", "x'y", 'x"y', "{threads}", "a+b", r"$\frac$",
    "$HOME", "x" * 300, "..", "a..b", "-x", ".x", "", "<img src=x onerror=alert(1)>", "a\nb", "a;b", "a|b", "a&b",
)  # fmt: skip
TEXTS = {
    "empty": b"", "binary": bytes(range(256)), "no UTF-8": b"tokens: \xff", "half a list": b"tokens: [1, 2",
    "tabs": b"models:\n\tx: 1", "a NUL": b"tokens: \x00", "a list": b"- 1\n- 2", "a python tag": b"!!python/object/apply:os.system [x]",
    "a duplicate key": b"tokens: 1\ntokens: 2", "an anchor of itself": b"&a [*a]", "a text": b"hello", "a date": b"2026-99-99",
}  # fmt: skip


def with_value(dotted: str, value) -> dict:
    content = copy.deepcopy(SMOKE)
    *keys, last = dotted.split(".")
    inner = content
    for key in keys:
        inner = inner[key]
    inner[last] = value
    return content


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in VALUES.items() for value in values])
def test_a_value_that_is_not_allowed(key, value):
    with pytest.raises(profiles.ProfileError) as error:
        profiles.check(with_value(key, value), "mine.yaml")
    message = str(error.value)
    assert message.startswith("mine.yaml: ") and key.split(".")[0] in message and len(message) < 3_000


@pytest.mark.parametrize("part", ["models", "curves"])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_not_safe(part, name):
    content = copy.deepcopy(SMOKE)
    content[part][name] = next(iter(content[part].values()))
    with pytest.raises(profiles.ProfileError, match="a name is of letters, digits") as error:
        profiles.check(content, "mine.yaml")
    assert repr(name) in str(error.value)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_file_that_is_no_profile(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text)
    with pytest.raises(profiles.ProfileError) as error:
        profiles.load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["nonsense", "", "x" * 5_000, "profiles", "no/such/file.yaml", "."])
def test_a_profile_that_is_not_there(name):
    with pytest.raises(profiles.ProfileError, match=r"there is no profile .*micro"):
        profiles.load(name)


@pytest.mark.parametrize(
    "key",
    [
        *SMOKE,
        "nulls.quantile",
        "theory.grid",
        "filtering.training",
        "models.opt-32x2.layers",
        "models.onestep-32x2.grid",
        *(f"images.{key}" for key in SMOKE["images"]),
        "images.sweep.pair",
        "images.gallery.seed",
        "images.explorer.neurons",
    ],
)
@pytest.mark.parametrize("how", ["missing", "misspelt"])
def test_a_key_that_is_missing_or_misspelt(key, how):
    content = copy.deepcopy(SMOKE)
    *keys, last = key.split(".")
    inner = content
    for outer in keys:
        inner = inner[outer]
    value = inner.pop(last)
    if how == "misspelt":
        inner[f"{last}_"] = value
    with pytest.raises(profiles.ProfileError) as error:
        profiles.check(content, "mine.yaml")
    assert (f"{key}_" if how == "misspelt" else key) in str(error.value)


# ---------------------------------------------------------------------------------------------------------------------
# Models


def _tensors(edit):
    return lambda folder: edited(folder, "opt-32x2", edit)


def _files(edit):
    def make(folder):
        edit(edited(folder, "opt-32x2", lambda tensors: None))
        return folder

    return make


def _renamed(tensors):
    for key in list(tensors):
        tensors[f"wrapped.{key}"] = tensors.pop(key)


def _write(name, content):
    return _files(lambda folder: (folder / name).write_bytes(content))


def _pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


FC1 = "model.decoder.layers.1.fc1.weight"
MODELS = {
    "all weights under another name": (_tensors(_renamed), "missing .*left over"),
    "a weight that is missing": (_tensors(lambda t: t.pop(FC1)), rf"1 missing \({FC1}\)"),
    "a weight too many": (_tensors(lambda t: t.update(extra=np.ones(2, np.float16))), r"1 left over \(extra\)"),
    "a weight of another shape": (_tensors(lambda t: t.update({FC1: t[FC1][:5].copy()})), r"\(5, 32\) instead of \(128, 32\)"),
    "no bytes": (_write("model.safetensors", b""), "no whole safetensors file"),
    "a pointer": (_write("model.safetensors", b"version https://git-lfs\noid sha256:a\n"), "no whole safetensors file"),
    "cut short": (_files(lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9])),
                  "no whole safetensors file"),
    "a pickle": (_files(_pickled), "is a pickle.*save_pretrained"),
    "half a tokenizer": (_write("tokenizer.json", b'{"a": '), "tokenizer in .* cannot be read"),
    "another tokenizer": (_write("tokenizer.json", b"{}"), "tokenizer in .* cannot be read"),
    "no tokenizer": (_files(lambda f: [(f / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")]), "no tokenizer"),
}  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_is_broken(tmp_path, case):
    make, said = MODELS[case]
    spec = models.describe(make(tmp_path / "broken"))
    with pytest.raises(ModelRefused, match=f"model broken: .*{said}"):
        models.load(spec)
        models.load_tokenizer(spec)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b'{"a": ', "config.json"), (b"{}", "model_type"), (b'{"model_type": "t5"}', "T5Config"), (None, "model_type")],
)
def test_a_configuration_that_is_broken(tmp_path, content, said):
    folder = edited(tmp_path / "broken", "opt-32x2", lambda tensors: None)
    (folder / "config.json").write_bytes(content) if content is not None else (folder / "config.json").unlink()
    with pytest.raises((OSError, ValueError), match=said):
        models.describe(folder)


def test_layers_of_unequal_width_are_not_counted_by_the_first(monkeypatch):
    mlps = [models.Mlp("", "", None, neurons) for neurons in (256, 96, 96)]
    monkeypatch.setattr(sys.modules["rosetta.models.load"], "find_mlps", lambda model: mlps)
    with pytest.raises(ModelRefused, match=r"layers have \[256, 96, 96\] neurons"):
        models.describe("zoo/opt-32x2")


def test_a_folder_that_is_not_there():
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*make zoo"):
        models.describe("zoo/nothing")


def test_tokens_that_the_model_has_no_embedding_for(tmp_path):
    few = "model.decoder.embed_tokens.weight"
    folder = edited(tmp_path / "broken", "opt-32x2", lambda t: t.update({few: t[few][:100].copy()}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))
    with pytest.raises(ModelRefused, match="tokens up to number 1791, the model embeddings for 100"):
        matching.Reader.open(models.describe(folder))


def test_more_tokens_than_the_model_reads_at_a_time():
    reader = matching.Reader.open(models.describe("zoo/opt-32x2"))
    with pytest.raises(ValueError, match="opt-32x2 reads at most 128 tokens at a time, not 129"):
        reader.read([[5] * 128])


@pytest.mark.parametrize(
    "module", [torch.nn.Linear(3, 4), torch.nn.Sequential(), torch.nn.ModuleList([torch.nn.ReLU()] * 3)]
)
def test_a_module_without_mlps(module):
    with pytest.raises(NoMlpFound, match=type(module).__name__):
        models.find_mlps(module)


# ---------------------------------------------------------------------------------------------------------------------
# Text

LINES = {
    "no JSON": b"{", "a list": b"[1]", "a number": b"5", "no text": b'{"txt": "a"}', "null": b'{"text": null}', "a number as text": b'{"text": 5}',
    "a lone surrogate": b'{"text": "a\\ud800"}', "a category that is a list": b'{"text": "a", "category": ["x"]}',
    "a subset that is a number": b'{"text": "a", "subset": 7}', "a subset that is a list": b'{"text": "a", "subset": ["Github"]}',
    "no UTF-8": b'{"text": "\xff"}', "nested beyond reason": b"[" * 200_000, "a NUL": b"\x00",
}  # fmt: skip


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_line_that_is_no_document_is_named_and_left_out(tmp_path, caplog, line):
    path = tmp_path / "some.jsonl"
    path.write_bytes(b'{"text": "first"}\n' + line + b'\n{"text": "last"}\n')
    with caplog.at_level(logging.WARNING):
        assert [document.text for document in sources.from_files([path])] == ["first", "last"]
    assert "some.jsonl, line 2" in caplog.text


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x80"])
def test_a_text_file_that_is_no_text_is_named_and_left_out(tmp_path, caplog, content):
    (tmp_path / "some.txt").write_bytes(content)
    assert list(sources.from_files([tmp_path / "some.txt"])) == [] and "some.txt" in caplog.text


def test_a_document_of_megabytes_is_cut_and_that_is_said(tmp_path, caplog):
    (tmp_path / "long.txt").write_text("word " * 300_000)
    (document,) = sources.from_files([tmp_path / "long.txt"])
    assert len(document.text) == 1_000_000 and "1500000 characters" in caplog.text


# ---------------------------------------------------------------------------------------------------------------------
# Matching and laws

A, B = (
    torch.randn(9, 3, generator=torch.Generator().manual_seed(0)),
    torch.randn(9, 2, generator=torch.Generator().manual_seed(1)),
)
CALLS = {
    **{f"k = {k!r}": (lambda k=k: match_batches([(A, B)], k), "k is") for k in (0, -1, 1.5, "2", True, None, math.nan)},
    **{f"mutual k = {k!r}": (lambda k=k: mutual_nearest(torch.eye(3), k), "k is") for k in (0, 1.5, "2", True)},
    "corr of one dimension": (lambda: mutual_nearest(torch.ones(3)), r"shape \(3,\)"),
    "corr of numpy": (lambda: mutual_nearest(np.eye(3)), "ndarray"),
    "corr of complex numbers": (lambda: mutual_nearest(torch.eye(2) * 1j), "real"),
    "no batches": (lambda: match_batches([]), "no batches"),
    "no neurons": (lambda: match_batches([(A[:, :0], B)]), "without neurons"),
    "one position": (lambda: match_batches([(A[:1], B[:1])]), "at least 2 positions"),
    "unequal positions": (lambda: match_batches([(A, B[:5])]), "the same T"),
    "unequal neurons": (lambda: match_batches([(A, B), (A[:, :2], B)]), r"a is \(9, 2\).*expected \[T, 3\]"),
    "arrays of numpy": (lambda: PearsonAccumulator(3, 2).update(A.numpy(), B.numpy()), "ndarray.*real tensor"),
    "complex numbers": (lambda: match_batches([(A * 1j, B)]), "complex64.*real tensor"),
    "NaN": (lambda: match_batches([(A * math.nan, B)]), "NaN or infinity"),
    "infinity": (lambda: match_batches([(A, B / 0.0)]), "NaN or infinity"),
    "three names": (lambda: match_batches([(A, B)], names=("a", "b", "c")), "names is"),
    "a number as name": (lambda: match_batches([(A, B)], names=("a", 1)), "names is"),
    "negative layers": (lambda: match_batches([(A, B)], layers=([-2, 5], [2])), "layers is"),
    "an empty layer": (lambda: match_batches([(A, B)], layers=([3, 0], [2])), "layers is"),
    "layers of one model": (lambda: match_batches([(A, B)], layers=([3],)), "layers is"),
    "an unknown method": (lambda: match_batches([(A, B)], method="guess"), "method is 'guess'"),
    "a sketch's options for exact": (lambda: match_batches([(A, B)], rows=5), "'exact' has no option rows"),
    "a sketch without candidates": (lambda: match_batches([(A, B)], method="sketch", candidates=0), "candidates is 0"),
    "a sketch without rows": (lambda: match_batches([(A, B)], method="sketch", rows=0), "rows 0"),
    "a sketch that may not be wrong": (lambda: match_batches([(A, B)], method="sketch", errors=0), "errors is 0"),
    "a sketch beyond the memory": (lambda: match_batches([(A, B)], method="sketch", memory_bytes=9), "memory_bytes is 9"),
    "a sketch with NaN": (lambda: match_batches([(A * torch.nan, B)], method="sketch"), "NaN or infinity"),
    "a sketch of a generator": (lambda: match_batches(((A, B) for _ in "x"), method="sketch", layers=([3], [2])), "only once"),
    "a tile of a generator": (lambda: match_batches(((A, B) for _ in "x"), layers=([3], [2]), memory_bytes=16), "only once"),
    "no memory": (lambda: match_batches([(A, B)], memory_bytes=1), "memory budget of 1 bytes"),
    "a sketch with fewer candidates than neighbours": (
        lambda: match_batches([(A, B)], k=3, method="sketch", candidates=2), "candidates is 2",
    ),
    "an accumulator without neurons": (lambda: PearsonAccumulator(0, 2), "at least 1"),
    "a correlation of nothing": (lambda: PearsonAccumulator(3, 2).correlation(), "at least 2 positions"),
    "no null": (lambda: matching.threshold([]), "no null tables"),
    "a quantile beyond 1": (lambda: matching.threshold([match_batches([(A, B)])], 2), "quantile is 2"),
    "nothing to collapse": (lambda: matching.collapse([], "a"), "no tables"),
    "an anchor that is nowhere": (lambda: matching.collapse([match_batches([(A, B)])], "c"), "'c' is not in this table"),
    "spans of different texts": (lambda: matching.canonical_spans(np.array([[0, 3]]), np.array([[0, 4]])), "the same text"),
    "rows that are no tokens": (lambda: matching.pool(A, np.array([[0, 1]]), np.array([[0, 1]])), "9 rows .* 1 tokens"),
    "one size": (lambda: laws.fit_power_law([5, 5], [1, 2]), "two different sizes"),
    "a count of zero": (lambda: laws.fit_power_law([5, 6], [0, 2]), "logarithm"),
    "sizes that are not numbers": (lambda: laws.fit_power_law([5, math.nan], [1, 2]), "logarithm"),
    "unequal lengths": (lambda: laws.fit_power_law([5, 6], [1]), "two equal rows"),
    "too few points to predict": (lambda: laws.leave_largest_out([1, 2, 3], [1, 2, 3]), "at least 4"),
}  # fmt: skip


@pytest.mark.parametrize("case", CALLS)
def test_a_call_that_makes_no_sense(case):
    call, said = CALLS[case]
    with pytest.raises(ValueError, match=said):
        call()


def test_more_neighbours_than_there_are_neurons_take_no_memory():
    every = match_batches([(A, B)], k=1_000_000)
    assert len(every) == 6 and every.equals(match_batches([(A, B)], k=3))


def related(n_a: int = 40, n_b: int = 30, positions: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    """Two models' activations that have some features in common."""
    rng = torch.Generator().manual_seed(2)
    shared = torch.randn(positions, 9, generator=rng)
    return tuple(
        shared @ torch.randn(9, n, generator=rng) + torch.randn(positions, n, generator=rng) for n in (n_a, n_b)
    )


def oracle(a: torch.Tensor, b: torch.Tensor) -> set[tuple[int, int]]:
    return mutual(np.corrcoef(a.double(), b.double(), rowvar=False)[: a.shape[1], a.shape[1] :])


def test_more_candidates_than_there_are_neurons():
    a, b = related()
    table = match_batches([(a, b)], method="sketch", rows=64, candidates=1_000_000)
    assert set(zip(table.unit_a, table.unit_b, strict=True)) == oracle(a, b)


@pytest.mark.parametrize("method", ["exact", "sketch", "auto"])
def test_a_layer_that_is_all_dead_has_no_pairs_and_the_others_have_theirs(method):
    a, b = related()
    dead_a, dead_b = torch.full((len(a), 25), 7.0), torch.zeros(len(b), 10)
    batches = [(torch.cat([a, dead_a], dim=1), torch.cat([dead_b, b], dim=1))]
    table = match_batches(batches, method=method, layers=([40, 25], [10, 30]))
    assert set(table.layer_a) == {0} and set(table.layer_b) == {1}
    assert set(zip(table.unit_a, table.unit_b, strict=True)) == oracle(a, b)
    assert (table.attrs["dead_a"], table.attrs["dead_b"]) == (25, 10)
    nobody = match_batches([(dead_a, dead_b)], method=method)
    assert len(nobody) == 0 and (nobody.attrs["dead_a"], nobody.attrs["dead_b"]) == (25, 10)


@pytest.mark.parametrize("method", ["exact", "sketch", "auto"])
def test_duplicate_neurons_make_one_pair_that_of_the_originals(method):
    """Three of each neuron: of its equals, one has each pair that the original has without them."""
    a, b = related()
    table = match_batches([(torch.cat([a] * 3, dim=1), torch.cat([b] * 3, dim=1))], method=method)
    originals = list(zip(table.unit_a % 40, table.unit_b % 30, strict=True))
    assert set(originals) == oracle(a, b) and len(originals) == len(set(originals))


# ---------------------------------------------------------------------------------------------------------------------
# Commands


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "there is no profile 'nonsense'"),
        (["micro", "--results", "{tmp}"], "holds no finished run; `make reproduce PROFILE=micro`"),
    ],
)
def test_a_command_that_cannot_be_followed(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(sys, "argv", ["report", *(argument.format(tmp=tmp_path) for argument in arguments)])
    with pytest.raises(SystemExit) as ended:
        report.main()
    assert ended.value.code != 0 and said in capsys.readouterr().err.splitlines()[-1]
