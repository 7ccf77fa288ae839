"""Servers that are started here: one at a time, for as long as there is something to generate, and once more when it dies."""

import secrets
import socket
from collections.abc import Iterable, Iterator
from pathlib import PurePath

import httpx2
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..compat import model_name
from ..config import EngineConfig, SamplingConfig
from ..errors import ModelError
from ..records import Rollout
from .addresses import find_command
from .dispatch import NoServer
from .endpoint import CONNECT_TIMEOUT, api_key, read_models
from .engine import NothingUsable, Request
from .launch import gpu_memory, sequence_length, server_command
from .process import LAST_LINES, ServerProcess
from .server import ServerEngine


logger = logging.get_logger(__name__)

PROBES_TO_DEATH = 3
"""A server of our own that failed so many probes in a row is dead: it has no other user, and the machine is this one."""


class ManagedEngine:
    """Starts vLLM or SGLang on this machine when there is something to generate, and asks it as `ServerEngine` does.

    The server listens on loopback, under a model name that no other server has, so that only the one that was started with
    these weights is ever asked. When it dies it is started once more, for what is missing. `stop` it when done; it ends with
    this process, too, however that ends.

    Args:
        engine: Which server, and with which flags.
        model: The model; its weights are not needed.
        tokenizer: Its tokenizer.
        sampling: How to sample.
        eos_token_ids: Tokens that end a response, see `end_token_ids`.
        concurrency: See `ServerEngine`.
        trust_remote_code: Whether code from the checkpoint may run.

    Raises:
        ConfigError: The server is not installed.
    """

    def __init__(
        self,
        engine: EngineConfig,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        sampling: SamplingConfig,
        eos_token_ids: frozenset[int] = frozenset(),
        concurrency: int = 64,
        trust_remote_code: bool = False,
    ) -> None:
        self.engine = engine
        self.executable = find_command(engine)
        self.model = model
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.ends = eos_token_ids
        self.concurrency = concurrency
        self.trust_remote_code = trust_remote_code
        self._longest = 0
        self._length = 0  # of the longest sequence that the running server takes
        self._process: ServerProcess | None = None
        self._client: ServerEngine | None = None
        self._has_died = False

    def check(self, requests: Iterable[Request]) -> None:
        """Remember how long these requests are; nothing is started, since all may be answered already."""
        lengths = [len(request.prompt_ids) + self.sampling.max_new_tokens for request in requests]
        self._longest = max([self._longest, *lengths])

    def generate(self, requests: Iterable[Request]) -> Iterator[Rollout]:
        """Start the server, unless it runs, and return one rollout per request that was not lost, in the order they finish.

        Raises:
            ModelError: The server does not start, or has died twice; everything finished was yielded before.
        """
        requests = list(requests)
        self.check(requests)
        if requests and self._length < self._longest:
            self.stop()
            self._start()
        return self._generate(requests)

    def stop(self) -> None:
        """Stop the server, if it runs, and wait until its memory is free."""
        self._end(keep_log=False)

    def _end(self, keep_log: bool) -> None:
        process, self._process, self._client, self._length = self._process, None, None, 0
        if process is not None:
            process.stop(keep_log)

    def _generate(self, requests: list[Request]) -> Iterator[Rollout]:
        missing = {(request.problem_id, request.sample): request for request in requests}
        while missing:
            try:
                for rollout in self._client.generate(list(missing.values())):
                    del missing[rollout.problem_id, rollout.sample]
                    yield rollout
                return
            except NoServer as failure:
                self._start_again(failure)
            except NothingUsable:
                raise
            except ModelError as error:
                log, cause = self._process.log, self._process.cause()
                self._end(keep_log=True)
                raise ModelError(f"{error} The log of {self.engine.name}, {log}, says last: {cause}.") from None

    def _start(self) -> None:
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # what models that are gone have left reserved
        served = f"{PurePath(model_name(self.model)).name}-{secrets.token_hex(4)}"
        port, length = _free_port(), sequence_length(self.model, self._longest)
        command = server_command(
            self.engine, self.executable, self.model, served, port, length, gpu_memory(), self.trust_remote_code
        )
        logger.info(f"starting {' '.join(command)}")
        self._process = ServerProcess(self.engine.name, command)
        url = f"http://127.0.0.1:{port}/v1"
        key = api_key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            with httpx2.Client(headers=headers, timeout=CONNECT_TIMEOUT, trust_env=False) as client:
                self._process.wait_until(lambda: _serves(client, url, served))
        except ModelError:
            self._end(keep_log=True)
            raise
        self._length = length
        self._client = ServerEngine(
            [url],
            served,
            self.tokenizer,
            self.sampling,
            self.ends,
            self.concurrency,
            sole=False,
            request_seeds=self.engine.request_seeds,
            give_up_probes=PROBES_TO_DEATH,
        )

    def _start_again(self, failure: NoServer) -> None:
        process, name = self._process, self.engine.name
        ended = f"{name} answers nothing any more ({process.cause()})"
        lines = process.last_lines()
        self._end(keep_log=True)
        if self._has_died:
            raise ModelError(
                f"{ended}, for the second time; see its log, {process.log}. Finished rollouts are kept, so that the same "
                "command goes on."
            ) from failure
        self._has_died = True
        last = "\n".join(lines[-LAST_LINES:])
        logger.warning(f"{ended}; it is started again. Its log is {process.log}, whose last lines are:\n{last}")
        self._start()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def _serves(client: httpx2.Client, url: str, model: str) -> bool:
    """Tell whether a server answers that has a model of this name.

    Raises:
        ModelError: One answers that has not.
    """
    try:
        served = read_models(client.get(f"{url}/models"))
    except httpx2.HTTPError:
        return False
    if served and model not in served:
        raise ModelError(f"another server answers at {url}, with {', '.join(served)}; give the same command again.")
    return bool(served)
