"""`make plan`: what is printed, and the exit status."""

import re

import pytest

from rosetta.models.load import ROOT
from rosetta.planning.__main__ import main
from rosetta.planning.nodes import Node
from rosetta.planning.runs import matchings
from rosetta.profiles import load


def test_a_plan_of_the_paper(capsys):
    assert main(["paper"]) == 0  # not here: on the presets
    out = capsys.readouterr().out
    assert "Every run fits 8xA100." in out and "On H200: 1 x H200 141 GB" in out
    assert "hidden = hidden_size of the profile, or mlp_width / 4" in out
    assert re.search(r"opt-30b \+ qwen2\.5-32b \(\S+\) does not fit H200: .* it would with 2 such devices", out)
    assert "Appendix J, matching of two models of about 30B: 192 A100-hours; here opt-30b + qwen2.5-32b" in out
    assert "Appendix J, matching of two models of about 100M: 4 A100-hours; here pythia-160m + opt-125m" in out
    assert re.search(r"Requests to a chat endpoint: at most [\d,]+\.", out)
    assert "50,000 images" in out and "pictures 49.2 GB" in out
    assert "Figure 34, 8 budgets to 50,000 images" in out and "Figure 35, 8 budgets to 50,000 images" in out
    for pair in load("paper").pairs:
        for method in ("exact", "bfloat16", "sketch"):
            assert re.search(rf"^{re.escape(' + '.join(pair))} +{method} +\d+ ", out, re.MULTILINE), (pair, method)


def test_a_plan_that_does_not_fit_fails(capsys):
    assert main(["paper", "A100"]) == 1
    said = capsys.readouterr()
    assert "opt-30b + qwen2.5-32b" in said.err and "does not fit A100: device 0 needs" in said.err
    assert "pythia-160m + opt-125m" in said.out and "pythia-160m + opt-125m" not in said.err


def test_a_plan_of_the_embedded_models_is_for_this_machine(capsys):
    assert main(["smoke"]) == 0
    out = capsys.readouterr().out
    absent = [name for name, spec in load("smoke").models.items() if not (ROOT / spec.source).is_dir()]
    of_sizes = (
        f"for want of an architecture, those of {', '.join(absent)}: "
        if absent
        else "Sizes of models are those of their architectures."
    )
    assert of_sizes in out and "Every run fits here." in out
    assert "Requests to a chat endpoint: none." in out and "Appendix J" not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["nowhere"], "there is no profile 'nowhere'"), (["smoke", "B1000"], "there is no node 'B1000'")],
)
def test_what_is_not_there_is_refused(arguments, said, capsys):
    assert main(arguments) == 1
    assert said in capsys.readouterr().err


def test_the_columns_stand_one_below_the_other(capsys):
    main(["smoke", "H200"])
    lines = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("On H200")) + 1
    table = matchings(load("smoke"), Node.named("H200"))
    at = lines[first].index("readings") + len("readings")
    shown = [line[:at].split()[-1] for line in lines[first + 1 : first + 1 + len(table)]]
    assert shown == list(map(str, table["readings"]))
