"""Questions to chat endpoints: one a neuron, and what is sent with it."""

from math import ceil

import numpy as np
import pandas as pd
import pytest
from seeing import some_evidence
from sklearn.datasets import load_sample_image

from rosetta.models.load import ROOT
from rosetta.neurons import labels
from rosetta.neurons.composites import composite, lettered
from rosetta.neurons.messages import picture
from rosetta.planning import questions, rest
from rosetta.planning.nodes import Node
from rosetta.profiles import load

H200 = Node.named("H200")


@pytest.fixture(scope="module")
def paper():
    return load("paper")


@pytest.fixture(scope="module")
def micro():
    return load("micro")


def test_questions_are_counted_as_the_notebooks_ask_them(paper, monkeypatch):
    monkeypatch.setattr(questions, "expected_pairs", lambda profile, pair: 700 if "qwen2.5-7b" in pair else 200)
    asked = questions.requests(paper)
    # Of 5 OpenCLIP, 3 DINOv2 and 3 generators both populations, five trials of a hundred; of one by five more numbers of images; and
    # the random neurons of Table 5, in two turns.
    verdicts = (5 + 3 + 3 + 5) * [2 * 5 * 100] + 2 * [5 * 100]
    pages = 6 * [4]  # Figures 8 to 13
    assert [row["requests"] for row in asked] == [*verdicts, 4, 4, min(1_000, 700 + 200), *pages, 200, 16384]
    assert rest.others(paper, H200)["requests"].sum() == sum(row["requests"] for row in asked)
    # 20 contexts of 2 x 200 bytes and a peak, seen in one model, two or three
    views = 20 * (2 * 200 + 4) * 2.5 / 3
    prompt = len("".join(labels.read_prompt()[1:])) / 4
    for row, models in zip(asked[len(verdicts) :], (2, 1, 3, *6 * [3], 2, 1), strict=True):
        tokens = row["requests"] * (prompt + models * views + 150) / 1e6
        assert row["what"].endswith(f", {tokens:,.3g}M tokens")


def test_what_is_asked_depends_on_how_much_is_shown_and_by_which_prompt(paper, tmp_path):
    def of(**changes):
        changed = paper.model_copy(update={"labels": paper.labels.model_copy(update=changes)})
        return questions.asked_about(changed, 10, 2)

    assert of(contexts=10) < of() < of(window=400) < of(window=None) == of(window=10**6)
    (tmp_path / "long.txt").write_text("{contexts}" + "x" * 40_000)
    own = len("".join(labels.read_prompt()[1:]))
    assert of(prompt=str(tmp_path / "long.txt")) - of() == pytest.approx(10 * (40_010 - own) / 4)
    read = rest.others(paper, H200).set_index(["run", "what"])["tokens"]
    of_labels = read[[("labels are made from" in what) for _, what in read.index]]
    n = paper.contexts.tokens
    assert of_labels.to_dict() == {
        ("pythia-6.9b", "text that labels are made from (06)"): n, ("opt-6.7b", "text that labels are made from (06)"): n,
        ("qwen2.5-7b", "text that labels are made from (06)"): n, ("pythia-6.9b", "text that labels are made from (07)"): 2 * n,
        ("opt-6.7b", "text that labels are made from (07)"): n,
    }  # fmt: skip


def test_offline_labels_ask_nobody(micro):
    assert questions.requests(micro) == [] and rest.others(micro, H200)["requests"].sum() == 0


def test_verdicts_are_counted_a_question_a_neuron_and_pictures_by_their_pixels():
    verdicts, predictions = questions.looks("openclip", 1_000, predicted=500)
    assert [verdicts["requests"], predictions["requests"]] == [1_000, 500] and verdicts["run"] == "openclip"
    assert verdicts["what"] == "verdicts by 20 images, 881 MB, 1.2M tokens"
    (alone,) = questions.looks("openclip", 10)
    assert alone["requests"] == 10 and alone.keys() == {"run", "what", "requests"}
    sent, tokens = questions.looked_at(1, 20)
    assert sent == pytest.approx(2026 * 326 * 4 / 3) and 64 * 11 < tokens < 64 * 11 + 1_000
    assert questions.looked_at(7, 20) == pytest.approx((7 * sent, 7 * tokens))
    again, more = questions.looked_at(1, 20, unseen=10)  # the whole conversation is sent again
    assert again == pytest.approx(sent + 1.6 * 444 * 984 * 4 / 3) and more > tokens + 14 * 31


@pytest.mark.parametrize(("k", "unseen"), [(2, 0), (20, 0), (50, 0), (20, 10)])
def test_what_would_be_sent_is_what_is_sent(k, unseen):
    photograph = load_sample_image("china.jpg")
    cut = np.random.default_rng(0).integers(0, (427 - 256, 640 - 256), (k + unseen, 2))
    images = [photograph[y : y + 256, x : x + 256] for y, x in cut]
    (of,) = some_evidence(1, k)
    shown = [composite(of._replace(images=images[:k])), *([lettered(images[k:])] if unseen else [])]
    sent = sum(len(picture(pixels)["image_url"]["url"]) for pixels in shown)
    assert questions.looked_at(1, k, unseen)[0] == pytest.approx(sent, rel=0.25)


def test_expected_pairs_follow_the_published_law_or_are_those_kept(micro, tmp_path, monkeypatch):
    fit = pd.read_csv(ROOT / "figures" / "fits.csv").query("count == 'raw' and curve == 'pythia-opt'").iloc[0]
    pair = ("pythia-64x4", "opt-64x4")
    monkeypatch.setattr(questions, "kept_matches", lambda profile, pair: tmp_path / "none.parquet")
    assert questions.expected_pairs(micro, pair) == ceil(np.exp(np.log(fit.c) + fit.alpha * np.log(1024)))
    table = pd.DataFrame({"rank_a": [1, 1, 2], "rank_b": [1, 2, 1]})
    table.to_parquet(tmp_path / "some.parquet")
    monkeypatch.setattr(questions, "kept_matches", lambda profile, pair: tmp_path / "some.parquet")
    assert questions.expected_pairs(micro, pair) == 1
