import os


# Read when the libraries below are imported: nothing may reach for the network, here or in the processes that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # the models are tiny: more threads only wait for one another

import contextlib
import functools
import gc
import io
import logging
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpcore2
import pytest
from filelock import FileLock
from optimum import subpackages

from optimum_ssgr.verification.processors import usable_processors


gc.disable()  # until everything is loaded, which makes no garbage


# The files that take longest, which must be begun first for no worker to be left with one of them at the end.
LONGEST = [
    "commands/test_study.py",
    "pruning/test_distributed.py",
    "commands/test_commands.py",
    "chat/test_page.py",
    "verification/test_fuzz.py",
    "commands/test_evaluate.py",
    "rollouts/test_server.py",
    "rollouts/test_managed.py",
    "test_pruner.py",
    "rollouts/test_store.py",
    "pruning/test_block_store.py",
    "hub/test_round_trips.py",
]


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than there are processors, since many tests wait for servers, pages and processes of their own."""
    return usable_processors() + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, and let the garbage collector leave alone from here on what is loaded."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def certificates_read_once() -> Iterator[None]:
    """Every HTTP client reads the machine's certificates, which takes longer than most tests that make clients."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpcore2, "default_ssl_context", functools.cache(httpcore2.default_ssl_context))
        yield


@pytest.fixture(scope="session", autouse=True)
def packages_looked_through_once() -> Iterator[None]:
    """Every command of `optimum-cli` reads the metadata of all that is installed, which takes longer than most of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subpackages, "load_namespace_modules", functools.cache(subpackages.load_namespace_modules))
        yield


@pytest.fixture(scope="session")
def reasoner():
    """The embedded model and its tokenizer; tests that prune must copy the model."""
    # Not above: of no use to the process that only hands out the tests.
    from optimum_ssgr.checkpoints.load import load_model

    return load_model("tiny-reasoner")


@pytest.fixture(scope="session")
def make_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Fill a folder once for all the processes that run tests: `make_once(name, fill)` calls `fill(folder)` in the first."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # which the processes of one run share

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, made = base / name, base / f"{name}.made"
        with FileLock(base / f"{name}.lock"):
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)  # what a test that was stopped left
                folder.mkdir()
                fill(folder)
                made.touch()
        return folder

    return make


class Result(NamedTuple):
    """What a command ended with, and wrote to standard output and standard error."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def cli() -> Callable[..., Result]:
    """Run `optimum-cli ssgr` as a user does, but in this process, which has loaded the heavy libraries already.

    `cli(*arguments, cwd=FOLDER, NAME="value of an environment variable")` returns a `Result`. What only a fresh process shows
    (signals, what is loaded, `--quiet`, which libraries read when they are imported) needs a process of its own.
    """

    from optimum.commands.optimum_cli import main

    def run(*arguments: object, cwd: Path | str | None = None, **environment: str) -> Result:
        out, err = io.StringIO(), io.StringIO()
        with own_state(cwd, environment, err), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            sys.argv = ["optimum-cli", "ssgr", *map(str, arguments)]
            try:
                main()
                code = 0
            except SystemExit as end:
                code = end.code or 0
            except Exception:  # shown as the interpreter does
                traceback.print_exc()
                code = 1
        return Result(code, out.getvalue(), err.getvalue())

    return run


@contextlib.contextmanager
def own_state(cwd: Path | str | None, environment: dict[str, str], err: io.StringIO) -> Iterator[None]:
    """Give a command the folder, environment and log of a process of its own, and undo what it changes of them."""
    folder, variables, argv, disabled = os.getcwd(), dict(os.environ), sys.argv, logging.root.manager.disable
    loggers = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    streams = [
        (handler, handler.setStream(err))
        for logger in loggers
        for handler in logger.handlers
        if type(handler) is logging.StreamHandler
    ]
    captured, logging.root.handlers = logging.root.handlers, []  # pytest's own, so that warnings go to standard error
    try:
        os.chdir(cwd or folder)
        os.environ.update(environment)
        yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(variables)
        sys.argv = argv
        logging.disable(disabled)
        logging.root.handlers = captured
        for handler, stream in streams:
            handler.setStream(stream)
