"""`optimum-cli ssgr calibrate`: let a model write its own calibration set."""

import shutil
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import IN_PROCESS, CalibrationConfig
from ..errors import ConfigError, DataError
from ..resume import journal_folder
from . import flags
from .base import SSGRSubcommand, say


if TYPE_CHECKING:
    from ..calibration.dataset import CalibrationSet
    from ..pruner import SSGRPruner
    from ..records import Problem


class CalibrateCommand(SSGRSubcommand):
    """Generate, verify and select calibration sequences."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the command's flags."""
        flags.add_output(parser)
        flags.add_model(parser)
        flags.add_problems(parser, required=False)
        flags.add_generation(parser)
        flags.add_selection(parser)
        flags.add_push(parser, "calibration set")

    def after_interruption(self, args: Namespace) -> str:
        """Say where the finished rollouts are."""
        return kept(args.output, "rollouts")

    def execute(self, args: Namespace) -> None:
        """Build the calibration set and save it."""
        config = flags.calibration_config(args)
        check_inputs(args, config)
        from ..cards.render import dataset_card
        from ..files import check_unused

        check_unused(args.output)
        check_push_allowed(args, "dataset")
        check_model(args, args.model, is_asked=config.strategy != "text")
        problems, text, about = read_inputs(args, config)
        check_asking(args, config, problems)
        if args.dry_run:
            plan(args, config, problems)
            return
        journal = journal_folder(args.output)
        built = build(load_pruner(args, args.model, config.needs_rollouts), args, config, problems, text, about, journal)
        built.save_to_disk(args.output, dataset_card(built.manifest))
        shutil.rmtree(journal, ignore_errors=True)
        describe(built.manifest["counts"])
        say(f"calibration set written to {args.output}")
        push(args)


def check_push_allowed(args: Namespace, repo_type: str) -> None:
    """Ask the Hub, before any work, whether what is made may be pushed."""
    if args.push_to_hub:
        from ..hub.access import check_push

        check_push(args.push_to_hub, repo_type=repo_type, private=args.private)


def push(args: Namespace) -> None:
    """Push what was made, if that was asked for."""
    if args.push_to_hub:
        from ..cards.render import card_for
        from ..hub.publish import publish_folder

        card = card_for(args.output, args.push_to_hub)
        commit = publish_folder(args.output, args.push_to_hub, card, private=args.private, revision=args.hub_revision)
        say(f"pushed       {commit.commit_url}")


def kept(output: Path, what: str) -> str:
    """Say what an interrupted run has left, and how to go on."""
    journal = journal_folder(output)
    if not journal.exists():
        return "nothing was written. Run the same command to start again."
    return f"finished {what} are kept in {journal}. Run the same command to go on."


def load_pruner(args: Namespace, model: str, generates: bool) -> "SSGRPruner":
    """Load a model, without its weights when nothing is to be generated in this process."""
    from ..checkpoints.load import load_skeleton, load_tokenizer
    from ..pruner import SSGRPruner

    if generates and args.engine == IN_PROCESS:
        return SSGRPruner.from_pretrained(model, **flags.load_arguments(args))
    shared = flags.source_arguments(args)
    return SSGRPruner(load_skeleton(model, **shared), load_tokenizer(model, **shared))


def build(
    pruner: "SSGRPruner",
    args: Namespace,
    config: CalibrationConfig,
    problems: "list[Problem] | None",
    text: list[str] | None,
    about: dict[str, Any],
    journal: Path,
) -> "CalibrationSet":
    """Make the calibration set that the flags ask for; finished rollouts are kept in a journal."""
    return pruner.build_calibration(
        problems,
        config,
        text=text,
        journal_dir=journal,
        engine=args.engine,
        batch_size=args.batch_size,
        instruction=flags.instruction(args, args.problems),
        about=about,
    )


