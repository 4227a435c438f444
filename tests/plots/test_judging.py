"""A notebook shows the very pixels that a judge is sent."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from seeing import some_evidence, some_unseen

from rosetta import neurons, plots

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize(
    ("draw", "drawn", "of"),
    [(plots.composite, neurons.composite, some_evidence(1, 7)[0]),
     (plots.lettered, lambda unseen, **more: neurons.lettered(unseen.images, **more), some_unseen(1)[0])],
    ids=["composite", "lettered"],
)  # fmt: skip
def test_a_figure_is_the_array_pixel_by_pixel(draw, drawn, of):
    figure = draw(of, tile=40)
    figure.canvas.draw()
    assert np.array_equal(np.asarray(figure.canvas.buffer_rgba())[..., :3], drawn(of, tile=40))
    plt.close(figure)
