import numpy as np
import pytest
import torch

from rosetta.models.load import ModelRefused
from rosetta.models.mlps import Mlp
from rosetta.models.opened import BadPicture, cells_of, check_labels, noise, pictures


def test_a_pictures_noise_is_its_own_whatever_it_is_made_with():
    alone, together = noise([7], (3, 5, 5)), noise([4, 7, 2**40], (3, 5, 5))
    assert torch.equal(alone[0], together[1]) and not torch.equal(together[0], together[1])
    many = noise(range(200), (3, 8, 8))
    assert abs(many.mean().item()) < 0.03 and abs(many.std().item() - 1) < 0.03


def test_pictures_are_rounded_to_8_bits_and_cut_off_at_both_ends():
    values = torch.tensor([-3.0, 0.0, 0.5 / 255 + 1e-4, 0.7, 1.0, 1.4]).view(1, 1, 1, 6).expand(1, 3, 2, 6)
    made = pictures("m", [], lambda: values, torch.tensor([0]), [0])
    assert made.shape == (1, 2, 6, 3) and made.dtype == torch.uint8
    np.testing.assert_array_equal(made[0, 1, :, 2], [0, 0, 1, round(0.7 * 255), 255, 255])


class Breaks(torch.nn.Module):
    """Three layers; in the one of this number, picture `picture` divides by nothing."""

    def __init__(self, layer: int, picture: int):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(3))
        self.layer, self.picture = layer, picture

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            if i == self.layer:
                x = x.clone()
                x[self.picture] /= 0
            x = layer(x)
        if self.layer == len(self.layers):
            x[self.picture] /= 0
        return x


@pytest.mark.parametrize(
    ("layer", "said"), [(0, r"layer 0, layers\.0"), (2, r"layer 2, layers\.2"), (3, "no layer's neurons have any")]
)
def test_a_picture_with_nan_is_refused_by_its_name_and_the_layer_where_it_begins(layer, said):
    model = Breaks(layer, picture=1)
    mlps = [Mlp(f"layers.{i}", f"layers.{i}", module, 4) for i, module in enumerate(model.layers)]
    start = torch.randn(3, 4)

    def make():
        return model(start)[:, None, None].expand(-1, 3, 4, 4)

    with pytest.raises(BadPicture, match=rf"model m: .*label 5, seed 12 \(number 2 of 3\); .*{said}"):
        pictures("m", mlps, make, torch.tensor([4, 5, 6]), [11, 12, 13])
    assert not any(mlp.projection._forward_pre_hooks for mlp in mlps)


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_that_is_no_class_is_refused(label):
    check_labels("m", torch.tensor([0, 9]), 10)
    with pytest.raises(ValueError, match=rf"model m: there is no class {label}; its classes are 0 to 9"):
        check_labels("m", torch.tensor([3, label]), 10)


def test_a_square_that_is_not_made_of_whole_patches_is_refused():
    assert cells_of("m", 224, 14) == (16, 16)
    for size in (256, 13, 0):
        with pytest.raises(ModelRefused, match=rf"model m: images of {size} x {size} pixels .* multiples of 14"):
            cells_of("m", size, 14)
