"""Processes of their own for tests that kill, interrupt or starve them, forked from one that has loaded the libraries already.

An interpreter that loads them takes seconds of the processor, more than most of what these tests are about.
"""

import importlib
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest


CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.preload"])


class Running(NamedTuple):
    """A process, and the files that its standard output and standard error go to."""

    process: BaseProcess
    out: Path
    err: Path

    def send_signal(self, number: int) -> None:
        """Send the process a signal."""
        os.kill(self.process.pid, number)

    def wait(self) -> int:
        """Wait for the end and return the exit code, which is -n after signal n."""
        self.process.join()
        return self.process.exitcode


def serving() -> BaseContext:
    """Return what makes processes that are forked, once there is one to fork them from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # where it finds what it is to load
        forkserver.ensure_running()
    return CONTEXT


@contextmanager
def started(call: Callable[..., object], *arguments: Any, cwd: Path, file_size: int | None = None) -> Iterator[Running]:
    """Start a function in a process and process group of its own, which is killed at the end if it has not ended.

    Args:
        call: A function of a module.
        arguments: Its arguments, which are pickled.
        cwd: Where it runs.
        file_size: Most bytes of a file that it can write, which stands for a full disk.
    """
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        for path in (out, err):
            path.touch()  # may be read before the process writes
        process = serving().Process(target=_run, args=(call, arguments, out, err, cwd, file_size))
        process.start()
        try:
            yield Running(process, out, err)
        finally:
            process.kill()
            process.join()


def ssgr(*arguments: object) -> None:
    """Run `optimum-cli ssgr`."""
    from optimum.commands.optimum_cli import main

    sys.argv = ["optimum-cli", "ssgr", *map(str, arguments)]
    main()


def with_settings(environment: Mapping[str, str], call: Callable[..., object], *arguments: Any) -> None:
    """Call a function where the Hub's clients have the settings of an environment, which they read when they are imported."""
    import datasets
    from huggingface_hub import constants

    os.environ.clear()
    os.environ.update(environment)
    for module in (constants, datasets.config):
        importlib.reload(module)
    call(*arguments)


def _run(
    call: Callable[..., object], arguments: tuple[Any, ...], out: Path, err: Path, cwd: Path, file_size: int | None
) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # to which the process that it is forked from is deaf
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    os.chdir(cwd)
    call(*arguments)
