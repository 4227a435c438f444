"""Neurons of one model with those matched with them in others, over the same texts: what the explorer and a labeller show."""

import hashlib
import json
from collections.abc import Iterable

import pandas as pd

from rosetta.matching.mutual import top_k
from rosetta.neurons import views
from rosetta.neurons.contexts import activations_on
from rosetta.results import keep
from rosetta.studies.matches import Study

#: Neurons matched with one of a model's: model -> (layer, unit, correlation).
Partners = dict[str, tuple[int, int, float]]


def partners(anchor: str, tables: Iterable[pd.DataFrame]) -> dict[tuple[int, int], Partners]:
    """For each (layer, unit) of the anchor that is matched (mutual top-1) in any of the tables, its neighbours."""
    matched: dict[tuple[int, int], Partners] = {}
    for table in tables:
        for row in top_k(table, 1).itertuples():
            a, b = (row.model_a, row.layer_a, row.unit_a), (row.model_b, row.layer_b, row.unit_b)
            (_, *here), (other, *there) = (a, b) if a[0] == anchor else (b, a)
            matched.setdefault(tuple(here), {})[other] = (*there, float(row.correlation))
    return matched


def heat(study: Study, members: dict, texts: dict) -> dict[str, dict]:
    """Each model's activations on its neurons' contexts: model -> (text, layer, unit) -> (bytes of tokens, activations).

    Parameters
    ----------
    study : Study
    members : dict of (layer, unit) to dict
        Of each neuron, the models that have it, and its layer and unit there.
    texts : dict of (layer, unit) to iterable of str
        Its contexts.
    """
    result = {}
    for name in dict.fromkeys(name for row in members.values() for name in row):
        wanted: dict[str, list[tuple[int, int]]] = {}
        for key, row in members.items():
            if name in row:
                for text in texts[key]:
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


def shown(study: Study, name: str, contexts: pd.DataFrame, partners: dict[tuple[int, int], Partners]) -> pd.DataFrame:
    """Some contexts of a model's neurons as a labeller is shown them (`views.shown`), kept: ``layer, unit, rank, shown``.

    Parameters
    ----------
    study : Study
    name : str
    contexts : DataFrame
        Those of the neurons asked about (`properties.contexts`).
    partners : dict of (layer, unit) to Partners
        What is matched with them, where that is known.
    """
    texts = {key: group["text"] for key, group in contexts.groupby(["layer", "unit"])}
    members = {key: {name: key} | {of: at[:2] for of, at in partners.get(key, {}).items()} for key in texts}
    window, of_each = study.profile.labels.window, [[key, *members[key].items()] for key in texts]
    digest = hashlib.sha256(json.dumps(of_each, default=int).encode()).hexdigest()[:16]

    def show() -> pd.DataFrame:
        return views.shown(contexts, members, heat(study, members, texts), window)

    models = sorted({model for row in members.values() for model in row} | {name})
    parameters = study.parameters(models) | study.profile.contexts.model_dump()
    parameters |= {"of": digest, "shown": study.profile.labels.contexts, "window": window}
    return keep(study.folder / "neurons" / f"{name}.shown-{digest}.parquet", parameters, show)
