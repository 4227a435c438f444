"""What is read beside matchings: one reading a model, and Figure 33 in one pass or in several."""

from itertools import islice
from math import ceil

import pytest

from rosetta.matching.rates import GIB
from rosetta.models.load import ROOT
from rosetta.planning import rest
from rosetta.planning.nodes import Node
from rosetta.planning.sizes import size
from rosetta.profiles import load
from rosetta.sources import sampling

H200 = Node.named("H200")


@pytest.fixture(scope="module")
def paper():
    return load("paper")


@pytest.fixture(scope="module")
def micro():
    return load("micro")


def test_each_model_is_there_once(paper):
    table = rest.others(paper, H200)
    kurtosis, contexts = (table.loc[table["what"].str.contains(what), "run"] for what in ("kurtosis", "contexts"))
    families = {name: spec.family for name, spec in paper.models.items()}
    assert kurtosis.is_unique and {families[name] for name in kurtosis} == {"pythia", "opt", "qwen"}
    assert contexts.is_unique and {"opt-6.7b", "pythia-6.9b"} <= {*contexts}
    assert {paper.anchor(point) for point in paper.examples.points} <= {*contexts}
    assert {"opt-2.7b", "opt-13b"} <= {*contexts}  # which are on no curve of `firing`


def test_sizes_of_positions_by_hand(paper, micro):
    assert not (rest.others(micro, H200)["what"] == "sizes of positions").any()  # of its example pair only
    table = rest.others(paper, H200)
    of_pairs = table[table["what"] == "sizes of positions"].set_index("run")
    assert list(of_pairs.index) == [" + ".join(pair) for pair in paper.of("text")[1]]
    pair = ("opt-30b", "qwen2.5-32b")
    row = of_pairs.loc[" + ".join(pair)]
    once = rest.reading(paper, pair, paper.tokens)
    assert row.tokens == 2 * paper.tokens  # for means, and for sizes
    assert row.flop == pytest.approx(2 * once.flop + 2 * 2 * 5_000**2 * paper.tokens)
    first = paper.positions.outliers.model_copy(update={"size": None})
    first = paper.model_copy(update={"positions": paper.positions.model_copy(update={"outliers": first})})
    assert not (rest.others(first, H200)["what"] == "sizes of positions").any()  # known from the text


def test_kurtosis_and_contexts_by_hand(micro):
    table = rest.others(micro, H200).set_index(["run", "what"])
    of = size(micro.models["opt-64x4"])
    row = table.loc[("opt-64x4", "kurtosis over the vocabulary")]
    assert row.flop == 2 * 2 * (2 * 1024 * of.vocabulary * 64)  # float64, and with and without the gain
    read = table.loc[("pythia-64x4", "top-activating contexts")]
    assert read.tokens == micro.contexts.tokens
    assert read.flop == size(micro.models["pythia-64x4"]).reading(micro.contexts.tokens, 128, 4).float32


def test_filtering_by_hand(paper, micro):
    filtering = micro.filtering
    trained = rest.others(micro, H200).set_index("what").loc["continued pretraining, 12 runs"]
    length = filtering.training.sequence_length
    assert trained.tokens == 12 * ceil(filtering.share * filtering.tokens / length) * length
    assert trained.flop == 4 * size(micro.models[filtering.learner]).parameters * trained.tokens
    scores = rest.others(paper, H200).set_index("what").loc["scores of the pool"]
    assert scores.tokens == pytest.approx(16e6 / 0.06)  # Appendix F: 16M tokens are 6% of the pool


def test_figure_33_is_read_off_where_the_memory_holds_the_table(micro, paper):
    pair, budgets = micro.token_sweep.pair, sorted(micro.token_sweep.tokens)
    ((tokens, whole),) = rest.sweep(micro, H200, pair, budgets)
    assert tokens == budgets[-1] and whole.readings == 1
    n_a, n_b = (micro.models[name].neurons for name in pair)
    assert sum(stage.search for stage in whole.stages) == len(budgets) * n_a * n_b
    anew = rest.sweep(paper, H200, paper.token_sweep.pair, paper.token_sweep.tokens)
    assert [tokens for tokens, _ in anew] == sorted(paper.token_sweep.tokens)
    assert all(found.memory <= paper.memory_gb * GIB for _, found in anew)


def test_what_lies_on_disk_by_hand(micro):
    found = rest.disk(micro)
    assert found["checkpoints"] == sum(2 * size(spec).parameters for spec in micro.models.values())
    names = rest.contexts_models(micro)
    rows = micro.contexts.n * sum(micro.models[name].neurons for name in names)
    assert found["pictures"] == 5 * 3_000 * 64 * 64 * 3  # of five generators as many as Figure 34 asks for
    assert found["contexts"] == 64 * rows + 4 * micro.contexts.tokens * len(names)


