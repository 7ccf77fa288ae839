"""Compare pairs of answers in processes of their own, each pair within bounds of processor time and memory.

It is processor time, so that a verdict does not depend on what else the machine is doing. A worker is started as a plain
command: the caller's main module is not run again, as it would be by `multiprocessing`, and the caller's memory and GPU are not
shared. Pairs and verdicts are lines of JSON on its standard input and output.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event, Timer

from ..extras import require_extra
from .compare import compare_mathematics, compare_slowly, is_scored
from .processors import usable_processors


SECONDS = 5.0  # processor time of one pair
PATIENCE = 60 if hasattr(signal, "setitimer") else 1  # so many times that on the clock; Windows has no timer of processor time
START_SECONDS = 120.0  # of a worker, on a cold disk
MEGABYTES = 1024  # address space of one worker
MAX_PAIRS = 2000  # after which a worker is replaced, since sympy keeps what it computed

_COMMAND = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from optimum_ssgr.verification.workers import _serve; _serve()"
)


class _Worker:
    """A process that compares one pair at a time; `ask` gives None, and the process is gone, when a pair is out of bounds."""

    def __init__(self, seconds: float, megabytes: int, scores: bool) -> None:
        self.seconds = seconds
        self.pairs = 0
        self.process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, json.dumps(sys.path), str(seconds), str(megabytes), *["scores"] * scores],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # The order of sympy's terms, and so its verdicts, hang on the first; numpy reserves memory for each thread.
            env={**os.environ, "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"},
        )
        if self._read(START_SECONDS) is None:
            raise RuntimeError(
                "a process that compares answers did not start; is there memory left, and is math-verify installed?"
            )

    def ask(self, pair: tuple[str, ...]) -> bool | None:
        self.pairs += 1
        with suppress(OSError):  # it may be gone; then there is nothing to read either
            self.process.stdin.write(json.dumps(pair).encode() + b"\n")
            self.process.stdin.flush()
        return self._read(self.seconds * PATIENCE)

    def _read(self, seconds: float) -> bool | None:
        timer = Timer(seconds, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if not line.endswith(b"\n"):
            self.close()
            return None
        return json.loads(line)

    def close(self) -> None:
        self.process.kill()
        with suppress(OSError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def compare_all(
    pairs: Sequence[tuple[str, ...]], *, processes: int | None = None, seconds: float = SECONDS, megabytes: int = MEGABYTES
) -> Iterator[bool | None]:
    """Compare pairs of answers as mathematics or by a generator's scorer, several at a time.

    Close the generator, as `contextlib.closing` does, to end its processes early; they end with the caller in any case.

    Args:
        pairs: An answer and the expected answer each, and `Problem.answer_kind` where it is not mathematics.
        processes: Most processes to use; by default one for each processor that this process may use.
        seconds: Most processor time of one pair.
        megabytes: Most address space of one process, where the operating system can bound it.

    Yields:
        For each pair in turn, whether the answers are equal; None when that took too long, or too much memory, to find out, or
        the process was ended from outside.

    Raises:
        RuntimeError: A process could not be started.
        ConfigError: The package that scores is missing.
    """
    scores = any(is_scored(kind) for _, _, *kinds in pairs for kind in kinds)
    if scores:
        require_extra("reasoning_gym", "problems", "scores of reasoning-gym's problems")
    idle: SimpleQueue[_Worker] = SimpleQueue()
    started: list[_Worker] = []
    closed = Event()

    def compare(pair: tuple[str, ...]) -> bool | None:
        try:
            worker = idle.get_nowait()
        except Empty:
            worker = None
        if worker is None or worker.process.poll() is not None:  # none is free, or someone ended it
            started.append(worker := _Worker(seconds, megabytes, scores))
            if closed.is_set():
                return None
        verdict = worker.ask(pair)
        if verdict is None or worker.pairs == MAX_PAIRS:
            worker.close()
        else:
            idle.put(worker)
        return verdict

    pool = ThreadPoolExecutor(min(processes or usable_processors(), len(pairs)) or 1)
    try:
        yield from pool.map(compare, pairs)
    finally:
        closed.set()
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in started:
            worker.process.kill()
        pool.shutdown()
        for worker in started:
            worker.close()


def _serve() -> None:
    """Answer pairs until the caller is gone; this is what a worker runs."""
    seconds, megabytes = float(sys.argv[2]), int(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
    compare_mathematics("x", "y")  # load everything before the clock runs
    if "scores" in sys.argv:
        import reasoning_gym  # noqa: F401
    with suppress(ImportError):  # Windows has none of it
        import resource

        for limit, value in ((resource.RLIMIT_AS, megabytes << 20), (resource.RLIMIT_CORE, 0)):
            with suppress(ValueError, OSError):  # macOS does not bound address space
                resource.setrlimit(limit, (value, value))
    set_timer = getattr(signal, "setitimer", None)
    if set_timer:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, wherever it is
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    sys.stdout = sys.stderr  # nothing that a library prints may pass for a verdict
    output.write(b"true\n")
    for line in sys.stdin.buffer:
        if set_timer:
            set_timer(signal.ITIMER_PROF, seconds)
        verdict = compare_slowly(*json.loads(line))
        if set_timer:
            set_timer(signal.ITIMER_PROF, 0)
        output.write(json.dumps(verdict).encode() + b"\n")
