"""A stand-in for the executables `vllm` and `sglang`: takes their flags and answers as `stub_server` does.

As with the real ones, the process that listens has a child, the engine, which has a child of its own, the worker; here neither
ends with its parent or heeds SIGTERM. When the engine is killed, requests get 500, until the listening process ends as well.
`write_executable` makes an executable of it, which appends a line of JSON about every start to `starts.jsonl` beside it.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from .stub_server import StubServer


ROOT = Path(__file__).parents[2]
WORKER = "import signal; [signal.signal(n, signal.SIG_IGN) for n in (2, 15)]; signal.pause()"
CHILD = f"""
import signal, subprocess, sys
[signal.signal(number, signal.SIG_IGN) for number in (2, 15)]  # which the worker inherits
print(subprocess.Popen([sys.executable, "-S", "-c", {WORKER!r}]).pid, flush=True)
signal.pause()
"""


DYING = """
(EngineCore pid=1) ERROR 11-27 22:29:19 [core.py:906] RuntimeError: the stub's engine was killed
(APIServer pid=1) ERROR 11-27 22:29:19 [async_llm.py:906] x.EngineDeadError: See stack trace (above) for the root cause.
INFO:     127.0.0.1:58454 - "POST /v1/completions HTTP/1.1" 500 Internal Server Error
nanobind: leaked 4 instances!
"""


def write_executable(folder, name="vllm", **options):
    """Write an executable; `options` are those of `StubServer`, and of this file's `serve`."""
    path = folder / name
    program = (
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        f"from tests.rollouts.stub_vllm import serve\nserve({str(folder)!r}, **{options!r})\n"
    )
    path.write_text(program)
    path.chmod(0o755)
    return path


def starts_of(folder):
    """What was noted of every start."""
    path = folder / "starts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def is_alive(pid):
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def alive_in(folder):
    """Processes of any start that still run."""
    return [pid for start in starts_of(folder) for pid in (start["pid"], start["child"], start["worker"]) if is_alive(pid)]


def serve(folder, *, fails=None, says=None, serves=None, dies_after=(), **options):
    """Serve until the end.

    Args:
        folder: Where starts are noted.
        fails: What to say instead of starting.
        says: What to say when it is ready.
        serves: Name of the model, other than what the flags say.
        dies_after: After how many requests the child of each start dies; those beyond live on.
        options: Of `StubServer`.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model", nargs="?")
    for flag in ("--model-path", "--host", "--served-model-name", "--dtype"):
        parser.add_argument(flag)
    for flag in ("--port", "--max-model-len", "--context-length"):
        parser.add_argument(flag, type=int)
    flags, others = parser.parse_known_args()
    earlier = starts_of(Path(folder))
    if fails:
        print(fails, flush=True)
        sys.exit(1)
    child = subprocess.Popen([sys.executable, "-S", "-c", CHILD], stdout=subprocess.PIPE)
    worker = int(child.stdout.readline())  # both are deaf from here on
    with open(Path(folder) / "starts.jsonl", "a") as file:
        alive = alive_in(Path(folder))
        noted = {
            "pid": os.getpid(),
            "child": child.pid,
            "worker": worker,
            "flags": vars(flags),
            "others": others,
            "alive_then": alive,
        }
        file.write(json.dumps(noted | {"arguments": sys.argv[1:], "offline": os.environ.get("HF_HUB_OFFLINE")}) + "\n")
    context = flags.max_model_len or flags.context_length
    stub = DyingServer(model=serves or flags.served_model_name, context=context, port=flags.port, **options)
    stub.child, stub.left = child, dict(enumerate(dies_after)).get(len(earlier))
    if says:
        print(says, flush=True)
    child.wait()
    print(DYING, flush=True)
    stub.die()
    stub.refused.wait()
    os._exit(0)


class DyingServer(StubServer):
    """Ends its child after so many requests."""

    left = None

    def __post_init__(self):
        self.refused = threading.Event()
        super().__post_init__()

    def respond(self):
        if self.always:
            self.refused.set()
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.child.kill()
                self.die()
