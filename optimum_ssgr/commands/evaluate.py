"""`optimum-cli ssgr evaluate`: accuracy, length, truncation and loops, next to one another."""

import hashlib
import json
import re
import shutil
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import IN_PROCESS, SamplingConfig
from ..errors import ConfigError, DataError
from ..resume import journal_folder
from . import flags
from .base import SSGRSubcommand, resume_hint, say
from .checks import check_model, check_prompts
from .flags import load_pruner


if TYPE_CHECKING:
    import torch

    from ..records import GradedRollout, Problem


TEXT_WINDOWS = 256


class EvaluateCommand(SSGRSubcommand):
    """Evaluate one or several models on the same problem sets."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the command's flags."""
        flags.add_model(parser, several=True)
        flags.add_problems(parser, required=False, several=True)
        flags.add_sampling(parser, SamplingConfig)
        flags.add_engine(parser)
        group = parser.add_argument_group("evaluation")
        group.add_argument(
            "--preset",
            nargs="+",
            default=[],
            help="math500, aime24, aime25, gsm8k or gpqa: problem sets with the number of samples that the field uses",
        )
        group.add_argument("--samples", type=int, help="responses for each problem (default: 1, or the preset's)")
        group.add_argument("--baseline", help="model to compare the others with, problem by problem")
        group.add_argument(
            "--text",
            help="general text to measure perplexity on: a file, a Hub data set such as allenai/c4:en, or tiny-reasoner",
        )
        group.add_argument("--text-split", help="split of the text (default: validation; test for tiny-reasoner)")
        group.add_argument("--text-length", type=int, default=2048, help="tokens in a window of text (default: %(default)s)")
        group.add_argument("--output", type=Path, metavar="OUT", help="folder to write; must be new or empty")
        flags.add_quiet(parser)

    def after_interruption(self, args: Namespace) -> str:
        """Say where the finished responses are."""
        return resume_hint(args.output, "responses") if args.output else "nothing was written."

    def execute(self, args: Namespace) -> None:
        """Evaluate every model on every set, print a table and write the output."""
        sampling = flags.sampling_config(args)
        sets = wanted_sets(args)
        from ..evaluation.presets import lighteval_command
        from ..files import check_unused

        if args.output is not None:
            check_unused(args.output)
        models = wanted_models(args)
        for model in models:
            check_model(args, model, is_asked=True)
        problems = {name: flags.read_problems(args, name, evaluation=True) for name in sets}
        documents = read_text(args.text, args.text_split, args.text_length * TEXT_WINDOWS) if args.text else []
        for name, found in problems.items():
            if len(found) < 2:
                raise DataError(f"'{name}' gives one problem; it takes at least 2 to know a standard error.")
            for model in models:
                check_prompts(args, model, found, flags.instruction(args, name), sampling.max_new_tokens)
        cut = {"length": args.text_length, "most": TEXT_WINDOWS}
        windows = {model: text_windows(args, model, documents, **cut) for model in models} if args.text else {}
        asked = {model: ask(args, model, sampling, sets, problems, windows.get(model)) for model in models}
        rows = make_rows(args, asked)
        say(as_table(rows, asked))
        for model in models:
            command = lighteval_command(model, list(sets), sampling, args.dtype)
            if command:
                say(f"\nto cross-check with lighteval 0.12 or newer:\n{command}")
        if args.output is not None:
            write(args, sampling, problems, rows, asked)
            shutil.rmtree(journal_folder(args.output), ignore_errors=True)
            say(f"\nresults written to {args.output}")


@dataclass(frozen=True)
class Asked:
    """What came of asking one model.

    Args:
        identity: Which weights it has: their commit on the Hub, or the hashes of their files.
        graded: Its responses by problem set.
        perplexity: Of the general text; None without any.
        speed: Tokens it generated in a second; None when all responses were in the journal.
    """

    identity: dict[str, Any]
    graded: "dict[str, list[GradedRollout]]"
    perplexity: float | None
    speed: float | None


