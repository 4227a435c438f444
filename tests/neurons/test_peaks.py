import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rosetta.neurons.peaks import Peaks, TopPeaks


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.integers(1, 6), st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=9), min_size=1))
def test_the_highest_values_of_a_stream_with_many_ties_come_in_the_order_of_a_stable_sort(columns, n, batches):
    top, seen, at = TopPeaks(columns, n), [], 0
    for batch in batches:
        values = torch.tensor(batch, dtype=torch.float32)[:, None] * (1 - 2 * (torch.arange(columns) % 2))
        places = torch.arange(at, at + len(batch))[:, None].expand(-1, columns)
        top.update([Peaks(values, places, places % 3, values / 2)])
        seen.append(values)
        at += len(batch)
    everything = torch.cat(seen).numpy()
    order = np.argsort(-everything, axis=0, kind="stable")[:n].T
    expected = np.take_along_axis(everything, order.T, axis=0)
    there, missing = (Peaks(*(field[part] for field in top.best)) for part in np.split(range(n), [order.shape[1]]))
    for field, wanted in zip(there, (expected, order.T, order.T % 3, expected / 2), strict=True):
        np.testing.assert_array_equal(field, wanted)
    assert (missing.piece == -1).all() and (missing.activation == -np.inf).all()
