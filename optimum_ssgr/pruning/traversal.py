"""Two ways through a block that is pruned, and one through a block that stays as it is.

The former are generators, which give the statistics of one hook point after the other: the caller prunes the point's matrices
before it asks for the next one.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import nn

from ..errors import NumericalError
from .activations import Activation
from .blocks import Matrix
from .capture import MicroBatch
from .input_groups import HookPoint, hook_input_groups
from .statistics import InputStatistics, remedy_for_overflow


def traverse_in_two_passes(
    index: int,
    block: nn.Module,
    matrices: Mapping[str, Matrix],
    points: Sequence[HookPoint],
    batches: Sequence[MicroBatch],
    full: bool,
    write_outputs: bool = True,
) -> Iterator[tuple[HookPoint, list[InputStatistics]]]:
    """Gather the statistics of all hook points from the dense block, then run the pruned block for its outputs.

    Args:
        index: Number of the block.
        block: The block.
        matrices: Its prunable matrices by name.
        points: Its hook points.
        batches: What to run through it.
        full: Whether the full second moments are wanted, or their diagonal.
        write_outputs: Whether the hidden states become those of the pruned block at the end; else they stay.

    Yields:
        Every hook point with the statistics of its groups.
    """
    statistics = gather_dense_statistics(index, block, matrices, points, batches, full, write_outputs=False)
    for point in points:
        yield point, statistics.pop(0)  # each is freed once its matrices are pruned
    if write_outputs:
        advance(index, block, batches)


def traverse_in_one_pass(
    index: int,
    block: nn.Module,
    matrices: Mapping[str, Matrix],
    points: Sequence[HookPoint],
    batches: Sequence[MicroBatch],
    full: bool,
    write_outputs: bool = True,
    waiting_bytes: float = math.inf,
) -> Iterator[tuple[HookPoint, list[InputStatistics]]]:
    """Run the block once, holding every micro-batch at each hook point until the point's matrices are pruned.

    So each matrix sees inputs made by the pruned matrices before it ("true sequential"), and no second pass is needed. It costs
    the memory of all micro-batches' activations at a hook point. Those that there is no room for do not wait: they begin anew,
    and come to the next point with the same numbers, since they run through the matrices that are pruned by then.

    Args:
        index: Number of the block.
        block: The block.
        matrices: Its prunable matrices by name.
        points: Its hook points.
        batches: What to run through it.
        full: Whether the full second moments are wanted, or their diagonal.
        write_outputs: Whether the hidden states become those of the pruned block at the end; else they stay.
        waiting_bytes: What those that wait may hold, about.

    Yields:
        Every hook point with the statistics of its groups.
    """
    # The forward pass is transformers' code, which no generator can pause in the middle. A greenlet can: it is a call with a
    # stack of its own, that is left from inside the hook and entered there again. Only one runs at a time, so nothing races.
    caller = getcurrent()
    statistics: list[InputStatistics] = []

    def observe(number: int, inputs: list[torch.Tensor], tokens: list[torch.Tensor] | None) -> None:
        if number < reached:
            return  # begun anew: what this point's inputs are for is pruned
        _accumulate(statistics, inputs, tokens, current)
        # Comes back when the matrices are pruned, which the forward pass then multiplies with.
        caller.switch(sum(part.nbytes for part in inputs))

    def go_on(forward: greenlet) -> Any:
        return forward.switch(*(() if forward else (index, block)))  # a greenlet is true once it was started

    passes = [greenlet(batch.run, caller) for batch in batches]
    reached = 0
    with hook_input_groups(matrices, points, observe):
        for point in points:
            statistics = _new_statistics(point, matrices, full)
            room = waiting_bytes
            for number, batch in enumerate(batches):
                current = batch  # the one that `observe` is called for
                # The forward pass holds the residual stream, and the normalized one, beside the inputs.
                room -= go_on(passes[number]) + 2 * batch.hidden.nbytes
                if room < 0:
                    passes[number].throw()  # ends it where it waits, which frees what it holds
                    passes[number] = greenlet(batch.run, caller)
            yield point, statistics
            reached += 1
        needed = _with_needed_outputs(index, batches) if write_outputs else []
        for batch, forward in zip(needed, passes, strict=False):
            _write_outputs(index, batch.hidden, go_on(forward))
        for forward in passes[len(needed) :]:
            forward.throw()


def gather_dense_statistics(
    index: int,
    block: nn.Module,
    matrices: Mapping[str, Matrix],
    points: Sequence[HookPoint],
    batches: Sequence[MicroBatch],
    full: bool,
    write_outputs: bool = True,
) -> list[list[InputStatistics]]:
    """Run the block once as it is and return the statistics of every hook point's groups.

    Args:
        index: Number of the block.
        block: The block.
        matrices: Its prunable matrices by name.
        points: Its hook points.
        batches: What to run through it, one at a time.
        full: Whether the full second moments are wanted, or their diagonal.
        write_outputs: Whether the hidden states become those after the block; else they stay, and it is run to its last hook
            point only.
    """
    statistics = [_new_statistics(point, matrices, full) for point in points]

    class LastPointReached(Exception):
        """Ends a forward pass at the last hook point, when nobody needs the output."""

    def observe(number: int, inputs: list[torch.Tensor], tokens: list[torch.Tensor] | None) -> None:
        _accumulate(statistics[number], inputs, tokens, batch)
        if number == len(points) - 1 and not write_outputs:
            raise LastPointReached

    with hook_input_groups(matrices, points, observe):
        for batch in batches:
            with suppress(LastPointReached):
                _write_outputs(index, batch.hidden, batch.run(index, block))
    return statistics


def advance(index: int, block: nn.Module, batches: Sequence[MicroBatch]) -> None:
    """Replace the hidden states of all micro-batches by what a block makes of them."""
    for batch in _with_needed_outputs(index, batches):
        _write_outputs(index, batch.hidden, batch.run(index, block))


def advance_targets(index: int, block: nn.Module, batches: Sequence[MicroBatch]) -> None:
    """Replace the dense model's hidden states by what a block makes of them, which must be dense still."""
    for batch in batches:
        _write_outputs(index, batch.target.hidden, batch.target.run(index, block))


def _with_needed_outputs(index: int, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
    """Return the micro-batches that must come out of a block: of the last one nobody needs them, but one shows it is finite."""
    last = bool(batches) and index == len(batches[0].arguments) - 1
    return batches[:1] if last else batches


def _write_outputs(index: int, hidden: Activation, output: torch.Tensor) -> None:
    # What is not finite shows in the sum, which takes a fraction of the time that looking at every number takes.
    if not output.sum(dtype=torch.float32).isfinite():
        remedy = remedy_for_overflow(output.dtype)
        raise NumericalError(f"the output of block {index} is not finite in {output.dtype}; {remedy}.")
    hidden.write(output)


def _new_statistics(point: HookPoint, matrices: Mapping[str, Matrix], full: bool) -> list[InputStatistics]:
    weights = [matrices[group.first].weight() for group in point.groups]
    return [InputStatistics(weight.shape[1], full, weight.device) for weight in weights]


def _accumulate(
    statistics: Sequence[InputStatistics], inputs: list[torch.Tensor], tokens: list[torch.Tensor] | None, batch: MicroBatch
) -> None:
    """Add the inputs of a hook point's groups, without padding and weighted."""
    positions = [slice(None)] if tokens is None else tokens
    for statistic, rows, of in zip(statistics, inputs, positions, strict=True):
        if batch.weights is None:
            statistic.add(rows)
        else:
            weights = batch.weights.to(rows.device)[of]
            statistic.add(rows[weights > 0], weights[weights > 0])
