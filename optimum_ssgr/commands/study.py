"""`optimum-cli ssgr study`: strategies, methods and sparsities against one another, with figures and error bars."""

import dataclasses
import json
import shutil
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ..config import METHODS, CalibrationConfig, SamplingConfig
from ..errors import ConfigError
from ..files import locked_folder
from ..resume import check_fingerprint
from . import flags
from .base import SSGRSubcommand, resume_hint, say
from .checks import check_prompts, check_text
from .setting import (
    Setting,
    about,
    check_budget,
    evaluation_names,
    fingerprint,
    read_setting,
    seeds,
    targets,
)


if TYPE_CHECKING:
    from ..study.cells import Cell


class StudyCommand(SSGRSubcommand):
    """Calibrate, prune and evaluate every combination; write report.json, report.md, report.html and plots.

    A study that was stopped goes on where it was, also with more seeds, methods or strategies; a finished one does not.
    """

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the command's flags."""
        flags.add_output(parser)
        flags.add_model(parser)
        flags.add_problems(parser, required=True)
        flags.add_rollouts(parser)
        flags.add_selection(parser, several=True)
        group = parser.add_argument_group("study")
        group.add_argument("--methods", nargs="+", default=["sparsegpt"], help=f"{', '.join(METHODS)} (default: sparsegpt)")
        group.add_argument("--sparsities", nargs="+", type=float, default=[], help="shares of weights to remove (default: 0.5)")
        group.add_argument("--patterns", nargs="+", default=[], help="N:M patterns such as 2:4")
        group.add_argument(
            "--seeds",
            type=int,
            default=3,
            help="repetitions with problems and rollouts of their own, by the seeds from --seed on (default: %(default)s)",
        )
        group.add_argument(
            "--sweeps",
            nargs="+",
            default=[],
            help="difficulty, length: also calibrate on correct traces from thirds of each, with the first method",
        )
        group.add_argument("--processes", type=int, default=1, help="cells to work on at a time (default: %(default)s)")
        group.add_argument(
            "--threads", type=int, default=1, help="processor threads of each process; decides the bits (default: %(default)s)"
        )
        group = parser.add_argument_group("evaluation")
        group.add_argument("--evaluation-problems", help="problem set to evaluate on (default: --problems, if it has a split)")
        group.add_argument("--transfer-problems", help="problem set of another domain to evaluate on as well")
        group.add_argument("--num-evaluation-problems", type=int, help="use this many problems of each at most")
        group.add_argument("--samples", type=int, default=1, help="responses for each problem (default: %(default)s)")
        group.add_argument(
            "--evaluation-temperature", type=float, default=SamplingConfig.temperature, help="(default: %(default)s)"
        )
        group.add_argument("--evaluation-top-p", type=float, default=SamplingConfig.top_p, help="(default: %(default)s)")

    def after_interruption(self, args: Namespace) -> str:
        """Say where the finished cells are."""
        return resume_hint(args.output, "cells")

    def execute(self, args: Namespace) -> None:
        """Run the cells that are missing, and report."""
        from ..files import check_unused, new_folder
        from .cells import DENSE

        cells = wanted_cells(args)
        config, sampling = wanted_settings(args)
        from ..study.report import summary, write_report  # with matplotlib: after what is quick to find out

        names = evaluation_names(args)
        check_unused(args.output)
        check_model(args, cells)
        setting = read_setting(args, cells, config, sampling, names)
        asked = [problem for of_seed in setting.asked.values() for problem in of_seed]
        for name, problems in {None: asked, **setting.sets}.items():
            check_prompts(args, args.model, problems, setting.instructions[name], sampling.max_new_tokens)
        check_budget(setting)
        if args.dry_run:
            plan(args, setting, cells)
            return
        with locked_folder(setting.journal):
            check_fingerprint(setting.journal, fingerprint(setting))
            run(setting, cells, args.processes)
        with new_folder(args.output) as folder:
            shutil.copytree(setting.journal / "cells", folder / "cells")
            results = {cell: json.loads((folder / "cells" / f"{cell.name}.json").read_text()) for cell in cells}
            dense = json.loads((folder / "cells" / f"{DENSE}.json").read_text())
            report = write_report(about(args, setting), dense, results, folder)
        shutil.rmtree(setting.journal)
        say(summary(report))
        say(f"\nreport and plots written to {args.output}")


