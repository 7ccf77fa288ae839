"""Magnitude pruning: the smallest weights go."""

import torch

from ..patterns import NofM, Pattern, lowest_overall, lowest_per_group


def magnitude(weight: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Prune the smallest absolute weights of a linear layer.

    Args:
        weight: float [out, in].
        pattern: Unstructured compares over the whole matrix, N:M within each group of a row.

    Returns:
        The pruned weights, float [out, in].
    """
    scores = weight.abs()
    if isinstance(pattern, NofM):
        return weight.masked_fill(lowest_per_group(scores, pattern), 0)
    return weight.masked_fill(lowest_overall(scores, pattern.sparsity), 0)
