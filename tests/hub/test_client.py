"""Time-outs on huggingface_hub's clients, which belong to the whole process."""

import socket
import sys
import threading

import httpx2
import pytest
from huggingface_hub import close_session, get_session, set_client_factory
from huggingface_hub.utils import _http

from optimum_ssgr.hub.client import call_hub, limited_silence


@pytest.fixture(autouse=True)
def as_found():
    """The factory, the client and what the client does to a request, before and after."""
    factory, client, hooks = _http._GLOBAL_CLIENT_FACTORY, get_session(), list(get_session().event_hooks["request"])
    yield
    assert get_session().event_hooks["request"] == hooks
    assert _http._GLOBAL_CLIENT_FACTORY is factory
    assert get_session() is client or client.is_closed
    assert not get_session().is_closed


@pytest.fixture
def silent():
    """The address of a server that takes calls and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr("optimum_ssgr.hub.client.SILENCE", 0.2)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def assert_gives_up(address):
    with pytest.raises(httpx2.ReadTimeout):
        get_session().get(address, timeout=None)


def test_a_silent_server_is_given_up_as_long_as_the_context_lasts(silent):
    with limited_silence():
        assert_gives_up(silent)
        close_session()  # as huggingface_hub does when a connection broke
        assert_gives_up(silent)
        with limited_silence():
            pass
        assert_gives_up(silent)


def test_time_outs_that_a_call_sets_are_kept(silent, monkeypatch):
    monkeypatch.setattr("optimum_ssgr.hub.client.SILENCE", 600)
    with limited_silence(), pytest.raises(httpx2.ReadTimeout):
        get_session().get(silent, timeout=0.1)


def test_the_clients_are_left_as_found_when_a_call_fails():
    def fail():
        raise ValueError("not the Hub's")

    with pytest.raises(ValueError):
        call_hub(fail, "a/b")


def test_a_factory_that_the_user_sets_meanwhile_stays(silent):
    earlier, made = _http._GLOBAL_CLIENT_FACTORY, []

    def theirs():
        made.append(httpx2.Client(timeout=5))
        return made[-1]

    try:
        with limited_silence():
            set_client_factory(theirs)
            with limited_silence():
                assert_gives_up(silent)
        assert _http._GLOBAL_CLIENT_FACTORY is theirs
        assert get_session() is made[-1] and get_session().event_hooks["request"] == []
    finally:
        set_client_factory(earlier)


@pytest.fixture
def eager_threads():
    """Let threads take turns as often as can be."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_many_threads_share_it(eager_threads):
    """Nobody is without it while inside, whoever leaves and whatever closes the client."""
    missing = []

    def use(number):
        for turn in range(300):
            with limited_silence():
                if len(get_session().event_hooks["request"]) != 2:
                    missing.append((number, turn))
                if number == 0:
                    close_session()

    threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not missing
