import numpy as np
import pytest
import torch

from rosetta.matching.memory import out_of_memory


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
