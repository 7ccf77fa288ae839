"""Prune the weight matrices that share one input, with whichever method is asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from transformers.utils import logging

from ..config import PruningConfig
from ..errors import NumericalError
from .blocks import Matrix
from .distributed import all_reduce, broadcast, rank, world_size
from .patterns import NofM, Pattern, Unstructured
from .solvers.alps import alps, decompose
from .solvers.magnitude import magnitude
from .solvers.sparsegpt import factorize, sparsegpt
from .solvers.wanda import wanda
from .statistics import InputStatistics


logger = logging.get_logger(__name__)
MAX_DAMPING = 0.5
# An expert that fewer calibration tokens were routed to is pruned by magnitude: its statistics would be noise.
MIN_EXPERT_TOKENS = 32
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


def make_pattern(config: PruningConfig, sparsity: float | None = None) -> Pattern:
    """Return the pattern that the settings ask for, at a block's own sparsity where one is given."""
    if config.n_of_m:
        return NofM(*config.n_of_m)
    return Unstructured(config.sparsity if sparsity is None else sparsity)


def prune_by_magnitude(block_name: str, matrix: Matrix, pattern: Pattern) -> LayerReport:
    """Prune one matrix in place without looking at its inputs."""
    weight = matrix.weight()
    weight.copy_(magnitude(weight, pattern))
    return _make_report(block_name, matrix, 0, "magnitude", None)


def prune_groups(
    block_name: str,
    groups: Sequence[Sequence[Matrix]],
    statistics: Sequence[InputStatistics],
    config: PruningConfig,
    pattern: Pattern,
) -> dict[str, LayerReport]:
    """Prune in place the matrices of a hook point; several processes solve some of them each, at the same time.

    Args:
        block_name: Name of their block.
        groups: The matrices, those that share one input together.
        statistics: Statistics of each group's input, with all that every process has seen.
        config: Method and damping.
        pattern: What to prune to.

    Returns:
        A report on every matrix by its name in the block.

    Raises:
        NumericalError: Statistics or weights are not finite, or a Hessian resists all damping, in whichever process.
    """
    # 1. Every process has the same statistics by now, so all of them refuse and decide alike.
    labels = [f"{block_name}.{'/'.join(matrix.name for matrix in group)}" for group in groups]
    for label, seen in zip(labels, statistics, strict=True):
        if not seen.is_finite():
            raise NumericalError(f"the inputs of {label} are not finite; load the model in float32.")
    methods = [
        "magnitude" if group[0].expert is not None and seen.tokens < MIN_EXPERT_TOKENS else config.method
        for group, seen in zip(groups, statistics, strict=True)
    ]
    # 2. Each solves its own matrices.
    owners = {matrix.name: number % world_size() for number, matrix in enumerate(chain.from_iterable(groups))}
    dampings = _solve_own(labels, groups, owners, statistics, methods, config.damping, pattern)
    # 3. All get all of them.
    reports = {}
    for group, seen, method, damping in zip(groups, statistics, methods, dampings, strict=True):
        for matrix in group:
            broadcast(matrix.weight(), owners[matrix.name])
            used = damping if method in SECOND_ORDER else None
            reports[matrix.name] = _make_report(block_name, matrix, seen.tokens, method, used)
    return reports


def _solve_own(
    labels: Sequence[str],
    groups: Sequence[Sequence[Matrix]],
    owners: Mapping[str, int],
    statistics: Sequence[InputStatistics],
    methods: Sequence[str],
    damping: float,
    pattern: Pattern,
) -> list[float]:
    """Prune the matrices that this process owns, and return the damping that each group took, 0 for methods without one.

    Raises:
        NumericalError: Here or in another process: none may wait in a collective for one that gave up.
    """
    outcomes = torch.zeros(2, len(groups), dtype=torch.float64)  # of each group its damping, and how many processes failed
    failure = None
    for number, group in enumerate(groups):
        mine = [matrix for matrix in group if owners[matrix.name] == rank()]
        if not mine:
            continue
        try:
            used = _solve_group(labels[number], mine, statistics[number], methods[number], damping, pattern)
        except NumericalError as error:
            failure, outcomes[1, number] = error, 1
            break
        if mine[0] is group[0]:  # one process says it for all that solve a part of the group
            outcomes[0, number] = used or 0
    all_reduce(outcomes)
    if failure:
        raise failure
    for label, failed in zip(labels, outcomes[1].tolist(), strict=True):
        if failed:
            raise NumericalError(f"another process could not prune {label}; its own error says why.")
    return outcomes[0].tolist()


def _solve_group(
    label: str, matrices: Sequence[Matrix], statistics: InputStatistics, method: str, damping: float, pattern: Pattern
) -> float | None:
    """Prune in place matrices that share one input, and return the damping that took; None for methods without one."""
    weights, used = [matrix.weight() for matrix in matrices], None
    if method == "sparsegpt":
        factors, used = _factorize_with_damping(factorize, label, statistics.hessian, damping)
        pruned = sparsegpt(weights, *factors, pattern)
    elif method == "alps":
        spectrum, used = _factorize_with_damping(decompose, label, statistics.hessian, damping)
        pruned = [alps(weight, spectrum, pattern) for weight in weights]
    elif method == "wanda":
        pruned = [wanda(weight.float(), statistics.squared_norms, pattern) for weight in weights]
    else:
        pruned = [magnitude(weight, pattern) for weight in weights]
    for weight, result in zip(weights, pruned, strict=True):
        if not result.isfinite().all():
            raise NumericalError(f"pruning {label} gave weights that are not finite.")
        weight.copy_(result)
    return used


def _make_report(block_name: str, matrix: Matrix, tokens: int, method: str, damping: float | None) -> LayerReport:
    weight = matrix.weight()
    zeros = weight.numel() - int(weight.count_nonzero())
    return LayerReport(f"{block_name}.{matrix.name}", tuple(weight.shape), zeros, tokens, method, damping)


def _factorize_with_damping(
    prepare: Callable[[torch.Tensor, float], Any], label: str, hessian: torch.Tensor, damping: float
) -> tuple[Any, float]:
    """Factorize, doubling the damping up to `MAX_DAMPING` while the Hessian is not positive definite."""
    while True:
        try:
            return prepare(hessian, damping), damping
        except torch.linalg.LinAlgError:
            pass
        if damping >= MAX_DAMPING:
            raise NumericalError(
                f"the Hessian of {label} is not positive definite even with damping {damping}; "
                "use more calibration tokens or method wanda."
            )
        damping = min(2 * damping, MAX_DAMPING)
        logger.warning(f"the Hessian of {label} is not positive definite; trying damping {damping}.")
