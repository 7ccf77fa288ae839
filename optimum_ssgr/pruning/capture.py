"""What every block is called with: hidden states into the first one, all other arguments of each."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


BATCH_TOKENS = 8192


@dataclass
class MicroBatch:
    """Some calibration sequences on their way through the blocks.

    Args:
        hidden: Input of the next block, float [sequences, positions, hidden].
        real: bool [sequences, positions], False on padding.
        arguments: For every block, what it is called with besides the hidden states.
    """

    hidden: torch.Tensor
    real: torch.Tensor
    arguments: list[tuple[tuple[Any, ...], dict[str, Any]]]

    def run(self, index: int, block: nn.Module) -> torch.Tensor:
        """Call a block on the hidden states and return what comes out."""
        args, kwargs = self.arguments[index]
        output = block(self.hidden, *args, **kwargs)
        return output[0] if isinstance(output, tuple) else output


class _Stop(Exception):
    """Ends a forward pass after the last block."""


def make_batches(sequences: Sequence[Sequence[int]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Group sequences of similar length, padded on the right: a causal model's real tokens never see that padding.

    Yields:
        Token ids, int64 [sequences, positions], and which of them are real, bool of the same shape.
    """
    waiting = sorted(sequences, key=len)
    while waiting:
        count = max(1, BATCH_TOKENS // len(waiting[-1]))
        chosen, waiting = waiting[-count:], waiting[:-count]
        ids = torch.zeros(len(chosen), len(chosen[-1]), dtype=torch.long)
        real = torch.zeros_like(ids, dtype=torch.bool)
        for row, sequence in enumerate(chosen):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            real[row, : len(sequence)] = True
        yield ids, real


@contextmanager
def _replaced_forwards(blocks: Sequence[nn.Module], forwards: Sequence[Any]) -> Iterator[None]:
    previous = [block.__dict__.get("forward") for block in blocks]
    for block, forward in zip(blocks, forwards, strict=True):
        block.forward = forward
    try:
        yield
    finally:
        for block, forward in zip(blocks, previous, strict=True):
            if forward is None:
                del block.forward
            else:
                block.forward = forward


def _output_kinds(model: PreTrainedModel, blocks: Sequence[nn.Module], ids: torch.Tensor) -> list[bool]:
    """Tell for every block whether it returns a tuple, by running a few tokens through the model."""
    kinds: list[bool] = []
    hooks = [block.register_forward_hook(lambda *call: kinds.append(isinstance(call[-1], tuple))) for block in blocks]
    try:
        model(ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return kinds


def capture_inputs(model: PreTrainedModel, blocks: Sequence[nn.Module], sequences: Sequence[Sequence[int]]) -> list[MicroBatch]:
    """Run the part of the model before the blocks and note what each block is called with.

    The blocks themselves stand aside: each hands its input on unchanged, so the cost is that of the embeddings.

    Args:
        model: The model.
        blocks: Its decoder blocks.
        sequences: Token ids of the calibration sequences.
    """
    device = model.get_input_embeddings().weight.device
    tuples = _output_kinds(model, blocks, torch.tensor([list(sequences[0][:4])], device=device))
    calls: list[tuple[torch.Tensor, tuple[Any, ...], dict[str, Any]]] = []

    def stand_aside(index: int) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            hidden = args[0] if args else kwargs.pop("hidden_states")
            calls.append((hidden, args[1:], kwargs))
            if index == len(blocks) - 1:
                raise _Stop
            return (hidden,) if tuples[index] else hidden

        return forward

    batches = []
    with _replaced_forwards(blocks, [stand_aside(index) for index in range(len(blocks))]):
        for ids, real in make_batches(sequences):
            calls.clear()
            with suppress(_Stop):
                model(ids.to(device), use_cache=False)
            batches.append(MicroBatch(calls[0][0], real.to(device), [(args, kwargs) for _, args, kwargs in calls]))
    return batches
