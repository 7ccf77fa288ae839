"""Read configs off the flags that were given."""

import dataclasses
import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import (
    CalibrationConfig,
    EngineConfig,
    LoadingConfig,
    PromptConfig,
    PruningConfig,
    RecoveryConfig,
    SamplingConfig,
)
from ..errors import ConfigError


if TYPE_CHECKING:
    from ..evaluation.config import EvaluationConfig
    from ..problems.mixture import ProblemSet
    from ..problems.options import ProblemOptions
    from ..pruner import SSGRPruner
    from ..study.config import StudyConfig


def load_pruner(args: Namespace, generates: bool) -> "SSGRPruner":
    """Load the model, without its weights when nothing is to be generated in this process."""
    from ..evaluation.prepare import load_with_tokenizer
    from ..pruner import SSGRPruner

    if generates and engine_config(args).in_process:
        return SSGRPruner.from_pretrained(args.model, **load_arguments(args))
    loaded = load_with_tokenizer(args.model, loading_config(args), weights=False)
    return SSGRPruner(*loaded, prompting=prompting_config(args))


def calibration_config(args: Namespace, defaults: CalibrationConfig | None = None) -> CalibrationConfig:
    """Read a `CalibrationConfig` off the flags.

    Args:
        args: Parsed flags; those that were left out are None.
        defaults: Settings for what was left out; the recipe's, or the class's own, when None.
    """
    values = _fields(CalibrationConfig, args)
    if getattr(args, "recipe", None):
        defaults = CalibrationConfig.from_recipe(args.recipe)
    if {"pass_rate", "length_window", "adaptive"} & values.keys() and (defaults is None or defaults.strategy == "cover"):
        values.setdefault("strategy", "ssgr")  # the one that goes by them
    if values.get("strategy", "cover") != "cover":
        values["kind_shares"] = ()  # of a set that is selected from again
        values.setdefault("damage", False)
    if hasattr(args, "strategy") and getattr(args, "problems", None):
        from ..problems.mixture import kind_shares

        values["kind_shares"] = kind_shares(problem_sets(args))
    if values.get("num_tokens") and "num_sequences" not in values:
        values["num_sequences"] = None
    elif values.get("num_sequences") and defaults is not None:
        values.setdefault("num_tokens", None)
    return dataclasses.replace(defaults or CalibrationConfig(), **values)


def pruning_config(args: Namespace) -> PruningConfig:
    """Read a `PruningConfig` off the flags."""
    return PruningConfig(**_fields(PruningConfig, args))


def recovery_config(args: Namespace) -> RecoveryConfig:
    """Read a `RecoveryConfig` off the flags."""
    return RecoveryConfig(**_fields(RecoveryConfig, args))


def sampling_config(args: Namespace) -> SamplingConfig:
    """Read a `SamplingConfig` off the flags."""
    return SamplingConfig(**_fields(SamplingConfig, args))


def loading_config(args: Namespace) -> LoadingConfig:
    """Read a `LoadingConfig` off the flags."""
    return LoadingConfig(**_fields(LoadingConfig, args))


def prompting_config(args: Namespace) -> PromptConfig:
    """Read a `PromptConfig` off the flags.

    Raises:
        ConfigError: A variable of the template has no value, or the thinking is delimited in no known way.
    """
    thinking = tuple(args.thinking) if args.thinking else None
    return PromptConfig(dict(map(_read_variable, args.template_kwargs)), _read_system(args.system), thinking)


def _read_variable(given: str) -> tuple[str, Any]:
    """Split NAME=VALUE; Python's names of true and false mean the same, since a template takes any text for true."""
    name, equals, value = given.partition("=")
    if not name or not equals:
        raise ConfigError(f"--template-kwargs takes NAME=VALUE, as in enable_thinking=true, not '{given}'.")
    try:
        return name, json.loads({"True": "true", "False": "false", "None": "null"}.get(value, value))
    except ValueError:
        return name, value


def _read_system(given: str | None) -> str | None:
    try:
        return Path(given).read_text(encoding="utf-8") if given and Path(given).is_file() else given
    except (OSError, ValueError):  # too long for the name of a file, say
        return given


def problem_options(args: Namespace) -> "ProblemOptions":
    """Read how problem sets are to be read off the flags."""
    from ..problems.options import ProblemOptions

    renamed = {"revision": args.problems_revision, "limit": args.num_problems}
    return ProblemOptions(**_fields(ProblemOptions, args) | renamed)


def problem_sets(args: Namespace) -> "list[ProblemSet]":
    """Read the problem sets to calibrate on off the flags."""
    from ..problems.mixture import read_problem_sets

    return read_problem_sets(args.problems, problem_options(args))


def engine_config(args: Namespace) -> EngineConfig:
    """Read an `EngineConfig` off the flags."""
    return EngineConfig(args.engine, args.engine_command, args.engine_args, args.request_seeds == "on")


def evaluation_config(args: Namespace) -> "EvaluationConfig":
    """Read an `EvaluationConfig` off the flags."""
    from ..evaluation.config import EvaluationConfig

    return EvaluationConfig(
        models=tuple(args.model),
        problems=tuple(args.problems),
        benchmarks=tuple(args.benchmark),
        samples=args.samples,
        baseline=args.baseline,
        sampling=sampling_config(args),
        text=args.text,
        text_split=args.text_split,
        text_length=args.text_length,
        traces=args.traces,
        engine=engine_config(args),
        batch_size=args.batch_size,
        reading=problem_options(args),
        prompting=prompting_config(args),
        loading=loading_config(args),
    )


def study_config(args: Namespace) -> "StudyConfig":
    """Read a `StudyConfig` off the flags."""
    from ..study.config import StudyConfig

    calibration = calibration_config(args)
    own = {name: value for name, value in _fields(StudyConfig, args).items() if name not in ("calibration", "evaluation")}
    return StudyConfig(
        **own | {"problems": tuple(problem_sets(args)), "engine": engine_config(args)},
        calibration=calibration,
        evaluation=SamplingConfig(
            args.evaluation_temperature, args.evaluation_top_p, calibration.max_new_tokens, calibration.seed
        ),
        reading=problem_options(args),
        prompting=prompting_config(args),
        loading=loading_config(args),
    )


def load_arguments(args: Namespace) -> dict[str, Any]:
    """Return what `SSGRPruner.from_pretrained` takes besides the model's name."""
    return dataclasses.asdict(loading_config(args)) | {"prompting": prompting_config(args)}


def _fields(config: type, args: Namespace) -> dict[str, Any]:
    """Return the flags that were given for a config's fields."""
    given = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(config)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None}
