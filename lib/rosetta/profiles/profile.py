"""A whole profile: what its sections say of each other, its curves, points and pairs.

A curve is a list of points, a point a list of model names, as in Table 2. A point of two models is matched; a point of
more is collapsed over its anchor and rests on the anchor's pairs with each of its other models, which are points
somewhere in the profile. A point that states its anchor is a mapping,
``{anchor: pythia-32x2, models: [opt-32x2, pythia-32x2, gpt2-32x2]}``; the anchor of a plain list is the one model that
all its matched pairs share.
"""

import json
from collections.abc import Iterable
from itertools import combinations
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError, model_validator

from rosetta.models.hub import COMMIT
from rosetta.models.load import ROOT, SPREAD, ModelSpec, configuration
from rosetta.profiles.judging import check_judging
from rosetta.profiles.sections import Point, Settings, Theory
from rosetta.profiles.values import WHERE, among, refuse, refused
from rosetta.sources.text import subsets


class ProfileError(ValueError):
    """Something in a profile is wrong; the message names the file, the key and what is allowed."""


class Profile(Settings):
    """A checked profile; `load` and `check` make it, and say whose file it is."""

    _path: str = ""

    @model_validator(mode="after")
    def _agree(self) -> "Profile":
        _check_models(self)
        for curve, points in self.stated.items():
            for point in points:
                if len(point.models) > 2 or point.anchor is not None:
                    _check_anchor(self, f"curves.{curve} has the point {list(point.models)}", point)
        _check_sampling(self)
        _check_sections(self)
        _check_theory(self.theory)
        return self

    @property
    def path(self) -> str:
        """The file."""
        return self._path

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return Path(self._path).stem

    @property
    def curves(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        """The points of each curve, a point being the names of its models."""
        return {curve: tuple(point.models for point in points) for curve, points in self.stated.items()}

    @property
    def anchors(self) -> dict[tuple[str, ...], str | None]:
        """The anchor of each point that states one, None for the others."""
        return {point.models: point.anchor for points in self.stated.values() for point in points}

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All pairs to match, in the order of the curves."""
        return [point for point in self.anchors if len(point) == 2]

    def modality(self, models: Iterable[str]) -> str:
        """``"text"`` or ``"images"``: what these models are shown, all the same."""
        return self.models[next(iter(models))].modality

    def of(self, modality: str) -> tuple[dict[str, tuple], list[tuple[str, str]]]:
        """The curves, and the pairs, of models of text or of images."""
        curves = {curve: points for curve, points in self.curves.items() if self.modality(points[0]) == modality}
        return curves, [pair for pair in self.pairs if self.modality(pair) == modality]

    def without_outliers(self, pair: tuple[str, str]) -> bool:
        """Whether a pair is matched without outlier positions as well: one of text, where the profile asks for it."""
        return self.positions.outliers.curves and self.modality(pair) == "text"

    @property
    def example(self) -> tuple[str, str]:
        """The pair that stands for all where one is shown: that of the section on positions."""
        return self.positions.pair

    def family_points(self, family: str, curve: str | None = None) -> list[tuple[str, tuple[str, ...]]]:
        """(model, pair) along the curve that defines a family's Rosetta Neurons: what Figures 6, 7 and 28 to 32 go by.

        By default it is that of `properties.rosetta`.
        """
        pairs = self.curves[curve or self.properties.rosetta[family]]
        return [(name, pair) for pair in pairs for name in pair if self.models[name].family == family]

    def point(self, name: str) -> tuple[str, ...]:
        """A point by the names of its models, joined by ``+``; the example pair for an empty name."""
        if not name:
            return self.example
        point = tuple(part.strip() for part in name.split("+"))
        if point not in self.anchors:
            known = ", ".join("+".join(one) for one in self.anchors)
            raise ProfileError(f"profile {self.name} has no point {name!r}; it has {known}")
        return point

    def pairs_of(self, point: tuple[str, ...]) -> list[tuple[str, str]]:
        """The matched pairs that a point rests on: itself, or those of its stated anchor, or those among its models."""
        if len(point) == 2:
            return [point]
        anchor, found = self.anchors.get(point), {}
        for pair in self.pairs:
            if set(pair) <= set(point) and (anchor is None or anchor in pair):
                found.setdefault(frozenset(pair), pair)  # a pair that is matched in both orders counts once
        return list(found.values())

    def k_of(self, pair: tuple[str, str]) -> int:
        """The largest k that a pair is matched for: the profile's on the curves of Figure 25, and 1 elsewhere."""
        curves = [self.k_curve] + ([self.images.k_curve] if self.images else [])
        on_curve = {frozenset(one) for curve in curves for point in self.curves[curve] for one in self.pairs_of(point)}
        return max(self.k) if frozenset(pair) in on_curve else 1

    def anchor(self, point: tuple[str, ...]) -> str:
        """The stated anchor of a point, or the model that all its pairs share; of a plain pair, its first."""
        shared = set.intersection(*map(set, self.pairs_of(point)))
        return self.anchors.get(point) or next(name for name in point if name in shared)

    def neurons(self, point: tuple[str, ...]) -> float:
        """Mean total neuron count of a point's models: the x of Figure 3."""
        return sum(self.models[name].neurons for name in point) / len(point)


def load(name: str | Path) -> Profile:
    """Read and check a profile: a name (``"micro"``) or the path of a YAML file.

    Raises
    ------
    ProfileError
        On a missing, repeated or unknown key, a value that is not allowed, or a model that is not described.
    """
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else ROOT / "profiles" / f"{name}.yaml"
    if len(path.name) > 200 or not path.is_file():
        there = ", ".join(sorted(p.stem for p in (ROOT / "profiles").glob("*.yaml")))
        how = f"there are {there}, or give the path of a .yaml file"
        raise ProfileError(f"there is no profile {str(name)[:200]!r} ({str(path)[:300]}); {how}")
    try:
        with open(path, encoding="utf-8") as file:
            content = _Loader(file).get_single_data()
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or no such date
        raise ProfileError(f"{path}: not readable as YAML: {error}") from error
    return check(content, path)


def check(content: Any, path: str | Path) -> Profile:
    """The `Profile` that a file's content describes; ProfileError if something in it is wrong."""
    try:
        profile = Profile.model_validate(content)
    except ValidationError as error:
        first = refused(error)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ProfileError(f"{path}: {first['msg'].replace(WHERE, where)}") from None
    profile._path = str(path)
    return profile


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # the former, ten times as fast, needs libyaml
    """Refuses a key that stands twice in a mapping, of which YAML would take the last."""

    def construct_mapping(self, node, deep=False):
        keys = [(key.value, key.start_mark) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for i, (key, mark) in enumerate(keys):
            if key in dict(keys[:i]):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} stands twice", mark)
        return super().construct_mapping(node, deep)


# ---------------------------------------------------------------------------------------------------------------------
# What one part says of another


def _check_models(profile: Profile) -> None:
    """Every model that is named is described, and a point is of different ones."""
    filtering, of = profile.filtering, ", which 'models' does not describe; it has "
    among("token_sweep.pair names the model", profile.token_sweep.pair, profile.models, of)
    among("positions.pair names the model", profile.positions.pair, profile.models, of)
    among("filtering names the model", [filtering.scorer, filtering.learner], profile.models, of)
    if profile.models[filtering.learner].device == SPREAD:
        said = f"filtering.learner is {filtering.learner!r}, whose device is {SPREAD!r}"
        refuse(f"{said}; it is trained on one device, so describe it again under another name, with that one")
    for name, spec in profile.models.items():
        if spec.modality != "text":
            _check_vision(f"models.{name}", spec)
            continue
        _check_code(f"models.{name}", spec)
        config = configuration(spec)  # a model of the hub that was never fetched tells only when it is read
        most = _positions(config) if config else inf
        if profile.context > most:
            refuse(f"context is {profile.context}, and model {name} reads at most {most} tokens at a time")
        if name == filtering.learner and (length := filtering.training.sequence_length) > most:
            said = f"filtering.training.sequence_length is {length}, and filtering.learner, {name},"
            refuse(f"{said} reads at most {most} tokens at a time")
    for curve, points in profile.stated.items():
        for models in (point.models for point in points):
            among(f"curves.{curve} names the model", models, profile.models, of)
            if len(models) < 2 or len(set(models)) < len(models):
                has = f"curves.{curve} has the point {list(models)}"
                refuse(f"{has}; a point is a list of two or more different models")
            _check_modality(profile, f"curves.{curve} has the point {list(models)}", models)


def _check_code(key: str, spec: ModelSpec) -> None:
    """Code of a model's own that may run is that of one commit, which can be read, and not whatever a branch will be."""
    pinned = spec.revision and COMMIT.fullmatch(spec.revision)
    if spec.remote_code and not pinned and not (ROOT / spec.source).is_dir():
        refuse(
            f"{key}.remote_code is true and {key}.revision is {spec.revision!r}; code of the hub is run at one commit alone: "
            "state its 40 hexadecimal digits as revision"
        )


def _check_vision(key: str, spec: ModelSpec) -> None:
    """What a curve is laid out by, and images wished for, is stated of every model of images."""
    if spec.grid is None:
        refuse(f"the key {key}.grid is missing, of a model of images; it holds the cells on a side of its images")
    if spec.generates and spec.classes is None:
        refuse(f"the key {key}.classes is missing, of a generator; it holds the number of its labels")


def _check_modality(profile: Profile, has: str, models: Iterable[str]) -> None:
    """Models that are compared are shown the same: text, or images."""
    seen = {profile.models[name].modality: name for name in models}
    if len(seen) > 1:
        refuse(
            f"{has}, where {seen['text']} reads text and {seen['images']} sees images; they have no positions in common"
        )
    if "images" in seen and profile.images is None:
        refuse(f"{has}, whose models see images; the key images is missing, which says what they are shown")


def _check_images(profile: Profile) -> None:
    """Every model and curve that the section names is one of images, and a generator stands where one is asked for."""
    images = profile.images
    if images is None:
        return
    named = {"pair": images.pair, "sweep.pair": images.sweep.pair, "sweep.encoders": images.sweep.encoders}
    of_images = [name for name, spec in profile.models.items() if spec.modality == "images"]
    for key, pair in named.items():
        among(f"images.{key} names the model", pair, of_images, ", which is no model of images; those are ")
    curves, pairs = profile.of("images")
    if images.pair not in pairs:
        refuse(f"images.pair is {list(images.pair)}; it must be a point of one of the curves")
    among("images.k_curve is", [images.k_curve], curves, "; allowed are the curves of images, ")
    generates = {name for name in of_images if profile.models[name].generates}
    for has, pair in [*(("curves have the pair", pair) for pair in pairs), ("images.sweep.pair is", images.sweep.pair)]:
        if generates.issuperset(pair):
            refuse(f"{has} {list(pair)}, two generators; each makes its own images, so they see none together")
        if pair[1] in generates:
            refuse(f"{has} {list(pair)}; the generator comes first, as it makes what the other one sees")
    if images.sweep.pair[0] not in generates:
        said = f"images.sweep.pair is {list(images.sweep.pair)}; the first must be a generator"
        refuse(f"{said}, {', '.join(sorted(generates)) or 'of which models has none'}")
    if both := generates.intersection(images.sweep.encoders):
        refuse(f"images.sweep.encoders names {min(both)}, which is a generator; Figure 35 is about two encoders")
    if images.permuted is not None and images.permuted >= images.count:
        refuse(f"images.permuted is {images.permuted}; it must be below images.count, {images.count}, or null for all")


def _positions(config: Path) -> float:
    """How many tokens a model of this configuration can read at a time."""
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        refuse(f"{config} is no JSON: {error}")
    return content.get("max_position_embeddings") or content.get("n_positions") or inf


def _check_anchor(profile: Profile, has: str, point: Point) -> None:
    """The pairs of a collapsed point are matched, and share one model: the anchor."""
    models, anchor, pairs = point.models, point.anchor, profile.pairs_of(point.models)
    if anchor is not None:
        has += f" with the anchor {anchor!r}"
        if anchor not in models or len(models) == 2:
            refuse(f"{has}; an anchor is one of a point's three or more models")
    if anchor != (other := profile.anchors[models]):
        rule = "a point has one anchor; the same models in another order are another point"
        refuse(f"{has}, and again {f'with {other!r}' if other else 'without one'}; {rule}")
    count, possible = len(models) - 1, [pair for pair in combinations(models, 2) if anchor in (None, *pair)]
    if len(pairs) != count or not set.intersection(*map(set, pairs)):
        said = f"{count} of its pairs ({', '.join(map('+'.join, possible))}) must be points of other curves"
        how = f"; where more are, state the anchor: {{anchor: {models[0]}, models: [{', '.join(models)}]}}"
        refuse(f"{has}; {said} and share one model, but {len(pairs)} are: {pairs}{how if len(pairs) > count else ''}")


def _check_sampling(profile: Profile) -> None:
    """Sequences that are sampled i.i.d. have a length, and are read whole: cut, dense text would count for less."""
    if profile.sampling == "iid":
        if profile.excerpt_characters is None:
            refuse("sampling is iid, and excerpt_characters null; it must be the characters of a sequence")
        if profile.segments_per_document is not None:
            refuse(f"sampling is iid, and segments_per_document {profile.segments_per_document}; it must be null")
    elif "short_documents" in profile.model_fields_set:
        refuse(
            f"short_documents is {profile.short_documents}; it is for sampling: iid, where documents can be too short"
        )


def _check_sections(profile: Profile) -> None:
    curves, rosetta, filtering = profile.curves, profile.properties.rosetta, profile.filtering
    of_text = profile.of("text")[0]
    of_pairs = [curve for curve, points in of_text.items() if all(len(point) == 2 for point in points)]
    families = sorted({spec.family for spec in profile.models.values() if spec.modality == "text"})
    for curve, points in curves.items():
        if len(set(points)) < len(points):
            refuse(f"curves.{curve} has a point twice, among {[list(point) for point in points]}")
    among("k_curve is", [profile.k_curve], of_text, "; allowed are the curves of text, ")
    about_text = {
        "positions.pair": profile.positions.pair,
        "token_sweep.pair": profile.token_sweep.pair,
        "filtering.pair": filtering.pair,
        "filtering.learner": [filtering.learner],
        "explorer.point": profile.explorer.point,
        "examples.points": [name for point in profile.examples.points for name in point],
    }
    for key, names in about_text.items():
        if of_images := [name for name in names if name in profile.models and profile.modality([name]) == "images"]:
            refuse(f"{key} names {of_images[0]!r}, a model of images; it is about text")
    _check_images(profile)
    check_judging(profile)
    among("properties.rosetta names the family", rosetta, families)
    among("properties.rosetta names the curve", rosetta.values(), of_pairs, "; allowed are the curves of pairs, ")
    if without := [family for family in rosetta if not profile.family_points(family)]:
        where = f"properties.rosetta.{without[0]} is {rosetta[without[0]]!r}"
        refuse(f"{where}, which has no model of that family")
    but = "; allowed are the families of properties.rosetta, "
    among("properties.firing names", profile.properties.firing, rosetta, but)
    if filtering.pair not in profile.pairs or filtering.scorer not in filtering.pair:
        rule = f"it must be a point of one of the curves, and hold the scorer, {filtering.scorer!r}"
        refuse(f"filtering.pair is {list(filtering.pair)}; {rule}")
    outliers = profile.positions.outliers
    if outliers.curves and outliers.first is None and outliers.size is None:
        refuse("positions.outliers.curves is true, but first and size are null: no position would be left out")
    if profile.positions.pair not in profile.pairs:
        refuse(f"positions.pair is {list(profile.positions.pair)}; it must be a point of one of the curves")
    permuted = profile.nulls.permuted_tokens
    if permuted is not None and permuted >= profile.tokens:
        refuse(
            f"nulls.permuted_tokens is {permuted}; it must be below tokens, {profile.tokens}, or null for all of them"
        )
    if (filtering.share is None) != (filtering.tokens is None):
        refuse("filtering.share and filtering.tokens are both null (the whole pool) or neither")
    _check_labelled(profile)
    if profile.explorer.point not in profile.anchors:
        refuse(f"explorer.point is {list(profile.explorer.point)}; it must be a point of one of the curves")
    pages = profile.examples.points
    for point in pages:
        if point not in profile.anchors or pages.count(point) > 1:
            refuse(
                f"examples.points has {list(point)}; each must be a point of one of the curves, and none stand there twice"
            )


def _check_labelled(profile: Profile) -> None:
    """Some neuron could qualify for Table 1: an offline label names a subset of the corpus and nothing else."""
    labelled, there = profile.filtering.labelled, subsets(profile.corpus)
    if profile.labels.kind == "offline" and there is not None and labelled not in there:
        refuse(
            f"filtering.labelled is {labelled!r}, and offline labels name subsets of the corpus alone, so no neuron could qualify; "
            f"take one of {', '.join(there)}, or labels.kind chat, whose labels may name anything"
        )


def _check_theory(theory: Theory) -> None:
    """Every simulation has a neuron for each feature that it isolates, as D.7 wants it."""
    robust, common = theory.robustness, (theory.kappa, theory.gamma)
    cases = [("kappa", theory.grid, *common), ("kappa", theory.varied, *common)]
    cases += [("robustness.kappa", theory.varied, kappa, theory.gamma) for kappa in robust.kappa]
    cases += [("robustness.gamma", theory.varied, theory.kappa, gamma) for gamma in robust.gamma]
    for key, cells, kappa, gamma in cases:
        beta = min(cells.betas)  # the flattest spectrum isolates the most features
        for n in cells.sizes:
            if gamma * n >= n + 1 and kappa > (most := _largest_kappa(n, beta)):
                refuse(
                    f"theory.{key} asks for kappa {kappa} with gamma {gamma}: of N = {n} neurons and beta {beta} more "
                    f"features would be isolated than there are neurons; take a kappa of at most {most:.4g}, or larger "
                    "size_exponents or betas"
                )


def _largest_kappa(n_neurons: int, beta: float) -> float:
    """The kappa up to which no more than N features are isolated: eq. 14 with r_0 = N + 1 spends kappa N (eq. 11)."""
    with np.errstate(over="ignore"):
        return float(np.mean(((n_neurons + 1) / np.arange(1, n_neurons + 1)) ** beta - 1))
