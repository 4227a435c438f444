"""Miniatures of the profiles of published models: the same in all but the sources, which are tiny files, and the amounts.

Every model's source becomes a random one of its architecture, of sizes by `SIZES`; the corpus a file of the Pile's shape; images and
functions small folders in the layouts that the profiles name. Amounts become those of `AMOUNTS`. All else stays as the
profile says it: every curve, point and model, methods, judges, labels, precision, shards and devices.
"""

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import yaml
import zstandard
from language_models import write_language
from offline import small_eva
from PIL import Image
from safetensors.torch import load_file, save_file
from vision_models import write_clip, write_encoder, write_flux, write_pmf, write_sana

from rosetta.models.generators.flow import PUBLISHED
from rosetta.models.load import ROOT, ModelSpec, describe
from rosetta.models.vision import describe_vision
from rosetta.sources.document import PILE_CATEGORIES

# ---------------------------------------------------------------------------------------------------------------------
# The rule

#: Of a published model's size what is left: one part in so many, rounded.
SIZES = {"layers": 12, "mlp_width": 64, "hidden_size": 64, "grid": 4, "image_size": 8}
#: The miniature's amounts. Of a list the first and the last number: it keeps its length, its numbers grow evenly in logarithm.
#: Of seeds the first so many. What is null stays null: all that there is.
AMOUNTS = {
    "tokens": 4_000,
    "context": 64,
    "excerpt_characters": 80,
    "nulls.untrained_seeds": 1,
    "nulls.permutation_seeds": 1,
    "nulls.permuted_tokens": 1_000,
    "positions.budgets": (300, 2_000),
    "token_sweep.tokens": (100, 4_000),
    "images.count": 40,
    "images.permuted": 20,
    "images.sweep.images": (1, 40),
    "images.gallery.neurons": 2,
    "images.gallery.images": 2,
    "images.explorer.neurons": 8,
    "images.explorer.images": 2,
    "images.images_per_batch": 20,
    "judging.images": 6,
    "judging.trials": 2,
    "judging.neurons": 3,
    "judging.by_images.images": (2, 8),
    "judging.validation.runs": 2,
    "judging.validation.neurons": 3,
    "judging.validation.each": 3,
    "theory.grid.size_exponents": (3, 10),
    "theory.grid.runs": 1,
    "theory.inputs": 200,
    "theory.varied.size_exponents": (8, 9),
    "theory.varied.runs": 1,
    "theory.robustness.n_inputs": (100, 200),
    "contexts.tokens": 4_000,
    "contexts.n": 4,
    "properties.bootstrap": 20,
    "properties.baseline.neurons": 20,
    "properties.baseline.seeds": 1,
    "labels.contexts": 4,
    "labels.window": 60,
    "explorer.neurons": 8,
    "explorer.contexts": 2,
    "explorer.characters": 120,
    "filtering.tokens": 6_000,
    "filtering.test_tokens": 600,
    "filtering.seeds": 1,
    "filtering.training.sequence_length": 48,
    "filtering.training.effective_batch": 4,
    "sequences_per_batch": 64,
    "shards": 2,
}


