import copy

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rosetta import profiles
from rosetta.laws.theory import optimal_isolation
from rosetta.models.load import ROOT
from rosetta.models.vision import open_vision
from rosetta.profiles import Profile, ProfileError
from rosetta.profiles.sections import Settings
from rosetta.profiles.values import Section, Words
from rosetta.sources import text

SHIPPED = ("smoke", "micro", "small", "paper")

#: The runs of Table 2, as printed.
TABLE_2 = """
1 OPT-1.3B, Qwen2.5-1.5B
2 OPT-2.7B, Qwen2.5-3B
3 OPT-6.7B, Qwen2.5-7B
4 OPT-13B, Qwen2.5-14B
5 OPT-30B, Qwen2.5-32B
6 Pythia-160M, OPT-125M
7 Pythia-410M, OPT-350M
8 Pythia-1.4B, OPT-1.3B
9 Pythia-2.8B, OPT-2.7B
10 Pythia-6.9B, OPT-6.7B
11 Pythia-12B, OPT-13B
12 Pythia-160M, GPT2-124M
13 Pythia-410M, GPT2-355M
14 Pythia-1.4B, GPT2-1.5B
15 OPT-125M, Pythia-160M, GPT2-124M
16 OPT-350M, Pythia-410M, GPT2-355M
17 OPT-1.3B, Pythia-1.4B, GPT2-1.5B
18 Pythia-1.4B, OPT-1.3B, Qwen2.5-1.5B
19 Pythia-2.8B, OPT-2.7B, Qwen2.5-3B
20 Pythia-6.9B, OPT-6.7B, Qwen2.5-7B
21 Pythia-12B, OPT-13B, Qwen2.5-14B
"""

#: The runs of Table 3, by the paper's sizes, and the mean neurons of each one's models.
TABLE_3 = """
1 34_816 pMF-B, DINOv2-B
2 92_832 pMF-L, DINOv2-L
3 163_904 pMF-H, DINOv2-g
4 34_816 pMF-B, Pixio-B
5 92_832 pMF-L, Pixio-L
6 163_904 pMF-H, Pixio-H
7 203_456 Sana-1.6B, Pixio-1B
8 410_112 Flux.2-klein-4B, Pixio-5B
9 34_816 pMF-B, OpenCLIP-B
10 92_832 pMF-L, OpenCLIP-L
11 163_904 pMF-H, OpenCLIP-H
12 252_608 Sana-1.6B, OpenCLIP-bigG
13 606_720 Flux.2-klein-4B, EVA-02-CLIP-E
14 35_499 pMF-B, Pixio-B, OpenCLIP-B
15 94_656 pMF-L, Pixio-L, OpenCLIP-L
16 163_883 pMF-H, Pixio-H, OpenCLIP-H
17 266_709 Sana-1.6B, Pixio-1B, OpenCLIP-bigG
18 601_088 Flux.2-klein-4B, Pixio-5B, EVA-02-CLIP-E
19 35_499 pMF-B, DINOv2-B, OpenCLIP-B
20 94_656 pMF-L, DINOv2-L, OpenCLIP-L
21 163_883 pMF-H, DINOv2-g, OpenCLIP-H
"""

SMOKE = yaml.safe_load((ROOT / "profiles" / "smoke.yaml").read_text(encoding="utf-8"))


def changed(*keys, to) -> dict:
    """The smoke profile with one value changed; `to` is left out where it is `...`."""
    content = copy.deepcopy(SMOKE)
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    if to is ...:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = to
    return content


def of_the_hub(source: str) -> dict:
    """The smoke profile with one model of the hub."""
    return changed("models", "qwen-48x3", "source", to=source)


def test_a_context_longer_than_a_models_own_is_refused_where_its_configuration_is_on_this_machine(hub_cache):
    hub_cache("someone/short", {"model_type": "qwen2", "max_position_embeddings": 63})
    hub_cache("someone/enough", {"model_type": "gpt2", "n_positions": 64})
    with pytest.raises(ProfileError, match="context is 64, and model qwen-48x3 reads at most 63 tokens at a time"):
        profiles.check(of_the_hub("someone/short"), "mine.yaml")
    for source in ("someone/enough", "someone/never-fetched"):
        assert profiles.check(of_the_hub(source), "mine.yaml").context == 64


def test_code_of_the_hub_runs_at_one_commit_alone():
    def own(source: str, **more) -> dict:
        content = of_the_hub(source)
        content["models"]["qwen-48x3"] |= {"remote_code": True, **more}
        return content

    for more in ({}, {"revision": "main"}, {"revision": "abc1234"}):
        with pytest.raises(ProfileError, match=r"models.qwen-48x3.remote_code is true .*40 hexadecimal digits"):
            profiles.check(own("someone/own", **more), "mine.yaml")
    assert profiles.check(own("someone/own", revision="0f" * 20), "mine.yaml").models["qwen-48x3"].remote_code
    assert profiles.check(own("zoo/qwen-48x3"), "mine.yaml").models["qwen-48x3"].remote_code


def test_sequences_that_the_learner_cannot_read_are_refused():
    with pytest.raises(
        ProfileError, match=r"sequence_length is 129, and filtering.learner, gpt2-32x2, reads at most 128"
    ):
        profiles.check(changed("filtering", "training", "sequence_length", to=129), "mine.yaml")


