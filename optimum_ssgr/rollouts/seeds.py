"""What a server makes of the seeds of requests, found out before the work: some die of them, some go by none."""

import asyncio
import dataclasses
from collections.abc import Sequence

import httpx2
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..config import SamplingConfig
from ..errors import ModelError
from ..records import Rollout
from .completions import LostResponse
from .endpoint import Endpoint, TransientFailure
from .engine import Request


logger = logging.get_logger(__name__)

COMPARED_TOKENS = 16
"""Tokens of the two responses that are drawn from one seed."""


async def check_seeds(
    client: httpx2.AsyncClient,
    endpoint: Endpoint,
    requests: Sequence[Request],
    sampling: SamplingConfig,
    tokenizer: PreTrainedTokenizerBase,
    ends: frozenset[int],
) -> None:
    """See whether a server survives requests with seeds, and whether one seed gives one response.

    As many prompts as it is going to have are sent at once, for one token each: vLLM 0.32 on a CPU dies when it reads a prompt
    in two steps whose request has a seed, which happens when they are many. What it reads is kept for the work.

    Args:
        client: HTTP client.
        endpoint: The server, which was probed.
        requests: What is going to be sampled.
        sampling: How to sample.
        tokenizer: The model's tokenizer.
        ends: Tokens that end a response.

    Raises:
        ModelError: It fails when requests carry seeds.
    """

    async def ask(request: Request, num_tokens: int) -> list[Rollout | LostResponse]:
        short = dataclasses.replace(sampling, max_new_tokens=num_tokens)
        return await endpoint.complete(client, (request,), short, tokenizer, ends)

    endpoint.knows_seeds = True
    prompts = list({request.prompt_ids: request for request in requests}.values())[: endpoint.concurrency]
    outcomes = await asyncio.gather(*(ask(request, 1) for request in prompts), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, ModelError):
            raise outcome
    try:
        first, second = [(await ask(prompts[0], COMPARED_TOKENS))[0] for _ in range(2)]
    except ModelError:  # so many tokens do not fit, say
        return
    except TransientFailure as failure:
        if failure.is_busy or not any(isinstance(outcome, TransientFailure) for outcome in outcomes):
            return
        raise ModelError(
            f"{endpoint.name} answers one request and fails when many carry seeds ({failure}); start it again and give "
            "--request-seeds off, or give it a larger --max-num-batched-tokens and --no-enable-chunked-prefill (vLLM)."
        ) from None
    if isinstance(first, Rollout) and isinstance(second, Rollout) and first.response_ids != second.response_ids:
        logger.warning(
            f"{endpoint.name} does not go by the seeds of requests, so that the same command will not give the same responses."
        )
