"""What judges say of a study's neurons, against verdicts, rates and counts found independently on the smoke profile's models."""

import copy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
import yaml
from conftest import ROOT, mutual
from scipy import stats

from rosetta.matching.mutual import top_k
from rosetta.models.zoo.vision import REGISTERS, _encoder, _write_encoder
from rosetta.neurons.judging import Verdict
from rosetta.profiles import ProfileError, check
from rosetta.studies import captures, judged, monosemanticity, properties
from rosetta.studies.matches import Study

PAIR, THIRD, TEXTS = ("onestep-32x2", "openclip-32x2"), ("onestep-32x2", "dinov3-32x2"), ("pythia-32x2", "opt-32x2")
IMAGES, K = 40, 6


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> dict:
    """The smoke profile with few images, one size of each family of images and an untrained DINOv3."""
    folder = tmp_path_factory.mktemp("zoo") / THIRD[1]
    torch.manual_seed(0)
    gated = {"use_gated_mlp": True, "hidden_act": "silu", "intermediate_size": 128}
    encoder = _encoder(
        transformers.DINOv3ViTConfig, 32, 2, **gated, num_register_tokens=REGISTERS, pos_embed_rescale=None
    )
    _write_encoder(SimpleNamespace(encoder=encoder), folder, folder)
    content = yaml.safe_load((ROOT / "profiles" / "smoke.yaml").read_text(encoding="utf-8"))
    content["models"][THIRD[1]]["source"] = str(folder)
    content["images"] |= {"count": IMAGES, "permuted": None, "pair": list(PAIR)}
    content["images"]["sweep"] |= {"pair": list(PAIR), "images": [1, IMAGES]}
    content["curves"]["onestep-openclip"] = [list(PAIR)]
    content["judging"] |= {
        "neurons": 5, "by_images": {"pair": list(PAIR), "images": [2, K, 9]},
        "validation": {"pair": list(PAIR), "runs": 2, "neurons": 4, "each": 3},
        "compared": {"beside": "onestep-dinov2", "name": "onestep-dinov3", "pairs": [list(THIRD)]},
    }  # fmt: skip
    return content


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def study(content, results) -> Study:
    return Study(check(content, "few.yaml"), results)


def changed(study: Study, **judging) -> Study:
    """The same study with something of the section changed, over the same results."""
    section = study.profile.judging.model_copy(update=judging)
    profile = study.profile.model_copy(update={"judging": section})
    profile._path = study.profile.path
    return Study(profile, study.results)


@pytest.fixture(scope="module")
def own(study) -> dict[str, np.ndarray]:
    """Both models' activations on their own grids, float64 [images, cells, neurons], read image by image."""
    generator, encoder = (study.reader(name) for name in PAIR)
    made = [generator.make([wish.label], [wish.seed]) for wish in study.pieces(PAIR)]
    acts = {
        PAIR[0]: [acts for acts, _ in made],
        PAIR[1]: [encoder.read(one.pixels[None]) for one in study.made_by(PAIR[0], IMAGES)],
    }
    return {name: torch.stack(of_model).double().numpy() for name, of_model in acts.items()}


def column(study: Study, name: str, neuron) -> int:
    return neuron[0] * study.profile.models[name].mlp_width + neuron[1]


# ---------------------------------------------------------------------------------------------------------------------
# Who is judged


