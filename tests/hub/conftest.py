"""A loopback Hub for each mode, and this process's clients turned towards it for one test at a time."""

import os

import pytest
from huggingface_hub.utils import _http, _xet

from optimum_ssgr.hub import client, failures
from tests.hub_server import HubServer
from tests.hub_server.clients import turn_clients
from tests.processes import started, with_settings


# hf_xet reads these once, when its first session is made.
os.environ |= {
    "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms",
    "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2",
    "HF_XET_CLIENT_READ_TIMEOUT": "1s",
}
MODES = ["lfs", "xet"]
RATE_LIMITED = "We had to rate limit you, you hit the quota of 1000 api requests per 5 minutes period. Upgrade to PRO"


@pytest.fixture(scope="session")
def hub_servers():
    servers = {mode: HubServer(mode).__enter__() for mode in ("lfs", "multipart", "xet")}
    yield servers
    for server in servers.values():
        server.__exit__()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder of the clients' caches."""
    home = tmp_path / "hf_home"
    monkeypatch.setenv("HF_HOME", str(home))
    return home


@pytest.fixture
def hub(hub_servers, home, monkeypatch, request):
    """An empty Hub that the clients of this process talk to, without waiting between tries.

    The mode is "lfs", or the parameter that the test gives. The clients do nothing but wait for less time: what is retried, and
    how often, stays theirs.
    """
    server = hub_servers[getattr(request, "param", "lfs")]
    server.reset()
    turn_clients(monkeypatch, server, home)
    for name in ("base_wait_time", "max_wait_time"):
        monkeypatch.setitem(_http.http_backoff.__kwdefaults__, name, 0.001)
    monkeypatch.setattr(client, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(client, "LONGEST_WAIT", 0.05)
    monkeypatch.setattr(client, "SILENCE", 0.3)
    monkeypatch.setattr(failures, "RATE_LIMIT_WAIT", 0.05)
    yield server
    _xet.abort_xet_session()


@pytest.fixture
def in_fresh_process(hub, home, tmp_path):
    """Run Python in a new process whose clients talk to the Hub; returns what it prints."""

    def run(code, **environment):
        with started(with_settings, hub.environment(home) | environment, exec, code, {}, cwd=tmp_path) as running:
            assert running.wait() == 0, running.err.read_text()
            return running.out.read_text()

    return run


@pytest.fixture
def folder(tmp_path):
    """A small checkpoint: two files that go to LFS or Xet, two that go into the commit."""
    folder = tmp_path / "checkpoint"
    (folder / "plots").mkdir(parents=True)
    (folder / "model-1.safetensors").write_bytes(os.urandom(100_000))
    (folder / "plots" / "model-2.safetensors").write_bytes(os.urandom(80_000))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Sparse\n")
    return folder
