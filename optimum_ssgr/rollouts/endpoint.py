"""One server: what it can do, whether it is healthy, and one request to it."""

import dataclasses
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

import httpx2
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..config import SamplingConfig
from ..errors import ConfigError, ModelError
from ..records import Rollout
from .addresses import parse_address
from .completions import DIALECTS, Dialect, LostResponse, MalformedAnswer, completion_body, read_completions
from .engine import Request


logger = logging.get_logger(__name__)

TRANSIENT = {408, 409, 425, 429}
"""Status codes below 500 that another try may mend."""

CONNECT_TIMEOUT = 10.0
"""Seconds to wait for a connection."""


class TransientFailure(Exception):
    """A failure that another try, or another endpoint, may mend.

    Args:
        reason: What happened, in a few words.
        retry_after: Seconds the server asks to wait; 0 when it says nothing.
        is_busy: Whether the server says that it has too much to do.
    """

    def __init__(self, reason: str, retry_after: float = 0.0, is_busy: bool = False) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.is_busy = is_busy


class ModelRefused(ModelError):
    """The server does not generate with the model, as a rule because it serves others; another server may have it."""


def api_key() -> str:
    """Return the servers' API key; empty when there is none.

    Raises:
        ConfigError: The API key cannot be sent.
    """
    key = (os.environ.get("VLLM_API_KEY") or os.environ.get("OPENAI_API_KEY") or "").strip()
    if not key.isascii() or not key.isprintable():  # else the HTTP library would say so, and show the key
        raise ConfigError("the API key in VLLM_API_KEY or OPENAI_API_KEY has characters that cannot be sent; check it.")
    return key


def open_client(read_timeout: float) -> httpx2.AsyncClient:
    """Open the HTTP client shared by all endpoints.

    No connection is used twice: requests are long, and a server may close an idle connection just when it is used again.
    Keep-alive packets find out when a machine is gone while a long response is awaited.

    Args:
        read_timeout: Seconds to wait for an answer.

    Raises:
        ConfigError: The API key cannot be sent.
    """
    key = api_key()
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    keepalive = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            keepalive.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return httpx2.AsyncClient(
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx2.Timeout(read_timeout, connect=CONNECT_TIMEOUT, pool=None),
        transport=httpx2.AsyncHTTPTransport(limits=limits, socket_options=keepalive),
    )


