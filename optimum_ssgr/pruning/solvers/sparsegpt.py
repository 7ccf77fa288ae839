"""SparseGPT: one-shot pruning with weight updates (Frantar and Alistarh, arXiv 2301.00774)."""

from collections.abc import Sequence

import torch

from ..patterns import NofM, Pattern, Unstructured, kth_lowest, lowest_per_group, zero_pruned
from .finite import all_finite


# Columns between two choices of what to prune (unstructured), and columns whose errors are handed on one by one. A group of an
# N:M pattern straddles neither.
BLOCK = 128
STEP = 32
# Entries moved at a time.
PIECE = 2**18


def factorize(hessian: torch.Tensor, damping: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Factorize the inverse of the damped Hessian (section 3.3).

    With J the matrix that reverses the order, J H J = L Lᵀ gives H⁻¹ = Uᵀ U for U = J L⁻¹ J: one Cholesky factorization and one
    triangular inverse, in place of two factorizations and a full inverse.

    Args:
        hessian: H = 2/N * sum of x xᵀ, float [in, in].
        damping: Share of the mean diagonal added to the diagonal.

    Returns:
        The upper factor U, float [in, in], and the inputs that were never active, bool [in].

    Raises:
        torch.linalg.LinAlgError: The damped Hessian is not positive definite, or nearly not.
    """
    # This matrix can be the largest thing in memory. LAPACK works in place by columns, which the transposed one has contiguous.
    lower = hessian.flip(0, 1).mT
    diagonal = lower.diagonal()
    dead = (diagonal == 0).flip(0)
    diagonal[diagonal == 0] = 1
    diagonal += damping * diagonal.mean()
    torch.linalg.cholesky(lower, out=lower)
    _invert_lower(lower)
    _reverse(lower.mT.view(-1))
    factor = lower  # of which the rows and the columns are reversed now
    # Of a diagonal that overflowed the inverse is zero, by which every weight would seem to cost the same and be pruned.
    if not (all_finite(factor.mT) and (factor.diagonal() > 0).all()):
        raise torch.linalg.LinAlgError("the factor is not finite, or not positive on its diagonal.")
    return factor, dead


def _invert_lower(lower: torch.Tensor) -> None:
    """Invert a lower triangular matrix in place, some columns at a time from the right.

    Of [[C, 0], [B, T]] the inverse is [[C⁻¹, 0], [-T⁻¹ B C⁻¹, T⁻¹]]. Solving for whole columns instead would copy the matrix.
    """
    identity = torch.eye(BLOCK, dtype=lower.dtype, device=lower.device)
    for start in reversed(range(0, len(lower), BLOCK)):
        end = min(start + BLOCK, len(lower))
        corner, below = lower[start:end, start:end], lower[end:, start:end]
        corner.copy_(torch.linalg.solve_triangular(corner, identity[: end - start, : end - start], upper=False))
        below.copy_((lower[end:, end:] @ (below @ corner)).neg_())


def _reverse(entries: torch.Tensor) -> None:
    """Reverse a vector in place, some entries at a time from both ends."""
    count = len(entries)
    for start in range(0, count // 2, PIECE):
        end = min(start + PIECE, count // 2)
        front, back = entries[start:end], entries[count - end : count - start]
        last = back.flip(0)
        back.copy_(front.flip(0))
        front.copy_(last)


def sparsegpt(
    weights: Sequence[torch.Tensor], factor: torch.Tensor, dead: torch.Tensor, pattern: Pattern
) -> list[torch.Tensor]:
    """Prune column by column, each time moving the error onto the columns not yet visited (algorithm 1).

    Rows do not depend on each other, so linear layers that are fed the same input are swept together. The sweep works on the
    transposed weights, where a column is contiguous, and hands errors on lazily: at once within `STEP` columns, by one matrix
    product to the rest of the block, and by one to the blocks after it.

    Args:
        weights: Weights of the linear layers that share the input, float [out, in] each.
        factor: Upper factor U of the inverse Hessian, float [in, in].
        dead: Inputs that were never active, bool [in]; their weights become zero.
        pattern: Unstructured compares the scores W² / U_jj² within blocks of one layer's rows by 128 columns and prunes those
            up to and including the one at position int(numel * sparsity), so ties with it go too; N:M chooses group by group
            on the weights updated so far.

    Returns:
        The pruned and updated weights, in the factor's dtype, [out, in] each.
    """
    rows = [len(weight) for weight in weights]
    columns = torch.cat([weight.T.to(factor.dtype) for weight in weights], dim=1)
    columns[dead] = 0
    inverse = factor.diagonal().reciprocal().unsqueeze(1)
    width, step = (max(size // pattern.size, 1) * pattern.size if isinstance(pattern, NofM) else size for size in (BLOCK, STEP))
    for start in range(0, len(columns), width):
        end = min(start + width, len(columns))
        block, block_factor, block_inverse = columns[start:end], factor[start:end, start:end], inverse[start:end]
        pruned = _block_mask(block, block_inverse, rows, pattern)
        gains = pruned * block_inverse
        errors = torch.empty_like(block)
        for first in range(0, end - start, step):
            last = min(first + step, end - start)
            for j in range(first, last):
                if isinstance(pattern, NofM) and j % pattern.size == 0:
                    group = slice(j, j + pattern.size)
                    scores = (block[group] * block_inverse[group]).square_()
                    pruned[group] = lowest_per_group(scores.T, pattern).T
                    torch.mul(pruned[group], block_inverse[group], out=gains[group])
                torch.mul(block[j], gains[j], out=errors[j])
                block[j + 1 : last].addr_(block_factor[j, j + 1 : last], errors[j], alpha=-1)
            block[last:].addmm_(block_factor[first:last, last:].T, errors[first:last], alpha=-1)
        block.copy_(zero_pruned(block, pruned))
        columns[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return [part.T.contiguous() for part in columns.split(rows, dim=1)]


def _block_mask(block: torch.Tensor, inverse: torch.Tensor, rows: list[int], pattern: Pattern) -> torch.Tensor:
    """Choose what goes in a transposed block [columns, rows], each layer's rows by themselves; nothing yet for N:M."""
    pruned = torch.zeros_like(block, dtype=torch.bool)
    if isinstance(pattern, Unstructured) and pattern.sparsity > 0:
        for layer, mask in zip(block.split(rows, dim=1), pruned.split(rows, dim=1), strict=True):
            scores = (layer * inverse).square_()
            mask.copy_(scores <= kth_lowest(scores.flatten(), int(scores.numel() * pattern.sparsity)))
    return pruned
