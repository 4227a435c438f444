"""Profiles: every number of a run, in one YAML file, checked when it is read.

A curve is a list of points, a point a list of model names, as in Table 2. A point of two models is matched; a point of
more is collapsed over the one model that its pairs share, its pairs being those of its models that are matched
somewhere in the profile.
"""

from itertools import combinations
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rosetta.models.load import ROOT, ModelSpec


class ProfileError(ValueError):
    """Something in a profile is wrong; the message names the file, the key and what is allowed."""


class Nulls(NamedTuple):
    """Seeds of the two nulls (three each in the paper) and the quantile that calibrates the counts."""

    untrained_seeds: tuple[int, ...]
    permutation_seeds: tuple[int, ...]
    quantile: float


class TokenSweep(NamedTuple):
    """Figure 33: one pair, matched over growing numbers of tokens."""

    pair: tuple[str, str]
    tokens: tuple[int, ...]


class TheoryGrid(NamedTuple):
    """A grid of simulations: exponents beta, sizes N = 2^e, and runs of each."""

    betas: tuple[float, ...]
    size_exponents: tuple[int, ...]
    runs: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """The neuron budgets N, the smallest first."""
        return tuple(2**e for e in sorted(self.size_exponents))


class Theory(NamedTuple):
    """The simulations of Figure 27, and those with one number varied at a time, on a smaller grid (D.7)."""

    grid: TheoryGrid
    seed: int
    inputs: int
    kappa: float
    gamma: float
    tau: float
    varied: TheoryGrid
    robustness: dict[str, tuple]
    sensitivity: dict[str, tuple]


class Contexts(NamedTuple):
    """Top-activating contexts (E.2): tokens of the stream that is searched, and contexts a neuron."""

    tokens: int
    n: int


class Baseline(NamedTuple):
    """The control of E.2: neurons of each random sample, and the samples' seeds."""

    neurons: int
    seeds: tuple[int, ...]


class Properties(NamedTuple):
    """Sections 5.1 and 5.2: the curve whose matches define each family's Rosetta Neurons, and what is measured of them."""

    rosetta: dict[str, str]
    kurtosis_above: tuple[float, ...]
    bootstrap: int
    firing: tuple[str, ...]
    baseline: Baseline
    depth_bins: int


class Labels(NamedTuple):
    """Who labels neurons (A): ``offline``, or ``chat``, an endpoint named by the environment; and the latter's limits."""

    kind: str
    concurrency: int
    timeout_seconds: float
    retries: int


class Explorer(NamedTuple):
    """The page of neurons: those of the anchor of a point, matched in any of its pairs, at most so many."""

    point: tuple[str, ...]
    neurons: int
    contexts: int
    characters: int
    promoted: int


class Training(NamedTuple):
    """Continued pretraining (Appendix F), the same for every filter; in the paper 1024 tokens and 32 sequences.

    ``sequence_length`` is in tokens, ``effective_batch`` in sequences per optimizer step and ``micro_batch`` in
    sequences per forward pass; accumulated gradients make up the difference.

    The paper gives no ``alpha`` and no ``weight_decay``. LoRA's update is scaled by alpha / rank: 8 here, as for GPT-2
    in Hu et al. (2022) and by `peft`'s default alpha. No weight decay is Trainer's default, and so are the other
    numbers not named here: gradients clipped at norm 1, AdamW's betas (0.9, 0.999).
    """

    sequence_length: int
    effective_batch: int
    micro_batch: int
    peak_learning_rate: float = 1e-3
    warmup_share: float = 0.03
    rank: int = 1
    alpha: float = 8
    weight_decay: float = 0.0


class Filtering(NamedTuple):
    """The experiment of Table 1: pool, target, the model whose neurons filter, the one that learns, and the budgets.

    With ``share`` and ``tokens`` null the pool is taken as it is, as CodeSearchNet is in the paper.
    """

    pool: dict[str, Any]
    target: str
    labelled: str
    share: float | None
    tokens: int | None
    test_tokens: int | None
    scorer: str
    pair: tuple[str, str]
    learner: str
    least_share: float
    normalize: str
    average: tuple[int, ...]
    seeds: tuple[int, ...]
    training: Training


