"""What exact matching and screening are expected to cost, and which of them costs less.

Costs are in multiplications of a large matrix product, of which each other step's unit costs as many as it takes longer.
They are rough: single steps timed on one core, or reckoned; no choice made by them has been timed against the other.
"""

from rosetta.matching.correlation import tiles

#: Rows of the sketches, unless others are asked for.
ROWS = 4096
#: For each estimate: the search for the largest, by rows and by columns.
SEARCH = 800
#: For each neuron and position: a sketch's sums, and a second centring and turning for the candidates.
SKETCH = 600
#: For each neuron and position: exact correlations of its candidates, some sixteen, each as dear as eight in a product.
VERIFY = 128
#: Share of the table that is done exactly in the end: seen at 4,096 neurons a side, with as many rows and 64 candidates.
EXACT_SHARE = 0.5


def positions_of(batches) -> int | None:
    """How many positions batches hold: what they carry as ``positions``, or the sum over a list; None if it shows by
    reading them only."""
    if isinstance(batches, list | tuple):
        return sum(len(a) for a, _ in batches)
    return getattr(batches, "positions", None)


def cheaper(
    n_a: int, n_b: int, positions: int | None, memory_bytes: int, rows: int = ROWS, again: bool = True
) -> tuple[str, str]:
    """The method that is expected to cost less, and why.

    Parameters
    ----------
    n_a, n_b : int
        Neurons of the two models.
    positions : int or None
        If they are known.
    memory_bytes : int
        For the accumulators or the sketches.
    rows : int
        Of the sketches.
    again : bool
        Whether the batches can be gone through again.

    Returns
    -------
    (str, str)
        ``"exact"`` or ``"sketch"``, and a sentence for people.
    """
    readings = sum(1 for _ in tiles(n_a, n_b, memory_bytes))
    if not again:
        return "exact", "the batches can be read only once"
    if 8 * rows * (n_a + n_b) + 16 > memory_bytes:
        return "exact", f"sketches of {rows} rows do not fit {memory_bytes:,} bytes"
    if positions is None:
        if readings == 1:
            return "exact", f"a table of {n_a} x {n_b} fits the memory, and the number of positions is not known"
        return "sketch", f"the table would need {readings} readings of the positions"
    table = n_a * n_b
    exact = table * positions
    sketch = table * (rows + SEARCH) + (n_a + n_b) * positions * (SKETCH + VERIFY) + EXACT_SHARE * exact
    why = (
        f"{n_a} x {n_b} neurons over {positions} positions; screening is expected to cost {sketch / exact:.2f} of exact"
    )
    if readings > 3:
        return "sketch", f"{why}, and the table would need {readings} readings"
    return ("sketch" if sketch < exact else "exact"), why
