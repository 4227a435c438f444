"""The network against the same equations written out in numpy, float64, one token pair at a time where that is plainest."""

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax

from rosetta.models.generators.pmf import GAIN, Block, PixelMeanFlow, turns

GRID, WIDTH, HEADS, NEURONS, CLASSES = (3, 3), 16, 2, 20, 5
CELLS = GRID[0] * GRID[1]


def moved(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The module with every parameter moved off its start, where much is 0 or 1 and errors would not show."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=noise)
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return moved(PixelMeanFlow(12, 4, WIDTH, HEADS, NEURONS, 2, 1, 7, CLASSES))


def of(network) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}


def rms(x, weight):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight


def turned(head, token, prefix):
    """One token's channels of one head; pairs of neighbours turn, the first half by the row, the second by the column."""
    if token < prefix:
        return head
    out, quarter = head.copy(), len(head) // 4
    for pair in range(2 * quarter):
        place = (token - prefix) // GRID[1] if pair < quarter else (token - prefix) % GRID[1]
        angle = place * 10_000.0 ** (-(pair % quarter) / quarter)
        a, b = head[2 * pair : 2 * pair + 2]
        out[2 * pair : 2 * pair + 2] = a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
    return out


def block_of(w, x, prefix):
    """One image's tokens [T, width] through one block; also its m_t."""
    y, size, heads = rms(x, w["norm1.weight"]), WIDTH // HEADS, []
    q, k, v = (y @ w[f"attn.{name}_proj.weight"].T for name in "qkv")
    for start in range(0, WIDTH, size):
        mine = slice(start, start + size)
        qs, ks = (
            np.stack([turned(row, t, prefix) for t, row in enumerate(rms(z[:, mine], w[f"attn.{name}_norm.weight"]))])
            for name, z in (("q", q), ("k", k))
        )
        heads.append(softmax(qs @ ks.T / np.sqrt(size), axis=1) @ v[:, mine])
    x = x + np.concatenate(heads, 1) @ w["attn.out_proj.weight"].T * w["attn_scale"]
    y = rms(x, w["norm2.weight"])
    gate, up = y @ w["mlp.w1.weight"].T, y @ w["mlp.w3.weight"].T
    m = gate * expit(gate) * up
    return x + m @ w["mlp.w2.weight"].T * w["mlp_scale"], m


def embedded(w, name, number):
    angles = number * 10_000.0 ** (-np.arange(128) / 128)
    y = np.concatenate([np.cos(angles), np.sin(angles)]) @ w[f"{name}.mlp.0.weight"].T + w[f"{name}.mlp.0.bias"]
    return (y * expit(y)) @ w[f"{name}.mlp.2.weight"].T + w[f"{name}.mlp.2.bias"]


def by_hand(w, noisy, h, omega, t_min, t_max, label):
    """One image [3, 12, 12] through the network; also every block's m_t."""
    said = {
        "class": (8, w["y_embedder.embedding_table.weight"][label]),
        "omega": (4, embedded(w, "omega_embedder", 1 - 1 / omega)),
        "t_min": (2, embedded(w, "cfg_t_start_embedder", t_min)),
        "t_max": (2, embedded(w, "cfg_t_end_embedder", t_max)),
        "time": (4, embedded(w, "h_embedder", h)),
    }
    tokens = [w[f"{name}_tokens"][0, i] + vector for name, (n, vector) in said.items() for i in range(n)]
    prefix = len(tokens)
    for row, column in np.ndindex(GRID):
        patch = noisy[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        narrow = np.einsum("ochw,chw->o", w["x_embedder.proj1.weight"], patch) + w["x_embedder.proj1.bias"]
        tokens.append(w["x_embedder.proj2.weight"][:, :, 0, 0] @ narrow + w["x_embedder.proj2.bias"])
    x, captured = np.stack(tokens) + w["pos_embed"][0], []
    for name in ("shared_blocks.0", "shared_blocks.1", "u_heads.0"):
        x, m = block_of({key.removeprefix(f"{name}."): value for key, value in w.items() if name in key}, x, prefix)
        captured.append(m)
    cells = rms(x[prefix:], w["u_final_layer.norm.weight"]) @ w["u_final_layer.linear.weight"].T
    image = np.empty_like(noisy)
    for cell, (row, column) in enumerate(np.ndindex(GRID)):
        patch = (cells[cell] + w["u_final_layer.linear.bias"]).reshape(4, 4, 3)
        image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = patch.transpose(2, 0, 1)
    return image, captured


def test_the_network_is_its_equations(network):
    noisy = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(3))
    numbers = {
        "h": torch.tensor([1.0, 0.4]),
        "omega": torch.tensor([7.5, 2.0]),
        "t_min": torch.tensor([0.1, 0.2]),
        "t_max": torch.tensor([0.8, 0.7]),
    }
    labels = torch.tensor([2, CLASSES])  # the last of them: no class
    entered = [[] for _ in network.blocks]
    for block, kept in zip(network.blocks, entered, strict=True):
        block.mlp.w2.register_forward_pre_hook(lambda _module, inputs, kept=kept: kept.append(inputs[0]))
    images = network(noisy, **numbers, labels=labels)
    for i in range(2):
        one = {name: value[i].item() for name, value in numbers.items()}
        expected, captured = by_hand(of(network), noisy[i].double().numpy(), **one, label=labels[i])
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
