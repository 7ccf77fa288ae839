"""The steps of a study; what a step leaves is there whole or not at all."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from ..calibration.bands import difficulty_bands, length_bands
from ..calibration.dataset import CalibrationSet
from ..calibration.select import reselect
from ..calibration.strategies import WIDENED
from ..calibration.windows import meets_budget
from ..cards.render import dataset_card
from ..errors import DataError
from ..evaluation.evaluate import evaluate
from ..evaluation.metrics import summarize
from ..evaluation.perplexity import perplexity
from ..evaluation.prepare import load_with_tokenizer
from ..evaluation.reconstruction import hidden_states, reference_sequences, relative_errors
from ..evaluation.traces import FEW_TRACES, draw_held_out, nll_per_token
from ..files import write_whole
from ..pruner import SSGRPruner
from ..records import GradedRollout
from ..verification.verify import warn_of_unreadable
from .cells import DAMAGE, Cell, bands_of
from .inputs import StudyInputs


DENSE = "dense"
TRACE_BATCH = 4096
"""Tokens of held-out traces run together."""
REFERENCE_TOKENS = 2048
"""Tokens of the dense model's own responses on which hidden states are compared."""


def evaluate_dense(inputs: StudyInputs) -> None:
    """Evaluate the dense model, and keep some of its own right answers, with its hidden states on a few of them.

    None of these is calibrated on, since no problem is both asked for calibration and evaluated on.

    Raises:
        DataError: It solves none of the problems.
    """
    pruner = _load_pruner(inputs)
    result, graded = _measure(inputs, pruner)
    warn_of_unreadable(graded, inputs.config.model)
    for name, problems in inputs.evaluation_sets.items():  # once for all cells, in the order of `_shares_correct`
        result["sets"][name]["kinds"] = [problem.kind for problem in sorted(problems, key=lambda problem: problem.id)]
    sequences = reference_sequences(graded, REFERENCE_TOKENS)
    if not sequences:
        raise DataError("the dense model solves none of the evaluation problems; check the answers or take easier ones.")
    tensors = {f"ids.{number}": torch.tensor(ids) for number, ids in enumerate(sequences)}
    tensors |= {f"states.{number}": hidden_states(pruner.model, ids) for number, ids in enumerate(sequences)}
    right = {(item.problem.id, item.rollout.sample): item for item in graded if item.verdict.correct}
    traces = [right[key].rollout for key in draw_held_out(right, FEW_TRACES, inputs.config.calibration.seed)]
    tensors |= {f"prompts.{number}": torch.tensor(trace.prompt_ids) for number, trace in enumerate(traces)}
    tensors |= {f"responses.{number}": torch.tensor(trace.response_ids) for number, trace in enumerate(traces)}
    write_whole(inputs.reference, lambda partial: save_file(tensors, partial))
    _write(inputs.result(DENSE), result | {"trace_nll": _trace_nll(pruner, tensors)})


def make_calibration_sets(inputs: StudyInputs, seed: int) -> None:
    """Generate the rollouts of a seed, and select every calibration set from them.

    Raises:
        DataError: A set would have fewer tokens than the others, or a band would have to take traces from outside.
    """
    study, config = inputs.config, dataclasses.replace(inputs.config.calibration, seed=seed)
    problems, instruction = inputs.calibration_problems[seed], inputs.instructions[None]
    pruner = _load_pruner(inputs, weights=study.needs_rollouts and study.engine.in_process)
    graded: Sequence[GradedRollout] = ()
    if study.needs_rollouts:
        with _hold_devices(inputs):
            graded = pruner.generate_rollouts(
                problems,
                config,
                journal_dir=inputs.journal / "rollouts" / str(seed),
                engine=study.engine,
                batch_size=study.batch_size,
                instruction=instruction,
            )
    windows = _band_windows(study.calibrations, graded)
    for name in study.calibrations:
        folder = inputs.calibration_set(seed, name)
        if folder.exists():
            continue
        if name == DAMAGE:  # selected for every cell by itself, from all rollouts
            by_difficulty = dataclasses.replace(study.calibration_for(name), seed=seed, damage=False)
            built = pruner.build_calibration(problems, by_difficulty, rollouts=graded, instruction=instruction)
            built.save_to_disk(folder)
            continue
        chosen = dataclasses.replace(study.calibration_for(name), seed=seed, **windows.get(name, {}))
        built = pruner.build_calibration(problems, chosen, rollouts=graded, text=inputs.text, instruction=instruction)
        outside = sum(WIDENED in by for by in built.dataset["selected_by"]) if name in windows else 0
        filled = meets_budget(built.dataset["num_tokens"], dataclasses.replace(chosen, num_sequences=None))
        if outside or not filled:
            raise DataError(
                f"{name} has fewer than {config.num_tokens:,} tokens to select from the rollouts of seed {seed}, so that sets "
                "of equal size cannot be made; ask more problems, or lower --num-tokens."
            )
        if study.keep_checkpoints and (seed, name) == (study.calibration.seed, study.strategies[0]):
            built.save_to_disk(_emptied(inputs.kept_calibration_set), dataset_card(built.manifest))
        built.without_rollouts().save_to_disk(folder)