def test_a_models_width_may_be_stated_for_planning():
    stated = profiles.check(changed("models", "qwen-48x3", "hidden_size", to=50), "mine.yaml")
    assert stated.models["qwen-48x3"].hidden_size == 50 and stated.models["opt-48x3"].hidden_size is None
    with pytest.raises(ProfileError, match="hidden_size is 0; it must be a whole number of at least 1"):
        profiles.check(changed("models", "qwen-48x3", "hidden_size", to=0), "mine.yaml")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_profile_loads(name):
    profile = profiles.load(name)
    content = yaml.safe_load((ROOT / "profiles" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert profile.name == name
    assert list(profile.models) == list(content["models"])
    assert profile.tokens == content["tokens"] and profile.k[0] == 1
    assert sum(map(len, profile.curves.values())) == sum(map(len, content["curves"].values()))
    assert profiles.load(ROOT / "profiles" / f"{name}.yaml") == profile


def test_the_paper_profile_holds_the_21_runs_of_table_2():
    runs = [tuple(line.split(" ", 1)[1].lower().split(", ")) for line in TABLE_2.strip().splitlines()]
    profile = profiles.load("paper")
    curves, pairs = profile.of("text")
    assert [point for points in curves.values() for point in points] == runs
    assert [len(points) for points in curves.values()] == [5, 6, 3, 3, 4]
    assert len(pairs) == len(set(pairs)) == 14
    assert profile.tokens == 10_000_000


def test_the_paper_profile_holds_the_21_runs_of_table_3():
    lines = [line.split(" ", 2)[1:] for line in TABLE_3.strip().splitlines()]
    profile = profiles.load("paper")
    curves, pairs = profile.of("images")
    points = [point for points in curves.values() for point in points]
    assert points == [tuple(names.lower().split(", ")) for _, names in lines]
    assert [round(profile.neurons(point)) for point in points] == [int(x) for x, _ in lines]
    assert [len(points) for points in curves.values()] == [3, 5, 5, 5, 3]
    assert len(pairs) == len(set(pairs)) == 13
    assert profile.images.count == 50_000 == max(profile.images.sweep.images)
    collapsed = [point for point in points if len(point) == 3]
    assert len(collapsed) == 8
    for point in collapsed:
        assert profile.models[profile.anchor(point)].generates and len(profile.pairs_of(point)) == 2
    # All have 16 x 16 cells but these two.
    grids = {name: spec.grid for name, spec in profile.models.items() if spec.grid not in (16, None)}
    assert grids == {"openclip-b": 14, "sana-1.6b": 32}


def test_the_paper_profiles_figures_of_images_are_the_papers():
    images = profiles.load("paper").images
    assert images.sweep.pair == ("pmf-b", "openclip-b") and images.sweep.encoders == ("openclip-b", "dinov2-b")
    assert images.k_curve == "diffusion-openclip" and images.grid == "larger"


@pytest.mark.parametrize("name", ["small", "paper"])
def test_what_is_stated_of_a_model_of_images_is_what_its_structure_has(name):
    """Of all whose architecture is known without its files."""
    described = 0
    for spec in profiles.load(name).models.values():
        if spec.kind in ("open_clip", "pmf"):
            vision = open_vision(spec, "meta")
            assert [mlp.neurons for mlp in vision.mlps] == [spec.mlp_width] * spec.layers
            assert vision.grid == (spec.grid, spec.grid) and vision.classes == spec.classes
            described += 1
    assert described == {"small": 4, "paper": 8}[name]


@pytest.mark.parametrize("name", ["smoke", "micro", "paper"])
def test_collapsed_curves_collapse_on_the_model_that_their_pairs_share(name):
    profile = profiles.load(name)
    for curve, family in {"opt-pythia-gpt2": "pythia", "pythia-opt-qwen": "opt"}.items():
        for point in profile.curves[curve]:
            assert profile.models[profile.anchor(point)].family == family
            assert len(profile.pairs_of(point)) == 2
    for point in profile.curves["pythia-opt"]:
        assert profile.anchor(point) == point[0] and profile.pairs_of(point) == [point]


def test_both_orders_of_a_pair_stay_apart():
    pair = ["opt-32x2", "pythia-32x2"]
    content = changed("curves", to={"there": [pair], "back": [pair[::-1]]}) | {"k_curve": "there"}
    content["properties"] |= {"rosetta": {"opt": "back"}, "firing": ["opt"]}
    content["explorer"]["point"] = content["positions"]["pair"] = pair
    content["examples"]["points"] = [pair, pair[::-1]]
    content["filtering"] |= {"pair": pair, "scorer": "opt-32x2"}
    content |= {"images": None, "judging": None}
    profile = profiles.check(content, "both.yaml")
    assert profile.pairs_of(tuple(pair)) == [tuple(pair)]
    assert profile.pairs_of(tuple(pair[::-1])) == [tuple(pair[::-1])]


def test_a_points_size_is_the_mean_neuron_count_of_its_models():
    # Layers x MLP width as in the models' published configurations.
    neurons = {
        "opt-125m": 12 * 3072, "pythia-160m": 12 * 3072, "gpt2-124m": 12 * 3072, "opt-350m": 24 * 4096,
        "gpt2-1.5b": 48 * 6400, "opt-13b": 40 * 20480, "pythia-12b": 36 * 20480, "opt-30b": 48 * 28672,
        "qwen2.5-7b": 28 * 18944, "qwen2.5-32b": 64 * 27648,
    }  # fmt: skip
    profile = profiles.load("paper")
    for model, expected in neurons.items():
        assert profile.models[model].neurons == expected
    assert neurons["opt-125m"] == 36864
    assert profile.neurons(("opt-30b", "qwen2.5-32b")) == (1376256 + 1769472) / 2
    assert profile.neurons(("opt-125m", "pythia-160m", "gpt2-124m")) == 36864


def test_the_papers_permuted_null_takes_no_more_than_a_quarter_of_what_its_largest_run_takes():
    paper = profiles.load("paper")
    parameters = {"opt-30b": 30e9, "qwen2.5-32b": 32.5e9}
    n_a, n_b = (paper.models[name].neurons for name in parameters)
    nulls = paper.nulls
    matches, readings = 1 + len(nulls.permutation_seeds), 2 * (1 + len(nulls.untrained_seeds))
    permuted = matches * 2 * n_a * n_b * nulls.permuted_tokens / 67e12
    reading = readings * 2 * sum(parameters.values()) * paper.tokens / 989e12
    assert 0.1 < permuted / (permuted + reading) <= 0.25
    assert all(profiles.load(name).nulls.permuted_tokens is None for name in ("smoke", "micro", "small"))


def test_the_papers_text_is_sampled_as_the_paper_samples_it_and_the_embedded_one_as_published():
    for name in ("small", "paper"):
        profile = profiles.load(name)
        assert (profile.sampling, profile.short_documents, profile.token_sweep.sweep) == ("iid", "whole", "separate")
        assert profile.corpus["dataset"] == "monology/pile-uncopyrighted" and profile.corpus["split"] == "validation"
        said = (ROOT / "profiles" / f"{name}.yaml").read_text(encoding="utf-8")
        assert all(
            subset in said for subset in ("Books3", "BookCorpus2", "OpenSubtitles", "YoutubeSubtitles", "OpenWebText2")
        )
    for name in ("smoke", "micro"):
        profile = profiles.load(name)
        assert (profile.sampling, profile.token_sweep.sweep) == ("excerpts", "nested")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (changed("learning_rate", to=1), ["unknown key learning_rate", "allowed are", "sequences_per_batch"]),
        (changed("models", "opt-32x2", "width", to=1), ["models.opt-32x2.width", "mlp_width"]),
        (changed("nulls", "seeds", to=[1]), ["nulls.seeds", "untrained_seeds"]),
        (changed("corpus", "paths", to=["a"]), ["corpus.paths", "split"]),
        (changed("tokens", to=...), ["tokens", "missing", "whole number of at least 1"]),
        (changed("models", "opt-32x2", "layers", to=...), ["models.opt-32x2.layers", "missing"]),
        (changed("nulls", "quantile", to=...), ["nulls.quantile", "missing", "between 0 and 1"]),
        (changed("corpus", to={"kind": "files"}), ["corpus.paths", "missing", "list of files"]),
        (changed("corpus", to={"split": "train"}), ["corpus", "'kind'"]),
        (changed("corpus", to={"kind": "s3"}), ["corpus.kind", "'s3'", "environment, files, hub"]),
        (changed("corpus", to={"kind": ["hub"]}), ["corpus.kind", "environment, files, hub"]),
        (changed("corpus", "split", to="test"), ["corpus.split", "'test'", "heldout or train"]),
        (changed("tokens", to="many"), ["tokens", "'many'", "whole number of at least 1"]),
        (changed("tokens", to=1e6), ["tokens", "1000000.0", "whole number"]),
        (changed("tokens", to=True), ["tokens", "True", "whole number"]),
        (changed("tokens", to=0), ["tokens is 0", "at least 1"]),
        (changed("context", to=4), ["context is 4", "at least 8"]),
        (changed("seed", to=None), ["seed is None", "whole number"]),
        (changed("sampling", to="random"), ["sampling is 'random'", "excerpts or iid"]),
        (changed("sampling", to="iid"), ["sampling is iid", "segments_per_document 1", "must be null"]),
        (
            changed("sampling", to="iid") | {"excerpt_characters": None},
            ["excerpt_characters null", "characters of a sequence"],
        ),
        (changed("short_documents", to="cut"), ["short_documents is 'cut'", "skipped or whole"]),
        (changed("short_documents", to="whole"), ["short_documents is whole", "for sampling: iid"]),
        (changed("token_sweep", "sweep", to="both"), ["token_sweep.sweep is 'both'", "nested or separate"]),
        (changed("memory_gb", to=-1), ["memory_gb is -1", "above 0"]),
        (changed("dtype", to="float16"), ["dtype", "'float16'", "float32 or bfloat16"]),
        (changed("device", to="gpu"), ["device", "'gpu'", "cuda"]),
        (changed("models", "opt-32x2", "device", to="gpu"), ["models.opt-32x2.device is 'gpu'", "cuda:N or spread"]),
        (changed("k", to=[0]), ["k is [0]", "at least 1"]),
        (changed("k", to=[1.5]), ["k is [1.5]", "whole numbers"]),
        (changed("k", to=[]), ["k is []", "list of whole numbers"]),
        (changed("k", to=2), ["k is 2", "list"]),
        (changed("k_curve", to="opt"), ["k_curve", "'opt'", "pythia-opt-qwen"]),
        (changed("nulls", "quantile", to=1.5), ["nulls.quantile is 1.5", "between 0 and 1"]),
        (changed("nulls", "untrained_seeds", to=[]), ["nulls.untrained_seeds", "at least one"]),
        (changed("positions", "pair", to=["opt-32x2", "gpt-5"]), ["positions.pair", "'gpt-5'", "qwen-48x3"]),
        (
            changed("positions", "pair", to=["opt-32x2", "qwen-48x3"]),
            ["positions.pair", "a point of one of the curves"],
        ),
        (changed("positions", "t", to=0), ["positions.t is 0", "above 0"]),
        (changed("token_sweep", "pair", to=["opt-32x2"]), ["token_sweep.pair", "two model names"]),
        (changed("token_sweep", "pair", to=["opt-32x2", "gpt-5"]), ["token_sweep.pair", "'gpt-5'", "qwen-48x3"]),
        (changed("token_sweep", "pair", to=["opt-32x2", ["a"]]), ["token_sweep.pair", "['a']"]),
        (changed("models", "opt-32x2", to=...), ["curves.opt-qwen", "'opt-32x2'", "qwen-48x3"]),
        (changed("models", "opt-32x2", to="zoo/opt-32x2"), ["models.opt-32x2", "'zoo/opt-32x2'", "mapping"]),
        (changed("curves", "opt-qwen", to=[]), ["curves.opt-qwen is []", "list of points"]),
        (changed("curves", "opt-qwen", to=[["opt-32x2"]]), ["curves.opt-qwen", "two or more different models"]),
        (changed("curves", "opt-qwen", to=[["opt-32x2"] * 2]), ["curves.opt-qwen", "two or more different models"]),
        (changed("curves", "opt-qwen", to=[["opt-32x2", {}]]), ["curves.opt-qwen", "the model {}", "qwen-48x3"]),
        (
            changed("curves", "pythia-gpt2", to=...),
            ["curves.opt-pythia-gpt2", "opt-32x2+pythia-32x2, opt-32x2+gpt2-32x2, pythia-32x2+gpt2-32x2", "but 1 are"],
        ),
        ("models", ["the file", "mapping"]),
        (None, ["the file", "mapping"]),
    ],
)
def test_what_is_wrong_is_named_with_the_file_the_key_and_what_is_allowed(tmp_path, content, said):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    with pytest.raises(ProfileError) as error:
        profiles.load(path)
    for words in [str(path), *said]:
        assert words in str(error.value)


