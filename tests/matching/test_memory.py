import numpy as np
import pytest
import torch

from rosetta.matching import nearest
from rosetta.matching.correlation import PearsonAccumulator
from rosetta.matching.memory import out_of_memory
from rosetta.matching.mutual import match_batches


@pytest.mark.parametrize(
    "allocate", [lambda: torch.empty(2**57, dtype=torch.uint8), lambda: np.empty(2**57, dtype=np.uint8)]
)
def test_more_memory_than_any_machine_has_is_out_of_memory(allocate):
    """Real errors, of real allocators."""
    with pytest.raises((RuntimeError, MemoryError)) as error:
        allocate()
    assert out_of_memory(error.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: 1 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_what_gpus_say_is_out_of_memory(error):
    assert out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("CUDA error: device-side assert triggered"), ValueError("out of memory"), KeyboardInterrupt()],
)
def test_other_errors_are_not(error):
    assert not out_of_memory(error)


@pytest.fixture
def room(monkeypatch):
    """A device that holds tables of so many cells only."""

    def of(cells):
        def small(n_a, n_b, *arguments):
            if n_a * n_b > cells:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return PearsonAccumulator(n_a, n_b, *arguments)

        monkeypatch.setattr(nearest, "PearsonAccumulator", small)

    return of


@pytest.mark.parametrize("method", ["exact", "bfloat16"])
def test_tables_are_halved_until_they_fit_and_that_is_said(room, caplog, method):
    rng = torch.Generator().manual_seed(0)
    batches = [(torch.randn(50, 400, generator=rng), torch.randn(50, 300, generator=rng)) for _ in range(2)]
    whole = match_batches(batches, method=method)
    room(70_000)
    tiled = match_batches(batches, method=method, memory_bytes=4 * 2**20)
    assert tiled.drop(columns="correlation").equals(whole.drop(columns="correlation"))
    said = [record.message for record in caplog.records if "out of memory" in record.message]
    assert said == [f"cpu is out of memory: tables are made in tiles of {2**n:,} bytes from here on" for n in (21, 20)]


def test_a_device_without_any_room_is_named(room):
    room(10)
    with pytest.raises(MemoryError, match="cpu has no room for a table of 1,048,576 bytes"):
        match_batches([(torch.randn(9, 40), torch.randn(9, 30))], memory_bytes=2**22)
