"""The processes of a study: each does a step at a time, has a GPU of its own if there are several, and ends with the study."""

import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.sharedctypes import Synchronized
from typing import TYPE_CHECKING, Any

from ..errors import ModelError


if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

    from .inputs import StudyInputs

    Step = tuple[Any, ...]
    """A function of `steps`, and its arguments besides the inputs."""

LOOK_AGAIN = 0.5
"""Seconds between looks at how far the steps are."""


@contextmanager
def open_workers(inputs: "StudyInputs", processes: int) -> "Iterator[Callable[[Sequence[Step]], Iterator[int]]]":
    """Give a function that runs steps, several at a time, and yields the responses generated so far, a few times a minute.

    The processes end with this one, however it ends. This one's environment and signal handlers are afterwards as before.

    Args:
        inputs: What the steps share.
        processes: Processes to run them in.
    """
    import torch

    context = multiprocessing.get_context("spawn")
    environments, generated = context.SimpleQueue(), context.Value("Q", 0)
    device_map = inputs.config.loading.device_map
    for environment in device_environments(processes, torch.cuda.device_count(), device_map, os.environ):
        environments.put(environment)
    # Pickled here, so that nothing heavy is loaded there before the environment is set.
    arguments = (pickle.dumps(inputs), inputs.config.threads, environments, generated, logging.root.manager.disable)
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_initialize, initargs=arguments)

    def run(steps: "Sequence[Step]") -> Iterator[int]:
        with _block_sigint():
            waiting = {pool.submit(_run, *step) for step in steps}
        while waiting:
            done, waiting = wait(waiting, timeout=LOOK_AGAIN)
            for future in done:
                future.result()
            yield generated.value

    is_main = threading.current_thread() is threading.main_thread()  # only there may handlers be set
    listening = signal.getsignal(signal.SIGINT)
    try:
        yield run
    except BaseException as error:
        if is_main:
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
        if is_main:
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
def _block_sigint() -> Iterator[None]:
    """Let processes that are started here never hear Ctrl-C, not even before `_initialize`; this one hears it at the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
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


_inputs: "StudyInputs | None" = None


def _initialize(
    pickled: bytes,
    threads: int,
    environments: "SimpleQueue[dict[str, str]]",
    generated: "Synchronized[int]",
    silenced: int,
) -> None:
    """Prepare a process: leave Ctrl-C to its parent and end with it; compute with as many threads as everywhere."""
    global _inputs
    os.environ.update(environments.get())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, args=(multiprocessing.parent_process(),), daemon=True).start()
    logging.disable(silenced)
    import torch

    torch.set_num_threads(threads)
    _hide_progress(generated)
    _inputs = pickle.loads(pickled)


def _hide_progress(generated: "Synchronized[int]") -> None:
    """Draw no progress bars here, and count the responses that they would show, for the one bar of the study."""
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())  # its usual lock is shared between processes, and left behind when this one is ended
    draw = tqdm.__init__

    def hide(self: tqdm, *args: Any, unit: str = "it", **options: Any) -> None:
        draw(self, *args, **options | {"disable": True})
        self.unit = unit

    def count(self: tqdm, n: float | None = 1) -> None:
        if self.unit == "rollout":
            with generated.get_lock():
                generated.value += int(n)

    tqdm.__init__, tqdm.update = hide, count


def _exit_with_parent(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _run(step: Callable[..., None], *arguments: Any) -> None:
    step(_inputs, *arguments)
