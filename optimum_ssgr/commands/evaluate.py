"""`optimum-cli ssgr evaluate`: accuracy, length, truncation and loops, next to one another."""

import shutil
from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..config import SamplingConfig
from ..resume import journal_folder
from . import configs, flags
from .base import SSGRSubcommand, resume_hint, say


class EvaluateCommand(SSGRSubcommand):
    """Evaluate one or several models on the same problem sets."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the command's flags."""
        flags.add_model(parser, several=True)
        flags.add_problems(parser, required=False)
        flags.add_sampling(parser, SamplingConfig)
        flags.add_engine(parser)
        group = parser.add_argument_group("evaluation")
        group.add_argument(
            "--benchmark",
            nargs="+",
            default=[],
            help="math500, aime24, aime25, gsm8k or gpqa: problem sets with the number of samples that the field uses",
        )
        group.add_argument("--samples", type=int, help="responses for each problem (default: 1, or the benchmark's)")
        group.add_argument("--baseline", help="model to compare the others with, problem by problem; named as in -m")
        group.add_argument(
            "--text",
            help="general text to measure perplexity on: a file, a Hub data set such as allenai/c4:en, or tiny-reasoner",
        )
        group.add_argument("--text-split", help="split of the text (default: validation; test for tiny-reasoner)")
        group.add_argument("--text-length", type=int, default=2048, help="tokens in a window of text (default: %(default)s)")
        group.add_argument(
            "--traces",
            metavar="SET",
            help="calibration set with rollouts of the dense model, folder or Hub id (ID or ID@REVISION): measure also how "
            "likely every model finds right traces of problems that none was calibrated on",
        )
        group.add_argument("--output", type=Path, metavar="OUT", help="folder to write; must be new or empty")
        flags.add_quiet(parser)

    def after_interruption(self, args: Namespace) -> str:
        """Say where the finished responses are."""
        return resume_hint(args.output, "responses") if args.output else "nothing was written."

    def execute(self, args: Namespace) -> None:
        """Evaluate every model on every set, print a table and write the output."""
        config = configs.evaluation_config(args)
        from ..evaluation.compare import compare_models
        from ..evaluation.output import cross_checks, format_kinds, format_table, save_comparison
        from ..files import check_unused

        journal = None
        if args.output is not None:
            journal = journal_folder(check_unused(args.output))
        comparison = compare_models(config, journal)
        say(format_table(comparison))
        for table in format_kinds(comparison):
            say(f"\n{table}")
        for command in cross_checks(comparison):
            say(f"\nto cross-check with lighteval 0.12 or newer:\n{command}")
        if args.output is not None:
            save_comparison(comparison, args.output)
            shutil.rmtree(journal, ignore_errors=True)
            say(f"\nresults written to {args.output}")
