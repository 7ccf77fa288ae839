"""The in-process engine: batched sampling with a KV cache, finished rows dropped and fresh ones refilled."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from ..compat import model_name
from ..config import SamplingConfig
from ..errors import ConfigError, ModelError
from ..records import Rollout
from ..tokens import rotary_switch
from .cache import PreallocatedKVLayer, cannot_batch, check_batchable
from .ends import end_token_ids
from .engine import Request
from .prompts import check_lengths


def check_scores(logits: torch.Tensor, model: PreTrainedModel) -> None:
    """Refuse scores that are no numbers: what is drawn from them means nothing, and never ends.

    Args:
        logits: Scores, float [rows, vocabulary].
        model: The model that gave them.

    Raises:
        ModelError: A row has NaN, infinity or nothing but minus infinity.
    """
    if not logits.amax(dim=-1).isfinite().all():  # minus infinity only rules a token out; NaN is above everything here
        raise ModelError(
            f"the scores of {model_name(model)} for the next token are not numbers (NaN or infinity); load it with another "
            "dtype, such as bfloat16 or float32, or check its weights."
        )


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
    probabilities, ids = (logits.float() / temperature).softmax(dim=-1), None
    if top_p < 1:
        probabilities, ids = _nucleus(probabilities, top_p)
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
    targets = uniforms[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, targets, right=True).clamp(max=probabilities.shape[-1] - 1)
    return (drawn if ids is None else ids.gather(1, drawn))[:, 0]


def _nucleus(probabilities: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Sort the most probable tokens that reach `top_p`, equals by id; the others have probability 0.

    Returns:
        Probabilities and token ids, [rows, candidates].
    """
    count, vocabulary = 4, probabilities.shape[-1]
    while True:
        # A few candidates nearly always do, and sorting a large vocabulary takes longer than a small model.
        count = min(16 * count, vocabulary)
        ids = probabilities.topk(count, sorted=False).indices.sort(dim=-1).values
        candidates, order = probabilities.gather(1, ids).sort(dim=-1, descending=True, stable=True)
        outside = candidates.cumsum(dim=-1, dtype=torch.float64) - candidates >= top_p
        # Which of the tokens as probable as the last candidate are candidates is chance, so they must all be outside.
        if count == vocabulary or (outside | (candidates > candidates[:, -1:])).all():
            return candidates.masked_fill(outside, 0), ids.gather(1, order)


@dataclass
class _Row:
    """A response in the making, and the random numbers that it is drawn with.

    They are the request's own, one for every token that may come, so that a response does not depend on the rows around it.
    They are drawn when the row first joins a batch.
    """

    request: Request
    uniforms: np.ndarray | None = None
    response: list[int] = field(default_factory=list)

    @property
    def ids(self) -> tuple[int, ...]:
        return (*self.request.prompt_ids, *self.response)

    @property
    def length(self) -> int:
        return len(self.request.prompt_ids) + len(self.response)


@dataclass
class _Batch:
    """Responses in the making: one row each in the cache and in the scores of the next token."""

    rows: list[_Row]
    cache: DynamicCache
    logits: torch.Tensor

    def compact(self, kept: list[int]) -> list[int]:
        """Drop all rows but those kept; the last ones move into the gaps.

        When row 1 of five ends, row 4 becomes row 1, and the cache of 0, 2 and 3 is not touched. Moving all rows up would copy
        that of 2 and 3 too.

        Returns:
            For every row the number it had before.
        """
        order = list(range(len(kept)))
        gaps = sorted(set(order).difference(kept))
        for gap, row in zip(gaps, (row for row in kept if row >= len(kept)), strict=True):
            order[gap] = row
        self.rows = [self.rows[row] for row in order]
        # The cache need be no wider than the longest row left. The token drawn last is not cached yet.
        width = max((row.length - 1 for row in self.rows), default=0)
        for layer in self.cache.layers:
            layer.compact(order, width)
        return order


