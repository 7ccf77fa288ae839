"""Prune a model block by block, each on the outputs of the pruned blocks before it."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.utils import logging

from ..config import PruningConfig
from ..errors import ConfigError, DataError, NumericalError
from .blocks import Linear, find_blocks, find_linears, weight_matrix
from .capture import MicroBatch, capture_inputs
from .patterns import NofM, Pattern, Unstructured
from .solvers.magnitude import magnitude
from .solvers.sparsegpt import factorize, sparsegpt
from .solvers.wanda import wanda
from .statistics import InputStatistics


logger = logging.get_logger(__name__)
MOST_DAMPING = 0.5


@dataclass(frozen=True)
class LayerReport:
    """What became of one linear layer.

    Args:
        name: Name of the layer in the model.
        shape: Rows (outputs) and columns (inputs).
        zeros: Weights that are zero now.
        tokens: Calibration tokens its statistics come from; 0 for magnitude pruning.
        damping: Damping that made the Hessian positive definite; None for methods without one.
    """

    name: str
    shape: tuple[int, int]
    zeros: int
    tokens: int
    damping: float | None

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.shape[0] * self.shape[1]


def as_pattern(config: PruningConfig) -> Pattern:
    """Return the pattern that the settings ask for."""
    return NofM(*config.n_of_m) if config.n_of_m else Unstructured(config.sparsity)


def check_prunable(model: PreTrainedModel, config: PruningConfig) -> dict[str, dict[str, Linear]]:
    """Find everything that would be pruned, and refuse what cannot be, before any work.

    Returns:
        For every block's name its linear layers by name.

    Raises:
        ModelError: The architecture is not supported.
        ConfigError: The pattern does not divide a layer's inputs.
    """
    linears = {name: find_linears(name, block) for name, block in find_blocks(model).items()}
    if config.n_of_m:
        for block_name, members in linears.items():
            for name, linear in members.items():
                columns = weight_matrix(linear).shape[1]
                if columns % config.n_of_m[1]:
                    raise ConfigError(
                        f"pattern {config.pattern} does not divide the {columns} inputs of {block_name}.{name}; "
                        "choose a group size that does."
                    )
    return linears


@torch.no_grad()
def prune_layerwise(model: PreTrainedModel, sequences: Sequence[Sequence[int]], config: PruningConfig) -> list[LayerReport]:
    """Prune every linear layer of the decoder blocks in place; embeddings and the output head stay dense.

    Args:
        model: Causal language model.
        sequences: Token ids of the calibration sequences; unused by magnitude pruning.
        config: Method, sparsity and damping.

    Returns:
        One report per linear layer, in the order of the model.

    Raises:
        ModelError: The architecture is not supported.
        ConfigError: The pattern does not divide a layer's inputs.
        DataError: There is nothing to calibrate on.
        NumericalError: Statistics or weights are not finite, or a Hessian resists all damping.
    """
    model.eval()
    linears = check_prunable(model, config)
    blocks = find_blocks(model)
    if config.method == "magnitude":
        return list(_prune_by_magnitude(linears, config))
    if not any(len(sequence) for sequence in sequences):
        raise DataError("the calibration set is empty.")
    batches = capture_inputs(model, list(blocks.values()), [sequence for sequence in sequences if len(sequence)])
    reports: list[LayerReport] = []
    for index, (name, block) in enumerate(tqdm(blocks.items(), desc=f"prune ({config.method})", unit="block")):
        groups = _collect(name, index, block, linears[name], batches, full=config.method == "sparsegpt")
        for members, statistics in groups:
            reports += _prune_group(name, {member: linears[name][member] for member in members}, statistics, config)
        for batch in batches:
            batch.hidden = batch.run(index, block)
            if not batch.hidden[batch.real].isfinite().all():
                raise NumericalError(f"the output of {name} is not finite after pruning; load the model in float32.")
    order = [f"{block}.{linear}" for block, members in linears.items() for linear in members]
    return sorted(reports, key=lambda report: order.index(report.name))


def _prune_by_magnitude(linears: dict[str, dict[str, Linear]], config: PruningConfig) -> Iterator[LayerReport]:
    for block_name, members in tqdm(linears.items(), desc="prune (magnitude)", unit="block"):
        for name, linear in members.items():
            matrix = weight_matrix(linear)
            matrix.copy_(magnitude(matrix, as_pattern(config)))
            yield LayerReport(f"{block_name}.{name}", tuple(matrix.shape), int((matrix == 0).sum()), 0, None)


def _collect(
    block_name: str, index: int, block: nn.Module, linears: dict[str, Linear], batches: list[MicroBatch], full: bool
) -> list[tuple[list[str], InputStatistics]]:
    """Run a block on everything and gather one statistic for all linear layers that are fed the same tensor."""
    statistics: dict[str, InputStatistics] = {}
    leaders: dict[str, str] = {}
    fed: dict[int, tuple[str, torch.Tensor]] = {}  # holds the tensors, so that no two of a pass share an id

    def observe(name: str, real: torch.Tensor) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            leader, inputs = fed.setdefault(id(args[0]), (name, args[0]))
            leaders[name] = leader
            if leader == name:
                columns = inputs.shape[-1]
                statistics.setdefault(name, InputStatistics(columns, full, inputs.device)).add(
                    inputs.reshape(-1, columns)[real.flatten()]
                )

        return hook

    for batch in batches:
        hooks = [linear.register_forward_pre_hook(observe(name, batch.real)) for name, linear in linears.items()]
        try:
            batch.run(index, block)
        finally:
            fed.clear()
            for hook in hooks:
                hook.remove()
    for name in linears:
        if name not in leaders:
            raise NumericalError(f"{block_name}.{name} was never used by the calibration tokens; it cannot be pruned.")
    groups: dict[str, list[str]] = defaultdict(list)
    for name, leader in leaders.items():
        groups[leader].append(name)
    return [(members, statistics[leader]) for leader, members in groups.items()]


def _prune_group(
    block_name: str, linears: dict[str, Linear], statistics: InputStatistics, config: PruningConfig
) -> Iterator[LayerReport]:
    """Prune the linear layers that share one input."""
    label = f"{block_name}.{'/'.join(linears)}"
    if not statistics.is_finite():
        raise NumericalError(f"the inputs of {label} are not finite; load the model in float32.")
    pattern, damping = as_pattern(config), None
    if config.method == "sparsegpt":
        factor, dead, damping = _factorize_with_more_damping(label, statistics.hessian, config.damping)
    for name, linear in linears.items():
        matrix = weight_matrix(linear)
        if config.method == "sparsegpt":
            pruned = sparsegpt(matrix, factor, dead, pattern)
        else:
            pruned = wanda(matrix.float(), statistics.squared_norms, pattern)
        if not pruned.isfinite().all():
            raise NumericalError(f"pruning {block_name}.{name} gave weights that are not finite.")
        matrix.copy_(pruned)
        zeros = int((matrix == 0).sum())
        yield LayerReport(f"{block_name}.{name}", tuple(matrix.shape), zeros, statistics.tokens, damping)


def _factorize_with_more_damping(label: str, hessian: torch.Tensor, damping: float) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Factorize, doubling the damping up to `MOST_DAMPING` while the Hessian is not positive definite."""
    while True:
        try:
            factor, dead = factorize(hessian, damping)
        except torch.linalg.LinAlgError:
            factor = None
        if factor is not None and factor.isfinite().all():
            return factor, dead, damping
        if damping >= MOST_DAMPING:
            raise NumericalError(
                f"the Hessian of {label} is not positive definite even with damping {damping}; "
                "use more calibration tokens or method wanda."
            )
        damping = min(2 * damping, MOST_DAMPING)
        logger.warning(f"the Hessian of {label} is not positive definite; trying damping {damping}.")
