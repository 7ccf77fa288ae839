"""From a pruned checkpoint to a recovered one: traces are chosen, it is trained, its zeros are compared, and it is saved."""

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from ..calibration.dataset import CalibrationSet
from ..cards.render import model_card
from ..checkpoints.load import load_model, revision_of, source_of
from ..checkpoints.original import find_source
from ..checkpoints.places import pruned_parameters
from ..checkpoints.save import check_generation_config, save_checkpoint
from ..compat import find_file, model_commit, model_name
from ..config import LoadingConfig, RecoveryConfig
from ..errors import DataError, OutputError
from ..evaluation.traces import TRACE_BATCH, summarize_nll, trace_nll
from ..files import check_unused, locked_folder
from ..formats import PROVENANCE_FILE, Provenance, Recovery, installed_versions
from ..pruning.block_store import hash_tensors
from ..pruning.inputs import check_fits
from ..resume import check_fingerprint, journal_folder
from ..sharing import load_calibration_set
from .traces import choose_traces
from .train import train


logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class RecoveryReport:
    """The outcome of a recovery.

    Args:
        recovery: What stands in `ssgr_config.json`.
        zeros: Zeros in the prunable weights, before and after.
    """

    recovery: Recovery
    zeros: int

    def __str__(self) -> str:
        done = self.recovery
        lines = [
            f"trained on {done.traces:,} traces of {done.problems:,} problems ({done.tokens:,} tokens) in {done.steps:,} steps",
            f"all {self.zeros:,} zeros are kept",
        ]
        if measured := done.held_out:
            after, rise = measured["trace_nll"], measured["trace_nll_rise"]
            lines.append(
                f"trace perplexity (a proxy): {after - rise:.3f} before, {after:.3f} after, in nats per token on "
                f"{measured['traces']} held-out traces of the dense model"
            )
        return "\n".join(lines)


def read_provenance(checkpoint: str) -> Provenance:
    """Read how a pruned checkpoint came about.

    Raises:
        DataError: That is not known.
    """
    path = find_file(source_of(checkpoint), PROVENANCE_FILE, revision=revision_of(checkpoint), token=None)
    if path is None:
        raise DataError(
            f"{checkpoint} has no {PROVENANCE_FILE}, which ssgr prune writes; train other models by SparsityCallback."
        )
    return Provenance.from_file(Path(path))


def recover(
    checkpoint: str,
    calibration: CalibrationSet | str | Path,
    output: str | Path,
    config: RecoveryConfig | None = None,
    *,
    teacher: str | None = None,
    exclude: Sequence[str] = (),
    loading: LoadingConfig | None = None,
) -> RecoveryReport:
    """Fine-tune a pruned model on right traces of the dense model, with its zeros kept, and save it with a card.

    Only the prunable weights are trained, in float32, and stored in the checkpoint's own type. When the same call is made again
    after an interruption, it goes on.

    Args:
        checkpoint: The pruned model: folder, or Hub id (`ID` or `ID@REVISION`).
        calibration: Calibration set with rollouts of the dense model, its folder or Hub id.
        output: Folder to write; must be new or empty.
        config: Epochs, learning rate and so on.
        teacher: Dense model whose scores are to be met, too; None for its traces alone.
        exclude: Evaluation sets whose problems are left out, named as for `load_problems`.
        loading: How the models are loaded.

    Raises:
        SSGRError: Something is missing or does not fit, the traces answer problems of an evaluation, or the journal belongs to
            another run.
    """
    config, loading, output = config or RecoveryConfig(), loading or LoadingConfig(), check_unused(output)
    provenance = read_provenance(checkpoint)
    if isinstance(calibration, str | Path):
        calibration = load_calibration_set(calibration)
    traces = choose_traces(calibration, config, exclude, provenance.evaluation or ())
    if calibration.manifest.model != provenance.base_model:
        logger.warning(f"the traces are those of {calibration.manifest.model}, and {provenance.base_model} was pruned.")
    in_float32 = dataclasses.asdict(dataclasses.replace(loading, dtype="float32"))
    model, tokenizer = load_model(checkpoint, **in_float32)
    check_fits(calibration, model, tokenizer)
    check_generation_config(model)
    dense = load_model(teacher, **dataclasses.asdict(loading))[0] if teacher else None
    with locked_folder(journal_folder(output)) as folder:
        check_fingerprint(folder, _describe(model, dense, calibration, config, traces.excluded))
        before = trace_nll(model, traces.held_out, TRACE_BATCH)
        steps = train(model, traces.train, config, folder, dense)
        after = trace_nll(model.eval(), traces.held_out, TRACE_BATCH)
        recovery = Recovery(
            checkpoint=model_name(model),
            commit=model_commit(model),
            settings=config.to_dict(),
            traces_of=calibration.manifest.model,
            rollouts_hash=calibration.manifest.rollouts_hash,
            hub=calibration.manifest.hub,
            traces=len(traces.train),
            problems=len({item.problem.id for item in traces.train}),
            tokens=sum(len(item.rollout.response_ids) for item in traces.train),
            steps=steps,
            versions=installed_versions("torch", "transformers", "accelerate"),
            teacher=model_name(dense) if dense is not None else None,
            teacher_commit=model_commit(dense) if dense is not None else None,
            excluded=traces.excluded,
            held_out_problems=[item.problem.id for item in traces.held_out],
            held_out=summarize_nll(after, before) if traces.held_out else None,
        )
        # What was measured of the pruned model says nothing of this one.
        known = dataclasses.replace(provenance, evaluation=None, held_out=None, calibration_folder=None, recovery=recovery)
        sparse, _ = load_model(checkpoint, **dataclasses.asdict(loading))
        zeros = _take_over(model, sparse)
        rest = (known, model_card(known), loading.trust_remote_code)
        save_checkpoint(sparse, tokenizer, output, *rest, source=find_source(sparse, None, loading.trust_remote_code))
        shutil.rmtree(folder)
    return RecoveryReport(recovery, zeros)


def _describe(
    model: PreTrainedModel,
    teacher: PreTrainedModel | None,
    calibration: CalibrationSet,
    config: RecoveryConfig,
    excluded: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return what decides the outcome."""
    return {
        "weights": hash_tensors(sorted(model.state_dict().items())),
        "teacher": hash_tensors(sorted(teacher.state_dict().items())) if teacher is not None else None,
        "calibration": [calibration.manifest.content_hash, calibration.manifest.rollouts_hash],
        "settings": config.to_dict(),
        "excluded": excluded,
        "threads": torch.get_num_threads(),
        "versions": installed_versions("torch", "transformers", "accelerate"),
    }


@torch.no_grad()
def _take_over(trained: PreTrainedModel, sparse: PreTrainedModel) -> int:
    """Give the pruned model the trained weights, in its own type.

    Returns:
        Its zeros.

    Raises:
        OutputError: A zero was lost.
    """
    zeros = 0
    for name in pruned_parameters(sparse):
        weight, new = sparse.get_parameter(name), trained.get_parameter(name)
        was_zero = weight == 0
        weight.copy_(new)
        if bool(weight[was_zero].any()):
            raise OutputError(f"{name} lost zeros in training, which must not happen; report it with the versions in use.")
        zeros += int(was_zero.sum())
    return zeros
