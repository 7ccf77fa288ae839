"""Least squares on a fixed support: the Hessian rescaled, and conjugate gradients over all rows at once."""

import torch


STEPS = 10
TOLERANCE = 1e-4


def rescale(hessian: torch.Tensor, damping: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Damp a Hessian and bring it to unit diagonal, which conjugate gradients take fewer steps with (ALPS, section 3.2).

    Args:
        hessian: A multiple of the sum of x xᵀ, float [in, in]; the multiple does not matter.
        damping: Share of the mean diagonal added to the diagonal.

    Returns:
        The new Hessian, float [in, in]; the square roots of the diagonal it had, float [in]; and which inputs were never
        active, bool [in].
    """
    scaled = hessian.clone()
    diagonal = scaled.diagonal()
    dead = diagonal == 0
    diagonal[dead] = 1
    diagonal += damping * diagonal.mean()
    scale = diagonal.sqrt()
    return scaled.div_(scale.unsqueeze(1)).div_(scale), scale, dead


def refit(sparse: torch.Tensor, target: torch.Tensor, pruned: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """Bring weights on a fixed support closer to the least squares, in some steps (ALPS, section 3.3).

    Args:
        sparse: Weights to begin with, 0 where pruned, float [out, in].
        target: Product of the dense weights and the Hessian, float [out, in].
        pruned: What stays 0, bool [out, in].
        hessian: Positive definite, best with unit diagonal, float [in, in].

    Returns:
        The weights, float [out, in].
    """
    kept = ~pruned
    residual = (target - sparse @ hessian).mul_(kept)
    direction = residual
    size = residual.square().sum()
    enough = TOLERANCE**2 * (target * kept).square().sum()
    for _ in range(STEPS):
        if size <= enough:
            break
        image = (direction @ hessian).mul_(kept)
        step = size / (direction * image).sum()
        sparse = sparse + step * direction
        residual = residual - step * image
        size, before = residual.square().sum(), size
        direction = residual + (size / before) * direction
    return sparse
