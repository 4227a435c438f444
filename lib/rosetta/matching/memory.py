"""Out of memory, on whatever device: what is read or made at once is halved then, and tried again."""

import torch

#: What torch and its libraries say of an allocation that failed, where it is no `torch.OutOfMemoryError`.
SAID = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had: a GPU's, which has a class, or a CPU's, which has words only."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID)
