"""Streaming Pearson correlation of all neurons of one model with all neurons of another (eq. 2)."""

from collections.abc import Callable, Iterator
from copy import copy

import torch

#: Neurons centred at a time, and positions scaled at a time: what a batch has of them fits a cache.
COLUMNS, ROWS = 256, 128
#: How far bfloat16 products can move r: each side's rounding, by up to 2^-8 of its length, and that of each batch's product.
ROUNDED = 3 * 2**-8


class PearsonAccumulator:
    """One pass over batches of activations; float32 products, float64 means and variances.

    Every neuron is shifted and scaled by its mean and spread in the first batch; Pearson's r does not change. Each
    batch is centred on its own mean and the means' differences are added as one product more (Chan et al., 1983), so
    nothing large is ever subtracted: neither a mean nor a scale can drown the products. Against float64 r is off by about
    1e-6; where a neuron is silent but for a few positions, and the table has only a few columns, by up to 5e-4, for then
    float32 adds up many tiny equal terms one by one.

    Parameters
    ----------
    n_a, n_b : int
        Neurons of the two models.
    device : str or torch.device
    products : torch.dtype
        What centred activations are rounded to before they are multiplied. With bfloat16 r is off by up to `ROUNDED`, and
        made in half the time or less where the device has instructions for it; means and variances are what they were.

    Raises
    ------
    ValueError
        On an empty side.
    """

    def __init__(self, n_a: int, n_b: int, device: str | torch.device = "cpu", products: torch.dtype = torch.float32):
        if n_a < 1 or n_b < 1:
            raise ValueError(f"n_a is {n_a} and n_b is {n_b}; each must be at least 1")
        self.positions, self.products = 0, products
        self.cross = torch.zeros(n_a, n_b, device=device)
        self.a, self.b = Moments(n_a, device), Moments(n_b, device)

    def update(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Add one batch: a [T, n_a] and b [T, n_b], the same T positions.

        Raises
        ------
        ValueError
            If the shapes do not fit, or on NaN or infinity.
        """
        check_batch(a, b, *self.cross.shape)
        if not len(a):
            return
        a, moved_a = self.a.centre(a, self.positions)
        b, moved_b = self.b.centre(b, self.positions)
        if self.products == torch.float32:
            self.cross.addmm_(a.T, b)
        else:
            self.cross += product(a.to(self.products).T, b.to(self.products))
        if self.positions:
            self.cross.addr_(moved_a, moved_b, alpha=joined_weight(self.positions, len(a)))
        self.positions += len(a)

    def join(self, other: "PearsonAccumulator") -> None:
        """Add all positions that another accumulator of the same neurons has seen; that one stays as it is.

        Raises
        ------
        ValueError
            If the numbers of neurons differ.
        """
        if other.cross.shape != self.cross.shape:
            raise ValueError(f"the other is of {tuple(other.cross.shape)} neurons; expected {tuple(self.cross.shape)}")
        if not other.positions:
            return
        if not self.positions:  # the units are the other's, then
            self.cross, self.a, self.b = other.cross.clone(), other.a.copy(), other.b.copy()
        else:
            in_a, moved_a = self.a.join(other.a, self.positions, other.positions)
            in_b, moved_b = self.b.join(other.b, self.positions, other.positions)
            self.cross.addcmul_(other.cross * in_a[:, None], in_b[None, :].expand_as(self.cross))
            self.cross.addr_(moved_a, moved_b, alpha=joined_weight(self.positions, other.positions))
        self.positions += other.positions

    def correlation(self) -> torch.Tensor:
        """r [n_a, n_b] of all positions so far; NaN where a neuron never changed. More batches may follow.

        Raises
        ------
        ValueError
            With fewer than two positions.
        """
        if self.positions < 2:
            raise ValueError(f"a correlation needs at least 2 positions; there are {self.positions}")
        return (self.cross / self.a.norm()[:, None]).div_(self.b.norm()[None, :]).clamp_(-1, 1)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All sums, by name; for a file."""
        return {"cross": self.cross, **named({"a": self.a.tensors(), "b": self.b.tensors()})}

    def take(self, tensors: dict[str, torch.Tensor], positions: int) -> None:
        """Have what `tensors` gave, of so many positions."""
        self.cross, self.positions = tensors["cross"].to(self.cross.device), positions
        self.a.take(part_of(tensors, "a"))
        self.b.take(part_of(tensors, "b"))

    @property
    def dead(self) -> tuple[int, int]:
        """How many neurons of A and of B never changed."""
        return int((~self.a.changed).sum()), int((~self.b.changed).sum())


def product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x @ y of bfloat16 tables, summed in float32; on a CPU the result is rounded to bfloat16, which torch has no way around."""
    return torch.mm(x, y, out_dtype=torch.float32) if x.is_cuda else x @ y


def check_batch(a: torch.Tensor, b: torch.Tensor, n_a: int, n_b: int) -> None:
    """ValueError unless a is a real tensor [T, n_a] and b one [T, n_b]."""
    for name, side in (("a", a), ("b", b)):
        if not isinstance(side, torch.Tensor) or side.is_complex():
            raise ValueError(f"{name} is {type(side).__name__}, {getattr(side, 'dtype', '')}; it must be a real tensor")
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or (a.shape[1], b.shape[1]) != (n_a, n_b):
        expected = f"[T, {n_a}] and [T, {n_b}] with the same T"
        raise ValueError(f"a is {tuple(a.shape)} and b is {tuple(b.shape)}; expected {expected}")


def named(parts: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The tensors of several parts as those of one, ``part.name``; for a file."""
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def part_of(tensors: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    """What `named` was given of one part."""
    return {name.removeprefix(f"{part}."): t for name, t in tensors.items() if name.startswith(f"{part}.")}


def joined_weight(before: int, now: int) -> float:
    """What the squared difference of two means counts for when their batches are joined."""
    return before * now / (before + now)


def padded(rows: int, n: int, device: str | torch.device) -> torch.Tensor:
    """Room for a table [rows, n] that is to be transposed: rows a power of two apart would drive each other from a cache."""
    return torch.empty(rows, n + 16, device=device)[:, :n]


class Moments:
    """Shift, scale, mean and sum of squared deviations of one side's neurons."""

    def __init__(self, n: int, device):
        self.first = None
        self.mean = torch.zeros(n, dtype=torch.float64, device=device)
        self.squares = torch.zeros(n, dtype=torch.float64, device=device)
        self.changed = torch.zeros(n, dtype=torch.bool, device=device)

    def centre(self, x: torch.Tensor, before: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch less its own mean, and how far that lies from the mean of the `before` positions before it."""
        x = self._begin(x)
        centred, mean, squares = torch.empty_like(x), torch.empty_like(self.shift), torch.empty_like(self.shift)
        columns = COLUMNS if x.device.type == "cpu" else x.shape[1]
        for start in range(0, x.shape[1], columns):
            part = slice(start, start + columns)
            block = torch.sub(x[:, part], self.shift[part], out=centred[:, part]).mul_(self.scale[part])
            mean[part] = block.mean(0)
            squares[part] = block.sub_(mean[part]).square().sum(0)
        squares = squares.double()
        small = (squares < 1e-30).nonzero().squeeze(1)  # their squares may be below what float32 can hold
        if len(small):
            squares[small] = centred[:, small].double().square_().sum(0)
        return centred, self._add(mean.double(), squares, before, len(x))

    def scaled(self, x: torch.Tensor, before: int, take: Callable[[torch.Tensor, slice], None]) -> None:
        """Hand a batch, shifted and scaled, to ``take(part, rows)`` a few rows at a time; the part may be written to."""
        x = self._begin(x)
        total, squares = torch.zeros_like(self.mean), torch.zeros_like(self.mean)
        room, squared = (torch.empty(min(ROWS, len(x)), x.shape[1], device=x.device) for _ in range(2))
        for start in range(0, len(x), ROWS):
            n = min(ROWS, len(x) - start)
            part = torch.sub(x[start : start + n], self.shift, out=room[:n]).mul_(self.scale)
            total += part.sum(0)
            squares += torch.square(part, out=squared[:n]).sum(0)
            take(part, slice(start, start + n))
        mean = total / len(x)
        squares -= total * mean
        # Where a mean is large beside what is left, or the squares are below what float32 can hold, once more in float64.
        lost = ((squares < total * mean) | (squares < 1e-30)).nonzero().squeeze(1)
        if len(lost):
            again = (x[:, lost].double() - self.shift[lost]).mul_(self.scale[lost])
            squares[lost] = (again - again.mean(0)).square_().sum(0)
        self._add(mean, squares, before, len(x))

    def _begin(self, x: torch.Tensor) -> torch.Tensor:
        """A batch as float32; the first gives units, and each tells which neurons have changed."""
        x = x.to(self.mean.device).float()
        if self.first is None:
            self.first = x[0].clone()
            self.shift = x.mean(0, dtype=torch.float64).float()
            spread = (x - self.shift).abs_().amax(0)
            self.scale = torch.where(spread >= torch.finfo(spread.dtype).tiny, spread, 1).reciprocal_()
        # "Dead" must be exact: rounding gives a constant neuron a small variance, and noise for correlations. Only
        # those that have not changed so far are looked at again.
        constant = (~self.changed).nonzero().squeeze(1)
        if len(constant):
            self.changed[constant] = (x[:, constant] != self.first[constant]).any(0)
        return x

    def _add(self, mean: torch.Tensor, squares: torch.Tensor, before: int, more: int) -> torch.Tensor:
        """Add a batch's mean and squared deviations; how far its mean lies from that of before, float32."""
        if not torch.isfinite(mean).all():
            neuron = int((~torch.isfinite(mean)).nonzero()[0])
            raise ValueError(f"NaN or infinity in the activations of neuron {neuron}")
        moved = mean - self.mean
        self.mean += moved * (more / (before + more))
        self.squares += squares
        self.squares += moved.square() * joined_weight(before, more)
        return moved.float()

    def put(self, neurons: slice, part: "Moments") -> None:
        """Have the moments of some neurons from another that is of these only."""
        if self.first is None:
            self.first, self.shift, self.scale = (self.mean.new_zeros(len(self.mean)).float() for _ in range(3))
        for name, tensor in part.tensors().items():
            getattr(self, name)[neurons] = tensor

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that it holds, by name; for a file."""
        return {name: getattr(self, name) for name in ("first", "shift", "scale", "mean", "squares", "changed")}

    def take(self, tensors: dict[str, torch.Tensor]) -> None:
        """Have what `tensors` gave."""
        for name, tensor in tensors.items():
            setattr(self, name, tensor.to(self.mean.device))

    def join(self, other: "Moments", before: int, more: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Add what `more` positions have given another; its unit in units of this one, and how far the means differ."""
        unit = self.scale.double() / other.scale.double()
        mean = (other.shift.double() - self.shift.double()) * self.scale.double() + other.mean * unit
        moved = mean - self.mean
        self.mean += moved * (more / (before + more))
        self.squares += other.squares * unit.square() + moved.square() * joined_weight(before, more)
        self.changed |= other.changed | (other.first != self.first)
        return unit.float(), moved.float()

    def copy(self) -> "Moments":
        """One that may be changed alone."""
        other = copy(self)
        for name in ("mean", "squares", "changed"):
            setattr(other, name, getattr(self, name).clone())
        return other

    def norm(self) -> torch.Tensor:
        """Root of the sum of squared deviations, in scaled units, float32; NaN for a dead neuron."""
        defined = self.changed & (self.squares > 0)  # a change below what float32 can hold leaves no square
        return torch.where(defined, self.squares, torch.nan).sqrt().float()


def tiles(n_a: int, n_b: int, memory_bytes: int, tables: int = 4) -> Iterator[tuple[slice, slice]]:
    """Cut an n_a x n_b table into tiles of which `tables` fit a budget, in float32.

    Four: the accumulator, r, and two copies while neighbours are sought.

    Raises
    ------
    ValueError
        If not even a single pair of neurons fits.
    """
    cells = memory_bytes // (4 * tables)
    if cells < 1:
        raise ValueError(f"a memory budget of {memory_bytes} bytes holds no accumulator")
    columns = min(n_b, max(1, cells // min(n_a, max(1, int(cells**0.5)))))
    rows = min(n_a, max(1, cells // columns))
    for i in range(0, n_a, rows):
        for j in range(0, n_b, columns):
            yield slice(i, min(i + rows, n_a)), slice(j, min(j + columns, n_b))
