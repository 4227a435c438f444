"""What matching costs by each method: its stages, its readings of the text and its memory; and the method that costs least.

One model of cost for ``method="auto"`` and for the planner. A stage is an amount of work of each kind that a device has a
rate for (`rates.Rates`); how much work was fitted, once, to single steps on one core, and is tested against whole matchings.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from typing import NamedTuple

from rosetta.matching.correlation import tiles
from rosetta.matching.rates import CENTRE_BYTES, CORE, Rates

#: Rows of the sketches, unless others are asked for.
ROWS = 16_384
#: Candidates of a neuron that are verified, by method, and bytes moved for each number that is standardized for it.
VERIFIED = {"bfloat16": (3, 24), "sketch": (6, 24)}
#: With fewer rows an estimate says little: with 256 it is off by up to half of all there is.
FEWEST_ROWS = 256
#: Share of the table that certified sketches leave to be done exactly. With 4,096 rows and k = 1 it was .1 to .6 for pairs of
#: the zoo of 1,024 to 3,072 neurons a side, and .9 on synthetic activations; with k = 10 nearly all.
EXACT_SHARE = 0.5
#: Bytes moved for each number that a reading adds to a sketch; on an Intel Xeon, 56 were enough on an AMD EPYC.
SKETCH_BYTES = 100
#: Bytes of a sketch for each row and neuron: the sums, and as much again while estimates are made of them.
ROW_BYTES = 8
#: Bytes of a candidate on a list.
LISTED_BYTES = 12
#: Bytes moved for each number of a finished table: it is divided by two norms, and cleared of what is undefined.
TABLE_BYTES = 20
#: A search for several candidates, in searches for the largest.
SEVERAL = 3
#: Bytes of a tile of estimates, which is no faster if larger, and copies of it while candidates are sought.
TILE_BYTES, TILE_COPIES = 2**28, 3
#: Times that a forward pass takes longer than a large product of as many FLOP: seen on a CPU's core with the zoo.
READING = 2.5
#: FLOP up to which nothing but exact matching is worth a thought.
SMALL = 10**10


class Stage(NamedTuple):
    """A step of a method, and its work: `float32` and `bfloat16` in FLOP, `memory` in bytes, `search` in numbers, `sampled`
    in multiplications."""

    name: str
    float32: float = 0
    bfloat16: float = 0
    memory: float = 0
    search: float = 0
    sampled: float = 0

    @property
    def flop(self) -> float:
        """All its multiplications and additions in products."""
        return self.float32 + self.bfloat16 + 2 * self.sampled

    def seconds(self, rates: Rates) -> float:
        """On a device of these rates."""
        return sum(getattr(self, kind) / getattr(rates, kind) for kind in self._fields[1:])


class Cost(NamedTuple):
    """What one matching takes beside the reading of its activations.

    Attributes
    ----------
    method : str
    stages : tuple of Stage
    readings : int
        How often the positions are gone through.
    memory : int
        Bytes of tables, sketches and accumulators at their peak.
    lists : int
        Bytes of the lists of candidates, beside.
    tile : (int, int) or None
        Neurons of both models that one reading is summed of, where it is not all of them.
    rows : int
        Of the sketches; 0 without.
    exact_share : float
        Of the table, what a screening does exactly in the end.
    """

    method: str
    stages: tuple[Stage, ...]
    readings: int
    memory: int
    lists: int = 0
    tile: tuple[int, int] | None = None
    rows: int = 0
    exact_share: float = 0

    def seconds(self, rates: Rates) -> float:
        """On a device of these rates."""
        return sum(stage.seconds(rates) for stage in self.stages)


def exact(n_a: int, n_b: int, positions: int, memory_bytes: int, k: int = 1, thinned: bool = False) -> Cost:
    """Every correlation in float32, in tiles that fit the memory; the positions are read once for each."""
    return _table("exact", n_a, n_b, positions, memory_bytes, k, thinned)


def bfloat16(n_a: int, n_b: int, positions: int, memory_bytes: int, k: int = 1, thinned: bool = False) -> Cost:
    """Every correlation with bfloat16 inputs as a screen, and the candidates in float32 in one reading more."""
    screen = _table("bfloat16", n_a, n_b, positions, memory_bytes, k, thinned)
    verify = _verify("bfloat16", n_a + n_b, positions, 1 + thinned)
    return screen._replace(stages=(*screen.stages, verify), readings=screen.readings + 1)


def sketch(
    n_a: int,
    n_b: int,
    positions: int,
    memory_bytes: int,
    k: int = 1,
    thinned: bool = False,
    rows: int = ROWS,
    exact_share: float = EXACT_SHARE,
) -> Cost:
    """Sketches in one reading, candidates in a second, and what they leave open exactly in a third.

    Parameters
    ----------
    n_a, n_b, positions, memory_bytes
    k : int
        Neighbours sought of each neuron.
    thinned : bool
        Whether the same is done over thinned positions, too: a second sketch, from the same readings.
    rows : int
        Of the sketches.
    exact_share : float, optional
        Of the table, what is done exactly.
    """
    n, table, sets = n_a + n_b, n_a * n_b, 1 + thinned
    cells = exact_share * table
    again = ceil(4 * sets * cells / memory_bytes)
    stages = (
        Stage("centre", memory=SKETCH_BYTES * n * positions),
        Stage("product", bfloat16=2 * sets * table * rows),
        Stage("search", search=SEVERAL * sets * table, memory=TABLE_BYTES * sets * table),
        _verify("sketch", n, positions, sets),
        Stage("exact", float32=2 * cells * positions, memory=again * CENTRE_BYTES // 2 * n * positions,
              search=k * sets * cells),
    )  # fmt: skip
    tile = TILE_COPIES * min(TILE_BYTES, 4 * table)
    screen = min(memory_bytes, sketch_bytes(n_a, n_b, rows, thinned) + tile)
    accumulators = int(min(memory_bytes, 4 * sets * cells))
    lists = LISTED_BYTES * listed("sketch", k) * sets * n
    return Cost("sketch", stages, 2 + again, max(screen, accumulators), lists, rows=rows, exact_share=exact_share)


def listed(method: str, k: int) -> int:
    """How many candidates a screen lists for each neuron, unless others are asked for."""
    return {"bfloat16": max(32, 3 * k), "sketch": max(64, 2 * k)}[method]


def sketch_bytes(n_a: int, n_b: int, rows: int, thinned: bool = False) -> int:
    """Bytes of both models' sketches; twice as many with those of thinned positions."""
    return ROW_BYTES * rows * (n_a + n_b) * (1 + thinned)


