"""Pushes against a Hub on loopback on which everything goes wrong in turn; what counts is the state the Hub is left in."""

import pytest

from optimum_ssgr.errors import HubError
from optimum_ssgr.hub.push import push_folder
from tests.hub.conftest import MODES


REPO = "alice/sparse"
# The calls of a push to a repository that is not there yet.
CALLS = ["repo_info", "create_repo", "tree", "validate_yaml", "preupload", "commit"]
CALLS_OF_MODE = {"lfs": [*CALLS, "lfs_batch", "lfs_put", "lfs_verify"], "xet": [*CALLS, "xet_token"]}
REFUSED = [401, 403, 404]
PASSING = [408, 409, 412, 429, 500, 503]
BROKEN = [{"cut": "before"}, {"cut": "during"}, {"cut": "reply"}, {"cut": "halfway"}, {"stall": "before"}, {"stall": "after"}]
EVERY_CALL = [pytest.param(mode, call, id=f"{mode}-{call}") for mode in MODES for call in CALLS_OF_MODE[mode]]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def on_hub(hub, revision="main", repo_id=REPO):
    files = {path: hub.read(repo_id, path, revision) for path in hub.repo(repo_id).at(revision).files}
    files.pop(".gitattributes")
    return files


def titles(hub, revision="main"):
    return [commit.title for commit in hub.repo(REPO).history(revision)]


def assert_landed_once(hub, folder, commit):
    assert titles(hub) == ["weights", "initial commit"]
    assert commit.oid == hub.repo(REPO).at("main").sha
    assert on_hub(hub) == contents(folder)


def assert_nothing_landed(hub):
    if ("models", REPO) in hub.repos:
        assert titles(hub) == ["initial commit"]
        assert on_hub(hub) == {}


def assert_one_sentence(error):
    message = str(error)
    assert "\n" not in message and message.endswith(".") and message.count(". ") == 0
    assert REPO in message


@pytest.mark.parametrize(("hub", "call"), EVERY_CALL, indirect=["hub"])
@pytest.mark.parametrize("fault", [*({"status": status} for status in PASSING), *BROKEN], ids=str)
def test_what_passes_ends_in_one_commit_with_all_files(hub, folder, call, fault):
    injected = hub.fault(call, **fault)
    commit = push_folder(folder, REPO, message="weights")
    assert injected.times == 0
    assert_landed_once(hub, folder, commit)


@pytest.mark.parametrize(("hub", "call"), EVERY_CALL, indirect=["hub"])
@pytest.mark.parametrize("status", REFUSED)
def test_what_is_refused_ends_in_a_sentence(hub, folder, call, status):
    injected = hub.fault(call, status=status)
    with pytest.raises(HubError) as raised:
        push_folder(folder, REPO, message="weights")
    assert injected.times == 0
    assert_one_sentence(raised.value)
    assert_nothing_landed(hub)
