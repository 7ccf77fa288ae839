"""`optimum-cli ssgr study`: strategies, methods and sparsities against one another, with figures and error bars."""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ..config import METHODS, SamplingConfig
from ..errors import ConfigError
from ..extras import require_extra
from ..resume import journal_folder
from . import configs, flags
from .base import SSGRSubcommand, resume_hint, say


if TYPE_CHECKING:
    from ..study.inputs import StudyInputs


class StudyCommand(SSGRSubcommand):
    """Calibrate, prune and evaluate every combination; write report.json, report.md, report.html and plots.

    A study that was stopped goes on where it was, also with more seeds, methods or strategies; a finished one does not.
    """

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the command's flags."""
        flags.add_output(parser)
        flags.add_model(parser)
        flags.add_problems(parser, required=True, mixed=True)
        flags.add_rollouts(parser)
        flags.add_selection(parser, several=True)
        group = parser.add_argument_group("study")
        group.add_argument(
            "--methods",
            nargs="+",
            default=["sparsegpt"],
            help=f"{', '.join(METHODS)}, each perhaps refined, as wanda+swaps or wanda+swaps+blocks (default: sparsegpt)",
        )
        group.add_argument("--sparsities", nargs="+", type=float, default=[], help="shares of weights to remove (default: 0.5)")
        group.add_argument("--patterns", nargs="+", default=[], help="N:M patterns such as 2:4")
        group.add_argument(
            "--seeds",
            type=int,
            default=3,
            help="repetitions with problems and rollouts of their own, by the seeds from --seed on (default: %(default)s)",
        )
        group.add_argument(
            "--bands",
            nargs="+",
            default=[],
            help="difficulty, length: also calibrate on correct traces from thirds of each, with the first method",
        )
        group.add_argument("--processes", type=int, default=1, help="cells to work on at a time (default: %(default)s)")
        group.add_argument(
            "--threads", type=int, default=1, help="processor threads of each process; decides the bits (default: %(default)s)"
        )
        group.add_argument(
            "--keep-checkpoints",
            action="store_true",
            help="keep the models of the first method, target and seed, and the calibration set of the first strategy",
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
        require_extra("matplotlib", "report", "plots")
        if args.processes < 1:
            raise ConfigError(f"processes must be at least 1, not {args.processes}.")
        config = configs.study_config(args)
        from ..files import check_unused
        from ..study.inputs import read_inputs
        from ..study.report import summarize_report
        from ..study.run import finish_study

        inputs = read_inputs(config, journal_folder(check_unused(args.output)))
        if args.dry_run:
            plan(args, inputs)
            return
        say(summarize_report(finish_study(inputs, args.output, args.processes)))
        say(f"\nreport and plots written to {args.output}")


def plan(args: Namespace, inputs: "StudyInputs") -> None:
    """Print what would be done."""
    config, sets = inputs.config, inputs.evaluation_sets
    asked = len(inputs.calibration_problems[config.calibration.seed])
    responses = config.samples * sum(map(len, sets.values()))
    say(f"rollouts     {config.seeds} seeds of {asked * config.calibration.samples_per_problem:,}, {asked:,} problems each")
    say(f"calibrates   {', '.join(config.calibrations)} with {config.calibration.num_tokens:,} tokens")
    say(f"prunes       {', '.join(config.methods)} to {', '.join(config.targets)}: {len(config.cells):,} cells")
    say(f"evaluates    {responses:,} responses a cell: {', '.join(f'{name} ({len(p):,})' for name, p in sets.items())}")
    say(f"writes       {args.output}")
