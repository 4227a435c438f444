"""Matching as rounds of sums over positions: each round is one reading of the text, and only sums pass from one to the next.

A way of matching is a generator of rounds: it gives an empty `Round`, is sent the same one filled, and at its end returns
what it found. `run` fills each round from batches that are at hand. Shards of the text fill a round apart: each part is
saved, the parts are joined, and a generator that is sent the joined rounds of before goes on as if it had made them.
"""

import json
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rosetta.matching.correlation import check_batch, named, part_of
from rosetta.matching.equals import Equals
from rosetta.results import write_whole

#: What a file of a round says of itself.
FORMAT = "rosetta round 1"


class Round:
    """Sums over positions. What subclasses have: `empty`, `add`, `merge`, `tensors`, `take` and `parameters`.

    Parameters
    ----------
    n_a, n_b : int
        Neurons of the two models.

    Attributes
    ----------
    positions : int
        How many have been added.
    equals : (Equals, Equals)
        Which neurons of A, and of B, are equal over all of them.
    """

    def __init__(self, n_a: int, n_b: int):
        self.n_a, self.n_b, self.positions, self._keys = n_a, n_b, 0, []
        self.equals = Equals(n_a), Equals(n_b)

    def update(self, a: torch.Tensor, b: torch.Tensor, keys: np.ndarray | None = None, kept: np.ndarray | None = None):
        """Add one batch of aligned activations.

        Parameters
        ----------
        a, b : [T, n_a], [T, n_b]
            The same T positions.
        keys : int64 [T], optional
            What tells each position from all others of the text; by default running numbers.
        kept : bool [T], optional
            Which of them are in the part of the positions that is matched apart (`match_thinned`).

        Raises
        ------
        ValueError
            If the shapes do not fit, on keys that are no T whole numbers, or on NaN or infinity.
        """
        check_batch(a, b, self.n_a, self.n_b)
        keys = np.arange(self.positions, self.positions + len(a)) if keys is None else np.asarray(keys)
        if keys.shape != (len(a),) or keys.dtype.kind not in "iu":
            raise ValueError(
                f"keys are {keys.dtype} {keys.shape}; expected a whole number for each of {len(a)} positions"
            )
        if len(a):
            self.add(a, b, keys, kept)
            for equals, side in zip(self.equals, (a, b), strict=True):
                equals.update(side)
            self._keys.append(keys.astype(np.int64))
            self.positions += len(a)

    def join(self, other: "Round") -> None:
        """Add all positions of another round, which stays as it is.

        Raises
        ------
        ValueError
            If the other was made with other parameters, which are named, or has some of the same positions.
        """
        _refuse(self.parameters(), other.parameters(), "rounds do not fit: one", "the other")
        both = len(np.intersect1d(self.keys, other.keys))
        if both:
            raise ValueError(f"positions overlap: {both} of {other.positions} have been added already")
        if other.positions:
            self.merge(other)
            for equals, others in zip(self.equals, other.equals, strict=True):
                equals.join(others.first)
            self._keys.append(other.keys)
            self.positions += other.positions

    @property
    def keys(self) -> np.ndarray:
        """int64 [positions], in the order in which they were added."""
        self._keys = [np.concatenate(self._keys)] if self._keys else []
        return self._keys[0] if self._keys else np.empty(0, dtype=np.int64)

    def save(self, path: str | Path, **parameters) -> None:
        """Write a safetensors file, whole or not at all, with the parameters that made it: the round's own and more."""
        tensors = self.tensors() if self.positions else {}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        tensors["keys"] = torch.from_numpy(self.keys)
        tensors |= {f"equals.{i}": torch.from_numpy(equals.first) for i, equals in enumerate(self.equals)}
        facts = {"format": FORMAT, "parameters": json.dumps(self.parameters() | parameters)}
        write_whole(Path(path), lambda temporary: save_file(tensors, temporary, metadata=facts))

    def restore(self, path: str | Path, **parameters) -> "Round":
        """Fill an empty round with what `save` wrote; the round itself is returned.

        Raises
        ------
        ValueError
            If the file is cut short, holds something else, or was made with other parameters; they are named.
        """
        try:
            with safe_open(str(path), "pt") as file:
                facts = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except Exception as error:  # safetensors raises its own, which is an Exception and no more
            raise ValueError(f"{path} cannot be read as a round ({error}); remove it and make it again") from error
        if facts.get("format") != FORMAT:
            raise ValueError(f"{path} is {facts.get('format', 'no round')!r}; expected {FORMAT!r}")
        wanted = json.loads(json.dumps(self.parameters() | parameters))
        _refuse(json.loads(facts["parameters"]), wanted, f"{path} was made", "expected", "with another run's")
        keys = tensors.pop("keys").numpy()
        for i, equals in enumerate(self.equals):
            equals.join(tensors.pop(f"equals.{i}").numpy())
        if len(keys):
            self._keys, self.positions = [keys], len(keys)
            self.take(tensors)
        return self

    def empty(self) -> "Round":
        """Another one, without positions, that can be filled apart and joined with this."""
        raise NotImplementedError

    def add(self, a: torch.Tensor, b: torch.Tensor, keys: np.ndarray, kept: np.ndarray | None) -> None:
        """Add a batch that is not empty; ``self.positions`` is how many came before."""
        raise NotImplementedError

    def merge(self, other: "Round") -> None:
        """Add the sums of another that has the same parameters and at least one position."""
        raise NotImplementedError

    def tensors(self) -> dict[str, torch.Tensor]:
        """All sums, by name."""
        raise NotImplementedError

    def take(self, tensors: dict[str, torch.Tensor]) -> None:
        """Have the sums that `tensors` gave; ``self.positions`` is of how many."""
        raise NotImplementedError

    def parameters(self) -> dict[str, Any]:
        """What sums must have in common to add up; numbers, texts and lists of them."""
        raise NotImplementedError


