"""What the rest of a profile costs: the sweeps of Figures 33 to 35, generators' pictures, kurtosis, contexts, filtering, with
the questions that labels and verdicts are; and what all of it keeps on disk.

The simulations of section 4.3 depend on no model and are not reckoned.
"""

from collections.abc import Iterable, Sequence
from math import ceil

import pandas as pd

from rosetta.matching.cost import EXACT_SHARE, TABLE_BYTES, Cost, Stage, costs, exact
from rosetta.matching.outliers import NEURONS, ROWS
from rosetta.planning.nodes import Node, itemsize, memory_bytes, missing, peak
from rosetta.planning.questions import TEXT_BYTES, requests
from rosetta.planning.runs import compared, held_bytes, positions_of, reading
from rosetta.planning.sizes import size
from rosetta.profiles.profile import Profile
from rosetta.sources import sampling
from rosetta.sources.development import SIZE
from rosetta.studies.amounts import FILTERS, pictures_kept

#: Tokens of CodeSearchNet's JavaScript training functions, and their share of all (Appendix F): what a pool is that is
#: taken as it is.
POOL_TOKENS, TARGET_SHARE = 16e6, 0.06
#: Bytes moved for each cosine of the kurtosis; its products are float64, at half the rate of float32.
KURTOSIS_BYTES, FLOAT64 = 22, 2
#: Bytes moved for each activation in two readings: float32, centred and squared, then scaled and squared.
SIZES_BYTES = 60
#: Bytes moved for each activation among which the strongest contexts are sought.
CONTEXT_BYTES = 16
#: FLOP of continued pretraining for each parameter and token: forward, and backward to the activations; with rank-1 LoRA
#: the weights themselves have no gradient.
TRAINING_FLOP = 4
#: Bytes of 16-bit activations that training holds for each token, layer and unit (Korthikanti et al., 2022), and of float32
#: logits and their gradient for each token of the vocabulary.
TRAINING_BYTES, LOGIT_BYTES = 34, 8
#: Pixels on a side of a generator's pictures.
PIXELS = {"pmf": 256, "sana": 256, "flux": 256, "onestep": SIZE}
#: On disk: a number of a checkpoint; a row of a table of contexts without its text.
CHECKPOINT_BYTES, CONTEXT_ROW = 2, 64


def others(profile: Profile, node: Node) -> pd.DataFrame:
    """What a profile asks for beside its matchings, a row each.

    Returns
    -------
    DataFrame
        ``run, what``; ``tokens`` or ``images`` read, ``flop, bytes, seconds``; ``device`` (the fullest), its ``peak`` and how many bytes are
        ``missing`` there; ``requests`` to a chat endpoint.
    """
    rows = _sweeps(profile, node)
    rows += [_sizes(profile, node, pair) for pair in profile.pairs if _leaves_out_by_size(profile, pair)]
    rows += [_pictures(profile, node, name, count) for name, count in generators(profile).items()]
    rows += [_strongest(profile, node, name) for name in strongest_models(profile)]
    rows += [_kurtosis(profile, node, name) for name in kurtosis_models(profile)]
    rows += [_contexts(profile, node, name) for name in contexts_models(profile)]
    rows += [_viewed(profile, node, *of) for of in viewed(profile)]
    rows += [_scores(profile, node), _training(profile, node)]
    asked = [dict.fromkeys(rows[0], 0) | row for row in requests(profile)]
    return pd.DataFrame([*rows, *asked])


def strongest_models(profile: Profile) -> list[str]:
    """Those of which the strongest images are sought: the second of each pair (Figures 21 and 22), and both of the explorer's."""
    explored = profile.images.pair if profile.images else ()
    return list(dict.fromkeys([*(b for _, b in profile.of("images")[1]), *explored]))


def kurtosis_models(profile: Profile) -> list[str]:
    """Those of notebook 05: along each family's curve."""
    families = profile.properties.rosetta
    return list(dict.fromkeys(name for family in families for name, _ in profile.family_points(family)))


def contexts_models(profile: Profile) -> list[str]:
    """Those of notebooks 05 to 07: along the curves of `firing`, the anchors of the explorer and of the pages of Figures 8 to 13, and
    the model whose neurons filter."""
    along = [name for family in profile.properties.firing for name, _ in profile.family_points(family)]
    anchors = map(profile.anchor, [profile.explorer.point, *profile.examples.points])
    return list(dict.fromkeys([*along, *anchors, profile.filtering.scorer]))


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
    rows = [_sweep(profile, node, "33", tokens.pair, tokens.tokens, separate=tokens.sweep == "separate")]
    if profile.images:
        images = profile.images.sweep
        rows.append(_sweep(profile, node, "34", images.pair, images.images))
        rows.append(_sweep(profile, node, "35", images.encoders, images.images, 2))
    return rows


