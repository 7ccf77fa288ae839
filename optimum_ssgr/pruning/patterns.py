"""Sparsity patterns and the masks they make: the lowest scores are pruned, ties in column order."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Unstructured:
    """Any weights may go.

    Args:
        sparsity: Share of the weights to prune, in [0, 1).
    """

    sparsity: float


@dataclass(frozen=True)
class NofM:
    """Of every `size` consecutive weights of a row, `kept` stay.

    Args:
        kept: Weights kept in a group.
        size: Weights in a group.
    """

    kept: int
    size: int


Pattern = Unstructured | NofM


def lowest_overall(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Mark the int(numel * sparsity) lowest scores of a whole matrix.

    Args:
        scores: float [rows, columns].
        sparsity: Share to mark.

    Returns:
        bool [rows, columns], True where pruned.
    """
    order = scores.flatten().argsort(stable=True)[: int(scores.numel() * sparsity)]
    return torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device).index_fill_(0, order, True).view_as(scores)


def lowest_per_row(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Mark the int(columns * sparsity) lowest scores of every row.

    Args:
        scores: float [rows, columns].
        sparsity: Share to mark.

    Returns:
        bool [rows, columns], True where pruned.
    """
    order = scores.argsort(dim=-1, stable=True)[:, : int(scores.shape[-1] * sparsity)]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, True)


def lowest_per_group(scores: torch.Tensor, pattern: NofM) -> torch.Tensor:
    """Mark all but the `kept` highest scores of every group of `size` columns.

    Args:
        scores: float [rows, columns]; columns must be a multiple of `size`.
        pattern: The pattern.

    Returns:
        bool [rows, columns], True where pruned.
    """
    groups = scores.unflatten(-1, (-1, pattern.size))
    order = groups.argsort(dim=-1, stable=True)[..., : pattern.size - pattern.kept]
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order, True).flatten(-2)
