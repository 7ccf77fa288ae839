"""Prune a model block by block, each on the outputs of the pruned blocks before it."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.utils import logging

from ..config import PruningConfig
from ..errors import DataError, OutputError
from .activations import ActivationStore
from .allocation import outlier_ratio, owl_sparsities
from .attention import use_short_attention
from .block_store import BlockStore, hash_block, load_block
from .blocks import Matrix, find_blocks, find_matrices
from .capture import MicroBatch, TokenSequence, capture_inputs, check_chain, find_model_device, probe_outputs
from .distributed import barrier, rank, take_shard
from .experts import use_observable_experts
from .input_groups import HookPoint, trace_input_groups
from .memory import release_weights, trim_heap
from .patterns import Pattern
from .prunable import check_prunable
from .refine import refine_block
from .report import LayerReport
from .solve import (
    MAX_DAMPING,
    MIN_EXPERT_TOKENS,
    make_pattern,
    needs_second_moments,
    prune_by_magnitude,
    prune_groups,
)
from .traversal import (
    advance,
    advance_targets,
    gather_dense_statistics,
    traverse_in_one_pass,
    traverse_in_two_passes,
)
from .weights import ResidentWeights, Weights


logger = logging.get_logger(__name__)
# What micro-batches may hold that wait inside a block, where half of what the weights take is less. So the memory of a run
# does not grow with the calibration set by more than its hidden states; what does not wait is computed again.
WAITING_BYTES = 2**28


@dataclass(frozen=True)
class _Calibration:
    """What the loop over the blocks needs to know of the calibration.

    Args:
        batches: This process's shard of the sequences, on their way.
        points: For every block's name its hook points.
    """

    batches: list[MicroBatch]
    points: Mapping[str, list[HookPoint]]


@torch.no_grad()
def prune_layerwise(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    config: PruningConfig,
    *,
    token_weights: Sequence[Sequence[float]] | None = None,
    prompts: Sequence[int] | None = None,
    journal: BlockStore | None = None,
    weights: Weights | None = None,
    store: ActivationStore | None = None,
) -> list[LayerReport]:
    """Prune every linear layer of the decoder blocks in place; embeddings and the output head stay dense.

    Args:
        model: Causal language model.
        sequences: Token ids of the calibration sequences; unused by magnitude pruning.
        config: Method, sparsity, damping, and whether to run every block once or twice.
        token_weights: Importance of every token in the statistics, 0 or more; None counts every token once.
        prompts: How many of each sequence's first tokens are its prompt, which blocks are not fitted to (`refine`); None fits
            them to all tokens.
        journal: Where finished blocks are kept, and found again after an interruption; None keeps none.
        weights: Where the model's weights are; in the model when None.
        store: Where to keep the hidden states between blocks; in memory when None.

    Returns:
        One report per weight matrix, in the order of the model.

    Raises:
        ModelError: The architecture is not supported, or some weights are offloaded to disk.
        ConfigError: The pattern does not divide a layer's inputs.
        DataError: There is nothing to calibrate on.
        NumericalError: Hidden states or weights are not finite.
        OutputError: The journal is another run's, damaged, or cannot be written.
    """
    model.eval()
    weights, store = weights or ResidentWeights(), store or ActivationStore()
    # 1. What is there, and whether all of it can be pruned.
    matrices = check_prunable(model, config)
    blocks = find_blocks(model)
    with use_observable_experts(model), use_short_attention():
        # 2. Bring the calibration sequences up to the first block, and give every block its sparsity.
        calibration, patterns = _Calibration([], {}), dict.fromkeys(blocks, make_pattern(config))
        if config.needs_calibration:
            shard = take_shard(_make_token_sequences(sequences, token_weights, prompts))
            if config.allocation == "owl":
                calibration = _calibrate(model, blocks, matrices, shard, weights, store)
                patterns = _allocate_sparsities(blocks, matrices, calibration, config, weights)
                del calibration  # its hidden states, which are at the last block now, are not held besides the next ones
                store.clear()
            calibration = _calibrate(model, blocks, matrices, shard, weights, store, "blocks" in config.refine)
        # 3. Prune block after block. Each takes the hidden states from where the pruned block before it left them.
        reports: list[LayerReport] = []
        progress = tqdm(blocks.items(), desc=f"prune ({config.method})", unit="block", disable=None if rank() == 0 else True)
        for index, (name, block) in enumerate(progress):
            with weights.onload_block(name, block):
                room = count_waiting_bytes(tensor.nbytes for tensor in model.parameters() if not tensor.is_meta)
                pruning = (calibration, config, patterns[name], room)
                reports += _prune_or_restore(index, name, block, matrices[name], *pruning, journal)
                if journal and isinstance(weights, ResidentWeights):
                    journal.map(index, name, block)
    _warn_of_fallbacks(reports, config)
    return reports


def count_waiting_bytes(weights: Iterable[int]) -> int:
    """Return what micro-batches may hold that wait inside a block, where the weights in memory take so many bytes each."""
    return max(WAITING_BYTES, sum(weights) // 2)


def _make_token_sequences(
    sequences: Sequence[Sequence[int]],
    token_weights: Sequence[Sequence[float]] | None,
    prompts: Sequence[int] | None,
) -> list[TokenSequence]:
    """Pair sequences with their weights, and refuse what cannot be calibrated on."""
    prompts = [0] * len(sequences) if prompts is None else prompts
    if token_weights is None:
        found = [TokenSequence(ids, None, prompt) for ids, prompt in zip(sequences, prompts, strict=True) if len(ids)]
    else:
        if [len(ids) for ids in sequences] != [len(of) for of in token_weights]:
            raise DataError("every calibration sequence needs as many token weights as tokens.")
        if any(weight < 0 for of in token_weights for weight in of):
            raise DataError("token weights must be 0 or more.")
        together = zip(sequences, token_weights, prompts, strict=True)
        found = [TokenSequence(ids, of, prompt) for ids, of, prompt in together if any(of)]
    if not found:
        raise DataError("the calibration set is empty.")
    return found


def _calibrate(
    model: PreTrainedModel,
    blocks: Mapping[str, nn.Module],
    matrices: Mapping[str, Mapping[str, Matrix]],
    sequences: Sequence[TokenSequence],
    weights: Weights,
    store: ActivationStore,
    with_targets: bool = False,
) -> _Calibration:
    """Learn how the blocks use their matrices, and bring the sequences up to the first block."""
    # 1. See how the model is wired: what shares inputs, and what the blocks return. A few tokens show it.
    probe = weights.make_probe(model)
    probe_blocks = find_blocks(probe)
    probe_matrices = matrices if probe is model else {name: find_matrices(name, block) for name, block in probe_blocks.items()}
    ids = torch.tensor([list(sequences[0].ids[:4])], device=find_model_device(probe))
    with use_observable_experts(probe), trace_input_groups(probe_matrices) as points:
        outputs = probe_outputs(probe, list(probe_blocks.values()), ids)
    if probe is model:
        check_chain(model, list(blocks.values()), outputs, ids)
        release_weights(model)  # what is outside of the blocks ran, too
    # 2. Run what comes before the blocks on all sequences.
    with weights.onload_embeddings(model):
        batches = capture_inputs(model, list(blocks.values()), outputs, sequences, store, with_targets)
    return _Calibration(batches, points)


def _allocate_sparsities(
    blocks: Mapping[str, nn.Module],
    matrices: Mapping[str, Mapping[str, Matrix]],
    calibration: _Calibration,
    config: PruningConfig,
    weights: Weights,
) -> dict[str, Pattern]:
    """Run the dense model once and give every block a sparsity by its share of outliers (OWL)."""
    ratios = []
    for index, (name, block) in enumerate(tqdm(blocks.items(), desc="count outliers", unit="block")):
        with weights.onload_block(name, block):
            ratios.append(measure_outliers(index, block, matrices[name], calibration.points[name], calibration.batches))
    sizes = [sum(matrix.weight().numel() for matrix in matrices[name].values()) for name in blocks]
    sparsities = owl_sparsities(ratios, sizes, config.sparsity)
    return {name: make_pattern(config, sparsity) for name, sparsity in zip(blocks, sparsities, strict=True)}


def measure_outliers(
    index: int, block: nn.Module, matrices: Mapping[str, Matrix], points: Sequence[HookPoint], batches: Sequence[MicroBatch]
) -> float:
    """Return a dense block's outlier ratio; the hidden states move on."""
    scored: list[tuple[torch.Tensor, torch.Tensor]] = []
    gathered = gather_dense_statistics(index, block, matrices, points, batches, full=False)
    for point, statistics in zip(points, gathered, strict=True):
        for group, seen in zip(point.groups, statistics, strict=True):
            seen.finish()
            scored += [(matrices[name].weight(), seen.norms) for name in group.matrices]
    return outlier_ratio(scored)