def run_cell(inputs: StudyInputs, cell: Cell) -> None:
    """Prune a fresh copy of the model, and measure what is left of it."""
    pruner = _load_pruner(inputs)
    calibration = None
    if cell.calibration is not None:
        calibration = CalibrationSet.load_from_disk(inputs.calibration_set(cell.seed, cell.calibration))
    if cell.calibration == DAMAGE:
        calibration = _select_by_damage(inputs, cell, pruner, calibration)
    report = pruner.prune(calibration, cell.pruning)
    if inputs.config.keeps(cell):
        # Measured as a user would get it: from the checkpoint.
        folder = _emptied(inputs.checkpoint(cell.calibration))
        pruner.save_pretrained(folder, calibration=calibration)
        pruner = SSGRPruner.from_pretrained(str(folder))
    result, _ = _measure(inputs, pruner)
    tensors = load_file(inputs.reference)
    sequences = [ids.tolist() for ids in _numbered(tensors, "ids")]
    found = {
        "errors": relative_errors(pruner.model, sequences, _numbered(tensors, "states")),
        "trace_nll": _trace_nll(pruner, tensors),
    }
    described = {"cell": dataclasses.asdict(cell), "sparsity": report.sparsity, "calibration": _describe(calibration)}
    _write(inputs.result(cell.name), described | result | found)


def _select_by_damage(inputs: StudyInputs, cell: Cell, pruner: SSGRPruner, calibration: CalibrationSet) -> CalibrationSet:
    """Select from the rollouts of a set by what the pruning of a cell does to them."""
    config = dataclasses.replace(inputs.config.calibration_for(DAMAGE), seed=cell.seed)
    dense = inputs.dense_nll(cell.seed)
    measured, damage = pruner.measure_damage(calibration.graded_rollouts(), cell.pruning, config, dense_nll=dense)
    return reselect(calibration, config, rollouts=measured, damage=damage)


def _load_pruner(inputs: StudyInputs, weights: bool = True) -> SSGRPruner:
    loaded = load_with_tokenizer(inputs.config.model, inputs.config.loading, weights)
    return SSGRPruner(*loaded, prompting=inputs.config.prompting)


def _band_windows(calibrations: Sequence[str], graded: Sequence[GradedRollout]) -> dict[str, dict[str, tuple[float, float]]]:
    """Return the windows of `ssgr` that stand for each band, by its name."""
    windows: dict[str, dict[str, tuple[float, float]]] = {}
    for name, window in zip(bands_of(["length"]), length_bands(), strict=True):
        windows[name] = {"length_window": window, "pass_rate": (0, 1)}
    if set(bands_of(["difficulty"])) & set(calibrations):
        for name, window in zip(bands_of(["difficulty"]), difficulty_bands(graded), strict=True):
            windows[name] = {"pass_rate": window, "length_window": (0, 100)}
    return windows


def _measure(inputs: StudyInputs, pruner: SSGRPruner) -> tuple[dict[str, Any], list[GradedRollout]]:
    """Evaluate on every set and on text; also return the responses to the first set."""
    text = perplexity(pruner.model, torch.tensor(inputs.windows)) if inputs.windows else None
    graded = {
        name: evaluate(
            pruner.model,
            pruner.tokenizer,
            problems,
            inputs.config.evaluation,
            inputs.config.samples,
            inputs.config.batch_size,
            inputs.instructions[name],
            inputs.config.prompting,
        )
        for name, problems in inputs.evaluation_sets.items()
    }
    sets = {name: {"summary": summarize(found), "correct": _shares_correct(found)} for name, found in graded.items()}
    return {"sets": sets, "text_perplexity": text}, next(iter(graded.values()))


def _trace_nll(pruner: SSGRPruner, tensors: Mapping[str, torch.Tensor]) -> list[float]:
    """Return the nats per token that a model gives to each of the dense model's traces."""
    traces = [
        (prompt.tolist(), response.tolist())
        for prompt, response in zip(_numbered(tensors, "prompts"), _numbered(tensors, "responses"), strict=True)
    ]
    return nll_per_token(pruner.model, traces, TRACE_BATCH)


def _hold_devices(inputs: StudyInputs) -> AbstractContextManager[Any]:
    """Let one server at a time be started on the same GPUs, of which each takes all the memory."""
    if not inputs.config.engine.is_managed:
        return nullcontext()
    visible = hashlib.sha256(os.environ.get("CUDA_VISIBLE_DEVICES", "").encode()).hexdigest()[:8]
    return FileLock(inputs.journal / f"devices-{visible}.lock")


def _numbered(tensors: Mapping[str, torch.Tensor], name: str) -> list[torch.Tensor]:
    """Return the tensors `NAME.0`, `NAME.1`, ..."""
    return [tensors[f"{name}.{number}"] for number in range(sum(key.startswith(f"{name}.") for key in tensors))]


def _shares_correct(graded: Sequence[GradedRollout]) -> list[float]:
    """Share of right samples by problem, in the order of the problems' ids."""
    verdicts: dict[str, list[bool]] = {}
    for item in graded:
        verdicts.setdefault(item.problem.id, []).append(item.verdict.correct)
    return [sum(found) / len(found) for found in verdicts.values()]


def _describe(calibration: CalibrationSet | None) -> dict[str, Any] | None:
    """Say what a model was calibrated on: how much, and how long and how difficult it was."""
    if calibration is None:
        return None
    rows = calibration.dataset
    rates = [rate for rate in rows["pass_rate"] if rate is not None]
    return {
        "sequences": len(rows),
        "tokens": sum(rows["num_tokens"]),
        "mean_tokens": sum(rows["num_tokens"]) / len(rows),
        "pass_rate": sum(rates) / len(rates) if rates else None,
        "outside_windows": sum(WIDENED in by for by in rows["selected_by"]) / len(rows),
    }


def _emptied(folder: Path) -> Path:
    """Remove what a step that was cut off left in a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda partial: partial.write_text(json.dumps(result) + "\n"))
