"""Wanda: pruning by weights and activations (Sun et al., arXiv 2306.11695)."""

import torch

from ..patterns import NofM, Pattern, lowest_per_group, lowest_per_row, zero_pruned


def wanda(weight: torch.Tensor, squared_norms: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Prune the weights with the lowest |W_ij| * ||x_j|| within each output row (section 3, equation 1).

    Args:
        weight: float [out, in].
        squared_norms: Sum over calibration tokens of each input's square, float [in]; a common factor does not matter.
        pattern: Unstructured or N:M.

    Returns:
        The pruned weights, float [out, in].
    """
    scores = weight.abs() * squared_norms.sqrt()
    if isinstance(pattern, NofM):
        return zero_pruned(weight, lowest_per_group(scores, pattern))
    return zero_pruned(weight, lowest_per_row(scores, pattern.sparsity))
