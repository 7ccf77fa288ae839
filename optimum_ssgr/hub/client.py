"""Calls to the Hub that wait for a bounded time, are made again where that helps, and fail with one sentence."""

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import httpx2
from huggingface_hub import get_session, set_client_factory
from huggingface_hub.utils import _http
from transformers.utils import logging

from .failures import hub_error, is_passing, rate_limit_wait


logger = logging.get_logger(__name__)

Result = TypeVar("Result")

TRIES = 8
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds between tries, doubling
SILENCE = 300.0  # seconds without a byte; a commit of many large files is checked by the Hub before it answers

_lock = threading.Lock()


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
    limit_silence()
    for attempt in range(tries):
        try:
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


def limit_silence() -> None:
    """Make huggingface_hub's client give up on a server that has gone silent; left alone, it waits for ever."""
    with _lock:
        if _limit_request in get_session().event_hooks["request"]:
            return
        make_client = _http._GLOBAL_CLIENT_FACTORY  # there is no public way to keep what a user has set

        def make_impatient_client() -> httpx2.Client:
            client = make_client()
            client.event_hooks["request"].append(_limit_request)
            return client

        set_client_factory(make_impatient_client)


def _limit_request(request: httpx2.Request) -> None:
    """Set the time-outs that a request leaves open. Many calls ask for none, so that a client's own time-out would not do."""
    limits = request.extensions["timeout"]
    limits |= {step: SILENCE for step in ("connect", "read", "write") if limits[step] is None}
