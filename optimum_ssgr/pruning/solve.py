"""Prune the weight matrices that share one input, with whichever method is asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import logging

from ..config import PruningConfig
from ..errors import NumericalError
from .blocks import Matrix
from .distributed import broadcast, rank, world_size
from .patterns import NofM, Pattern, Unstructured
from .solvers.alps import alps, decompose
from .solvers.magnitude import magnitude
from .solvers.sparsegpt import factorize, sparsegpt
from .solvers.wanda import wanda
from .statistics import InputStatistics


logger = logging.get_logger(__name__)
MOST_DAMPING = 0.5
# An expert that fewer calibration tokens were routed to is pruned by magnitude: its statistics would be noise.
FEWEST_TOKENS = 32
# Methods that need the full second moments of the inputs.
SECOND_ORDER = ("sparsegpt", "alps")


@dataclass(frozen=True)
class LayerReport:
    """What became of one weight matrix.

    Args:
        name: Name of the matrix in the model.
        shape: Rows (outputs) and columns (inputs).
        zeros: Weights that are zero now.
        tokens: Calibration tokens its statistics come from; 0 for magnitude pruning.
        method: Method that was used; not the one asked for where an expert saw too few tokens.
        damping: Damping that made the Hessian positive definite; None for methods without one.
    """

    name: str
    shape: tuple[int, int]
    zeros: int
    tokens: int
    method: str
    damping: float | None

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.shape[0] * self.shape[1]


def as_pattern(config: PruningConfig, sparsity: float | None = None) -> Pattern:
    """Return the pattern that the settings ask for, at a block's own sparsity where one is given."""
    if config.n_of_m:
        return NofM(*config.n_of_m)
    return Unstructured(config.sparsity if sparsity is None else sparsity)


def prune_by_magnitude(block_name: str, matrix: Matrix, pattern: Pattern, tokens: int = 0) -> LayerReport:
    """Prune one matrix in place without looking at its inputs."""
    weight = matrix.weight()
    weight.copy_(magnitude(weight, pattern))
    return _report(block_name, matrix, tokens, "magnitude", None)


def prune_share(
    block_name: str, matrices: Sequence[Matrix], statistics: InputStatistics, config: PruningConfig, pattern: Pattern
) -> list[LayerReport]:
    """Prune in place the matrices that share one input; several processes solve some of them each.

    Args:
        block_name: Name of their block.
        matrices: The matrices.
        statistics: Statistics of their input, the same in all processes.
        config: Method and damping.
        pattern: What to prune to.

    Raises:
        NumericalError: Statistics or weights are not finite, or a Hessian resists all damping.
    """
    label = f"{block_name}.{'/'.join(matrix.name for matrix in matrices)}"
    if not statistics.is_finite():
        raise NumericalError(f"the inputs of {label} are not finite; load the model in float32.")
    if matrices[0].expert is not None and statistics.tokens < FEWEST_TOKENS:
        return [prune_by_magnitude(block_name, matrix, pattern, statistics.tokens) for matrix in matrices]
    mine = [matrix for number, matrix in enumerate(matrices) if number % world_size() == rank()]
    damping = None
    if config.method in SECOND_ORDER:
        prepare = factorize if config.method == "sparsegpt" else decompose
        factors, damping = _with_enough_damping(prepare, label, statistics.hessian, config.damping)
    weights = [matrix.weight() for matrix in mine]
    if config.method == "sparsegpt":
        pruned = sparsegpt(weights, *factors, pattern) if weights else []
    elif config.method == "alps":
        pruned = [alps(weight, factors, pattern) for weight in weights]
    else:
        pruned = [wanda(weight.float(), statistics.squared_norms, pattern) for weight in weights]
    for matrix, weight, result in zip(mine, weights, pruned, strict=True):
        if not result.isfinite().all():
            raise NumericalError(f"pruning {block_name}.{matrix.name} gave weights that are not finite.")
        weight.copy_(result)
    for number, matrix in enumerate(matrices):
        broadcast(matrix.weight(), number % world_size())
    return [_report(block_name, matrix, statistics.tokens, config.method, damping) for matrix in matrices]


def _report(block_name: str, matrix: Matrix, tokens: int, method: str, damping: float | None) -> LayerReport:
    weight = matrix.weight()
    zeros = weight.numel() - int(weight.count_nonzero())
    return LayerReport(f"{block_name}.{matrix.name}", tuple(weight.shape), zeros, tokens, method, damping)


def _with_enough_damping(
    prepare: Callable[[torch.Tensor, float], Any], label: str, hessian: torch.Tensor, damping: float
) -> tuple[Any, float]:
    """Factorize, doubling the damping up to `MOST_DAMPING` while the Hessian is not positive definite."""
    while True:
        try:
            return prepare(hessian, damping), damping
        except torch.linalg.LinAlgError:
            pass
        if damping >= MOST_DAMPING:
            raise NumericalError(
                f"the Hessian of {label} is not positive definite even with damping {damping}; "
                "use more calibration tokens or method wanda."
            )
        damping = min(2 * damping, MOST_DAMPING)
        logger.warning(f"the Hessian of {label} is not positive definite; trying damping {damping}.")
