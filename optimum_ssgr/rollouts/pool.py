"""Servers and how they are asked: what the server engine and each of its runs share."""

import copy
from collections.abc import Sequence

import httpx2
from transformers import PreTrainedTokenizerBase

from ..config import SamplingConfig
from ..errors import ConfigError
from .completions import LostResponse
from .endpoint import Endpoint, ModelRefused, TransientFailure
from .ends import end_token_ids
from .engine import Request


class ServerPool:
    """Endpoints that share requests, and how these are asked.

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
        self.accept_only_model = False
        self.lost: dict[tuple[str, int], LostResponse] = {}

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
                accept_only_model=self.accept_only_model,
            )
        except (TransientFailure, ModelRefused) as failure:
            endpoint.last_failure = str(failure).removeprefix(f"{endpoint.name} ").rstrip(".")
            return failure
        return None

    def describe_failures(self) -> str:
        """Name every endpoint with what went wrong there last."""
        return "; ".join(f"{endpoint.name}: {endpoint.last_failure}" for endpoint in self.endpoints)

    def describe_losses(self, answers: int) -> str:
        """Say that responses were lost, of so many, why, and what to do about it."""
        last = next(reversed(self.lost.values()))
        return f"{len(self.lost)} of the first {answers} responses could not be used, the last because {last}; {last.advice}"
