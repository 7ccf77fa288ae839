"""Where a model's prunable weights are: the linear layers of its decoder blocks, found without knowing the architecture."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..errors import ModelError


Linear = nn.Linear | Conv1D


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


def find_linears(block_name: str, block: nn.Module) -> dict[str, Linear]:
    """Find the linear layers of a block.

    Returns:
        Linear layers by their name in the block.

    Raises:
        ModelError: The block keeps weights in a form that cannot be pruned (fused experts, quantized or custom layers).
    """
    linears: dict[str, Linear] = {}
    for name, module in block.named_modules():
        if type(module) in (nn.Linear, Conv1D):
            if not module.weight.is_floating_point() or module.weight.element_size() < 2:
                raise ModelError(f"{block_name}.{name} holds quantized weights; load the model unquantized to prune it.")
            linears[name] = module
            continue
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 3 and parameter.shape[1] > 1 and parameter.shape[2] > 1:
                raise ModelError(
                    f"{block_name}.{name}.{key} fuses the experts of a mixture-of-experts layer, which is not supported yet."
                )
            if isinstance(module, nn.Linear):
                raise ModelError(
                    f"{block_name}.{name} is a {type(module).__name__}, not a plain linear layer; "
                    "merge adapters and load the model unquantized to prune it."
                )
    if not linears:
        raise ModelError(f"{block_name} holds no linear layer to prune.")
    return linears


def weight_matrix(linear: Linear) -> torch.Tensor:
    """Return the weights as a view of shape [out, in], whichever way round the layer stores them."""
    return linear.weight.data.T if isinstance(linear, Conv1D) else linear.weight.data