class Profile(NamedTuple):
    """A checked profile."""

    name: str
    path: str
    models: dict[str, ModelSpec]
    corpus: dict[str, Any]
    curves: dict[str, tuple[tuple[str, ...], ...]]
    tokens: int
    context: int
    excerpt_characters: int | None
    segments_per_document: int | None
    seed: int
    k: tuple[int, ...]
    k_curve: str
    nulls: Nulls
    token_sweep: TokenSweep
    theory: Theory
    contexts: Contexts
    properties: Properties
    labels: Labels
    explorer: Explorer
    filtering: Filtering
    sequences_per_batch: int
    memory_gb: float
    dtype: str
    device: str

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All pairs to match, in the order of the curves."""
        return list(dict.fromkeys(p for points in self.curves.values() for p in points if len(p) == 2))

    @property
    def example(self) -> tuple[str, str]:
        """The pair that stands for all where one is shown: the token sweep's, as in Figure 33."""
        return self.token_sweep.pair

    def family_points(self, family: str) -> list[tuple[str, tuple[str, ...]]]:
        """(model, pair) along the curve that defines a family's Rosetta Neurons: what Figures 6, 7 and 28 to 31 go by."""
        pairs = self.curves[self.properties.rosetta[family]]
        return [(name, pair) for pair in pairs for name in pair if self.models[name].family == family]

    def point(self, name: str) -> tuple[str, ...]:
        """A point by the names of its models, joined by ``+``; the example pair for an empty name."""
        if not name:
            return self.example
        point = tuple(part.strip() for part in name.split("+"))
        known = [p for points in self.curves.values() for p in points]
        if point not in known:
            raise ProfileError(
                f"profile {self.name} has no point {name!r}; it has {', '.join('+'.join(p) for p in known)}"
            )
        return point

    def pairs_of(self, point: tuple[str, ...]) -> list[tuple[str, str]]:
        """The matched pairs that a point rests on: itself, or those among its models."""
        return [point] if len(point) == 2 else [pair for pair in self.pairs if set(pair) <= set(point)]

    def anchor(self, point: tuple[str, ...]) -> str:
        """The model that all the pairs of a point share; of a plain pair, its first."""
        shared = set.intersection(*map(set, self.pairs_of(point)))
        return next(name for name in point if name in shared)

    def neurons(self, point: tuple[str, ...]) -> float:
        """Mean total neuron count of a point's models: the x of Figure 3."""
        return sum(self.models[name].neurons for name in point) / len(point)


# What a profile may hold: key -> (type, what is allowed in words, check).
_POSITIVE = (int, "a whole number of at least 1", lambda value: value >= 1)
_SEEDS = (list, "a list of whole numbers, at least one", lambda value: value and all(type(v) is int for v in value))
_COUNTS = (
    list,
    "a list of whole numbers of at least 1",
    lambda value: value and all(type(v) is int and v >= 1 for v in value),
)
_TEXT = (str, "text", bool)
_MAPPING = (dict, "a mapping", bool)

_SCHEMA = {
    "models": (dict, "a mapping of model names to their descriptions", bool),
    "corpus": (dict, "a mapping with the key 'kind'", lambda value: "kind" in value),
    "curves": (dict, "a mapping of curve names to lists of points", bool),
    "tokens": _POSITIVE,
    "context": (int, "a whole number of at least 8", lambda value: value >= 8),
    "excerpt_characters": (int | None, "null, or a whole number of at least 1", lambda v: v is None or v >= 1),
    "segments_per_document": (int | None, "null, or a whole number of at least 1", lambda v: v is None or v >= 1),
    "seed": (int, "a whole number", lambda value: True),
    "k": _COUNTS,
    "k_curve": _TEXT,
    "sequences_per_batch": _POSITIVE,
    "memory_gb": (float | int, "a number above 0", lambda value: value > 0),
    "dtype": (str, "float32 or bfloat16", lambda value: value in ("float32", "bfloat16")),
    "device": (str, "auto, cpu, cuda or cuda:N", lambda value: value == "auto" or value.partition(":")[0] in ("cpu", "cuda", "mps")),
}  # fmt: skip
_MODEL_SCHEMA = {
    "source": _TEXT, "family": _TEXT, "layers": _POSITIVE, "mlp_width": _POSITIVE,
    "revision": (str | None, "text or null", lambda value: True), "remote_code": (bool, "true or false", lambda value: True),
}  # fmt: skip
_NUMBER = (float | int, "a finite number above 0", lambda value: 0 < value < inf)


def _numbers(words: str, allowed) -> tuple:
    return (
        list,
        f"a list of {words}",
        lambda value: value and all(type(v) in (int, float) and allowed(v) for v in value),
    )