def check_inputs(args: Namespace, config: CalibrationConfig) -> None:
    """Refuse a strategy without what it calibrates on, and what cannot generate."""
    flags.check_engine(args)
    check_text(args, config)
    if config.strategy == "text" and args.exclude:
        raise ConfigError("--exclude compares problems, and the strategy text has none.")
    if config.strategy != "text" and args.problems is None:
        raise ConfigError(f"the strategy {config.strategy} needs --problems.")


def check_text(args: Namespace, config: CalibrationConfig) -> None:
    """Refuse a strategy that takes text without any."""
    if config.needs_text and args.text is None:
        raise ConfigError(f"the strategy {config.strategy} needs --text.")


def check_model(args: Namespace, model: str, is_asked: bool) -> None:
    """Refuse a model that cannot be loaded, or asked, before problems and text are downloaded."""
    from ..checkpoints.load import load_config, load_tokenizer
    from ..records import Problem
    from ..rollouts.prompts import encode_prompts

    shared = flags.source_arguments(args)
    load_config(model, **shared)
    tokenizer = load_tokenizer(model, **shared)
    if is_asked:
        encode_prompts(tokenizer, [Problem("any", "Any question?", "")])


def read_inputs(args: Namespace, config: CalibrationConfig) -> "tuple[list[Problem] | None, list[str] | None, dict[str, Any]]":
    """Read the problems and the text that a strategy needs, and say where they come from."""
    from ..calibration.text import characters_for, load_documents
    from ..problems.load import load_problems, sources_of
    from ..problems.overlap import remove_overlap

    text = load_documents(args.text, characters_for(config)) if config.needs_text else None
    if config.strategy == "text":
        return None, text, {"text": args.text}
    problems = flags.read_problems(args, args.problems, evaluation=False)
    about = {"problems": {"source": args.problems, "split": args.split, "read_from": sources_of(problems)}}
    for name in ("num_problems", "question_column", "answer_column"):
        if getattr(args, name) is not None:
            about["problems"][name] = getattr(args, name)
    if config.needs_text:
        about["text"] = args.text
    if not args.exclude:
        return problems, text, about
    sets = [load_problems(name, evaluation=True, seed=config.seed) for name in args.exclude]
    kept, removed = remove_overlap(problems, [problem for problems in sets for problem in problems])
    say(
        f"left out {len(problems) - len(kept):,} of {len(problems):,} problems that are in {', '.join(args.exclude)}: "
        f"{removed['exact']:,} in whole, {removed['ngram']:,} in part"
    )
    if not kept:
        raise DataError("every problem is also in the evaluation sets; calibrate on others.")
    about["problems"]["excluded"] = {"sets": args.exclude, **removed}
    return kept, text, about


def check_asking(args: Namespace, config: CalibrationConfig, problems: "list[Problem] | None") -> None:
    """See whether everything that is to be asked fits the model."""
    if problems is not None:
        longest_response = config.max_new_tokens if config.needs_rollouts else 0
        check_prompts(args, args.model, problems, flags.instruction(args, args.problems), longest_response)


def check_prompts(args: Namespace, model: str, problems: "list[Problem]", instruction: str, max_new_tokens: int) -> None:
    """Render every prompt and see whether it fits a model, before any weights are loaded."""
    from ..checkpoints.load import load_config, load_tokenizer
    from ..rollouts.prompts import check_lengths, encode_prompts

    shared = flags.source_arguments(args)
    prompts = encode_prompts(load_tokenizer(model, **shared), problems, instruction)
    check_lengths(load_config(model, **shared), prompts.values(), max_new_tokens)


def plan(args: Namespace, config: CalibrationConfig, problems: list | None) -> None:
    """Print what would be done."""
    from ..checkpoints.load import load_skeleton

    skeleton = load_skeleton(args.model, **flags.source_arguments(args))
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
    """Print the funnel: how many of what was generated came through each stage."""
    for name, count in counts.items():
        say(f"{name.replace('_', ' '):<22} {count:>12,}")
    if "generated_tokens" in counts:
        say(f"{counts['generated_tokens'] / counts['tokens']:.1f} tokens generated for every token kept")
