"""Which traces pruning damages most: prune once, see how much less likely the model finds its own traces, and undo it."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from greenlet import getcurrent, greenlet
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from .config import PruningConfig
from .files import write_whole
from .likelihood import BATCH_TOKENS, batch_by_length, response_nll, score_batch
from .pruning.block_store import BlockStore, load_block, open_block_store
from .pruning.blocks import find_blocks
from .pruning.distributed import all_reduce, barrier, rank, world_size
from .pruning.inputs import PruningInputs
from .pruning.layerwise import prune_layerwise
from .pruning.run import describe_run, open_run
from .pruning.weights import ResidentWeights, Weights
from .records import GradedRollout
from .tokens import check_context, rotary_switch


DENSE_NLL_FILE = "dense-nll.json"
Traces = Sequence[tuple[Sequence[int], Sequence[int]]]


def measure_damage(
    model: PreTrainedModel,
    rollouts: Sequence[GradedRollout],
    probe: PruningInputs,
    config: PruningConfig,
    journal_dir: str | Path | None = None,
    streamed: Weights | None = None,
    activation_gb: float = 8.0,
    dense_nll: Path | None = None,
) -> list[GradedRollout]:
    """Prune a model for a look at what it does to its correct traces; afterwards the model is dense again, bit for bit.

    Args:
        model: The dense model.
        rollouts: Its rollouts.
        probe: What to prune with: random correct traces.
        config: How to prune.
        journal_dir: Folder for finished blocks, in which an interrupted measurement goes on; a temporary one when None, which
            will do for one process.
        streamed: What reads the weights of a model that is on the meta device; None when they are in the model.
        activation_gb: For a streamed model, most GB of hidden states to hold.
        dense_nll: File for what is measured of the dense model, which is read where it is there: other prunings of the same
            model and rollouts have use for it.

    Returns:
        The rollouts in their order, each correct one with its damage: the rise of the negative log-likelihood of its response,
        in nats, summed over the tokens.

    Raises:
        SSGRError: The model cannot be pruned, or the journal cannot be written.
    """
    correct = [item for item in rollouts if item.verdict.correct]
    traces = [(item.rollout.prompt_ids, item.rollout.response_ids) for item in correct]
    with TemporaryDirectory() if journal_dir is None else nullcontext(journal_dir) as name:
        folder = Path(name)
        config = config.resolve(streamed=streamed is not None)
        run = open_run(folder / "probe", describe_run(model, config), probe, model, streamed, activation_gb)
        with nullcontext() if streamed else _restored(model, folder / f"dense-{rank()}"), run as (journal, store):

            def measure(pruned: BlockStore | None, desc: str) -> list[float]:
                if streamed is None:
                    return _shared_out(traces, lambda mine: response_nll(model, mine, desc=desc))
                return _shared_out(traces, lambda mine: streamed_nll(model, mine, streamed, pruned, activation_gb, desc))

            dense = _dense_nll(dense_nll or journal.folder / DENSE_NLL_FILE, lambda: measure(None, "measure dense"))
            settings = {"token_weights": probe.token_weights, "prompts": probe.prompts}
            kept = {"journal": journal, "weights": streamed, "store": store}
            prune_layerwise(model, probe.sequences, config, **settings, **kept)
            sparse = measure(journal, "measure damage")
    rise = iter(after - before for before, after in zip(dense, sparse, strict=True))
    return [dataclasses.replace(item, damage=next(rise)) if item.verdict.correct else item for item in rollouts]


def _dense_nll(path: Path, measure: Callable[[], list[float]]) -> list[float]:
    """Measure the dense model, or read what was measured before."""
    found = json.loads(path.read_text()) if path.exists() else None
    barrier()  # all processes have looked before the first of them writes
    if found is None:
        found = measure()
        if rank() == 0:
            write_whole(path, lambda partial: partial.write_text(json.dumps(found)))
    return found


def _shared_out(traces: Traces, measure: Callable[[Traces], list[float]]) -> list[float]:
    """Measure in every process a part of the traces, and tell all processes."""
    found = torch.zeros(len(traces), dtype=torch.float64)
    found[rank() :: world_size()] = torch.tensor(measure(traces[rank() :: world_size()]), dtype=torch.float64)
    all_reduce(found)
    return found.tolist()


@torch.inference_mode()
def streamed_nll(
    model: PreTrainedModel,
    traces: Traces,
    weights: Weights,
    pruned: BlockStore | None,
    activation_gb: float,
    desc: str,
) -> list[float]:
    """Return what `likelihood.response_nll` does, for a model that is not in memory: all traces run through block after block.

    Args:
        model: The model, on the meta device.
        traces: Token ids of prompt and response.
        weights: What reads its weights.
        pruned: Where the blocks are to be taken from; the checkpoint's own when None.
        activation_gb: Most GB of hidden states to hold; where those of all traces take more, the blocks are read again for the
            others.
        desc: What to call it beside a progress bar.
    """
    check_context(model.config, max((len(prompt) + len(response) for prompt, response in traces), default=0), "a trace")
    # A pass that waits holds the hidden states, and what the blocks are called with besides.
    token_bytes = 2 * model.config.get_text_config().hidden_size * model.dtype.itemsize
    rounds = _share_rounds(traces, rotary_switch(model.config), int(activation_gb * 1e9) // token_bytes)
    blocks, found = find_blocks(model), [0.0] * len(traces)
    # As in pruning: a forward pass is transformers' code, and a greenlet can wait in the middle of it until a block is there.
    caller = getcurrent()

    def wait(*_: object) -> None:
        caller.switch()

    hooks = [block.register_forward_pre_hook(wait) for block in blocks.values()]
    try:
        with weights.onload_outside(model), tqdm(total=len(rounds) * len(blocks), desc=desc, unit="block") as progress:
            for some in rounds:
                passes = [greenlet(score_batch, caller) for _ in some]
                for forward, numbers in zip(passes, some, strict=True):
                    forward.switch(model, [traces[number] for number in numbers])
                for index, (name, block) in enumerate(blocks.items()):
                    with weights.onload_block(name, block):
                        if pruned:
                            _, _, tensors = pruned.read(index)
                            load_block(name, block, tensors)
                        outcomes = [forward.switch() for forward in passes]  # of the last block, what the passes return
                    progress.update()
                for numbers, nats in zip(some, outcomes, strict=True):
                    for number, of_trace in zip(numbers, nats, strict=True):
                        found[number] = of_trace
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _share_rounds(traces: Traces, switch: int | None, most: int) -> list[list[list[int]]]:
    """Return batches of numbers of traces, together those that hold some number of tokens at most."""
    rounds: list[list[list[int]]] = []
    left = 0
    for batch in batch_by_length(traces, BATCH_TOKENS, switch):
        tokens = len(batch) * sum(map(len, traces[batch[0]]))  # padding included
        if not rounds or tokens > left:
            rounds.append([])
            left = most
        rounds[-1].append(batch)
        left -= tokens
    return rounds


@contextmanager
def _restored(model: PreTrainedModel, folder: Path) -> Iterator[None]:
    """Give a model the weights back that it has now, block by block, however it is left."""
    weights, blocks = ResidentWeights(), find_blocks(model)
    with open_block_store(folder) as kept:
        for index, (name, block) in enumerate(blocks.items()):
            with weights.onload_block(name, block):
                kept.write(index, name, block, "", [])
        try:
            yield
        finally:
            for index, (name, block) in enumerate(blocks.items()):
                with weights.onload_block(name, block):
                    _, _, tensors = kept.read(index)
                    load_block(name, block, tensors)
            kept.remove()