def write(profile: str, folder: Path) -> Path:
    """Write the miniature of a profile and all that it reads to a folder; the profile's path, by the same name."""
    content = yaml.safe_load((ROOT / "profiles" / f"{profile}.yaml").read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in content["models"].items():
        model |= said(written(folder / "models" / name, name, model), model)
    corpus, pool, real = content["corpus"], content["filtering"]["pool"], content["images"]["real"]
    content["corpus"] = {"kind": "files", "paths": [str(write_corpus(folder / "val.jsonl.zst"))]} | {
        key: corpus[key] for key in ("text", "subset")
    }
    pool["source"] = str(write_pool(folder / "pool", pool["languages"]))
    real["path"] = str(write_images(folder / "imagenet", AMOUNTS["images.count"]))
    for key, amount in AMOUNTS.items():
        *sections, last = key.split(".")
        section = content
        for name in sections:
            section = section[name]
        if section.get(last) is not None:
            section[last] = reduced(section[last], amount)
    path = folder / f"{profile}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def reduced(value: Any, amount: Any) -> Any:
    """A value of a profile, made small by an amount of `AMOUNTS`."""
    if not isinstance(value, list):
        return amount
    if isinstance(amount, int):
        return value[:amount]
    numbers = []
    for number in np.geomspace(*amount, len(value)).round().astype(int).tolist():
        numbers.append(max(number, numbers[-1] + 1 if numbers else number))
    return numbers


# ---------------------------------------------------------------------------------------------------------------------
# Models


def parts(model: dict, key: str, of: int = 1, least: int = 1) -> int:
    """What is left of a size, a multiple of `of`."""
    return max(least, of * round(model[key] / SIZES[key] / of))


def written(folder: Path, name: str, model: dict) -> ModelSpec:
    """Write the small model that stands for a published one; what it is, as it is found there."""
    kind = model.get("kind", "language")
    layers, neurons = parts(model, "layers"), parts(model, "mlp_width")
    width = round(model.get("hidden_size", model["mlp_width"] // 4) / SIZES["hidden_size"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    if kind == "language":
        known = name if name == "opt-350m" else model["family"]
        write_language(folder, known, layers, neurons, 8 * round(width / 8 + 0.49), heads=1, context=128)
        plant(folder)
        return describe(folder)
    grid = parts(model, "grid")
    if kind == "pmf":
        small = {"image_size": 8 * grid, "patch_size": 8, "width": 4 * (width // 4), "heads": 1, "mlp_width": neurons,
                 "shared": layers - 1 or 1, "heads_of_u": 1, "bottleneck": 8, "classes": model["classes"]}  # fmt: skip
        flow = PUBLISHED[model["tag"]]._replace(**small)
        write_pmf(folder, flow)
    elif kind == "sana":
        write_sana(folder, layers, 2 * (width // 2), levels=(1_024 // grid).bit_length())
    elif kind == "flux":
        write_flux(folder, 1, layers - 1, width // 16, levels=(256 // grid).bit_length() - 1)
    elif kind == "open_clip":
        write_tower(folder, model, layers, width, neurons, grid)
    else:
        write_transformer(folder, name, layers, width, neurons, parts(model, "image_size"), grid)
    return describe_vision(str(folder), kind, model.get("tag"))


#: What tokens have in common, whatever the tokenizer (a byte-level one writes a space as Ġ): code's signs, digits, capitals, words.
KINDS = ("[][{}=;()<>&|!#$%^/\\\\_~@`]", "[0-9]", "[A-Z]", "^Ġ[a-z]")


def plant(folder: Path) -> None:
    """Make a language model hear above all which token it is at, and of what kind: something that two of them can share."""
    tensors, tokenizer = load_file(folder / "model.safetensors"), transformers.AutoTokenizer.from_pretrained(folder)
    (name,) = (key for key in tensors if key.endswith(("embed_in.weight", "wte.weight", "embed_tokens.weight")))
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    kinds = torch.tensor([[bool(re.search(kind, token)) for kind in KINDS] for token in tokens])
    tensors[name] *= 10
    tensors[name][: len(tokens), : len(KINDS)] += 30 * kinds
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def said(spec: ModelSpec, model: dict) -> dict:
    """What a profile says of a model, of the small one."""
    sizes = spec._asdict() | {"image_size": spec.image_size or 0}
    found = {key: sizes[key] for key in ("source", "layers", "mlp_width", "grid", "classes") if key in model}
    for key in ("hidden_size", "image_size"):
        if key in model:
            found[key] = parts(model, key)
    return found


def write_tower(folder: Path, model: dict, layers: int, width: int, neurons: int, grid: int) -> None:
    """An OpenCLIP with the activation of its tag's weights, or EVA's trunk (`small_eva`)."""
    if model["source"].startswith("EVA"):
        assert (layers, width, neurons, grid) == small_eva.SIZES
        trunk = {"timm_model_name": small_eva.NAME, "timm_pool": "token", "timm_proj": None,
                 "image_size": grid * small_eva.PATCH}  # fmt: skip
        write_clip(folder, trunk, custom_text=True)
        return
    tower = {"layers": layers, "width": width, "head_width": width, "patch_size": 8, "image_size": 8 * grid,
             "mlp_ratio": neurons / width}  # fmt: skip
    write_clip(folder, tower, quick_gelu=model["tag"] == "openai")


def write_transformer(folder: Path, name: str, layers: int, width: int, neurons: int, side: int, grid: int) -> None:
    """One of transformers' encoders; which of DINOv2's and DINOv3's are gated is known by their names."""
    family = name.partition("-")[0]
    gated = {"dinov2-g": "dinov2-giant", "dinov3-hplus": "dinov3-gated", "dinov3-7b": "dinov3-gated"}
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 1, "image_size": side,
             "patch_size": side // grid}  # fmt: skip
    square = {"height": side, "width": side}
    own = {"intermediate_size": neurons} if family == "dinov3" else {}
    write_encoder(folder, gated.get(name, family), sizes | own, size={"shortest_edge": side}, crop_size=square)


# ---------------------------------------------------------------------------------------------------------------------
# Text, functions and images

#: Words of each subset that the Pile's uncopyrighted part has.
WORDS = {
    "Pile-CC": "shop garden weekend recipe city travel price review family music",
    "PubMed Central": "patients protein cells dose expression tissue mice clinical samples gene",
    "ArXiv": "theorem lemma manifold let proof bounded operator we show equation",
    "Github": "return const function { } = ; ( ) [ ] < > & | ! # $ % ^ / \\ _ ~ @ `",
    "FreeLaw": "court plaintiff defendant appeal statute judgment filed motion evidence trial",
    "StackExchange": "question answer error code works try using problem solved thanks",
    "USPTO Backgrounds": "invention apparatus embodiment device method prior art claim surface housing",
    "PubMed Abstracts": "background methods results conclusions study trial mortality cohort risk age",
    "Gutenberg (PG-19)": "upon said lady gentleman heart replied morning evening carriage whom",
    "Wikipedia (en)": "born village district river population century league season album club",
    "DM Mathematics": "12 7 + 3 * 45 - 9 = ?",
    "Ubuntu IRC": "hi sudo apt install kernel lol thanks help reboot driver",
    "EuroParl": "Mr President Commission Member States Parliament report vote Union debate",
    "HackerNews": "startup founders comment article I think why not actually company",
    "PhilPapers": "moral argument belief knowledge epistemic reasons virtue claim Kant ontology",
    "NIH ExPorter": "aims research grant hypothesis proposed disease training mechanisms study project",
    "Enron Emails": "meeting please attached regards gas forwarded subject call schedule energy",
}  # fmt: skip
assert WORDS.keys() <= PILE_CATEGORIES.keys()


def write_corpus(path: Path, each: int = 24, seed: int = 0) -> Path:
    """Documents of every subset in a compressed file of JSON lines, a fifth of them code; some are shorter than a sequence."""
    rng, rows = random.Random(seed), []
    for number in range(each):
        for subset in [*WORDS, *["Github"] * 3]:
            words, length = WORDS[subset], 20 if number % 6 == 0 else 160
            text = " ".join(rng.choices(words.split(), k=length))
            if subset == "Github":
                text = text.replace(" ; ", ";\n").replace(" { ", " {\n\t")
            rows.append(json.dumps({"text": text, "meta": {"pile_set_name": subset}}))
    path.write_bytes(zstandard.compress("".join(f"{row}\n" for row in rows).encode()))
    return path


#: A function of each of CodeSearchNet's languages: names and numbers are filled in.
FUNCTIONS = {
    "go": "func {0}({1} int) int {{\n\t{2} := {1} * {3}\n\treturn {2}\n}}\n",
    "java": "public int {0}(int {1}) {{\n    int {2} = {1} * {3};\n    return {2};\n}}\n",
    "javascript": "function {0}({1}) {{\n  const {2} = {1} * {3};\n  return {2};\n}}\n",
    "php": "function {0}(${1}) {{\n    ${2} = ${1} * {3};\n    return ${2};\n}}\n",
    "python": "def {0}({1}):\n    {2} = {1} * {3}\n    return {2}\n",
    "ruby": "def {0}({1})\n  {2} = {1} * {3}\n  {2}\nend\n",
}


def write_pool(folder: Path, languages: list[str], each: int = 40, seed: int = 0) -> Path:
    """Functions in the layout of CodeSearchNet's archives."""
    rng, names = random.Random(seed), WORDS["Pile-CC"].split()
    for language in languages:
        for split in ("train", "test"):
            codes = [FUNCTIONS[language].format(*rng.sample(names, 3), rng.randrange(1_000)) for _ in range(each)]
            path = folder / language / "final" / "jsonl" / split / f"{language}_{split}_0.jsonl.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress("".join(json.dumps({"code": c, "url": ""}) + "\n" for c in codes).encode()))
    return folder


def write_images(folder: Path, count: int, side: int = 40, seed: int = 0) -> Path:
    """Blobs of colour, a folder for each of five classes."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        path = folder / f"n{number % 5:08d}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(path)
    return folder