def _sweep(
    profile: Profile,
    node: Node,
    figure: str,
    pair: tuple[str, str],
    budgets: Sequence[int],
    times: int = 1,
    separate: bool = False,
) -> dict:
    budgets, made = sorted(budgets), sweep(profile, node, pair, budgets, separate)
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


def sweep(
    profile: Profile, node: Node, pair: tuple[str, str], budgets: Sequence[int], separate: bool = False
) -> list[tuple[int, Cost]]:
    """The matchings over growing amounts of text or images, (amount, cost): one whose sums are read off at each budget where
    ``memory_gb`` holds the table, otherwise, or for `separate` samples, one a budget by the quickest method."""
    n_a, n_b = (profile.models[name].neurons for name in pair)
    budgets, memory = sorted(budgets), memory_bytes(profile)
    whole = exact(n_a, n_b, positions_of(profile, pair, budgets[-1]), memory)
    if whole.readings == 1 and not separate:
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
# Outliers


def _leaves_out_by_size(profile: Profile, pair: tuple[str, str]) -> bool:
    return profile.without_outliers(pair) and profile.positions.outliers.size is not None


def _sizes(profile: Profile, node: Node, pair: tuple[str, str]) -> dict:
    """Two readings of the text, for means and for sizes, and products of some of each model's neurons among themselves."""
    tokens, widths = profile.tokens, [profile.models[name].neurons for name in pair]
    among = [min(NEURONS, n) for n in widths]
    work = Stage("sizes", float32=sum(2 * n**2 * tokens for n in among), memory=SIZES_BYTES * tokens * sum(widths))
    once = (
        2 if not held_bytes(profile, pair, "trained") else 0
    )  # where memory holds them, they are read for the matching
    stages = [*once * [reading(profile, pair, tokens)], work]
    loads = peak(profile, pair, node)
    loads[0] = loads[0].plus(
        tables=4 * 2 * sum(n**2 for n in among),
        held=held_bytes(profile, pair, "trained"),
        centred=3 * 4 * ROWS * max(widths),
    )
    return _row(" + ".join(pair), "sizes of positions", {"tokens": once * tokens}, stages, loads, node)


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def generators(profile: Profile) -> dict[str, int]:
    """How many pictures are made and kept of each generator that is matched: as many as any part of the profile asks for."""
    of_images = [*profile.of("images")[1], *compared(profile), *([profile.images.sweep.pair] if profile.images else [])]
    return {pair[0]: pictures_kept(profile) for pair in of_images if profile.models[pair[0]].generates}


def _pictures(profile: Profile, node: Node, name: str, count: int) -> dict:
    loads = peak(profile, [name], node)
    return _row(name, "its pictures", {"images": count}, [reading(profile, (name,), count)], loads, node)


def _strongest(profile: Profile, node: Node, name: str) -> dict:
    """One reading of the images among which a neuron's strongest are sought (`strongest_models`)."""
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
    """(model, notebook) wherever a model reads the contexts that a labeller is shown: the explorer's models, and those of Table 1's pair.

    Of a page of Figures 8 to 13 they are those of a few neurons, which is next to nothing.
    """
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
    runs = len(FILTERS) * len(filtering.seeds)
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
# Disk


def disk(profile: Profile) -> dict[str, float]:
    """Bytes on disk: the models' checkpoints in 16 bits, generators' pictures, tables of contexts, and text that was
    sampled, at most; what else is kept is small."""
    checkpoints = sum(CHECKPOINT_BYTES * size(spec).parameters for spec in profile.models.values())
    n, tokens = profile.contexts.n, profile.contexts.tokens
    rows = sum(n * profile.models[name].neurons for name in contexts_models(profile))
    texts = TEXT_BYTES * tokens * len(contexts_models(profile))
    pictures = sum(3 * PIXELS[profile.models[name].kind] ** 2 * count for name, count in generators(profile).items())
    return {
        "checkpoints": float(checkpoints),
        "pictures": float(pictures),
        "contexts": float(CONTEXT_ROW * rows + texts),
        "sampled text": float(_sampled(profile)),
    }


def _sampled(profile: Profile) -> int:
    """Bytes of the blocks of draws (`sampling`) that are kept, each whole, as plain text: packed they take less."""
    if profile.sampling != "iid":
        return 0
    sweep, positions = profile.token_sweep, profile.positions
    separate = sweep.tokens if sweep.sweep == "separate" else ()
    shared = max(profile.tokens, profile.contexts.tokens, *positions.budgets, *(() if separate else sweep.tokens))
    block = sampling.BLOCK * profile.excerpt_characters
    return block * sum(ceil(TEXT_BYTES * tokens / block) for tokens in (shared, *separate))