def wanted_sets(args: Namespace) -> dict[str, int]:
    """Return the problem sets that the flags name, with the number of samples for each.

    Raises:
        ConfigError: There are none, a preset is unknown, a number is out of range, or there is no such engine.
    """
    from ..evaluation.presets import PRESETS

    unknown = [name for name in args.preset if name not in PRESETS]
    if unknown:
        raise ConfigError(f"unknown preset '{unknown[0]}'; choose among {', '.join(PRESETS)}.")
    if not args.problems and not args.preset:
        raise ConfigError("name what to evaluate on with --problems or --preset.")
    if args.samples is not None and args.samples < 1:
        raise ConfigError(f"samples must be at least 1, not {args.samples}.")
    flags.check_engine(args)
    if args.text and args.text_length < 2:
        raise ConfigError(f"text_length must be at least 2, not {args.text_length}.")
    if args.text and args.engine != IN_PROCESS:
        raise ConfigError("--text needs the model in this process, which --engine leaves to servers; measure it by itself.")
    sets = dict.fromkeys(args.problems, args.samples or 1)
    return sets | {PRESETS[name].problems: args.samples or PRESETS[name].samples for name in args.preset}


def wanted_models(args: Namespace) -> list[str]:
    """Return the models to ask, each once, the baseline first."""
    return list(dict.fromkeys([args.baseline, *args.model] if args.baseline else args.model))


def ask(
    args: Namespace,
    model: str,
    sampling: SamplingConfig,
    sets: dict[str, int],
    problems: "dict[str, list[Problem]]",
    windows: "torch.Tensor | None",
) -> Asked:
    """Ask one model all problems; finished responses are kept in the journal, if there is an output."""
    from ..evaluation.evaluate import MeteredEngine, answer
    from ..evaluation.perplexity import perplexity
    from ..rollouts.choose import choose_engine
    from ..rollouts.store import open_rollout_store, rollout_fingerprint

    pruner = load_pruner(args, model, generates=True)
    sole = len(wanted_models(args)) == 1
    engine = MeteredEngine(choose_engine(args.engine, pruner.model, pruner.tokenizer, sampling, args.batch_size, sole))
    identity = identify(model, getattr(pruner.model.config, "_commit_hash", None))
    measured = None if windows is None else perplexity(pruner.model, windows)
    graded = {}
    for name, samples in sets.items():
        journal = None
        if args.output is not None:
            folder = journal_folder(args.output) / journal_name(model, name)
            journal = open_rollout_store(folder, rollout_fingerprint(pruner.model, pruner.tokenizer, sampling))
        instruction = flags.instruction(args, name)
        graded[name] = answer(engine, pruner.tokenizer, problems[name], sampling.seed, samples, instruction, journal)
    speed = engine.tokens / engine.seconds if engine.seconds else None
    return Asked(identity, graded, measured, speed)


def text_windows(args: Namespace, model: str, documents: list[str], length: int, most: int) -> "torch.Tensor":
    """Cut text into windows by a model's tokenizer, before any weights are loaded; int64 [windows, length].

    Raises:
        SSGRError: A window does not fit the model's context, or the text does not fill one.
    """
    from ..checkpoints.load import load_config, load_tokenizer
    from ..evaluation.perplexity import windows_of
    from ..tokens import check_context

    shared = flags.source_arguments(args)
    check_context(load_config(model, **shared), length, "a window of text")
    return windows_of(load_tokenizer(model, **shared), documents, length, most)


def identify(model: str, commit: str | None) -> dict[str, Any]:
    """Tell which weights a model has, so that its results are taken for no other's; None where a server has them."""
    from ..checkpoints.identity import hash_weights
    from ..checkpoints.load import source_of

    folder = Path(source_of(model))
    try:
        return {"commit": commit, "weights": hash_weights(folder) if folder.is_dir() else None}
    except DataError:
        return {"commit": commit, "weights": None}


def journal_name(model: str, problems: str) -> str:
    """Return a folder's name for a model and a problem set: readable, and different for any two pairs."""
    return f"{file_name(f'{Path(model).name}-{problems}')}-{hashlib.sha256(f'{model} {problems}'.encode()).hexdigest()[:8]}"


def file_name(text: str) -> str:
    """Return a text with everything but letters, digits, dots and hyphens replaced."""
    return re.sub(r"[^\w.-]+", "_", text)


def read_text(source: str, split: str | None, num_tokens: int) -> list[str]:
    """Read general text that no model was calibrated on, from another split than the one that calibration takes."""
    from ..calibration.text import load_documents
    from ..reasoner import NAME

    return load_documents(source, 8 * num_tokens, split=split or ("test" if source == NAME else "validation"))


