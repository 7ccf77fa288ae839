"""Fit what pruning has left of a block to what the dense block puts out (arXiv 2510.14444; 2603.01376, transformer matching).

The mask stays. The target is the dense model's hidden state at that depth, so the errors of earlier blocks are repaired, too.
"""

import time
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn
from tqdm.auto import tqdm

from .blocks import Matrix
from .capture import MicroBatch
from .distributed import all_reduce, rank, world_size
from .report import Refinement


# Steps of Adam, in so many passes over the calibration tokens as that takes: many of few tokens, few of many.
STEPS = 400
LEAST_EPOCHS, MOST_EPOCHS = 2, 20
# Learning rates, decaying linearly to 0: of matrices this over their inputs, so that outputs move alike at every width.
MATRIX_RATE = 0.2
VECTOR_RATE = 1e-3


def refine_block(
    index: int,
    block: nn.Module,
    matrices: Mapping[str, Matrix],
    batches: Sequence[MicroBatch],
    epochs: int | None = None,
) -> Refinement:
    """Fit a pruned block's kept weights, norms and biases by Adam, and keep the best that held-out sequences saw.

    Adam works in float32 on the weights as the block's own type rounds them. Zeros stay exact, and the block is never worse on
    the held-out sequences than it was; where nothing is held out, on all of them.

    Args:
        index: Number of the block.
        block: The block, pruned.
        matrices: Its prunable matrices by name.
        batches: This process's shard, with the inputs of the block and their targets.
        epochs: Passes over the calibration tokens; as `count_epochs` says when None.

    Returns:
        The relative error of the block's outputs before and after, and the seconds it took.
    """
    start = time.perf_counter()
    fitted = [batch for batch in batches if not batch.target.held_out]
    judged = [batch for batch in batches if batch.target.held_out]
    judged = judged if _max_over_processes(len(judged)) else fitted
    rounds = _max_over_processes(len(fitted))
    epochs = count_epochs(rounds) if epochs is None else epochs
    # 1. What is fitted: the float32 originals, which in a float32 model are the parameters themselves.
    parameters = list(fitted_parameters(block, matrices).values())
    originals = [parameter.detach().float() for parameter in parameters]
    kept = [original != 0 if original.ndim > 1 else None for original in originals]
    rates = [VECTOR_RATE if of.ndim == 1 else min(VECTOR_RATE, MATRIX_RATE / _inputs(of, matrices)) for of in parameters]
    groups = [{"params": [of], "lr": rate, "rate": rate} for of, rate in zip(originals, rates, strict=True)]
    adam = torch.optim.Adam(groups, eps=1e-12, fused=True)  # gradients of a relative error are small
    # 2. Pass over the tokens, and keep the best.
    power = _sum_over_processes(_power(batch) for batch in fitted)
    best, before = [original.clone() for original in originals], _measure(index, block, judged)
    least, step = before, 0
    generator = torch.Generator().manual_seed(index)
    for _ in tqdm(range(epochs), desc=f"refine block {index}", leave=False, disable=None if rank() == 0 else True):
        order = torch.randperm(len(fitted), generator=generator).tolist()
        for turn in range(rounds):
            gradients = [torch.zeros_like(original) for original in originals]
            if turn < len(order):
                gradients = _differentiate(index, block, fitted[order[turn]], parameters, power)
            for group, gradient, mask in zip(adam.param_groups, gradients, kept, strict=True):
                all_reduce(gradient)
                # Without a gradient Adam leaves a zero exactly as it is.
                group["params"][0].grad = gradient if mask is None else gradient.mul_(mask)
                group["lr"] = group["rate"] * (1 - step / (epochs * rounds))
            adam.step()
            step += 1
            for parameter, original in zip(parameters, originals, strict=True):
                parameter.data.copy_(original)
        error = _measure(index, block, judged)
        if error < least:
            least = error
            for fittest, original in zip(best, originals, strict=True):
                fittest.copy_(original)
    for parameter, fittest in zip(parameters, best, strict=True):
        parameter.data.copy_(fittest)
    return Refinement(before, least, time.perf_counter() - start)


def count_epochs(rounds: int) -> int:
    """Return how often the calibration tokens are passed over, where one pass has so many steps."""
    return min(max(round(STEPS / max(rounds, 1)), LEAST_EPOCHS), MOST_EPOCHS)


def fitted_parameters(block: nn.Module, matrices: Mapping[str, Matrix]) -> dict[str, nn.Parameter]:
    """Return by name the parameters of a block that are fitted.

    These are what holds prunable matrices, and vectors such as norms and biases; what chooses between experts stays.
    """
    holding = {id(getattr(matrix.module, matrix.parameter)) for matrix in matrices.values()}
    return {
        name: parameter
        for name, parameter in block.named_parameters()
        if parameter.is_floating_point() and (id(parameter) in holding or parameter.ndim == 1)
    }


def _inputs(parameter: nn.Parameter, matrices: Mapping[str, Matrix]) -> int:
    """Return how many inputs the matrices in a parameter have."""
    return next(of.weight().shape[1] for of in matrices.values() if getattr(of.module, of.parameter) is parameter)


def _differentiate(
    index: int, block: nn.Module, batch: MicroBatch, parameters: Sequence[nn.Parameter], power: float
) -> list[torch.Tensor]:
    """Return the gradients of a micro-batch's share of the relative error, in float32."""
    frozen = [parameter for parameter in block.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            loss = _squared_error(index, block, batch) / power
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
        for parameter in frozen:
            parameter.requires_grad_(True)
    found = zip(gradients, parameters, strict=True)
    return [torch.zeros_like(of, dtype=torch.float32) if gradient is None else gradient.float() for gradient, of in found]


def _squared_error(index: int, block: nn.Module, batch: MicroBatch) -> torch.Tensor:
    output = batch.run(index, block)
    difference = output.float() - batch.target.hidden.read(output.device).float()
    return (difference.square().sum(-1).flatten() * batch.target.weights.to(output.device)).sum()


def _power(batch: MicroBatch) -> float:
    target = batch.target.hidden.read(batch.target.weights.device).float()
    return (target.square().sum(-1).flatten() * batch.target.weights).sum().item()


def _measure(index: int, block: nn.Module, batches: Sequence[MicroBatch]) -> float:
    """Return the relative squared error of the block's outputs, over all processes."""
    error = _sum_over_processes(_squared_error(index, block, batch).item() for batch in batches)
    return error / max(_sum_over_processes(_power(batch) for batch in batches), 1e-30)


def _sum_over_processes(values: Iterable[float]) -> float:
    total = torch.tensor(sum(values), dtype=torch.float64)
    all_reduce(total)
    return total.item()


def _max_over_processes(count: int) -> int:
    counts = torch.zeros(world_size(), dtype=torch.int64)
    counts[rank()] = count
    all_reduce(counts)
    return int(counts.max())
