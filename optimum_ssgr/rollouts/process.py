"""A server in processes of its own on this machine: start it, wait for it, look at its log, stop it."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import mkstemp

from tqdm.auto import tqdm

from ..errors import ModelError


KEEPER = Path(__file__).with_name("keeper.py")
LOOK_AGAIN = 0.2
"""Seconds between looks at whether it is ready."""
LAST_BYTES, LAST_LINES = 1 << 16, 10
"""How much of the end of a log is looked at, and how much of that is told."""
# Answers to requests, the web server's own words, and what libraries say of themselves at the very end.
_NOISE = re.compile(r'HTTP/1\.1" \d|^INFO: |^\s*$|^nanobind: |^ - |nanobind\.readthedocs|resource_tracker')
# The last line of a traceback, behind what vLLM puts before every line: (EngineCore pid=7) ERROR 11-27 22:29:19 [core.py:906]
_ERROR = re.compile(r"^(?:\(.*? pid=\d+\) )?(?:ERROR [^\[]*\[[^\]]*\] )?([\w.]+(?:Error|Exception): .*)")


class ServerProcess:
    """A running server; none of its processes outlives this one, however it ends.

    Its environment is this process's own, so that it finds the same models and tokens, which are no part of its command.

    Args:
        name: What it is called in messages.
        command: The command that runs it.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        handle, path = mkstemp(prefix=f"{name}-", suffix=".log")
        self.log = Path(path)
        with os.fdopen(handle, "wb") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, str(KEEPER), str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._keeper.poll() is None

    def wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Wait until it is ready, which may take as long as a download; a line says for how long.

        Args:
            is_ready: Called again and again.

        Raises:
            ModelError: It ended before.
        """
        with tqdm(desc=f"start {self.name}", bar_format="{desc}: {elapsed}", mininterval=1.0, miniters=1) as line:
            while not is_ready():
                if not self.is_running:
                    raise ModelError(f"{self.name} ended before it was ready ({self.cause()}); its log is {self.log}.")
                time.sleep(LOOK_AGAIN)
                line.update()

    def last_lines(self) -> list[str]:
        """Return the end of its log, without requests."""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - LAST_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        return [line for line in lines if not _NOISE.search(line)]

    def cause(self) -> str:
        """Guess from its log why it ended: the last error there, if there is one that does not point to another, or line."""
        lines = self.last_lines()
        errors = [found[1] for line in lines if (found := _ERROR.match(line))]
        first_hand = [error for error in errors if "root cause" not in error]
        cause = (first_hand or errors or lines or ["it said nothing"])[-1].strip().rstrip(".")
        return cause if len(cause) <= 200 else cause[:197] + "..."

    def stop(self, keep_log: bool = False) -> None:
        """Stop it with all its processes, and wait until they are gone.

        Args:
            keep_log: Whether its log stays, to be looked at.
        """
        self._keeper.terminate()
        self._keeper.wait()
        if not keep_log:
            self.log.unlink(missing_ok=True)