@pytest.mark.parametrize("content", [b"tokens: [1, 2", b"a: b: c", b"tokens: \xff"])
def test_what_is_no_yaml_is_said_with_the_file(tmp_path, content):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ProfileError, match="not readable as YAML") as error:
        profiles.load(path)
    assert str(path) in str(error.value)


def test_a_profile_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(ProfileError) as error:
        profiles.load("tiny")
    assert all(name in str(error.value) for name in ("'tiny'", *SHIPPED))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.sampled_from(["", "auto", "opt-32x2"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "pair", "k"]), inner),
    max_leaves=5,
)


@st.composite
def places(draw):
    """The way of keys to some value of the smoke profile."""
    inner, keys = SMOKE, []
    while not keys or (isinstance(inner, dict | list) and inner and draw(st.booleans())):
        keys.append(draw(st.sampled_from(list(inner) if isinstance(inner, dict) else range(len(inner)))))
        inner = inner[keys[-1]]
    return keys


@settings(deadline=None, max_examples=300)
@given(places(), JUNK)
def test_whatever_stands_in_a_profile_it_is_accepted_or_refused_as_a_profile(keys, junk):
    try:
        assert isinstance(profiles.check(changed(*keys, to=junk), "mine.yaml"), Profile)
    except ProfileError as error:
        assert "mine.yaml" in str(error)


