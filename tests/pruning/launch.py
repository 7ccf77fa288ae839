"""Start a job's processes with torchrun's environment, from one that has loaded the libraries, so that they need not.

`python -m tests.pruning.launch PROCESSES SCRIPT [ARGUMENT ...]`. `tests/commands` starts a job by torchrun itself.
"""

import os
import runpy
import signal
import socket
import sys

import optimum_ssgr.pruner  # noqa: F401
import tests.models  # noqa: F401


def main(processes: int, script: str, *arguments: str) -> None:
    """Run a script in each process; exits with 1, and ends the others, once it fails in one of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = set()
    for rank in range(processes):
        child = os.fork()
        if not child:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            sys.argv = [script, *arguments]
            runpy.run_path(script, run_name="__main__")
            return
        started.add(child)
    while started:
        child, status = os.wait()
        started.remove(child)
        if status:
            for other in started:
                os.kill(other, signal.SIGTERM)
            sys.exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
