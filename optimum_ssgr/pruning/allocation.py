"""OWL: a sparsity for every block by its share of outliers (Yin et al., arXiv 2310.05175)."""

from collections.abc import Sequence

import torch

from ..errors import ConfigError


# A score is an outlier when it is more than this many times the mean of its block (M of section 4).
OUTLIER = 5.0
# Most that a block's sparsity departs from the target (lambda of section 4).
SPREAD = 0.08


def outlier_ratio(scored: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Return the share of a block's scores |W_ij| * ||x_j|| that are outliers (layerwise outlier distribution, section 4).

    As in the authors' code, the scores of all matrices of the block are compared with one mean over all of them.

    Args:
        scored: For every matrix of the block its weights, float [out, in], and its inputs' norms, float [in].
    """
    # A matrix at a time, twice: the scores of a whole block would take as much memory again as its weights in float32.
    total = sum(weight.numel() for weight, _ in scored)
    mean = sum(_score(*pair).sum(dtype=torch.float64).item() for pair in scored) / total
    return sum(int((_score(*pair) > OUTLIER * mean).sum()) for pair in scored) / total


def _score(weight: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    return weight.float().abs() * norms


def owl_sparsities(ratios: Sequence[float], sizes: Sequence[int], sparsity: float) -> list[float]:
    """Turn outlier ratios into sparsities: the more outliers, the more weights stay (section 4).

    Args:
        ratios: Outlier ratio of every block.
        sizes: Number of prunable weights of every block. Weighted by them, the mean of the sparsities is the target, so that
            blocks of different sizes meet it together; for blocks of one size that is the authors' plain mean.
        sparsity: Target.

    Raises:
        ConfigError: The target is so near 0 or 1 that some block would leave that range.
    """
    lowest, highest = min(ratios), max(ratios)
    if lowest == highest:
        return [sparsity] * len(ratios)
    shifts = [2 * SPREAD * (ratio - lowest) / (highest - lowest) for ratio in ratios]
    mean = sum(shift * size for shift, size in zip(shifts, sizes, strict=True)) / sum(sizes)
    sparsities = [sparsity - (shift - mean) for shift in shifts]
    if not all(0 <= value < 1 for value in sparsities):
        raise ConfigError(
            f"allocation owl spreads the sparsity by up to {2 * SPREAD:.2f} around {sparsity}, which leaves the range "
            "from 0 to 1; choose a sparsity further inside or allocation uniform."
        )
    return sparsities
