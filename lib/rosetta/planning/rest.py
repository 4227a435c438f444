"""What the rest of a profile costs: the sweeps of Figures 33 to 35, generators' pictures, kurtosis, contexts, labels, filtering;
and what all of it keeps on disk.

The simulations of section 4.3 depend on no model and are not reckoned.
"""

from collections.abc import Iterable, Sequence
from math import ceil, prod
from pathlib import Path

import pandas as pd

from rosetta.matching.cost import EXACT_SHARE, TABLE_BYTES, Cost, Stage, costs, exact
from rosetta.matching.mutual import top_k
from rosetta.models.load import ROOT
from rosetta.neurons.composites import composite_size, lettered_size
from rosetta.neurons.labels import read_prompt as read_label_prompt
from rosetta.neurons.looking import read_prompt
from rosetta.planning.nodes import Node, itemsize, memory_bytes, missing, peak
from rosetta.planning.runs import positions_of, reading
from rosetta.planning.sizes import size
from rosetta.profiles.profile import Profile
from rosetta.sources.development import SIZE
from rosetta.studies.amounts import pictures_kept
from rosetta.studies.table1 import ORACLE, OTHER, RANDOM, ROSETTA

#: Tokens of CodeSearchNet's JavaScript training functions, and their share of all (Appendix F): what a pool is that is
#: taken as it is.
POOL_TOKENS, TARGET_SHARE = 16e6, 0.06
#: Bytes moved for each cosine of the kurtosis; its products are float64, at half the rate of float32.
KURTOSIS_BYTES, FLOAT64 = 22, 2
#: Bytes moved for each activation among which the strongest contexts are sought.
CONTEXT_BYTES = 16
#: FLOP of continued pretraining for each parameter and token: forward, and backward to the activations; with rank-1 LoRA
#: the weights themselves have no gradient.
TRAINING_FLOP = 4
#: Bytes of 16-bit activations that training holds for each token, layer and unit (Korthikanti et al., 2022), and of float32
#: logits and their gradient for each token of the vocabulary.
TRAINING_BYTES, LOGIT_BYTES = 34, 8
#: Neurons of either population that notebook 05 shows with their labels.
SHOWN = 4
#: Pixels on a side of a generator's pictures.
PIXELS = {"pmf": 256, "sana": 256, "flux": 256, "onestep": SIZE}
#: On disk: a number of a checkpoint; a row of a table of contexts without its text; bytes of text a token.
CHECKPOINT_BYTES, CONTEXT_ROW, TEXT_BYTES = 2, 64, 4
#: Of pictures that a judge is sent: bytes a pixel of a composite and of lettered images, photographs as PNG, and of their spelling
#: in a message; pixels on a side of the squares that are a token each, as several endpoints count. Characters a token of text, and
#: tokens of an answer.
COMPOSITE_BYTES, LETTERED_BYTES, SPELLING, TOKEN_SIDE = 1.0, 1.6, 4 / 3, 32
TOKEN_CHARACTERS, ANSWER_TOKENS = 4, 150
#: Of contexts that a labeller is shown: bytes of a peak token; characters of a view for each byte of text, as JSON with its heat (2.5 for
#: the embedded models), and characters a token of that, which is more broken up than text.
PEAK_BYTES, VIEW_CHARACTERS, JSON_CHARACTERS = 4, 2.5, 3


def others(profile: Profile, node: Node) -> pd.DataFrame:
    """What a profile asks for beside its matchings, a row each.

    Returns
    -------
    DataFrame
        ``run, what``; ``tokens`` or ``images`` read, ``flop, bytes, seconds``; ``device`` (the fullest), its ``peak`` and how many bytes are
        ``missing`` there; ``requests`` to a chat endpoint.
    """
    rows = _sweeps(profile, node)
    rows += [_pictures(profile, node, name, count) for name, count in generators(profile).items()]
    rows += [_strongest(profile, node, name) for name in dict.fromkeys(b for _, b in profile.of("images")[1])]
    rows += [_kurtosis(profile, node, name) for name in kurtosis_models(profile)]
    rows += [_contexts(profile, node, name) for name in contexts_models(profile)]
    rows += [_viewed(profile, node, *of) for of in viewed(profile)]
    rows += [_scores(profile, node), _training(profile, node)]
    asked = [dict.fromkeys(rows[0], 0) | row for row in requests(profile)]
    return pd.DataFrame([*rows, *asked])


def kurtosis_models(profile: Profile) -> list[str]:
    """Those of notebook 05: along each family's curve."""
    families = profile.properties.rosetta
    return list(dict.fromkeys(name for family in families for name, _ in profile.family_points(family)))


