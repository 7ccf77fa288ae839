"""How likely a model finds responses that are already written: their negative log-likelihood, in one forward pass."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from .tokens import check_context, rotary_switch


BATCH_TOKENS = 16384
"""Tokens run together, padding included."""
SCORES = 2**27
"""Scores of the next token in memory at a time, half a GB in float32; a long trace over a large vocabulary has far more."""


@torch.inference_mode()
def response_nll(
    model: PreTrainedModel,
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
    batch_tokens: int = BATCH_TOKENS,
    desc: str | None = None,
) -> list[float]:
    """Return the negative log-likelihood that a model gives to responses, each after its prompt.

    Args:
        model: Causal language model; it is put into evaluation mode.
        sequences: Token ids of prompt and response. Without a prompt, the first token of the response is only context.
        batch_tokens: Tokens run together, padding included; a longer sequence runs alone.
        desc: What to call it beside a progress bar; None for no bar.

    Returns:
        Nats, summed over the tokens of a response; in the order of the sequences.

    Raises:
        ConfigError: A sequence is longer than the model's context.
    """
    check_context(model.config, max((len(prompt) + len(response) for prompt, response in sequences), default=0), "a trace")
    model.eval()
    found = [0.0] * len(sequences)
    with tqdm(total=len(sequences), desc=desc, unit="trace", disable=desc is None) as progress:
        for numbers in batch_by_length(sequences, batch_tokens, rotary_switch(model.config)):
            for number, nats in zip(numbers, score_batch(model, [sequences[number] for number in numbers]), strict=True):
                found[number] = nats
            progress.update(len(numbers))
    return found


def format_rise(row: Mapping[str, Any], sign: str = "+-") -> str:
    """Write the rise of the negative log-likelihood, in nats per token, with its standard error.

    Args:
        row: What `evaluation.traces.summarize_nll` returns, or more.
        sign: What stands before the error.
    """
    rise, error = row["trace_nll_rise"], row["trace_nll_rise_se"]
    return f"{rise:+.3f}" if error is None or math.isnan(error) else f"{rise:+.3f} {sign} {error:.3f}"


def batch_by_length(
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]], most: int, switch: int | None
) -> Iterator[list[int]]:
    """Yield the numbers of sequences to run together: those of like length, the longest first.

    Args:
        sequences: Token ids of prompt and response.
        most: Tokens run together, padding included; a longer sequence runs alone.
        switch: A length that no batch has shorter and longer sequences than; see `tokens.rotary_switch`.
    """
    lengths = [len(prompt) + len(response) for prompt, response in sequences]
    batch: list[int] = []
    for number in sorted(range(len(sequences)), key=lambda number: -lengths[number]):
        switches = batch and switch is not None and lengths[number] <= switch < lengths[batch[0]]
        if batch and (switches or (len(batch) + 1) * lengths[batch[0]] > most):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def score_batch(model: PreTrainedModel, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
    """Return the negative log-likelihood of the responses of one batch, in nats.

    It is padded on the right, where no token sees the padding or counts it in its position.
    """
    device = model.get_input_embeddings().weight.device
    rows = [torch.tensor([*prompt, *response]) for prompt, response in sequences]
    ids = pad_sequence(rows, batch_first=True).to(device)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(device)
    decoder = model.get_decoder()
    body = decoder(ids, attention_mask=mask, use_cache=False)
    # What the head makes of all tokens at once would fill the memory, so it gets those of the responses, some at a time. Every
    # token is predicted at the place before it.
    starts = [max(len(prompt), 1) for prompt, _ in sequences]
    targets = [row[start:] for row, start in zip(rows, starts, strict=True)]
    ends = [(start - 1, len(row) - 1) for row, start in zip(rows, starts, strict=True)]
    states = torch.cat([of_row[slice(*span)] for of_row, span in zip(body.last_hidden_state, ends, strict=True)])
    count = max(1, SCORES // model.config.get_text_config().vocab_size)
    losses = []
    for chunk, wanted in zip(states.split(count), torch.cat(targets).split(count), strict=True):
        with _standing_in(decoder, replace(body, last_hidden_state=chunk[None])):
            scores = model(ids, attention_mask=mask, use_cache=False).logits[0].float()
        losses.append(cross_entropy(scores, wanted.to(scores.device), reduction="none").double().cpu())
    return [of_row.sum().item() for of_row in torch.cat(losses).split([len(target) for target in targets])]


@contextmanager
def _standing_in(module: nn.Module, output: Any) -> Iterator[None]:
    """Have a module return an output without running, so that the model around it does only what comes after it.

    What that is differs: a head of its own or the embedding, then scores that are scaled or capped.
    """
    own = vars(module).get("forward")  # where accelerate has put one in the place of the class's
    module.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own
