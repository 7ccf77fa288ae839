"""`optimum-cli ssgr demo`: the main job on the embedded reasoner, next to the same model pruned with general text."""

from argparse import ArgumentParser, Namespace

from ..errors import ConfigError
from ..extras import require_extra
from ..resume import journal_folder
from ..study.demo import EVALUATION_PROBLEMS, SPARSITY, demo_config
from ..verification.processors import usable_processors
from .base import SSGRSubcommand, resume_hint, say
from .flags import add_output
from .study import plan


class DemoCommand(SSGRSubcommand):
    """Calibrate, prune, save, reload and evaluate; write a report, plots, a checkpoint for each strategy and a set."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the command's flags."""
        add_output(parser)
        parser.add_argument(
            "--sparsity", type=float, default=SPARSITY, help="share of weights to remove (default: %(default)s)"
        )
        parser.add_argument("--split", default="test", choices=("dev", "test"), help="problems to evaluate on (default: test)")
        parser.add_argument(
            "--num-problems", type=int, default=EVALUATION_PROBLEMS, help="problems to evaluate on (default: %(default)s)"
        )

    def after_interruption(self, args: Namespace) -> str:
        """Say where the finished cells are."""
        return resume_hint(args.output, "cells")

    def execute(self, args: Namespace) -> None:
        """Run the study and write its folder."""
        require_extra("matplotlib", "report", "plots")
        if args.num_problems < 2:
            raise ConfigError(f"num_problems must be at least 2, not {args.num_problems}.")
        config = demo_config(args.sparsity, args.split, args.num_problems)
        from ..files import check_unused
        from ..study.inputs import read_inputs
        from ..study.report import summarize_report
        from ..study.run import finish_study

        inputs = read_inputs(config, journal_folder(check_unused(args.output)))
        if args.dry_run:
            plan(args, inputs)
            return
        say(summarize_report(finish_study(inputs, args.output, processes=min(usable_processors(), 4))))
        checkpoints = args.output / "checkpoints"
        say(f"\nreport, plots, checkpoints and a calibration set written to {args.output}")
        say(f"look at      {args.output / 'plots' / 'accuracy.png'}")
        say(f"try next     optimum-cli ssgr chat tiny-reasoner {checkpoints / 'text'} {checkpoints / 'cover'}")
