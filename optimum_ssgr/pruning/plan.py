"""What a pruning run will take, told before it: memory and disk by counting, time by timing one block of each kind here."""

import copy
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from ..compat import tree_leaves, tree_map_only
from ..config import PruningConfig
from .activations import Activation
from .block_store import BlockStore, hash_block
from .blocks import Matrix, find_blocks, find_matrices
from .capture import BATCH_TOKENS, Arguments, MicroBatch, capture_arguments, probe_outputs
from .experts import use_observable_experts
from .input_groups import HookPoint, trace_input_groups
from .layerwise import measure_outliers, prune_block
from .solve import SECOND_ORDER, make_pattern


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


@dataclass(frozen=True)
class _BlockBytes:
    """What one block takes.

    Args:
        weights: Its parameters.
        fused: Each of its fused parameters.
        pruning: Hidden states, statistics and solving, while it is pruned.
    """

    weights: int
    fused: list[int]
    pruning: int


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
    """Predict memory, disk and time of pruning a model, whose blocks may be of several kinds.

    Args:
        skeleton: The model on the meta device.
        lengths: Tokens of every calibration sequence.
        config: Method, sparsity, and whether to run every block once or twice.
        dtype: Weight type.
        device: Where the blocks are pruned.
        streaming: Whether the model is streamed.
        activation_bytes: Hidden states kept in memory when it is.
    """
    blocks = find_blocks(skeleton)
    matrices = {name: find_matrices(name, block) for name, block in blocks.items()}
    lengths = lengths if config.needs_calibration else []
    longest = torch.zeros(1, max([4, *lengths]), dtype=torch.long, device="meta")
    ids = longest[:, :TIMED_TOKENS]
    called_with: dict[str, Arguments] = {}
    shared, seconds, text = 0, 0.0, skeleton.config.get_text_config()
    states = torch.empty(1, ids.shape[1], text.hidden_size, device="meta")  # hidden states between blocks
    with use_observable_experts(skeleton):
        # 1. How the model is wired, which shows without weights, and what its blocks are called with.
        with trace_input_groups(matrices) as points:
            outputs = probe_outputs(skeleton, list(blocks.values()), ids)
        if config.needs_calibration:
            shared = count_argument_bytes(capture_arguments(skeleton, list(blocks.values()), outputs, longest)[1])
            states, arguments = capture_arguments(skeleton, list(blocks.values()), outputs, ids)
            called_with = dict(zip(blocks, arguments, strict=True))
        # 2. Time one block of each kind.
        for name, count in _count_kinds(blocks).items():
            called = called_with.get(name, ((), {}))
            taken = _time_block(name, blocks[name], called, points[name], config, dtype, device, states.shape, sum(lengths))
            seconds += count * (taken + _time_files(name, blocks[name], dtype, streaming))
    # 3. Count bytes.
    size = dtype.itemsize
    whole = size * skeleton.num_parameters()
    hidden = sum(lengths) * states.numel() // ids.shape[1] * size
    routes = getattr(text, "num_experts_per_tok", None) or 1
    counted = [
        _BlockBytes(
            size * sum(parameter.numel() for parameter in block.parameters()),
            _count_fused_bytes(matrices[name], size),
            shared
            + _count_activation_bytes(points[name], matrices[name], lengths, hidden, size, config, routes)
            + _count_solver_bytes(points[name], matrices[name], config),
        )
        for name, block in blocks.items()
    ]
    if streaming:
        return Plan(*_count_streamed(counted, whole, shared, hidden, spilled=max(0, hidden - activation_bytes)), seconds)
    return Plan(*_count_resident(counted, whole), seconds)


def _count_resident(blocks: Sequence[_BlockBytes], whole: int) -> tuple[int, int]:
    """Count memory and disk of pruning a model in memory, with the blocks in the journal."""
    # The saved checkpoint is loaded next to the model and compared with it.
    loading = whole + sum(sum(block.fused) for block in blocks)
    memory = whole + max(*(block.pruning for block in blocks), loading)
    return memory, whole + sum(block.weights for block in blocks)


