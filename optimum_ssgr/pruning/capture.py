"""What every block is called with: hidden states into the first one, all other arguments of each."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..compat import tree_map_only
from ..errors import ModelError
from ..tokens import rotary_switch
from .activations import Activation, ActivationStore
from .forwards import replaced_forwards
from .memory import release_weights
from .weights import onloaded


# Enough for fast matrix products, few enough that what a block makes of them inside stays small.
BATCH_TOKENS = 1024
# Of so many sequences one only tells how well blocks are fitted to the others.
HELD_OUT = 8
# What a block is called with besides the hidden states.
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class TokenSequence:
    """One sequence to calibrate on.

    Args:
        ids: Token ids.
        weights: Importance of each token in the statistics, 0 or more; None counts every token once.
        prompt: How many of the first tokens blocks are not fitted to.
    """

    ids: Sequence[int]
    weights: Sequence[float] | None = None
    prompt: int = 0


@dataclass
class Target:
    """What a pruned block's outputs are fitted to.

    Args:
        hidden: Hidden states of the dense model at the same depth as those of the micro-batch.
        weights: Importance of the flattened tokens, float [tokens], 0 on padding and prompts.
        held_out: Whether nothing is fitted to them; they only tell how well it went.
        arguments: For every block, what it is called with besides the hidden states. The tensors are those of the micro-batch;
            what blocks hand on to later ones by writing to an argument (keys and values) is the dense model's own.
    """

    hidden: Activation
    weights: torch.Tensor
    held_out: bool
    arguments: list[Arguments]

    def run(self, index: int, block: nn.Module) -> torch.Tensor:
        """Call a dense block on the hidden states and return what comes out."""
        return _run_block(block, self.hidden, self.arguments[index])


@dataclass
class MicroBatch:
    """Some calibration sequences on their way through the blocks.

    Args:
        hidden: Input of the next block, float [sequences, positions, hidden].
        weights: Importance of the flattened tokens, float [tokens], 0 on padding; None when all count once.
        arguments: For every block, what it is called with besides the hidden states.
        target: What blocks are fitted to; None when they are not.
    """

    hidden: Activation
    weights: torch.Tensor | None
    arguments: list[Arguments]
    target: Target | None = None

    def run(self, index: int, block: nn.Module) -> torch.Tensor:
        """Call a block on the hidden states and return what comes out."""
        return _run_block(block, self.hidden, self.arguments[index])


def _run_block(block: nn.Module, hidden: Activation, arguments: Arguments) -> torch.Tensor:
    args, kwargs = arguments
    output = block(hidden.read(next(block.parameters()).device), *args, **kwargs)
    return output[0] if isinstance(output, tuple) else output


class _LastBlockReached(Exception):
    """Ends a forward pass at the last block, since nobody needs what comes after."""


def make_batches(sequences: Sequence[TokenSequence], switch: int | None = None) -> Iterator[list[TokenSequence]]:
    """Group sequences of similar length, the longest first.

    Args:
        sequences: The sequences.
        switch: A length that no group has shorter and longer sequences than; see `tokens.rotary_switch`.

    Yields:
        Sequences to run together.
    """
    waiting = sorted(sequences, key=lambda sequence: len(sequence.ids))
    while waiting:  # the longest come first
        longest = len(waiting[-1].ids)
        count = max(1, BATCH_TOKENS // longest)
        if switch is not None and longest > switch:
            count = min(count, sum(len(sequence.ids) > switch for sequence in waiting))
        chosen, waiting = waiting[-count:], waiting[:-count]
        yield chosen


def _pad(sequences: Sequence[TokenSequence]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad sequences on the right: a causal model's real tokens never see that padding.

    Returns:
        Token ids, int64 [sequences, positions], and their weights, float of the same shape, 0 on padding.
    """
    longest = max(len(sequence.ids) for sequence in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    weights = torch.zeros(len(sequences), longest)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
        weights[row, : len(sequence.ids)] = 1.0 if sequence.weights is None else torch.tensor(sequence.weights)
    return ids, weights


def capture_arguments(
    model: PreTrainedModel, blocks: Sequence[nn.Module], outputs: Sequence[Any], ids: torch.Tensor
) -> tuple[torch.Tensor, list[Arguments]]:
    """Return what goes into the first block, and every block's other arguments.

    Masks and rotary tables are made by the model around the blocks, each architecture in its own way. So the model itself is
    run, with blocks that do nothing: each passes its input through and the last one ends the pass. The cost is the embeddings'.

    Args:
        model: The model; its blocks may be on the meta device.
        blocks: Its decoder blocks.
        outputs: What `probe_outputs` returned: where a block returns a tuple, the code around it expects one of that length.
        ids: Token ids, int64 [sequences, positions].
    """
    calls: list[tuple[torch.Tensor, Arguments]] = []

    def passthrough(index: int) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            hidden = args[0] if args else kwargs.pop("hidden_states")
            calls.append((hidden, (args[1:], kwargs)))
            if index == len(blocks) - 1:
                raise _LastBlockReached
            like = outputs[index]
            return (hidden, *[None] * (len(like) - 1)) if isinstance(like, tuple) else hidden

        return forward

    with replaced_forwards(blocks, [passthrough(index) for index in range(len(blocks))]), suppress(_LastBlockReached):
        model(ids, use_cache=ids.is_meta)  # see `probe_outputs`
    return calls[0][0], [arguments for _, arguments in calls]


def probe_outputs(model: PreTrainedModel, blocks: Sequence[nn.Module], ids: torch.Tensor) -> list[Any]:
    """Run a few tokens through the model, on the meta device too, and return what every block returns.

    Raises:
        ModelError: The blocks do not run once each, one after the other.
    """
    outputs: list[Any] = []
    order: list[int] = []

    def record(index: int, block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        order.append(index)
        outputs.append(output)
        release_weights(block)  # one block at a time is needed

    hooks = [block.register_forward_hook(partial(record, index)) for index, block in enumerate(blocks)]
    try:
        # Without a cache transformers looks for packed sequences, which takes values that the meta device has not.
        model(ids, use_cache=ids.is_meta)
    finally:
        for hook in hooks:
            hook.remove()
    if order != list(range(len(blocks))):
        raise ModelError(
            f"{type(model).__name__} runs its {len(blocks)} blocks {len(order)} times in a forward pass, not once each in "
            "their order, so their inputs cannot be seen at once; prune it by magnitude, which needs none."
        )
    return outputs


def check_chain(model: PreTrainedModel, blocks: Sequence[nn.Module], outputs: Sequence[Any], ids: torch.Tensor) -> None:
    """Check that running block after block gives what the whole model gives.

    Args:
        model: The model, with its weights.
        blocks: Its decoder blocks.
        outputs: What `probe_outputs` returned.
        ids: The tokens that were run.

    Raises:
        ModelError: The blocks hand more to each other than hidden states.
    """
    refusal = ModelError(
        f"the blocks of {type(model).__name__} hand more to each other than their hidden states, "
        "so they cannot be pruned one by one."
    )
    try:
        hidden, arguments = capture_arguments(model, blocks, outputs, ids)
        batch = MicroBatch(Activation(hidden, None, False), None, arguments)
        for index, block in enumerate(blocks):
            with onloaded(block):
                batch.hidden.write(batch.run(index, block))
            release_weights(block)
    except (TypeError, ValueError, AttributeError) as error:  # of a block that finds None where another's output should be
        raise refusal from error
    expected = outputs[-1][0] if isinstance(outputs[-1], tuple) else outputs[-1]
    if (batch.hidden.read(expected.device) - expected).norm() > 0.02 * expected.norm():
        raise refusal


def capture_inputs(
    model: PreTrainedModel,
    blocks: Sequence[nn.Module],
    outputs: Sequence[Any],
    sequences: Sequence[TokenSequence],
    store: ActivationStore,
    with_targets: bool = False,
) -> list[MicroBatch]:
    """Run the part of the model before the blocks and record what each block is called with.

    Args:
        model: The model; its blocks may be on the meta device.
        blocks: Its decoder blocks.
        outputs: What `probe_outputs` returned.
        sequences: What to calibrate on.
        store: Where to keep the hidden states.
        with_targets: Whether blocks are going to be fitted to the dense ones, whose hidden states are kept, too.
    """
    device = find_model_device(model)
    batches: list[MicroBatch] = []
    held: list[torch.Tensor] = []  # masks and rotary tables of the longest sequences, which come first
    switch = rotary_switch(model.config)
    fitted, held_out = _hold_out(sequences) if with_targets else (sequences, [])
    for part in (fitted, held_out):
        for chosen in make_batches(part, switch):
            ids, weights = _pad(chosen)
            hidden, arguments = capture_arguments(model, blocks, outputs, ids.to(device))
            arguments = _deduplicate(arguments, held)
            importance = None if bool((weights == 1).all()) else weights.flatten().to(hidden.device)
            batch = MicroBatch(store.add(hidden), importance, arguments)
            if with_targets:
                on_responses = _without_prompts(chosen, weights).flatten().to(hidden.device)
                hidden, arguments = capture_arguments(model, blocks, outputs, ids.to(device))
                batch.target = Target(store.add(hidden), on_responses, part is held_out, _deduplicate(arguments, held))
            batches.append(batch)
    return batches


def _hold_out(sequences: Sequence[TokenSequence]) -> tuple[list[TokenSequence], list[TokenSequence]]:
    """Part sequences into those that blocks are fitted to and one in `HELD_OUT`, of all lengths, or at least one of two."""
    ordered = sorted(range(len(sequences)), key=lambda number: len(sequences[number].ids))
    out = set(ordered[min(HELD_OUT // 2, len(ordered) - 2) :: HELD_OUT] if len(ordered) > 1 else ())
    fitted = [sequence for number, sequence in enumerate(sequences) if number not in out]
    return fitted, [sequences[number] for number in sorted(out)]


def _without_prompts(sequences: Sequence[TokenSequence], weights: torch.Tensor) -> torch.Tensor:
    """Return the weights of the tokens with 0 on prompts; of all tokens, where there are none behind the prompt."""
    weights = weights.clone()
    for row, sequence in zip(weights, sequences, strict=True):
        if row[sequence.prompt :].any():
            row[: sequence.prompt] = 0
    return weights


def find_model_device(model: PreTrainedModel) -> torch.device:
    """Return the device that takes the token ids: the first that holds anything, or the meta device when none does."""
    tensors = chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors if not tensor.is_meta), torch.device("meta"))


def _deduplicate(arguments: list[Arguments], held: list[torch.Tensor]) -> list[Arguments]:
    """Return arguments whose tensors are parts of held ones where they are equal to them.

    Every micro-batch has the arguments of every block, which would be more than its hidden states. But masks and rotary tables
    of a sequence are the leading part of a longer one's, so that few are held; what is equal to none is held from now on.
    Blocks share most of them, so each tensor object is compared once.
    """
    known: dict[int, torch.Tensor] = {}

    def find(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in known:
            parts = (_leading_part(other, tensor) for other in held)
            part = next((part for part in parts if part is not None and torch.equal(part, tensor)), None)
            if part is None:
                held.append(tensor)
            known[id(tensor)] = tensor if part is None else part
        return known[id(tensor)]

    return tree_map_only(torch.Tensor, find, arguments)


def _leading_part(tensor: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor | None:
    """Return a view of a tensor's first entries of the wanted shape, expanded where its size is 1; None where there is none."""
    alike = (tensor.ndim, tensor.dtype, tensor.device) == (wanted.ndim, wanted.dtype, wanted.device)
    if not alike or any(size < other and size != 1 for size, other in zip(tensor.shape, wanted.shape, strict=True)):
        return None
    return tensor[tuple(slice(size) for size in wanted.shape)].expand(wanted.shape)
