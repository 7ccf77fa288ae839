"""`optimum-cli ssgr calibrate`: let a model write its own calibration set."""

from argparse import ArgumentParser, Namespace

from ..config import CalibrationConfig
from ..errors import ConfigError, DataError
from . import flags
from .base import SSGRSubcommand, say


class CalibrateCommand(SSGRSubcommand):
    """Generate, verify and select calibration sequences."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the command's flags."""
        flags.add_output(parser)
        flags.add_model(parser)
        flags.add_problems(parser, required=False)
        flags.add_calibration(parser)

    def execute(self, args: Namespace) -> None:
        """Build the calibration set and save it."""
        config = flags.calibration_config(args)
        check_inputs(args, config)
        from ..output import check_unused
        from ..pruner import SSGRPruner

        check_unused(args.output)
        problems, text, _ = read_inputs(args, config)
        if args.dry_run:
            plan(args, config, problems)
            return
        pruner = SSGRPruner.from_pretrained(args.model, **flags.load_arguments(args))
        built = pruner.build_calibration(
            problems,
            config,
            text=text,
            output_dir=args.output,
            batch_size=args.batch_size,
            instruction=flags.instruction(args),
        )
        describe(built.manifest["counts"])
        say(f"calibration set written to {args.output}")


def check_inputs(args: Namespace, config: CalibrationConfig) -> None:
    """Refuse a strategy without what it calibrates on."""
    if config.strategy == "text" and args.text is None:
        raise ConfigError("the strategy text needs --text.")
    if config.strategy == "text" and args.exclude:
        raise ConfigError("--exclude compares problems, and the strategy text has none.")
    if config.strategy != "text" and args.problems is None:
        raise ConfigError(f"the strategy {config.strategy} needs --problems.")


def read_inputs(args: Namespace, config: CalibrationConfig) -> tuple[list | None, list[str] | None, dict[str, int]]:
    """Read the problems or the text that a strategy needs, and count the problems left out for evaluation's sake."""
    from ..calibration.text import characters_for, load_documents
    from ..problems.load import load_problems
    from ..problems.overlap import remove_overlap

    if config.strategy == "text":
        return None, load_documents(args.text, characters_for(config)), {}
    problems = flags.read_problems(args, evaluation=False)
    if not args.exclude:
        return problems, None, {}
    sets = [load_problems(name, evaluation=True, seed=config.seed) for name in args.exclude]
    kept, removed = remove_overlap(problems, [problem for problems in sets for problem in problems])
    say(
        f"left out {len(problems) - len(kept):,} of {len(problems):,} problems that are in {', '.join(args.exclude)}: "
        f"{removed['exact']:,} in whole, {removed['ngram']:,} in part"
    )
    if not kept:
        raise DataError("every problem is also in the evaluation sets; calibrate on others.")
    return kept, None, removed


def plan(args: Namespace, config: CalibrationConfig, problems: list | None) -> None:
    """Print what would be done."""
    from ..checkpoints.load import load_skeleton

    skeleton = load_skeleton(args.model, revision=args.revision, trust_remote_code=args.trust_remote_code)
    say(f"model        {args.model}, {skeleton.num_parameters():,} parameters")
    say(f"strategy     {config.strategy}")
    if config.needs_rollouts:
        rollouts = len(problems) * config.samples_per_problem
        say(f"problems     {len(problems):,}")
        say(f"rollouts     {rollouts:,}, at most {rollouts * config.max_new_tokens:,} tokens")
    budget = [f"{config.num_sequences} sequences"] if config.num_sequences else []
    budget += [f"{config.num_tokens:,} tokens"] if config.num_tokens else []
    say(f"selects      at most {' and '.join(budget)}")
    say(f"writes       {args.output}")


def describe(counts: dict[str, int]) -> None:
    """Print how many of what was generated came through each stage."""
    stages = ("problems", "rollouts", "finished", "correct") if counts["rollouts"] else ()
    for name in (*stages, "sequences", "tokens"):
        say(f"{name:<12} {counts[name]:>10,}")
