"""Give memory back to the system: what was freed, as C libraries other than glibc do by themselves, and what is in files."""

import ctypes
import mmap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn


# glibc keeps freed memory unless it was mapped for itself, which this makes it do for what is larger (`man 3 mallopt`).
MAPPED_BYTES = 2**20
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MADV_DONTNEED, MADV_PAGEOUT = 4, 21  # `man 2 madvise`
COMPARED_BYTES = 2**24  # at a time


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


def release_pages(tensor: torch.Tensor, advice: int = MADV_PAGEOUT) -> None:
    """Have the system take back the pages of a tensor that lie unchanged in a file, as those of a loaded model do.

    They are read again when they are looked at. Nothing is lost: pages that were written to stay, or go to the swap space.
    """
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        return
    begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if begin < end:
        with suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), advice)


def release_weights(module: nn.Module) -> None:
    """Release the pages of all weights of a module, of which a few tokens that run through it leave no trace."""
    for parameter in module.parameters():
        release_pages(parameter)


def discard_changes(tensors: Sequence[torch.Tensor]) -> None:
    """Undo what was written over tensors that lie in files, as those of a loaded model do; others stay as they are.

    It would take memory for as long as any tensor of the same file is in use.
    """
    places = []
    with suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            span, access, *_, path = line.split(maxsplit=5)
            if access.endswith("p") and path.startswith("/"):
                places.append([int(end, 16) for end in span.split("-")])
    for tensor in tensors:
        if any(begin <= tensor.data_ptr() and tensor.data_ptr() + tensor.nbytes <= end for begin, end in places):
            release_pages(tensor, MADV_DONTNEED)


def same_values(tensor: torch.Tensor, read: torch.Tensor) -> bool:
    """Compare a tensor with one that was read from a file, a piece at a time.

    Args:
        tensor: The tensor; where it lies in a file, too, its pages are released.
        read: What it is compared with. Nobody else may use it, since nothing is left of it afterwards.
    """
    if tensor.shape != read.shape or tensor.dtype != read.dtype:
        return False
    count = COMPARED_BYTES // tensor.itemsize
    for piece, its in zip(tensor.flatten().split(count), read.flatten().split(count), strict=True):
        if not torch.equal(piece.cpu(), its.cpu()):
            return False
        release_pages(its, MADV_DONTNEED)  # first: what two tensors have of one file is not taken back
        release_pages(piece)
    return True
