"""Losses and masks of the vision families, written out in numpy in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from rosetta.models.generators.onestep import OneStep, redrawn, standard
from rosetta.models.generators.pmf import unpatched
from rosetta.models.zoo import objectives
from rosetta.sources import develop
from rosetta.sources.development import CELL, SIZE
from rosetta.sources.scenes import drawn

GRID = SIZE // CELL
rng = np.random.default_rng(0)


def chance(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------------------------------------------------------
# DINOv2


def test_a_teachers_word_is_centred_and_sharp():
    likeness, centre = rng.uniform(-1, 1, (5, 7)), rng.uniform(-1, 1, 7)
    found = objectives.targets(torch.from_numpy(likeness), torch.from_numpy(centre)).numpy()
    np.testing.assert_allclose(found, softmax((likeness - centre) / 0.04, axis=1), rtol=1e-12)


def test_dinos_loss_is_the_mean_cross_entropy_of_all_pairs_of_different_views():
    target, likeness = softmax(rng.normal(size=(2, 3, 7)), axis=2), rng.uniform(-1, 1, (4, 3, 7))
    terms = [
        -(target[i, b] * log_softmax(likeness[j, b] / 0.1)).sum()
        for i in range(2) for j in range(4) for b in range(3) if i != j
    ]  # fmt: skip
    found = objectives.between_views(torch.from_numpy(target), torch.from_numpy(likeness))
    assert len(terms) == 18 and found.item() == pytest.approx(np.mean(terms), rel=1e-12)


class Fixed(torch.nn.Module):
    """In place of a network: tokens that are parameters, and heads that pass them on."""

    def __init__(self, images: int):
        super().__init__()
        self.tokens = torch.nn.ParameterDict(
            {str(cells): torch.randn(2 * images, 1 + cells, objectives.PROTOTYPES) for cells in (36, 16)}
        )
        self.class_head = self.patch_head = torch.nn.Identity()

    def forward(self, pixels, cells, masked=None):
        return self.tokens[str(cells.shape[1])]


def test_a_step_of_distillation_by_hand(monkeypatch):
    """The first step: the teacher is the student, and centres are 0; then centres move by a tenth, the teacher by a hundredth."""
    monkeypatch.setattr(objectives, "BATCH", 4)
    pixels = np.stack([drawn(i)[0] for i in range(4)])
    scenes = objectives.Scenes(pixels, None, None, None, np.arange(4), seed=3)
    torch.manual_seed(0)
    student = Fixed(4)
    task, teacher = objectives.distillation(student, scenes)
    loss, figures = task.loss(0)

    large, small = (student.tokens[key].detach().double().numpy() for key in ("36", "16"))
    state = chance(1_000_003 * 3)
    for side in (6, 6, 4, 4):  # what comes before the masks
        torch.randn(4, 64, 64, 3, generator=state)
        torch.randint(GRID - side + 1, (2, 4, 1), generator=state)
    masked = objectives.masks(8, 36, state).numpy()
    of_class, views = softmax(large[:, 0] / 0.04, axis=1), np.concatenate([large[:, 0], small[:, 0]])
    said = log_softmax(views / 0.1, axis=1).reshape(4, 4, -1)
    by_class = np.mean(
        [-(of_class.reshape(2, 4, -1)[i] * said[j]).sum(1).mean() for i in range(2) for j in range(4) if i != j]
    )
    patches = large[:, 1:][masked]
    by_patch = -(softmax(patches / 0.04, axis=1) * log_softmax(patches / 0.1, axis=1)).sum(1).mean()
    assert figures["class_nats"].item() == pytest.approx(by_class, rel=1e-4)
    assert figures["patch_nats"].item() == pytest.approx(by_patch, rel=1e-4)
    assert loss.item() == pytest.approx(by_class + by_patch, rel=1e-4)
    shares = of_class.mean(0)
    assert figures["entropy_of_mean"].item() == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-4)
    np.testing.assert_allclose(task.state["centre/class"], 0.1 * large[:, 0].mean(0), atol=1e-6)
    np.testing.assert_allclose(task.state["centre/patch"], 0.1 * patches.mean(0), atol=1e-6)

    before = large.copy()
    with torch.no_grad():
        student.tokens["36"] += 1
    task.after(0)
    np.testing.assert_allclose(teacher.tokens["36"], before + 0.01, atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 8))
def test_a_crop_holds_the_pixels_of_the_cells_it_names(seed, side):
    images = torch.arange(3 * 3 * SIZE * SIZE).view(3, 3, SIZE, SIZE)
    crops, cells = objectives.cut(images, side, chance(seed))
    assert crops.shape == (3, 3, CELL * side, CELL * side) and cells.shape == (3, side**2)
    for crop, numbers, image in zip(crops.numpy(), cells.numpy(), images.numpy(), strict=True):
        top, left = CELL * (numbers[0] // GRID), CELL * (numbers[0] % GRID)
        np.testing.assert_array_equal(crop, image[:, top : top + CELL * side, left : left + CELL * side])
        rows, columns = np.divmod(numbers[0], GRID)
        expected = [GRID * (rows + i) + columns + j for i in range(side) for j in range(side)]
        assert numbers.tolist() == expected


@pytest.mark.parametrize(
    ("config", "more"),
    [
        ("Dinov2Config", {}),
        ("DINOv3ViTConfig", {"num_register_tokens": 4, "use_gated_mlp": True, "pos_embed_rescale": None}),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_a_view_of_the_whole_image_is_what_the_encoder_itself_gives_of_it(config, more, masked):
    import transformers

    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIZE,
        "patch_size": CELL,
    }
    encoder = transformers.AutoModel.from_config(getattr(transformers, config)(**shape, **more)).eval()
    with torch.no_grad():
        encoder.embeddings.mask_token.normal_()
    student, pixels = objectives.Distilled(encoder), torch.randn(3, 3, SIZE, SIZE)
    cells, hidden = torch.arange(GRID**2).expand(3, -1), torch.rand(3, GRID**2) < 0.5
    with torch.no_grad():
        found = student(pixels, cells, hidden if masked else None)
        expected = encoder(pixels, bool_masked_pos=hidden if masked else None).last_hidden_state
    prefix = 1 + more.get("num_register_tokens", 0)
    torch.testing.assert_close(found[:, 0], expected[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[:, 1:], expected[:, prefix:], atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31))
def test_every_second_image_is_masked_by_a_tenth_to_a_half(seed):
    counts = objectives.masks(20, 36, chance(seed)).sum(1).numpy()
    assert (counts[1::2] == 0).all() and counts[::2].min() >= 4 and counts[::2].max() <= 18


# ---------------------------------------------------------------------------------------------------------------------
# Pixio and the generator


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31))
def test_four_squares_of_two_by_two_cells_are_seen_and_all_others_hidden(seed):
    seen = objectives.seen_cells(5, chance(seed))
    hidden = objectives.hidden_pixels(seen).numpy()
    for cells, where in zip(seen.numpy(), hidden, strict=True):
        rows, columns = np.divmod(cells, GRID)
        squares, counts = np.unique(np.stack([rows // 2, columns // 2]), axis=1, return_counts=True)
        assert squares.shape == (2, 4) and (counts == 4).all() and (np.diff(cells) > 0).all()
        expected = np.ones((SIZE, SIZE), dtype=bool)
        for row, column in zip(rows, columns, strict=True):
            expected[CELL * row : CELL * (row + 1), CELL * column : CELL * (column + 1)] = False
        np.testing.assert_array_equal(where[0], expected)


def test_a_hidden_cell_changes_nothing_and_a_seen_one_does():
    from transformers import AutoModel, PixioConfig

    torch.manual_seed(0)
    config = PixioConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=SIZE, patch_size=CELL, n_cls_tokens=8
    )
    model = objectives.Autoencoder(AutoModel.from_config(config)).eval()
    seen = objectives.seen_cells(1, chance(0))
    hidden = objectives.hidden_pixels(seen)
    pixels = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        said, elsewhere, otherwise = (model(pixels + shift, seen) for shift in (0, 5.0 * hidden, 5.0 * ~hidden))
    torch.testing.assert_close(said, elsewhere, atol=1e-5, rtol=1e-5)
    assert (said - otherwise).abs().max() > 1e-3


def test_relative_error_is_that_of_what_counts_over_saying_its_mean():
    said, there = rng.normal(size=(2, 2, 3, 8, 8))
    where = rng.random((2, 1, 8, 8)) < 0.4
    counts = np.broadcast_to(where, there.shape)
    expected = ((said - there)[counts] ** 2).sum() / ((there[counts] - there[counts].mean()) ** 2).sum()
    given_ = [torch.from_numpy(x) for x in (said, there, where)]
    assert objectives.relative_error(*given_).item() == pytest.approx(expected, rel=1e-12)
    mean = torch.full_like(given_[1], there[counts].mean())
    assert objectives.relative_error(mean, *given_[1:]).item() == pytest.approx(1, rel=1e-12)


def test_a_picture_is_off_by_as_much_as_drawn_and_as_developed():
    pixels = torch.from_numpy(np.stack([drawn(i)[0] for i in range(3)]))
    wrong = pixels.flip(0)
    loss, figures = objectives.picture_error(standard(wrong), pixels, torch.ones((), dtype=torch.bool))

    def relative(said, there):
        return ((said - there) ** 2).sum() / ((there - there.mean()) ** 2).sum()

    plain = relative(wrong.double().numpy(), pixels.double().numpy())
    whitened = relative(*(develop(x).double().numpy() for x in (wrong, pixels)))
    assert figures["error_drawn"].item() == pytest.approx(plain, rel=1e-5)
    assert figures["error_developed"].item() == pytest.approx(whitened, rel=1e-3)
    assert loss.item() == pytest.approx(plain + whitened, rel=1e-3)
    right, _ = objectives.picture_error(standard(pixels), pixels, torch.ones((), dtype=torch.bool))
    assert right.item() == 0


def test_patches_are_joined_where_they_were_cut():
    image = rng.normal(size=(2, 3, SIZE, SIZE))
    cells = [
        image[:, :, CELL * r : CELL * (r + 1), CELL * c : CELL * (c + 1)].transpose(0, 2, 3, 1).reshape(2, -1)
        for r in range(GRID) for c in range(GRID)
    ]  # fmt: skip
    np.testing.assert_array_equal(unpatched(torch.from_numpy(np.stack(cells, 1)), (GRID, GRID)), image)


def test_what_is_drawn_is_read_back():
    pixels = torch.from_numpy(drawn(0)[0])[None]
    assert standard(pixels).abs().max() <= 2 and torch.equal(redrawn(standard(pixels)), pixels.float())


def test_the_generator_is_asked_for_its_scenes_by_their_classes_and_codes(monkeypatch):
    monkeypatch.setattr(objectives, "BATCH", 2)
    pixels, _, labels, codes = zip(*(drawn(i) for i in range(4)), strict=True)
    scenes = objectives.Scenes(
        np.stack(pixels), None, np.array(labels), np.stack(codes), np.array([3, 1, 0, 2]), seed=1
    )
    torch.manual_seed(0)
    model = OneStep(16, 1, 16, len(codes[0])).eval()
    with torch.no_grad():
        found, _ = objectives.rendering(model, scenes).loss(0)
        said = torch.cat([model(torch.tensor([labels[i]]), torch.from_numpy(codes[i])[None]) for i in (1, 3)])
        there = torch.from_numpy(np.stack(pixels)[[1, 3]])
        expected, _ = objectives.picture_error(said, there, torch.ones((), dtype=torch.bool))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
