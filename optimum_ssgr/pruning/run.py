"""One run of pruning: what decides its outcome, and the journal that it goes on in after an interruption."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..compat import model_commit, model_name
from ..config import PruningConfig
from ..formats import installed_versions
from ..resume import check_fingerprint
from ..tokens import content_hash
from .activations import ActivationStore
from .block_store import BlockStore, hash_tensors, open_block_store
from .capture import find_model_device
from .distributed import barrier, rank, world_size
from .inputs import PruningInputs
from .weights import ResidentWeights, Weights


def describe_run(model: PreTrainedModel, config: PruningConfig) -> dict[str, Any]:
    """Return what decides the outcome of pruning besides the calibration tokens, by the names of `formats.Provenance`."""
    return {
        "base_model": model_name(model),
        "base_commit": model_commit(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "pruning": config.to_dict(),
        "versions": installed_versions("torch", "transformers"),
    }


@contextmanager
def open_run(
    folder: str | Path | None,
    decided_by: Mapping[str, Any],
    inputs: PruningInputs,
    model: PreTrainedModel,
    streamed: Weights | None,
    activation_gb: float,
) -> Iterator[tuple[BlockStore | None, ActivationStore | None]]:
    """Open a run's journal, or go on in it; all processes of a job use that which the first one has locked.

    Args:
        folder: Where finished blocks are kept; nowhere when None.
        decided_by: What `describe_run` returns.
        inputs: What to calibrate on.
        model: The model, not pruned yet.
        streamed: What reads the weights of a model that is on the meta device; None when the weights are in the model.
        activation_gb: For a streamed model, hidden states beyond so many GB go to disk.

    Yields:
        The journal, and for a streamed model where hidden states are kept; None for what there is not.

    Raises:
        OutputError: The folder belongs to another run or process, or cannot be written.
    """
    if folder is None:
        yield None, None
        return
    with _open_jointly(folder) as journal:
        if rank() == 0:
            hashed = content_hash(inputs.sequences, inputs.token_weights)
            circumstances = _describe_circumstances(model, streamed)
            prompts = {} if inputs.prompts is None else {"prompts": inputs.prompts}
            check_fingerprint(journal.folder, {**decided_by, "calibration": hashed, **prompts, **circumstances})
        barrier()  # the folder is there, and nobody else's
        yield journal, ActivationStore(journal.make_activation_folder(), int(activation_gb * 1e9)) if streamed else None


@contextmanager
def _open_jointly(folder: str | Path) -> Iterator[BlockStore]:
    """Open a journal, locked by the first process of a job."""
    if rank() > 0:
        yield BlockStore(Path(folder))
        return
    with open_block_store(folder) as journal:
        yield journal


def _describe_circumstances(model: PreTrainedModel, streamed: Weights | None) -> dict[str, Any]:
    """Return what else decides the bits that a run ends with, without being told to the user of the checkpoint."""
    device = streamed.device if streamed else find_model_device(model)
    return {
        "device": device.type,
        "threads": torch.get_num_threads(),
        "processes": world_size(),
        "other_weights": hash_tensors((streamed or ResidentWeights()).outside(model)),
    }
