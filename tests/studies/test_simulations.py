import pandas as pd

from rosetta import profiles
from rosetta.studies import simulations
from rosetta.studies.matches import Study


def test_what_notebook_04_asks_for_is_computed_once(tmp_path, monkeypatch):
    study = Study("smoke", tmp_path)
    first = simulations.kept_grid(study), simulations.kept_variations(study, "robustness")
    theory_of = study.profile.theory
    assert len(first[0]) == len(theory_of.grid.betas) * len(theory_of.grid.sizes) * theory_of.grid.runs
    assert set(first[1]["choice"]) == {"kappa", "gamma", "n_inputs"}
    monkeypatch.setattr(simulations, "grid", None)
    again = simulations.kept_grid(study), simulations.kept_variations(study, "robustness")
    for a, b in zip(first, again, strict=True):
        pd.testing.assert_frame_equal(a, b)


def test_the_micro_profile_holds_the_papers_grid():
    t = profiles.load("micro").theory
    assert (
        t.grid.betas == (1.5, 1.75, 2.0, 2.25, 2.5, 3.0)
        and t.grid.sizes == tuple(2**e for e in range(10, 18))
        and t.grid.runs == 10
    )
    assert (t.inputs, t.kappa, t.gamma) == (10_000, 1.0, 4.0) and t.tau > 1
    assert t.robustness.kappa == t.robustness.gamma == tuple(2.0**e for e in range(-1, 6))
    assert t.robustness.n_inputs == (10**3, 10**4, 10**5)
