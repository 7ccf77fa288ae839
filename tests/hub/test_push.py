"""Pushes against a Hub on loopback on which everything goes wrong in turn; what counts is the state the Hub is left in."""

import os
import pickle
import subprocess
import sys
import threading

import pytest
from huggingface_hub import HfApi

from optimum_ssgr.errors import DataError, HubError
from optimum_ssgr.hub.push import push_folder
from tests.hub.conftest import MODES, RATE_LIMITED


REPO = "alice/sparse"
# The calls of a push to a repository that is not there yet.
CALLS = ["repo_info", "create_repo", "tree", "validate_yaml", "preupload", "commit"]
CALLS_OF_MODE = {"lfs": [*CALLS, "lfs_batch", "lfs_put", "lfs_verify"], "xet": [*CALLS, "xet_token"]}
REFUSED = [401, 403, 404]
PASSING = [409, 412, 429, 500, 503]
BROKEN = [{"cut": "before"}, {"cut": "during"}, {"cut": "reply"}, {"cut": "halfway"}, {"stall": "before"}, {"stall": "after"}]
EVERY_CALL = [
    pytest.param(mode, call, id=f"{mode}-{call}", marks=pytest.mark.slow if mode == "xet" else ())
    for mode in MODES
    for call in CALLS_OF_MODE[mode]
]


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
    if (call, fault) == ("create_repo", {"status": 409}):
        pytest.skip("this is how the Hub says that the repository exists; see below")
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


@pytest.mark.parametrize(("hub", "call"), EVERY_CALL, indirect=["hub"])
@pytest.mark.parametrize("fault", [{"status": 503}, {"cut": "halfway"}], ids=str)
def test_what_does_not_pass_ends_in_a_sentence_unless_it_was_done(hub, folder, call, fault):
    hub.fault(call, times=1000, **fault)
    # What writes is done although no answer ever arrives whole; and what is uploaded need not be verified on the next try.
    if call == "lfs_verify" or (call in ("create_repo", "lfs_put", "commit") and "cut" in fault):
        assert_landed_once(hub, folder, push_folder(folder, REPO, message="weights"))
        return
    with pytest.raises(HubError) as raised:
        push_folder(folder, REPO, message="weights")
    assert_one_sentence(raised.value)
    assert_nothing_landed(hub)


def test_a_silent_hub_is_given_up(hub, folder):
    hub.fault("commit", times=1000, stall="before")
    with pytest.raises(HubError, match="ReadTimeout"):
        push_folder(folder, REPO)
    assert_nothing_landed(hub)


def test_a_name_taken_by_a_repository_that_the_token_may_not_see_is_refused(hub, folder):
    hub.fault("repo_info", times=2, status=404, headers={"X-Error-Code": "RepoNotFound"})
    HfApi().create_repo(REPO)
    with pytest.raises(HubError, match="the token may not see it"):
        push_folder(folder, REPO)
    assert_nothing_landed(hub)


@pytest.mark.parametrize(
    "fault",
    [{"status": 429, "message": RATE_LIMITED}, {"status": 500, "message": "Storage quota service unavailable"}],
    ids=str,
)
def test_what_passes_is_not_taken_for_full_storage(hub, folder, fault):
    hub.fault("commit", **fault)
    assert_landed_once(hub, folder, push_folder(folder, REPO, message="weights"))


def test_an_answer_that_is_not_the_hubs_is_asked_for_again(hub, folder):
    hub.fault("validate_yaml", status=502, message="bad gateway", headers={"Content-Length": "3"})
    assert_landed_once(hub, folder, push_folder(folder, REPO, message="weights"))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"status": 402, "message": "Payment required"}, "storage .* is used up"),
        ({"status": 403, "message": "Private repository storage limit reached"}, "storage .* is used up"),
        ({"status": 507, "message": "Insufficient"}, "storage .* is used up"),
        ({"status": 400, "message": "File name too long"}, "File name too long"),
        ({"status": 403, "message": "Two\nlines. And more"}, "the Hub says: Two lines"),
    ],
)
def test_the_hubs_own_words_are_passed_on(hub, folder, fault, words):
    hub.fault("commit", **fault)
    with pytest.raises(HubError, match=words) as raised:
        push_folder(folder, REPO)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("hub", [*MODES, "multipart"], indirect=True)
def test_an_unchanged_folder_makes_no_commit(hub, folder):
    first = push_folder(folder, REPO, message="weights")
    sent = len(hub.named("lfs_put")) + len(hub.named("xet_token"))
    assert push_folder(folder, REPO, message="again").oid == first.oid
    assert_landed_once(hub, folder, first)
    assert sent == len(hub.named("lfs_put")) + len(hub.named("xet_token")) > 0
    (folder / "config.json").write_text("{}")
    assert push_folder(folder, REPO, message="new").oid != first.oid
    assert titles(hub) == ["new", "weights", "initial commit"]
    assert on_hub(hub) == contents(folder)


