"""The oracle against brute force, and on neurons planted over the cells of real scenes."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom, binomtest

from rosetta.matching.generated import wishes
from rosetta.models.generators.renderer import ROW
from rosetta.neurons.judging import Evidence, Unseen
from rosetta.neurons.oracle import Known, Oracle, chance, verdict
from rosetta.neurons.validation import by_chance, held_out, measured
from rosetta.sources.drawing import VALUES
from rosetta.sources.scenes import CLASSES, scene

IMAGES = 1_000
NEURONS = 300


@pytest.fixture(scope="module")
def known():
    return Known.of_scenes(range(IMAGES), seed=7)


@pytest.fixture(scope="module")
def oracle(known):
    return Oracle(known)


def has(known, name) -> np.ndarray:
    """In which cells of which images a value is, bool [images, 64]."""
    factor, value = name.split(" ", 1)
    number = (*VALUES[factor], "ground").index(value)
    return known.cells[:, known.factors.index(factor)] == number


def shown(neuron, maps, k=20) -> Evidence:
    """A neuron's strongest images by the mean, from its maps on all of them, [images, 64]."""
    strengths = maps.mean(1)
    top = np.argsort(-strengths, kind="stable")[:k]
    found = maps[top].reshape(k, 8, 8).astype(np.float32)
    return Evidence(neuron, tuple(top.tolist()), [], found, strengths[top].astype(np.float32), float(maps.mean()))


def noise(rng, images=IMAGES):
    return 0.15 * rng.standard_normal((images, 64))


def strong(rng, images=IMAGES):
    """How strongly a neuron fires in each image."""
    return rng.uniform(0.5, 1.5, (images, 1))


def frequent(known, oracle, least) -> list[str]:
    """Values that at least so many images have, but not all cells of nearly all (of which nothing can be told)."""
    return [n for n in oracle.names if has(known, n).any(1).sum() >= least and n != "part ground"]


def upper(errors, n):
    """Clopper and Pearson's lower 95% bound of a rate: above what was promised, the promise is broken."""
    return beta.ppf(0.05, errors, n - errors + 1) if errors else 0.0


# ---------------------------------------------------------------------------------------------------------------------
# The core


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.data())
def test_chance_is_that_of_going_through_all_outcomes(base, data):
    held = data.draw(st.lists(st.booleans(), min_size=len(base), max_size=len(base)))
    expected = 0.0
    for outcome in product((False, True), repeat=len(base)):
        if sum(outcome) >= sum(held):
            expected += np.prod([b if yes else 1 - b for yes, b in zip(outcome, base, strict=True)])
    found = chance(np.array(held)[:, None], np.array(base)[:, None])
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)


def test_chance_of_equal_probabilities_is_binomial_even_where_it_is_tiny():
    held = np.arange(20)[:, None] < np.arange(21)  # 0 to 20 of 20
    found = chance(held, np.full(held.shape, 0.03))
    np.testing.assert_allclose(found, binom.sf(np.arange(21) - 1, 20, 0.03), rtol=1e-10)
    assert found[-1] < 1e-30


def test_a_verdict_names_all_values_that_hold_often_and_not_by_chance():
    holds = np.ones((20, 4), dtype=bool)
    holds[:2, 1] = False  # 18 of 20
    holds[:9, 2] = False
    base = np.tile([0.1, 0.2, 0.1, 0.95], (20, 1))
    said = verdict(holds, base, ["colour red", "shape circle", "size large", "part edge"])
    assert said == (True, "colour red, shape circle", 1.0)
    said = verdict(holds, base, ["a", "b", "c", "d"], least_share=0.95)
    assert said == (True, "a", 1.0)
    said = verdict(holds[:, 2:], base[:, 2:], ["size large", "part edge"])
    assert not said.is_monosemantic and said.score == 11 / 20
    assert said.description.startswith("size large holds in 11 of 20") and "may well be chance" in said.description
    said = verdict(holds[:, 3:], base[:, 3:], ["part edge"])
    assert not said.is_monosemantic and said.score == 0 and "may well be chance: part edge" in said.description
    said = verdict(holds[:, 2:3], base[:, 2:3], ["size large"])
    assert said.description == "no value holds in 85%: size large holds in 11 of 20, 10% by chance"
    said = verdict(np.zeros((3, 2)), base[:3, :2], ["a", "b"])
    assert said == (False, "no known value holds where it fires", 0.0)


