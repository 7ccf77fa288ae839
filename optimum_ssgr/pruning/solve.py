"""Prune the weight matrices that share one input, with whichever method is asked for."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain

import torch
from transformers.utils import logging

from ..config import PruningConfig
from ..errors import NumericalError
from .blocks import Matrix
from .distributed import all_reduce, broadcast, rank, world_size
from .patterns import NofM, Pattern, Unstructured
from .report import LayerReport, Refinement
from .solvers.alps import alps, decompose
from .solvers.finite import all_finite
from .solvers.magnitude import magnitude
from .solvers.sparsegpt import factorize, sparsegpt
from .solvers.swaps import relative_error, swap, swap_and_refit
from .solvers.wanda import wanda
from .statistics import InputStatistics, remedy_for_overflow


logger = logging.get_logger(__name__)
MAX_DAMPING = 0.5
# An expert that fewer calibration tokens were routed to is pruned by magnitude: its statistics would be noise.
MIN_EXPERT_TOKENS = 32
# Methods that need the full second moments of the inputs.
SECOND_ORDER = ("sparsegpt", "alps")


def needs_second_moments(config: PruningConfig) -> bool:
    """Tell whether the full second moments of the inputs are needed, or their diagonal is enough."""
    return config.method in SECOND_ORDER or "swaps" in config.refine


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
        NumericalError: Statistics or weights are not finite, in whichever process.
    """
    # 1. Every process has the same statistics by now, so all of them refuse and decide alike.
    labels = [f"{block_name}.{'/'.join(matrix.name for matrix in group)}" for group in groups]
    for label, seen in zip(labels, statistics, strict=True):
        if not seen.is_finite():
            dtype = groups[0][0].weight().dtype
            raise NumericalError(f"the inputs of {label} are not finite in {dtype}; {remedy_for_overflow(dtype)}.")
    unseen = dataclasses.replace(config, method="magnitude", refine=())
    configs = [
        unseen if group[0].expert is not None and seen.tokens < MIN_EXPERT_TOKENS else config
        for group, seen in zip(groups, statistics, strict=True)
    ]
    # 2. Each solves its own matrices.
    owners = {matrix.name: number % world_size() for number, matrix in enumerate(chain.from_iterable(groups))}
    outcomes = _solve_own(labels, groups, owners, statistics, configs, pattern)
    # 3. All get all of them.
    reports = {}
    for group, seen, asked in zip(groups, statistics, configs, strict=True):
        for matrix in group:
            broadcast(matrix.weight(), owners[matrix.name])
            damping, fell_back, _, *errors = outcomes[matrix.name].tolist()
            method = "magnitude" if fell_back else asked.method
            swaps = Refinement(*errors) if "swaps" in asked.refine else None
            damping = damping if asked.method in SECOND_ORDER else None
            reports[matrix.name] = _make_report(block_name, matrix, seen.tokens, method, damping, swaps)
    return reports


def _solve_own(
    labels: Sequence[str],
    groups: Sequence[Sequence[Matrix]],
    owners: Mapping[str, int],
    statistics: Sequence[InputStatistics],
    configs: Sequence[PruningConfig],
    pattern: Pattern,
) -> dict[str, torch.Tensor]:
    """Prune the matrices that this process owns.

    Returns:
        For every matrix, in whichever process, five numbers: the damping it took in the end, 0 for none; 1 where it fell back
        to magnitude; 0; and the relative error of its outputs before and after swaps, 0 without.

    Raises:
        NumericalError: Here or in another process: none may wait in a collective for one that gave up.
    """
    rows = {name: row for row, name in enumerate(owners)}
    outcomes = torch.zeros(len(owners), 5, dtype=torch.float64)  # the third is 1 where a process failed
    failure = None
    for label, group, seen, config in zip(labels, groups, statistics, configs, strict=True):
        mine = [matrix for matrix in group if owners[matrix.name] == rank()]
        if not mine:
            continue
        own_rows = [rows[matrix.name] for matrix in mine]
        try:
            used, taken, errors = _solve_group(label, mine, seen, config, pattern)
        except NumericalError as error:
            failure, outcomes[own_rows, 2] = error, 1
            break
        outcomes[own_rows, 0], outcomes[own_rows, 1] = taken, used != config.method
        outcomes[own_rows, 3:] = torch.tensor(errors, dtype=torch.float64)
    all_reduce(outcomes)
    if failure:
        raise failure
    for label, group in zip(labels, groups, strict=True):
        if any(outcomes[rows[matrix.name], 2] for matrix in group):
            raise NumericalError(f"another process could not prune {label}; its own error says why.")
    return {name: outcomes[row] for name, row in rows.items()}