def rows_that_fit(n_a: int, n_b: int, memory_bytes: int, rows: int = ROWS, thinned: bool = False) -> int:
    """`rows`, or half as many and so on, until the sketches fit the memory; 0 where that would leave fewer than `FEWEST_ROWS`."""
    fewest = min(rows, FEWEST_ROWS)
    while rows and sketch_bytes(n_a, n_b, rows, thinned) >= memory_bytes:
        rows //= 2
    return rows if rows >= fewest else 0


def _table(method, n_a, n_b, positions, memory_bytes, k, thinned) -> Cost:
    tables, sets, table = 4 + thinned, 1 + thinned, n_a * n_b
    down, across, height, width = tiling(n_a, n_b, memory_bytes, tables)
    of_type = {"exact": "float32", "bfloat16": "bfloat16"}[method]
    sought = k if method == "exact" else SEVERAL
    stages = (
        Stage("centre", memory=CENTRE_BYTES * positions * (n_a * across + n_b * down)),
        Stage("product", **{of_type: 2 * table * positions}),
        Stage("search", search=sought * sets * table, memory=TABLE_BYTES * sets * table),
    )
    lists = LISTED_BYTES * listed(method, k) * sets * (n_a + n_b) if method == "bfloat16" else 0
    return Cost(method, stages, down * across, 4 * tables * height * width, lists, (height, width))


def _verify(method: str, n: int, positions: int, sets: int) -> Stage:
    candidates, moved = VERIFIED[method]
    return Stage("verify", memory=moved * n * positions, sampled=candidates * sets * n * positions)


