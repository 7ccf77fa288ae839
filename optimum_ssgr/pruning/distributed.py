"""Several processes on one job: each takes some of the sequences, all end with the same weights.

Without an initialised process group every function here is the identity, so that callers need not ask.
"""

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from ..errors import ConfigError, SSGRError


Item = TypeVar("Item")
# The others wait while one process saves and reloads a model of any size; `watch_others` ends them if it fails.
PROCESS_GROUP_TIMEOUT = timedelta(days=7)
JOIN_TIMEOUT = timedelta(minutes=30)  # until all have read and checked what they were given


def start_processes() -> distributed.Store | None:
    """Join the other processes that `torchrun` or `accelerate launch` started, if any.

    Returns:
        Where they leave messages for one another; None when there are no others.

    Raises:
        SSGRError: Not all of them came.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or distributed.is_initialized():
        return None
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        store, number, size = next(rendezvous("env://", timeout=JOIN_TIMEOUT))
    except distributed.DistError as error:
        raise SSGRError(f"not all processes of this job came together in {JOIN_TIMEOUT}; see why the others failed.") from error
    store.set_timeout(PROCESS_GROUP_TIMEOUT)
    distributed.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=distributed.PrefixStore("group", store),
        rank=number,
        world_size=size,
        timeout=PROCESS_GROUP_TIMEOUT,
    )
    atexit.register(distributed.destroy_process_group)  # left to the interpreter's end, its threads may abort the process
    return distributed.PrefixStore("watch", store)


def world_size() -> int:
    """Number of processes."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if world_size() > 1 else 0


def take_shard(items: Sequence[Item]) -> Sequence[Item]:
    """Return this process's shard of the calibration sequences.

    Raises:
        ConfigError: There are fewer sequences than processes.
    """
    if len(items) < world_size():
        raise ConfigError(f"{len(items)} calibration sequences cannot be split over {world_size()} processes; start fewer.")
    return items[rank() :: world_size()]


def all_reduce(tensor: torch.Tensor) -> None:
    """Replace a tensor by its sum over all processes."""
    if world_size() > 1:
        _run_on_backend(tensor, distributed.all_reduce)


def broadcast(tensor: torch.Tensor, source: int) -> None:
    """Replace a tensor by that of one process."""
    if world_size() > 1:
        _run_on_backend(tensor, lambda moved: distributed.broadcast(moved, source))


def barrier() -> None:
    """Wait until every process has come here."""
    if world_size() > 1:
        with _told_of_others():
            distributed.barrier()


@contextmanager
def _told_of_others() -> Iterator[None]:
    """Say in a sentence that the others cannot be reached: one of them has broken off, or the way to it."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # of the backend, in its own words
        reason = str(error).strip().splitlines()[0]
        raise SSGRError(
            f"this process cannot go on with the others of its job ({reason}); where one has ended, its own error says why."
        ) from error


def _run_on_backend(tensor: torch.Tensor, operation: Callable[[torch.Tensor], object]) -> None:
    """Run a collective on a contiguous tensor that lies where the backend can reach it: NCCL wants CUDA memory."""
    device = torch.device("cuda") if distributed.get_backend() == "nccl" else tensor.device
    moved = tensor.to(device).contiguous()
    with _told_of_others():
        operation(moved)
    if moved.data_ptr() != tensor.data_ptr():
        tensor.copy_(moved)
