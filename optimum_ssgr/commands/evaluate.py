"""`optimum-cli ssgr evaluate`: accuracy, length, truncation and loops, next to one another."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..config import SamplingConfig
from . import flags
from .base import SSGRSubcommand, say


class EvaluateCommand(SSGRSubcommand):
    """Evaluate one or several models on the same problems."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the command's flags."""
        flags.add_model(parser, several=True)
        flags.add_problems(parser, required=True)
        flags.add_sampling(parser, SamplingConfig)
        parser.add_argument("--samples", type=int, default=1, help="responses for each problem (default: %(default)s)")
        parser.add_argument("--output", type=Path, help="JSON file to write the numbers to")
        flags.add_quiet(parser)

    def execute(self, args: Namespace) -> None:
        """Evaluate every model and print a table."""
        sampling = flags.sampling_config(args)
        from ..errors import ConfigError, OutputError
        from ..problems.load import load_problems
        from ..pruner import SSGRPruner

        if args.samples < 1:
            raise ConfigError(f"samples must be at least 1, not {args.samples}.")
        if args.output is not None and args.output.exists():
            raise OutputError(f"{args.output} exists; choose another file or remove it.")
        if args.output is not None and not args.output.absolute().parent.is_dir():
            raise OutputError(f"there is no folder {args.output.parent} to write {args.output.name} in.")
        problems = load_problems(
            args.problems,
            split=args.split,
            limit=args.num_problems,
            question_column=args.question_column,
            answer_column=args.answer_column,
            seed=args.seed,
        )
        results = {}
        for model in args.model:
            pruner = SSGRPruner.from_pretrained(model, **flags.load_arguments(args))
            results[model] = pruner.evaluate(
                problems, sampling, samples=args.samples, batch_size=args.batch_size, instruction=args.instruction
            )
        say(as_table(results))
        if args.output is not None:
            record = {"sampling": sampling.to_dict(), "results": results}
            partial = args.output.with_name(f".{args.output.name}.partial")
            partial.write_text(json.dumps(record, indent=2) + "\n")
            partial.rename(args.output)


def as_table(results: dict[str, dict[str, float | int | None]]) -> str:
    """Lay results out in aligned columns, one row per model."""
    header = (
        "model",
        "problems",
        "samples",
        "accuracy",
        "+- SE",
        "mean tokens",
        "median",
        "truncated",
        "no </think>",
        "looping",
    )
    rows = [header]
    for name, row in results.items():
        unclosed = row["missing_think_end"]
        rows.append(
            (
                name,
                str(row["problems"]),
                str(row["samples"]),
                f"{row['accuracy']:.1%}",
                f"{row['accuracy_se']:.1%}",
                f"{row['mean_tokens']:.0f}",
                f"{row['median_tokens']:.0f}",
                f"{row['truncated']:.1%}",
                "-" if unclosed is None else f"{unclosed:.1%}",
                f"{row['looping']:.1%}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