def test_a_family_is_followed_along_the_curve_that_defines_its_rosetta_neurons():
    profile = profiles.load("smoke")
    pairs = [("pythia-32x2", "opt-32x2"), ("pythia-48x3", "opt-48x3")]
    assert profile.family_points("pythia") == [(pair[0], pair) for pair in pairs]
    assert profile.family_points("opt") == [(pair[1], pair) for pair in pairs]
    assert profile.family_points("qwen") == [(f"qwen-{s}", (f"opt-{s}", f"qwen-{s}")) for s in ("32x2", "48x3")]


@pytest.mark.parametrize(
    "keys, to, said",
    [
        (("properties", "rosetta"), {"bert": "pythia-opt"}, "family 'bert'; allowed are gpt2, opt, pythia, qwen"),
        (("properties", "rosetta"), {"opt": "pythia-opt-qwen"}, "curve 'pythia-opt-qwen'; allowed are the curves of pairs"),
        (("properties", "rosetta"), {"qwen": "pythia-opt"}, "properties.rosetta.qwen is 'pythia-opt', which has no model"),
        (("properties", "firing"), ["gpt2"], "properties.firing names 'gpt2'; allowed are"),
        (("properties", "baseline", "neurons"), 0, "properties.baseline.neurons is 0; it must be"),
        (("properties", "baseline", "seeds"), ..., "the key properties.baseline.seeds is missing"),
        (("explorer", "point"), ["opt-32x2", "gpt2-32x2"], "explorer.point is ['opt-32x2', 'gpt2-32x2']; it must be a point"),
        (("examples", "points"), [["opt-32x2", "gpt2-32x2"]], "examples.points has ['opt-32x2', 'gpt2-32x2']; each must be a point"),
        (("examples", "points"), 2 * [["pythia-32x2", "opt-32x2"]], "['pythia-32x2', 'opt-32x2']; each must be a point of one of the curves, and none"),
        (("examples", "points"), [["onestep-32x2", "openclip-32x2"]], "examples.points names 'onestep-32x2', a model of images; it is about text"),
        (("filtering", "pair"), ["opt-32x2", "gpt2-32x2"], "filtering.pair is ['opt-32x2', 'gpt2-32x2']; it must be a point"),
        (("filtering", "scorer"), "qwen-32x2", "hold the scorer, 'qwen-32x2'"),
        (("models", "gpt2-32x2", "device"), "spread", "filtering.learner is 'gpt2-32x2', whose device is 'spread'; it is trained"),
        (("nulls", "permuted_tokens"), 9_000, "nulls.permuted_tokens is 9000; it must be below tokens, 9000, or null for all"),
        (("filtering", "learner"), "gpt3", "filtering names the model 'gpt3', which 'models' does not describe"),
        (("filtering", "share"), None, "both null (the whole pool) or neither"),
        (("filtering", "pool"), {"kind": "github"}, "filtering.pool.kind is 'github'; allowed are environment, codesearchnet"),
        (("filtering", "pool"), {"kind": "codesearchnet"}, "the key filtering.pool.source is missing"),
        (("filtering", "training", "warmup_share"), 3.0, "filtering.training.warmup_share is 3.0; it must be"),
        (("filtering", "labelled"), "JavaScript", "filtering.labelled is 'JavaScript', and offline labels name subsets of the corpus alone"),
        (("filtering", "labelled"), "c/c++", "no neuron could qualify; take one of Python, C/C++, "),
        (("labels", "prompt"), "no.txt", "labels.prompt is 'no.txt'; it must be null, or the path of a file"),
        (("judging", "chat"), {"prompt": "no.txt"}, "judging.chat.prompt is 'no.txt'; it must be null, or the path of a file"),
        (("labels", "window"), 0, "labels.window is 0; it must be null, or a whole number of at least 1"),
        (("labels", "contexts"), 0, "labels.contexts is 0; it must be a whole number of at least 1"),
        (("labels", "kind"), "human", "labels.kind is 'human'; it must be offline or chat"),
    ],
)  # fmt: skip
def test_what_a_section_says_of_other_parts_is_checked(keys, to, said):
    with pytest.raises(ProfileError) as error:
        profiles.check(changed(*keys, to=to), "here.yaml")
    assert said in str(error.value)


