import numpy as np
import pytest
from seeing import CLASSES, GRID, directions, encoder, generator, some_pictures

from rosetta.matching.generated import wishes
from rosetta.neurons.images import maps_on, top_images


def some(kind, n=60):
    """A reader, what it reads, and its activations there: float32 [images, cells, neurons]."""
    if kind == "encoder":
        reader, images = encoder(), some_pictures(n)
        acts = reader.read_pictures(images)
    else:
        reader, images = generator(), wishes(n, CLASSES, seed=0)
        acts, _ = reader.make([wish.label for wish in images], [wish.seed for wish in images])
    return reader, images, acts.reshape(n, GRID**2, -1).numpy()


@pytest.mark.parametrize("kind", ["encoder", "generator"])
@pytest.mark.parametrize("by", ["mean", "peak"])
@pytest.mark.parametrize("per_batch", [1, 7, 100])
def test_top_images_are_those_of_a_sort_of_all_images(kind, by, per_batch):
    reader, images, acts = some(kind)
    table = top_images(reader, images, 5, by, per_batch)
    heights = acts.mean(1) if by == "mean" else acts.max(1)
    assert len(table) == 5 * 12 and table.attrs["positions"] == 60 * GRID**2
    for neuron in range(12):
        layer, unit = divmod(neuron, 7)
        rows = table[(table.layer == layer) & (table.unit == unit)]
        order = np.argsort(-heights[:, neuron], kind="stable")[:5]
        assert rows["rank"].tolist() == [1, 2, 3, 4, 5] and rows.image.tolist() == order.tolist()
        np.testing.assert_allclose(rows.activation, heights[order, neuron], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(rows.image_mean, acts[order, :, neuron].mean(1), rtol=1e-4, atol=1e-5)
        assert rows.cell.tolist() == acts[order, :, neuron].argmax(1).tolist()
        np.testing.assert_allclose(rows["mean"], acts[..., neuron].astype(float).mean(), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(rows["std"], acts[..., neuron].astype(float).std(), rtol=1e-4)


def test_a_dead_neuron_has_no_images_and_of_equal_images_the_earlier_comes_first():
    both = directions(3, 1)
    both[:, 1] = 0
    reader = encoder(of=[both])
    table = top_images(reader, some_pictures(4) * 3, 5)
    assert set(table.unit) == {0, 2}
    assert (table.image.to_numpy().reshape(2, 5)[:, :3] == [[i, i + 4, i + 8] for i in table.image[[0, 5]]]).all()


@pytest.mark.parametrize("kind", ["encoder", "generator"])
def test_maps_are_those_of_reading_each_image_alone(kind):
    reader, images, acts = some(kind, 20)
    wanted = {17: [3, 11], 2: [0], 5: [11, 3, 4]}
    found = maps_on(reader, images, wanted, per_batch=2)
    assert list(found) == list(wanted)
    for number, neurons in wanted.items():
        expected = acts[number][:, neurons].reshape(GRID, GRID, -1)
        assert found[number].dtype == np.float32
        np.testing.assert_allclose(found[number], expected, atol=1e-5)


def test_only_images_that_are_wanted_are_asked_for():
    asked = []

    class Asked(list):
        def __getitem__(self, number):
            asked.append(number)
            return super().__getitem__(number)

    maps_on(encoder(), Asked(some_pictures(9)), {8: [0], 1: [2]})
    assert asked == [8, 1]


def test_no_images_and_another_order_are_refused():
    with pytest.raises(ValueError, match="nothing to read"):
        top_images(encoder(), [])
    with pytest.raises(ValueError, match="by is 'median'"):
        top_images(encoder(), some_pictures(2), by="median")
    with pytest.raises(ValueError, match="n is 0"):
        top_images(encoder(), some_pictures(2), n=0)
