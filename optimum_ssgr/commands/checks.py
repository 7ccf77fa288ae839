"""What commands see to before any weights are loaded: that the model can be asked, and that what it is asked is there."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config import CalibrationConfig
from ..errors import ConfigError, DataError
from ..rollouts.addresses import check_engine
from . import flags
from .base import say


if TYPE_CHECKING:
    from ..records import Problem


class CalibrationInputs(NamedTuple):
    """What a calibration set is made of.

    Args:
        problems: Problems to ask; None when the strategy needs none.
        text: Documents of general text; None when it needs none.
        metadata: Where they come from, for the manifest.
    """

    problems: "list[Problem] | None"
    text: list[str] | None
    metadata: dict[str, Any]


def check_push_allowed(args: Namespace, repo_type: str) -> None:
    """Ask the Hub, before any work, whether what is made may be pushed."""
    if args.push_to_hub:
        from ..hub.access import check_push

        check_push(args.push_to_hub, repo_type=repo_type, private=args.private)


def check_inputs(args: Namespace, config: CalibrationConfig) -> None:
    """Refuse a strategy without what it calibrates on, and what cannot generate."""
    check_engine(args.engine, args.batch_size)
    check_text(args, config)
    if config.strategy == "text" and args.exclude:
        raise ConfigError("--exclude compares problems, and the strategy text has none.")
    if config.strategy != "text" and args.problems is None:
        raise ConfigError(f"the strategy {config.strategy} needs --problems.")


def check_text(args: Namespace, config: CalibrationConfig) -> None:
    """Refuse a strategy that takes text without any."""
    if config.needs_text and args.text is None:
        raise ConfigError(f"the strategy {config.strategy} needs --text.")


def read_inputs(args: Namespace, config: CalibrationConfig) -> CalibrationInputs:
    """Read the problems and the text that a strategy needs, and see whether the model can be asked.

    Raises:
        SSGRError: They cannot be read, nothing is left of the problems, or the model cannot be asked.
    """
    from ..calibration.text import characters_for
    from ..evaluation.prepare import check_model, check_prompts
    from ..problems.documents import load_documents

    loading = flags.loading_config(args)
    check_model(args.model, loading, is_asked=config.strategy != "text")
    text = load_documents(args.text, characters_for(config)) if config.needs_text else None
    metadata: dict[str, Any] = {"text": args.text} if config.needs_text else {}
    if config.strategy == "text":
        return CalibrationInputs(None, text, metadata)
    problems, asked = _read_problems(args, config)
    longest_response = config.max_new_tokens if config.needs_rollouts else 0
    check_prompts(args.model, loading, problems, flags.problem_options(args).instruction_for(args.problems), longest_response)
    return CalibrationInputs(problems, text, metadata | {"problems": asked})


def _read_problems(args: Namespace, config: CalibrationConfig) -> "tuple[list[Problem], dict[str, Any]]":
    """Read the problems but for those of evaluation sets, and say how they were asked for."""
    from ..problems.load import draw_problems, load_problems, sources_of
    from ..problems.overlap import remove_overlap

    reading = flags.problem_options(args)
    problems = reading.load_all(args.problems, seed=args.seed)
    metadata = {"source": args.problems, "split": args.split, "read_from": sources_of(problems)}
    for name in ("num_problems", "question_column", "answer_column", "kind_column"):
        if getattr(args, name) is not None:
            metadata[name] = getattr(args, name)
    if not args.exclude:
        return draw_problems(problems, reading.limit, args.seed), metadata
    sets = [load_problems(name, evaluation=True, seed=config.seed) for name in args.exclude]
    kept, removed = remove_overlap(problems, [problem for excluded in sets for problem in excluded])
    say(
        f"left out {len(problems) - len(kept):,} of {len(problems):,} problems that are in {', '.join(args.exclude)}: "
        f"{removed['exact']:,} in whole, {removed['ngram']:,} in part"
    )
    if not kept:
        raise DataError("every problem is also in the evaluation sets; calibrate on others.")
    asked = draw_problems(kept, reading.limit, args.seed)
    return asked, metadata | {"excluded": {"sets": args.exclude, **removed}}
