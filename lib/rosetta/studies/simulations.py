"""The simulations of a profile (notebook 04), computed once and kept."""

import pandas as pd

from rosetta.laws.simulation import grid, one_at_a_time
from rosetta.profiles.sections import Theory, TheoryGrid
from rosetta.results import keep
from rosetta.studies.matches import Study


def kept_grid(study: Study, background: str = "all") -> pd.DataFrame:
    """The grid of Figure 27 as a study's profile has it, with either kind of background set (`recover`)."""
    arguments = _arguments(study.profile.theory, study.profile.theory.grid) | {"background": background}
    path = study.folder / "tables" / f"theory_grid.{background}.parquet"
    return keep(path, arguments, lambda: grid(**arguments))


def kept_variations(study: Study, name: str) -> pd.DataFrame:
    """``"robustness"`` (kappa, gamma and M, as D.7 reports it) or ``"sensitivity"`` (what the paper leaves open)."""
    theory = study.profile.theory
    arguments, variations = _arguments(theory, theory.varied), getattr(theory, name).model_dump()
    path = study.folder / "tables" / f"theory_{name}.parquet"
    return keep(path, arguments | {"variations": variations}, lambda: one_at_a_time(variations, **arguments))


def _arguments(theory: Theory, cells: TheoryGrid) -> dict:
    return {
        "sizes": cells.sizes, "betas": cells.betas, "runs": cells.runs, "seed": theory.seed, "tau": theory.tau,
        "n_inputs": theory.inputs, "kappa": theory.kappa, "gamma": theory.gamma,
    }  # fmt: skip