def test_the_text_that_is_sampled_is_on_disk_in_whole_blocks(paper, micro):
    assert rest.disk(micro)["sampled text"] == 0  # excerpts are cut as they are read
    block, sweep = 8_192 * 4_096, paper.token_sweep
    whole = max(10_000_000, paper.contexts.tokens, *paper.positions.budgets)
    assert sweep.sweep == "separate" and whole == 10_000_000
    blocks = [ceil(4 * tokens / block) for tokens in (whole, *sweep.tokens)]
    assert blocks[0] == 2 and blocks[1] == 1  # the least sample is a block as well
    assert rest.disk(paper)["sampled text"] == block * sum(blocks)
    nested = paper.model_copy(update={"token_sweep": sweep.model_copy(update={"sweep": "nested"})})
    assert rest.disk(nested)["sampled text"] == block * ceil(4 * max(whole, *sweep.tokens) / block)


def test_a_sample_takes_no_more_disk_than_is_planned(paper, tmp_path, monkeypatch):
    """Measured on a corpus of this kit's sources, four bytes to a token."""
    monkeypatch.setattr(sampling, "BLOCK", 64)
    characters, tokens = 1_024, 40_000
    sweep = paper.token_sweep.model_copy(update={"sweep": "nested", "tokens": (tokens,)})
    positions = paper.positions.model_copy(update={"budgets": (tokens,)})
    contexts = paper.contexts.model_copy(update={"tokens": tokens})
    profile = paper.model_copy(update={"tokens": tokens, "excerpt_characters": characters, "token_sweep": sweep,
                                       "positions": positions, "contexts": contexts})  # fmt: skip
    corpus = {"kind": "files", "paths": sorted(map(str, (ROOT / "lib" / "rosetta" / "matching").glob("*.py")))}
    for _ in islice(sampling.sequences(corpus, 0, characters, tmp_path), 4 * tokens // characters + 1):
        pass
    kept = sum(path.stat().st_size for path in tmp_path.glob("sample-*.parquet"))
    planned = rest.disk(profile)["sampled text"]
    assert planned == 3 * 64 * characters and planned / 4 < kept <= planned


def test_figures_34_and_35_by_hand(micro):
    table = rest.others(micro, H200)
    sweep = micro.images.sweep
    of_34 = table[table["what"].str.startswith("Figure 34, 8 budgets to 3,000 images, exact")].iloc[0]
    of_35 = table[table["what"].str.startswith("Figure 35")].iloc[0]
    assert of_34.run == " + ".join(sweep.pair) and of_35.run == " + ".join(sweep.encoders)
    assert (of_34.images, of_34.tokens, of_35.images) == (3_000, 0, 6_000)  # the last of real and of generated ones
    n_a, n_b = (micro.models[name].neurons for name in sweep.pair)
    read = sum(size(micro.models[name]).seeing(3_000, 64, 4).float32 for name in sweep.pair)
    assert of_34.flop == pytest.approx(read + 2 * n_a * n_b * 3_000 * 64)


def test_every_generator_makes_its_pictures_once(paper, micro):
    table = rest.others(paper, H200)
    pictures = table[table["what"] == "its pictures"]
    assert list(pictures["run"]) == ["pmf-b", "pmf-l", "pmf-h", "sana-1.6b", "flux.2-klein-4b"]
    assert set(pictures["images"]) == {50_000} and set(rest.generators(micro).values()) == {3_000}
    assert rest.disk(paper)["pictures"] == 5 * 50_000 * 256 * 256 * 3
    sought = table.loc[table["what"] == "strongest images", "run"]
    encoders = {b for _, b in paper.of("images")[1]}
    assert (
        sought.is_unique and set(sought) == encoders | {"pmf-h"} and len(encoders) == 13
    )  # the explorer's generator, too


def test_of_text_alone_no_images_are_planned(micro):
    curves, _ = micro.of("text")
    stated = {curve: points for curve, points in micro.stated.items() if curve in curves}
    text = micro.model_copy(update={"images": None, "judging": None, "stated": stated})
    assert rest.generators(text) == {} and rest.disk(text)["pictures"] == 0
    assert rest.others(text, H200)["images"].sum() == 0


def test_separate_samples_are_each_read_for_themselves(micro):
    pair, budgets = micro.token_sweep.pair, sorted(micro.token_sweep.tokens)
    made = rest.sweep(micro, H200, pair, budgets, separate=True)
    assert [tokens for tokens, _ in made] == budgets
    separate = micro.model_copy(update={"token_sweep": micro.token_sweep.model_copy(update={"sweep": "separate"})})
    row = rest.others(separate, H200).query("what.str.startswith('Figure 33')").iloc[0]
    assert row.tokens == sum(cost.readings * tokens for tokens, cost in made) > budgets[-1]
