"""Calls to the Hub that wait for a bounded time, are made again where that helps, and fail with one sentence."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpx2
from huggingface_hub import get_session
from transformers.utils import logging

from ..compat import hub_client_factory, replace_hub_client_factory
from .failures import hub_error, is_passing, rate_limit_wait


logger = logging.get_logger(__name__)

Result = TypeVar("Result")

TRIES = 8
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds between tries, doubling
SILENCE = 300.0  # seconds without a byte; a commit of many large files is checked by the Hub before it answers


def call_hub(call: Callable[[], Result], repo_id: str, tries: int = TRIES) -> Result:
    """Make a call to the Hub, again after trouble that may pass.

    Args:
        call: Takes nothing; must be safe to repeat, also where it succeeded and only its answer was lost.
        repo_id: What the call is about, for the message.
        tries: How often to try, waiting 1, 2, 4, ... at most 30 s in between; after a rate limit, until it ends.

    Returns:
        What the call returns.

    Raises:
        HubError: The call was refused, or failed every time. It carries nothing of the original, which knows the token.
    """
    for attempt in range(tries):
        try:
            with limited_silence():
                return call()
        except Exception as error:
            refusal = hub_error(error, repo_id)
            if refusal is None:
                raise
            if not is_passing(error) or attempt == tries - 1:
                break
            wait = seconds_to_wait(error, attempt)
        logger.warning(f"{str(refusal).split(';')[0]}; trying again in {wait:.0f} s.")
        time.sleep(wait)
    raise refusal


def seconds_to_wait(error: BaseException, attempt: int) -> float:
    """Return how long to wait after a try that failed, with some chance in it, so that rivals do not meet again."""
    limited = rate_limit_wait(error)
    if limited is not None:
        return limited + FIRST_WAIT * random.uniform(1, 5)
    return min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1)


@contextmanager
def limited_silence() -> Iterator[None]:
    """Have huggingface_hub give up on a server that has gone silent, as long as this lasts; left alone, it waits for ever.

    Its clients are shared by the whole process: whoever else uses them meanwhile gets the same time-outs where they set none,
    and finds them as they were when the last of our calls is over.
    """
    _limit.enter()
    try:
        yield
    finally:
        _limit.leave()


class _SilenceLimit:
    """Time-outs on the clients that huggingface_hub has, and on those that it makes, as long as anybody is inside."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.clients: list[httpx2.Client] = []
        self.make_client: Callable[[], httpx2.Client] | None = None  # what made clients before

    def enter(self) -> None:
        with self.lock:
            self.inside += 1
            if hub_client_factory() != self.make_limited_client:  # a user may also set one while we are inside
                self.make_client = hub_client_factory()
                replace_hub_client_factory(self.make_limited_client)
            if (client := get_session()) not in self.clients:
                self.limit(client)

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside:
                return
            if hub_client_factory() == self.make_limited_client:
                replace_hub_client_factory(self.make_client)
            for client in self.clients:
                hooks = client.event_hooks
                client.event_hooks = hooks | {"request": [hook for hook in hooks["request"] if hook is not _limit_request]}
            self.clients.clear()

    def make_limited_client(self) -> httpx2.Client:
        client = self.make_client()
        self.limit(client)  # not under our lock: here huggingface_hub's own is held, for which the others wait under ours
        return client

    def limit(self, client: httpx2.Client) -> None:
        # a new list instead of a longer one, over which another thread may be going
        client.event_hooks = client.event_hooks | {"request": [*client.event_hooks["request"], _limit_request]}
        self.clients.append(client)


_limit = _SilenceLimit()


def _limit_request(request: httpx2.Request) -> None:
    """Set the time-outs that a request leaves open. Many calls ask for none, so that a client's own time-out would not do."""
    limits = request.extensions["timeout"]
    limits |= {step: SILENCE for step in ("connect", "read", "write") if limits[step] is None}
