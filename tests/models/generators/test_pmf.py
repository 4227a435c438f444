import numpy as np
import pytest
import torch
from vision_models import moved, numbers, pmf_layers

from rosetta.models.generators.pmf import GAIN, Block, PixelMeanFlow, turns

WIDTH, HEADS, NEURONS, CLASSES = 16, 2, 20, 5


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return moved(PixelMeanFlow(12, 4, WIDTH, HEADS, NEURONS, 2, 1, 7, CLASSES))


def test_the_network_is_its_equations(network):
    noisy = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(3))
    given = {
        "h": torch.tensor([1.0, 0.4]),
        "omega": torch.tensor([7.5, 2.0]),
        "t_min": torch.tensor([0.1, 0.2]),
        "t_max": torch.tensor([0.8, 0.7]),
    }
    labels = torch.tensor([2, CLASSES])  # the last of them: no class
    entered = [[] for _ in network.blocks]
    for block, kept in zip(network.blocks, entered, strict=True):
        block.mlp.w2.register_forward_pre_hook(lambda _module, inputs, kept=kept: kept.append(inputs[0]))
    images = network(noisy, **given, labels=labels)
    for i in range(2):
        one = {name: value[i].item() for name, value in given.items()}
        expected, captured = pmf_layers(numbers(network), noisy[i].double().numpy(), **one, label=labels[i])
        np.testing.assert_allclose(images[i], expected, atol=1e-5)
        for kept, m in zip(entered, captured, strict=True):
            np.testing.assert_allclose(kept[0][i], m, atol=1e-5)


def test_a_block_attends_by_the_distance_of_cells_and_not_by_their_place():
    """Rotary positions, with the same vector in every cell: its key is turned, and the scores depend on differences."""
    cos, sin = turns((4, 5), 8)
    assert cos.shape == sin.shape == (20, 4)
    around = torch.complex(cos, sin).view(4, 5, 4)
    for a, b, c, d in (((0, 1), (2, 3), (1, 1), (3, 3)), ((3, 4), (1, 0), (2, 4), (0, 0))):
        torch.testing.assert_close(around[a] * around[b].conj(), around[c] * around[d].conj())
    with pytest.raises(ValueError, match="heads of 6 channels"):
        turns((2, 2), 6)


def test_a_new_block_passes_on_what_it_is_given_and_its_weights_have_the_stated_spread():
    torch.manual_seed(0)
    block = Block(width=64, heads=4, mlp_width=170)
    x = torch.randn(2, 3 + 4, 64)
    assert torch.equal(block(x, turns((2, 2), 16)), x)
    assert block.mlp.w2.weight.std().item() == pytest.approx(GAIN / 170**0.5, rel=0.05)


def test_the_network_can_be_differentiated_forward_in_time(network):
    """What training a mean flow takes: the derivative along h agrees with a small difference, in float64."""
    double = PixelMeanFlow(12, 4, WIDTH, HEADS, NEURONS, 2, 1, 7, CLASSES).double()
    double.load_state_dict(network.state_dict())
    ones, labels = torch.ones(2, dtype=torch.float64), torch.tensor([0, 1])
    noisy = torch.randn(2, 3, 12, 12, dtype=torch.float64)

    def image(h):
        return double(noisy, h, 3 * ones, 0.1 * ones, 0.8 * ones, labels)

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        _, slope = torch.func.jvp(image, (0.5 * ones,), (ones,))
    difference = (image(0.5 * ones + 1e-3) - image(0.5 * ones - 1e-3)) / 2e-3
    torch.testing.assert_close(slope, difference, atol=1e-3, rtol=1e-2)