@dataclass
class Endpoint:
    """An OpenAI-compatible server.

    Args:
        url: Address of its API, such as `http://host:8000/v1`.
        concurrency: Most responses in the making there at a time; see `grow`.
        model: The model's name on the server.
        dialect: How prompts are sent; None before the server was asked.
        context: Longest sequence it takes, in tokens; None when it does not say.
        running: Responses that it is working on.
        failures: Failures since its last good answer.
        unhealthy_since: When it was given up for now, in seconds of the event loop's clock; None while it is healthy.
        paused_until: When it may be asked again, on the same clock.
        last_failure: What went wrong last.
        knows_seeds: Whether its seeds were looked at, see `seeds.check_seeds`.

    Raises:
        ConfigError: The address is not one.
    """

    url: str
    concurrency: int
    model: str = ""
    dialect: Dialect | None = None
    context: int | None = None
    running: int = 0
    failures: int = 0
    unhealthy_since: float | None = None
    paused_until: float = 0.0
    last_failure: str = ""
    knows_seeds: bool = False
    name: str = field(init=False)

    def __post_init__(self) -> None:
        url = parse_address(self.url)
        self.url = self.url.rstrip("/")
        self.name = str(url.copy_with(username=None, password=None, query=None)).rstrip("/")  # a password stays out of messages

    async def probe(
        self,
        client: httpx2.AsyncClient,
        model: str,
        request: Request,
        sampling: SamplingConfig,
        tokenizer: PreTrainedTokenizerBase,
        ends: frozenset[int],
        timeout: float,
        accept_only_model: bool = False,
    ) -> None:
        """Find out what the server can do, with one token of a real request.

        The sampling settings are those of the run: with continuous batching, `transformers serve` keeps the first it gets. It
        carries no seed, of which some servers die; see `seeds.check_seeds`.

        Args:
            client: HTTP client.
            model: Model id.
            request: A request to try.
            sampling: How to sample.
            tokenizer: The model's tokenizer.
            ends: Tokens that end a response.
            timeout: Seconds to wait for each answer.
            accept_only_model: Whether a server's only model, of whatever name, is taken for one that it does not know.

        Raises:
            TransientFailure: The server cannot be reached or is not ready.
            ModelRefused: The server does not generate with the model.
            ModelError: The server refuses access or saw another prompt.
        """
        served = await self._served_models(client, timeout)
        context = served.get(model)
        if context is not None and len(request.prompt_ids) >= context:  # it would be refused for its length alone
            request = dataclasses.replace(request, prompt_ids=request.prompt_ids[:1])
        single = list(served) if accept_only_model and model not in served and len(served) == 1 else []
        sampling = dataclasses.replace(sampling, max_new_tokens=1)
        refusals: list[str] = []
        for name in [model, *single]:
            for dialect in DIALECTS:
                status, content = await self._post(
                    client, completion_body(request, name, sampling, tokenizer, ends, dialect, seeded=False), timeout=timeout
                )
                if status == 200:
                    context = served.get(name) or await self._find_context(client)
                    self._set_capabilities(name, model, dialect, context)
                    self._read(content, [request], sampling, tokenizer, ends)
                    return
                refusals.append(f"{status}, {content}")
                if status == 404:
                    break  # it does not know the model, however it is asked
        if served and model not in served and not single:
            raise ModelRefused(f"{self.name} serves {', '.join(sorted(served)[:5])}, but not {model}; give one of its models.")
        raise ModelRefused(f"{self.name} refuses to generate with {model} ({refusals[-1]}).")

    def _set_capabilities(self, name: str, model: str, dialect: Dialect, context: int | None) -> None:
        if self.dialect is None:
            how = "token ids" if dialect == "ids" else "text"
            note = "" if name == model else f", its only model, for {model}"
            logger.info(f"{self.name} takes prompts as {how} and serves {name}{note}.")
            if note:
                logger.warning(f"{self.name} does not know {model}; its only model, {name}, is used.")
        self.model, self.dialect, self.context = name, dialect, context

    async def _served_models(self, client: httpx2.AsyncClient, timeout: float) -> dict[str, int | None]:
        """Return the context length of every model in `/v1/models`; `transformers serve` lists its cache there, or fails."""
        try:
            response = await client.get(f"{self.url}/models", timeout=httpx2.Timeout(timeout, connect=CONNECT_TIMEOUT))
        except httpx2.TransportError as error:
            raise _as_transient(error) from None
        if response.status_code in (401, 403):
            raise ModelError(f"{self.name} refuses access ({response.status_code}, {server_message(response)}); {_KEY_ADVICE}")
        return read_models(response)

    async def _find_context(self, client: httpx2.AsyncClient) -> int | None:
        """Ask for the longest sequence where llama.cpp (`/props`) and Ollama (`/api/ps`) say it; None elsewhere."""
        for path in ("props", "api/ps"):
            try:
                response = await client.get(f"{self.url.removesuffix('/v1')}/{path}", timeout=CONNECT_TIMEOUT)
                content = response.json()
                found = content.get("default_generation_settings") or content["models"][0]
                return int(found.get("n_ctx") or found["context_length"])
            except (httpx2.HTTPError, ValueError, TypeError, KeyError, IndexError, AttributeError):
                continue
        return None

    async def complete(
        self,
        client: httpx2.AsyncClient,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        tokenizer: PreTrainedTokenizerBase,
        ends: frozenset[int],
        seeded: bool = True,
    ) -> list[Rollout | LostResponse]:
        """Sample one response, or several to the same prompt.

        Returns:
            What came of the requests, or of the first of them where the server draws fewer responses than it is asked for.

        Raises:
            TransientFailure: Another try may mend it.
            ModelError: The server refuses, or saw another prompt.
        """
        first, samples = requests[0], len(requests)
        body = completion_body(first, self.model, sampling, tokenizer, ends, self.dialect, seeded, samples)
        status, content = await self._post(client, body)
        if status != 200:
            raise ModelError(f"{self.name} refuses a request ({status}, {content}).")
        return self._read(content, requests, sampling, tokenizer, ends)

    async def grow(self, client: httpx2.AsyncClient) -> bool:
        """Let it have twice as many responses in the making if most that it has are, and none of them waits in its queue.

        What waits there does no harm, so that one that is full stays as it is. Requests that have not come so far as its queue
        are in neither count: a server that is still taking them in is not given more.

        Returns:
            Whether it says how many wait.
        """
        try:
            response = await client.get(f"{self.url.removesuffix('/v1')}/metrics", timeout=CONNECT_TIMEOUT)
        except httpx2.HTTPError:
            return False
        text = response.text if response.status_code == 200 else ""
        waiting, working = ([float(number) for number in pattern.findall(text)] for pattern in (_WAITING, _WORKING))
        if waiting and not sum(waiting) and 2 * sum(working) >= self.running:
            self.concurrency *= 2
            logger.info(f"{self.name} has room for more than {self.running} responses at a time.")
        return bool(waiting)

    async def _post(self, client: httpx2.AsyncClient, body: dict[str, Any], timeout: float | None = None) -> tuple[int, Any]:
        """Return the status and the decoded JSON, or the server's message when it refuses for good."""
        options = {} if timeout is None else {"timeout": httpx2.Timeout(timeout, connect=CONNECT_TIMEOUT)}
        try:
            response = await client.post(f"{self.url}/completions", json=body, **options)
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise _as_transient(error) from None
        status = response.status_code
        if status in TRANSIENT or status >= 500:
            reason, is_busy = f"{status}, {server_message(response)}", status in (429, 503)
            raise TransientFailure(reason, _retry_after(response), is_busy)
        if status in (401, 403):
            raise ModelError(f"{self.name} refuses access ({status}, {server_message(response)}); {_KEY_ADVICE}")
        if status != 200:
            return status, server_message(response)
        try:
            return status, response.json()
        except ValueError:
            raise TransientFailure("its answer is not JSON") from None

    def _read(
        self,
        answer: Any,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        tokenizer: PreTrainedTokenizerBase,
        ends: frozenset[int],
    ) -> list[Rollout | LostResponse]:
        try:
            return read_completions(answer, requests, tokenizer, ends, sampling.max_new_tokens)
        except MalformedAnswer as error:
            raise TransientFailure(str(error)) from None
        except ModelError as error:
            raise ModelError(f"{self.name}: {error}") from None


