"""What a pruning run will take, told before it: memory and disk by counting, time by timing one block on this machine."""

import copy
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers import PreTrainedModel

from ..config import PruningConfig
from .activations import Activation
from .blocks import Matrix, find_blocks, find_matrices
from .capture import BATCH_TOKENS, Arguments, MicroBatch, call_arguments, probe_outputs
from .experts import observable
from .journal import Journal, hash_block
from .layerwise import count_outliers, prune_block
from .solve import SECOND_ORDER, as_pattern
from .stages import Stage, noted


# Tokens of the micro-batch that is timed.
TIMED_TOKENS = 2048


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Args:
        memory: Most bytes of tensors at a time.
        disk: Most bytes on disk at a time, checkpoint included.
        seconds: Seconds for pruning and writing, without loading the model.
    """

    memory: int
    disk: int
    seconds: float


@torch.no_grad()
def make_plan(
    skeleton: PreTrainedModel,
    lengths: Sequence[int],
    config: PruningConfig,
    *,
    dtype: torch.dtype,
    device: torch.device,
    streaming: bool,
    activation_bytes: int,
) -> Plan:
    """Predict memory, disk and time of pruning a model.

    Args:
        skeleton: The model on the meta device.
        lengths: Tokens of every calibration sequence.
        config: Method, sparsity and mode.
        dtype: Weight type.
        device: Where the blocks are pruned.
        streaming: Whether the model is streamed.
        activation_bytes: Hidden states kept in memory when it is.
    """
    blocks = find_blocks(skeleton)
    block_name, block = next(iter(blocks.items()))
    matrices = find_matrices(block_name, block)
    ids = torch.zeros(1, min(TIMED_TOKENS, max([4, *lengths])), dtype=torch.long, device="meta")
    all_matrices = {name: find_matrices(name, member) for name, member in blocks.items()}
    with observable(skeleton), noted(all_matrices) as stages:
        outputs = probe_outputs(skeleton, list(blocks.values()), ids)
    size = dtype.itemsize
    whole = skeleton.num_parameters() * size
    largest = size * max(sum(parameter.numel() for parameter in member.parameters()) for member in blocks.values())
    hidden = sum(lengths) * skeleton.config.get_text_config().hidden_size * size
    activations = _activation_bytes(stages[block_name], matrices, lengths, hidden, size, config)
    work = _solver_bytes(stages[block_name], matrices, config)
    arguments = []
    if config.needs_calibration:
        tuples = [isinstance(output, tuple) for output in outputs]
        _, arguments = call_arguments(skeleton, list(blocks.values()), tuples, ids.new_zeros(1, max([4, *lengths])))
        activations += argument_bytes(arguments)
    if streaming:
        embeddings = skeleton.get_input_embeddings().weight.numel() * size
        spilled = max(0, hidden - activation_bytes)
        memory = max(embeddings, largest + activations - spilled + work)
        disk = whole + spilled + (whole - largest * len(blocks))
    else:
        # Pruning; then the saved checkpoint is loaded beside the model and compared with it.
        memory, disk = whole + max(activations + work, whole), 2 * whole
    if config.needs_calibration:
        _, arguments = call_arguments(skeleton, list(blocks.values()), tuples, ids)
        args, kwargs = tree_map_only(torch.Tensor, lambda tensor: torch.ones_like(tensor, device=device), arguments[0])
        # For two blocks, because the last is run less.
        arguments = 2 * [(args, {key: None if key == "past_key_values" else value for key, value in kwargs.items()})]
    seconds = _time_block(block_name, block, arguments, stages, config, dtype, device, ids.shape[1], sum(lengths))
    seconds += _time_files(block_name, block, dtype, streaming)
    return Plan(int(memory), int(disk), seconds * len(blocks))


def argument_bytes(arguments: Sequence[Arguments]) -> int:
    """Count masks and rotary tables, which blocks share: those of the longest sequence hold those of the others."""
    tensors = {id(leaf): leaf for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor)}
    return sum(tensor.nbytes for tensor in tensors.values())


def _activation_bytes(
    stages: Sequence[Stage],
    matrices: Mapping[str, Matrix],
    lengths: Sequence[int],
    hidden: int,
    size: int,
    config: PruningConfig,
) -> int:
    """Count the hidden states of all tokens, and what they grow to inside a block."""
    if not config.needs_calibration:
        return 0
    widths = [max(matrices[share[0]].weight().shape[1] for share in stage.shares) for stage in stages]
    tokens = sum(lengths)
    batch = min(tokens, max(BATCH_TOKENS, *lengths))
    inside = batch * (3 * max(widths) * size + max(widths) * 4)  # gate, up, their product, and that in float32
    if config.mode == "two_pass":
        return hidden + inside
    # Every micro-batch waits with its residual stream and the input of the stage.
    return 2 * hidden + tokens * max(widths) * size + inside


def _solver_bytes(stages: Sequence[Stage], matrices: Mapping[str, Matrix], config: PruningConfig) -> int:
    """Count the statistics that are held together, and what solving the largest of them takes."""
    if config.method not in SECOND_ORDER:
        return max(matrix.weight().numel() for matrix in matrices.values()) * 4 * 3
    squares = [[matrices[share[0]].weight().shape[1] ** 2 for share in stage.shares] for stage in stages]
    held = max(map(sum, squares)) if config.mode == "staged" else sum(map(sum, squares))
    stacked = max(sum(matrices[name].weight().numel() for name in share) for stage in stages for share in stage.shares)
    factors = 2 if config.method == "sparsegpt" else 8  # ALPS decomposes in float64
    return 4 * (held + factors * max(map(max, squares)) + 2 * stacked)


def _time_block(
    name: str,
    skeleton: nn.Module,
    arguments: list[Arguments],
    stages: Mapping[str, list[Stage]],
    config: PruningConfig,
    dtype: torch.dtype,
    device: torch.device,
    positions: int,
    tokens: int,
) -> float:
    """Prune a block of random weights with few tokens and with twice as many, and reckon the seconds for all of them."""
    block = copy.deepcopy(skeleton).to(dtype).to_empty(device=device)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.02)
    matrices = find_matrices(name, block)

    def seconds(batches: int) -> float:
        width = next(iter(matrices.values())).weight().shape[1]
        hidden = torch.randn(batches, 1, positions, width, device=device).to(dtype)
        waiting = [MicroBatch(Activation(part, None, False), None, arguments) for part in hidden]
        start = time.perf_counter()
        if config.allocation == "owl":
            count_outliers(0, block, matrices, stages.get(name, []), waiting)
        list(prune_block(0, name, block, matrices, stages.get(name, []), waiting, config, as_pattern(config)))
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    if not config.needs_calibration:
        return seconds(0)
    seconds(1)  # warms up
    once, twice = seconds(1), seconds(2)
    per_token = max(twice - once, 0.0) / positions
    return max(once - per_token * positions, 0.0) + per_token * tokens


def _time_files(name: str, skeleton: nn.Module, dtype: torch.dtype, streaming: bool) -> float:
    """Write and read a block, and reckon the seconds for all that is done with its files."""
    block = copy.deepcopy(skeleton).to(dtype).to_empty(device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
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
