"""Where a model's prunable weights are: the linear layers of its decoder blocks, found without knowing the architecture."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..errors import ModelError
from .experts import fused_parameters, is_fused, is_transposed


# How architectures call what chooses between experts; a dense block may call a layer so too, and has it pruned.
ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})
_TO_PRUNE_IT = "merge adapters and load the model unquantized to prune it."


def find_blocks(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Find the decoder blocks: the module list that is as long as the text model has layers.

    Returns:
        Blocks by their name in the model, first to last.

    Raises:
        ModelError: There is no such list, or more than one.
    """
    layers = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    decoder = model.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    found = {
        ".".join(part for part in (prefix, name) if part): module
        for name, module in decoder.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == layers
    }
    outer = {name: module for name, module in found.items() if not any(name.startswith(f"{other}.") for other in found)}
    if len(outer) != 1:
        raise ModelError(
            f"cannot tell the decoder blocks of {type(model).__name__}: found {len(outer)} lists of {layers} modules, need one."
        )
    [(name, blocks)] = outer.items()
    return {f"{name}.{index}": block for index, block in enumerate(blocks)}


@dataclass(frozen=True)
class Matrix:
    """One weight matrix that can be pruned: that of a linear layer, or one expert's slice of a fused parameter.

    Args:
        name: Name of the parameter in its block, with the number of the expert.
        module: Module that holds the parameter.
        parameter: Name of the parameter in the module.
        expert: Number of the expert in a fused parameter; None for a linear layer.
        transposed: Whether the parameter is stored [in, out].
    """

    name: str
    module: nn.Module
    parameter: str
    expert: int | None
    transposed: bool

    def weight(self) -> torch.Tensor:
        """Return the weights as they are now, as a view of shape [out, in]; writing to it writes to the model."""
        weight = getattr(self.module, self.parameter).data
        weight = weight if self.expert is None else weight[self.expert]
        return weight.T if self.transposed else weight


def is_of_expert(name: str) -> bool:
    """Tell by a matrix's name whether it is one expert's slice of a fused parameter."""
    return name.rpartition(".")[2].isdigit()


def find_matrices(block_name: str, block: nn.Module) -> dict[str, Matrix]:
    """Find the prunable weight matrices of a block: its linear layers and fused experts, but not the routers between experts.

    Returns:
        Matrices by their name in the block.

    Raises:
        ModelError: The block keeps weights in a form that cannot be pruned (quantized, adapters, custom layers, unknown fused
            experts).
    """
    found: list[Matrix] = []
    experts = {name: module for name, module in block.named_modules() if is_fused(module)}
    mixes = bool(experts) or any(name.split(".")[-1] == "experts" for name, _ in block.named_modules())
    for name, module in block.named_modules():
        _refuse_adapter(f"{block_name}.{name}")
        if name in experts:
            for key in fused_parameters(module):
                count, transposed = len(getattr(module, key)), is_transposed(module)
                found += [Matrix(f"{name}.{key}.{e}", module, key, e, transposed) for e in range(count)]
        elif mixes and _in_router(name):
            continue
        elif type(module) in (nn.Linear, Conv1D):
            _require_floats(f"{block_name}.{name}", module.weight)
            found.append(Matrix(f"{name}.weight", module, "weight", None, isinstance(module, Conv1D)))
        else:
            _refuse_unknown(f"{block_name}.{name}", module)
    if not found:
        raise ModelError(f"{block_name} holds no linear layer to prune.")
    return {matrix.name: matrix for matrix in found}


def _in_router(name: str) -> bool:
    """Tell whether a module is, or is part of, what chooses between experts: few weights that decide much."""
    return not ROUTERS.isdisjoint(name.split("."))


def _refuse_adapter(name: str) -> None:
    layer, _, part = name.rpartition(".")
    if part == "base_layer" or part.startswith("lora_"):
        raise ModelError(f"{layer} has an adapter ({part}), so it is not a plain linear layer; {_TO_PRUNE_IT}")


def _require_floats(name: str, weight: torch.Tensor) -> None:
    if not weight.is_floating_point() or weight.element_size() < 2:
        raise ModelError(f"{name} holds quantized weights; load the model unquantized to prune it.")


def _is_gate(name: str, parameter: nn.Parameter) -> bool:
    """Tell whether a 3-D parameter is block-diagonal, as the gates of linear recurrences are: part of no linear layer."""
    return parameter.shape[1] == parameter.shape[2] and not any(part in name.lower() for part in ("expert", "moe"))


def _refuse_unknown(name: str, module: nn.Module) -> None:
    for key, parameter in module.named_parameters(recurse=False):
        if parameter.ndim == 3 and min(parameter.shape[1:]) > 1 and not _is_gate(f"{name}.{key}", parameter):
            raise ModelError(
                f"{name}.{key} fuses the experts of a mixture-of-experts layer in a way that transformers does not let others "
                f"run ({type(module).__name__}), so it cannot be pruned."
            )
        if isinstance(module, nn.Linear):
            raise ModelError(f"{name} is a {type(module).__name__}, not a plain linear layer; {_TO_PRUNE_IT}")