# ---------------------------------------------------------------------------------------------------------------------
# Strict


@pytest.mark.parametrize(
    ("keys", "to", "said"),
    [
        (("tokens",), "12000", "tokens is '12000'; it must be a whole number of at least 1"),
        (("tokens",), 12000.0, "tokens is 12000.0; it must be a whole number of at least 1"),
        (("seed",), False, "seed is False; it must be a whole number"),
        (("excerpt_characters",), 320.0, "excerpt_characters is 320.0; it must be null, or a whole number of at least 1"),
        (("excerpt_characters",), 0, "excerpt_characters is 0; it must be null, or a whole number of at least 1"),
        (("memory_gb",), "1", "memory_gb is '1'; it must be a number above 0"),
        (("memory_gb",), True, "memory_gb is True; it must be a number above 0"),
        (("memory_gb",), float("inf"), "memory_gb is inf; it must be a number above 0"),
        (("theory", "kappa"), float("nan"), "theory.kappa is nan; it must be a finite number above 0"),
        (("theory", "robustness", "gamma"), [1, True], "theory.robustness.gamma is [1, True]; it must be a list of finite"),
        (("theory", "robustness", "gamma"), ["4"], "theory.robustness.gamma is ['4']; it must be a list of finite"),
        (("theory", "sensitivity", "background"), [True], "theory.sensitivity.background is [True]; it must be a list of"),
        (("nulls", "untrained_seeds"), [1.0], "nulls.untrained_seeds is [1.0]; it must be a list of whole numbers"),
        (("nulls", "untrained_seeds"), {1, 2}, "nulls.untrained_seeds is {1, 2}; it must be a list of whole numbers"),
        (("nulls", "permuted_tokens"), 7e3, "nulls.permuted_tokens is 7000.0; it must be null, or a whole number of at least 1"),
        (("k_curve",), True, "k_curve is True; it must be text"),
        (("dtype",), True, "dtype is True; it must be float32 or bfloat16"),
        (("device",), "cuda:", "device is 'cuda:'; it must be auto, cpu, cuda or cuda:N"),
        (("corpus", "split"), None, "corpus.split is None; it must be heldout or train"),
        (("corpus",), {"kind": "files", "paths": [1]}, "corpus.paths is [1]; it must be a list of files"),
        (("corpus",), {"kind": "files", "paths": ["no.txt"]}, "no.txt', which is not a file"),
        (("models", "opt-32x2", "family"), True, "models.opt-32x2.family is True; it must be text"),
        (("models", "opt-32x2", "remote_code"), 1, "models.opt-32x2.remote_code is 1; it must be true or false"),
        (("token_sweep", "pair"), ["opt-32x2", True], "token_sweep.pair is ['opt-32x2', True]; it must be two model names"),
        (("curves", "opt-qwen"), [["opt-32x2", True]], "curves.opt-qwen names the model True, which 'models' does not"),
        (("properties", "firing"), [True], "properties.firing is [True]; it must be a list of names"),
        (("filtering", "tokens"), True, "filtering.tokens is True; it must be null, or a whole number of at least 1"),
        (("filtering", "training", "alpha"), "8", "filtering.training.alpha is '8'; it must be a finite number above 0"),
        (("filtering", "training", "rank"), 1.0, "filtering.training.rank is 1.0; it must be a whole number of at least 1"),
        (("name",), "mine", "unknown key name; allowed are models, corpus, curves, tokens"),
        (("stated",), {}, "unknown key stated; allowed are models, corpus, curves, tokens"),
        ((None,), 1, "unknown key None; allowed are models"),
    ],
)  # fmt: skip
def test_nothing_is_converted(keys, to, said):
    with pytest.raises(ProfileError) as error:
        profiles.check(changed(*keys, to=to), "here.yaml")
    assert str(error.value).startswith("here.yaml: ") and said in str(error.value)


def test_a_yaml_yes_is_no_name(tmp_path):
    path = tmp_path / "mine.yaml"
    text = (ROOT / "profiles" / "smoke.yaml").read_text(encoding="utf-8")
    path.write_text(text.replace("target: C/C++", "target: yes"), encoding="utf-8")
    with pytest.raises(ProfileError, match=r"filtering\.target is True; it must be text"):
        profiles.load(path)


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("tokens: 1\nseed: 0\ntokens: 1\n", "tokens", 3),
        ("nulls:\n  quantile: 0.9\n  seeds: [1]\n  quantile: 0.99\nquantile: 1\n", "quantile", 4),
        ("labels: {kind: chat,\n  kind: offline}\n", "kind", 2),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path, text, key, line):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ProfileError) as error:
        profiles.load(path)
    assert str(path) in str(error.value)
    assert f"the key {key} stands twice" in str(error.value) and f"line {line}," in str(error.value)


def test_an_int_stays_an_int_and_a_list_becomes_a_tuple():
    content = changed("theory", "robustness", "kappa", to=[1, 0.5, 4])
    theory = profiles.check(content, "mine.yaml").theory
    assert repr(theory.robustness.kappa) == "(1, 0.5, 4)" and repr(theory.tau) == "2.0"
    whole = changed("memory_gb", to=3)
    assert repr(profiles.check(whole, "mine.yaml").memory_gb) == "3"


def test_what_is_varied_keeps_its_published_order_whatever_the_files():
    content = copy.deepcopy(SMOKE)
    for section in ("robustness", "sensitivity"):
        content["theory"][section] = dict(reversed(content["theory"][section].items()))
    theory = profiles.check(content, "mine.yaml").theory
    assert list(theory.robustness.model_dump()) == ["kappa", "gamma", "n_inputs"]
    names = ["background_size", "interference_norm", "noise_floor", "background"]
    assert list(theory.sensitivity.model_dump()) == names


