"""The server engine: OpenAI-compatible endpoints, one or many, that share the requests and may fail."""

import asyncio
import copy
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue

import httpx2
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..config import SamplingConfig
from ..errors import ConfigError
from ..records import Rollout
from .completions import CONTEXT_SETTINGS, LostResponse
from .dispatch import NoServer, Run
from .endpoint import Endpoint, ModelRefused, TransientFailure, open_client
from .ends import end_token_ids
from .engine import NothingUsable, Request
from .seeds import check_seeds


logger = logging.get_logger(__name__)


class ServerEngine:
    """Samples with servers that speak `/v1/completions`: vLLM, SGLang, `transformers serve`.

    A request that fails is tried again, on another endpoint if there is one. An endpoint that keeps failing is marked unhealthy
    and probed until it answers again. Responses that cannot be had as the exact token ids the model wrote are left out, counted
    and logged.

    Args:
        endpoints: Addresses such as `http://host:8000/v1`. The API key, if they need one, is read from the environment
            variable VLLM_API_KEY or OPENAI_API_KEY.
        model: Model id, which is the model's name on the servers; those that do not know it are left out.
        tokenizer: The model's tokenizer.
        sampling: How to sample. Servers draw from a request's seed as they can; the same seed need not give the same response
            when other requests run at the same time.
        eos_token_ids: Tokens that end a response, see `end_token_ids`; those of the tokenizer alone when empty.
        concurrency: Responses in the making at one endpoint at a time, to begin with; where an endpoint says that none of them
            waits (the metrics of vLLM and SGLang), there become more.
        give_up_after: Seconds without any working endpoint, or on a single request, before giving up.
        read_timeout: Seconds to wait for one response; by default ten minutes and a second for every token it may have.
        backoff: Seconds to wait after a first failure; doubled after every other, with jitter.
        max_backoff: Longest wait, in seconds.
        sole: Whether no other model is asked of these endpoints. Only then, and when none of them knows the model, is the
            only model of an endpoint taken for it.
        request_seeds: Whether every request carries its seed; without, the samples of a prompt travel together.
        give_up_probes: Failed probes in a row after which an only endpoint is given up before `give_up_after`.

    Attributes:
        lost: Why a response was left out, by problem id and number of the sample.

    Raises:
        ConfigError: There is no endpoint, an address is not one, or a number is out of range.
        ModelError: No token is known to end a response.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        model: str,
        tokenizer: PreTrainedTokenizerBase,
        sampling: SamplingConfig,
        eos_token_ids: frozenset[int] = frozenset(),
        concurrency: int = 64,
        give_up_after: float = 600.0,
        read_timeout: float | None = None,
        backoff: float = 0.5,
        max_backoff: float = 30.0,
        sole: bool = True,
        request_seeds: bool = True,
        give_up_probes: int | None = None,
    ) -> None:
        if not endpoints:
            raise ConfigError("the server engine needs at least one address such as http://host:8000/v1.")
        if concurrency < 1:
            raise ConfigError(f"concurrency must be at least 1, not {concurrency}.")
        self.endpoints = [Endpoint(url, concurrency) for url in dict.fromkeys(endpoints)]
        self.model = model
        self.tokenizer = copy.deepcopy(tokenizer)  # used by a thread of its own, and fast tokenizers must not be shared
        self.sampling = sampling
        self.ends = eos_token_ids or end_token_ids(None, tokenizer, model)
        self.give_up_after = give_up_after
        self.read_timeout = 600.0 + sampling.max_new_tokens if read_timeout is None else read_timeout
        self.backoff = backoff
        self.max_backoff = max_backoff
        self.sole = sole
        self.request_seeds = request_seeds
        self.give_up_probes = give_up_probes
        self._accept_only_model = False
        self.lost: dict[tuple[str, int], LostResponse] = {}

    def check(self, requests: Iterable[Request]) -> None:
        """Ask every endpoint what it can do, before anything is generated.

        Raises:
            ConfigError: A prompt and the longest response exceed what a server takes.
            ModelError: No endpoint answers, none has the model, or one refuses access, sees another prompt or dies of seeds.
        """
        requests = list(requests)
        if not requests:
            return
        unknown = [endpoint for endpoint in self.endpoints if endpoint.dialect is None]
        by_length = sorted(requests, key=lambda request: len(request.prompt_ids))
        if unknown:
            with _background_loop() as loop:  # with the longest, since some servers cut what is too long for them
                asyncio.run_coroutine_threadsafe(self._probe_all(unknown, by_length[-1]), loop).result()
        longest = len(by_length[-1].prompt_ids)
        for endpoint in self.endpoints:
            if endpoint.context is not None and longest + self.sampling.max_new_tokens > endpoint.context:
                room = endpoint.context - longest
                advice = f"set max_new_tokens to {room} or less" if room > 0 else "remove that problem"
                raise ConfigError(
                    f"the longest prompt ({longest} tokens) and max_new_tokens ({self.sampling.max_new_tokens}) exceed the "
                    f"{endpoint.context} tokens that {endpoint.name} takes; {advice}, or start it with a longer context "
                    f"({CONTEXT_SETTINGS})."
                )
        fresh = [endpoint for endpoint in self.endpoints if endpoint.dialect is not None and not endpoint.knows_seeds]
        if fresh and self.request_seeds and self.sampling.temperature:
            with _background_loop() as loop:
                asyncio.run_coroutine_threadsafe(self._check_seeds(fresh, requests), loop).result()

    async def _check_seeds(self, endpoints: list[Endpoint], requests: list[Request]) -> None:
        async with open_client(self.read_timeout) as client:
            for endpoint in endpoints:
                await check_seeds(client, endpoint, requests, self.sampling, self.tokenizer, self.ends)

    async def _probe_all(self, endpoints: list[Endpoint], request: Request) -> None:
        earlier = [endpoint.last_failure for endpoint in endpoints]
        async with open_client(self.read_timeout) as client:
            failures = await self._probe_each(client, endpoints, request)
            if self.sole and len(failures) == len(self.endpoints) and all(isinstance(f, ModelRefused) for f in failures):
                self._accept_only_model = True  # every endpoint was heard, and none knows the model
                failures = await self._probe_each(client, endpoints, request)
        if all(endpoint.dialect is None for endpoint in self.endpoints):
            for failure in failures:
                if isinstance(failure, ModelRefused):
                    raise failure
            raise NoServer(f"no server answers ({self.describe_failures()}); start it, or check the address.")
        for endpoint, known in zip(endpoints, earlier, strict=True):
            if endpoint.dialect is None and endpoint.last_failure != known:
                logger.warning(f"{endpoint.name} cannot be used ({endpoint.last_failure}); the others go on without it.")

    async def _probe_each(
        self, client: httpx2.AsyncClient, endpoints: list[Endpoint], request: Request
    ) -> list[TransientFailure | ModelRefused]:
        """Probe endpoints at the same time; return what went wrong."""
        failures = await asyncio.gather(*(self.probe(client, endpoint, request) for endpoint in endpoints))
        return [failure for failure in failures if failure]

    async def probe(
        self, client: httpx2.AsyncClient, endpoint: Endpoint, request: Request
    ) -> TransientFailure | ModelRefused | None:
        """Ask an endpoint what it can do; return why it cannot be used for now, or None when it can."""
        try:
            await endpoint.probe(
                client,
                self.model,
                request,
                self.sampling,
                self.tokenizer,
                self.ends,
                self.give_up_after,
                accept_only_model=self._accept_only_model,
                seeded=self.request_seeds,
            )
        except (TransientFailure, ModelRefused) as failure:
            endpoint.last_failure = str(failure).removeprefix(f"{endpoint.name} ").rstrip(".")
            return failure
        return None

    def describe_failures(self) -> str:
        """Name every endpoint with what went wrong there last."""
        return "; ".join(f"{endpoint.name}: {endpoint.last_failure}" for endpoint in self.endpoints)

    def generate(self, requests: Iterable[Request]) -> Iterator[Rollout]:
        """Yield one rollout per request that was not lost, in the order they finish.

        Closing the iterator cancels what still runs.

        Raises:
            ConfigError: A request does not fit what a server takes.
            NothingUsable: Every response was lost.
            NoServer: No server answers; everything finished was yielded before, as where it is a `ModelError`.
            ModelError: One refuses, or most responses are lost; everything finished was yielded before.
        """
        requests = list(requests)
        if not requests:
            return
        self.check(requests)
        self.lost.clear()
        results: SimpleQueue[Rollout | None] = SimpleQueue()
        with _background_loop() as loop:
            done = asyncio.run_coroutine_threadsafe(Run(self, requests, results).run(), loop)
            done.add_done_callback(lambda _: results.put(None))
            while (rollout := results.get()) is not None:
                yield rollout
            done.result()
        if len(self.lost) == len(requests):
            raise NothingUsable(self.describe_losses(len(requests)))
        if self.lost:
            reason = next(iter(self.lost.values()))
            logger.warning(f"{len(self.lost)} of {len(requests)} responses were left out, for example because {reason}.")

    def describe_losses(self, answers: int) -> str:
        """Say that responses were lost, of so many, why, and what to do about it."""
        last = next(reversed(self.lost.values()))
        return f"{len(self.lost)} of the first {answers} responses could not be used, the last because {last}; {last.advice}"


@contextmanager
def _background_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop in a thread; at the end, cancel what still runs there and wait for it."""

    async def cancel_everything() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await loop.shutdown_default_executor()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="server-engine", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(cancel_everything(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
