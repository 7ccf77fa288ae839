"""Run a study: the dense model and the calibration sets first, then every pruned model, then the report."""

import json
import shutil
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..extras import require_extra
from ..files import check_unused, locked_folder, new_folder
from ..resume import check_fingerprint, journal_folder
from .config import StudyConfig
from .inputs import StudyInputs, read_inputs, study_fingerprint, study_metadata
from .report import write_report
from .statistics import StudyReport
from .steps import DENSE, evaluate_dense, make_calibration_sets, run_cell
from .workers import open_workers


def run_study(config: StudyConfig, output_dir: str | Path, processes: int = 1) -> StudyReport:
    """Calibrate, prune and evaluate every combination, and report.

    A study that was stopped goes on where it was, also with more seeds, methods or strategies; a finished one does not. What
    is finished is kept in `OUTPUT_DIR.journal` until all is done. Processes are started by the method `spawn`, so a script
    that calls this needs `if __name__ == "__main__":`.

    Args:
        config: What to compare and how.
        output_dir: Folder for report.json, report.md, report.html, plots and cells; must be new or empty.
        processes: Cells to work on at a time; does not change the results.

    Returns:
        The report.

    Raises:
        SSGRError: Something cannot be used, which is found before any work where it can be known; or the journal belongs to
            another study.
    """
    require_extra("matplotlib", "report", "plots")
    output = check_unused(output_dir)
    return finish_study(read_inputs(config, journal_folder(output)), output, processes)


def finish_study(inputs: StudyInputs, output: Path, processes: int) -> StudyReport:
    """Run what is missing of a study whose inputs are read, and write its folder."""
    with locked_folder(inputs.journal):
        check_fingerprint(inputs.journal, study_fingerprint(inputs))
        _run_steps(inputs, processes)
    with new_folder(output) as folder:
        shutil.copytree(inputs.journal / "cells", folder / "cells")
        if inputs.config.keep_checkpoints:
            shutil.copytree(inputs.journal / "checkpoints", folder / "checkpoints")
            shutil.copytree(inputs.kept_calibration_set, folder / "calibration")
        results = {cell: json.loads((folder / "cells" / f"{cell.name}.json").read_text()) for cell in inputs.config.cells}
        dense = json.loads((folder / "cells" / f"{DENSE}.json").read_text())
        report = write_report(study_metadata(inputs), dense, results, folder)
    shutil.rmtree(inputs.journal)
    return report


def _run_steps(inputs: StudyInputs, processes: int) -> None:
    """Run what is missing, with one progress bar for all of it, which counts responses: they take most of the time."""
    config = inputs.config
    answers = config.samples * sum(map(len, inputs.evaluation_sets.values()))
    # 1. The dense model, and the calibration sets of every seed.
    first: list[tuple[Any, ...]] = [] if inputs.result(DENSE).exists() else [(evaluate_dense,)]
    responses = answers * len(first)
    for seed in config.seed_range:
        needed = {cell.calibration for cell in config.cells if cell.seed == seed and cell.calibration}
        if not all(inputs.calibration_set(seed, name).exists() for name in needed):
            first.append((make_calibration_sets, seed))
            if config.needs_rollouts:
                responses += len(inputs.calibration_problems[seed]) * config.calibration.samples_per_problem
    # 2. The pruned models, which need both.
    missing = [(run_cell, cell) for cell in config.cells if not inputs.result(cell.name).exists()]
    responses += answers * len(missing)
    with tqdm(total=responses, desc="study", unit="response") as progress, open_workers(inputs, processes) as run:
        for wave in (first, missing):
            for generated in run(wave):
                progress.update(min(generated, responses) - progress.n)
        progress.update(responses - progress.n)
