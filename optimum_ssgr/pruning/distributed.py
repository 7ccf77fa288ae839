"""Several processes on one job: each takes some of the sequences, all end with the same weights.

Without an initialised process group every function here is the identity, so that callers need not ask.
"""

import atexit
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from ..errors import ConfigError


Item = TypeVar("Item")
# The others wait while one process saves and reloads a model of any size; a launcher ends them if it fails.
PROCESS_GROUP_TIMEOUT = timedelta(days=7)


def start_processes() -> None:
    """Join the other processes that `torchrun` or `accelerate launch` started, if any."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=PROCESS_GROUP_TIMEOUT)
        atexit.register(distributed.destroy_process_group)  # left to the interpreter's end, its threads may abort the process


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
        distributed.barrier()


def _run_on_backend(tensor: torch.Tensor, operation: Callable[[torch.Tensor], object]) -> None:
    """Run a collective on a contiguous tensor that lies where the backend can reach it: NCCL wants CUDA memory."""
    device = torch.device("cuda") if distributed.get_backend() == "nccl" else tensor.device
    moved = tensor.to(device).contiguous()
    operation(moved)
    if moved.data_ptr() != tensor.data_ptr():
        tensor.copy_(moved)
