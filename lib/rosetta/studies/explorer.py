"""Put together what is known of some neurons: the rows of the explorer, and of the figures that show examples.

For each neuron of one model, the anchor, and the neurons of other models matched with it: the anchor's top-activating
contexts with every model's activation on them, the tokens each promotes, kurtosis, depth and label.
"""

from pathlib import Path

import numpy as np
import torch

from rosetta.matching.alignment import token_texts
from rosetta.neurons import selectivity
from rosetta.studies import properties, views
from rosetta.studies.matches import Study
from rosetta.studies.views import Partners, partners
from rosetta.viewer import page
from rosetta.viewer.page import Context, Member, RosettaNeuron


def write(study: Study, neurons: list[RosettaNeuron]) -> Path:
    """Write the explorer of the profile's point to ``results/<profile>/explorer.html``."""
    profile, point = study.profile, study.profile.explorer.point
    note = (
        f"Neurons of {profile.anchor(point)} whose nearest neighbour in another model is mutual, over "
        f"{profile.tokens:,} tokens; contexts from {profile.contexts.tokens:,} tokens."
    )
    return page.write(study.folder / "explorer.html", neurons, f"Rosetta Neurons of {', '.join(point)}", note)


def rosetta_neurons(study: Study) -> list[RosettaNeuron]:
    """The anchor's neurons that are matched in any pair of the explorer's point: the highest correlations first."""
    point = study.profile.explorer.point
    anchor = study.profile.anchor(point)
    matched = partners(anchor, [study.matches(pair) for pair in study.profile.pairs_of(point)])
    best = sorted(matched, key=lambda neuron: (-max(r for _, _, r in matched[neuron].values()), neuron))
    return describe(study, anchor, {neuron: matched[neuron] for neuron in best[: study.profile.explorer.neurons]})


def examples(study: Study, point: tuple[str, ...]) -> tuple[list[RosettaNeuron], int]:
    """Some neurons that all models of a point share, for its page of Figures 8 to 13; and how many of them there are.

    The paper does not say how it chose. Here they are drawn, by the profile's seed, among the anchor's neurons that are matched
    in every pair of the point and fire at all. The first layers come first.
    """
    asked, anchor, pairs = study.profile.examples, study.profile.anchor(point), study.profile.pairs_of(point)
    matched = partners(anchor, [study.matches(pair) for pair in pairs])
    found = properties.contexts(study, anchor)
    alive = set(found.loc[found["activation"] > 0, ["layer", "unit"]].itertuples(index=False, name=None))
    shared = sorted(key for key, others in matched.items() if len(others) == len(pairs) and key in alive)
    drawn = np.random.default_rng(asked.seed).permutation(len(shared))[: asked.neurons]
    return describe(study, anchor, {shared[i]: matched[shared[i]] for i in sorted(drawn)}, asked.contexts), len(shared)


def describe(
    study: Study, anchor: str, neurons: dict[tuple[int, int], Partners], contexts: int | None = None
) -> list[RosettaNeuron]:
    """All that the explorer shows of some neurons of one model; one that never fires is left out.

    Parameters
    ----------
    study : Study
    anchor : str
    neurons : dict of (layer, unit) to Partners
        A neuron without partners is shown alone.
    contexts : int, optional
        Of each neuron at most so many, by default the explorer's.
    """
    explorer, found = study.profile.explorer, properties.contexts(study, anchor)
    shown = found[(found["rank"] <= (contexts or explorer.contexts)) & (found["activation"] > 0)]
    groups = {key: group for key, group in shown.groupby(["layer", "unit"]) if key in neurons}
    named = properties.labelled(study, anchor, groups, neurons).set_index(["layer", "unit"])
    members = {key: {anchor: (*key, None)} | neurons[key] for key in neurons if key in groups}
    heat = views.heat(study, members, {key: group["text"] for key, group in groups.items()})
    facts = {name: _facts(study, name, [row[name] for row in members.values() if name in row]) for name in heat}
    return [
        RosettaNeuron(
            members=tuple(
                Member(name, layer, unit, *facts[name][layer, unit], correlation)
                for name, (layer, unit, correlation) in row.items()
            ),
            label=named.loc[key, "summary"],
            category=named.loc[key, "category"],
            contexts=tuple(_context(context, row, heat, explorer.characters) for context in groups[key].itertuples()),
        )
        for key, row in members.items()
    ]  # fmt: skip


def _facts(study: Study, name: str, neurons: list[tuple]) -> dict[tuple[int, int], tuple]:
    """(depth, kurtosis, promoted tokens) of some neurons of a model."""
    spec = study.profile.models[name]
    keys = sorted({(layer, unit) for layer, unit, _ in neurons})
    model, kurtosis = study.model(name), properties.kurtosis(study, name)
    unembedding, weights = selectivity.unembedding(model), []
    for layer, of_layer in enumerate(selectivity.weights_by_layer(model)):
        weights.append(of_layer[[unit for at, unit in keys if at == layer]].to(unembedding.device))
    promoted = selectivity.promoted_tokens(torch.cat(weights), unembedding, study.profile.explorer.promoted)
    tokenizer = study.tokenizer(name)
    return {
        key: (key[0] / max(1, spec.layers - 1), float(kurtosis[key]), tuple(token_texts(tokenizer, ids)))
        for key, ids in zip(keys, promoted.tolist(), strict=True)
    }


def _context(row, members: dict, heat: dict[str, dict], characters: int) -> Context:
    """One context, cut to the characters around its peak, with every member's activations."""
    # How many characters begin before each byte: a byte inside a character belongs to that character.
    begun = np.cumsum([0, *((byte & 0b1100_0000) != 0b1000_0000 for byte in row.text.encode())])
    start, end = int(begun[row.start + 1]) - 1, int(begun[row.end])
    left = max(0, min((start + end - characters) // 2, len(row.text) - characters))
    text = row.text[left : left + characters]

    def ranges(spans: np.ndarray, acts: np.ndarray) -> list[tuple[int, int, float]]:
        first = np.clip(begun[spans[:, 0] + 1] - 1 - left, 0, len(text)).tolist()
        last = np.clip(begun[spans[:, 1]] - left, 0, len(text)).tolist()
        return [(a, b, x) for a, b, x in zip(first, last, acts.tolist(), strict=True) if a < b]

    shown = {
        name: ranges(*heat[name][row.text, layer, unit])
        for name, (layer, unit, _) in members.items()
        if (row.text, layer, unit) in heat[name]
    }
    peak = max(0, start - left), min(len(text), end - left)
    return Context(text, row.subset, row.category, peak, shown)
