"""What a device does in a second: measured in a moment, or from a data sheet."""

import os
import time
import warnings
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch

GIB = 2**30
#: What is reckoned with of a data sheet's rates, for products and for passes over memory.
ACHIEVED_PRODUCTS, ACHIEVED_MEMORY = 0.6, 0.8
#: Bytes that centring and squaring a float32 number move: two subtractions, a scaling, a square, a mean and a sum.
CENTRE_BYTES = 40


class Rates(NamedTuple):
    """Of one device, each a second.

    Attributes
    ----------
    name : str
    float32, bfloat16 : float
        FLOP of products of matrices; sums are float32 in both.
    memory : float
        Bytes that passes over large arrays read and write.
    search : float
        Numbers of a table looked through for the largest of each row and of each column.
    sampled : float
        Multiplications for single pairs of neurons (`torch.sparse.sampled_addmm`).
    capacity : float
        Bytes of the device's memory.
    """

    name: str
    float32: float
    bfloat16: float
    memory: float
    search: float
    sampled: float
    capacity: float


def of_data_sheet(name: str, float32: float, bfloat16: float, bandwidth: float, capacity: float) -> Rates:
    """The rates of a GPU; of what the sheet says, the shares at the head of this file.

    float32 is meant, not TF32, whose ten bits do not tell close neighbours apart. A search reads each number four times
    (two radix passes each way), a single pair's multiplication two float32 numbers.
    """
    memory = ACHIEVED_MEMORY * bandwidth
    return Rates(
        name, ACHIEVED_PRODUCTS * float32, ACHIEVED_PRODUCTS * bfloat16, memory, memory / 16, memory / 8, capacity
    )


#: By NVIDIA's data sheets, dense; of the memory, what is left beside the driver.
PRESETS = {
    "A100": of_data_sheet("A100 80 GB", 19.5e12, 312e12, 2.04e12, 79 * GIB),
    "H200": of_data_sheet("H200 141 GB", 67e12, 989e12, 4.8e12, 139 * GIB),
}


#: A core of a server's CPU, in round numbers.
CORE = Rates("a CPU's core", float32=1e11, bfloat16=2e11, memory=7e9, search=1.4e8, sampled=1e10, capacity=8 * GIB)


def nominal(device: str | torch.device) -> Rates:
    """What ``method="auto"`` reckons with: round numbers for the kind of device, so that its choice, and with it the last
    digit of a correlation, does not hang on what else runs while it is made."""
    if torch.device(device).type == "cuda":
        return PRESETS["H200"]
    return CORE if fast_bfloat16(device) else CORE._replace(bfloat16=CORE.float32 / 4)


def fast_bfloat16(device: str | torch.device) -> bool:
    """Whether products of bfloat16 numbers are faster there than of float32: the processor has instructions for them."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = torch.device(device).type == "cpu" and torch.backends.mkldnn.is_available()
    return known and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@cache
def calibrated(device: str = "cpu") -> Rates:
    """The rates of a device of this machine, measured once a process in about a fifth of a second.

    On a CPU by the processor's time, so that what runs beside makes little difference; by all of torch's threads.
    """
    generator = torch.Generator().manual_seed(0)
    square = torch.rand(768, 768, generator=generator).to(device)
    half = square[:512, :512].bfloat16()
    large = torch.ones(9 * 2**20 // 1024, 1024, device=device)  # as of a batch: glibc fetches its pages anew each time
    table = torch.rand(1024, 2048, generator=generator).to(device).repeat(2, 1)
    n, pairs, positions = 1024, 16, 256
    others = torch.randint(n, (n, pairs), generator=generator).sort(1).values.flatten()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse", UserWarning)  # "in beta state"
        pattern = torch.sparse_csr_tensor(torch.arange(n + 1) * pairs, others, torch.zeros(n * pairs), (n, n)).to(
            device
        )
    x = torch.rand(n, positions, generator=generator).to(device)

    def per_second(amount: float, work: Callable, times: int = 3) -> float:
        return amount / min(_seconds(work, device) for _ in range(times))

    return Rates(
        str(device),
        float32=per_second(2 * 768**3, lambda: square.T @ square),
        bfloat16=per_second(2 * 512**3, lambda: half.T @ half),
        memory=per_second(CENTRE_BYTES * large.numel(), lambda: _centre(large), 2),
        search=per_second(table.numel(), lambda: (table.max(1), table.max(0)), 2),
        sampled=per_second(
            n * pairs * positions, lambda: torch.sparse.sampled_addmm(pattern, x, x.T, beta=0)
        ),
        capacity=_capacity(device),
    )  # fmt: skip


def _centre(x: torch.Tensor) -> None:
    centred = (x - 1).mul_(0.5)
    centred.sub_(centred.mean(0))
    centred.square().sum(0)


def _seconds(work: Callable, device: str) -> float:
    if str(device) == "cpu":
        start = time.process_time()
        work()
        return (time.process_time() - start) / torch.get_num_threads()
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _capacity(device: str) -> float:
    if str(device).startswith("cuda"):
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