def contexts_models(profile: Profile) -> list[str]:
    """Those of notebooks 05 to 07: along the curves of `firing`, the explorer's anchor and the model whose neurons filter."""
    along = [name for family in profile.properties.firing for name, _ in profile.family_points(family)]
    return list(dict.fromkeys([*along, profile.anchor(profile.explorer.point), profile.filtering.scorer]))


def _row(run: str, what: str, read: dict[str, float], stages: list[Stage], loads: list, node: Node) -> dict:
    device, lack = missing(loads, node)
    return {
        "run": run, "what": what, "tokens": 0, "images": 0, **read, "flop": sum(stage.flop for stage in stages),
        "bytes": sum(stage.memory for stage in stages), "seconds": sum(stage.seconds(node.rates) for stage in stages),
        "device": device, "peak": loads[device].total, "missing": lack, "requests": 0,
    }  # fmt: skip


def _sweeps(profile: Profile, node: Node) -> list[dict]:
    """Figures 33 to 35; the last is over real images and over generated ones."""
    tokens = profile.token_sweep
    rows = [_sweep(profile, node, "33", tokens.pair, tokens.tokens)]
    if profile.images:
        images = profile.images.sweep
        rows.append(_sweep(profile, node, "34", images.pair, images.images))
        rows.append(_sweep(profile, node, "35", images.encoders, images.images, 2))
    return rows


def _sweep(
    profile: Profile, node: Node, figure: str, pair: tuple[str, str], budgets: Sequence[int], times: int = 1
) -> dict:
    budgets, made = sorted(budgets), sweep(profile, node, pair, budgets)
    read = [
        Stage("read", *(cost.readings * work for work in reading(profile, pair, amount)[1:])) for amount, cost in made
    ]
    stages = times * [*read, *(stage for _, cost in made for stage in cost.stages)]
    amount = times * sum(cost.readings * amount for amount, cost in made)
    largest = max((cost for _, cost in made), key=lambda cost: cost.memory)
    methods = "/".join(dict.fromkeys(cost.method for _, cost in made))
    unit = _unit(profile, pair)
    what = f"Figure {figure}, {len(budgets)} budgets to {budgets[-1]:,} {unit}, {methods}"
    return _row(" + ".join(pair), what, {unit: amount}, stages, peak(profile, pair, node, largest), node)


def _unit(profile: Profile, names: Iterable[str]) -> str:
    return "tokens" if profile.modality(names) == "text" else "images"


def sweep(profile: Profile, node: Node, pair: tuple[str, str], budgets: Sequence[int]) -> list[tuple[int, Cost]]:
    """The matchings over growing amounts of text or images, (amount, cost): one whose sums are read off at each budget where
    ``memory_gb`` holds the table, otherwise one a budget by the quickest method."""
    n_a, n_b = (profile.models[name].neurons for name in pair)
    budgets, memory = sorted(budgets), memory_bytes(profile)
    whole = exact(n_a, n_b, positions_of(profile, pair, budgets[-1]), memory)
    if whole.readings == 1:
        table = n_a * n_b * (len(budgets) - 1)
        again = Stage("search", search=table, memory=TABLE_BYTES * table)
        return [(budgets[-1], whole._replace(stages=(*whole.stages, again)))]
    made = []
    for amount in budgets:
        once = reading(profile, pair, amount).seconds(node.rates)
        asked, count = profile.matching, positions_of(profile, pair, amount)
        of = costs(n_a, n_b, count, memory, rows=asked.rows, exact_share=min(EXACT_SHARE, asked.exact_share))
        of = [of[asked.method]] if asked.method in of else of.values()
        made.append((amount, min(of, key=lambda cost: cost.seconds(node.rates) + cost.readings * once)))
    return made


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def generators(profile: Profile) -> dict[str, int]:
    """How many pictures are made and kept of each generator that is matched: as many as any part of the profile asks for."""
    of_images = [*profile.of("images")[1], *([profile.images.sweep.pair] if profile.images else [])]
    return {pair[0]: pictures_kept(profile) for pair in of_images if profile.models[pair[0]].generates}


def _pictures(profile: Profile, node: Node, name: str, count: int) -> dict:
    loads = peak(profile, [name], node)
    return _row(name, "its pictures", {"images": count}, [reading(profile, (name,), count)], loads, node)


def _strongest(profile: Profile, node: Node, name: str) -> dict:
    """One reading of the images among which a neuron's strongest are sought (Figures 21 and 22)."""
    count = profile.images.count
    top = Stage("top", memory=CONTEXT_BYTES * count * profile.models[name].neurons)
    stages = [reading(profile, (name,), count), top]
    return _row(name, "strongest images", {"images": count}, stages, peak(profile, [name], node), node)


# ---------------------------------------------------------------------------------------------------------------------
# Single models of text