def test_the_more_hypotheses_the_less_is_believed():
    holds, base = np.ones((3, 1), dtype=bool), np.full((3, 1), 0.1)
    assert verdict(holds, base, ["a"], alpha=0.01).is_monosemantic  # p is 0.001
    assert verdict(holds, base, ["a"], alpha=0.0101, hypotheses=10).is_monosemantic
    assert not verdict(holds, base, ["a"], alpha=0.0101, hypotheses=11).is_monosemantic


def test_a_value_that_a_mixture_leaves_unexplained_is_not_the_feature():
    # 100 things: an object in half of them, red in 10 of these, blue in others.
    things = np.zeros((3, 100), dtype=bool)
    things[0, :50], things[1, :10], things[2, 10:20] = True, True, True
    holds = np.zeros((20, 3), dtype=bool)
    holds[:, 0], holds[:10, 1], holds[10:, 2] = True, True, True
    base, names = np.tile(things.mean(1), (20, 1)), ["object", "red", "blue"]
    assert verdict(holds, base, names).description == "object"  # unless one knows what else there is
    said = verdict(holds, base, names, where=lambda value: things[value][None])
    assert said == (False, "either red (10 of 20) or blue (10 of 20); all have object", 0.5)
    assert verdict(holds, base, names, where=lambda value: things[value][None], parts=[0, 1]).is_monosemantic
    # Where objects are rarely anything else, red or blue is no surprise.
    weights = np.where(things[1] | things[2], 50.0, 1.0)
    assert verdict(holds, base, names, where=lambda value: things[value][None], weights=weights).is_monosemantic


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"holds": np.ones((4, 3))}, "holds is"),
        ({"names": ["a"]}, "1 names"),
        ({"holds": np.ones((0, 2)), "base": np.ones((0, 2))}, "expected"),
        ({"base": np.full((4, 2), np.nan)}, "NaN"),
        ({"base": np.full((4, 2), 1.1)}, "probability"),
        ({"alpha": 0.0}, "alpha"),
        ({"least_share": 1.5}, "least_share"),
    ],
)
def test_a_verdict_refuses_what_does_not_fit(wrong, said):
    good = {"holds": np.ones((4, 2)), "base": np.full((4, 2), 0.5), "names": ["a", "b"]}
    with pytest.raises(ValueError, match=said):
        verdict(**(good | wrong))


# ---------------------------------------------------------------------------------------------------------------------
# What is known of images


def test_what_is_known_is_what_scenes_say_of_their_cells(known):
    one = scene(17, 7)
    for factor, cells in one.cells.items():
        number = known.factors.index(factor)
        expected = np.where(cells < 0, 2, cells) if factor == "part" else cells
        assert (known.cells[17, number].reshape(8, 8) == expected).all()
    assert known.cells.dtype == np.int8 and known.cells.nbytes == IMAGES * len(VALUES) * 64
    assert (has(known, "part ground") | has(known, "part edge") | has(known, "part inside")).all()


def test_of_a_generators_pictures_what_was_asked_for_is_known():
    wished = wishes(20, CLASSES, seed=3)
    of_wishes = Known.of_wishes(wished)
    shape = of_wishes.cells[:, of_wishes.factors.index("shape")]
    expected = np.stack([scene(wish.seed, ROW, wish.label).cells["shape"].ravel() for wish in wished])
    assert (shape == expected).all() and sum(wish.label in row for wish, row in zip(wished, shape, strict=True)) >= 15


def test_known_refuses_other_cells():
    cells = scene(0).cells
    with pytest.raises(ValueError, match="at least one"):
        Known.of([])
    with pytest.raises(ValueError, match="image 1"):
        Known.of([cells, cells | {"colour": np.zeros((7, 7), np.int8)}])
    with pytest.raises(ValueError, match="image 0"):
        Known.of([{"colour": cells["colour"]}])