@pytest.mark.parametrize("hub", MODES, indirect=True)
def test_concurrent_writers_all_land(hub, tmp_path):
    HfApi().create_repo(REPO)
    start, errors = threading.Barrier(5), []

    def write(number):
        own = tmp_path / f"writer-{number}"
        (own / f"part-{number}").mkdir(parents=True)
        (own / f"part-{number}" / "weights.safetensors").write_bytes(os.urandom(20_000))
        (own / f"part-{number}" / "config.json").write_text(str(number))
        start.wait()
        try:
            push_folder(own, REPO, message=f"writer {number}")
        except Exception as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(5)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not errors
    assert sorted(titles(hub)) == ["initial commit", *(f"writer {number}" for number in range(5))]
    assert on_hub(hub) == {path: data for number in range(5) for path, data in contents(tmp_path / f"writer-{number}").items()}


def test_what_others_commit_in_between_is_kept(hub, folder):
    push_folder(folder, REPO, message="weights")
    repo, theirs = hub.repo(REPO), hub.store(b"theirs")
    (folder / "config.json").write_text("{}")
    hub.fault("commit", meanwhile=lambda: repo.add_commit("main", "theirs", repo.at().files | {"NOTES.md": theirs}))
    push_folder(folder, REPO, message="new")
    assert [call.status for call in hub.named("commit")] == [200, 412, 200]
    assert titles(hub) == ["new", "theirs", "weights", "initial commit"]
    assert on_hub(hub) == contents(folder) | {"NOTES.md": b"theirs"}


PUSH = """
import sys
from optimum_ssgr.hub import push
push.BATCH_BYTES = 1
push.push_folder(sys.argv[1], "alice/sparse", message="weights")
"""


def killed_push(hub, folder, home, when):
    """Push from another process, and kill it as soon as the Hub is in that state."""
    pushing = subprocess.Popen([sys.executable, "-c", PUSH, folder], env=hub.environment(home), stderr=subprocess.DEVNULL)
    hub.wait_until(when)
    pushing.kill()
    pushing.wait()
    assert_nothing_landed(hub)
    hub.faults.clear()


@pytest.mark.slow
@pytest.mark.parametrize("hub", ["lfs", "multipart"], indirect=True)
def test_a_killed_push_goes_on_where_it_was(hub, folder, home):
    for number in range(6):
        (folder / f"shard-{number}.safetensors").write_bytes(os.urandom(70_000))
    hub.fault("lfs_put", skip=5, times=1000, stall="before")
    killed_push(hub, folder, home, when=lambda: any(call.status == 0 for call in hub.named("lfs_put")))
    assert 0 < len(hub.uploads) < 8
    assert_landed_once(hub, folder, push_folder(folder, REPO, message="weights"))
    assert len(hub.uploads) == 8 and set(hub.uploads.values()) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("hub", ["xet"], indirect=True)
def test_a_killed_push_to_xet_writes_no_block_again(hub, folder, home):
    (folder / "shard-1.safetensors").write_bytes(os.urandom(70_000))
    hub.fault("preupload", skip=4, times=1000, stall="before")  # of the last of five files
    killed_push(hub, folder, home, when=lambda: len(hub.named("preupload")) > 4)
    arrived = hub.xet.stored()
    assert len(arrived) == 2
    assert_landed_once(hub, folder, push_folder(folder, REPO, message="weights"))
    assert len(hub.xet.stored()) == 3
    assert arrived.items() < hub.xet.stored().items()


@pytest.mark.parametrize("fault", [None, {"cut": "reply"}, {"stall": "after"}, {"status": 503}], ids=str)
def test_a_pull_request_is_opened_once(hub, folder, fault):
    HfApi().create_repo(REPO)
    if fault:
        hub.fault("commit", **fault)
    commit = push_folder(folder, REPO, message="weights", create_pr=True, token=hub.stranger)
    assert titles(hub) == ["initial commit"]
    assert hub.repo(REPO).pull_requests() == {"refs/pr/1": commit.oid}
    assert (commit.pr_num, commit.pr_revision) == (1, "refs/pr/1")
    assert on_hub(hub, "refs/pr/1") == contents(folder)
    (folder / "config.json").write_text("{}")
    assert push_folder(folder, REPO, message="more", revision="refs/pr/1").oid == hub.repo(REPO).at("refs/pr/1").sha
    assert titles(hub, "refs/pr/1") == ["more", "weights", "initial commit"]


