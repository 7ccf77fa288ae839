"""What all steps of a study share: problems, text and settings, read and checked before any work."""

import dataclasses
import hashlib
import random
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import CalibrationConfig, SamplingConfig
from ..errors import ConfigError, DataError
from ..resume import journal_folder
from . import flags


if TYPE_CHECKING:
    from ..records import Problem
    from ..study.cells import Cell

TEXT_WINDOWS = 64


@dataclass(frozen=True)
class Setting:
    """What all steps share.

    Args:
        args: Flags of the command.
        journal: Folder for what is finished.
        calibration: How rollouts are sampled and selected from; each step puts its own strategy and seed.
        calibrations: Strategies and bands to make calibration sets by.
        asked: Problems to calibrate on, by seed.
        text: Documents of general text.
        sets: Problems to evaluate on, by the name of their set.
        instructions: What is added to the questions, by the name of the set; of the calibration problems by None.
        sampling: How responses are sampled in evaluation.
        windows: General text to measure perplexity on, token ids of equal length; empty for none.
    """

    args: Namespace
    journal: Path
    calibration: CalibrationConfig
    calibrations: tuple[str, ...]
    asked: "dict[int, list[Problem]]"
    text: list[str]
    sets: "dict[str, list[Problem]]"
    instructions: dict[str | None, str]
    sampling: SamplingConfig
    windows: list[list[int]]

    def result(self, name: str) -> Path:
        """Return the file of a cell's result, or of the dense model's."""
        return self.journal / "cells" / f"{name}.json"

    def calibration_set(self, seed: int, name: str) -> Path:
        """Return the folder of a calibration set."""
        return self.journal / "calibration" / str(seed) / name.replace(":", "_")

    @property
    def reference(self) -> Path:
        """The file of the dense model's hidden states."""
        return self.journal / "reference.safetensors"


def read_setting(
    args: Namespace, cells: "list[Cell]", config: CalibrationConfig, sampling: SamplingConfig, names: list[str]
) -> Setting:
    """Read problems and text, and evaluate on the sets of these names."""
    from ..calibration.text import characters_for, load_documents
    from ..problems.load import FILE_FORMATS
    from .evaluate import read_text, text_windows

    sets = {label(name): evaluation_set(args, name) for name in names}
    text = load_documents(args.text, characters_for(config)) if args.text else []  # also for strategies that are added later
    windows: list[list[int]] = []
    if args.text and Path(args.text).suffix not in (".txt", *FILE_FORMATS):  # a file has one split, which is calibrated on
        documents = read_text(args.text, None, config.text_length * TEXT_WINDOWS)
        windows = text_windows(args, args.model, documents, config.text_length, TEXT_WINDOWS).tolist()
    return Setting(
        args=Namespace(**{name: value for name, value in vars(args).items() if not callable(value)}),
        journal=journal_folder(args.output),
        calibration=config,
        calibrations=tuple(dict.fromkeys(cell.calibration for cell in cells if cell.calibration)),
        asked=calibration_problems(args, sets),
        text=text,
        sets=sets,
        instructions={label(name): flags.instruction(args, name) for name in names}
        | {None: flags.instruction(args, args.problems)},
        sampling=sampling,
        windows=windows,
    )


def seeds(args: Namespace) -> range:
    """Return the seeds of the repetitions."""
    return range(args.seed, args.seed + args.seeds)


def targets(args: Namespace) -> list[str]:
    """Return the sparsities and patterns to prune to."""
    return [*(f"{sparsity:g}" for sparsity in args.sparsities), *args.patterns] or ["0.5"]


def evaluation_names(args: Namespace) -> list[str]:
    """Return the names of the problem sets to evaluate on.

    Raises:
        ConfigError: Reports would not tell them apart.
    """
    names = [args.evaluation_problems or args.problems, *([args.transfer_problems] if args.transfer_problems else [])]
    if len(set(map(label, names))) < len(names):
        raise ConfigError(f"both sets to evaluate on would be called {label(names[0])} in the report; rename one of them.")
    return names


def label(name: str) -> str:
    """Return a name for reports: without the folders of a local path."""
    return Path(name).name if Path(name).exists() else name


def evaluation_set(args: Namespace, name: str) -> "list[Problem]":
    """Load problems to evaluate on.

    Raises:
        ConfigError: They would be those to calibrate on.
        DataError: There is only one.
    """
    from ..problems.load import load_problems
    from ..problems.sources import find_source
    from ..reasoner import NAME

    if name == args.problems and not name.startswith(NAME) and find_source(name).evaluation_split is None:
        raise ConfigError(f"{name} has no split that is known to be for evaluation; name a set with --evaluation-problems.")
    problems = load_problems(name, evaluation=True, limit=args.num_evaluation_problems, seed=args.seed)
    if len(problems) < 2:
        raise DataError(f"'{name}' gives one problem; it takes at least 2 to know a standard error.")
    return problems