# ---------------------------------------------------------------------------------------------------------------------
# Neurons


def test_what_holds_and_how_often_by_chance_are_those_of_loops():
    few = Known.of_scenes(range(40), seed=3)
    oracle, rng = Oracle(few, fires_above=0.6, cell_share=0.7), np.random.default_rng(0)
    one = shown("a", strong(rng, 40) * has(few, "colour red") + noise(rng, 40), 6)
    fired = oracle._fired(one)
    for mask, of_image in zip(fired, one.maps.reshape(6, 64), strict=True):
        assert (mask == (of_image >= one.mean + 0.6 * (of_image.max() - one.mean))).all() and mask.any()
    base = oracle._base(fired)
    for column, name in enumerate(oracle.names):
        shares = [np.mean([cells[mask].mean() >= 0.7 for cells in has(few, name)]) for mask in fired]
        np.testing.assert_allclose(base[:, column], shares, atol=1e-12)


def test_a_neuron_for_one_value_is_told_with_that_value(known, oracle):
    rng = np.random.default_rng(1)
    wanted = [str(name) for name in rng.choice(frequent(known, oracle, 60), NEURONS)]
    said = oracle.judge([shown(name, has(known, name) * strong(rng) + noise(rng)) for name in wanted])
    right = [one.is_monosemantic and name in one.description for one, name in zip(said, wanted, strict=True)]
    assert len(set(wanted)) > 40 and np.mean(right) >= 0.99
    assert np.mean([one.score for one in said]) > 0.97


def test_a_neuron_for_two_values_as_often_for_one_as_for_the_other_is_told(known, oracle):
    rng, evidence = np.random.default_rng(2), []
    names = [name for name in frequent(known, oracle, 80) if name.split()[0] not in ("part", "size")]
    while len(evidence) < NEURONS:
        one, other = (has(known, name) for name in rng.choice(names, 2, replace=False))
        alone = [np.flatnonzero(a.any(1) & ~b.any(1)) for a, b in ((one, other), (other, one))]
        if (one.any(1) | other.any(1)).mean() > 0.5 or min(map(len, alone)) < 40:
            continue  # half the images at most, or being of the two is no surprise
        # It knows as many images of either; each counts alike, however many cells it fires in.
        maps = np.zeros((IMAGES, 64))
        for images, cells in zip(alone, (one, other), strict=True):
            images = rng.permutation(images)[:40]
            maps[images] = cells[images] / cells[images].sum(1, keepdims=True)
        evidence.append(shown("two", 8 * maps * strong(rng) + noise(rng)))
    said = oracle.judge(evidence)
    assert np.mean([not one.is_monosemantic for one in said]) >= 0.99
    assert np.mean(["either" in one.description for one in said]) > 0.4  # most are also inside or at an edge, always


@pytest.mark.parametrize("least_share", [0.0, 0.85])
def test_of_neurons_that_know_nothing_at_most_alpha_are_called_monosemantic(known, least_share):
    rng, alpha = np.random.default_rng(3), 0.05
    oracle = Oracle(known, alpha, least_share)
    lone = np.zeros((IMAGES, 64))

    def spots():  # fires in a random patch of each image
        maps = lone.copy()
        at = rng.integers(0, 6, (IMAGES, 2))
        for image, (row, column) in enumerate(at):
            maps[image].reshape(8, 8)[row : row + 3, column : column + 3] = 1
        return maps * strong(rng)

    for maps in (lambda: noise(rng), spots):
        said = oracle.judge([shown("noise", maps()) for _ in range(400)])
        wrong = sum(one.is_monosemantic for one in said)
        assert upper(wrong, 400) <= alpha, wrong
        # By chance some value is significant; that it also holds nearly everywhere is rarer by far.
        assert wrong > 0 if least_share == 0 else wrong == 0