@pytest.mark.parametrize("call", ["repo_info", "create_branch", "commit"])
@pytest.mark.parametrize("fault", [{"status": 503}, {"cut": "reply"}], ids=str)
def test_a_missing_branch_is_made(hub, folder, call, fault):
    hub.fault(call, **fault)
    commit = push_folder(folder, REPO, revision="exp/1", message="weights")
    assert titles(hub) == ["initial commit"]
    assert titles(hub, "exp/1") == ["weights", "initial commit"]
    assert hub.repo(REPO).at("exp/1").sha == commit.oid


def test_data_sets_are_pushed_as_such(hub, folder):
    commit = push_folder(folder, "lab/traces", repo_type="dataset", private=True)
    assert commit.oid == hub.repo("lab/traces", "datasets").at().sha
    assert hub.repo("lab/traces", "datasets").private
    assert push_folder(folder, "lab/traces", repo_type="dataset").repo_url.repo_type == "dataset"


def test_private_weights_do_not_become_public(hub, folder):
    HfApi().create_repo(REPO)
    with pytest.raises(HubError, match="is public, but private was asked for"):
        push_folder(folder, REPO, private=True)
    assert_nothing_landed(hub)


def test_files_are_left_out_and_old_ones_deleted_in_the_same_commit(hub, folder):
    push_folder(folder, REPO, message="weights")
    (folder / "model-1.safetensors").rename(folder / "model.safetensors")
    (folder / "notes.log").write_text("mine")
    push_folder(folder, REPO, message="renamed", ignore_patterns=["*.log"], delete_patterns=["*.safetensors"])
    assert titles(hub) == ["renamed", "weights", "initial commit"]
    assert sorted(on_hub(hub)) == ["README.md", "config.json", "model.safetensors", "plots/model-2.safetensors"]


def test_what_is_merged_with_comes_with_its_commit(hub, folder):
    first = push_folder(folder, REPO, message="weights").oid
    push_folder(folder, REPO, merge={"README.md": lambda old, commit: f"{old}{commit}"})
    assert hub.read(REPO, "README.md").decode() == (folder / "README.md").read_text() + first


def test_what_cannot_be_merged_with_is_kept(hub, folder):
    HfApi().create_repo(REPO)
    hub.repo(REPO).add_commit("main", "binary", {"README.md": hub.store(b"\xff\xfe")})
    with pytest.raises(DataError, match=r"the README.md of alice/sparse is not UTF-8 text; mend or remove it on the Hub\."):
        push_folder(folder, REPO, merge={"README.md": lambda old, commit: "new"})
    assert titles(hub) == ["binary", "initial commit"]


@pytest.mark.parametrize("name", ["sparse", "alice/sparse/1", "alice/../etc", "alice/", "al ice/x"])
def test_names_that_cannot_be_are_refused_before_anything_is_asked(hub, folder, name):
    with pytest.raises(HubError, match="NAMESPACE/"):
        push_folder(folder, name)
    assert not hub.calls


def test_an_empty_folder_is_refused(hub, tmp_path):
    with pytest.raises(HubError, match="nothing to push"):
        push_folder(tmp_path / "nowhere", REPO)
    assert not hub.repos


def test_errors_know_nothing_of_the_token(hub, folder):
    hub.fault("commit", status=403, message=f"Bearer {hub.token} may not")
    with pytest.raises(HubError) as raised:
        push_folder(folder, REPO)
    error = raised.value
    assert "(token) may not" in str(error)
    assert error.__context__ is None and error.__cause__ is None
    assert hub.token.encode() not in pickle.dumps(error)
    assert hub.token not in str(pickle.loads(pickle.dumps(error)))


LOUD_PUSH = """
import logging, sys
logging.basicConfig(level=logging.DEBUG)
import huggingface_hub, transformers
huggingface_hub.logging.set_verbosity_debug()
transformers.logging.set_verbosity_debug()
from optimum_ssgr.hub.push import push_folder
push_folder(sys.argv[1], "alice/sparse")
"""


@pytest.mark.slow
@pytest.mark.parametrize("hub", MODES, indirect=True)
@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 403}, {"cut": "reply"}], ids=str)
def test_the_token_is_written_nowhere(hub, folder, home, fault):
    hub.fault("commit", **fault)
    environment = hub.environment(home) | {"HF_DEBUG": "1", "RUST_LOG": "debug", "SSGR_DEBUG": "1"}
    done = subprocess.run([sys.executable, "-c", LOUD_PUSH, folder], env=environment, cwd=home.parent, capture_output=True)
    assert (done.returncode == 0) == (fault != {"status": 403})
    assert b"DEBUG" in done.stderr and b"/api/models/alice/sparse/commit/main" in done.stderr
    written = b"".join(path.read_bytes() for path in home.parent.rglob("*") if path.is_file())
    assert hub.token.encode() not in written + done.stdout + done.stderr
