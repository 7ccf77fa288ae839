"""OWL: a sparsity for every block by its share of outliers (Yin et al., arXiv 2310.05175)."""

from collections.abc import Iterable, Sequence

import torch

from ..errors import ConfigError


# A score is an outlier when it is this many times the mean of its matrix (M of section 4).
OUTLIER = 5.0
# Most that a block's sparsity departs from the target (lambda of section 4).
SPREAD = 0.08


def outlier_ratio(scored: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Return the share of a block's scores |W_ij| * ||x_j|| that are outliers (layerwise outlier distribution, section 4).

    Args:
        scored: For every matrix of the block its weights, float [out, in], and its inputs' norms, float [in].
    """
    outliers = total = 0
    for weight, norms in scored:
        scores = weight.float().abs() * norms
        outliers += int((scores > OUTLIER * scores.mean()).sum())
        total += scores.numel()
    return outliers / total


def owl_sparsities(ratios: Sequence[float], sparsity: float) -> list[float]:
    """Turn outlier ratios into sparsities: the more outliers, the more weights stay; the mean is the target (section 4).

    Args:
        ratios: Outlier ratio of every block.
        sparsity: Target.

    Raises:
        ConfigError: The target is so near 0 or 1 that some block would leave that range.
    """
    lowest, highest = min(ratios), max(ratios)
    if lowest == highest:
        return [sparsity] * len(ratios)
    shifts = [2 * SPREAD * (ratio - lowest) / (highest - lowest) for ratio in ratios]
    mean = sum(shifts) / len(shifts)
    sparsities = [sparsity - (shift - mean) for shift in shifts]
    if not all(0 <= value < 1 for value in sparsities):
        raise ConfigError(
            f"allocation owl spreads the sparsity by up to {2 * SPREAD:.2f} around {sparsity}, which leaves the range "
            "from 0 to 1; choose a sparsity further inside or allocation uniform."
        )
    return sparsities