def test_a_label_by_a_chat_model_may_name_what_is_no_subset(tmp_path):
    content = changed("filtering", "labelled", to="JavaScript")
    content["labels"] |= {"kind": "chat", "prompt": str(tmp_path / "mine.txt")}
    (tmp_path / "mine.txt").write_text("{contexts}")
    profile = profiles.check(content, "mine.yaml")
    assert profile.labels.prompt == str(tmp_path / "mine.txt")
    assert (profile.labels.contexts, profile.labels.window) == (20, 200)


@pytest.mark.parametrize(
    "corpus, allowed",
    [
        ({"kind": "hub", "dataset": "a/b", "text": "text", "subset": "meta.pile_set_name"}, "Github"),
        ({"kind": "hub", "dataset": "a/b", "text": "text", "subset": "kind"}, "JavaScript"),
        ({"kind": "files", "paths": ["README.md"]}, "README"),
    ],
)
def test_offline_labels_are_those_of_the_corpus_as_far_as_it_is_known(corpus, allowed):
    content = changed("corpus", to=corpus)
    content["filtering"]["labelled"] = allowed
    assert profiles.check(content, "mine.yaml").filtering.labelled == allowed
    content["filtering"]["labelled"] = "Fortran"
    if allowed == "JavaScript":  # only reading tells
        assert profiles.check(content, "mine.yaml").filtering.labelled == "Fortran"
        return
    with pytest.raises(ProfileError, match=f"take one of .*{allowed}.*, or labels.kind chat"):
        profiles.check(content, "mine.yaml")


def test_a_subset_that_the_pile_of_the_hub_lacks_is_no_label():
    """Five of 22, by the card of what `small` and `paper` read; where its content is not known, all 22 may be there."""
    content = changed("corpus", to=yaml.safe_load((ROOT / "profiles" / "small.yaml").read_text())["corpus"])
    assert content["corpus"]["dataset"] == "monology/pile-uncopyrighted"
    there = text.subsets(content["corpus"])
    lacking = {"Books3", "BookCorpus2", "OpenSubtitles", "YoutubeSubtitles", "OpenWebText2"}
    assert len(there) == 17 and not lacking & set(there)
    for name in there:
        content["filtering"]["labelled"] = name
        assert profiles.check(content, "mine.yaml").filtering.labelled == name
    for name in lacking:
        content["filtering"]["labelled"] = name
        with pytest.raises(
            ProfileError, match=f"labelled is '{name}'.*take one of Github, .*Enron Emails, or labels.kind chat"
        ):
            profiles.check(content, "mine.yaml")
        other = copy.deepcopy(content)
        other["corpus"]["dataset"] = "a/pile"
        assert profiles.check(other, "mine.yaml").filtering.labelled == name


def test_a_profile_does_not_change_and_leaves_the_content_as_it_was(library):
    content = changed("corpus", to={"kind": "files", "paths": [str(library)]})
    before = copy.deepcopy(content)
    profile = profiles.check(content, "mine.yaml")
    assert content == before
    assert profile.corpus == {"kind": "files", "paths": (str(library),)}
    with pytest.raises(ValueError, match="frozen"):
        profile.tokens = 1
    with pytest.raises(ValueError, match="frozen"):
        profile.theory.grid.runs = 1


@pytest.mark.parametrize("section", [Settings, *Section.__subclasses__()], ids=lambda section: section.__name__)
def test_every_key_says_in_words_what_it_holds(section):
    for name, field in section.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        assert nested or any(isinstance(each, Words) for each in field.metadata), name


# ---------------------------------------------------------------------------------------------------------------------
# Anchors


TRIPLE = ("opt-32x2", "pythia-32x2", "gpt2-32x2")


def with_points(*points, **curves) -> dict:
    """The smoke profile with OPT-GPT-2 matched as well, so that all three pairs of its triples are, and these points."""
    more = {"opt-gpt2": [["gpt2-32x2", "opt-32x2"]], "triples": list(points)} | curves
    kept = {name: points for name, points in SMOKE["curves"].items() if name != "opt-pythia-gpt2"}
    return changed("curves", to=kept | more)


@pytest.mark.parametrize(
    ("anchor", "pairs"),
    [
        ("opt-32x2", [("pythia-32x2", "opt-32x2"), ("gpt2-32x2", "opt-32x2")]),
        ("pythia-32x2", [("pythia-32x2", "opt-32x2"), ("pythia-32x2", "gpt2-32x2")]),
        ("gpt2-32x2", [("pythia-32x2", "gpt2-32x2"), ("gpt2-32x2", "opt-32x2")]),
    ],
)
def test_a_point_rests_on_the_pairs_of_the_anchor_it_states(anchor, pairs):
    profile = profiles.check(with_points({"anchor": anchor, "models": list(TRIPLE)}), "mine.yaml")
    assert profile.curves["triples"] == (TRIPLE,)
    assert profile.point("+".join(TRIPLE)) == TRIPLE
    assert profile.anchor(TRIPLE) == anchor and profile.pairs_of(TRIPLE) == pairs
    assert ("gpt2-32x2", "opt-32x2") in profile.pairs and TRIPLE not in profile.pairs
    assert profile.neurons(TRIPLE) == 2 * 128


def test_a_pair_that_is_matched_in_both_orders_counts_once():
    both = [["opt-32x2", "gpt2-32x2"]]
    profile = profiles.check(with_points({"anchor": "opt-32x2", "models": list(TRIPLE)}, both=both), "mine.yaml")
    assert profile.pairs_of(TRIPLE) == [("pythia-32x2", "opt-32x2"), ("gpt2-32x2", "opt-32x2")]