def wanted_cells(args: Namespace) -> "list[Cell]":
    """Return the cells that the flags ask for.

    Raises:
        ConfigError: A method, strategy, sparsity, pattern or sweep is unknown or out of range.
    """
    from ..study.cells import SWEEPS, study_cells

    for name in ("seeds", "processes", "threads", "samples"):
        if getattr(args, name) < 1:
            raise ConfigError(f"{name} must be at least 1, not {getattr(args, name)}.")
    unknown = [name for name in args.sweeps if name not in SWEEPS]
    if unknown:
        raise ConfigError(f"unknown sweep '{unknown[0]}'; choose among {', '.join(SWEEPS)}.")
    cells = list(study_cells(args.strategies, args.methods, targets(args), seeds(args), args.sweeps))
    if args.sweeps and not any(cell.calibration for cell in cells):
        raise ConfigError("--sweeps needs a method that calibrates; none of --methods does.")
    if len(set(cells)) < len(cells):
        raise ConfigError("a strategy, method, sparsity, pattern or sweep is named twice.")
    for cell in cells:
        cell.pruning  # noqa: B018  (checks the settings)
    return cells


def wanted_settings(args: Namespace) -> tuple[CalibrationConfig, SamplingConfig]:
    """Return how to calibrate and how to evaluate.

    Raises:
        ConfigError: A setting is out of range, or there is no such engine, no number of tokens or no text.
    """
    flags.check_engine(args)
    config = flags.calibration_config(args)
    for name in args.strategies:
        check_text(args, dataclasses.replace(config, strategy=name))
    if config.num_tokens is None:
        raise ConfigError("strategies are compared at equal numbers of tokens; set --num-tokens.")
    sampling = SamplingConfig(args.evaluation_temperature, args.evaluation_top_p, config.max_new_tokens, args.seed)
    return config, sampling


def check_model(args: Namespace, cells: "list[Cell]") -> None:
    """Refuse a model or a pattern that cannot be pruned, before any work."""
    from ..checkpoints.load import load_skeleton
    from ..pruning.layerwise import check_prunable

    skeleton = load_skeleton(args.model, **flags.source_arguments(args))
    for pruning in {cell.pruning for cell in cells}:
        check_prunable(skeleton, pruning)


def run(setting: Setting, cells: "list[Cell]", processes: int) -> None:
    """Run what is missing: the dense model and the calibration sets of every seed first, then the cells."""
    from tqdm.auto import tqdm

    from .cells import DENSE, make_calibrations, make_dense, run_cell
    from .processes import step_runner

    steps = [] if setting.result(DENSE).exists() else [(make_dense,)]
    for seed in seeds(setting.args):
        needed = {cell.calibration for cell in cells if cell.seed == seed and cell.calibration}
        if not all(setting.calibration_set(seed, name).exists() for name in needed):
            steps.append((make_calibrations, seed))
    missing = [(run_cell, cell) for cell in cells if not setting.result(cell.name).exists()]
    done = 1 + setting.args.seeds + len(cells)
    with (
        tqdm(total=done, initial=done - len(steps) - len(missing), desc="study", unit="cell") as progress,
        step_runner(setting, processes) as run_steps,
    ):
        for wave in (steps, missing):
            for _ in run_steps(wave):
                progress.update()


def plan(args: Namespace, setting: Setting, cells: "list[Cell]") -> None:
    """Print what would be done."""
    rollouts = len(setting.asked[args.seed]) * setting.calibration.samples_per_problem
    responses = args.samples * sum(map(len, setting.sets.values()))
    say(f"rollouts     {args.seeds} seeds of {rollouts:,}, {len(setting.asked[args.seed]):,} problems each")
    say(f"calibrates   {', '.join(setting.calibrations)} with {setting.calibration.num_tokens:,} tokens")
    say(f"prunes       {', '.join(args.methods)} to {', '.join(targets(args))}: {len(cells):,} cells")
    say(f"evaluates    {responses:,} responses a cell: {', '.join(f'{name} ({len(p):,})' for name, p in setting.sets.items())}")
    say(f"writes       {args.output}")
