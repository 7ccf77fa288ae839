"""ALPS: pruning by ADMM, then conjugate gradients on the support found (Meng et al., arXiv 2406.07831)."""

from dataclasses import dataclass

import torch

from ..patterns import NofM, Pattern, lowest_overall, lowest_per_group, zero_pruned
from .conjugate import refit, rescale


ITERATIONS = 300
# The penalty starts here and grows every few iterations, faster while much of the support still changes (section 3.2).
PENALTY = 0.1
EVERY = 3
GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))


@dataclass(frozen=True)
class Spectrum:
    """The rescaled Hessian of an input and its eigenvectors, shared by all linear layers with that input.

    Args:
        hessian: Damped Hessian with unit diagonal, float [in, in].
        scale: Square roots of the diagonal it had, float [in].
        dead: Inputs that were never active, bool [in].
        vectors: Eigenvectors in columns, float [in, in].
        values: Eigenvalues, float [in].
    """

    hessian: torch.Tensor
    scale: torch.Tensor
    dead: torch.Tensor
    vectors: torch.Tensor
    values: torch.Tensor


def decompose(hessian: torch.Tensor, damping: float) -> Spectrum:
    """Damp, rescale to unit diagonal and decompose a Hessian, once and in float64 (section 3.2 and appendix).

    Args:
        hessian: A multiple of the sum of x xᵀ, float [in, in]; the multiple does not matter.
        damping: Share of the mean diagonal added to the diagonal.

    Raises:
        torch.linalg.LinAlgError: The damped Hessian is not positive definite.
    """
    exact, scale, dead = rescale(hessian.double(), damping)
    values, vectors = torch.linalg.eigh(exact)
    if not values[0] > 0:
        raise torch.linalg.LinAlgError("the damped Hessian has an eigenvalue that is not positive.")
    dtype = hessian.dtype
    return Spectrum(exact.to(dtype), scale.to(dtype), dead, vectors.to(dtype), values.to(dtype))


def alps(weight: torch.Tensor, spectrum: Spectrum, pattern: Pattern) -> torch.Tensor:
    """Choose a support by ADMM and fit the weights on it (algorithm 1).

    ADMM splits the weights into B, which reconstructs, and D, which is sparse, and draws them together with a growing penalty
    rho: B = (H + rho I)⁻¹ (H B0 - V + rho D), D = the largest of B + V / rho, V += rho (B - D).

    Args:
        weight: float [out, in].
        spectrum: What `decompose` gave.
        pattern: Unstructured keeps the largest of the whole matrix, N:M those of each group of a row.

    Returns:
        The pruned and refitted weights, in the spectrum's dtype, [out, in].
    """
    dense = weight.to(spectrum.hessian.dtype) * spectrum.scale
    dense[:, spectrum.dead] = 0
    target = dense @ spectrum.hessian
    sparse, dual = dense, torch.zeros_like(dense)
    pruned = _pruned(sparse, pattern)
    kept = max(int((~pruned).sum()), 1)
    rho, before = PENALTY, pruned
    for iteration in range(ITERATIONS):
        if iteration % EVERY == 0:  # one product with the inverse, as long as the penalty stays, instead of two with vectors
            inverse = (spectrum.vectors / (spectrum.values + rho)) @ spectrum.vectors.T
        full = (target - dual + rho * sparse) @ inverse
        split = full + dual / rho
        pruned = _pruned(split, pattern)
        sparse = zero_pruned(split, pruned)
        dual += rho * (full - sparse)
        if iteration % EVERY == EVERY - 1:
            changed = int((pruned & ~before).sum()) / kept
            if changed == 0:
                break
            rho *= next(factor for least, factor in GROWTH if changed > least)
            before = pruned
    return refit(sparse, target, pruned, spectrum.hessian) / spectrum.scale


def _pruned(values: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    if isinstance(pattern, NofM):
        return lowest_per_group(values.square(), pattern)
    return lowest_overall(values.square(), pattern.sparsity)
