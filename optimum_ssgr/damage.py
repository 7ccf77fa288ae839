"""Which traces pruning damages most: prune once, see how much less likely the model finds its own traces, and undo it."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import PreTrainedModel

from .config import PruningConfig
from .files import write_whole
from .likelihood import response_nll
from .pruning.block_store import open_block_store
from .pruning.blocks import find_blocks
from .pruning.inputs import PruningInputs
from .pruning.layerwise import prune_layerwise
from .pruning.run import describe_run, open_run
from .pruning.weights import ResidentWeights
from .records import GradedRollout


DENSE_NLL_FILE = "dense-nll.json"


def measure_damage(
    model: PreTrainedModel,
    rollouts: Sequence[GradedRollout],
    probe: PruningInputs,
    config: PruningConfig,
    journal_dir: str | Path | None = None,
) -> list[GradedRollout]:
    """Prune a model for a look at what it does to its correct traces; afterwards the model is dense again, bit for bit.

    Args:
        model: The dense model, in memory.
        rollouts: Its rollouts.
        probe: What to prune with: random correct traces.
        config: How to prune.
        journal_dir: Folder for finished blocks, in which an interrupted measurement goes on.

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
        config = config.resolve(streamed=False)
        with _restored(model, folder / "dense"):
            with open_run(folder / "probe", describe_run(model, config), probe, model, None, 0) as (journal, _):
                dense = _dense_nll(model, traces, folder / "probe" / DENSE_NLL_FILE)
                settings = {"token_weights": probe.token_weights, "prompts": probe.prompts, "journal": journal}
                prune_layerwise(model, probe.sequences, config, **settings)
            sparse = response_nll(model, traces, desc="measure damage")
    rise = iter(after - before for before, after in zip(dense, sparse, strict=True))
    return [dataclasses.replace(item, damage=next(rise)) if item.verdict.correct else item for item in rollouts]


def _dense_nll(model: PreTrainedModel, traces: Sequence[tuple[Sequence[int], Sequence[int]]], path: Path) -> list[float]:
    """Measure the dense model, or read what was measured before an interruption."""
    if path.exists():
        return json.loads(path.read_text())
    dense = response_nll(model, traces, desc="measure dense")
    write_whole(path, lambda partial: partial.write_text(json.dumps(dense)))
    return dense


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
                    block.load_state_dict({key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items()})
            kept.remove()