class Twins(Round):
    """Two rounds that share a reading: one over all positions, one over those that are kept."""

    def __init__(self, whole: Round, part: Round):
        super().__init__(whole.n_a, whole.n_b)
        self.whole, self.part = whole, part

    def empty(self):
        return Twins(self.whole.empty(), self.part.empty())

    def add(self, a, b, keys, kept):
        self.whole.update(a, b, keys)
        mask = torch.from_numpy(kept)
        self.part.update(a[mask.to(a.device)], b[mask.to(b.device)], keys[kept])

    def merge(self, other):
        self.whole.join(other.whole)
        self.part.join(other.part)

    def tensors(self):
        both = {"whole": self.whole, "part": self.part}
        held = named({name: one.tensors() for name, one in both.items() if one.positions})
        return held | {f"{name}.keys": torch.from_numpy(one.keys) for name, one in both.items()}

    def take(self, tensors):
        for name, one in (("whole", self.whole), ("part", self.part)):
            mine = part_of(tensors, name)
            keys = mine.pop("keys").numpy()
            if len(keys):
                one._keys, one.positions = [keys], len(keys)
                one.take(mine)

    def parameters(self):
        return {"whole": self.whole.parameters(), "part": self.part.parameters()}


def together(ways: list[Generator]) -> Generator[Round, Round, list]:
    """One way of matching, or two that share their readings: over all positions, and over those that are kept.

    Returns
    -------
    list
        What each returns.
    """
    if len(ways) == 1:
        return [(yield from ways[0])]
    results = {}

    def go_on(which: int, filled: Round | None) -> Round | None:
        try:
            return ways[which].send(filled)
        except StopIteration as end:
            results[which] = end.value
            return None

    rounds = [go_on(0, None), go_on(1, None)]
    while len(results) < 2:
        empty = next(one for one in rounds if one)
        filled = yield Twins(*(one or Nothing(empty.n_a, empty.n_b) for one in rounds))
        rounds = [go_on(i, one) if rounds[i] else None for i, one in enumerate((filled.whole, filled.part))]
    return [results[0], results[1]]


class Nothing(Round):
    """A round of a way that has come to its end."""

    def empty(self):
        return Nothing(self.n_a, self.n_b)

    def add(self, a, b, keys, kept):
        pass

    def merge(self, other):
        pass

    def tensors(self):
        return {}

    def take(self, tensors):
        pass

    def parameters(self):
        return {"round": "nothing"}


def run(rounds: Generator[Round, Round, Any], batches: Iterable, kept: np.ndarray | None = None) -> Any:
    """What a way of matching returns, from batches that are gone through once for each of its rounds.

    Parameters
    ----------
    rounds : generator of Round
    batches : iterable of (A [T, n_a], B [T, n_b])
        Their ``keys``, int64 [positions], are used if they have them.
    kept : bool [positions], optional
        For all batches together, in their order.

    Raises
    ------
    ValueError
        If there are more rounds than the batches can be gone through, the batches change from one round to the next, or
        keys or `kept` are not one for each position.
    """
    once, keys, first = iter(batches) is batches, getattr(batches, "keys", None), None
    filled = next(rounds)
    while True:
        if once and first is not None:
            again = "these batches can be read only once; pass a list or AlignedBatches"
            raise ValueError(f"matching needs another reading of the positions, but {again}")
        read = 0
        for a, b in batches:
            parts = [None if one is None else one[read : read + len(a)] for one in (keys, kept)]
            read += len(a)
            if all(
                part is None or len(part) == len(a) for part in parts
            ):  # or else it is said when all have been counted
                filled.update(a, b, *parts)
        _check_lengths(read, first, keys, kept)
        first = read
        try:
            filled = rounds.send(filled)
        except StopIteration as end:
            return end.value


def unusable(path: str | Path, **parameters) -> str | None:
    """What keeps a saved round from being of use where these parameters are expected; None if nothing does.

    Only what the file says of itself is read.
    """
    try:
        with safe_open(str(path), "pt") as file:
            facts = file.metadata() or {}
    except Exception as error:  # safetensors raises its own, which is an Exception and no more
        return f"cannot be read as a round ({error})"
    made_with, wanted = json.loads(facts.get("parameters", "{}")), json.loads(json.dumps(parameters))
    other = [name for name in sorted(wanted) if made_with.get(name) != wanted[name]]
    return f"was made with another {', '.join(other)}" if other else None


def _check_lengths(positions: int, first: int | None, keys: np.ndarray | None, kept: np.ndarray | None) -> None:
    if first is not None and positions != first:
        raise ValueError(f"the batches changed between two readings: {first} positions first, then {positions}")
    for name, one in (("keys are", keys), ("kept is", kept)):
        if one is not None and len(one) != positions:
            raise ValueError(f"{name} for {len(one)} positions; the batches hold {positions}")


def _refuse(has: dict, wanted: dict, who: str, other: str, how: str = "has") -> None:
    for name in sorted({*has, *wanted}):
        if has.get(name) != wanted.get(name):
            raise ValueError(f"{who} {how} {name} {has.get(name)!r}, {other} {wanted.get(name)!r}")
