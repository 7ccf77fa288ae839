import re
import signal
import subprocess
import sys
import urllib.request
from functools import partial

import pytest


COMMAND = [sys.executable, "-m", "optimum.commands.optimum_cli", "ssgr", "chat"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["tiny-reasoner"], 2, "give 2 to 4 models"),
        (["tiny-reasoner", "tiny-reasoner"], 2, "give every model once"),
        (["--engine", "http://localhost:1/v1"], 2, "name the models that the servers have"),
        (["tiny-reasoner", "/nowhere"], 1, "cannot load the model '/nowhere'"),
    ],
)
def test_mistakes_are_told_before_the_page_is_served(arguments, code, message, tmp_path, cli):
    done = cli("chat", *arguments, cwd=tmp_path)
    assert done.code == code and message in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
def test_the_page_is_served_until_interrupted(tmp_path):
    """Two names of one server, which need not be there for the page to open."""
    arguments = ["one", "two", "--engine", "http://127.0.0.1:9/v1"]
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # also where the tests run in the background, deaf to Ctrl-C
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, preexec_fn=listen
    )
    try:
        url = re.search(r"Chat at (http://\S+)", process.stdout.readline())[1]
        assert b"side by side" in urllib.request.urlopen(url, timeout=60).read()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130 and "votes are in votes.jsonl" in errors
    finally:
        process.kill()
