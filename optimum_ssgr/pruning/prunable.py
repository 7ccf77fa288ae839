"""What of a model would be pruned, and what cannot be: refused before any work."""

from collections.abc import Mapping

from torch import nn
from transformers import PreTrainedModel

from ..config import PruningConfig
from ..errors import ConfigError, ModelError
from .blocks import Matrix, find_blocks, find_matrices
from .weights import check_in_memory


def check_prunable(model: PreTrainedModel, config: PruningConfig) -> dict[str, dict[str, Matrix]]:
    """Find everything that would be pruned, and refuse what cannot be, before any work.

    Returns:
        For every block's name its matrices by name.

    Raises:
        ModelError: The architecture is not supported, or some weights are offloaded to disk.
        ConfigError: The pattern does not divide a layer's inputs.
    """
    check_in_memory(model)
    matrices = {name: find_matrices(name, block) for name, block in find_blocks(model).items()}
    _refuse_shared_layers(matrices)
    if config.needs_calibration:
        _refuse_lists_of_experts(model)
    if config.n_of_m:
        _check_divisible(matrices, config)
    return matrices


def _refuse_shared_layers(matrices: Mapping[str, Mapping[str, Matrix]]) -> None:
    owners: dict[nn.Module, str] = {}
    for block_name, members in matrices.items():
        for name, matrix in members.items():
            if owners.setdefault(matrix.module, block_name) != block_name:
                raise ModelError(
                    f"{block_name}.{name} is also a layer of {owners[matrix.module]}; blocks that share weights cannot be "
                    "pruned one after the other."
                )


def _refuse_lists_of_experts(model: PreTrainedModel) -> None:
    """Refuse experts that are modules of their own: no few tokens reach all of them, so how they are run cannot be seen."""
    for block_name, block in find_blocks(model).items():
        for name, module in block.named_modules():
            own_name = name.rpartition(".")[2]
            if isinstance(module, nn.ModuleList) and "expert" in own_name and "shared" not in own_name:
                raise ModelError(
                    f"{block_name}.{name} is a list of {len(module)} experts, which are calibrated only where they are fused "
                    "in one parameter, as in transformers' own classes; load the model without trust_remote_code if there is "
                    "such a class for it, or prune it by magnitude."
                )


def _check_divisible(matrices: Mapping[str, Mapping[str, Matrix]], config: PruningConfig) -> None:
    for block_name, members in matrices.items():
        for name, matrix in members.items():
            columns = matrix.weight().shape[1]
            if columns % config.n_of_m[1]:
                raise ConfigError(
                    f"pattern {config.pattern} does not divide the {columns} inputs of {block_name}.{name}; "
                    "choose a group size that does, or a sparsity without a pattern."
                )
