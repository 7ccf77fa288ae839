"""Prune the weight matrices that share one input, with whichever method is asked for."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

import torch
from transformers.utils import logging

from ..config import PruningConfig
from ..errors import NumericalError
from .blocks import Matrix, is_of_expert
from .distributed import all_reduce, broadcast, rank, world_size
from .patterns import NofM, Pattern, Unstructured
from .solvers.alps import alps, decompose
from .solvers.magnitude import magnitude
from .solvers.sparsegpt import factorize, sparsegpt
from .solvers.wanda import wanda
from .statistics import InputStatistics, remedy_for_overflow


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
        method: Method that was used; `magnitude` instead of the one asked for where an expert saw too few tokens, where no
            damping made the Hessian usable, or where the inputs of a layer cannot be seen.
        damping: Damping that made the Hessian usable, or, where the method fell back to magnitude, the most that was tried in
            vain; None for methods without one, and where there was nothing to calibrate on.
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

    @property
    def of_expert(self) -> bool:
        """Whether it is an expert's part of a fused parameter."""
        return is_of_expert(self.name)

    @property
    def resisted(self) -> bool:
        """Whether no damping made the Hessian usable."""
        return self.method == "magnitude" and self.damping is not None


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
    methods = [
        "magnitude" if group[0].expert is not None and seen.tokens < MIN_EXPERT_TOKENS else config.method
        for group, seen in zip(groups, statistics, strict=True)
    ]
    # 2. Each solves its own matrices.
    owners = {matrix.name: number % world_size() for number, matrix in enumerate(chain.from_iterable(groups))}
    outcomes = _solve_own(labels, groups, owners, statistics, methods, config.damping, pattern)
    # 3. All get all of them.
    reports = {}
    for group, seen, method in zip(groups, statistics, methods, strict=True):
        for matrix in group:
            broadcast(matrix.weight(), owners[matrix.name])
            used, damping = outcomes[matrix.name] if method in SECOND_ORDER else (method, None)
            reports[matrix.name] = _make_report(block_name, matrix, seen.tokens, used, damping)
    return reports


def _solve_own(
    labels: Sequence[str],
    groups: Sequence[Sequence[Matrix]],
    owners: Mapping[str, int],
    statistics: Sequence[InputStatistics],
    methods: Sequence[str],
    damping: float,
    pattern: Pattern,
) -> dict[str, tuple[str, float]]:
    """Prune the matrices that this process owns.

    Returns:
        For every matrix, in whichever process, the method that was used in the end and the damping it took, 0 for none.

    Raises:
        NumericalError: Here or in another process: none may wait in a collective for one that gave up.
    """
    rows = {name: row for row, name in enumerate(owners)}
    outcomes = torch.zeros(len(owners), 3, dtype=torch.float64)  # of each matrix its damping, whether it fell back, or failed
    failure = None
    for label, group, seen, method in zip(labels, groups, statistics, methods, strict=True):
        mine = [matrix for matrix in group if owners[matrix.name] == rank()]
        if not mine:
            continue
        own_rows = [rows[matrix.name] for matrix in mine]
        try:
            used, taken = _solve_group(label, mine, seen, method, damping, pattern)
        except NumericalError as error:
            failure, outcomes[own_rows, 2] = error, 1
            break
        outcomes[own_rows, 0], outcomes[own_rows, 1] = taken, used != method
    all_reduce(outcomes)
    if failure:
        raise failure
    for label, group in zip(labels, groups, strict=True):
        if any(outcomes[rows[matrix.name], 2] for matrix in group):
            raise NumericalError(f"another process could not prune {label}; its own error says why.")
    return {
        matrix.name: ("magnitude" if outcomes[rows[matrix.name], 1] else method, outcomes[rows[matrix.name], 0].item())
        for group, method in zip(groups, methods, strict=True)
        for matrix in group
    }


def _solve_group(
    label: str, matrices: Sequence[Matrix], statistics: InputStatistics, method: str, damping: float, pattern: Pattern
) -> tuple[str, float]:
    """Prune in place matrices that share one input, and return the method in the end and the damping it took, 0 for none."""
    weights, taken = [matrix.weight() for matrix in matrices], 0.0
    if not all(weight.isfinite().all() for weight in weights):
        raise NumericalError(f"the weights of {label} are not finite, so the model cannot be pruned; load a sound one.")

    def solve(damping: float) -> list[torch.Tensor]:
        if method == "sparsegpt":
            return sparsegpt(weights, *factorize(statistics.hessian, damping), pattern)
        spectrum = decompose(statistics.hessian, damping)
        return [alps(weight, spectrum, pattern) for weight in weights]

    if method in SECOND_ORDER:
        pruned, taken = solve_with_damping(solve, label, damping, weights[0].dtype)
        method = method if pruned else "magnitude"
    elif method == "wanda":
        pruned = [wanda(weight.float(), statistics.squared_norms, pattern) for weight in weights]
    if method == "magnitude":
        pruned = [magnitude(weight, pattern) for weight in weights]
    for weight, result in zip(weights, pruned, strict=True):
        weight.copy_(result)
    return method, taken


def _make_report(block_name: str, matrix: Matrix, tokens: int, method: str, damping: float | None) -> LayerReport:
    weight = matrix.weight()
    zeros = weight.numel() - int(weight.count_nonzero())
    return LayerReport(f"{block_name}.{matrix.name}", tuple(weight.shape), zeros, tokens, method, damping)


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
            if all(result.isfinite().all() for result in pruned):
                return pruned, damping
        if damping >= MAX_DAMPING:
            return [], damping
        before, damping = damping, min(2 * damping, MAX_DAMPING)
        logger.warning(f"the Hessian of {label} is not usable with damping {before}; trying {damping}.")
