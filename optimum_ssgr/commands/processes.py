"""The processes of a study: each does a step at a time, has a GPU of its own if there are several, and ends with the study."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from .base import be_quiet
from .setting import Setting


if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

    Step = tuple[Any, ...]
    """A function of `cells`, and its arguments besides the setting."""


@contextmanager
def step_runner(setting: Setting, processes: int) -> "Iterator[Callable[[Sequence[Step]], Iterator[None]]]":
    """Give a function that runs steps, several at a time, and yields whenever one is done.

    The processes end with this one, however it ends.

    Args:
        setting: What the steps share.
        processes: Processes to run them in.
    """
    import torch

    os.environ["TQDM_DISABLE"] = "1"  # in the new processes; this one has read it already
    context = multiprocessing.get_context("spawn")
    environments = context.SimpleQueue()
    for environment in device_environments(processes, torch.cuda.device_count(), setting.args.device_map, os.environ):
        environments.put(environment)
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(setting, environments))

    def run(steps: "Sequence[Step]") -> Iterator[None]:
        with _deaf_processes():
            futures = [pool.submit(_run, *step) for step in steps]
        for future in as_completed(futures):
            yield future.result()

    listening = signal.getsignal(signal.SIGINT)
    try:
        yield run
    except BaseException as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # this is the end already, and must not be left half done
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise ModelError(
                "a process of the study was ended from outside, perhaps for lack of memory; run the same command with fewer "
                "--processes to go on."
            ) from None
        raise
    finally:
        pool.shutdown()
        signal.signal(signal.SIGINT, listening)


def device_environments(
    processes: int, devices: int, device_map: str | None, environment: Mapping[str, str]
) -> list[dict[str, str]]:
    """Deal out the GPUs, so that every process of several has its own; with more processes than GPUs, some share one.

    Args:
        processes: Number of processes.
        devices: Number of GPUs that are visible to this one.
        device_map: The flag's value; one that names a GPU, such as `cuda:1`, leaves nothing to deal out.
        environment: Of this process; `CUDA_VISIBLE_DEVICES` may hold the names of the visible GPUs.

    Returns:
        For each process, what to change in its environment.
    """
    named = environment.get("CUDA_VISIBLE_DEVICES")
    names = (named.split(",") if named else [str(device) for device in range(devices)])[:devices]
    if processes == 1 or len(names) < 2 or ":" in (device_map or ""):
        return [{}] * processes
    return [{"CUDA_VISIBLE_DEVICES": ",".join(names[place % len(names) :: processes])} for place in range(processes)]


@contextmanager
def _deaf_processes() -> Iterator[None]:
    """Let processes that are started here never hear Ctrl-C, not even before `_begin`; this one hears it at the end."""
    heard: list[int] = []
    listening = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    if hasattr(signal, "pthread_sigmask"):  # Windows has none of it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which new processes inherit
    try:
        yield
    finally:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, listening)
    if heard:
        raise KeyboardInterrupt


_setting: Setting | None = None


def _begin(setting: Setting, environments: "SimpleQueue[dict[str, str]]") -> None:
    """Prepare a process: leave Ctrl-C to its parent and end with it; compute with as many threads as everywhere."""
    global _setting
    _setting = setting
    os.environ.update(environments.get())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    if setting.args.quiet:
        be_quiet()
    import torch
    from tqdm import tqdm

    torch.set_num_threads(setting.args.threads)
    tqdm.set_lock(threading.RLock())  # its usual lock is shared between processes, and left behind when this one is ended


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _run(step: Callable[..., None], *arguments: Any) -> None:
    step(_setting, *arguments)
