"""The steps of a study; what a step leaves is there whole or not at all."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import CalibrationConfig
from ..errors import DataError
from ..files import write_whole
from . import flags
from .flags import load_pruner
from .setting import Setting


if TYPE_CHECKING:
    from ..calibration.dataset import CalibrationSet
    from ..pruner import SSGRPruner
    from ..records import GradedRollout
    from ..study.cells import Cell

DENSE = "dense"
REFERENCE_TOKENS = 2048
"""Tokens of the dense model's own responses on which hidden states are compared."""


def make_dense(setting: Setting) -> None:
    """Evaluate the dense model, and keep its hidden states on some of its own right answers."""
    import torch
    from safetensors.torch import save_file

    from ..evaluation.reconstruction import hidden_states, reference_sequences

    pruner = _load(setting)
    result, graded = _measure(setting, pruner)
    sequences = reference_sequences(graded, REFERENCE_TOKENS)
    if not sequences:
        raise DataError("the dense model solves none of the evaluation problems; check the answers or take easier ones.")
    tensors = {f"ids.{number}": torch.tensor(ids) for number, ids in enumerate(sequences)}
    tensors |= {f"states.{number}": hidden_states(pruner.model, ids) for number, ids in enumerate(sequences)}
    write_whole(setting.reference, lambda partial: save_file(tensors, partial))
    _write(setting.result(DENSE), result)


def make_calibrations(setting: Setting, seed: int) -> None:
    """Generate the rollouts of a seed, and select every calibration set from them.

    Raises:
        DataError: A set would have fewer tokens than the others, or a band would have to take traces from outside.
    """
    from ..calibration.bands import difficulty_bands, length_bands
    from ..calibration.strategies import WIDENED
    from ..study.cells import bands_of

    config = dataclasses.replace(setting.calibration, seed=seed)
    problems, instruction = setting.asked[seed], setting.instructions[None]
    needs_rollouts = any(_with_strategy(config, name).needs_rollouts for name in setting.calibrations)
    pruner = load_pruner(setting.args, setting.args.model, generates=needs_rollouts)
    graded: Sequence[GradedRollout] = ()
    if needs_rollouts:
        graded = pruner.generate_rollouts(
            problems,
            config,
            journal_dir=setting.journal / "rollouts" / str(seed),
            engine=setting.args.engine,
            batch_size=setting.args.batch_size,
            instruction=instruction,
        )
    bands: dict[str, dict[str, Any]] = {}
    for name, window in zip(bands_of(["length"]), length_bands(), strict=True):
        bands[name] = {"length_window": window, "pass_rate": (0, 1)}
    if set(bands_of(["difficulty"])) & set(setting.calibrations):
        for name, window in zip(bands_of(["difficulty"]), difficulty_bands(graded), strict=True):
            bands[name] = {"pass_rate": window, "length_window": (0, 100)}
    for name in setting.calibrations:
        folder = setting.calibration_set(seed, name)
        if folder.exists():
            continue
        chosen = dataclasses.replace(_with_strategy(config, name), **bands.get(name, {}))
        built = pruner.build_calibration(problems, chosen, rollouts=graded, text=setting.text, instruction=instruction)
        outside = sum(WIDENED in by for by in built.dataset["selected_by"]) if name in bands else 0
        tokens = built.manifest.counts["tokens"]
        if outside or tokens < config.num_tokens:
            raise DataError(
                f"{name} has fewer than {config.num_tokens:,} tokens to select from the rollouts of seed {seed}, so that sets "
                "of equal size cannot be made; ask more problems, or lower --num-tokens."
            )
        built.without_rollouts().save_to_disk(folder)


def run_cell(setting: Setting, cell: "Cell") -> None:
    """Prune a fresh copy of the model, and measure what is left of it."""
    from safetensors.torch import load_file

    from ..calibration.dataset import CalibrationSet
    from ..evaluation.reconstruction import relative_errors

    pruner = _load(setting)
    calibration = None
    if cell.calibration is not None:
        calibration = CalibrationSet.load_from_disk(setting.calibration_set(cell.seed, cell.calibration))
    report = pruner.prune(calibration, cell.pruning)
    result, _ = _measure(setting, pruner)
    tensors = load_file(setting.reference)
    numbers = range(len(tensors) // 2)
    sequences = [tensors[f"ids.{number}"].tolist() for number in numbers]
    errors = relative_errors(pruner.model, sequences, [tensors[f"states.{number}"] for number in numbers])
    about = {"cell": dataclasses.asdict(cell), "sparsity": report.sparsity, "calibration": _describe(calibration)}
    _write(setting.result(cell.name), about | result | {"errors": errors})


def _load(setting: Setting) -> "SSGRPruner":
    from ..pruner import SSGRPruner

    return SSGRPruner.from_pretrained(setting.args.model, **flags.load_arguments(setting.args))


def _measure(setting: Setting, pruner: "SSGRPruner") -> "tuple[dict[str, Any], list[GradedRollout]]":
    """Evaluate on every set and on text; also return the responses to the first set."""
    import torch

    from ..evaluation.evaluate import evaluate
    from ..evaluation.metrics import summarize
    from ..evaluation.perplexity import perplexity

    text = perplexity(pruner.model, torch.tensor(setting.windows)) if setting.windows else None
    graded = {
        name: evaluate(
            pruner.model,
            pruner.tokenizer,
            problems,
            setting.sampling,
            setting.args.samples,
            setting.args.batch_size,
            setting.instructions[name],
        )
        for name, problems in setting.sets.items()
    }
    sets = {name: {"summary": summarize(found), "correct": _shares(found)} for name, found in graded.items()}
    return {"sets": sets, "text_perplexity": text}, next(iter(graded.values()))


def _shares(graded: "Sequence[GradedRollout]") -> list[float]:
    """Share of right samples by problem, in the order of the problems' ids."""
    verdicts: dict[str, list[bool]] = {}
    for item in graded:
        verdicts.setdefault(item.problem.id, []).append(item.verdict.correct)
    return [sum(found) / len(found) for found in verdicts.values()]


def _with_strategy(config: CalibrationConfig, name: str) -> CalibrationConfig:
    """Return the settings of a strategy; bands are windows of `ssgr`."""
    return dataclasses.replace(config, strategy="ssgr" if ":" in name else name)


def _describe(calibration: "CalibrationSet | None") -> dict[str, Any] | None:
    """Say what a model was calibrated on: how much, and how long and how difficult it was."""
    from ..calibration.strategies import WIDENED

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


def _write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda partial: partial.write_text(json.dumps(result) + "\n"))