def tiling(n_a: int, n_b: int, memory_bytes: int, tables: int = 4) -> tuple[int, int, int, int]:
    """How many tiles down and across `correlation.tiles` cuts a table into, and rows and columns of the largest."""
    i, j = next(tiles(n_a, n_b, memory_bytes, tables))
    return ceil(n_a / i.stop), ceil(n_b / j.stop), i.stop, j.stop


METHODS: dict[str, Callable[..., Cost]] = {"exact": exact, "bfloat16": bfloat16, "sketch": sketch}


def costs(
    n_a: int,
    n_b: int,
    positions: int,
    memory_bytes: int,
    k: int = 1,
    thinned: bool = False,
    rows: int = ROWS,
    exact_share: float = EXACT_SHARE,
) -> dict[str, Cost]:
    """Of every method that the memory allows, with as many rows as it allows up to `rows`; other parameters as of `sketch`."""
    methods = {name: partial(METHODS[name], n_a, n_b, positions, memory_bytes, k, thinned) for name in METHODS}
    if fit := rows_that_fit(n_a, n_b, memory_bytes, rows, thinned):
        methods["sketch"] = partial(methods["sketch"], fit, exact_share)
    else:
        del methods["sketch"]
    return {name: cost() for name, cost in methods.items()}


def positions_of(batches) -> int | None:
    """How many positions batches hold: what they carry as ``positions``, or the sum over a list; None if it shows by
    reading them only."""
    if isinstance(batches, list | tuple):
        return sum(len(a) for a, _ in batches)
    return getattr(batches, "positions", None)


def cheaper(
    n_a: int,
    n_b: int,
    positions: int | None,
    memory_bytes: int,
    rows: int = ROWS,
    again: bool = True,
    rates: Rates = CORE,
    methods: Sequence[str] = ("exact", "bfloat16", "sketch"),
    reading: float = 0,
) -> tuple[str, str]:
    """The method that is expected to cost least, and why.

    Parameters
    ----------
    n_a, n_b : int
        Neurons of the two models.
    positions : int or None
        If they are known.
    memory_bytes : int
        For the accumulators or the sketches.
    rows : int
        Of the sketches; 0 where the memory holds none.
    again : bool
        Whether the batches can be gone through again.
    rates : Rates
        Of the device.
    methods : sequence of str
        Those to choose from, of `METHODS`.
    reading : float
        FLOP of reading a position, 0 where activations are at hand.

    Returns
    -------
    (str, str)
        The method, and a sentence for people.
    """
    what, (down, across, *_) = f"{n_a} x {n_b} neurons", tiling(n_a, n_b, memory_bytes)
    if not again:
        return "exact", "the batches can be read only once"
    fits = rows > 0
    if positions is None:
        if down * across == 1:
            return "exact", f"a table of {what} fits the memory, and the number of positions is not known"
        if fits and "sketch" in methods:
            return "sketch", f"the table would need {down * across} readings of the positions"
        return "exact", f"no sketches fit {memory_bytes:,} bytes"
    what += f" over {positions} positions"
    if 2 * n_a * n_b * positions < SMALL and down * across == 1:
        return "exact", f"{what}: too few to save anything"
    of = costs(n_a, n_b, positions, memory_bytes, rows=rows)
    worth = fits and positions > 2 * rows  # or the positions themselves are hardly more than a sketch
    considered = [name for name in methods if name != "sketch" or worth]
    fewest = min(of[name].readings for name in considered)
    # Where one is made in parts too small for the device, it costs more than its FLOP.
    few = [name for name in considered if of[name].readings <= 3 * fewest]
    each = READING * reading * positions / rates.float32
    seconds = {name: of[name].seconds(rates) + of[name].readings * each for name in few}
    best = min(seconds, key=seconds.get)
    many = [f"{name} needs {of[name].readings} readings" for name in considered if name not in seconds]
    if not fits:
        many.append(f"no sketches fit {memory_bytes:,} bytes")
    told = ", ".join([*(f"{name} {value:.3g} s" for name, value in seconds.items()), *many])
    return best, f"{what}; expected are {told}"
