"""What commands see to before any weights are loaded: that the model can be asked, and that what it is asked is there."""

from argparse import Namespace
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config import CalibrationConfig
from ..errors import ConfigError, DataError
from ..rollouts.addresses import check_engine
from . import configs
from .base import say


if TYPE_CHECKING:
    from ..problems.mixture import ProblemSet
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
    check_engine(configs.engine_config(args), args.batch_size)
    check_text(args, config)
    if config.strategy == "text" and args.exclude:
        raise ConfigError("--exclude compares problems, and the strategy text has none.")
    if config.strategy != "text" and not args.problems:
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
    from ..problems.mixture import instruction_of

    loading = configs.loading_config(args)
    prompting = configs.prompting_config(args)
    here = config.needs_rollouts and configs.engine_config(args).in_process
    check_model(args.model, loading, is_asked=config.strategy != "text", prompting=prompting, in_process=here)
    text = load_documents(args.text, characters_for(config)) if config.needs_text else None
    metadata: dict[str, Any] = {"text": args.text} if config.needs_text else {}
    if config.strategy == "text":
        return CalibrationInputs(None, text, metadata)
    problems, asked = _read_problems(args, config)
    longest_response = config.max_new_tokens if config.needs_rollouts else 0
    check_prompts(args.model, loading, problems, instruction_of(configs.problem_sets(args)), longest_response, prompting)
    return CalibrationInputs(problems, text, metadata | {"problems": asked})


def _read_problems(args: Namespace, config: CalibrationConfig) -> "tuple[list[Problem], dict[str, Any]]":
    """Read the problems but for those of evaluation sets, and say how they were asked for."""
    from ..problems.load import draw_problems, load_problems, sources_of
    from ..problems.mixture import mix_problems
    from ..problems.overlap import remove_overlap

    found = {one: one.reading.load_all(one.name, seed=args.seed) for one in configs.problem_sets(args)}
    metadata: dict[str, Any] = {}
    if args.exclude:
        evaluation = list(chain(*(load_problems(name, evaluation=True, seed=config.seed) for name in args.exclude)))
        before, removed = sum(map(len, found.values())), {"exact": 0, "ngram": 0}
        for one, problems in found.items():
            found[one], of_set = remove_overlap(problems, evaluation)
            removed = {name: count + of_set[name] for name, count in removed.items()}
        say(
            f"left out {sum(removed.values()):,} of {before:,} problems that are in {', '.join(args.exclude)}: "
            f"{removed['exact']:,} in whole, {removed['ngram']:,} in part"
        )
        if empty := [one.name for one, problems in found.items() if not problems]:
            raise DataError(f"of {empty[0]} every problem is also in the evaluation sets; calibrate on others.")
        metadata["excluded"] = {"sets": args.exclude, **removed}
    found = {one: draw_problems(problems, one.reading.limit, args.seed) for one, problems in found.items()}
    mixed = mix_problems(found)
    described = [_describe(one, sources_of(problems)) for one, problems in found.items()]
    if len(described) == 1:
        return mixed, described[0] | metadata
    sets = [values | {"instruction": one.instruction} for one, values in zip(found, described, strict=True)]
    return mixed, {"sets": sets, "read_from": sources_of(mixed)} | metadata


def _describe(one: "ProblemSet", read_from: list[str]) -> dict[str, Any]:
    """Say how a problem set was asked for."""
    reading = one.reading
    given = {
        "num_problems": reading.limit,
        "question_column": reading.question_column,
        "answer_column": reading.answer_column,
        "kind_column": reading.kind_column,
        "share": one.share,
    }
    described = {"source": one.name, "split": reading.split, "read_from": read_from}
    return described | {name: value for name, value in given.items() if value is not None}
