"""Causal attention on processors that computes no score of a token with a later one."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from ..compat import attention_computed_by
from .statistics import bfloat16_products


# Queries that attend together to what the last of them sees: few enough to leave out most of the later tokens.
QUERIES = 64
# Scores that are in memory at a time, as many as caches hold.
SCORES = 2**20
# Shorter sequences have too few later tokens for this to pay.
LEAST_TOKENS = 2 * QUERIES


def use_short_attention() -> AbstractContextManager[None]:
    """Have transformers compute causal attention by products of matrices, where PyTorch's kernel is slow.

    On processors that kernel multiplies tiles too small for the speed that oneDNN and BLAS reach, and bfloat16 no faster than
    float32. Whatever is no plain causal attention (masks, sliding windows, gradients, other devices) it still computes.
    """
    return attention_computed_by("sdpa", _shorten)


def _shorten(kernel: Callable[..., tuple[torch.Tensor, None]]) -> Callable[..., tuple[torch.Tensor, None]]:
    def attend(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        **others: Any,
    ) -> tuple[torch.Tensor, None]:
        causal = attention_mask is None and (getattr(module, "is_causal", True) if is_causal is None else is_causal)
        plain = causal and not dropout and all(others.get(name) is None for name in ("position_bias", "cache", "softcap"))
        if plain and _pays(query, key, value):
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            return causal_attention(query, key, value, scale).transpose(1, 2), None
        return kernel(module, query, key, value, attention_mask, dropout, scaling, is_causal=is_causal, **others)

    return attend


def _pays(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    of_its_own = key.shape[::2] == value.shape[::2] == query.shape[::2] and query.dtype == key.dtype == value.dtype
    fast = query.device.type == "cpu" and query.dtype in (torch.float32, torch.bfloat16) and not torch.is_grad_enabled()
    return of_its_own and fast and query.shape[2] >= LEAST_TOKENS


def causal_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """Attend from every token to itself and those before it.

    Args:
        query: float32 or bfloat16 [sequences, heads, tokens, size].
        key: The same for as many heads, or for one that serves a group of them.
        value: As the key, of a size of its own.
        scale: Factor of the scores.

    Returns:
        Means of the values, in their dtype; [sequences, heads, tokens, size of a value]. Scores and sums are float32.
    """
    sequences, heads, tokens, _ = query.shape
    groups = key.shape[1]
    together = heads // groups
    output = value.new_empty(sequences, tokens, groups, together, value.shape[-1])
    by_group = output.permute(0, 2, 3, 1, 4)
    nothing = query.new_zeros(1, dtype=torch.float32)
    later = query.new_full((QUERIES, QUERIES), -torch.inf, dtype=torch.float32).triu(1)
    count = max(1, SCORES // (together * QUERIES * tokens))
    with bfloat16_products(query.dtype == torch.bfloat16):
        for sequence in range(sequences):
            for first in range(0, groups, count):
                part = slice(first, min(first + count, groups))
                queries = query[sequence].unflatten(0, (groups, together))[part].float()
                keys, values = (tensor[sequence, part].float().contiguous() for tensor in (key, value))
                for start in range(0, tokens, QUERIES):
                    end = min(start + QUERIES, tokens)
                    rows = queries[:, :, start:end].flatten(1, 2)
                    scores = torch.baddbmm(nothing, rows, keys[:, :end].mT, beta=0, alpha=scale)
                    scores = scores.unflatten(1, (together, end - start))
                    scores[..., start:] += later[: end - start, : end - start]
                    means = scores.softmax(-1).flatten(1, 2) @ values[:, :end]
                    by_group[sequence, part, :, start:end] = means.unflatten(1, (together, end - start))
    return output.flatten(2, 3).transpose(1, 2)