def _kurtosis(profile: Profile, node: Node, name: str) -> dict:
    of = size(profile.models[name])
    cosines = 2 * of.neurons * of.vocabulary  # once more with the final norm's gain
    work = Stage("kurtosis", float32=FLOAT64 * 2 * cosines * of.hidden, memory=KURTOSIS_BYTES * cosines)
    return _row(name, "kurtosis over the vocabulary", {}, [work], peak(profile, [name], node), node)


def _contexts(profile: Profile, node: Node, name: str) -> dict:
    tokens = profile.contexts.tokens
    top = Stage("top", memory=CONTEXT_BYTES * tokens * profile.models[name].neurons)
    stages = [reading(profile, (name,), tokens), top]
    return _row(name, "top-activating contexts", {"tokens": tokens}, stages, peak(profile, [name], node), node)


def viewed(profile: Profile) -> list[tuple[str, str]]:
    """(model, notebook) wherever a model reads the contexts that a labeller is shown: the explorer's models, and those of Table 1's pair."""
    if profile.labels.kind != "chat":
        return []
    return [(name, "06") for name in profile.explorer.point] + [
        (name, "07") for name in sorted(profile.filtering.pair, key=lambda name: name != profile.filtering.scorer)
    ]


def _viewed(profile: Profile, node: Node, name: str, notebook: str) -> dict:
    """At most all the text that was searched, and once more by the scorer: its layer's other neurons have other contexts."""
    tokens = profile.contexts.tokens * (2 if notebook == "07" and name == profile.filtering.scorer else 1)
    stages, what = [reading(profile, (name,), tokens)], f"text that labels are made from ({notebook})"
    return _row(name, what, {"tokens": tokens}, stages, peak(profile, [name], node), node)


def _pool(profile: Profile) -> tuple[float, float]:
    """Tokens of the pool that is filtered, and of the target's in it."""
    filtering = profile.filtering
    if filtering.tokens is None:
        return POOL_TOKENS / TARGET_SHARE, POOL_TOKENS
    return filtering.tokens, filtering.share * filtering.tokens


def _scores(profile: Profile, node: Node) -> dict:
    scorer = profile.filtering.scorer
    tokens = _pool(profile)[0] + 2 * (profile.filtering.test_tokens or 0)
    loads = peak(profile, [scorer], node)
    return _row(scorer, "scores of the pool", {"tokens": tokens}, [reading(profile, (scorer,), tokens)], loads, node)


def _training(profile: Profile, node: Node) -> dict:
    filtering, training = profile.filtering, profile.filtering.training
    of, budget = size(profile.models[filtering.learner]), _pool(profile)[1]
    runs = len((RANDOM, OTHER, ROSETTA, ORACLE)) * len(filtering.seeds)
    sequences = ceil(budget / training.sequence_length)
    tokens = runs * sequences * training.sequence_length
    work = Stage("train", **{_product(profile): TRAINING_FLOP * of.parameters * tokens})
    per_token = TRAINING_BYTES * of.layers * of.hidden + LOGIT_BYTES * of.vocabulary
    loads = peak(profile, [filtering.learner], node)
    held = training.micro_batch * training.sequence_length * per_token
    loads[0] = loads[0]._replace(batch=held)
    return _row(filtering.learner, f"continued pretraining, {runs} runs", {"tokens": tokens}, [work], loads, node)


def _product(profile: Profile) -> str:
    return "bfloat16" if itemsize(profile) == 2 else "float32"


# ---------------------------------------------------------------------------------------------------------------------
# Labels and verdicts


def requests(profile: Profile) -> list[dict]:
    """Questions to a chat endpoint, one a neuron and at most so many, with rough numbers of tokens (`asked_about`): none is asked
    twice, and none where labels are offline."""
    if profile.labels.kind != "chat":
        return []
    scorer, point = profile.filtering.scorer, profile.explorer.point
    anchor, pairs = profile.anchor(point), profile.pairs_of(point)
    rosetta = {pair: expected_pairs(profile, pair) for pair in [profile.filtering.pair, *pairs]}
    page = min(profile.explorer.neurons, sum(rosetta[pair] for pair in pairs))
    # Neurons, and in how many models they are seen: as many as can be.
    by_run = {
        (scorer, "labels of the Rosetta Neurons that 05 shows"): (SHOWN, 2),
        (scorer, "labels of the other neurons that 05 shows"): (SHOWN, 1),
        (anchor, "labels of the explorer's neurons (06)"): (page, 1 + len(pairs)),
        (scorer, "labels of all Rosetta Neurons (07)"): (rosetta[profile.filtering.pair], 2),
        (scorer, "labels of a layer's other neurons (07)"): (profile.models[scorer].mlp_width, 1),
    }
    return [
        {"run": run, "what": f"{what}, {asked_about(profile, *count) / 1e6:,.3g}M tokens", "requests": count[0]}
        for (run, what), count in by_run.items()
    ]