def _prune_or_restore(
    index: int,
    name: str,
    block: nn.Module,
    matrices: Mapping[str, Matrix],
    calibration: _Calibration,
    config: PruningConfig,
    pattern: Pattern,
    waiting_bytes: int,
    journal: BlockStore | None,
) -> list[LayerReport]:
    """Prune one block and write it to the journal, or take it from there; the hidden states move on in either case."""
    finished = journal.read(index) if journal else None
    barrier()  # all processes have looked before the first of them writes
    dense_hash = hash_block(block) if journal else ""
    if finished is None:
        points = calibration.points.get(name, [])
        batches = calibration.batches
        reports = list(prune_block(index, name, block, matrices, points, batches, config, pattern, waiting_bytes))
        if journal and rank() == 0:
            journal.write(index, name, block, dense_hash, reports)
        barrier()
        return reports
    if "blocks" in config.refine and index < len(calibration.points) - 1:
        advance_targets(index, block, calibration.batches)
    journaled_hash, reports, tensors = finished
    if journaled_hash != dense_hash:
        raise OutputError(
            f"the weights of {name} are not those that {journal.folder} was begun with; "
            "use the same model, or remove the folder to start anew."
        )
    load_block(name, block, tensors)
    advance(index, block, calibration.batches)
    return reports


