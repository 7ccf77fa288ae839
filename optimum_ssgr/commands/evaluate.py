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
        parser.add_argument("--baseline", help="model to compare the others with, problem by problem")
        parser.add_argument("--output", type=Path, help="JSON file to write the numbers to")
        flags.add_quiet(parser)

    def execute(self, args: Namespace) -> None:
        """Evaluate every model and print a table."""
        sampling = flags.sampling_config(args)
        from ..errors import ConfigError, OutputError
        from ..evaluation.evaluate import evaluate
        from ..evaluation.metrics import paired_difference, summarize
        from ..pruner import SSGRPruner

        if args.samples < 1:
            raise ConfigError(f"samples must be at least 1, not {args.samples}.")
        if args.output is not None and args.output.exists():
            raise OutputError(f"{args.output} exists; choose another file or remove it.")
        if args.output is not None and not args.output.absolute().parent.is_dir():
            raise OutputError(f"there is no folder {args.output.parent} to write {args.output.name} in.")
        problems = flags.read_problems(args, evaluation=True)
        results: dict[str, dict[str, float | int | None]] = {}
        graded = {}
        for model in dict.fromkeys([args.baseline, *args.model] if args.baseline else args.model):
            pruner = SSGRPruner.from_pretrained(model, **flags.load_arguments(args))
            graded[model] = evaluate(
                pruner.model, pruner.tokenizer, problems, sampling, args.samples, args.batch_size, flags.instruction(args)
            )
            results[model] = summarize(graded[model])
            if args.baseline and model != args.baseline:
                difference = paired_difference(graded[model], graded[args.baseline])
                results[model] |= dict(zip(("difference", "difference_se"), difference, strict=True))
        say(as_table(results))
        if args.output is not None:
            record = {"sampling": sampling.to_dict(), "results": results}
            partial = args.output.with_name(f".{args.output.name}.partial")
            partial.write_text(json.dumps(record, indent=2) + "\n")
            partial.rename(args.output)


def as_table(results: dict[str, dict[str, float | int | None]]) -> str:
    """Lay results out in aligned columns, one row per model."""
    rows = [
        ("model", "problems", "samples", "accuracy", "vs baseline", "tokens", "median", "truncated", "no </think>", "looping")
    ]
    for name, row in results.items():
        unclosed = row["missing_think_end"]
        compared = f"{row['difference']:+.1%} +- {row['difference_se']:.1%}" if "difference" in row else "-"
        rows.append(
            (
                name,
                str(row["problems"]),
                str(row["samples"]),
                f"{row['accuracy']:.1%} +- {row['accuracy_se']:.1%}",
                compared,
                f"{row['mean_tokens']:.0f}",
                f"{row['median_tokens']:.0f}",
                f"{row['truncated']:.1%}",
                "-" if unclosed is None else f"{unclosed:.1%}",
                f"{row['looping']:.1%}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )
