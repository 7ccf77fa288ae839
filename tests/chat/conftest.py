import dataclasses
import os
import re
import shutil
import socket
from contextlib import contextmanager

import pytest

from optimum_ssgr.chat import embedded
from optimum_ssgr.chat.settings import ChatSettings
from optimum_ssgr.chat.votes import open_votes
from tests.hub_server import HubServer

from .stub_chat import StubChat


OUTSIDE = re.compile(r"^(?!(https?|wss?)://127\.0\.0\.1:|data:|blob:)")


@pytest.fixture(scope="session")
def models(make_once):
    """The embedded reasoner and two pruned versions of it, calibrated on less than the real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "PROBLEMS", 24)
        patch.setattr(embedded, "CALIBRATION", dataclasses.replace(embedded.CALIBRATION, num_tokens=2000))
        return embedded.find_demo(make_once("models", embedded.make_demo))


@pytest.fixture(scope="session")
def hub_server():
    """A Hub on loopback; each test begins with `reset`."""
    with HubServer() as server:
        yield server


@pytest.fixture
def stub():
    server = StubChat()
    yield server
    server.stop()


@contextmanager
def serve(settings):
    """Serve a page from this process; gives its address and its comparison."""
    from optimum_ssgr.chat.page import build_page, launch_arguments, open_comparison  # loads Gradio, which takes long

    comparison = open_comparison(settings)
    page = build_page(comparison, open_votes(settings.votes))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page.launch(server_name="127.0.0.1", server_port=port, quiet=True, prevent_thread_lock=True, **launch_arguments())
    try:
        yield f"http://127.0.0.1:{port}/", comparison
    finally:
        page.close(verbose=False)


@pytest.fixture(scope="session")
def served(models, tmp_path_factory):
    """A page with the embedded models: its address, its comparison and its file of votes."""
    votes = tmp_path_factory.mktemp("votes") / "votes.jsonl"
    calibration = os.path.join(os.path.dirname(os.path.dirname(models[1])), "calibration")
    settings = ChatSettings(models=models, max_new_tokens=400, votes=str(votes), calibration=calibration)
    with serve(settings) as (url, comparison):
        yield url, comparison, votes


@pytest.fixture(scope="session")
def chromium():
    """Debian's Chromium, headless."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.fail("the browser tests need Chromium: apt-get install chromium, or set CHROMIUM to its path", pytrace=False)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Open pages that reach this machine only, and remember which other addresses they asked for and what went wrong."""
    contexts = []

    def open_(url, **options):
        context = chromium.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        context.set_default_timeout(60_000)
        context.route(OUTSIDE, lambda route: route.abort())
        contexts.append(context)
        page = context.new_page()
        page.outside, page.errors = [], []
        own = url.split("?")[0]
        page.on("request", lambda request: request.url.startswith((own, "data:", "blob:")) or page.outside.append(request.url))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(url)
        page.wait_for_selector("#columns > [role=region]")  # labelled when all else is loaded
        return page

    yield open_
    for context in contexts:
        context.close()