@pytest.mark.parametrize("least_share", [0.0, 0.85])
def test_a_neuron_that_only_knows_a_place_is_told_apart(known, least_share):
    rng = np.random.default_rng(4)
    oracle, evidence = Oracle(known, least_share=least_share), []
    for _ in range(NEURONS):
        place = np.zeros((8, 8))
        row, column, rows, columns = rng.integers(0, 7, 2).tolist() + rng.integers(1, 5, 2).tolist()
        place[row : row + rows, column : column + columns] = 1
        evidence.append(shown("place", place.ravel() * strong(rng) + noise(rng)))
    said = oracle.judge(evidence)
    wrong = sum(one.is_monosemantic for one in said)
    assert upper(wrong, NEURONS) <= 0.05 and (wrong == 0 or least_share == 0)
    told = [one.description.startswith("it fires in the same cells") for one in said if not one.is_monosemantic]
    if least_share:
        assert np.mean(told) > 0.95


def test_a_map_of_another_grid_is_brought_to_the_known_one(known, oracle):
    rng = np.random.default_rng(5)
    one = shown("fine", has(known, "colour red") * strong(rng) + noise(rng))
    finer = one._replace(maps=np.repeat(np.repeat(one.maps, 2, 1), 2, 2))
    (said,), (as_known,) = oracle.judge([finer]), oracle.judge([one])
    assert said.is_monosemantic and "colour red" in said.description and as_known.is_monosemantic


def test_a_neuron_that_never_changes_has_no_verdict_by_what_it_fires_on(known, oracle):
    (said,) = oracle.judge([shown("dead", np.full((IMAGES, 64), 0.25))])
    assert not said.is_monosemantic and np.isnan(said.score) and "nowhere above its mean" in said.description
    dead = shown("dead", np.zeros((IMAGES, 64)))
    assert oracle.predict([dead], [Unseen((500, 501), [], (True, False))]) == [(False, False)]
    assert oracle.judge([]) == []


def test_predictions_follow_what_explains_the_neuron(known, oracle):
    rng = np.random.default_rng(6)
    found, blind = [], []
    for number, name in enumerate(rng.choice(frequent(known, oracle, 60), 100)):
        for kept, maps in ((found, has(known, str(name)) * strong(rng) + noise(rng)), (blind, noise(rng))):
            asked = held_out(maps.mean(1), range(IMAGES), seed=(0, number))
            kept += [measured(*oracle.predict([shown("n", maps)], [asked]), asked.fires)]
    accuracy, precision, recall, _ = np.mean(found, axis=0)
    assert accuracy > 0.85 and precision > 0.9 and recall > 0.75
    of_noise = [one.accuracy for one in blind]
    assert binomtest(round(10 * sum(of_noise)), 1_000, by_chance().accuracy).pvalue > 1e-3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"numbers": ()}, "no images"),
        ({"numbers": (0,) * 20}, "shown twice"),
        ({"numbers": (*range(19), IMAGES)}, "the set has 1000"),
        ({"numbers": (*range(19), -1)}, "the set has 1000"),
        ({"numbers": tuple(range(21))}, "21 images"),
        ({"maps": np.zeros((20, 64), np.float32)}, "maps are"),
        ({"strengths": np.zeros(19)}, "strengths"),
        ({"maps": np.full((20, 8, 8), np.nan)}, "NaN"),
        ({"mean": np.nan}, "NaN"),
    ],
)
def test_evidence_that_does_not_fit_is_refused_with_the_neurons_name(known, oracle, wrong, said):
    one = shown("openclip-64x4 L1/U20", noise(np.random.default_rng(0)))._replace(**wrong)
    with pytest.raises(ValueError, match=f"openclip-64x4 L1/U20: .*{said}"):
        oracle.judge([one])


def test_what_is_no_share_and_no_image_is_refused(known, oracle):
    for wrong in ({"fires_above": 1.5}, {"cell_share": 0}, {"alpha": 1}, {"least_share": -0.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Oracle(known, **wrong)
    with pytest.raises(ValueError, match="unseen"):
        oracle.predict([shown("a", noise(np.random.default_rng(0)))], [Unseen((IMAGES,), [], (True,))])
