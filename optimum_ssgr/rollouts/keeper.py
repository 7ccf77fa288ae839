"""Runs a server, and ends it with all its processes when it is told to, or when the process that wanted it is gone.

    python keeper.py PARENT COMMAND...

A process that is killed (signal 9) can end nothing any more, and servers such as vLLM consist of several processes, which do
not all end with the first. So this one stands between: in a session of its own, where Ctrl-C of the terminal does not reach it,
it looks whether PARENT is still its parent. It loads nothing of the package, so that it takes next to no memory.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import psutil


LOOK_AGAIN = 0.2
"""Seconds between looks at whether the parent and the server are there."""
GRACE = 10.0
"""Seconds that the server has to end by itself."""
PR_SET_CHILD_SUBREAPER = 36


def keep(parent: int, command: list[str]) -> int:
    """Run a command until it ends or is to end, and return its exit code.

    Args:
        parent: Id of the process it runs for, which must have started this one.
        command: What to run.
    """
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    with suppress(AttributeError, OSError):  # Linux: what the server's processes leave behind becomes a child of this one
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    while server.poll() is None and os.getppid() == parent and not told.wait(LOOK_AGAIN):
        pass
    end_group(server)
    return server.returncode


def end_group(server: subprocess.Popen[bytes]) -> None:
    """End a server, its process group, and whatever else it started that can still be found."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        server.wait(GRACE)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    left = psutil.Process().children(recursive=True)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, GRACE)


if __name__ == "__main__":
    sys.exit(keep(int(sys.argv[1]), sys.argv[2:]))
