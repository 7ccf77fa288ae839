"""What is known before a push, and what each refusal says."""

import httpx2
import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from optimum_ssgr.errors import HubError
from optimum_ssgr.hub.access import check_push
from optimum_ssgr.hub.client import TRIES, seconds_to_wait
from tests.hub.conftest import RATE_LIMITED
from tests.hub_server.repositories import Account


REPO = "alice/sparse"


def refusal(*arguments, **options):
    with pytest.raises(HubError) as raised:
        check_push(*arguments, **options)
    message = str(raised.value)
    assert "\n" not in message and message.endswith(".")
    return message


@pytest.fixture
def there(hub):
    HfApi(token=hub.token).create_repo(REPO)
    hub.calls.clear()
    return hub.repo(REPO)


@pytest.mark.parametrize("repo_id", [REPO, "lab/sparse"])
@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_a_new_name_in_an_own_namespace_will_do(hub, repo_id, repo_type):
    check_push(repo_id, repo_type=repo_type)
    assert not hub.repos


def test_an_own_repository_will_do(hub, there):
    check_push(REPO)
    assert [call.name for call in hub.calls] == ["repo_info", "auth_check_write"]


def test_no_token(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert "hf auth login" in refusal(REPO)
    assert not hub.calls


def test_a_token_that_is_not_known(hub, there):
    assert "does not know the token" in refusal(REPO, token="hf_wrong")


@pytest.mark.parametrize("repo_id", [REPO, "lab/new"])
def test_a_token_that_may_only_read(hub, there, repo_id):
    assert "https://huggingface.co/settings/tokens" in refusal(repo_id, token=hub.read_token)


def test_somebody_elses_repository(hub, there):
    assert "You don't have write access" in refusal(REPO, token=hub.stranger)
    check_push(REPO, token=hub.stranger, create_pr=True)


def test_somebody_elses_namespace(hub):
    assert "bob may not write to 'alice'" in refusal(REPO, token=hub.stranger)


def test_a_private_repository_of_somebody_else_looks_like_none(hub, there):
    there.private = True
    assert "bob may not write to 'alice'" in refusal(REPO, token=hub.stranger)


@pytest.mark.parametrize(("is_private", "private"), [(True, False), (False, True)])
def test_another_visibility(hub, there, is_private, private):
    there.private = is_private
    assert "but" in refusal(REPO, private=private)
    check_push(REPO, private=is_private)
    check_push(REPO)


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        ([{"entity": {"type": "user", "name": "alice"}, "permissions": ["repo.content.read", "repo.write"]}], True),
        ([{"entity": {"type": "user", "name": "alice"}, "permissions": ["repo.content.read"]}], False),
        ([{"entity": {"type": "org", "name": "lab"}, "permissions": ["repo.write"]}], False),
        ([], False),
    ],
)
def test_a_fine_grained_token_must_cover_the_namespace(hub, scopes, allowed):
    hub.accounts["hf_fine"] = Account("alice", role="fineGrained", scopes=scopes)
    if allowed:
        check_push(REPO, token="hf_fine")
    else:
        assert "may not create alice/sparse" in refusal(REPO, token="hf_fine")


def test_offline(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal(REPO)
    assert not hub.calls


@pytest.mark.parametrize("name", ["sparse", "alice/sparse/1", "alice/..", ""])
def test_names_that_cannot_be(hub, name):
    assert "NAMESPACE/" in refusal(name)
    assert not hub.calls


@pytest.mark.parametrize("call", ["repo_info", "auth_check_write"])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"status": 401}, "does not know the token"),
        ({"status": 403, "message": "not yours"}, "the Hub says: not yours"),
        ({"status": 403, "headers": {"X-Error-Code": "GatedRepo"}}, "is gated"),
        ({"status": 429, "times": 9}, "takes no more calls"),
        ({"status": 429, "times": 9, "message": RATE_LIMITED}, "takes no more calls"),
        ({"status": 503, "times": 9}, "HTTP status 503"),
        ({"status": 503, "times": 9, "message": "The storage backend is down"}, "HTTP status 503"),
        ({"cut": "before", "times": 9}, "lost the connection"),
        ({"stall": "before", "times": 9}, "lost the connection"),
    ],
    ids=str,
)
def test_each_refusal_says_what_to_do(hub, there, call, fault, words):
    hub.fault(call, **fault)
    assert words in refusal(REPO)


@pytest.mark.parametrize("call", ["repo_info", "auth_check_write"])
@pytest.mark.parametrize(
    "fault", [{"status": 503}, {"status": 429, "message": RATE_LIMITED}, {"cut": "reply"}, {"stall": "after"}], ids=str
)
def test_trouble_that_passes_is_waited_for(hub, there, call, fault):
    hub.fault(call, **fault)
    check_push(REPO)


def test_no_hub_at_all(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "lost the connection to the Hub for alice/sparse (ConnectError)" in refusal(REPO)


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"RateLimit": '"api";r=0;t=211', "Retry-After": "5"}, 212, 216),
        ({"Retry-After": "120"}, 121, 125),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 300 / (TRIES - 1), 120),
        ({}, 300 / (TRIES - 1), 120),
        ({"Retry-After": "999999"}, 300, 900),
    ],
    ids=str,
)
def test_a_rate_limit_is_outlasted(headers, least, most):
    """The Hub's window is 5 minutes; where it does not say when it ends, all the waits together are longer."""
    response = httpx2.Response(429, headers=headers, request=httpx2.Request("GET", "http://127.0.0.1/api/models"))
    error = HfHubHTTPError(RATE_LIMITED, response=response, server_message=RATE_LIMITED)
    assert all(least <= seconds_to_wait(error, attempt) <= most for attempt in range(TRIES))


def test_a_rate_limit_told_by_xet_is_outlasted():
    error = ConnectionError("Network error: HTTP status client error (429 Too Many Requests)")
    assert sum(seconds_to_wait(error, attempt) for attempt in range(TRIES - 1)) > 300