_NUMBERS = _numbers("finite numbers above 0", lambda v: 0 < v < inf)
_GRID_SCHEMA = {
    "betas": _numbers("finite numbers above 1", lambda v: 1 < v < inf),
    "size_exponents": (
        list,
        "a list of whole numbers from 0 to 20: N = 2^e",
        lambda value: value and all(type(v) is int and 0 <= v <= 20 for v in value),
    ),
    "runs": _POSITIVE,
}
_ROBUSTNESS_SCHEMA = {
    "kappa": _NUMBERS,
    "gamma": _NUMBERS,
    "n_inputs": _numbers("whole numbers of at least 2", lambda v: type(v) is int and v >= 2),
}
_SENSITIVITY_SCHEMA = {
    "background_size": _COUNTS,
    "interference_norm": _numbers("finite numbers of at least 0", lambda v: 0 <= v < inf),
    "noise_floor": _NUMBERS,
    "background": (
        list,
        "a list of 'all' and 'unassigned'",
        lambda value: value and all(v in ("all", "unassigned") for v in value),
    ),
}
_NAMES = (list, "a list of names", lambda value: value and all(isinstance(v, str) for v in value))
#: Sections that are checked key by key: name -> (class, schema); a section may hold another one.
_SECTIONS = {
    "nulls": (Nulls, {
        "untrained_seeds": _SEEDS,
        "permutation_seeds": _SEEDS,
        "quantile": (float, "a number between 0 and 1", lambda value: 0 < value < 1),
    }),
    "token_sweep": (TokenSweep, {
        "pair": (list, "two model names", lambda value: len(value) == 2),
        "tokens": _COUNTS,
    }),
    "theory": (Theory, {
        "grid": (TheoryGrid, _GRID_SCHEMA),
        "seed": (int, "a whole number of at least 0", lambda value: value >= 0),
        "inputs": (int, "a whole number of at least 2", lambda value: value >= 2),
        "kappa": _NUMBER,
        "gamma": _NUMBER,
        "tau": _NUMBER,
        "varied": (TheoryGrid, _GRID_SCHEMA),
        "robustness": (dict, _ROBUSTNESS_SCHEMA),
        "sensitivity": (dict, _SENSITIVITY_SCHEMA),
    }),
    "contexts": (Contexts, {"tokens": _POSITIVE, "n": _POSITIVE}),
    "properties": (Properties, {
        "rosetta": (dict, "a mapping of families to curves", bool),
        "kurtosis_above": _numbers("finite numbers", lambda v: abs(v) < inf),
        "bootstrap": _POSITIVE,
        "firing": _NAMES,
        "baseline": (Baseline, {"neurons": _POSITIVE, "seeds": _SEEDS}),
        "depth_bins": _POSITIVE,
    }),
    "labels": (Labels, {
        "kind": (str, "offline or chat", lambda value: value in ("offline", "chat")),
        "concurrency": _POSITIVE,
        "timeout_seconds": _NUMBER,
        "retries": (int, "a whole number of at least 0", lambda value: value >= 0),
    }),
    "explorer": (Explorer, {
        "point": _NAMES, "neurons": _POSITIVE, "contexts": _POSITIVE, "characters": _POSITIVE, "promoted": _POSITIVE,
    }),
    "filtering": (Filtering, {
        "pool": (dict, "a mapping with the key 'kind'", lambda value: "kind" in value),
        "target": _TEXT,
        "labelled": _TEXT,
        "share": (float | None, "null, or a number between 0 and 1", lambda value: value is None or 0 < value < 1),
        "tokens": (int | None, "null, or a whole number of at least 1", lambda v: v is None or v >= 1),
        "test_tokens": (int | None, "null, or a whole number of at least 1", lambda v: v is None or v >= 1),
        "scorer": _TEXT,
        "pair": (list, "two model names", lambda value: len(value) == 2),
        "learner": _TEXT,
        "least_share": (float | int, "a number from 0 to 1", lambda value: 0 <= value <= 1),
        "normalize": (str, "tokens, peak or zscore", lambda value: value in ("tokens", "peak", "zscore")),
        "average": _COUNTS,
        "seeds": _SEEDS,
        "training": (Training, {
            "sequence_length": (int, "a whole number of at least 2", lambda value: value >= 2),
            "effective_batch": _POSITIVE,
            "micro_batch": _POSITIVE,
            "peak_learning_rate": _NUMBER,
            "warmup_share": (float, "a number from 0 to below 1", lambda value: 0 <= value < 1),
            "rank": _POSITIVE,
            "alpha": _NUMBER,
            "weight_decay": (float | int, "a number of at least 0", lambda value: 0 <= value < inf),
        }),
    }),
}  # fmt: skip
_POOL_SCHEMAS = {
    "environment": {},
    "codesearchnet": {
        "source": _TEXT, "languages": _NAMES, "revision": (str | None, "text or null", lambda value: True),
    },
}  # fmt: skip
_CORPUS_SCHEMAS = {
    "environment": {"split": (str, "heldout or train", lambda value: value in ("heldout", "train"))},
    "files": {"paths": (list, "a list of files", bool), "category": _TEXT},
    "hub": {
        "dataset": _TEXT, "split": _TEXT, "text": _TEXT, "subset": _TEXT,
        "data_files": (str | list | None, "a file, a list of files or null", lambda value: True),
        "revision": (str | None, "text or null", lambda value: True),
        "shuffle_buffer": (int, "a whole number of at least 1", lambda value: value >= 1),
    },
}  # fmt: skip
_OPTIONAL = {"revision", "remote_code", "data_files", "shuffle_buffer", "split", "category"}