def test_the_same_models_in_another_order_may_have_another_anchor():
    points = [{"anchor": "opt-32x2", "models": list(TRIPLE)}, {"anchor": "gpt2-32x2", "models": list(TRIPLE[::-1])}]
    profile = profiles.check(with_points(*points), "mine.yaml")
    assert (profile.anchor(TRIPLE), profile.anchor(TRIPLE[::-1])) == ("opt-32x2", "gpt2-32x2")


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([list(TRIPLE)], ["but 3 are", "where more are, state the anchor: {anchor: opt-32x2, models: [opt-32x2, "]),
        ([{"anchor": "opt-48x3", "models": list(TRIPLE)}], ["anchor 'opt-48x3'; an anchor is one of a point's three or more"]),
        ([{"anchor": "bert", "models": list(TRIPLE)}], ["with the anchor 'bert'; an anchor is one of"]),
        ([{"anchor": "opt-32x2", "models": ["opt-32x2", "qwen-32x2"]}], ["an anchor is one of a point's three or more models"]),
        (
            [{"anchor": "gpt2-48x3", "models": ["opt-48x3", "pythia-48x3", "gpt2-48x3"]}],
            ["'gpt2-48x3'; 2 of its pairs (opt-48x3+gpt2-48x3, pythia-48x3+gpt2-48x3)", "but 1 are: [('pythia-48x3', 'gpt2-48x3')]"],
        ),
        (
            [{"anchor": "opt-32x2", "models": list(TRIPLE)}, {"anchor": "gpt2-32x2", "models": list(TRIPLE)}],
            ["with the anchor 'opt-32x2', and again with 'gpt2-32x2'; a point has one anchor; the same models in another order"],
        ),
        ([{"anchor": "opt-32x2", "models": list(TRIPLE)}, list(TRIPLE)], ["'opt-32x2', and again without one; a point has one"]),
        ([{"anchor": "opt-32x2"}], ["the key curves.triples.0.models is missing; it holds a list of two or more"]),
        ([{"ankor": "opt-32x2", "models": list(TRIPLE)}], ["unknown key curves.triples.0.ankor; allowed are models, anchor"]),
        ([{"anchor": True, "models": list(TRIPLE)}], ["curves.triples.0.anchor is True; it must be text"]),
        ([{"anchor": None, "models": list(TRIPLE)}], ["curves.triples.0.anchor is None; it must be text"]),
    ],
)  # fmt: skip
def test_an_anchor_that_cannot_be_is_refused(points, said):
    with pytest.raises(ProfileError) as error:
        profiles.check(with_points(*points), "here.yaml")
    assert all(words in str(error.value) for words in ["here.yaml: ", "triples", *said])


# ---------------------------------------------------------------------------------------------------------------------
# Images


def with_curve(*points) -> dict:
    """The smoke profile with one curve more."""
    return changed("curves", to=SMOKE["curves"] | {"more": [list(point) for point in points]})


def without(*keys) -> dict:
    return changed(*keys, to=...)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (with_curve(["opt-32x2", "openclip-32x2"]),
         "curves.more has the point ['opt-32x2', 'openclip-32x2'], where opt-32x2 reads text and openclip-32x2 sees images; they have no"),
        (with_curve(["onestep-32x2", "pythia-32x2", "openclip-32x2"]), "where pythia-32x2 reads text and openclip-32x2 sees images"),
        (without("images"), "whose models see images; the key images is missing"),
        (changed("images", to=None), "whose models see images; the key images is missing"),
        (without("models", "openclip-32x2", "grid"), "the key models.openclip-32x2.grid is missing, of a model of images"),
        (without("models", "onestep-32x2", "grid"), "the key models.onestep-32x2.grid is missing, of a model of images"),
        (without("models", "onestep-32x2", "classes"), "the key models.onestep-32x2.classes is missing, of a generator"),
        (with_curve(["openclip-32x2", "onestep-48x3"]),
         "curves have the pair ['openclip-32x2', 'onestep-48x3']; the generator comes first"),
        (with_curve(["onestep-32x2", "onestep-48x3"]),
         "curves have the pair ['onestep-32x2', 'onestep-48x3'], two generators; each makes its own images"),
        (changed("images", "pair", to=["onestep-32x2", "bert"]), "images.pair names the model 'bert', which is no model of images; those are openclip"),
        (changed("images", "pair", to=["pythia-32x2", "opt-32x2"]), "images.pair names the model 'pythia-32x2', which is no model of images"),
        (changed("images", "pair", to=["onestep-48x3", "dinov2-48x3"]), "images.pair is ['onestep-48x3', 'dinov2-48x3']; it must be a point of"),
        (changed("images", "k_curve", to="pythia-opt"), "images.k_curve is 'pythia-opt'; allowed are the curves of images, onestep-openclip, "),
        (changed("k_curve", to="onestep-openclip"), "k_curve is 'onestep-openclip'; allowed are the curves of text, opt-qwen, "),
        (changed("images", "sweep", "pair", to=["onestep-32x2", "gpt2-32x2"]), "images.sweep.pair names the model 'gpt2-32x2', which is no model"),
        (changed("images", "sweep", "pair", to=["dinov2-32x2", "openclip-32x2"]),
         "images.sweep.pair is ['dinov2-32x2', 'openclip-32x2']; the first must be a generator, onestep-32x2, onestep-48x3"),
        (changed("images", "sweep", "pair", to=["openclip-32x2", "onestep-32x2"]),
         "images.sweep.pair is ['openclip-32x2', 'onestep-32x2']; the generator comes first"),
        (changed("images", "sweep", "pair", to=["onestep-32x2", "onestep-48x3"]), "images.sweep.pair is ['onestep-32x2', 'onestep-48x3'], two generators"),
        (changed("images", "sweep", "encoders", to=["openclip-32x2", "bert"]), "images.sweep.encoders names the model 'bert', which is no model of images"),
        (changed("images", "sweep", "encoders", to=["onestep-32x2", "dinov2-32x2"]),
         "images.sweep.encoders names onestep-32x2, which is a generator; Figure 35 is about two encoders"),
        (changed("images", "permuted", to=48), "images.permuted is 48; it must be below images.count, 48, or null for all"),
        (changed("images", "permuted", to=49), "images.permuted is 49; it must be below images.count, 48"),
        (changed("positions", "pair", to=["onestep-32x2", "openclip-32x2"]), "positions.pair names 'onestep-32x2', a model of images; it is about text"),
        (changed("token_sweep", "pair", to=["opt-32x2", "openclip-32x2"]), "token_sweep.pair names 'openclip-32x2', a model of images; it is about text"),
        (changed("filtering", to=SMOKE["filtering"] | {"pair": ["onestep-32x2", "openclip-32x2"], "scorer": "openclip-32x2"}),
         "filtering.pair names 'onestep-32x2', a model of images; it is about text"),
        (changed("filtering", "learner", to="openclip-32x2"), "filtering.learner names 'openclip-32x2', a model of images; it is about text"),
        (changed("explorer", "point", to=["onestep-32x2", "dinov2-32x2", "openclip-32x2"]), "explorer.point names 'onestep-32x2', a model of images"),
        (changed("properties", "rosetta", to={"opt": "onestep-openclip"}), "curve 'onestep-openclip'; allowed are the curves of pairs, opt-qwen"),
        (changed("properties", "rosetta", to={"openclip": "pythia-opt"}), "family 'openclip'; allowed are gpt2, opt, pythia, qwen"),
        (changed("models", "openclip-32x2", "kind", to="clip"), "models.openclip-32x2.kind is 'clip'; it must be one of language, open_clip,"),
        (changed("images", "real", to={"kind": "imagenet"}), "images.real.kind is 'imagenet'; allowed are scenes, folder"),
        (changed("images", "real", to={"kind": "folder"}), "the key images.real.path is missing"),
    ],
)  # fmt: skip
def test_what_is_said_of_images_is_checked(content, said):
    with pytest.raises(ProfileError) as error:
        profiles.check(content, "here.yaml")
    assert str(error.value).startswith("here.yaml: ") and said in str(error.value)


