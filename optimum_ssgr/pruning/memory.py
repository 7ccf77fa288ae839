"""Have glibc give freed memory back to the system; other C libraries do so by themselves."""

import ctypes
from contextlib import suppress


# glibc keeps freed memory unless it was mapped for itself, which this makes it do for what is larger (`man 3 mallopt`).
MAPPED_BYTES = 2**20
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def trim_heap() -> None:
    """Give back what was freed so far, which takes some milliseconds; the process is otherwise as before."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def map_large_tensors() -> None:
    """Have what is larger than `MAPPED_BYTES` mapped for itself from now on, so that it goes back when it is freed.

    This changes the whole process and cannot be undone. It is for a process that is our own, as that of `ssgr prune` is;
    nothing in the library calls it, which only trims the heap.
    """
    with suppress(OSError, AttributeError, TypeError):
        for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            ctypes.CDLL(None).mallopt(option, MAPPED_BYTES)