def _count_streamed(blocks: Sequence[_BlockBytes], whole: int, shared: int, hidden: int, spilled: int) -> tuple[int, int]:
    """Count memory and disk of pruning a model block by block, with some of the hidden states spilled to disk."""
    outside = whole - sum(block.weights for block in blocks)
    memory = max(
        max(
            block.weights + block.pruning - spilled,
            # It is read, to prune it and to check what was written.
            block.weights + max(block.fused, default=0) + max(shared + hidden - spilled, outside),
            # It is taken apart and written.
            2 * block.weights + max(block.fused) if block.fused else 0,
        )
        for block in blocks
    )
    return memory, whole + spilled + sum(block.weights for block in blocks if block.fused)


def _count_kinds(blocks: Mapping[str, nn.Module]) -> dict[str, int]:
    """Count the blocks of each kind, dense or mixture, by the first's name: their parameters have the same names and shapes."""
    kinds: dict[tuple[tuple[str, torch.Size], ...], list[str]] = {}
    for name, block in blocks.items():
        kinds.setdefault(tuple((key, parameter.shape) for key, parameter in block.named_parameters()), []).append(name)
    return {names[0]: len(names) for names in kinds.values()}


def count_argument_bytes(arguments: Sequence[Arguments]) -> int:
    """Count masks and rotary tables, which blocks share: those of the longest sequence hold those of the others."""
    tensors = {id(leaf): leaf for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor)}
    return sum(tensor.nbytes for tensor in tensors.values())


def _count_activation_bytes(
    points: Sequence[HookPoint],
    matrices: Mapping[str, Matrix],
    lengths: Sequence[int],
    hidden: int,
    size: int,
    config: PruningConfig,
    routes: int,
) -> int:
    """Count the hidden states of all tokens, and what they grow to inside a block, where each goes to some experts."""
    if not config.needs_calibration:
        return 0
    firsts = [matrices[point.groups[0].first] for point in points]
    width = max(first.weight().shape[1] * (1 if first.expert is None else routes) for first in firsts)
    tokens = sum(lengths)
    batch = min(tokens, max(BATCH_TOKENS, *lengths))
    inside = batch * (3 * width * size + width * 4)  # gate, up, their product, and that in float32
    if config.true_sequential is False:
        return hidden + inside
    # Every micro-batch waits with its residual stream and the inputs of the hook point.
    return 2 * hidden + tokens * width * size + inside


def _count_fused_bytes(matrices: Mapping[str, Matrix], size: int) -> list[int]:
    """Count each of a block's fused parameters: from files that hold every expert by itself, it is put together from copies."""
    counted: Counter[tuple[nn.Module, str]] = Counter()
    for matrix in matrices.values():
        if matrix.expert is not None:
            counted[matrix.module, matrix.parameter] += matrix.weight().numel() * size
    return list(counted.values())


def _count_solver_bytes(points: Sequence[HookPoint], matrices: Mapping[str, Matrix], config: PruningConfig) -> int:
    """Count the statistics that are held together, and what solving the largest of them takes."""
    if config.method not in SECOND_ORDER:
        return max(matrix.weight().numel() for matrix in matrices.values()) * 4 * 3
    squares = [[matrices[group.first].weight().shape[1] ** 2 for group in point.groups] for point in points]
    held = sum(map(sum, squares)) if config.true_sequential is False else max(map(sum, squares))
    groups = [group for point in points for group in point.groups]
    stacked = max(sum(matrices[name].weight().numel() for name in group.matrices) for group in groups)
    factors = 2 if config.method == "sparsegpt" else 8  # ALPS decomposes in float64
    return 4 * (held + factors * max(map(max, squares)) + 2 * stacked)


def _time_block(
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
    block = copy.deepcopy(skeleton).to(dtype).to_empty(device=device)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.02)
    for buffer in block.buffers():
        buffer.zero_()
    matrices = find_matrices(name, block)
    args, kwargs = tree_map_only(torch.Tensor, lambda tensor: torch.ones_like(tensor, device=device), arguments)
    # For two blocks, because the last is run less.
    twofold = 2 * [(args, {key: None if key == "past_key_values" else value for key, value in kwargs.items()})]

    def seconds(batches: int) -> float:
        hidden = torch.randn(batches, *shape, device=device).to(dtype)
        waiting = [MicroBatch(Activation(part, None, False), None, twofold) for part in hidden]
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


def _time_files(name: str, skeleton: nn.Module, dtype: torch.dtype, streaming: bool) -> float:
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