def test_fewer_images_permuted_than_there_are_and_all_of_them_are_accepted():
    for permuted in (47, None):
        assert profiles.check(changed("images", "permuted", to=permuted), "mine.yaml").images.permuted == permuted


def test_two_encoders_may_be_matched_over_real_images():
    profile = profiles.check(with_curve(["openclip-48x3", "dinov2-48x3"]), "mine.yaml")
    assert ("openclip-48x3", "dinov2-48x3") in profile.of("images")[1]


def test_a_profile_of_text_alone_has_no_images():
    text = {name: points for name, points in SMOKE["curves"].items() if not name.startswith("onestep")}
    profile = profiles.check(changed("curves", to=text) | {"images": None, "judging": None}, "mine.yaml")
    assert profile.images is None and profile.of("images") == ({}, [])
    assert profile.of("text") == (profile.curves, profile.pairs)


@pytest.mark.parametrize("name", ["smoke", "micro"])
def test_curves_and_pairs_are_of_text_or_of_images_and_none_is_lost(name):
    profile = profiles.load(name)
    (text, text_pairs), (images, image_pairs) = profile.of("text"), profile.of("images")
    assert text and images and {**text, **images} == profile.curves and not text.keys() & images.keys()
    assert sorted(text_pairs + image_pairs) == sorted(profile.pairs)
    families = {
        curve: {profile.models[one].family for point in points for one in point} for curve, points in images.items()
    }
    assert all("onestep" in of_curve for of_curve in families.values())
    for modality, pairs in (("text", text_pairs), ("images", image_pairs)):
        assert pairs and {profile.models[one].modality for pair in pairs for one in pair} == {modality}
        assert (
            {profile.modality(pair) for pair in pairs} == {profile.modality(pair[::-1]) for pair in pairs} == {modality}
        )


def test_the_largest_k_is_that_of_the_pairs_on_both_k_curves():
    profile = profiles.load("smoke")
    on_curve = {*profile.curves["pythia-opt"], *profile.curves["onestep-openclip"]}
    assert len(on_curve) == 4
    for pair in profile.pairs:
        assert profile.k_of(pair) == profile.k_of(pair[::-1]) == (2 if pair in on_curve else 1), pair


def test_of_a_k_curve_of_collapsed_points_their_pairs_are_matched_for_the_largest_k():
    profile = profiles.check(changed("images", "k_curve", to="onestep-dinov2-openclip"), "mine.yaml")
    of_images = {pair: profile.k_of(pair) for pair in profile.of("images")[1]}
    assert of_images == {
        ("onestep-32x2", "openclip-32x2"): 2,
        ("onestep-48x3", "openclip-48x3"): 1,
        ("onestep-32x2", "dinov2-32x2"): 2,
    }


# ---------------------------------------------------------------------------------------------------------------------
# A neuron for each isolated feature (D.7)


@settings(max_examples=60)
@example(6, 1.5, 32.0, 32.0, "kappa")
@given(st.integers(0, 7), st.floats(1.05, 4), st.floats(0.1, 60), st.floats(1, 40), st.sampled_from(["kappa", "gamma"]))
def test_a_simulation_with_more_isolated_features_than_neurons_is_refused(exponent, beta, kappa, gamma, varied):
    n, grid = 2**exponent, {"betas": [3.0, beta], "size_exponents": [exponent, 12], "runs": 1}
    others = {"kappa": 0.5, "gamma": 1.0} | {
        key: value for key, value in (("kappa", kappa), ("gamma", gamma)) if key != varied
    }
    robustness = SMOKE["theory"]["robustness"] | {"kappa": [0.5], "gamma": [1]}
    robustness[varied] = [0.5, {"kappa": kappa, "gamma": gamma}[varied]]
    content = SMOKE | {"theory": SMOKE["theory"] | others | {"varied": grid, "robustness": robustness}}
    if any((optimal_isolation(size, min(beta, 3.0), kappa, gamma) > 0).sum() > size for size in (n, 2**12)):
        with pytest.raises(ProfileError, match=r"theory\..*more features would be isolated than there are neurons"):
            profiles.check(content, "mine.yaml")
    else:
        profiles.check(content, "mine.yaml")
