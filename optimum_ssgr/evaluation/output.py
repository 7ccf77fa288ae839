"""What a comparison leaves: a table for the terminal, and a folder with every number and every response."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import new_folder
from ..likelihood import format_rise
from ..problems.load import sources_of
from ..problems.sources import find_source
from ..records import Problem
from .benchmarks import lighteval_command
from .compare import Comparison
from .intervals import format_difference, format_share
from .results import card_metadata, file_name, leaderboard_files, samples_table, versions, write_samples


def format_table(comparison: Comparison) -> str:
    """Lay the results out in aligned columns, one row per model and problem set."""
    names = ("model", "problems", "n", "samples", "pass@1", "worst kind", "vs baseline (95 %)", "best of", "tokens")
    table = [(*names, "median", "p95", "truncated", "unclosed", "looping", "trace nll", "text ppl", "tokens/s")]
    for row in comparison.rows:
        compared = "-"
        if "difference" in row:
            compared = format_difference(row["difference"], row["difference_ci95"])
        most = max(row["pass_at_k"], key=int)
        lengths = (f"{row[name]:.0f}" for name in ("mean_tokens", "median_tokens", "p95_tokens"))
        shares = ("-" if row[name] is None else f"{row[name]:.1%}" for name in ("truncated", "missing_think_end", "looping"))
        speed = comparison.results[row["model"]].speed
        table.append(
            (
                *(str(row[name]) for name in ("model", "problems", "n", "samples")),
                _solved(row),
                f"{row['worst_kind']} {_solved(row['kinds'][row['worst_kind']])}" if "kinds" in row else "-",
                compared,
                f"@{most} {row['pass_at_k'][most]['value']:.1%}" if most != "1" else "-",
                *lengths,
                *shares,
                _format_nll(row),
                f"{row['text_perplexity']:.1f}" if "text_perplexity" in row else "-",
                "-" if speed is None else f"{speed:,.0f}",
            )
        )
    return _align(table)


def format_kinds(comparison: Comparison) -> list[str]:
    """Lay accuracy out by kind of problem: a table per problem set of several kinds, one row per kind, one column per model."""
    tables = []
    for name in comparison.problems:
        rows = [row for row in comparison.rows if row["problems"] == name and "kinds" in row]
        if not rows:
            continue
        counts = {kind: of["problems"] for row in reversed(rows) for kind, of in row["kinds"].items()}
        table = [(f"{name}: kind", "n", *(row["model"] for row in rows))]
        for kind in sorted(counts):
            table.append(
                (kind, str(counts[kind]), *(_solved(row["kinds"][kind]) if kind in row["kinds"] else "-" for row in rows))
            )
        tables.append(_align(table))
    return tables


def _solved(of: dict[str, Any]) -> str:
    return format_share(of["accuracy"], of["accuracy_se"], of["accuracy_ci95"])


def _align(table: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in table
    )


def _format_nll(row: dict[str, Any]) -> str:
    """Nats per token of held-out traces, and in parentheses how much more that is than the baseline's."""
    rise = f" ({format_rise(row)})" if "trace_nll_rise" in row else ""
    return f"{row['trace_nll']:.3f}{rise}" if "trace_nll" in row else "-"


def cross_checks(comparison: Comparison) -> list[str]:
    """Return commands that ask the models the same with lighteval, where it has one of the problem sets."""
    config = comparison.config
    commands = (
        lighteval_command(model, list(config.samples_of), config.sampling, config.loading.dtype) for model in comparison.results
    )
    return [command for command in commands if command]


def save_comparison(comparison: Comparison, folder: str | Path) -> None:
    """Write the numbers, every response, what the Hub takes, and apart from these what changes from run to run.

    Args:
        comparison: What `compare_models` returned.
        folder: Where to write; must be new or empty.

    Raises:
        OutputError: The folder is in use or cannot be written.
    """
    config, problems, rows = comparison.config, comparison.problems, comparison.rows
    with new_folder(folder) as partial:
        (partial / "results.json").write_text(json.dumps(_record(comparison), indent=2) + "\n")
        speeds = {"tokens_per_second": {model: result.speed for model, result in comparison.results.items()}}
        (partial / "speed.json").write_text(json.dumps(speeds, indent=2) + "\n")
        tables = [
            samples_table(model, *of_set) for model, result in comparison.results.items() for of_set in result.graded.items()
        ]
        write_samples(tables, partial / "samples.parquet")
        (partial / "cards").mkdir()
        revisions = {name: commit for name, found in problems.items() if (commit := _commit_of(found))}
        for model in comparison.results:
            of_model = [row for row in rows if row["model"] == model]
            (partial / "cards" / f"{file_name(model)}.yaml").write_text(card_metadata(model, of_model, revisions))
            is_limited = config.reading.limit is not None
            whole = [row for row in of_model if is_whole_benchmark(row, len(problems[row["problems"]]), is_limited)]
            for name, text in leaderboard_files(whole, config.sampling, revisions).items():
                path = partial / "eval_results" / file_name(model) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)


def is_whole_benchmark(row: dict[str, Any], num_problems: int, is_limited: bool) -> bool:
    """Tell whether a row is of all problems of the split that models are evaluated on, with no response lost.

    Args:
        row: The row of a model and a problem set.
        num_problems: Problems that were asked.
        is_limited: Whether they were limited to a number.
    """
    source = find_source(row["problems"])
    is_whole = not is_limited and row["split"] == (source.evaluation_split or source.split)
    return is_whole and row["responses"] == num_problems * row["samples"]


def _record(comparison: Comparison) -> dict[str, Any]:
    """Return what `results.json` holds."""
    config, origin = comparison.config, comparison.traces
    return {
        "sampling": config.sampling.to_dict(),
        "engine": config.engine.recorded,
        "baseline": config.baseline,
        "text": config.text,
        "traces": origin
        and {
            "source": config.traces,
            "content_hash": origin.content_hash,
            "model": origin.model,
            "model_commit": origin.model_commit,
        },
        "prompting": {model: result.prompting for model, result in comparison.results.items()},
        "models": {model: result.identity for model, result in comparison.results.items()},
        "problems": {
            name: {"read_from": sources_of(found), "instruction": config.reading.instruction_for(name)}
            for name, found in comparison.problems.items()
        },
        "versions": versions(),
        "rows": comparison.rows,
    }


def _commit_of(problems: Sequence[Problem]) -> str | None:
    """Return the commit of the data set on the Hub that problems come from; None when they come from elsewhere."""
    return (problems[0].source or "").partition("@")[2] or None
