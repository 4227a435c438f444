"""Out of memory, on whatever device: what is read or made at once is halved then, and tried again."""

import logging
from collections.abc import Callable, Generator

import torch

logger = logging.getLogger(__name__)

#: Bytes of the smallest table that is tried.
LEAST = 2**20
#: What torch and its libraries say of an allocation that failed, where it is no `torch.OutOfMemoryError`.
SAID = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had: a GPU's, which has a class, or a CPU's, which has words only."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID)


def with_less_memory(way: Callable[[int], Generator], memory_bytes: int, device) -> Generator:
    """A way of matching (`rounds`) begun anew with half the memory for tables, and half of that, while the device is full.

    Parameters
    ----------
    way : callable
        The generator, for so many bytes of tables.
    memory_bytes : int
    device : str or torch.device
        For messages.

    Raises
    ------
    MemoryError
        If tables of `LEAST` bytes do not fit.
    """
    while True:
        try:
            return (yield from way(memory_bytes))
        except Exception as error:
            if not out_of_memory(error):
                raise
            if memory_bytes < 2 * LEAST:
                raise MemoryError(
                    f"{device} has no room for a table of {memory_bytes:,} bytes: free some of its memory, or take a smaller batch"
                ) from error
            memory_bytes //= 2
            logger.warning(
                "%s is out of memory: tables are made in tiles of %s bytes from here on", device, f"{memory_bytes:,}"
            )
