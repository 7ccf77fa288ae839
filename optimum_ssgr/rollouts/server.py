"""The server engine: OpenAI-compatible endpoints, one or many, that share the requests and may fail."""

import asyncio
import copy
import random
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from queue import SimpleQueue

import httpx2
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..config import SamplingConfig
from ..errors import ConfigError, ModelError
from ..records import Rollout
from .completions import GivenUp, LostResponse
from .endpoint import Endpoint, ModelRefused, TransientFailure, open_client
from .ends import end_token_ids
from .engine import NothingUsable, Request


logger = logging.get_logger(__name__)

UNHEALTHY_AFTER = 3
"""Failures in a row after which an endpoint is left alone until a probe succeeds."""

TRIES = 8
"""A request is tried this often, and for as long as `give_up_after`, before it is given up."""

LOST_TO_STOP = 20
"""The run stops when this many responses, and more than half of all, were lost."""


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
        concurrency: Most requests to one endpoint at a time.
        give_up_after: Seconds without any working endpoint, or on a single request, before giving up.
        read_timeout: Seconds to wait for one response; by default ten minutes and a second for every token it may have.
        backoff: Seconds to wait after a first failure; doubled after every other, with jitter.
        max_backoff: Longest wait, in seconds.
        sole: Whether no other model is asked of these endpoints. Only then, and when none of them knows the model, is the
            only model of an endpoint taken for it.

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
        self._accept_only_model = False
        self.lost: dict[tuple[str, int], LostResponse] = {}

    def check(self, requests: Iterable[Request]) -> None:
        """Ask every endpoint what it can do, before anything is generated.

        Raises:
            ConfigError: A prompt and the longest response exceed what a server takes.
            ModelError: No endpoint answers, none has the model, or one refuses access or sees another prompt.
        """
        requests = list(requests)
        unknown = [endpoint for endpoint in self.endpoints if endpoint.dialect is None]
        if requests and unknown:
            with _background_loop() as loop:
                asyncio.run_coroutine_threadsafe(self._probe_all(unknown, requests[0]), loop).result()
        longest = max((len(request.prompt_ids) for request in requests), default=0)
        for endpoint in self.endpoints:
            if endpoint.context is not None and longest + self.sampling.max_new_tokens > endpoint.context:
                room = endpoint.context - longest
                advice = f"set max_new_tokens to {room} or less" if room > 0 else "remove that problem"
                raise ConfigError(
                    f"the longest prompt ({longest} tokens) and max_new_tokens ({self.sampling.max_new_tokens}) exceed the "
                    f"{endpoint.context} tokens that {endpoint.name} takes; {advice}, or start it with a longer context."
                )

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
            raise ModelError(f"no server answers ({self.describe_failures()}); start it, or check the address.")
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
            ModelError: No server answers, one refuses, or most responses are lost; everything finished was yielded before.
        """
        requests = list(requests)
        if not requests:
            return
        self.check(requests)
        self.lost.clear()
        results: SimpleQueue[Rollout | None] = SimpleQueue()
        with _background_loop() as loop:
            done = asyncio.run_coroutine_threadsafe(_Run(self, requests, results).run(), loop)
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


class _Run:
    """One call of `generate`, inside the event loop: workers share the requests, endpoints fail and recover."""

    def __init__(self, engine: ServerEngine, requests: list[Request], results: "SimpleQueue[Rollout | None]") -> None:
        self.engine = engine
        self.waiting = deque(requests)
        self.example = requests[0]
        self.results = results
        self.answers = 0
        self.changed = asyncio.Event()

    async def run(self) -> None:
        now = asyncio.get_running_loop().time()
        endpoints = self.engine.endpoints
        for endpoint in endpoints:
            endpoint.running, endpoint.failures, endpoint.paused_until = 0, 0, 0.0
            endpoint.unhealthy_since = now if endpoint.dialect is None else None
        num_workers = min(sum(endpoint.concurrency for endpoint in endpoints), len(self.waiting))
        async with open_client(self.engine.read_timeout) as client:
            workers = [asyncio.create_task(self._run_worker(client)) for _ in range(num_workers)]
            probes = [asyncio.create_task(self._probe_until_healthy(client, endpoint)) for endpoint in endpoints]
            work = asyncio.gather(*workers)
            try:
                done, _ = await asyncio.wait([work, *probes], return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in (*workers, *probes):
                    task.cancel()
                await asyncio.gather(work, *workers, *probes, return_exceptions=True)

    async def _run_worker(self, client: httpx2.AsyncClient) -> None:
        """Take one request after the other to its end."""
        while self.waiting:
            request = self.waiting.popleft()
            try:
                self.results.put(await self._sample(client, request))
            except LostResponse as error:
                self.engine.lost[request.problem_id, request.sample] = error
            self.answers += 1
            lost = self.engine.lost
            if len(lost) >= LOST_TO_STOP and 2 * len(lost) > self.answers:
                raise ModelError(self.engine.describe_losses(self.answers))

    async def _sample(self, client: httpx2.AsyncClient, request: Request) -> Rollout:
        """Try a request, wherever there is a free slot, until it succeeds or is given up."""
        engine, loop = self.engine, asyncio.get_running_loop()
        failed, began = None, None
        for tries in count(1):
            endpoint = await self._acquire_slot(failed)
            try:
                rollout = await endpoint.complete(client, request, engine.sampling, engine.tokenizer, engine.ends)
                endpoint.failures = 0
                return rollout
            except TransientFailure as failure:
                self._record_failure(endpoint, failure)
            finally:
                endpoint.running -= 1
                self._notify()
            failed, began = endpoint, began or loop.time()
            if tries >= TRIES and loop.time() - began > engine.give_up_after:
                raise GivenUp(f"{endpoint.name} failed {tries} times ({endpoint.last_failure})")
            await asyncio.sleep(self._backoff_delay(tries - 1))

    async def _acquire_slot(self, avoid: Endpoint | None) -> Endpoint:
        """Wait for a slot at the least busy healthy endpoint, at another one than `avoid` if there is one."""
        while True:
            now = asyncio.get_running_loop().time()
            healthy = [e for e in self.engine.endpoints if e.unhealthy_since is None and e.paused_until <= now]
            allowed = [endpoint for endpoint in healthy if endpoint is not avoid] or healthy
            free = [endpoint for endpoint in allowed if endpoint.running < endpoint.concurrency]
            if free:
                chosen = min(free, key=lambda endpoint: endpoint.running)
                chosen.running += 1
                return chosen
            await self.changed.wait()

    def _record_failure(self, endpoint: Endpoint, failure: TransientFailure) -> None:
        """Remember a failure; pause the endpoint if it asks for it, and mark it unhealthy if it keeps failing."""
        loop = asyncio.get_running_loop()
        endpoint.failures += 1
        endpoint.last_failure = str(failure)
        if failure.retry_after:
            endpoint.paused_until = max(endpoint.paused_until, loop.time() + failure.retry_after)
            loop.call_at(endpoint.paused_until, self._notify)
        if endpoint.failures >= UNHEALTHY_AFTER and endpoint.unhealthy_since is None:
            endpoint.unhealthy_since = loop.time()
            logger.warning(f"{endpoint.name} keeps failing ({endpoint.last_failure}); it is left alone until it answers again.")

    async def _probe_until_healthy(self, client: httpx2.AsyncClient, endpoint: Endpoint) -> None:
        """Probe an endpoint whenever it is unhealthy; stop the run when none has answered for too long."""
        loop = asyncio.get_running_loop()
        while True:
            while endpoint.unhealthy_since is None:
                await self.changed.wait()
            for tries in count():
                await asyncio.sleep(max(self._backoff_delay(tries), endpoint.paused_until - loop.time()))
                if await self.engine.probe(client, endpoint, self.example) is None:
                    break
                self._check_deadline(loop.time())
            endpoint.unhealthy_since, endpoint.failures = None, 0
            logger.warning(f"{endpoint.name} answers again.")
            self._notify()

    def _check_deadline(self, now: float) -> None:
        since = [endpoint.unhealthy_since for endpoint in self.engine.endpoints]
        limit = self.engine.give_up_after
        if None not in since and now - max(since) > limit:  # the clock runs from when the last healthy one was lost
            raise ModelError(
                f"no server has answered for {limit:g} seconds ({self.engine.describe_failures()}); finished rollouts are "
                "kept, so start a server again and give the same command to go on."
            )

    def _backoff_delay(self, failures: int) -> float:
        return min(self.engine.max_backoff, self.engine.backoff * 2 ** min(failures, 30)) * random.uniform(0.5, 1.0)

    def _notify(self) -> None:
        """Wake everything that waits for a slot, or for an endpoint to become unhealthy."""
        # Those who wait hold the old event, which stays set; whoever comes later waits for the next change.
        self.changed.set()
        self.changed = asyncio.Event()
