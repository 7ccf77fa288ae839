"""Sparsity patterns and the masks they make: the lowest scores are pruned, ties in column order."""

from dataclasses import dataclass

import numpy as np
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


def zero_pruned(weight: torch.Tensor, pruned: torch.Tensor) -> torch.Tensor:
    """Return weights with 0 where they are pruned, as `masked_fill` does, which branches at every entry.

    Products of the bits take a tenth of its time, and are never -0 as products of the numbers are.

    Args:
        weight: 2-D, of two, four or eight bytes a number.
        pruned: bool of the same shape.
    """
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.itemsize]
    return (weight.view(bits) * ~pruned).view(weight.dtype)


def kth_lowest(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Return the k-th lowest score of every row, counted from 0; [..., 1]."""
    if scores.device.type != "cpu" or scores.dtype != torch.float32:
        return scores.kthvalue(k + 1, dim=-1, keepdim=True).values
    # Ten times as fast as `kthvalue`; a NaN sorts last in both.
    return torch.from_numpy(np.partition(scores.numpy(), k)[..., k : k + 1].copy())


def lowest_places(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return where the lowest scores of every row are, in no order; int64 [rows, count]."""
    if scores.device.type != "cpu":
        return scores.topk(count, largest=False, sorted=False).indices
    # Three times as fast as `topk`.
    return torch.from_numpy(np.argpartition(scores.numpy(), count - 1)[..., :count].copy())


def lowest_overall(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Mark the int(numel * sparsity) lowest scores of a whole matrix.

    Args:
        scores: float [rows, columns].
        sparsity: Share to mark.

    Returns:
        bool [rows, columns], True where pruned.
    """
    return _lowest(scores.reshape(1, -1), int(scores.numel() * sparsity)).view_as(scores)


def lowest_per_row(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Mark the int(columns * sparsity) lowest scores of every row.

    Args:
        scores: float [rows, columns].
        sparsity: Share to mark.

    Returns:
        bool [rows, columns], True where pruned.
    """
    return _lowest(scores, int(scores.shape[-1] * sparsity))


def lowest_per_group(scores: torch.Tensor, pattern: NofM) -> torch.Tensor:
    """Mark all but the `kept` highest scores of every group of `size` columns.

    A score's rank in its group is counted by comparing it with the others, which needs no sorting: the first scores of all
    groups with the second ones, and so on, as those lie together in memory then.

    Args:
        scores: float [rows, columns]; columns must be a multiple of `size`.
        pattern: The pattern.

    Returns:
        bool [rows, columns], True where pruned.
    """
    places = scores.unflatten(-1, (-1, pattern.size)).movedim(-1, 0).contiguous()
    ranks = torch.zeros_like(places, dtype=torch.int16)
    for place in range(1, pattern.size):
        lower = places[:place] <= places[place]
        ranks[place] += lower.sum(0, dtype=ranks.dtype)
        ranks[:place] += ~lower
    return (ranks < pattern.size - pattern.kept).movedim(0, -1).flatten(-2)


def _lowest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Mark exactly `count` entries of every row: those below the count-th lowest, and the first of those that tie with it."""
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = kth_lowest(scores, count - 1)
    marked = scores <= threshold
    if bool((marked.sum(dim=-1) == count).all()):
        return marked
    below, ties = scores < threshold, scores == threshold
    missing = count - below.sum(dim=-1, keepdim=True)
    return below | (ties & (ties.cumsum(dim=-1) <= missing))