def read_models(response: httpx2.Response) -> dict[str, int | None]:
    """Return the names that `/v1/models` lists, each with its context; none when it lists nothing."""
    try:
        return {entry["id"]: entry.get("max_model_len") for entry in response.json()["data"]}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


# The gauges of vLLM and SGLang, one line for each copy of the model.
_WAITING = re.compile(r"^(?:vllm:num_requests_waiting|sglang:num_queue_reqs)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
_WORKING = re.compile(r"^(?:vllm:num_requests_running|sglang:num_running_reqs)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
_KEY_ADVICE = "put its key into the environment variable VLLM_API_KEY or OPENAI_API_KEY."


def _as_transient(error: Exception) -> TransientFailure:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, httpx2.TimeoutException):
        reason = "no connection in time" if isinstance(error, httpx2.ConnectTimeout) else "no answer in time"
    return TransientFailure(reason)


def server_message(response: httpx2.Response) -> str:
    """Find the server's own words in an error, on one line, shortened, without the key it may have echoed."""
    try:
        content = response.json()
    except ValueError:
        content = response.text
    while isinstance(content, dict):
        content = next((content[key] for key in ("error", "message", "detail") if key in content), "")
    words = " ".join(str(content).split()) or response.reason_phrase
    key = response.request.headers.get("Authorization", "").removeprefix("Bearer ")
    if key:
        words = words.replace(key, "***")
    return words if len(words) <= 200 else words[:197] + "..."


def _retry_after(response: httpx2.Response) -> float:
    """Seconds the server asks to wait, given as a number or a date."""
    value = response.headers.get("Retry-After", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time()
        except (TypeError, ValueError):
            return 0.0
    return min(max(seconds, 0.0), 3600.0)