def _solve_group(
    label: str, matrices: Sequence[Matrix], statistics: InputStatistics, config: PruningConfig, pattern: Pattern
) -> tuple[str, float, list[tuple[float, float]]]:
    """Prune in place matrices that share one input.

    Returns:
        The method in the end; the damping it took, 0 for none; and the errors of each before and after swaps, 0 without.
    """
    weights, taken, method = [matrix.weight() for matrix in matrices], 0.0, config.method
    if not all(all_finite(weight) for weight in weights):
        raise NumericalError(f"the weights of {label} are not finite, so the model cannot be pruned; load a sound one.")

    def solve(damping: float) -> list[torch.Tensor]:
        if method == "sparsegpt":
            return sparsegpt(weights, *factorize(statistics.hessian, damping), pattern)
        spectrum = decompose(statistics.hessian, damping)
        return [alps(weight, spectrum, pattern) for weight in weights]

    if method in SECOND_ORDER:
        pruned, taken = solve_with_damping(solve, label, config.damping, weights[0].dtype)
        method = method if pruned else "magnitude"
    elif method == "wanda":
        pruned = [wanda(weight.float(), statistics.squared_norms, pattern) for weight in weights]
    if method == "magnitude":
        pruned = [magnitude(weight, pattern) for weight in weights]
    errors = [(0.0, 0.0)] * len(weights)
    for number, (weight, result) in enumerate(zip(weights, pruned, strict=True)):
        if "swaps" in config.refine:
            result, errors[number] = _swap(weight, result, statistics.hessian, method, taken, pattern)
        weight.copy_(result)
    return method, taken, errors


def _swap(
    weight: torch.Tensor, pruned: torch.Tensor, hessian: torch.Tensor, method: str, damping: float, pattern: Pattern
) -> tuple[torch.Tensor, tuple[float, float]]:
    """Refine the mask of one matrix, and the weights where the method moves them; never to a larger error.

    Returns:
        The weights, in the type that they are kept in; and the relative errors of their outputs before and after.
    """
    dense, sparse = weight.float(), pruned.float()
    if method in SECOND_ORDER:
        found = swap_and_refit(dense, sparse, hessian, damping, pattern)
    else:
        found = swap(dense, sparse, hessian, pattern)
    results = [pruned.to(weight.dtype), found.to(weight.dtype)]
    before, after = (relative_error(dense, result.float(), hessian) for result in results)
    # What rounding, or an input that is damped away, makes worse is not taken; nor what overflows, whose error is no number.
    return (results[1], (before, after)) if after < before else (results[0], (before, before))


def _make_report(
    block_name: str, matrix: Matrix, tokens: int, method: str, damping: float | None, swaps: Refinement | None = None
) -> LayerReport:
    weight = matrix.weight()
    zeros = int((weight == 0).sum())
    return LayerReport(f"{block_name}.{matrix.name}", tuple(weight.shape), zeros, tokens, method, damping, swaps)


def solve_with_damping(
    solve: Callable[[float], list[torch.Tensor]], label: str, damping: float, dtype: torch.dtype
) -> tuple[list[torch.Tensor], float]:
    """Solve, doubling the damping up to `MAX_DAMPING` while the Hessian is not positive definite or the weights overflow.

    Args:
        solve: Gives the pruned weights for a damping, or raises `torch.linalg.LinAlgError`.
        label: Name of what is solved.
        damping: What to begin with.
        dtype: What the weights are kept in.

    Returns:
        The pruned weights, none of them where all damping was in vain; and the last damping.
    """
    while True:
        with suppress(torch.linalg.LinAlgError):
            pruned = [result.to(dtype) for result in solve(damping)]
            if all(all_finite(result) for result in pruned):
                return pruned, damping
        if damping >= MAX_DAMPING:
            return [], damping
        before, damping = damping, min(2 * damping, MAX_DAMPING)
        logger.warning(f"the Hessian of {label} is not usable with damping {before}; trying {damping}.")
