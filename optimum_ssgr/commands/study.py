"""`optimum-cli ssgr study`: strategies, methods and sparsities against one another, with figures and error bars."""

import dataclasses
import hashlib
import json
import random
import shutil
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import METHODS, CalibrationConfig, SamplingConfig
from ..errors import ConfigError, DataError
from ..journal import check_fingerprint, journal_of, locked_folder
from . import flags
from .base import SSGRSubcommand, say
from .calibrate import check_prompts, check_text, kept


if TYPE_CHECKING:
    from ..evaluation.study import Cell
    from ..records import Problem
    from .cells import Setting


TEXT_WINDOWS = 64


class StudyCommand(SSGRSubcommand):
    """Calibrate, prune and evaluate every combination; write report.json, report.md, report.html and plots.

    A study that was stopped goes on where it was, also with more seeds, methods or strategies; a finished one does not.
    """

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the command's flags."""
        flags.add_output(parser)
        flags.add_model(parser)
        flags.add_problems(parser, required=True)
        flags.add_rollouts(parser)
        flags.add_selection(parser, several=True)
        group = parser.add_argument_group("study")
        group.add_argument("--methods", nargs="+", default=["sparsegpt"], help=f"{', '.join(METHODS)} (default: sparsegpt)")
        group.add_argument("--sparsities", nargs="+", type=float, default=[], help="shares of weights to remove (default: 0.5)")
        group.add_argument("--patterns", nargs="+", default=[], help="N:M patterns such as 2:4")
        group.add_argument(
            "--seeds",
            type=int,
            default=3,
            help="repetitions with problems and rollouts of their own, by the seeds from --seed on (default: %(default)s)",
        )
        group.add_argument(
            "--sweeps",
            nargs="+",
            default=[],
            help="difficulty, length: also calibrate on correct traces from thirds of each, with the first method",
        )
        group.add_argument("--processes", type=int, default=1, help="cells to work on at a time (default: %(default)s)")
        group.add_argument(
            "--threads", type=int, default=1, help="processor threads of each process; decides the bits (default: %(default)s)"
        )
        group = parser.add_argument_group("evaluation")
        group.add_argument("--evaluation-problems", help="problem set to evaluate on (default: --problems, if it has a split)")
        group.add_argument("--transfer-problems", help="problem set of another domain to evaluate on as well")
        group.add_argument("--num-evaluation-problems", type=int, help="use this many problems of each at most")
        group.add_argument("--samples", type=int, default=1, help="responses for each problem (default: %(default)s)")
        group.add_argument(
            "--evaluation-temperature", type=float, default=SamplingConfig.temperature, help="(default: %(default)s)"
        )
        group.add_argument("--evaluation-top-p", type=float, default=SamplingConfig.top_p, help="(default: %(default)s)")

    def after_interruption(self, args: Namespace) -> str:
        """Say where the finished cells are."""
        return kept(args.output, "cells")

    def execute(self, args: Namespace) -> None:
        """Run the cells that are missing, and report."""
        from ..output import check_unused, new_folder
        from .cells import DENSE

        cells = wanted_cells(args)
        config, sampling = wanted_settings(args)
        from ..evaluation.report import summary, write_report  # with matplotlib: after what is quick to find out

        names = evaluation_names(args)
        check_unused(args.output)
        check_model(args, cells)
        setting = read_setting(args, cells, config, sampling, names)
        asked = [problem for of_seed in setting.asked.values() for problem in of_seed]
        for name, problems in {None: asked, **setting.sets}.items():
            check_prompts(args, args.model, problems, setting.instructions[name], sampling.max_new_tokens)
        check_budget(setting)
        if args.dry_run:
            plan(args, setting, cells)
            return
        with locked_folder(setting.journal):
            check_fingerprint(setting.journal, fingerprint(setting))
            run(setting, cells, args.processes)
        with new_folder(args.output) as folder:
            shutil.copytree(setting.journal / "cells", folder / "cells")
            results = {cell: json.loads((folder / "cells" / f"{cell.name}.json").read_text()) for cell in cells}
            dense = json.loads((folder / "cells" / f"{DENSE}.json").read_text())
            report = write_report(about(args, setting), dense, results, folder)
        shutil.rmtree(setting.journal)
        say(summary(report))
        say(f"\nreport and plots written to {args.output}")


def wanted_cells(args: Namespace) -> "list[Cell]":
    """Return the cells that the flags ask for.

    Raises:
        ConfigError: A method, strategy, sparsity, pattern or sweep is unknown or out of range.
    """
    from ..evaluation.study import SWEEPS, study_cells

    for name in ("seeds", "processes", "threads", "samples"):
        if getattr(args, name) < 1:
            raise ConfigError(f"{name} must be at least 1, not {getattr(args, name)}.")
    unknown = [name for name in args.sweeps if name not in SWEEPS]
    if unknown:
        raise ConfigError(f"unknown sweep '{unknown[0]}'; choose among {', '.join(SWEEPS)}.")
    cells = list(study_cells(args.strategies, args.methods, targets(args), seeds(args), args.sweeps))
    if args.sweeps and not any(cell.calibration for cell in cells):
        raise ConfigError("--sweeps needs a method that calibrates; none of --methods does.")
    if len(set(cells)) < len(cells):
        raise ConfigError("a strategy, method, sparsity, pattern or sweep is named twice.")
    for cell in cells:
        cell.pruning  # noqa: B018  (checks the settings)
    return cells


def seeds(args: Namespace) -> range:
    """Return the seeds of the repetitions."""
    return range(args.seed, args.seed + args.seeds)


