"""SparseGPT: one-shot pruning with weight updates (Frantar and Alistarh, arXiv 2301.00774)."""

import torch

from ..patterns import NofM, Pattern, lowest_per_group


BLOCK = 128


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
        torch.linalg.LinAlgError: The damped Hessian is not positive definite.
    """
    hessian = hessian.clone()
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    diagonal[dead] = 1
    diagonal += damping * diagonal.mean()
    lower = torch.linalg.cholesky(hessian.flip(0, 1))
    identity = torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    return torch.linalg.solve_triangular(lower, identity, upper=False).flip(0, 1).contiguous(), dead


def sparsegpt(weight: torch.Tensor, factor: torch.Tensor, dead: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Prune column by column, each time moving the error onto the columns not yet visited (algorithm 1).

    Args:
        weight: float [out, in].
        factor: Upper factor U of the inverse Hessian, float [in, in].
        dead: Inputs that were never active, bool [in]; their weights become zero.
        pattern: Unstructured compares the scores W² / U_jj² within blocks of all rows by 128 columns and prunes those up to
            and including the one at position int(numel * sparsity), so ties with it go too; N:M chooses group by group on
            the weights updated so far.

    Returns:
        The pruned and updated weights, in the factor's dtype, [out, in].
    """
    weight = weight.to(factor.dtype, copy=True)
    weight[:, dead] = 0
    columns = weight.shape[1]
    # A group must not straddle two blocks.
    width = max(BLOCK // pattern.size, 1) * pattern.size if isinstance(pattern, NofM) else BLOCK
    for start in range(0, columns, width):
        end = min(start + width, columns)
        block, block_factor = weight[:, start:end].clone(), factor[start:end, start:end]
        pruned = _block_mask(block, block_factor, pattern)
        errors = torch.empty_like(block)
        for j in range(end - start):
            if isinstance(pattern, NofM) and j % pattern.size == 0:
                group = slice(j, j + pattern.size)
                pruned[:, group] = lowest_per_group(_scores(block[:, group], block_factor[group, group]), pattern)
            kept = block[:, j].masked_fill(pruned[:, j], 0)
            errors[:, j] = (block[:, j] - kept) / block_factor[j, j]
            block[:, j:].addr_(errors[:, j], block_factor[j, j:], alpha=-1)
        weight[:, start:end] = block.masked_fill(pruned, 0)
        weight[:, end:] -= errors @ factor[start:end, end:]
    return weight


def _scores(block: torch.Tensor, block_factor: torch.Tensor) -> torch.Tensor:
    return block.square() / block_factor.diagonal().square()


def _block_mask(block: torch.Tensor, block_factor: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    if isinstance(pattern, NofM) or pattern.sparsity == 0:
        return torch.zeros_like(block, dtype=torch.bool)
    scores = _scores(block, block_factor)
    return scores <= scores.flatten().sort().values[int(scores.numel() * pattern.sparsity)]
