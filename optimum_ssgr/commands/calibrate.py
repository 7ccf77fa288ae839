"""`optimum-cli ssgr calibrate`: let a model write its own calibration set."""

import shutil
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import CalibrationConfig
from ..resume import journal_folder
from . import flags
from .base import SSGRSubcommand, resume_hint, say
from .checks import CalibrationInputs, check_inputs, check_push_allowed, read_inputs
from .plan import print_calibration_plan
from .push import push_output


if TYPE_CHECKING:
    from ..calibration.dataset import CalibrationSet
    from ..pruner import SSGRPruner


class CalibrateCommand(SSGRSubcommand):
    """Generate, verify and select calibration sequences."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the command's flags."""
        flags.add_output(parser)
        flags.add_model(parser)
        flags.add_problems(parser, required=False, mixed=True)
        flags.add_generation(parser)
        flags.add_selection(parser)
        flags.add_push(parser, "calibration set")

    def after_interruption(self, args: Namespace) -> str:
        """Say where the finished rollouts are."""
        return resume_hint(args.output, "rollouts")

    def execute(self, args: Namespace) -> None:
        """Build the calibration set and save it."""
        config = flags.calibration_config(args)
        check_inputs(args, config)
        from ..cards.render import dataset_card
        from ..files import check_unused

        check_unused(args.output)
        check_push_allowed(args, "dataset")
        inputs = read_inputs(args, config)
        if args.dry_run:
            print_calibration_plan(args, config, inputs)
            return
        journal = journal_folder(args.output)
        built = build(flags.load_pruner(args, config.needs_rollouts), args, config, inputs, journal)
        built.save_to_disk(args.output, dataset_card(built.manifest))
        shutil.rmtree(journal, ignore_errors=True)
        print_funnel(built.manifest.counts)
        say(f"calibration set written to {args.output}")
        push_output(args)


def build(
    pruner: "SSGRPruner", args: Namespace, config: CalibrationConfig, inputs: CalibrationInputs, journal: Path
) -> "CalibrationSet":
    """Make the calibration set that the flags ask for; finished rollouts are kept in a journal."""
    from ..problems.mixture import instruction_of

    return pruner.build_calibration(
        inputs.problems,
        config,
        text=inputs.text,
        journal_dir=journal,
        engine=args.engine,
        batch_size=args.batch_size,
        instruction=instruction_of(flags.problem_sets(args)),
        metadata=inputs.metadata,
    )


def print_funnel(counts: dict[str, int]) -> None:
    """Print how many of what was generated came through each stage."""
    for name, count in counts.items():
        say(f"{name.replace('_', ' '):<22} {count:>12,}")
    if "generated_tokens" in counts:
        say(f"{counts['generated_tokens'] / counts['tokens']:.1f} tokens generated for every token kept")