def calibration_problems(args: Namespace, sets: "dict[str, list[Problem]]") -> "dict[int, list[Problem]]":
    """Load problems to calibrate on for every seed, none of which is evaluated on."""
    from ..problems.load import load_problems
    from ..problems.overlap import remove_overlap
    from ..reasoner import NAME

    if args.problems.startswith(NAME):  # endless, and a split shares no question with another
        return {
            seed: load_problems(args.problems, split=args.split, limit=args.num_problems, seed=seed) for seed in seeds(args)
        }
    everything = Namespace(**{**vars(args), "num_problems": None})
    problems = flags.read_problems(everything, args.problems, evaluation=False)
    problems, _ = remove_overlap(problems, [problem for found in sets.values() for problem in found])
    if not problems:
        raise DataError("every problem to calibrate on is also evaluated on; name another set with --evaluation-problems.")
    count = min(args.num_problems or len(problems), len(problems))
    return {seed: random.Random(seed).sample(problems, count) for seed in seeds(args)}


def check_budget(setting: Setting) -> None:
    """Refuse questions and text that cannot fill a calibration set, before there are any rollouts.

    Raises:
        DataError: They have too few tokens.
    """
    from ..calibration.select import encode_text
    from ..calibration.strategies import Sources, select
    from ..checkpoints.load import load_tokenizer
    from ..rollouts.prompts import encode_prompts

    def tokens(strategy: str, sources: Sources) -> int:
        config = dataclasses.replace(setting.calibration, strategy=strategy, num_sequences=None)
        return sum(len(sequence.input_ids) for sequence in select(sources, config))

    args, config = setting.args, setting.calibration
    tokenizer = load_tokenizer(args.model, **flags.source_arguments(args))
    found: dict[str, tuple[str, float]] = {}
    if "prompts" in setting.calibrations:
        prompts = [encode_prompts(tokenizer, problems, setting.instructions[None]) for problems in setting.asked.values()]
        found["prompts"] = "questions", min(tokens("prompts", Sources(prompts=of_seed)) for of_seed in prompts)
    if {"text", "mix"} & set(setting.calibrations):
        windows = tokens("text", encode_text(tokenizer, setting.text, dataclasses.replace(config, strategy="text")))
        found |= {"text": ("text", windows), "mix": ("text", windows / config.text_share)}
    for strategy, (what, most) in found.items():
        if strategy in setting.calibrations and most < config.num_tokens:
            raise DataError(
                f"the {what} can fill a calibration set of {int(most):,} tokens by the strategy {strategy}, not of "
                f"{config.num_tokens:,}; take more {what}, lower --num-tokens, or leave the strategy out."
            )


def about(args: Namespace, setting: Setting) -> dict[str, Any]:
    """Say what was studied, without anything that changes from run to run or from folder to folder."""
    from ..evaluation.results import versions

    return {
        "model": label(args.model),
        "revision": args.revision,
        "dtype": args.dtype,
        "calibration_problems": label(args.problems),
        "problems_per_seed": len(setting.asked[args.seed]),
        "strategies": args.strategies,
        "methods": args.methods,
        "targets": targets(args),
        "sweeps": args.sweeps,
        "seeds": args.seeds,
        "threads": args.threads,
        "text": args.text and label(args.text),
        "calibration": {key: value for key, value in setting.calibration.to_dict().items() if key not in ("strategy", "seed")},
        "evaluation": {"sampling": setting.sampling.to_dict(), "samples": args.samples},
        "sets": {name: len(problems) for name, problems in setting.sets.items()},
        "versions": versions(),
    }


def fingerprint(setting: Setting) -> dict[str, Any]:
    """Say what decides the result of a cell, whichever other cells there are."""

    def digest(problems: "list[Problem]") -> str:
        return hashlib.sha256(
            repr([(problem.id, problem.question, problem.answer) for problem in problems]).encode()
        ).hexdigest()

    shared = about(setting.args, setting)
    for name in ("strategies", "methods", "targets", "sweeps", "seeds"):
        del shared[name]
    return shared | {
        "model": setting.args.model,
        "instructions": {str(name): text for name, text in setting.instructions.items()},
        "device_map": setting.args.device_map,
        "batch_size": setting.args.batch_size,
        "evaluated": {name: digest(problems) for name, problems in setting.sets.items()},
        "asked": digest(setting.asked[setting.args.seed]),
        "text": hashlib.sha256(repr((setting.text, setting.windows)).encode()).hexdigest(),
    }