def load(name: str | Path) -> Profile:
    """Read and check a profile: a name (``"micro"``) or the path of a YAML file.

    Raises
    ------
    ProfileError
        On a missing or unknown key, a value that is not allowed, or a model that is not described.
    """
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else ROOT / "profiles" / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in (ROOT / "profiles").glob("*.yaml")))
        raise ProfileError(
            f"there is no profile {str(name)!r} ({path}); there are {there}, or give the path of a .yaml file"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: not readable as YAML: {error}") from error
    return check(content, path)


def check(content: Any, path: str | Path) -> Profile:
    """The `Profile` that a file's content describes; ProfileError if something in it is wrong."""
    _check_keys(content, _SCHEMA | dict.fromkeys(_SECTIONS, _MAPPING), path, "")
    models = {}
    for model, description in content["models"].items():
        _check_keys(description, _MODEL_SCHEMA, path, f"models.{model}")
        models[model] = ModelSpec(model, **description)
    sections = {name: _section(content[name], *_SECTIONS[name], path, name) for name in _SECTIONS}
    _check_corpus(content["corpus"], path)
    curves = {curve: _points(points, models, path, curve) for curve, points in content["curves"].items()}
    _check_models(content["token_sweep"]["pair"], models, path, "token_sweep.pair")
    if content["k_curve"] not in curves:
        raise ProfileError(f"{path}: k_curve is {content['k_curve']!r}; allowed are the curves {', '.join(curves)}")
    profile = Profile(
        **content
        | sections
        | {
            "name": Path(path).stem,
            "path": str(path),
            "models": models,
            "curves": curves,
            "k": tuple(sorted({1, *content["k"]})),  # mutual top-1 is what the paper counts
        }
    )
    _check_sections(profile, path)
    for curve, points in curves.items():
        for point in points:
            _check_collapse(profile, point, path, curve)
    return profile


def _check_keys(content: Any, schema: dict, path, where: str) -> None:
    """Every key there and known, every value of its type and within what is allowed."""
    dot = f"{where}." if where else ""
    if not isinstance(content, dict):
        raise ProfileError(f"{path}: {where or 'the file'} is {content!r}; it must be a mapping")
    if unknown := [key for key in content if key not in schema]:
        raise ProfileError(f"{path}: unknown key {dot}{unknown[0]}; allowed are {', '.join(schema)}")
    if missing := [key for key in schema if key not in content and key not in _OPTIONAL]:
        raise ProfileError(f"{path}: the key {dot}{missing[0]} is missing; it holds {schema[missing[0]][1]}")
    for key, value in content.items():
        kind, words, allowed = schema[key]
        right_type = isinstance(value, kind) and (isinstance(value, bool) is (kind is bool))
        if not right_type or not allowed(value):
            raise ProfileError(f"{path}: {dot}{key} is {value!r}; it must be {words}")


def _section(content: Any, cls, schema: dict, path, where: str):
    """The NamedTuple of one section; sections within it likewise, lists become tuples."""
    flat = {key: _MAPPING if len(entry) == 2 else entry for key, entry in schema.items()}
    _check_keys(content, flat, path, where)
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    for key, entry in schema.items():
        if len(entry) == 2:
            values[key] = _section(content[key], *entry, path, f"{where}.{key}")
    return cls(**values)


def _check_sections(profile: Profile, path) -> None:
    """What a section's values say about other parts of the profile."""
    families = {spec.family for spec in profile.models.values()}
    rosetta = profile.properties.rosetta
    for family, curve in rosetta.items():
        where = f"{path}: properties.rosetta names the {{}}; allowed are {{}}"
        if family not in families:
            raise ProfileError(where.format(f"family {family!r}", ", ".join(sorted(families))))
        pairs = [name for name, points in profile.curves.items() if all(len(point) == 2 for point in points)]
        if curve not in pairs:
            raise ProfileError(where.format(f"curve {curve!r}", f"the curves of pairs, {', '.join(pairs)}"))
        if not profile.family_points(family):
            raise ProfileError(f"{path}: properties.rosetta.{family} is {curve!r}, which has no model of that family")
    if unknown := [family for family in profile.properties.firing if family not in rosetta]:
        raise ProfileError(
            f"{path}: properties.firing names {unknown[0]!r}; allowed are the families of properties.rosetta, "
            f"{', '.join(rosetta)}"
        )
    filtering = profile.filtering
    _check_models([filtering.scorer, filtering.learner], profile.models, path, "filtering")
    if filtering.pair not in profile.pairs or filtering.scorer not in filtering.pair:
        raise ProfileError(
            f"{path}: filtering.pair is {list(filtering.pair)}; it must be a point of one of the curves, and hold the scorer, "
            f"{filtering.scorer!r}"
        )
    _check_kind(filtering.pool, _POOL_SCHEMAS, path, "filtering.pool")
    if (filtering.share is None) != (filtering.tokens is None):
        raise ProfileError(f"{path}: filtering.share and filtering.tokens are both null (the whole pool) or neither")
    known = [point for points in profile.curves.values() for point in points]
    if profile.explorer.point not in known:
        raise ProfileError(
            f"{path}: explorer.point is {list(profile.explorer.point)}; it must be a point of one of the curves"
        )


def _check_corpus(corpus: dict, path) -> None:
    _check_kind(corpus, _CORPUS_SCHEMAS, path, "corpus")
    if corpus["kind"] == "files":  # relative to the kit, like the models
        corpus["paths"] = [str(ROOT / file) for file in corpus["paths"]]
        if missing := [file for file in corpus["paths"] if not Path(file).is_file()]:
            raise ProfileError(f"{path}: corpus.paths names {missing[0]!r}, which is not a file")


def _check_kind(content: dict, schemas: dict, path, where: str) -> None:
    """What a mapping may hold depends on its ``kind``."""
    kind = content["kind"]
    if not isinstance(kind, str) or kind not in schemas:
        raise ProfileError(f"{path}: {where}.kind is {kind!r}; allowed are {', '.join(schemas)}")
    _check_keys({k: v for k, v in content.items() if k != "kind"}, schemas[kind], path, where)


def _points(points: Any, models: dict, path, curve: str) -> tuple[tuple[str, ...], ...]:
    where = f"curves.{curve}"
    if not isinstance(points, list) or not points:
        raise ProfileError(f"{path}: {where} is {points!r}; it must be a list of points")
    for point in points:
        if not isinstance(point, list) or len(point) < 2 or any(name in point[:i] for i, name in enumerate(point)):
            raise ProfileError(
                f"{path}: {where} has the point {point!r}; a point is a list of two or more different models"
            )
        _check_models(point, models, path, where)
    return tuple(map(tuple, points))


def _check_models(names: list, models: dict, path, where: str) -> None:
    if missing := [name for name in names if name not in list(models)]:
        raise ProfileError(
            f"{path}: {where} names the model {missing[0]!r}, which 'models' does not describe; it has {', '.join(models)}"
        )


def _check_collapse(profile: Profile, point: tuple[str, ...], path, curve: str) -> None:
    if len(point) == 2:
        return
    pairs = profile.pairs_of(point)
    if len(pairs) != len(point) - 1 or not set.intersection(*map(set, pairs)):
        possible = ", ".join("+".join(pair) for pair in combinations(point, 2))
        raise ProfileError(
            f"{path}: curves.{curve} has the point {list(point)}; {len(point) - 1} of its pairs ({possible}) must be points "
            f"of other curves and share one model, but {len(pairs)} are: {pairs}"
        )