def prune_block(
    index: int,
    name: str,
    block: nn.Module,
    matrices: Mapping[str, Matrix],
    points: Sequence[HookPoint],
    batches: Sequence[MicroBatch],
    config: PruningConfig,
    pattern: Pattern,
    waiting_bytes: float = math.inf,
) -> Iterator[LayerReport]:
    """Prune one block and replace the hidden states by what it makes of them.

    Args:
        index: Number of the block.
        name: Its name.
        block: The block, with its weights.
        matrices: Its prunable matrices by name.
        points: Its hook points.
        batches: This process's shard of the calibration tokens.
        config: Method, damping, and whether to run the block once or twice.
        pattern: What to prune to.
        waiting_bytes: What micro-batches may hold that wait inside the block, about.

    Yields:
        Reports in the order of the matrices.
    """
    looks, refines = config.method != "magnitude" or "swaps" in config.refine, "blocks" in config.refine
    if refines:
        advance_targets(index, block, batches)
    seen = {key for point in points for group in point.groups for key in group.matrices} if looks else set()
    reports = {key: prune_by_magnitude(name, matrix, pattern) for key, matrix in matrices.items() if key not in seen}
    if not looks:
        if not refines:
            advance(index, block, batches)
    else:
        one_pass = partial(traverse_in_one_pass, waiting_bytes=waiting_bytes)
        traverse = traverse_in_two_passes if config.true_sequential is False else one_pass
        full = needs_second_moments(config)
        for point, statistics in traverse(index, block, matrices, points, batches, full, write_outputs=not refines):
            trim_heap()  # of what the forward pass freed: solving takes large matrices of other sizes
            for seen in statistics:
                seen.finish()
            groups = [[matrices[member] for member in group.matrices] for group in point.groups]
            reports |= prune_groups(name, groups, statistics, config, pattern)
    if refines:
        refined = refine_block(index, block, matrices, batches)
        reports = {key: dataclasses.replace(report, block=refined) for key, report in reports.items()}
        advance(index, block, batches)
    yield from (reports[key] for key in matrices)


def _warn_of_fallbacks(reports: Sequence[LayerReport], config: PruningConfig) -> None:
    fallen = [report for report in reports if report.method != config.method]
    resisted = [report.name for report in fallen if report.resisted]
    unreached = [report.name for report in fallen if report.of_expert and not report.resisted]
    unseen = [report.name for report in fallen if not report.of_expert and not report.resisted]
    if unseen:
        logger.warning(
            f"{len(unseen)} of {len(reports)} matrices were pruned by magnitude, since their layers are run more than once in "
            f"a block or not as layers of their own, so that their inputs cannot be seen: {', '.join(unseen)}."
        )
    if unreached:
        logger.warning(
            f"{len(unreached)} of {len(reports)} matrices belong to experts that fewer than {MIN_EXPERT_TOKENS} calibration "
            f"tokens were routed to, and were pruned by magnitude, the first being {unreached[0]}; "
            "more calibration tokens would reach more experts."
        )
    if resisted:
        logger.warning(
            f"{len(resisted)} of {len(reports)} matrices were pruned by magnitude, since no damping up to {MAX_DAMPING} made "
            f"the Hessian of their inputs usable for {config.method}: {', '.join(resisted)}; "
            "use more calibration tokens or method wanda."
        )
