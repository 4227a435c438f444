import json

import numpy as np
import pytest
import seeing
import torch
import transformers
from conftest import mutual
from scipy.special import erf
from seeing import CLASSES, GRID, PATCH, SIDE, bilinear, directions, encoder, generator, some_pictures, vision
from vision_models import write_clip, write_encoder

from rosetta.matching.activations import BadActivations
from rosetta.matching.batches import AlignedBatches, strongest_pieces
from rosetta.matching.generated import wishes
from rosetta.matching.images import Generator, ImageReader, Wish
from rosetta.matching.mutual import match_batches
from rosetta.matching.nulls import Permuted, calibrated, threshold
from rosetta.models.load import ModelRefused, ModelSpec
from rosetta.models.mlps import Mlp, find_mlps

# ---------------------------------------------------------------------------------------------------------------------
# One encoder


def matrix(parameter):
    return parameter.detach().double().numpy()


def linear(x, module):
    return x @ matrix(module.weight).T + matrix(module.bias)


def layer_norm(x, module):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + module.eps)
    return scaled * matrix(module.weight) + matrix(module.bias)


def dinov2_by_hand(model, x):
    """What enters each block's output projection, [B, tokens, neurons], by a forward pass of our own in float64."""
    patches, b = model.embeddings.patch_embeddings.projection, len(x)
    p = patches.kernel_size[0]
    n = x.shape[2] // p
    cells = x.reshape(b, 3, n, p, n, p).transpose(0, 2, 4, 1, 3, 5).reshape(b, n * n, -1)
    tokens = cells @ matrix(patches.weight).reshape(len(patches.weight), -1).T + matrix(patches.bias)
    tokens = np.concatenate([np.broadcast_to(matrix(model.embeddings.cls_token), (b, 1, tokens.shape[-1])), tokens], 1)
    tokens, found = tokens + matrix(model.embeddings.position_embeddings), []
    for block in model.encoder.layer:
        attention, heads = block.attention, model.config.num_attention_heads
        h = layer_norm(tokens, block.norm1)
        q, k, v = (
            linear(h, part).reshape(b, len(h[0]), heads, -1).transpose(0, 2, 1, 3)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ v
        mixed = mixed.transpose(0, 2, 1, 3).reshape(tokens.shape)
        tokens = tokens + linear(mixed, attention.o_proj) * matrix(block.layer_scale1.lambda1)
        m = linear(layer_norm(tokens, block.norm2), block.mlp.fc1)
        m = m * 0.5 * (1 + erf(m / np.sqrt(2)))
        found.append(m)
        tokens = tokens + linear(m, block.mlp.fc2) * matrix(block.layer_scale2.lambda1)
    return found


@pytest.fixture(scope="module")
def dinov2():
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=4, image_size=SIDE, patch_size=6
    )
    torch.manual_seed(0)
    model = transformers.Dinov2Model(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.2 * torch.randn_like(parameter)
    more = {"mlps": find_mlps(model), "run": lambda x: model(pixel_values=x)}
    return ImageReader("dinov2", vision(model, (4, 4), 1, **more))


@pytest.mark.parametrize("size", [None, (4, 4), (6, 6), (9, 5)])
def test_activations_are_those_of_a_forward_pass_and_an_interpolation_of_our_own(dinov2, size):
    pixels = np.stack([picture.pixels for picture in some_pictures(5)])
    x = (pixels.transpose(0, 3, 1, 2).astype(float) - 128) / 32
    layers = [m[:, 1:].reshape(5, 4, 4, 64) for m in dinov2_by_hand(dinov2.model, x)]
    expected = np.concatenate([bilinear(maps, size or (4, 4)) for maps in layers], axis=-1).reshape(-1, 3 * 64)
    acts = dinov2.read(pixels, size)
    assert acts.shape == expected.shape and np.ptp(expected, axis=0).min() > 1e-3
    np.testing.assert_allclose(acts, expected, atol=1e-5, rtol=1e-5)


def test_rows_are_in_the_order_of_picture_row_and_column():
    """Each picture is brighter than the one before, and each row and column of it."""
    row, column = np.indices((GRID, GRID))
    cells = np.stack([100 * i + 10 * row + column for i in range(2)]).astype(np.uint8)
    pixels = cells.repeat(PATCH, 1).repeat(PATCH, 2)[..., None].repeat(3, 3)
    acts = encoder(of=[torch.ones(3 * PATCH**2, 1)]).read(pixels)
    assert len(acts) == 2 * GRID**2 and (acts[1:] > acts[:-1]).all()


def test_pictures_of_different_sizes_are_prepared_one_by_one():
    reader = encoder()
    small = reader.vision.prepare
    reader.vision = reader.vision._replace(prepare=lambda pixels: small(pixels[:, :SIDE, :SIDE]))
    pictures = [*some_pictures(2), *some_pictures(2, 1, SIDE + 3)]
    together = reader.read_pictures(pictures)
    assert torch.equal(together, torch.cat([reader.read_pictures([picture]) for picture in pictures]))


def test_a_picture_that_cannot_be_prepared_is_named():
    reader = encoder()

    def refuse(pixels):
        if pixels.shape[1] < SIDE:
            raise ValueError("too small")
        return (pixels.movedim(-1, 1).float() - 128) / 32

    reader.vision = reader.vision._replace(prepare=refuse)
    with pytest.raises(ValueError, match="seer cannot be shown noise-1#0: too small"):
        reader.read_pictures([*some_pictures(2), *some_pictures(2, 1, SIDE - 1)])
    with pytest.raises(ValueError, match="seer cannot be shown picture 0 of the batch: too small"):
        reader.read(np.zeros((2, 3, 3, 3), np.uint8))


class Mapped(torch.nn.Module):
    """A projection by a convolution, which also takes two channels that are no neurons."""

    def __init__(self):
        super().__init__()
        self.projection = torch.nn.Conv2d(6, 2, 1)

    def forward(self, x):
        self.projection(torch.cat([x, 2 * x], 1))


def test_maps_are_read_as_tokens_are_and_channels_that_are_no_neurons_left_out():
    model = Mapped()
    mlps = [Mlp("block", "projection", model.projection, 4, slice(1, 5))]
    reader = ImageReader("mapped", vision(model, (SIDE, SIDE), None, mlps=mlps))
    pixels = np.stack([picture.pixels for picture in some_pictures(3)])
    x = (pixels.astype(float) - 128) / 32
    maps = np.concatenate([x, 2 * x], axis=-1)[..., 1:5]
    np.testing.assert_allclose(reader.read(pixels), maps.reshape(-1, 4), atol=1e-6)
    np.testing.assert_allclose(
        reader.read(pixels, (5, 7)), bilinear(maps, (5, 7)).reshape(-1, 4), atol=1e-5 * np.abs(maps).max()
    )


@pytest.mark.parametrize(
    ("grid", "prefix", "images", "said"),
    [
        (
            (6, 6),
            2,
            None,
            r"seer, layer 0: 37 tokens of 2 images enter projections\.0; .* 6 x 6 cells .* after 2 tokens",
        ),
        ((7, 7), 1, None, "37 tokens of 2 images .* 7 x 7 cells"),
        ((7, 7), None, None, "37 tokens of 2 images .* 7 x 7 cells .* after any number of tokens"),
        ((6, 6), 1, 3, "37 tokens of 3 images .* of 2 images the grid"),
    ],
)
def test_tokens_that_do_not_fit_are_refused_with_model_layer_and_numbers(grid, prefix, images, said):
    reader = encoder()
    run = reader.vision.run
    more = {"run": lambda x: run(x[:1].expand(images, -1, -1, -1))} if images else {}
    reader = ImageReader("seer", reader.vision._replace(grid=grid, prefix=prefix, **more))
    with pytest.raises(ModelRefused, match=said):
        reader.read_pictures(some_pictures(2))


def test_a_map_that_does_not_fit_is_refused():
    model = Mapped()
    mlps = [Mlp("block", "projection", model.projection, 6)]
    with pytest.raises(ModelRefused, match=r"mapped, layer 0: a map of 24 x 24 cells of 2 images .* 6 x 6 cells"):
        ImageReader("mapped", vision(model, (6, 6), None, mlps=mlps)).read_pictures(some_pictures(2))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_broken_numbers_are_reported_with_model_layer_and_picture(bad):
    reader, pictures = encoder(), some_pictures(4)
    prepare = reader.vision.prepare

    def broken(pixels):
        x = prepare(pixels)
        x[2, 0, 3, 3] = bad
        return x

    reader.model.directions[0].zero_()[0, 0] = 0  # infinity times nothing is NaN, in the first layer too
    reader.vision = reader.vision._replace(prepare=broken)
    said = r"seer, layer 0: NaN or infinity among the activations of projections\.0 on "
    with pytest.raises(BadActivations, match=said + "noise-0#2"):
        reader.read_pictures(pictures)
    with pytest.raises(BadActivations, match=said + "picture 2 of the batch"):
        reader.read(np.stack([picture.pixels for picture in pictures]), (8, 8))


def test_a_layer_that_a_forward_pass_leaves_out_is_reported():
    reader = encoder()
    unused = Mlp("blocks.2", "projections.2", torch.nn.Linear(4, 3), 4)
    reader = ImageReader("seer", reader.vision._replace(mlps=[*reader.mlps, unused]))
    with pytest.raises(BadActivations, match=r"seer, layer 2: the forward pass does not go through projections\.2"):
        reader.read_pictures(some_pictures(2))


def test_a_model_in_bfloat16_gives_its_own_precision_on_any_grid():
    reader, pictures = encoder(), some_pictures(3)
    single = reader.read_pictures(pictures, (8, 8))
    reader.model.bfloat16()
    halved = reader.read_pictures(pictures, (8, 8))
    assert halved.dtype == torch.bfloat16
    np.testing.assert_allclose(halved.float(), single, rtol=2**-7, atol=0.1)


# ---------------------------------------------------------------------------------------------------------------------
# A generator


def test_a_generators_activations_are_those_of_its_last_step_and_come_with_its_pictures():
    maker, reader = generator(steps=3), encoder()
    acts, pictures = maker.make([0, 3, 1], [5, 6, 7])
    assert pictures.dtype == torch.uint8 and pictures.shape == (3, SIDE, SIDE, 3)
    for picture, wish in zip(pictures, [(0, 5), (3, 6), (1, 7)], strict=True):
        assert torch.equal(picture, seeing.pixels_of(*wish))
    np.testing.assert_allclose(acts, reader.read(pictures), atol=1e-5)  # it looks with the same directions
    assert torch.equal(torch.from_numpy(maker.pictures([Wish(9, 3, 6)])[0]), pictures[1])  # whatever it is made with


def test_broken_numbers_of_a_generator_are_reported_with_label_and_seed():
    maker = generator()
    maker.model.directions[1][0, 0] = torch.nan
    with pytest.raises(BadActivations, match=r"maker, layer 1: .* on the picture of label 2, seed 17"):
        maker.make([2, 3], [17, 18])


# ---------------------------------------------------------------------------------------------------------------------
# Two models


@pytest.mark.parametrize(("rule", "size"), [("larger", (6, 6)), ("first", (4, 4))])
def test_two_encoders_see_the_same_pictures_on_one_grid(dinov2, rule, size):
    reader, pictures = encoder(), some_pictures(7)
    batches = AlignedBatches(dinov2, reader, pictures, per_batch=3, grid=rule)
    assert batches.names == ("dinov2", "seer") and batches.layers == ([64] * 3, [7, 5])
    assert batches.together.shape(pictures[0]) == size
    sides = [torch.cat(side) for side in zip(*batches, strict=True)]
    for model, found in zip((dinov2, reader), sides, strict=True):
        own = model.read_pictures(pictures).double().reshape(7, *model.grid, -1).numpy()
        np.testing.assert_allclose(found, bilinear(own, size).reshape(len(found), -1), atol=1e-5)
    assert [len(part) for part, _ in batches.with_pieces()] == [3, 3, 1]


def test_matches_of_images_are_those_of_all_correlations(dinov2):
    batches = AlignedBatches(dinov2, encoder(), some_pictures(40), per_batch=16)
    a, b = (torch.cat(side).double().numpy() for side in zip(*batches, strict=True))
    expected = mutual(np.corrcoef(a.T, b.T)[: 3 * 64, 3 * 64 :])
    table = match_batches(batches)
    assert table.attrs["positions"] == 40 * 36
    found = zip(64 * table.layer_a + table.unit_a, 7 * table.layer_b + table.unit_b, strict=True)
    assert set(found) == expected and len(expected) > 1


def test_an_encoder_beside_a_generator_sees_what_that_has_made_in_the_same_pass():
    maker, reader, wished = generator(), encoder("other", prefix=0), wishes(7, CLASSES, seed=3)
    batches = AlignedBatches(maker, reader, wished, per_batch=4)
    parts = list(batches.with_pieces())
    assert [part for part, _ in parts] == [wished[:4], wished[4:]]
    labels = [wish.label for wish in wished]
    assert labels == [0, 1, 2, 3, 4, 0, 1]
    assert maker.seen == [(labels[:4], [w.seed for w in wished[:4]]), (labels[4:], [w.seed for w in wished[4:]])]
    for _, (a, b) in parts:
        np.testing.assert_allclose(a, b, atol=1e-5)  # the same directions of the same pictures


def test_what_is_shown_goes_by_the_index_of_the_wish():
    wished, kept = wishes(6, CLASSES, seed=0), some_pictures(6)
    batches = AlignedBatches(generator(), encoder(), wished[2:], per_batch=2, shown=kept)
    _, b = (torch.cat(side) for side in zip(*batches, strict=True))
    assert torch.equal(b, encoder().read_pictures(kept[2:]))


def test_a_pair_that_is_none_is_refused(reader_of):
    with pytest.raises(ModelRefused, match="seer and maker are no pair"):
        AlignedBatches(encoder(), generator(), [])
    with pytest.raises(ModelRefused, match="seer and opt are no pair"):
        AlignedBatches(encoder(), reader_of["opt"], [])
    with pytest.raises(ModelRefused, match="opt and seer are no pair: opt reads texts"):
        AlignedBatches(reader_of["opt"], encoder(), [])
    with pytest.raises(ValueError, match="grid is 'smaller'; it must be one of larger, first"):
        AlignedBatches(encoder(), encoder(), [], grid="smaller")


def test_fewer_images_are_read_at_a_time_where_memory_does_not_hold_them(caplog):
    wished = wishes(11, CLASSES, seed=0)
    roomy = AlignedBatches(generator(), encoder(), wished, per_batch=8).held()
    maker, reader = generator(), encoder()
    reader.model.limit = 3
    batches = AlignedBatches(maker, reader, wished, per_batch=8)
    found = list(batches.with_pieces())
    assert [wish for part, _ in found for wish in part] == wished and reader.model.tried[:3] == [8, 4, 2]
    for side in (0, 1):  # a picture is the same whatever it is made with
        together = torch.cat([read[side] for _, read in found])
        np.testing.assert_allclose(together, torch.cat([read[side] for read in roomy]), atol=1e-6)
    assert "maker and seer read 4 images at a time from here on, not 8" in caplog.text
    reader.model.limit = 0
    with pytest.raises(MemoryError, match=r"one image does not fit .* maker on cpu and seer on cpu"):
        list(batches)


FLOW = {
    "image_size": 32, "patch_size": 8, "width": 16, "heads": 2, "mlp_width": 40, "shared": 1, "heads_of_u": 1, "bottleneck": 8,
    "classes": CLASSES, "noise_scale": 1.0, "omega": 7.0, "t_min": 0.1, "t_max": 0.8,
}  # fmt: skip


@pytest.mark.parametrize("name", ["dinov2-giant", "dinov3-gated", "pixio", "clip"])
def test_models_go_from_their_files_to_batches_of_the_larger_grid(tmp_path, name):
    """Prefixes of 1, 5 and 8 tokens, and an own grid of 3 x 3; alone each picture gives what it gives among others."""
    spec = write_clip(tmp_path / "b") if name == "clip" else write_encoder(tmp_path / "b", name)
    reader = ImageReader.open(spec)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text(json.dumps(FLOW))
    maker = Generator.open(ModelSpec("maker", str(tmp_path / "a"), "mine", 2, 40, kind="pmf"), seed=0)
    assert maker.classes == CLASSES and maker.layers == [40, 40] and set(reader.layers) == {spec.mlp_width}
    batches = AlignedBatches(maker, reader, wishes(6, CLASSES, seed=0), per_batch=4)
    size = tuple(map(max, maker.grid, reader.grid))
    a, b = (torch.cat(side) for side in zip(*batches, strict=True))
    assert a.shape == (6 * size[0] * size[1], 80) and b.shape == (len(a), spec.mlp_width * spec.layers)
    for i, wish in enumerate(batches.pieces):
        rows = slice(i * size[0] * size[1], (i + 1) * size[0] * size[1])
        for together, alone in zip((a, b), batches.aligned([wish]), strict=True):
            np.testing.assert_allclose(together[rows], alone, atol=1e-5)
    assert a.std(0).min() > 0
    table = match_batches(batches)
    assert table.attrs["positions"] == len(a) and table.attrs["neurons_b"] == b.shape[1]


# ---------------------------------------------------------------------------------------------------------------------
# Planted truth


def orthogonal(numbers, total=48):
    """Some of the directions of one random basis, [48, n]: what they say of white noise has nothing in common."""
    basis, _ = torch.linalg.qr(torch.randn(total, total, generator=torch.Generator().manual_seed(0)))
    return basis[:, numbers]


@pytest.fixture(scope="module")
def planted():
    """A generator and an encoder, two layers each, that share 6 directions of 21 and a neuron of the top row, on shuffled channels.

    Gives the batches, the shared neurons, and the top row's: {(A, B)}, numbered through all layers.
    """
    rng = np.random.default_rng(0)
    known = [rng.permutation([*range(6), *own]) for own in (range(6, 21), range(21, 36))]
    sides = [list(orthogonal(numbers).split([12, 9], 1)) for numbers in known]
    top_a, top_b = (int(np.flatnonzero(numbers[12:] > 5)[0]) for numbers in known)  # in place of one that is not shared
    shared = {tuple(int(np.flatnonzero(numbers == i)[0]) for numbers in known) for i in range(6)}
    batches = AlignedBatches(
        generator(of=sides[0], prefix=8, top_row=top_a),
        encoder(of=sides[1], top_row=top_b),
        wishes(200, CLASSES, seed=0),
    )
    return batches.held(), shared, {(12 + top_a, 12 + top_b)}


def found(table, layers=(12, 9)) -> set:
    starts = np.array([0, layers[0]])
    return set(zip(starts[table.layer_a] + table.unit_a, starts[table.layer_b] + table.unit_b, strict=True))


def test_planted_neurons_on_shuffled_channels_are_matched_exactly(planted):
    batches, shared, top_row = planted
    nulls = [match_batches(Permuted(batches, seed)) for seed in (0, 1)]
    table = match_batches(batches)
    assert len(table) > 10 and table.attrs["positions"] == 200 * 36  # others match by chance
    kept = calibrated(table, 1.5 * threshold(nulls, 1))
    assert found(kept) == shared | top_row and (kept.correlation > 0.999).all()


def test_the_null_that_keeps_cells_finds_the_neuron_of_the_top_row_and_no_other(planted):
    batches, _, top_row = planted
    above = 1.5 * threshold([match_batches(Permuted(batches, 0))], 1)
    for seed in (0, 1):
        kept = calibrated(match_batches(Permuted(batches, seed, whole=36)), above)
        assert found(kept) == top_row and (kept.correlation > 0.999).all()


def test_the_images_on_which_a_planted_pair_is_highest_are_those_of_a_sort(planted):
    batches, shared, _ = planted
    pairs = sorted(shared)[:3]
    a, b = (torch.cat(side).double().numpy().reshape(200, 6, 6, -1) for side in zip(*batches, strict=True))
    for by, height in ((None, lambda maps: maps.mean((1, 2))), ("peak", lambda maps: maps.max((1, 2)))):
        for (i, j), examples in zip(pairs, strongest_pieces(batches, pairs, 4, by), strict=True):
            x, y = height(a[..., i]), height(b[..., j])
            scores = np.where(np.minimum(x, y) > 0, x * y, np.minimum(x, y))
            order = np.argsort(-scores, kind="stable")[:4]
            assert [example.piece.index for example in examples] == order.tolist()
            np.testing.assert_allclose([example.score for example in examples], scores[order], rtol=1e-4)
            for example in examples:
                np.testing.assert_allclose(example.a, a[example.piece.index, ..., i], atol=1e-6)
                np.testing.assert_allclose(example.b, b[example.piece.index, ..., j], atol=1e-6)


def test_neurons_below_nothing_are_ranked_by_the_lower_one():
    """Of a neuron and its opposite one is always below nothing."""
    one = directions(1, 1)
    batches = AlignedBatches(encoder(of=[one]), encoder("other", of=[-one]), some_pictures(9), per_batch=4)
    means = encoder(of=[one]).read_pictures(some_pictures(9)).reshape(9, 36).mean(1)
    (examples,) = strongest_pieces(batches, [(0, 0)], 9)
    np.testing.assert_allclose([example.score for example in examples], -means.abs().sort().values, atol=1e-5)
