"""Figure 38: a family beside a curve, and what would be counted of it by other activations than m_t (I.1)."""

import pandas as pd
from tqdm.auto import tqdm

from rosetta.matching.images import ImageReader
from rosetta.matching.mutual import top_k
from rosetta.models.mlps import as_released
from rosetta.results import keep
from rosetta.studies.matches import Study

#: How a model is read.
RIGHT, RELEASED = "m_t", "as released"


def against(study: Study) -> pd.DataFrame:
    """Figure 38: the counts of a family beside a curve's, and what they would be with the wrong activations (`mlps.as_released`).

    Returns
    -------
    DataFrame
        ``curve, capture`` ("m_t" or "as released", the latter only where it reads something else), ``generator, encoder``;
        ``neurons``, the mean of both models; ``read``: the numbers of the encoder at each cell; ``count`` of mutual nearest
        neighbours, ``r`` their mean correlation.
    """
    compared, profile = study.profile.judging.compared, study.profile
    rows = [
        _counted(study, curve, RIGHT, pair, study.matches(pair))
        for curve, pairs in ((compared.beside, profile.curves[compared.beside]), (compared.name, compared.pairs))
        for pair in tqdm(pairs, desc=curve, leave=False)
    ]
    for pair in tqdm(compared.pairs, desc="as released", leave=False):
        table = released_matches(study, pair)
        if table.attrs["released"]:
            rows.append(_counted(study, compared.name, RELEASED, pair, table))
    return pd.DataFrame(rows)


def released_matches(study: Study, pair: tuple[str, str]) -> pd.DataFrame:
    """The MatchTable of a generator and an encoder that is read as the authors' released script reads it.

    ``attrs["released"]`` says whether that differs from m_t; where it does not, the table is that of `Study.matches`.
    """

    def compute() -> pd.DataFrame:
        vision = study.vision(pair[1])
        read = as_released(vision.model, vision.mlps)
        if [mlp.path for mlp in read] == [mlp.path for mlp in vision.mlps]:
            table = study.matches(pair)
            table.attrs["released"] = False
            return table
        second = ImageReader(pair[1], vision._replace(mlps=read))
        table = study.match(study.batches(pair, second=second), 1)
        table.attrs["released"] = True
        return table

    parameters = study.parameters(pair) | {"matching": study.profile.matching.model_dump(), "capture": RELEASED}
    return keep(study.folder / "matches" / f"{pair[0]}--{pair[1]}.as-released.parquet", parameters, compute)


def _counted(study: Study, curve: str, capture: str, pair: tuple[str, str], matches: pd.DataFrame) -> dict:
    best = top_k(matches, 1)
    return {
        "curve": curve, "capture": capture, "generator": pair[0], "encoder": pair[1], "neurons": study.profile.neurons(pair),
        "read": matches.attrs["neurons_b"], "count": len(best), "r": best["correlation"].mean(),
    }  # fmt: skip