def make_rows(args: Namespace, asked: dict[str, Asked]) -> list[dict[str, Any]]:
    """Put the numbers of every model and problem set together."""
    from ..evaluation.results import result_row

    rows = []
    for model, of_model in asked.items():
        for name, graded in of_model.graded.items():
            baseline = asked[args.baseline].graded[name] if args.baseline and model != args.baseline else None
            split = flags.evaluation_split(args, name)
            row = result_row(model, name, split, graded, baseline=baseline)
            rows.append(row | ({} if of_model.perplexity is None else {"text_perplexity": of_model.perplexity}))
    return rows


def write(
    args: Namespace,
    sampling: SamplingConfig,
    problems: "dict[str, list[Problem]]",
    rows: list[dict[str, Any]],
    asked: dict[str, Asked],
) -> None:
    """Write the numbers, every sample, what the Hub takes, and apart from these what changes from run to run."""
    from ..evaluation.results import card_metadata, leaderboard_files, samples_table, versions, write_samples
    from ..files import new_folder

    record = {
        "sampling": sampling.to_dict(),
        "engine": IN_PROCESS if args.engine == IN_PROCESS else "OpenAI-compatible server",
        "baseline": args.baseline,
        "text": args.text,
        "models": {model: of_model.identity for model, of_model in asked.items()},
        "problems": {
            name: {
                "read_from": sorted({problem.source for problem in found if problem.source}),
                "instruction": flags.instruction(args, name),
            }
            for name, found in problems.items()
        },
        "versions": versions(),
        "rows": rows,
    }
    with new_folder(args.output) as folder:
        (folder / "results.json").write_text(json.dumps(record, indent=2) + "\n")
        speeds = {"tokens_per_second": {model: of_model.speed for model, of_model in asked.items()}}
        (folder / "speed.json").write_text(json.dumps(speeds, indent=2) + "\n")
        tables = [samples_table(model, *pair) for model, of_model in asked.items() for pair in of_model.graded.items()]
        write_samples(tables, folder / "samples.parquet")
        (folder / "cards").mkdir()
        revisions = {name: commit for name, found in problems.items() if (commit := commit_of(found))}
        for model in asked:
            of_model = [row for row in rows if row["model"] == model]
            (folder / "cards" / f"{file_name(model)}.yaml").write_text(card_metadata(model, of_model, revisions))
            whole = [row for row in of_model if is_benchmark(args, row, len(problems[row["problems"]]))]
            files = leaderboard_files(whole, sampling, revisions)
            for name, text in files.items():
                path = folder / "eval_results" / file_name(model) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)


def is_benchmark(args: Namespace, row: dict[str, Any], num_problems: int) -> bool:
    """Tell whether a row is of all problems of the split that models are evaluated on, with no response lost."""
    from ..problems.sources import find_source

    source = find_source(row["problems"])
    is_whole = args.num_problems is None and row["split"] == (source.evaluation_split or source.split)
    return is_whole and row["responses"] == num_problems * row["samples"]


def commit_of(problems: "list[Problem]") -> str | None:
    """Return the commit of the data set on the Hub that problems come from; None when they come from elsewhere."""
    return (problems[0].source or "").partition("@")[2] or None


def as_table(rows: list[dict[str, Any]], asked: dict[str, Asked]) -> str:
    """Lay results out in aligned columns, one row per model and problem set."""
    names = ("model", "problems", "n", "samples", "pass@1", "vs baseline (95 %)", "best of", "tokens", "median", "p95")
    table = [(*names, "truncated", "no </think>", "looping", "text ppl", "tokens/s")]
    for row in rows:
        compared = "-"
        if "difference" in row:
            low, high = row["difference_ci95"]
            compared = f"{100 * row['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        most = max(row["pass_at_k"], key=int)
        lengths = (f"{row[name]:.0f}" for name in ("mean_tokens", "median_tokens", "p95_tokens"))
        shares = ("-" if row[name] is None else f"{row[name]:.1%}" for name in ("truncated", "missing_think_end", "looping"))
        speed = asked[row["model"]].speed
        table.append(
            (
                *(str(row[name]) for name in ("model", "problems", "n", "samples")),
                f"{row['accuracy']:.1%} +- {row['accuracy_se']:.1%}",
                compared,
                f"@{most} {row['pass_at_k'][most]['value']:.1%}" if most != "1" else "-",
                *lengths,
                *shares,
                f"{row['text_perplexity']:.1f}" if "text_perplexity" in row else "-",
                "-" if speed is None else f"{speed:,.0f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in table
    )
