import re
import signal
import time
import urllib.request

import pytest

from ..processes import ssgr, started


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
    with started(ssgr, "chat", *arguments, cwd=tmp_path) as running:
        while not (found := re.search(r"Chat at (http://\S+)\n", running.out.read_text())):
            assert running.process.is_alive(), running.err.read_text()
            time.sleep(0.01)
        assert b"side by side" in urllib.request.urlopen(found[1], timeout=60).read()
        running.send_signal(signal.SIGINT)
        assert running.wait() == 130
        assert "votes are in votes.jsonl" in running.err.read_text()
