"""Magnitude pruning: the smallest weights go."""

import torch

from ..patterns import NofM, Pattern, lowest_overall, lowest_per_group, zero_pruned


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
        return zero_pruned(weight, lowest_per_group(scores, pattern))
    return zero_pruned(weight, lowest_overall(scores, pattern.sparsity))