def targets(args: Namespace) -> list[str]:
    """Return the sparsities and patterns to prune to."""
    return [*(f"{sparsity:g}" for sparsity in args.sparsities), *args.patterns] or ["0.5"]


def wanted_settings(args: Namespace) -> tuple[CalibrationConfig, SamplingConfig]:
    """Return how to calibrate and how to evaluate.

    Raises:
        ConfigError: A setting is out of range, or there is no such engine, no number of tokens or no text.
    """
    flags.check_engine(args)
    config = flags.calibration_config(args)
    for name in args.strategies:
        check_text(args, dataclasses.replace(config, strategy=name))
    if config.num_tokens is None:
        raise ConfigError("strategies are compared at equal numbers of tokens; set --num-tokens.")
    sampling = SamplingConfig(args.evaluation_temperature, args.evaluation_top_p, config.max_new_tokens, args.seed)
    return config, sampling


def evaluation_names(args: Namespace) -> list[str]:
    """Return the names of the problem sets to evaluate on.

    Raises:
        ConfigError: Reports would not tell them apart.
    """
    names = [args.evaluation_problems or args.problems, *([args.transfer_problems] if args.transfer_problems else [])]
    if len(set(map(label, names))) < len(names):
        raise ConfigError(f"both sets to evaluate on would be called {label(names[0])} in the report; rename one of them.")
    return names


def check_model(args: Namespace, cells: "list[Cell]") -> None:
    """Refuse a model or a pattern that cannot be pruned, before any work."""
    from ..checkpoints.load import load_skeleton
    from ..pruning.layerwise import check_prunable

    skeleton = load_skeleton(args.model, revision=args.revision, trust_remote_code=args.trust_remote_code)
    for pruning in {cell.pruning for cell in cells}:
        check_prunable(skeleton, pruning)


def read_setting(
    args: Namespace, cells: "list[Cell]", config: CalibrationConfig, sampling: SamplingConfig, names: list[str]
) -> "Setting":
    """Read problems and text, and evaluate on the sets of these names."""
    from ..calibration.text import characters_for, load_documents
    from ..checkpoints.load import load_tokenizer
    from ..evaluation.perplexity import windows_of
    from ..problems.load import FILE_FORMATS
    from .cells import Setting
    from .evaluate import read_text

    sets = {label(name): evaluation_set(args, name) for name in names}
    text = load_documents(args.text, characters_for(config)) if args.text else []  # also for strategies that are added later
    windows: list[list[int]] = []
    if args.text and Path(args.text).suffix not in (".txt", *FILE_FORMATS):  # a file has one split, which is calibrated on
        tokenizer = load_tokenizer(args.model, revision=args.revision, trust_remote_code=args.trust_remote_code)
        documents = read_text(args.text, None, config.text_length * TEXT_WINDOWS)
        windows = windows_of(tokenizer, documents, config.text_length, TEXT_WINDOWS).tolist()
    return Setting(
        args=Namespace(**{name: value for name, value in vars(args).items() if not callable(value)}),
        journal=journal_of(args.output),
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


def check_budget(setting: "Setting") -> None:
    """Refuse questions and text that cannot fill a calibration set, before there are any rollouts.

    Raises:
        DataError: They have too few tokens.
    """
    from ..calibration.build import encode_text
    from ..calibration.strategies import Sources, select
    from ..checkpoints.load import load_tokenizer
    from ..rollouts.prompts import encode_prompts

    def tokens(strategy: str, sources: Sources) -> int:
        config = dataclasses.replace(setting.calibration, strategy=strategy, num_sequences=None)
        return sum(len(sequence.input_ids) for sequence in select(sources, config))

    args, config = setting.args, setting.calibration
    tokenizer = load_tokenizer(args.model, revision=args.revision, trust_remote_code=args.trust_remote_code)
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


def about(args: Namespace, setting: "Setting") -> dict[str, Any]:
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


def fingerprint(setting: "Setting") -> dict[str, Any]:
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


def run(setting: "Setting", cells: "list[Cell]", processes: int) -> None:
    """Run what is missing: the dense model and the calibration sets of every seed first, then the cells."""
    from tqdm.auto import tqdm

    from .cells import DENSE, make_calibrations, make_dense, run_cell
    from .processes import step_runner

    steps = [] if setting.result(DENSE).exists() else [(make_dense,)]
    for seed in seeds(setting.args):
        needed = {cell.calibration for cell in cells if cell.seed == seed and cell.calibration}
        if not all(setting.calibration_set(seed, name).exists() for name in needed):
            steps.append((make_calibrations, seed))
    missing = [(run_cell, cell) for cell in cells if not setting.result(cell.name).exists()]
    done = 1 + setting.args.seeds + len(cells)
    with (
        tqdm(total=done, initial=done - len(steps) - len(missing), desc="study", unit="cell") as progress,
        step_runner(setting, processes) as run_steps,
    ):
        for wave in (steps, missing):
            for _ in run_steps(wave):
                progress.update()


def plan(args: Namespace, setting: "Setting", cells: "list[Cell]") -> None:
    """Print what would be done."""
    rollouts = len(setting.asked[args.seed]) * setting.calibration.samples_per_problem
    responses = args.samples * sum(map(len, setting.sets.values()))
    say(f"rollouts     {args.seeds} seeds of {rollouts:,}, {len(setting.asked[args.seed]):,} problems each")
    say(f"calibrates   {', '.join(setting.calibrations)} with {setting.calibration.num_tokens:,} tokens")
    say(f"prunes       {', '.join(args.methods)} to {', '.join(targets(args))}: {len(cells):,} cells")
    say(f"evaluates    {responses:,} responses a cell: {', '.join(f'{name} ({len(p):,})' for name, p in setting.sets.items())}")
    say(f"writes       {args.output}")
