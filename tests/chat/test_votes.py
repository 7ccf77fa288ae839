"""Votes in a file and on a loopback Hub; `test_deploy.py` votes in the browser and ends the page as a Space is ended."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from optimum_ssgr.chat.votes import open_votes
from optimum_ssgr.errors import OutputError


VOTES = "alice/votes"
VOTE = "from optimum_ssgr.chat.votes import open_votes\nopen_votes('hf://datasets/alice/votes')({'vote': 'tie'})"


@pytest.fixture
def vote(hub_server, tmp_path):
    """Vote once in a process that ends at once, long before votes would be sent in passing."""
    hub_server.reset()

    def run(**environment):
        environment = hub_server.environment(tmp_path) | {"TMPDIR": str(tmp_path)} | environment
        return subprocess.run([sys.executable, "-c", VOTE], env=environment, capture_output=True, text=True)

    return hub_server, run


def votes_on(hub):
    files = hub.repo(VOTES, "datasets").at().files
    return [json.loads(hub.read(VOTES, path, kind="datasets")) for path in files if path.endswith(".jsonl")]


def test_votes_are_appended_to_a_file(tmp_path):
    for choice in ("tie", "none"):
        open_votes(str(tmp_path / "votes.jsonl"))({"vote": choice})
    assert [json.loads(line)["vote"] for line in (tmp_path / "votes.jsonl").read_text().splitlines()] == ["tie", "none"]


@pytest.mark.parametrize("place", [".", "nowhere/votes.jsonl"])
def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path, place):
    with pytest.raises(OutputError, match="cannot write votes"):
        open_votes(str(tmp_path / place))


@pytest.mark.slow
def test_the_last_votes_are_sent_in_spite_of_trouble(vote, tmp_path):
    hub, run = vote
    fault = hub.fault("commit", status=503)
    done = run()
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert fault.times == 0 and votes_on(hub) == [{"vote": "tie"}]
    assert hub.repo(VOTES, "datasets").private
    run()
    assert votes_on(hub) == [{"vote": "tie"}] * 2  # a page adds to what others wrote
    assert not list(tmp_path.glob("votes-*"))


@pytest.mark.slow
def test_votes_that_could_not_be_sent_are_kept_and_their_file_is_named(vote):
    hub, run = vote
    hub.fault("commit", status=403, times=99)
    done = run()
    assert done.returncode == 0 and "Traceback" not in done.stderr and votes_on(hub) == []
    path = Path(re.search(r"The last votes are in (\S+)\.$", done.stderr, re.MULTILINE)[1])
    assert json.loads(path.read_text()) == {"vote": "tie"}
    assert hub.token not in done.stdout + done.stderr + path.read_text()


@pytest.mark.slow
def test_a_token_that_may_not_write_is_refused_before_the_page_opens(vote):
    hub, run = vote
    done = run(HF_TOKEN=hub.read_token)
    assert done.returncode == 1 and "HubError: the token may not create alice/votes" in done.stderr
    assert ("datasets", VOTES) not in hub.repos