@dataclass
class LocalEngine:
    """Samples with a transformers model in this process.

    Rows that end leave the batch at once; when a quarter of the rows is free, waiting requests are prefilled together and join.

    The cache takes, for each of `batch_size` rows, as many tokens as the longest row in the making has, and up to 256 more; a
    token takes 2 x layers x key-value heads x head size x bytes per number (57 kB in a Qwen2.5-7B of 16 bits: 30 GB for 64 rows
    of 8192 tokens). It grows with the rows; where long responses do not fit, take a smaller batch.

    Args:
        model: Causal language model in evaluation mode.
        sampling: How to sample.
        batch_size: Most responses in the making at a time.
        eos_token_ids: Tokens that end a response, see `end_token_ids`; those of the generation config alone when empty.
    """

    model: PreTrainedModel
    sampling: SamplingConfig
    batch_size: int = 64
    eos_token_ids: frozenset[int] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if not self.eos_token_ids:
            self.eos_token_ids = end_token_ids(self.model.generation_config, None, model_name(self.model))
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, not {self.batch_size}.")

    def check(self, requests: Iterable[Request]) -> None:
        """Refuse requests that do not fit the model's context, before any of them runs.

        Raises:
            ConfigError: A prompt and the longest response exceed the context.
            ModelError: The model keeps a state that cannot be batched.
        """
        check_batchable(self.model.config, type(self.model).__name__)
        check_lengths(self.model.config, (request.prompt_ids for request in requests), self.sampling.max_new_tokens)

    @torch.inference_mode()
    def generate(self, requests: Iterable[Request]) -> Iterator[Rollout]:
        """Yield one rollout per request, in the order they finish.

        Raises:
            ConfigError: A request does not fit the model's context.
            ModelError: The responses in the making take more memory than the GPU has, or the model's scores are no numbers;
                everything finished was yielded before.
        """
        ordered = sorted(requests, key=lambda request: (len(request.prompt_ids), request.problem_id, request.sample))
        self.check(ordered)
        # With LongRoPE, rows up to the switch run first; those that outgrow it begin anew with those beyond, as in `generate`.
        switch = rotary_switch(self.model.config) or math.inf
        queue = deque(_Row(request) for request in ordered if len(request.prompt_ids) <= switch)
        beyond = [_Row(request) for request in ordered if len(request.prompt_ids) > switch]
        try:
            yield from self._run(queue, switch, beyond)
            queue.extend(sorted(beyond, key=lambda row: row.length))
            beyond.clear()  # what has run is not kept
            yield from self._run(queue, math.inf, beyond)
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"{self.batch_size} responses at a time take more memory than the GPU has; free it of other programs and run "
                "the same command again, which goes on where there is a journal, or begin anew with fewer (--batch-size or "
                "batch_size)."
            ) from error

    def _run(self, queue: deque[_Row], switch: float, beyond: list[_Row]) -> Iterator[Rollout]:
        """Yield the rollouts of all rows but of those that outgrow a length, which are added to those beyond it."""
        batch: _Batch | None = None
        while queue or (batch and batch.rows):
            running = len(batch.rows) if batch else 0
            # A prefill holds all rows up, so it is put off until there is room for many prompts at once.
            if queue and running <= self.batch_size * 3 // 4:
                fresh = [queue.popleft() for _ in range(min(self.batch_size - running, len(queue)))]
                batch = self._join(batch, fresh)
            yield from self._step(batch, bool(queue), switch, beyond)

    def _join(self, batch: _Batch | None, rows: list[_Row]) -> _Batch:
        """Run the model on the prompts, and what was answered to them before, and append the rows to the batch."""
        # 1. Run each prompt once, however many samples of it are asked for: their rows pick the same row of the result. Prompts
        # are padded on the left, so that all of them end in the last column, as all rows of the batch do.
        prompts = {prompt: row for row, prompt in enumerate(dict.fromkeys(row.ids for row in rows))}
        picked = [prompts[row.ids] for row in rows]
        width = max(map(len, prompts))
        inputs = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            inputs[row, width - len(prompt) :] = torch.tensor(prompt)
        # Without a config every layer of the cache keeps all columns, sliding windows too: the mask alone limits what is seen.
        cache = DynamicCache()
        logits = self._forward(inputs, list(map(len, prompts)), cache)[picked]
        if any(type(layer) is not DynamicLayer for layer in cache.layers) or not cache.layers:
            raise cannot_batch(type(self.model).__name__)
        # 2. Copy what came out into the batch's own cache, which the first requests make: as many as there will ever be rows.
        if batch is None:
            batch = _Batch([], DynamicCache(), logits[:0])
            batch.cache.layers = [PreallocatedKVLayer(layer, max_rows=len(rows)) for layer in cache.layers]
        for row in rows:
            row.uniforms = self._draw_uniforms(row.request) if row.uniforms is None else row.uniforms
        batch.rows += rows
        batch.logits = torch.cat([batch.logits, logits])
        for own, fresh in zip(batch.cache.layers, cache.layers, strict=True):
            own.join(fresh, picked)
        return batch

    def _draw_uniforms(self, request: Request) -> np.ndarray:
        generator = torch.Generator().manual_seed(request.seed)
        return torch.rand(self.sampling.max_new_tokens, generator=generator, dtype=torch.float64).numpy()

    def _forward(self, inputs: torch.Tensor, lengths: list[int], cache: DynamicCache) -> torch.Tensor:
        """Score the next tokens, [rows, vocabulary], of rows of the given lengths whose last tokens are the inputs."""
        device = self.model.get_input_embeddings().weight.device
        width = max(lengths)
        # Rows end in the same column, so a short one begins further right. Positions count from its first token and are
        # negative left of it, where the cache holds padding or what another row left behind: the mask hides that.
        positions = torch.arange(width, device=device) - torch.tensor([[width - length] for length in lengths], device=device)
        output = self.model(
            inputs.to(device),
            attention_mask=(positions >= 0).long(),
            position_ids=positions[:, -inputs.shape[1] :].clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def _step(self, batch: _Batch, more_waiting: bool, switch: float, beyond: list[_Row]) -> Iterator[Rollout]:
        """Draw one token for every row, yield the rows that end with it, and run the model on the others.

        Where no more requests wait, the cache keeps no rows for them. Rows that outgrow the switch leave, too.
        """
        # 1. Draw. The scores are there: the step before, or the prefill, left them.
        check_scores(batch.logits, self.model)
        uniforms = torch.tensor([row.uniforms[len(row.response)] for row in batch.rows], device=batch.logits.device)
        tokens = sample_tokens(batch.logits, uniforms, self.sampling.temperature, self.sampling.top_p)
        # 2. Part finished rows from unfinished ones.
        unfinished = []
        for number, (row, token) in enumerate(zip(batch.rows, tokens.tolist(), strict=True)):
            row.response.append(token)
            finished = token in self.eos_token_ids
            if finished or len(row.response) == self.sampling.max_new_tokens:
                request = row.request
                yield Rollout(request.problem_id, request.sample, request.prompt_ids, tuple(row.response), finished)
            elif row.length > switch:
                beyond.append(row)
            else:
                unfinished.append(number)
        # 3. Close the gaps, so that the model does not run on rows that ended.
        if len(unfinished) < len(batch.rows):
            tokens = tokens[batch.compact(unfinished)]
        if not more_waiting:
            for layer in batch.cache.layers:
                layer.max_rows = len(unfinished)
        # 4. Score the next tokens.
        if unfinished:
            batch.logits = self._forward(tokens[:, None], [row.length for row in batch.rows], batch.cache)
        else:
            batch.logits = batch.logits[:0]
