"""The in-process engine: batched sampling with a KV cache, finished rows dropped and fresh ones refilled."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from ..config import SamplingConfig
from ..errors import ConfigError, ModelError
from ..records import Rollout
from .engine import Request


def sample_tokens(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Draw one token a row by inverting the cumulative distribution at a given uniform number.

    Args:
        logits: Scores, float [rows, vocabulary].
        uniforms: Numbers in [0, 1), float64 [rows].
        temperature: Softmax temperature; 0 means greedy.
        top_p: Probability mass kept (nucleus sampling, arXiv 1904.09751).

    Returns:
        Token ids, int64 [rows].
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = (logits.float() / temperature).softmax(dim=-1).double()
    order = None
    if top_p < 1:
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0)
    cumulative = probabilities.cumsum(dim=-1)
    targets = uniforms[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, targets, right=True).clamp(max=logits.shape[-1] - 1)
    return (drawn if order is None else order.gather(1, drawn))[:, 0]


@dataclass
class _Batch:
    """Responses in the making: one row each in every field; `mask` is [rows, cached columns], left-padded."""

    requests: list[Request]
    responses: list[list[int]]
    uniforms: torch.Tensor
    mask: torch.Tensor
    cache: DynamicCache
    logits: torch.Tensor

    def select(self, rows: list[int]) -> None:
        """Keep the given rows only, and drop the columns that are padding in all of them."""
        index = torch.tensor(rows, dtype=torch.long, device=self.mask.device)
        self.requests = [self.requests[row] for row in rows]
        self.responses = [self.responses[row] for row in rows]
        self.uniforms, self.mask, self.logits = self.uniforms[index], self.mask[index], self.logits[index]
        padding = int(self.mask.argmax(dim=1).min()) if rows else 0
        self.mask = self.mask[:, padding:]
        for layer in self.cache.layers:
            layer.keys = layer.keys[index, :, padding:]
            layer.values = layer.values[index, :, padding:]

    def join(self, other: "_Batch") -> None:
        """Append the rows of another batch, padding the shorter of the two on the left."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        self.requests += other.requests
        self.responses += other.responses
        self.uniforms = torch.cat([self.uniforms, other.uniforms])
        self.logits = torch.cat([self.logits, other.logits])
        self.mask = torch.cat([_pad_left(batch.mask, width, dim=1) for batch in (self, other)])
        for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            mine.keys = torch.cat([_pad_left(keys, width, dim=2) for keys in (mine.keys, theirs.keys)])
            mine.values = torch.cat([_pad_left(values, width, dim=2) for values in (mine.values, theirs.values)])


def _pad_left(tensor: torch.Tensor, width: int, dim: int) -> torch.Tensor:
    shape = list(tensor.shape)
    shape[dim] = width - shape[dim]
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim) if shape[dim] else tensor


@dataclass
class LocalEngine:
    """Samples with a transformers model in this process.

    Rows that end leave the batch at once; when a quarter of the places is free, waiting requests are prefilled together and
    join.

    Args:
        model: Causal language model in evaluation mode.
        sampling: How to sample.
        batch_size: Most responses in the making at a time.
        eos_token_ids: Tokens that end a response; taken from the generation config when empty.
    """

    model: PreTrainedModel
    sampling: SamplingConfig
    batch_size: int = 64
    eos_token_ids: frozenset[int] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if not self.eos_token_ids:
            eos = self.model.generation_config.eos_token_id
            if eos is None:
                raise ModelError("the model's generation config names no end-of-sequence token, so no response would end.")
            self.eos_token_ids = frozenset(eos if isinstance(eos, list) else [eos])
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, not {self.batch_size}.")

    def check(self, requests: Iterable[Request]) -> None:
        """Refuse requests that do not fit the model's context, before any of them runs.

        Raises:
            ConfigError: A prompt and the longest response exceed the context.
        """
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        longest = max((len(request.prompt_ids) for request in requests), default=0)
        if context is not None and longest >= context:
            raise ConfigError(
                f"the longest prompt has {longest} tokens but the model's context holds {context}; remove that problem."
            )
        if context is not None and longest + self.sampling.max_new_tokens > context:
            raise ConfigError(
                f"the longest prompt ({longest} tokens) and max_new_tokens ({self.sampling.max_new_tokens}) exceed the "
                f"model's context of {context} tokens; set max_new_tokens to {context - longest} or less."
            )

    @torch.inference_mode()
    def generate(self, requests: Iterable[Request]) -> Iterator[Rollout]:
        """Yield one rollout per request, in the order they finish.

        Raises:
            ConfigError: A request does not fit the model's context.
        """
        queue = deque(sorted(requests, key=lambda request: (len(request.prompt_ids), request.problem_id, request.sample)))
        self.check(queue)
        batch: _Batch | None = None
        while queue or (batch and batch.requests):
            running = len(batch.requests) if batch else 0
            if queue and running <= self.batch_size * 3 // 4:
                fresh = self._prefill([queue.popleft() for _ in range(min(self.batch_size - running, len(queue)))])
                if running:
                    batch.join(fresh)
                else:
                    batch = fresh
            yield from self._step(batch)

    def _prefill(self, requests: list[Request]) -> _Batch:
        width = max(len(request.prompt_ids) for request in requests)
        device = self.model.get_input_embeddings().weight.device
        inputs = torch.zeros(len(requests), width, dtype=torch.long)
        mask = torch.zeros(len(requests), width, dtype=torch.long)
        uniforms = torch.empty(len(requests), self.sampling.max_new_tokens, dtype=torch.float64)
        for row, request in enumerate(requests):
            inputs[row, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
            mask[row, width - len(request.prompt_ids) :] = 1
            generator = torch.Generator().manual_seed(request.seed)
            uniforms[row] = torch.rand(self.sampling.max_new_tokens, generator=generator, dtype=torch.float64)
        # Without a config every layer of the cache keeps all columns, sliding windows too: the mask alone limits what is seen.
        cache = DynamicCache()
        mask = mask.to(device)
        logits = self._forward(inputs.to(device), mask, cache)
        if any(type(layer) is not DynamicLayer for layer in cache.layers) or not cache.layers:
            raise ModelError(
                f"{type(self.model).__name__} keeps a state that the in-process engine cannot batch; "
                "generate with a server instead (--engine http://host:port/v1)."
            )
        return _Batch(list(requests), [[] for _ in requests], uniforms.to(device), mask, cache, logits)

    def _forward(self, inputs: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -inputs.shape[1] :]
        output = self.model(
            inputs, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        return output.logits[:, -1]

    def _step(self, batch: _Batch) -> Iterator[Rollout]:
        """Draw one token for every row, hand out the rows that end with it, and run the model on the others."""
        written = torch.tensor([len(response) for response in batch.responses], device=batch.uniforms.device)
        uniforms = batch.uniforms.gather(1, written[:, None])[:, 0]
        tokens = sample_tokens(batch.logits, uniforms, self.sampling.temperature, self.sampling.top_p)
        going = []
        for row, token in enumerate(tokens.tolist()):
            response, request = batch.responses[row], batch.requests[row]
            response.append(token)
            finished = token in self.eos_token_ids
            if finished or len(response) == self.sampling.max_new_tokens:
                yield Rollout(request.problem_id, request.sample, request.prompt_ids, tuple(response), finished)
            else:
                going.append(row)
        if len(going) < len(batch.requests):
            batch.select(going)
            tokens = tokens[torch.tensor(going, dtype=torch.long, device=tokens.device)]
        if going:
            batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(going), 1)], dim=1)
            batch.logits = self._forward(tokens[:, None], batch.mask, batch.cache)
