import numpy as np
import pytest
import torch

from rosetta import marked
from rosetta.models.load import ROOT, zoo_cards
from rosetta.models.zoo import __main__ as command
from rosetta.models.zoo import heldout

rng = np.random.default_rng(0)


def test_own_found_counts_within_each_run():
    image, text = (torch.from_numpy(rng.normal(size=(12, 5))) for _ in range(2))
    right = 0
    for run in range(3):
        for i in range(4):
            likeness = [float(image[4 * run + i] @ text[4 * run + j]) for j in range(4)]
            right += int(np.argmax(likeness) == i)
    assert heldout.own_found(image, text, 4) == pytest.approx(right / 12)
    assert heldout.own_found(image, image / image.norm(dim=1, keepdim=True), 4) == 1


def test_diversity_is_the_mean_over_pairs_of_a_class():
    pictures, labels = rng.normal(size=(7, 3, 4, 4)), np.array([0, 1, 0, 1, 0, 1, 1])
    by_class = []
    for label in (0, 1):
        mine = pictures[labels == label]
        pairs = [((a - b) ** 2).mean() for i, a in enumerate(mine) for j, b in enumerate(mine) if i != j]
        by_class.append(np.mean(pairs))
    found = heldout.diversity(torch.from_numpy(pictures), torch.from_numpy(labels))
    assert found == pytest.approx(np.mean(by_class), rel=1e-12)


def test_a_probe_finds_what_is_there_and_only_guesses_what_is_not():
    values = rng.choice(["a", "b", "c"], 900, p=[0.6, 0.3, 0.1])
    noise = rng.normal(size=(900, 6))
    there = noise + 4 * (values[:, None] == np.array(["a", "b", "c", "d", "e", "f"]))
    most = (values[600:] == "a").mean()
    assert heldout.majority(values, 600) == pytest.approx(most)
    assert heldout.probed(there, values, 600) > 0.95
    assert heldout.probed(noise, values, 600) < most + 0.05


def test_the_majority_is_that_of_the_scenes_that_are_fitted():
    assert heldout.majority(np.array(["x", "x", "y", "y", "y", "x", "y"]), 3) == 0.25


def card(size: str, **heldout) -> dict:
    width = int(size.partition("x")[0])
    return {"name": f"f-{size}", "family": "f", "mlp_width": 4 * width, "parameters": width**2, "heldout": heldout}


def test_whether_a_figure_improves_at_every_size():
    """An accuracy rises, an error falls, diversity comes nearer to the real one."""
    cards = [
        card("48x3", right={"value": 0.6}, shape={"value": 0.6}, error_x={"value": 0.5}, diversity={"value": 1.2, "real": 1}),
        card("32x2", right={"value": 0.5}, shape={"value": 0.5}, error_x={"value": 0.6}, diversity={"value": 0.7, "real": 1}),
        card("64x4", right={"value": 0.7}, shape={"value": 0.6}, error_x={"value": 0.4}, diversity={"value": 0.9, "real": 1}),
    ]  # fmt: skip
    assert heldout.improves_with_size(cards) == {"right": True, "shape": False, "error_x": True, "diversity": True}
    assert not any(heldout.improves_with_size(cards[:1]).values())


def test_the_table_says_what_the_cards_say():
    cards = [
        card("64x4", shape={"value": 0.61234, "majority": 0.25, "untrained": 0.4}),
        card("32x2", shape={"value": 0.7, "majority": 0.25, "untrained": 0.3}),
    ]
    assert heldout.table(cards).splitlines() == [
        "| family | figure | 32x2 | 64x4 | beside | better with each size |",
        "|---|---|---|---|---|---|",
        "| `f` | shape | 0.700 | 0.612 | majority 0.250, untrained 0.300 to 0.400 | no |",
    ]


def test_the_table_is_put_between_its_marks_and_nowhere_else(tmp_path):
    readme, cards = tmp_path / "README.md", [card("32x2", shape={"value": 0.7})]
    readme.write_text(f"before\n{command.MARK}\nold\n{marked.END}\nafter\n")
    for _ in range(2):
        command.describe(readme, cards)
        expected = f"before\n{command.MARK}\n{heldout.table(cards)}\n{marked.END}\nafter\n"
        assert readme.read_text() == expected


def test_what_the_zoo_says_of_its_models_is_what_their_cards_say():
    assert command.listed(ROOT / "zoo") == zoo_cards()
    assert heldout.table(zoo_cards()) in (ROOT / "zoo" / "README.md").read_text()
