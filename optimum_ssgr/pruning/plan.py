"""What a pruning run will take, told before it: memory and disk by counting, time by timing one block of each kind here."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from ..compat import tree_leaves
from ..config import PruningConfig
from .attention import use_short_attention
from .blocks import Matrix, find_blocks, find_matrices
from .capture import BATCH_TOKENS, Arguments, capture_arguments, probe_outputs
from .experts import use_observable_experts
from .input_groups import HookPoint, trace_input_groups
from .layerwise import count_waiting_bytes
from .solve import needs_second_moments
from .timing import time_block, time_files, time_refinement


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
    with use_observable_experts(skeleton), use_short_attention():
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
            taken = time_block(name, blocks[name], called, points[name], config, dtype, device, states.shape, sum(lengths))
            if "blocks" in config.refine:
                taken += time_refinement(name, blocks[name], called, dtype, device, states.shape, lengths)
            seconds += count * (taken + time_files(name, blocks[name], dtype, streaming))
    # 3. Count bytes.
    size = dtype.itemsize
    whole = size * skeleton.num_parameters()
    hidden = sum(lengths) * states.numel() // ids.shape[1] * size
    targets = hidden if "blocks" in config.refine else 0  # the dense model's hidden states, beside the sparse one's
    routes = getattr(text, "num_experts_per_tok", None) or 1
    held = {name: size * sum(parameter.numel() for parameter in block.parameters()) for name, block in blocks.items()}
    room = {name: count_waiting_bytes([held[name] if streaming else whole]) for name in blocks}
    counted = [
        _BlockBytes(
            held[name],
            _count_fused_bytes(matrices[name], size),
            shared
            + targets
            + max(
                _count_activation_bytes(points[name], matrices[name], lengths, hidden, size, config, routes, room[name])
                + _count_solver_bytes(points[name], matrices[name], config),
                hidden + _count_refinement_bytes(block, matrices[name], lengths, size, routes) if targets else 0,
            ),
        )
        for name, block in blocks.items()
    ]
    if streaming:
        kept = hidden + targets
        return Plan(*_count_streamed(counted, whole, shared, kept, spilled=max(0, kept - activation_bytes)), seconds)
    return Plan(*_count_resident(counted, whole), seconds)


def _count_resident(blocks: Sequence[_BlockBytes], whole: int) -> tuple[int, int]:
    """Count memory and disk of pruning a model in memory, with the blocks in the journal."""
    # The saved checkpoint is read next to the model and compared with it, one block at a time.
    outside = whole - sum(block.weights for block in blocks)
    reading = max(outside + block.weights + max(block.fused, default=0) for block in blocks)
    memory = whole + max(*(block.pruning for block in blocks), reading)
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
    room: int,
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
    # Micro-batches wait with the residual stream, the normalized one and the inputs of the hook point, while there is room.
    return hidden + min(2 * hidden + tokens * width * size, room) + inside


def _count_fused_bytes(matrices: Mapping[str, Matrix], size: int) -> list[int]:
    """Count each of a block's fused parameters: from files that hold every expert by itself, it is put together from copies."""
    counted: Counter[tuple[nn.Module, str]] = Counter()
    for matrix in matrices.values():
        if matrix.expert is not None:
            counted[matrix.module, matrix.parameter] += matrix.weight().numel() * size
    return list(counted.values())


def _count_solver_bytes(points: Sequence[HookPoint], matrices: Mapping[str, Matrix], config: PruningConfig) -> int:
    """Count the statistics that are held together, and what solving the largest of them takes."""
    if not needs_second_moments(config):
        return max(matrix.weight().numel() for matrix in matrices.values()) * 4 * 3
    squares = [[matrices[group.first].weight().shape[1] ** 2 for group in point.groups] for point in points]
    held = sum(map(sum, squares)) if config.true_sequential is False else max(map(sum, squares))
    groups = [group for point in points for group in point.groups]
    stacked = max(sum(matrices[name].weight().numel() for name in group.matrices) for group in groups)
    factors = 8 if config.method == "alps" else 1  # ALPS decomposes in float64
    copies = 5 if "swaps" in config.refine else 2
    return 4 * (held + factors * max(map(max, squares)) + copies * stacked)


def _count_refinement_bytes(
    block: nn.Module, matrices: Mapping[str, Matrix], lengths: Sequence[int], size: int, routes: int
) -> int:
    """Count what fitting a block takes beside it: Adam's numbers for each weight, and what a backward pass keeps."""
    weights = sum(parameter.numel() for parameter in block.parameters())
    # Gradient, its two moments and the best so far in float32, and the mask; the float32 originals and the gradient in the
    # block's own type, where that is another.
    adam = weights * (4 * 4 + 1 + (4 + size if size < 4 else 0))
    widths = [(matrix.weight().shape, 1 if matrix.expert is None else routes) for matrix in matrices.values()]
    tokens = min(sum(lengths), max(BATCH_TOKENS, *lengths))
    # Inputs and outputs of every matrix wait for the backward pass; of the experts those that a token goes to.
    dense = sum(out + into for (out, into), times in widths if times == 1)
    experts = max((routes * 2 * (out + into) for (out, into), times in widths if times > 1), default=0)
    return adam + tokens * 2 * size * (dense + experts)