@pytest.mark.parametrize("name", PAIR)
def test_populations_are_matched_and_other_neurons_alive_and_disjoint(study, own, name):
    drawn = judged.populations(study, name, PAIR)
    side = "ab"[PAIR.index(name)]
    matches = top_k(study.matches(PAIR), 1)
    matched = set(zip(matches[f"layer_{side}"], matches[f"unit_{side}"], strict=True))
    alive = {
        divmod(int(u), study.profile.models[name].mlp_width) for u in np.flatnonzero(np.ptp(own[name], (0, 1)) > 0)
    }
    for population, allowed in ((properties.ROSETTA, matched), (properties.OTHERS, alive - matched)):
        trials = drawn[population]
        every = [neuron for trial in trials for neuron in trial]
        assert len(trials) == 2 and {len(trial) for trial in trials} == {min(5, len(allowed) // 2)}
        assert every and len(set(every)) == len(every) and set(every) <= allowed


def test_trials_that_need_more_neurons_than_there_are_say_how_many_there_are(study):
    strict = changed(study, fewer=False, neurons=60)
    there = len(top_k(study.matches(PAIR), 1))
    said = (
        f"judging.trials: of openclip-32x2, Rosetta neurons there are {there} neurons; 2 disjoint trials of 60 take 120"
    )
    with pytest.raises(ProfileError, match=said):
        judged.populations(strict, PAIR[1], PAIR)
    fewer = judged.populations(changed(study, neurons=60), PAIR[1], PAIR)[properties.ROSETTA]
    assert [len(trial) for trial in fewer] == [there // 2] * 2


def test_of_no_neurons_none_are_judged(study, monkeypatch):
    none = pd.MultiIndex.from_arrays([[], []], names=["layer", "unit"])
    monkeypatch.setattr(judged, "rosetta_neurons", lambda *_: none)
    drawn = judged.populations(study, PAIR[1], PAIR)
    assert drawn[properties.ROSETTA] == [] and [len(trial) for trial in drawn[properties.OTHERS]] == [5, 5]


# ---------------------------------------------------------------------------------------------------------------------
# By what


@pytest.mark.parametrize("name", PAIR)
def test_evidence_is_the_strongest_images_by_the_mean_over_all_cells(study, own, name):
    neurons = [neuron for trials in judged.populations(study, name, PAIR).values() for neuron in trials[0]]
    shown = judged.evidence(study, name, PAIR, neurons, K)
    assert [one.neuron for one in shown] == [f"{name} L{layer}/U{unit}" for layer, unit in neurons]
    grid = study.reader(name).grid
    for one, neuron in zip(shown, neurons, strict=True):
        maps = own[name][..., column(study, name, neuron)]
        means = maps.mean(1)
        assert means[list(one.numbers)] == pytest.approx(np.sort(means)[::-1][:K], abs=1e-5)
        np.testing.assert_allclose(one.strengths, means[list(one.numbers)], atol=1e-5)
        np.testing.assert_allclose(one.maps, maps[list(one.numbers)].reshape(K, *grid), atol=1e-4)
        assert one.mean == pytest.approx(maps.mean(), abs=1e-5)
        assert len(one.images) == K and one.images[0].shape == (64, 64, 3) and one.images[0].dtype == np.uint8
    less = judged.cut(shown, 2)[0]
    assert less.numbers == shown[0].numbers[:2] and less.maps.shape == (2, *grid) and len(less.images) == 2
    assert (less.images[1] == shown[0].images[1]).all()


def test_a_dead_neuron_is_refused_by_name(study):
    table = judged.strongest(study, PAIR[1], PAIR)
    path = study.folder / "neurons"
    assert list(path.glob("*.images.parquet"))
    dead = (1, 999)
    assert dead not in set(zip(table["layer"], table["unit"], strict=True))
    with pytest.raises(ValueError, match="openclip-32x2 L1/U999 never changes over these images"):
        judged.evidence(study, PAIR[1], PAIR, [dead], K)


def test_encoders_may_be_judged_by_real_images_and_generators_never(study):
    real = changed(study, seen="real")
    pictures = list(judged.stream(real, PAIR[1], PAIR))
    assert [picture.source for picture in pictures] == [f"scenes-0#{index}" for index in range(IMAGES)]
    assert judged.stream(real, PAIR[0], PAIR) == study.pieces(PAIR)
    assert judged.of_set(real, *PAIR[1:], PAIR) == [PAIR[1]] and judged.of_set(study, PAIR[1], PAIR) == list(PAIR)
    neuron = judged.populations(real, PAIR[1], PAIR)[properties.OTHERS][0][:1]
    one = judged.evidence(real, PAIR[1], PAIR, neuron, 2)[0]
    read = study.reader(PAIR[1]).read(np.stack([picture.pixels for picture in pictures])).double().numpy()
    means = read.reshape(IMAGES, -1, read.shape[1])[..., column(study, PAIR[1], neuron[0])].mean(1)
    assert means[list(one.numbers)] == pytest.approx(np.sort(means)[::-1][:2], abs=1e-5)


def test_what_the_oracle_knows_is_what_was_wished_for_and_features_are_of_what_was_made(study):
    from rosetta.models.generators.renderer import ROW
    from rosetta.sources.scenes import scene

    known = judged.known(study, PAIR[1], PAIR)
    wish = study.pieces(PAIR)[7]
    shape = scene(wish.seed, ROW, wish.label).cells["shape"].ravel()
    assert (known.cells[7, known.factors.index("shape")] == shape).all() and len(known.cells) == IMAGES
    features = judged.features(study, PAIR[1], PAIR)
    vision, picture = study.vision("pixio-32x2"), study.made_by(PAIR[0], IMAGES)[7]
    with torch.inference_mode():
        cells = vision.run(vision.prepare(torch.from_numpy(picture.pixels)[None]))[0, 8:]
    np.testing.assert_allclose(features[7], cells.mean(0), atol=1e-4)
    assert features.shape == (IMAGES, 32) and len(cells) == 64


# ---------------------------------------------------------------------------------------------------------------------
# What is said


class Planted:
    """Says yes where the highest image's number is even, and nothing of neurons of layer 1 whose unit divides by 5."""

    def judge(self, evidence):
        return [
            None if "L1/" in one.neuron and int(one.neuron.rpartition("U")[2]) % 5 == 0
            else Verdict(one.numbers[0] % 2 == 0, f"by {len(one.numbers)}", float(one.numbers[0]))
            for one in evidence
        ]  # fmt: skip

    def predict(self, evidence, unseen):
        return [one.fires for one in unseen]


@pytest.fixture
def planted(study, monkeypatch, tmp_path):
    """A study whose oracle is `Planted`, and its results elsewhere."""
    other = Study(study.profile, tmp_path)
    real = judged.judge_of
    monkeypatch.setattr(
        monosemanticity, "judge_of", lambda s, kind, *a: Planted() if kind == "oracle" else real(s, kind, *a)
    )
    return other


def test_rates_are_those_of_the_verdicts_with_wilsons_interval(planted):
    table = monosemanticity.rates(planted)
    assert list(table["family"].unique()) == ["openclip", "dinov2", "onestep"] and len(table) == 6
    name = PAIR[1]
    top = judged.strongest(planted, name, PAIR).query("rank == 1").set_index(["layer", "unit"])["image"]
    for population, trials in judged.populations(planted, name, PAIR).items():
        neurons = [neuron for trial in trials for neuron in trial if not (neuron[0] == 1 and neuron[1] % 5 == 0)]
        yes = sum(top[neuron] % 2 == 0 for neuron in neurons)
        row = table[(table["model"] == name) & (table["population"] == population)].iloc[0]
        assert (row["judged"], row["monosemantic"], row["rate"]) == (
            len(neurons),
            yes,
            pytest.approx(yes / len(neurons)),
        )
        assert row["judged"] + row["left_out"] == sum(map(len, trials))
        interval = stats.binomtest(yes, len(neurons)).proportion_ci(method="wilson")
        assert (row["low"], row["high"]) == (
            pytest.approx(interval.low, abs=1e-9),
            pytest.approx(interval.high, abs=1e-9),
        )
    ours, others = (
        table[(table["model"] == name) & (table["population"] == p)].iloc[0]
        for p in (properties.ROSETTA, properties.OTHERS)
    )
    gap = monosemanticity.gaps(table).set_index("model").loc[name]
    low = np.hypot(ours["rate"] - ours["low"], others["high"] - others["rate"])  # Newcombe 1998, method 10
    high = np.hypot(ours["high"] - ours["rate"], others["rate"] - others["low"])
    assert gap["gap"] == pytest.approx(ours["rate"] - others["rate"])
    assert (gap["low"], gap["high"]) == (pytest.approx(gap["gap"] - low), pytest.approx(gap["gap"] + high))


def test_verdicts_are_kept_and_a_second_run_asks_nobody(planted, monkeypatch):
    first = monosemanticity.verdicts(planted, PAIR[1], PAIR)
    assert set(first["judge"]) == {"oracle", "embedding"}
    assert set(first.query("judge == 'oracle'")["images"]) == {2, K, 9} and set(
        first.query("judge != 'oracle'")["images"]
    ) == {K}
    monkeypatch.setattr(monosemanticity, "judge_of", None)
    monkeypatch.setattr(monosemanticity, "evidence", None)
    pd.testing.assert_frame_equal(monosemanticity.verdicts(planted, PAIR[1], PAIR), first)


def test_by_images_judges_the_same_neurons_by_more_and_more(planted):
    table = monosemanticity.by_images(planted)
    assert table["images"].tolist() == [2, 2, K, K, 9, 9]
    said = monosemanticity.verdicts(planted, PAIR[1], PAIR).query("judge == 'oracle'").dropna(subset="is_monosemantic")
    assert all(row.description == f"by {row.images}" for row in said.itertuples())
    by_k = [set(zip(group["layer"], group["unit"], strict=True)) for _, group in said.groupby("images")]
    assert by_k[0] == by_k[1] == by_k[2]
    at_k = monosemanticity.rates(planted).query("model == @PAIR[1]")["rate"].tolist()
    assert table.query("images == @K")["rate"].tolist() == at_k


def test_a_judge_that_foretells_all_is_right_throughout_and_unseen_images_were_not_shown(planted, own):
    table = monosemanticity.table5(planted).query("judge == 'oracle'").set_index("measure")
    assert table["mean"].tolist() == [1.0] * 4 and (table["judged"] == 8).all() and (table["runs"] == 2).all()
    assert table.loc["accuracy", "chance"] == pytest.approx(0.5)
    alive = judged.alive_neurons(planted, PAIR[1], PAIR)
    runs = judged.sample(planted, "all", alive, 2, 4, "validation")
    shown, unseen = monosemanticity._questions(planted, runs)
    for run, evidence, asked in zip(runs, shown, unseen, strict=True):
        for neuron, one, question in zip(run, evidence, asked, strict=True):
            means = own[PAIR[1]][..., column(planted, PAIR[1], neuron)].mean(1)
            assert not set(one.numbers) & set(question.numbers) and len(set(question.numbers)) == 6
            strong = {number for number, fires in zip(question.numbers, question.fires, strict=True) if fires}
            weak = set(question.numbers) - strong
            ranked = np.sort(means)[::-1]
            assert sorted(means[list(strong)])[::-1] == pytest.approx(ranked[K : K + 3], abs=1e-5)
            assert max(means[list(weak)]) <= np.median(means) + 1e-5
            assert question.images[0].shape == (64, 64, 3)


def test_agreement_is_cohens_kappa(planted):
    row = monosemanticity.agreement(planted).set_index("family").loc["openclip"]
    table = monosemanticity.verdicts(planted, PAIR[1], PAIR).query("images == @K")
    a, b = (table[table["judge"] == kind]["is_monosemantic"].to_numpy(object) for kind in ("oracle", "embedding"))
    both = np.array([(x, y) for x, y in zip(a, b, strict=True) if not pd.isna(x)], dtype=bool)
    observed, (p, q) = (both[:, 0] == both[:, 1]).mean(), both.mean(0)
    expected = p * q + (1 - p) * (1 - q)
    assert row["both"] == len(both) < len(a) and row["share"] == pytest.approx(observed)
    assert row["kappa"] == pytest.approx((observed - expected) / (1 - expected))
    assert row["yes_first"] == pytest.approx(p)
    score = table[table["judge"] == "embedding"]["score"].to_numpy()
    yes, no = (score[[x is not pd.NA and x == said for x in a]] for said in (True, False))
    assert row["auc"] == pytest.approx(np.mean([(x > y) + (x == y) / 2 for x in yes for y in no]))


def test_examples_are_one_of_each_kind_with_what_was_said(planted):
    shown = monosemanticity.examples(planted, PAIR[1], PAIR, images=3)
    kinds = [title.partition(" (")[2].partition(",")[0] for title, _ in shown]
    assert (
        kinds == [k for k in ("Rosetta): yes", "Rosetta): no", "other): yes", "other): no") if k in kinds]
        and len(kinds) >= 3
    )
    for title, one in shown:
        assert title.startswith(one.neuron) and len(one.numbers) == 3
        assert ("yes" in title) == (one.numbers[0] % 2 == 0)


# ---------------------------------------------------------------------------------------------------------------------
# Texts


def test_texts_are_judged_whole_and_set_beside_kurtosis(study):
    table = monosemanticity.texts(study, ["pythia"])
    name = TEXTS[0]
    verdicts = monosemanticity.judged_texts(study, name).set_index(["layer", "unit"])["is_monosemantic"]
    matches = top_k(study.matches(TEXTS), 1)
    rosetta = set(zip(matches["layer_a"], matches["unit_a"], strict=True))
    ours = [value for neuron, value in verdicts.items() if neuron in rosetta]
    row = table[table["model"] == name].iloc[0]
    assert (row["judged"], row["monosemantic"]) == (len(ours), sum(ours)) and 0 < sum(ours) < len(ours)
    kurtosis = properties.kurtosis(study, name)
    yes, no = (kurtosis[verdicts.index[verdicts == said]].to_numpy() for said in (True, False))
    brute = np.mean([(x > y) + (x == y) / 2 for x in yes for y in no])
    assert row["auc"] == pytest.approx(brute) and row["auc_low"] < brute < row["auc_high"]


def test_auc_of_one_verdict_alone_is_unknown_and_of_perfect_order_one():
    assert np.isnan(monosemanticity.auc([1, 2], [True, True])).all()
    assert monosemanticity.auc([1, 2, 3, 4], [False, False, True, True]) == (1, 1, 1)
    assert monosemanticity.auc([1, 1], [False, True])[0] == 0.5


# ---------------------------------------------------------------------------------------------------------------------
# Figure 38


def test_the_wrong_capture_is_the_blocks_normed_input(study):
    table = captures.against(study)
    assert table[["curve", "capture", "read"]].values.tolist() == [
        ["onestep-dinov2", "m_t", 256], ["onestep-dinov3", "m_t", 256], ["onestep-dinov3", "as released", 64],
    ]  # fmt: skip
    right, wrong = [], []
    vision = study.vision(THIRD[1])
    for layer in vision.model.model.layer if hasattr(vision.model, "model") else vision.model.layer:
        layer.norm2.register_forward_hook(lambda _module, _inputs, output: wrong.append(output[:, -64:]))
        layer.mlp.down_proj.register_forward_pre_hook(lambda _module, inputs: right.append(inputs[0][:, -64:]))
    pixels = torch.from_numpy(np.stack([picture.pixels for picture in study.made_by(PAIR[0], IMAGES)]))
    with torch.inference_mode():
        vision.run(vision.prepare(pixels))
    a = torch.cat([acts for acts, _ in study.batches(THIRD)]).double().numpy()
    for read, capture in ((right, "m_t"), (wrong, "as released")):
        b = torch.cat(read, dim=-1).flatten(0, 1).double().numpy()
        with np.errstate(invalid="ignore"):
            corr = np.corrcoef(a, b, rowvar=False)[: a.shape[1], a.shape[1] :]
        pairs = mutual(corr)
        row = table[(table["curve"] == "onestep-dinov3") & (table["capture"] == capture)].iloc[0]
        assert row["count"] == len(pairs) > 0
        assert row["r"] == pytest.approx(np.mean([corr[pair] for pair in pairs]), abs=1e-5)


def test_an_encoder_without_gates_is_read_the_same_either_way(study):
    pair = ("onestep-32x2", "dinov2-32x2")
    table = captures.released_matches(study, pair)
    assert table.attrs["released"] is False
    pd.testing.assert_frame_equal(table, study.matches(pair))


# ---------------------------------------------------------------------------------------------------------------------
# A profile that asks for what there is not


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (["images"], 41, "judging.images asks for the 41 strongest images; there are 40"),
        (["by_images", "images"], [2, 50], "judging.by_images.images asks for the 50 strongest images; there are 40"),
        (["by_images", "images"], [1, 6], "a number below 2"),
        (["validation", "each"], 15, "judging.validation.each is 15; with the 6 images that are shown of a neuron that is 21"),
        (["curves"], {"openclip": "onestep-dinov2"}, "judging.curves.openclip is 'onestep-dinov2', which has no model of that"),
        (["embedding", "encoder"], "openclip-48x3", "whose family is judged"),
        (["embedding", "encoder"], "onestep-32x2", "allowed are encoders of images"),
        (["compared", "pairs"], [["dinov3-32x2", "onestep-32x2"]], "a generator comes first"),
        (["compared", "name"], "onestep-dinov2", "which is the name of a curve"),
    ],
)  # fmt: skip
def test_a_section_that_asks_for_what_there_is_not(content, keys, value, said):
    wrong = copy.deepcopy(content)
    inner = wrong["judging"]
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    with pytest.raises(ProfileError, match=said):
        check(wrong, "mine.yaml")


def test_the_oracle_is_refused_where_it_knows_nothing(content):
    wrong = copy.deepcopy(content)
    wrong["images"]["real"] = {"kind": "folder", "path": "somewhere"}
    assert check(wrong, "mine.yaml").judging.judge == "oracle"  # the zoo's generator is known all the same
    wrong["judging"]["seen"] = "real"
    with pytest.raises(ProfileError, match=r"judging\.judge is 'oracle', which knows embedded scenes"):
        check(wrong, "mine.yaml")
    wrong["judging"] |= {"judge": "embedding"}
    assert check(wrong, "mine.yaml").judging.judge == "embedding"
    del wrong["judging"]["embedding"]
    with pytest.raises(ProfileError, match=r"the key judging\.embedding is missing"):
        check(wrong, "mine.yaml")


def test_the_explorer_is_told_what_the_profiles_judge_says_of_the_neurons_it_was_asked_about(study):
    said = monosemanticity.descriptions(study, PAIR)
    table = monosemanticity.verdicts(study, PAIR[1], PAIR)
    table = table[(table["judge"] == study.profile.judging.judge) & (table["images"] == study.profile.judging.images)]
    assert len(said) == len(table) > 0
    for row in table.itertuples():
        assert said[PAIR[1], row.layer, row.unit] == row.description != ""
    assert monosemanticity.descriptions(study, (PAIR[0], "pixio-32x2")) == {}
