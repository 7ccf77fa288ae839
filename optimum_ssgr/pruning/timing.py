"""Seconds that pruning takes on this machine, reckoned from one block of each kind."""

import copy
import dataclasses
import math
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Cache

from ..compat import tree_map_only
from ..config import PruningConfig
from .activations import Activation
from .block_store import BlockStore, hash_block
from .blocks import Matrix, find_matrices
from .capture import BATCH_TOKENS, Arguments, MicroBatch, Target, TokenSequence, make_batches
from .input_groups import HookPoint
from .layerwise import measure_outliers, prune_block
from .refine import count_epochs, refine_block
from .solve import make_pattern


def time_block(
    name: str,
    skeleton: nn.Module,
    arguments: Arguments,
    points: Sequence[HookPoint],
    config: PruningConfig,
    dtype: torch.dtype,
    device: torch.device,
    shape: Sequence[int],
    tokens: int,
) -> float:
    """Prune a block of random weights with few tokens and with twice as many, and reckon the seconds for all of them.

    The shape is that of the hidden states of the few tokens, [..., tokens, hidden].
    """
    block, matrices, twofold = _randomize(name, skeleton, arguments, dtype, device)
    config = dataclasses.replace(config, refine=tuple(other for other in config.refine if other != "blocks"))

    def seconds(batches: int) -> float:
        waiting = _make_waiting(matrices, twofold, batches, shape)
        start = time.perf_counter()
        if config.allocation == "owl":
            measure_outliers(0, block, matrices, points, waiting)
        list(prune_block(0, name, block, matrices, points, waiting, config, make_pattern(config)))
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    if not config.needs_calibration:
        return seconds(0)
    seconds(1)  # warms up
    once, twice = seconds(1), seconds(2)
    per_token = max(twice - once, 0.0) / shape[-2]
    return max(once - per_token * shape[-2], 0.0) + per_token * tokens


def time_refinement(
    name: str,
    skeleton: nn.Module,
    arguments: Arguments,
    dtype: torch.dtype,
    device: torch.device,
    shape: Sequence[int],
    lengths: Sequence[int],
) -> float:
    """Take one step of fitting a block of random weights, and two, and reckon the seconds for all of them."""
    block, matrices, twofold = _randomize(name, skeleton, arguments, dtype, device)
    shape = (*shape[:-3], max(1, BATCH_TOKENS // shape[-2]), *shape[-2:])
    ones = torch.ones(math.prod(shape[:-1]), device=device)

    def seconds(steps: int) -> float:
        waiting = _make_waiting(matrices, twofold, steps + 1, shape)
        for number, batch in enumerate(waiting):
            batch.target = Target(batch.hidden, ones, number == 0, batch.arguments)
        return refine_block(0, block, matrices, waiting, epochs=1).seconds

    seconds(1)  # warms up
    per_token = max(seconds(2) - seconds(1), 0.0) / math.prod(shape[-3:-1])
    rounds = sum(1 for _ in make_batches([TokenSequence(range(length)) for length in lengths]))
    # One pass more for what the dense block makes of them, and for looking at those held out.
    return (count_epochs(rounds) + 1) * per_token * sum(lengths)


def _randomize(
    name: str, skeleton: nn.Module, arguments: Arguments, dtype: torch.dtype, device: torch.device
) -> tuple[nn.Module, dict[str, Matrix], list[Arguments]]:
    """Return a block of random weights, its matrices, and what it is called with, twice: the last block is run less."""
    block = copy.deepcopy(skeleton).to(dtype).to_empty(device=device)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.02)
    for buffer in block.buffers():
        buffer.zero_()
    for module in block.modules():  # a state that the tokens before have left there, on the meta device
        left = [key for key, value in vars(module).items() if isinstance(value, torch.Tensor) and value.is_meta]
        vars(module).update(dict.fromkeys(left))
    args, kwargs = tree_map_only(torch.Tensor, lambda tensor: torch.ones_like(tensor, device=device), arguments)
    called = _without_cache(args), dict(zip(kwargs, _without_cache(kwargs.values()), strict=True))
    return block, find_matrices(name, block), [called, called]


def _without_cache(arguments: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(None if isinstance(argument, Cache) else argument for argument in arguments)


def _make_waiting(
    matrices: Mapping[str, Matrix], called: list[Arguments], batches: int, shape: Sequence[int]
) -> list[MicroBatch]:
    """Return micro-batches of random hidden states."""
    first = next(iter(matrices.values())).weight()
    hidden = torch.randn(batches, *shape, device=first.device).to(first.dtype)
    return [MicroBatch(Activation(part, None, False), None, called) for part in hidden]


def time_files(name: str, skeleton: nn.Module, dtype: torch.dtype, streaming: bool) -> float:
    """Write and read a block, and reckon the seconds for all that is done with its files."""
    block = copy.deepcopy(skeleton).to(dtype).to_empty(device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        journal = BlockStore(Path(folder))
        start = time.perf_counter()
        hash_block(block)
        hashed = time.perf_counter()
        journal.write(0, name, block, "", [])
        written = time.perf_counter()
        journal.read(0)
        read = time.perf_counter()
    # To the journal and the checkpoint, which is then loaded; a streamed run links the files and reads the original ones.
    writes, reads = (1, 2) if streaming else (2, 1)
    return (hashed - start) + writes * (written - hashed) + reads * (read - written)
