"""The loopback Hub: the thread it runs in, its state, and what tests ask of it."""

import collections
import os
import socket
import threading
from dataclasses import dataclass
from urllib.parse import unquote

import uvicorn
from starlette.applications import Starlette

from .faults import Fault
from .repositories import Account, Blob, Repository, git_blob
from .routes import CALLS, routes
from .xet import XetStore


@dataclass(frozen=True)
class Call:
    name: str
    path: str
    status: int  # 0 where the connection was cut, or nothing was answered, before the handler ran


class HubServer:
    """A Hub on 127.0.0.1, in a thread of this process.

    Args:
        mode: "lfs" and "multipart" take large files by Git LFS, in one part or in parts of 64 KiB; "xet" by Xet.
        lfs_threshold: Bytes from which on a file is large; some suffixes always are.
    """

    token, read_token, stranger = "hf_aliceWritesWithThis", "hf_aliceReadsWithThis", "hf_bobWritesWithThis"

    def __init__(self, mode="lfs", lfs_threshold=10_000):
        self.mode, self.lfs_threshold = mode, lfs_threshold
        self.changed = threading.Condition()
        self.part_size = 65_536 if mode == "multipart" else None
        self.reset()

    def reset(self):
        """Forget everything but the accounts."""
        self.accounts = {
            self.token: Account("alice", organisations=("lab",)),
            self.read_token: Account("alice", role="read", organisations=("lab",)),
            self.stranger: Account("bob"),
        }
        self.repos: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}  # by SHA-256 (LFS) or git's hash
        self.parts: dict[str, dict[int, bytes]] = {}  # of multipart uploads under way
        self.uploads = collections.Counter()  # complete uploads by SHA-256
        self.calls: list[Call] = []
        self.faults: list[Fault] = []
        self.xet = XetStore() if self.mode == "xet" else None

    def __enter__(self):
        # asyncio turns Nagle's algorithm off, which costs 40 ms a call, only where the protocol is named.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        application = Starlette(routes=routes(self))

        async def prepared(scope, receive, send):
            # "refs%2Fpr%2F1" stays one segment of the path while routing. The transport serves to cut connections.
            scope["path"] = unquote(scope["raw_path"].decode().replace("%2F", "%252F"))
            scope["transport"] = send.__self__.transport
            await application(scope, receive, send)

        config = uvicorn.Config(prepared, log_level="critical", lifespan="off", http="h11", ws="none")
        self.server = uvicorn.Server(config)
        ready = threading.Event()
        startup = self.server.startup

        async def tell(sockets):
            await startup(sockets)
            ready.set()

        self.server.startup = tell
        self.thread = threading.Thread(target=self.server.run, args=([listener],), daemon=True)
        self.thread.start()
        ready.wait()
        return self

    def __exit__(self, *exception):
        self.server.should_exit = self.server.force_exit = True
        self.thread.join()

    def fault(self, call, **what):
        """Let something go wrong with the next calls of that name; see `Fault`."""
        assert call in CALLS, f"no call is named {call}"
        self.faults.append(Fault(call, **what))
        return self.faults[-1]

    def next_fault(self, call):
        fault = next((fault for fault in self.faults if fault.call == call and fault.times), None)
        if fault and fault.skip:
            fault.skip -= 1
            return None
        if fault:
            fault.times -= 1
        return fault

    def record(self, name, path, status):
        with self.changed:
            self.calls.append(Call(name, path, status))
            self.changed.notify_all()

    def wait_until(self, condition, timeout=60):
        """Wait for something to be true of this Hub; it is looked at after every call."""
        with self.changed:
            assert self.changed.wait_for(condition, timeout), "it did not come to be"

    def named(self, name):
        """The calls of that name, in order."""
        return [call for call in self.calls if call.name == name]

    def store(self, data):
        blob = Blob(git_blob(data), len(data))
        self.objects[blob.oid] = data
        return blob

    def repo(self, repo_id, kind="models"):
        return self.repos[kind, repo_id]

    def read(self, repo_id, path, revision="main", kind="models"):
        """The content of a file."""
        return self.objects[self.repo(repo_id, kind).at(revision).files[path].etag]

    def environment(self, home):
        """The environment of a client in a process of its own, with its caches in the folder `home`."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        return inherited | {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "0" if self.mode == "xet" else "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
