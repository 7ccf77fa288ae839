"""Where a model's weights are while it is pruned: in the model, with accelerate, or in the files of a checkpoint."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
from accelerate.utils import OffloadedWeightsLoader, has_offloaded_params
from torch import nn
from transformers import PreTrainedModel

from ..compat import offload_hook
from ..errors import ModelError
from .blocks import find_blocks


class Weights(Protocol):
    """Brings parts of a model into memory and takes them away again."""

    def make_probe(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the model, or one like it, that a few tokens can be run through to see how it is wired."""

    def onload_embeddings(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Hold everything outside of the blocks but the output head: what the tokens run through before the first block."""

    def onload_outside(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Hold everything outside of the blocks."""

    def onload_block(self, name: str, block: nn.Module) -> AbstractContextManager[None]:
        """Hold a block's weights; what was changed is kept."""

    def outside(self, model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield name and value of every tensor outside of the blocks."""


class ResidentWeights:
    """The weights are in the model, or accelerate brings them in from the CPU."""

    def make_probe(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the model itself."""
        return model

    def onload_embeddings(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Do nothing: everything is there."""
        return nullcontext()

    def onload_outside(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Do nothing: everything is there."""
        return nullcontext()

    def onload_block(self, name: str, block: nn.Module) -> AbstractContextManager[None]:
        """Hold a block's offloaded weights on their execution device."""
        return onloaded(block)

    def outside(self, model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield name and value of every tensor outside of the blocks, offloaded ones from where they are."""
        for name, module in modules_outside(model).items():
            for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                if not tensor.is_meta:
                    yield f"{name}.{key}", tensor
            if has_offloaded_params(module):
                for key, _ in module.named_parameters(recurse=offload_hook(module).place_submodules):
                    yield f"{name}.{key}", offload_hook(module).weights_map[key]


def check_in_memory(model: PreTrainedModel) -> None:
    """Check that pruned weights can be put back where they are.

    Raises:
        ModelError: Some weights are offloaded to disk, where they cannot.
    """
    for module in model.modules():
        if has_offloaded_params(module):
            loader = offload_hook(module).weights_map.dataset
            if isinstance(loader, OffloadedWeightsLoader) and loader.index:
                raise ModelError("some weights are offloaded to disk, where they cannot be pruned; use streaming instead.")


def modules_outside(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return the modules outside of the blocks by name."""
    blocks = tuple(find_blocks(model))
    return {
        name: module
        for name, module in model.named_modules()
        if not any(name == block or name.startswith(f"{block}.") for block in blocks)
    }


@contextmanager
def onloaded(block: nn.Module) -> Iterator[None]:
    """Hold a block's offloaded weights on the execution device, and put them back at the end as they are then."""
    modules = [module for module in block.modules() if has_offloaded_params(module)]
    for module in modules:
        offload_hook(module).pre_forward(module)
        offload_hook(module).offload = False  # so that its forward passes do not fetch the weights again
    try:
        yield
    finally:
        for module in modules:
            hook = offload_hook(module)
            for name, parameter in module.named_parameters(recurse=hook.place_submodules):
                hook.weights_map[name].copy_(parameter.data)
            hook.offload = True
            hook.post_forward(module, None)