def asked_about(profile: Profile, neurons: int, models: int) -> float:
    """Rough tokens of the questions about so many neurons, each seen in so many models, and of their answers.

    A question is the prompt and, for each context and model, the window of text as JSON with its heat; a window without a limit
    is all that a model reads together. Each endpoint counts tokens by a rule of its own.
    """
    labels, asked = profile.labels, read_label_prompt(profile.labels.prompt)
    whole = TEXT_BYTES * profile.context
    shown = whole if labels.window is None else min(whole, 2 * labels.window + PEAK_BYTES)
    views = min(labels.contexts, profile.contexts.n) * models * shown * VIEW_CHARACTERS / JSON_CHARACTERS
    prompt = (len(asked.system) + len(asked.user)) / TOKEN_CHARACTERS
    return neurons * (prompt + views + ANSWER_TOKENS)


def looks(run: str, neurons: int, images: int = 20, predicted: int = 0, unseen: int = 10) -> list[dict]:
    """Questions to a chat model that judges neurons by their images (5.1, H), as `requests` counts: one a neuron, two if it predicts.

    Parameters
    ----------
    run : str
        Whose neurons they are.
    neurons, images : int
        How many are judged, by so many images each; those that are judged by several numbers of images are asked about anew.
    predicted, unseen : int
        How many of them say on which of so many unseen images they would fire (Table 5).
    """
    rows = [(f"verdicts by {images} images", neurons, looked_at(neurons, images))]
    if predicted:
        rows.append((f"predictions on {unseen} unseen images", predicted, looked_at(predicted, images, unseen)))
    return [
        {"run": run, "what": f"{what}, {sent / 1e6:,.0f} MB, {tokens / 1e6:,.2g}M tokens", "requests": count}
        for what, count, (sent, tokens) in rows
    ]


def looked_at(neurons: int, images: int = 20, unseen: int = 0) -> tuple[float, float]:
    """(bytes sent, tokens) of one turn about so many neurons, with unseen images the second turn, which sends the first again.

    Scenes take a third of these bytes. Tokens are rough: each endpoint has a rule of its own.
    """
    composite, lettered = composite_size(images), lettered_size(unseen) if unseen else (0, 0)
    sent = SPELLING * (COMPOSITE_BYTES * prod(composite) + LETTERED_BYTES * prod(lettered))
    squares = sum(prod(ceil(side / TOKEN_SIDE) for side in sides) for sides in (composite, lettered))
    asked = read_prompt()
    turns = [asked.system, asked.judge, *([asked.predict] if unseen else [])]
    text = sum(map(len, turns)) / TOKEN_CHARACTERS + ANSWER_TOKENS * (2 if unseen else 1)
    return neurons * sent, neurons * (squares + text)


def kept_matches(profile: Profile, pair: tuple[str, str]) -> Path:
    """Where the MatchTable of a pair is kept."""
    return ROOT / "results" / profile.name / "matches" / f"{pair[0]}--{pair[1]}.parquet"


def expected_pairs(profile: Profile, pair: tuple[str, str]) -> int:
    """Rosetta Neurons of a pair: those kept already, or as many as the embedded models' published power law leads to."""
    kept = kept_matches(profile, pair)
    if kept.is_file():
        return len(top_k(pd.read_parquet(kept, columns=["rank_a", "rank_b"]), 1))
    laws = pd.read_csv(ROOT / "figures" / "fits.csv").query("count == 'raw'").set_index("curve")
    law = laws.loc[profile.k_curve] if profile.k_curve in laws.index else laws.iloc[0]
    return ceil(law.c * profile.neurons(pair) ** law.alpha)


# ---------------------------------------------------------------------------------------------------------------------
# Disk


def disk(profile: Profile) -> dict[str, float]:
    """Bytes on disk: the models' checkpoints in 16 bits, generators' pictures, and tables of contexts; what else is kept is small."""
    checkpoints = sum(CHECKPOINT_BYTES * size(spec).parameters for spec in profile.models.values())
    n, tokens = profile.contexts.n, profile.contexts.tokens
    rows = sum(n * profile.models[name].neurons for name in contexts_models(profile))
    texts = TEXT_BYTES * tokens * len(contexts_models(profile))
    pictures = sum(3 * PIXELS[profile.models[name].kind] ** 2 * count for name, count in generators(profile).items())
    return {
        "checkpoints": float(checkpoints),
        "pictures": float(pictures),
        "contexts": float(CONTEXT_ROW * rows + texts),
    }
