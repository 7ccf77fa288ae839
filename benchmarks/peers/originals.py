"""The layer loops of the original SparseGPT and Wanda, around their own classes.

`SparseGPT` (github.com/IST-DASLab/sparsegpt, `sparsegpt.py`) and `WrappedGPT` (github.com/locuslab/wanda,
`lib/layerwrapper.py`) are imported unmodified from the user's clones. The loops around them (`llama_sequential` of `llama.py`,
`prune_wanda` of `lib/prune.py`) cannot be: they read c4, move everything to CUDA and call decoder layers the way transformers
did in 2023. The loop below does what they do, in their order: catch the inputs of the first block into one buffer, one sequence
at a time; run every block on every sequence with a hook on each linear layer; prune the layers one after another; run the block
again for the next block's inputs, and swap the two buffers. It differs in what cannot matter to the result: it hands a block
whatever the model hands it now (`position_embeddings` and so on), and `torch.cuda.synchronize`, which `SparseGPT.fasterprune`
calls, does nothing where there is no GPU. Attention is what transformers uses by default now, which is faster than in 2023.
"""

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import Qwen2ForCausalLM


class _Caught(Exception):
    """The first block's inputs are in the buffer; the rest of the model need not run."""


class _Catcher(nn.Module):
    """Stands in for the first block and keeps what it is called with."""

    def __init__(self, block: nn.Module, inputs: torch.Tensor) -> None:
        super().__init__()
        self.block = block
        self.inputs = inputs
        self.count = 0
        self.arguments: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # the model asks blocks for their kind of attention
            return getattr(super().__getattr__("block"), name)

    def forward(self, hidden: torch.Tensor, **arguments: Any) -> None:
        self.inputs[self.count] = hidden
        self.count += 1
        self.arguments = arguments
        raise _Caught


def _catch_inputs(model: Qwen2ForCausalLM, calibration: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    """Fill a buffer with the first block's inputs; return it with the keyword arguments of a block."""
    inputs = torch.zeros((*calibration.shape, model.config.hidden_size), dtype=model.dtype)
    blocks = model.model.layers
    catcher = _Catcher(blocks[0], inputs)
    blocks[0] = catcher
    for sequence in calibration:
        with contextlib.suppress(_Caught):
            model(sequence[None])
    blocks[0] = catcher.block
    return inputs, catcher.arguments


@torch.no_grad()
def _prune_blocks(
    model: Qwen2ForCausalLM,
    calibration: torch.Tensor,
    wrapper: Callable[[nn.Linear], Any],
    prune: Callable[[nn.Linear, Any], None],
) -> None:
    """Go through the blocks as both originals do; `prune` prunes one layer with what its wrapper has gathered."""
    inputs, arguments = _catch_inputs(model, calibration)
    outputs = torch.zeros_like(inputs)
    for block in model.model.layers:
        linears = {name: module for name, module in block.named_modules() if type(module) is nn.Linear}
        wrapped = {name: wrapper(linear) for name, linear in linears.items()}

        def add_batch(name: str, wrapped: dict[str, Any] = wrapped) -> Callable[..., None]:
            def hook(_: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
                wrapped[name].add_batch(args[0].data, out.data)

            return hook

        handles = [linear.register_forward_hook(add_batch(name)) for name, linear in linears.items()]
        for index in range(len(inputs)):
            outputs[index] = block(inputs[index].unsqueeze(0), **arguments)[0]
        for handle in handles:
            handle.remove()
        for name, linear in linears.items():
            prune(linear, wrapped[name])
        for index in range(len(inputs)):
            outputs[index] = block(inputs[index].unsqueeze(0), **arguments)[0]
        inputs, outputs = outputs, inputs


def sparsegpt(repo: str, pattern: str) -> Callable[[Qwen2ForCausalLM, torch.Tensor], None]:
    """Import the original SparseGPT and return what prunes a model with it, with its defaults (block size, damping)."""
    sys.path.insert(0, repo)
    from sparsegpt import SparseGPT

    if not torch.cuda.is_available():
        torch.cuda.synchronize = lambda *_: None
    pruned, group = (2, 4) if pattern == "2:4" else (0, 0)

    def prune(_: nn.Linear, wrapped: SparseGPT) -> None:
        wrapped.fasterprune(0.5, prunen=pruned, prunem=group, percdamp=0.01, blocksize=128)
        wrapped.free()

    return lambda model, calibration: _prune_blocks(model, calibration, SparseGPT, prune)


def _wanda_mask(weight: torch.Tensor, squared_norms: torch.Tensor, pattern: str) -> torch.Tensor:
    """Choose the weights to remove, line by line as `prune_wanda` does."""
    metric = torch.abs(weight) * torch.sqrt(squared_norms.reshape((1, -1)))
    mask = torch.zeros_like(metric) == 1
    if pattern == "2:4":
        for column in range(metric.shape[1]):
            if column % 4 == 0:
                group = metric[:, column : (column + 4)].float()
                mask.scatter_(1, column + torch.topk(group, 2, dim=1, largest=False)[1], True)
    else:
        order = torch.sort(metric, dim=-1, stable=True)
        mask.scatter_(1, order[1][:, : int(metric.shape[1] * 0.5)], True)
    return mask


def wanda(repo: str, pattern: str) -> Callable[[Qwen2ForCausalLM, torch.Tensor], None]:
    """Import the original Wanda and return what prunes a model with it."""
    sys.path.insert(0, repo)
    from lib.layerwrapper import WrappedGPT

    def prune(linear: nn.Linear, wrapped: WrappedGPT) -> None:
        linear.weight.data[_wanda_mask(linear.weight.data, wrapped.scaler_row, pattern)] = 0

    return lambda model, calibration: _prune_blocks(model, calibration, WrappedGPT, prune)
