"""Neurons that are equal, exactly: no rounding may say which of them is the nearer neighbour.

A large product does not round alike in all its columns, so neurons with the very same activations can differ in the last
digit of r. They are told from their activations, and the lower index is the nearer, whatever the method.
"""

from collections.abc import Generator

import numpy as np
import torch

#: So few positions tell most neurons apart; only what they leave open is looked at in all positions.
FEW = 64


class Equals:
    """Which of n neurons have had the very same activations at all positions so far.

    Attributes
    ----------
    first : int64 [n]
        The first neuron that each is equal to, mostly itself.
    """

    def __init__(self, n: int):
        self.first, self.unsure = np.zeros(n, dtype=np.int64), np.arange(n)

    def update(self, x: torch.Tensor) -> None:
        """More positions: x [T, n]."""
        for rows in (x[:FEW], x[FEW:]):
            if len(self.unsure) and len(rows):
                columns = rows.index_select(1, torch.from_numpy(self.unsure).to(rows.device))
                self._part(_prints(columns))

    def join(self, first: np.ndarray) -> None:
        """Other positions, of which these are the first of equals."""
        self._part(first[self.unsure])

    def _part(self, now: np.ndarray) -> None:
        """Part those that were equal so far, and are not by these numbers."""
        both = np.stack([self.first[self.unsure], now])
        _, at, which, size = np.unique(both, axis=1, return_index=True, return_inverse=True, return_counts=True)
        which = which.reshape(-1)
        self.first[self.unsure] = self.unsure[at][which]
        self.unsure = self.unsure[size[which] > 1]


def _prints(x: torch.Tensor) -> np.ndarray:
    """A number for each column of x [T, n] from all its bits: a sum of whole numbers, which rounds nothing."""
    weights = np.random.default_rng(0).integers(2**63, size=(len(x), 1)) | 1
    bits = (x.float() + 0.0).cpu().numpy().view(np.int32)  # + 0, or -0 would not be 0
    return (bits * weights).sum(0)


def lower_first(way: Generator) -> Generator:
    """A way of matching (`rounds`), what it returns put in order by what its first round tells of equals."""
    filled = yield next(way)
    same_a, same_b = (side.first for side in filled.equals)
    while True:
        try:
            empty = way.send(filled)
        except StopIteration as end:
            return [
                (in_order(of_a, same_a, same_b), in_order(of_b, same_b, same_a), facts)
                for of_a, of_b, facts in end.value
            ]
        filled = yield empty


def in_order(nearest, same: np.ndarray, others: np.ndarray):
    """Lists of neighbours in which equal neurons have one list, and of equal neighbours the lowest come first.

    Parameters
    ----------
    nearest : Neighbours
        Of n neurons, [n, k].
    same, others : int64 [n], [m]
        The first that each neuron is equal to; of these, and of those who are their neighbours.
    """
    if (same == np.arange(len(same))).all() and (others == np.arange(len(others))).all():
        return nearest
    best = np.lexsort((-nearest.values[:, 0], same))  # of equals, the list of the nearest
    of = best[np.searchsorted(same[best], same)]
    values, indices = nearest.values[of], nearest.indices[of]
    neuron, rank = np.nonzero(indices >= 0)
    first = others[indices[neuron, rank]]
    order = np.lexsort((rank, first, neuron))  # the places that equal neighbours have in a list
    neuron, rank, first = neuron[order], rank[order], first[order]
    place = neuron * len(others) + first
    members = np.argsort(others, kind="stable")
    lowest = np.searchsorted(others[members], first)
    indices[neuron, rank] = members[lowest + np.arange(len(place)) - np.searchsorted(place, place)]
    return nearest._replace(values=values, indices=indices)
