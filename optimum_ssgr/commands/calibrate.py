"""`optimum-cli ssgr calibrate`: let a model write its own calibration set."""

import shutil
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import CalibrationConfig, PruningConfig
from ..errors import ConfigError
from ..resume import journal_folder
from . import configs, flags
from .base import SSGRSubcommand, resume_hint, say
from .checks import CalibrationInputs, check_inputs, check_push_allowed, read_inputs
from .plan import print_calibration_plan
from .push import push_output


if TYPE_CHECKING:
    from ..calibration.dataset import CalibrationSet
    from ..formats import Manifest
    from ..pruner import SSGRPruner
    from ..records import GradedRollout


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
        config = configs.calibration_config(args)
        if config.damage:
            raise ConfigError(
                "damage is measured for one way of pruning: make the set without --damage, and prune with --calibration SET "
                "--damage."
            )
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
        built = build(configs.load_pruner(args, config.needs_rollouts), args, config, inputs, journal)
        built.save_to_disk(args.output, dataset_card(built.manifest))
        shutil.rmtree(journal, ignore_errors=True)
        print_funnel(built.manifest)
        say(f"calibration set written to {args.output}")
        push_output(args)


def build(
    pruner: "SSGRPruner",
    args: Namespace,
    config: CalibrationConfig,
    inputs: CalibrationInputs,
    journal: Path,
    pruning: PruningConfig | None = None,
    rollouts: "list[GradedRollout] | None" = None,
) -> "CalibrationSet":
    """Make the calibration set that the flags ask for, of rollouts that are there or of new ones, kept in a journal."""
    from ..problems.mixture import instruction_of

    return pruner.build_calibration(
        inputs.problems,
        config,
        rollouts=rollouts,
        text=inputs.text,
        journal_dir=journal,
        engine=configs.engine_config(args),
        batch_size=args.batch_size,
        instruction=instruction_of(configs.problem_sets(args)),
        pruning=pruning,
        metadata=inputs.metadata,
    )


def print_funnel(manifest: "Manifest") -> None:
    """Print how many of what was generated came through each stage, and how much of each kind of problem."""
    counts = manifest.counts
    for name, count in counts.items():
        say(f"{name.replace('_', ' '):<22} {count:>12,}")
    if "generated_tokens" in counts:
        say(f"{counts['generated_tokens'] / counts['tokens']:.1f} tokens generated for every token kept")
    if manifest.kinds:
        print_kinds(manifest.kinds)


def print_kinds(kinds: dict[str, dict[str, float | None]]) -> None:
    """Print by kind of problem how often it is solved, and its shares of the tokens that are correct and that are selected."""
    width = max(map(len, ("kind", *kinds)))
    say(f"{'kind':<{width}}  problems  correct traces  pass rate  of correct tokens  of selected tokens")
    for name, of in kinds.items():
        rate = "-" if of["pass_rate"] is None else f"{of['pass_rate']:.0%}"
        counts = f"{of['problems']:>8,}  {of['correct']:>14,}  {rate:>9}"
        say(f"{name:<{width}}  {counts}  {of['pool_share']:>17.1%}  {of['selected_share']:>18.1%}")
