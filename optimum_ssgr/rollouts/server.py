"""The server engine: OpenAI-compatible endpoints, one or many, that share the requests and may fail."""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import httpx2
from transformers.utils import logging

from ..errors import ConfigError
from ..records import Rollout
from .completions import CONTEXT_SETTINGS
from .dispatch import NoServer, Run
from .endpoint import Endpoint, ModelRefused, TransientFailure, open_client
from .engine import NothingUsable, Request
from .pool import ServerPool
from .seeds import check_seeds


logger = logging.get_logger(__name__)


class ServerEngine(ServerPool):
    """Samples with servers that speak `/v1/completions`: vLLM, SGLang, `transformers serve`.

    A request that fails is tried again, on another endpoint if there is one. An endpoint that keeps failing is marked unhealthy
    and probed until it answers again. Responses that cannot be had as the exact token ids the model wrote are left out, counted
    and logged. It takes what `ServerPool` takes.
    """

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
                self.accept_only_model = True  # every endpoint was heard, and none knows the model
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
