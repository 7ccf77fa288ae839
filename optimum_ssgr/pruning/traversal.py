"""Two ways through a block that is pruned, and one through a block that stays as it is.

The former give each stage's statistics in turn: the caller prunes between one and the next.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import torch
from greenlet import getcurrent, greenlet
from torch import nn

from ..errors import NumericalError
from .blocks import Matrix
from .capture import MicroBatch
from .stages import Stage, watched
from .statistics import InputStatistics


# A stage and the statistics of each of its shares; to prune the stage's matrices before the next one is asked for.
Turn = tuple[Stage, list[InputStatistics]]


def two_pass(
    index: int,
    block: nn.Module,
    matrices: Mapping[str, Matrix],
    stages: Sequence[Stage],
    batches: Sequence[MicroBatch],
    full: bool,
) -> Iterator[Turn]:
    """Gather the statistics of all stages from the dense block, then run the pruned block for its outputs.

    Args:
        index: Number of the block.
        block: The block.
        matrices: Its prunable matrices by name.
        stages: Its stages.
        batches: What to run through it; their hidden states are those of the pruned block at the end.
        full: Whether the full second moments are wanted, or their diagonal.
    """
    statistics = count_dense(index, block, matrices, stages, batches, full, moving_on=False)
    for stage in stages:
        yield stage, statistics.pop(0)
    advance(index, block, batches)


def staged(
    index: int,
    block: nn.Module,
    matrices: Mapping[str, Matrix],
    stages: Sequence[Stage],
    batches: Sequence[MicroBatch],
    full: bool,
) -> Iterator[Turn]:
    """Run the block once, holding every micro-batch at each stage until that stage is pruned.

    So each stage sees inputs made by the pruned stages before it ("true sequential"), and no second pass is needed. It costs
    the memory of all micro-batches' activations at a stage.

    Args:
        index: Number of the block.
        block: The block.
        matrices: Its prunable matrices by name.
        stages: Its stages.
        batches: What to run through it; their hidden states are those of the pruned block at the end.
        full: Whether the full second moments are wanted, or their diagonal.
    """
    caller = getcurrent()
    statistics: list[InputStatistics] = []

    def observe(number: int, inputs: list[torch.Tensor], tokens: list[torch.Tensor] | None) -> None:
        _count(statistics, inputs, tokens, current)
        caller.switch()

    passes = [greenlet(batch.run, caller) for batch in batches]
    with watched(matrices, stages, observe):
        for stage in stages:
            statistics = _new_statistics(stage, matrices, full)
            for batch, forward in zip(batches, passes, strict=True):
                current = batch  # the one that `observe` is called for
                forward.switch(*(() if forward else (index, block)))
            yield stage, statistics
        wanted = _wanted(index, batches)
        for batch, forward in zip(wanted, passes, strict=False):
            _hand_on(index, batch, forward.switch())
        for forward in passes[len(wanted) :]:
            forward.throw()


def count_dense(
    index: int,
    block: nn.Module,
    matrices: Mapping[str, Matrix],
    stages: Sequence[Stage],
    batches: Sequence[MicroBatch],
    full: bool,
    moving_on: bool = True,
) -> list[list[InputStatistics]]:
    """Run the block once as it is and return the statistics of every stage.

    Args:
        index: Number of the block.
        block: The block.
        matrices: Its prunable matrices by name.
        stages: Its stages.
        batches: What to run through it, one at a time.
        full: Whether the full second moments are wanted, or their diagonal.
        moving_on: Whether the hidden states become those after the block; else they stay, and it is run to its last stage only.
    """
    statistics = [_new_statistics(stage, matrices, full) for stage in stages]

    class Enough(Exception):
        """Ends a forward pass at the last stage, whose output nobody needs."""

    def observe(number: int, inputs: list[torch.Tensor], tokens: list[torch.Tensor] | None) -> None:
        _count(statistics[number], inputs, tokens, batch)
        if number == len(stages) - 1 and not moving_on:
            raise Enough

    with watched(matrices, stages, observe):
        for batch in batches:
            with suppress(Enough):
                _hand_on(index, batch, batch.run(index, block))
    return statistics


def advance(index: int, block: nn.Module, batches: Sequence[MicroBatch]) -> None:
    """Replace the hidden states of all micro-batches by what a block makes of them."""
    for batch in _wanted(index, batches):
        _hand_on(index, batch, batch.run(index, block))


def _wanted(index: int, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
    """Return the micro-batches that must come out of a block: of the last one nobody needs them, but one shows it is finite."""
    last = bool(batches) and index == len(batches[0].arguments) - 1
    return batches[:1] if last else batches


def _hand_on(index: int, batch: MicroBatch, output: torch.Tensor) -> None:
    # What is not finite shows in the sum, which takes a fraction of the time that looking at every number takes.
    if not output.sum(dtype=torch.float32).isfinite():
        raise NumericalError(f"the output of block {index} is not finite after pruning; load the model in float32.")
    batch.hidden.write(output)


TRAVERSALS: dict[str, Callable[..., Iterator[Turn]]] = {"staged": staged, "two_pass": two_pass}


def _new_statistics(stage: Stage, matrices: Mapping[str, Matrix], full: bool) -> list[InputStatistics]:
    weights = [matrices[share[0]].weight() for share in stage.shares]
    return [InputStatistics(weight.shape[1], full, weight.device) for weight in weights]


def _count(
    statistics: Sequence[InputStatistics], inputs: list[torch.Tensor], tokens: list[torch.Tensor] | None, batch: MicroBatch
) -> None:
    """Add the inputs of a stage, without padding and weighted."""
    places = [slice(None)] if tokens is None else tokens
    for statistic, rows, of in zip(statistics, inputs, places, strict=True):
        if batch.weights is None:
            statistic.add(rows)
        else:
            weights = batch.weights.to(rows.device)[of]
            statistic.add(rows[weights > 0], weights[weights > 0])
