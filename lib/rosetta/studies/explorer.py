"""Put together what is known of some neurons: the rows of the explorer, and of the figures that show examples.

For each neuron of one model, the anchor, and the neurons of other models matched with it: the anchor's top-activating
contexts with every model's activation on them, the tokens each promotes, kurtosis, depth and label.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from rosetta.matching.alignment import token_texts
from rosetta.matching.mutual import top_k
from rosetta.models.load import load_tokenizer
from rosetta.neurons import selectivity
from rosetta.neurons.contexts import activations_on
from rosetta.studies import properties
from rosetta.studies.matches import Study
from rosetta.viewer import page
from rosetta.viewer.page import Context, Member, RosettaNeuron

#: Neurons matched with one of the anchor's: model -> (layer, unit, correlation).
Partners = dict[str, tuple[int, int, float]]


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


def partners(anchor: str, tables: Iterable[pd.DataFrame]) -> dict[tuple[int, int], Partners]:
    """For each (layer, unit) of the anchor that is matched (mutual top-1) in any of the tables, its neighbours."""
    matched: dict[tuple[int, int], Partners] = {}
    for table in tables:
        for row in top_k(table, 1).itertuples():
            a, b = (row.model_a, row.layer_a, row.unit_a), (row.model_b, row.layer_b, row.unit_b)
            (_, *here), (other, *there) = (a, b) if a[0] == anchor else (b, a)
            matched.setdefault(tuple(here), {})[other] = (*there, float(row.correlation))
    return matched


def describe(study: Study, anchor: str, neurons: dict[tuple[int, int], Partners]) -> list[RosettaNeuron]:
    """All that the explorer shows of some neurons of one model; one that never fires is left out.

    Parameters
    ----------
    study : Study
    anchor : str
    neurons : dict of (layer, unit) to Partners
        A neuron without partners is shown alone.
    """
    explorer, contexts = study.profile.explorer, properties.contexts(study, anchor)
    shown = contexts[(contexts["rank"] <= explorer.contexts) & (contexts["activation"] > 0)]
    groups = {key: group for key, group in shown.groupby(["layer", "unit"]) if key in neurons}
    named = properties.labelled(study, anchor, groups).set_index(["layer", "unit"])
    members = {key: {anchor: (*key, None)} | neurons[key] for key in neurons if key in groups}
    heat = _heat(study, members, groups)
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
    tokenizer = load_tokenizer(spec)
    return {
        key: (key[0] / max(1, spec.layers - 1), float(kurtosis[key]), tuple(token_texts(tokenizer, ids)))
        for key, ids in zip(keys, promoted.tolist(), strict=True)
    }


def _heat(study: Study, members: dict, groups: dict) -> dict[str, dict]:
    """Each model's activations on its neurons' contexts: model -> (text, layer, unit) -> (bytes of tokens, activations)."""
    result = {}
    for name in dict.fromkeys(name for row in members.values() for name in row):
        wanted: dict[str, list[tuple[int, int]]] = {}
        for key, row in members.items():
            if name in row:
                for text in groups[key]["text"]:
                    wanted.setdefault(text, []).append(row[name][:2])
        width = study.profile.models[name].mlp_width
        columns = {text: [layer * width + unit for layer, unit in neurons] for text, neurons in wanted.items()}
        batch = study.per_batch([name])
        read = activations_on(study.reader(name), columns, study.profile.context, batch)
        result[name] = {
            (text, *neuron): (spans, acts[:, column])
            for text, (spans, acts) in read.items()
            for column, neuron in enumerate(wanted[text])
        }
    return result


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
