"""One run of the server engine, inside its event loop: endpoints share the requests, fail and recover."""

import asyncio
import random
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import count
from queue import SimpleQueue

import httpx2
from transformers.utils import logging

from ..errors import ModelError
from ..records import Rollout
from .completions import GivenUp, LostResponse
from .endpoint import Endpoint, TransientFailure, open_client
from .engine import Request
from .pool import ServerPool


logger = logging.get_logger(__name__)

UNHEALTHY_AFTER = 3
"""Failures in a row after which an endpoint is left alone until a probe succeeds."""

TRIES = 8
"""A request is tried this often, and for as long as `give_up_after`, before it is given up."""

LOST_TO_STOP = 20
"""The run stops when this many responses, and more than half of all, were lost."""

LOOK_AGAIN = 0.5
"""Seconds between looks at whether a server has room for more."""

Job = tuple[Request, ...]
"""Requests that travel as one: samples of one prompt, or a single one."""


class NoServer(ModelError):
    """No server answers."""


class Run:
    """One call of `ServerEngine.generate`.

    Args:
        engine: The servers.
        requests: What to sample.
        results: Where rollouts go as they finish.
    """

    def __init__(self, engine: ServerPool, requests: Sequence[Request], results: "SimpleQueue[Rollout | None]") -> None:
        self.engine = engine
        self.waiting = deque(self._make_jobs(requests))
        self.example = requests[0]
        self.results = results
        self.answers = 0
        self.homes: dict[str, Endpoint] = {}  # where the prompt of a problem was read last
        self.changed = asyncio.Event()

    async def run(self) -> None:
        """Sample everything.

        Raises:
            NoServer: No server has answered for too long.
            ModelError: One refuses, or most responses are lost.
        """
        now = asyncio.get_running_loop().time()
        endpoints = self.engine.endpoints
        for endpoint in endpoints:
            endpoint.running, endpoint.failures, endpoint.paused_until = 0, 0, 0.0
            endpoint.unhealthy_since = now if endpoint.dialect is None else None
        async with open_client(self.engine.read_timeout) as client:
            work = asyncio.create_task(self._dispatch(client))
            probes = [asyncio.create_task(self._probe_until_healthy(client, endpoint)) for endpoint in endpoints]
            growing = [asyncio.create_task(self._grow(client, endpoint)) for endpoint in endpoints]
            try:
                done, _ = await asyncio.wait([work, *probes], return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in (work, *probes, *growing):
                    task.cancel()
                await asyncio.gather(work, *probes, *growing, return_exceptions=True)

    def _make_jobs(self, requests: Iterable[Request]) -> Iterable[Job]:
        """Let the samples of a prompt travel together where no seed tells them apart; servers draw greedy ones once only."""
        if self.engine.request_seeds or not self.engine.sampling.temperature:
            return [(request,) for request in requests]
        together: dict[tuple[int, ...], list[Request]] = {}
        for request in requests:
            together.setdefault(request.prompt_ids, []).append(request)
        return map(tuple, together.values())

    async def _dispatch(self, client: httpx2.AsyncClient) -> None:
        """Begin one job after the other as endpoints have room, until all have come to their end."""
        running: set[asyncio.Task[None]] = set()
        try:
            while self.waiting or running:
                most = sum(endpoint.concurrency for endpoint in self.engine.endpoints)
                while self.waiting and len(running) < most:
                    running.add(asyncio.create_task(self._finish(client, self.waiting.popleft())))
                done, running = await asyncio.wait(running, timeout=LOOK_AGAIN, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _finish(self, client: httpx2.AsyncClient, job: Job) -> None:
        """Take a job to its end; what a server left of it becomes jobs of their own."""
        try:
            outcomes = await self._sample(client, job)
        except LostResponse as error:
            outcomes = [error] * len(job)
        self.waiting.extendleft((request,) for request in job[len(outcomes) :])
        for request, outcome in zip(job, outcomes, strict=False):
            if isinstance(outcome, Rollout):
                self.results.put(outcome)
            else:
                self.engine.lost[request.problem_id, request.sample] = outcome
        self.answers += len(outcomes)
        lost = self.engine.lost
        if len(lost) >= LOST_TO_STOP and 2 * len(lost) > self.answers:
            raise ModelError(self.engine.describe_losses(self.answers))

    async def _sample(self, client: httpx2.AsyncClient, job: Job) -> list[Rollout | LostResponse]:
        """Try a job, wherever there is room, until it succeeds or is given up."""
        engine, loop = self.engine, asyncio.get_running_loop()
        failed, began = None, None
        for tries in count(1):
            endpoint = await self._acquire_slots(job, failed)
            try:
                outcomes = await endpoint.complete(
                    client, job, engine.sampling, engine.tokenizer, engine.ends, engine.request_seeds
                )
                endpoint.failures = 0
                return outcomes
            except TransientFailure as failure:
                self._record_failure(endpoint, failure)
            finally:
                endpoint.running -= len(job)
                self._notify()
            failed, began = endpoint, began or loop.time()
            if tries >= TRIES and loop.time() - began > engine.give_up_after:
                raise GivenUp(f"{endpoint.name} failed {tries} times ({endpoint.last_failure})")
            await asyncio.sleep(self._backoff_delay(tries - 1))

    async def _grow(self, client: httpx2.AsyncClient, endpoint: Endpoint) -> None:
        """Give an endpoint more to do as long as it keeps up with it."""
        while True:
            await asyncio.sleep(LOOK_AGAIN)
            is_full = endpoint.unhealthy_since is None and endpoint.running >= endpoint.concurrency
            if self.waiting and is_full and not await endpoint.grow(client):
                return  # it does not say how it is

    async def _acquire_slots(self, job: Job, avoid: Endpoint | None) -> Endpoint:
        """Wait for room at the least busy healthy endpoint, at another one than `avoid` if there is one.

        One that has read the problem's prompt is preferred, since servers keep what they read.
        """
        while True:
            now = asyncio.get_running_loop().time()
            healthy = [e for e in self.engine.endpoints if e.unhealthy_since is None and e.paused_until <= now]
            allowed = [endpoint for endpoint in healthy if endpoint is not avoid] or healthy
            free = [endpoint for endpoint in allowed if endpoint.running < endpoint.concurrency]
            if free:
                home = self.homes.get(job[0].problem_id)
                chosen = home if home in free else min(free, key=lambda endpoint: endpoint.running)
                self.homes[job[0].problem_id] = chosen
                chosen.running += len(job)
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
                self._check_deadline(loop.time(), tries + 1)
            endpoint.unhealthy_since, endpoint.failures = None, 0
            logger.warning(f"{endpoint.name} answers again.")
            self._notify()

    def _check_deadline(self, now: float, probes: int) -> None:
        since = [endpoint.unhealthy_since for endpoint in self.engine.endpoints]
        limit, most_probes = self.engine.give_up_after, self.engine.give_up_probes
        if None in since:
            return
        if now - max(since) > limit:  # the clock runs from when the last healthy one was lost
            raise NoServer(
                f"no server has answered for {limit:g} seconds ({self.engine.describe_failures()}); finished rollouts are "
                "kept, so start a server again and give the same command to go on."
            )
        if most_probes is not None and probes >= most_probes:
            raise NoServer(f"it failed {probes} probes in a row ({self.engine.describe_failures()}).")

    def _backoff_delay(self, failures: int) -> float:
        return min(self.engine.max_backoff, self.engine.backoff * 2 ** min(failures, 30)) * random.uniform(0.5, 1.0)

    def _notify(self) -> None:
        """Wake everything that waits for a slot, or for an endpoint to become unhealthy."""
        # Those who wait hold the old event, which stays set; whoever comes later waits for the next change.
        self.changed.set()
        self.changed = asyncio.Event()
