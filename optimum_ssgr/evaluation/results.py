"""What an evaluation leaves: a row of numbers per model and problem set, every sample, and what the Hub takes."""

import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml

from ..config import SamplingConfig
from ..hub.names import split_revision
from ..problems.sources import find_source
from ..records import GradedRollout
from .benchmarks import find_benchmark
from .metrics import is_loop, paired_difference, pass_at_k, summarize


SAMPLES = pyarrow.schema(
    {
        "model": pyarrow.string(),
        "problems": pyarrow.string(),
        "problem_id": pyarrow.string(),
        "problem": pyarrow.string(),
        "answer": pyarrow.string(),
        "kind": pyarrow.string(),
        "sample": pyarrow.int32(),
        "response": pyarrow.string(),
        "num_tokens": pyarrow.int32(),
        "extracted_answer": pyarrow.string(),
        "correct": pyarrow.bool_(),
        "timed_out": pyarrow.bool_(),
        "finished": pyarrow.bool_(),
        "thought": pyarrow.bool_(),
        "looping": pyarrow.bool_(),
    }
)


def result_row(
    model: str,
    problems: str,
    split: str,
    graded: Sequence[GradedRollout],
    *,
    baseline: Sequence[GradedRollout] | None = None,
) -> dict[str, Any]:
    """Put together the numbers of one model on one problem set.

    Args:
        model: Name of the model.
        problems: Name of the problem set.
        split: Its split.
        graded: The model's responses.
        baseline: Responses of another model to the same problems, to compare with.

    Returns:
        `model`, `problems`, `split`, `n` (problems), `samples` (of each problem), `responses` (in all), what else `summarize`
        returns, `pass_at_k` with its standard error and 95 % interval for k = 1, 2, 4, ..., and with a baseline `difference`,
        `difference_se` and `difference_ci95`.
    """
    summary = summarize(graded)
    n, responses = summary.pop("problems"), summary.pop("samples")
    counts = Counter(item.problem.id for item in graded)
    fewest = min(counts.values())
    powers = [2**power for power in range(fewest.bit_length())]
    chances = {k: pass_at_k(graded, k) for k in sorted({*powers, fewest})}
    row = {
        "model": model,
        "problems": problems,
        "split": split,
        "n": n,
        "samples": max(counts.values()),
        "responses": responses,
        **summary,
        "pass_at_k": {
            str(k): {"value": chance.mean, "se": chance.error, "ci95": list(chance.interval)} for k, chance in chances.items()
        },
    }
    if baseline is not None:
        difference = paired_difference(graded, baseline)
        row |= {
            "difference": difference.mean,
            "difference_se": difference.error,
            "difference_ci95": list(difference.interval),
        }
    return row


def versions() -> dict[str, str]:
    """Say which versions of what decides the numbers are installed."""
    names = ("optimum-ssgr", "torch", "transformers", "math-verify")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def file_name(text: str) -> str:
    """Return a text with everything but letters, digits, dots and hyphens replaced."""
    return re.sub(r"[^\w.-]+", "_", text)


def samples_table(model: str, problems: str, graded: Sequence[GradedRollout]) -> pyarrow.Table:
    """Lay out every sample of one model on one problem set, one row each, with the columns of `SAMPLES`."""
    columns = {
        "model": [model] * len(graded),
        "problems": [problems] * len(graded),
        "problem_id": [item.problem.id for item in graded],
        "problem": [item.problem.question for item in graded],
        "answer": [item.problem.answer for item in graded],
        "kind": [item.problem.kind for item in graded],
        "sample": [item.rollout.sample for item in graded],
        "response": [item.text for item in graded],
        "num_tokens": [len(item.rollout.response_ids) for item in graded],
        "extracted_answer": [item.verdict.answer for item in graded],
        "correct": [item.verdict.correct for item in graded],
        "timed_out": [item.verdict.timed_out for item in graded],
        "finished": [item.rollout.finished for item in graded],
        "thought": [item.verdict.thought for item in graded],
        "looping": [is_loop(item.rollout.response_ids) for item in graded],
    }
    return pyarrow.table(columns, schema=SAMPLES)


def write_samples(tables: Sequence[pyarrow.Table], path: Path) -> None:
    """Write the samples of several models and problem sets as one Parquet file."""
    pyarrow.parquet.write_table(pyarrow.concat_tables(tables), path)


def eval_results(rows: Sequence[dict[str, Any]], revisions: Mapping[str, str]) -> list[EvalResult]:
    """Turn the rows of one model into results for its card's `model-index`: accuracy as a share, with its standard error.

    Problems from a file are left out, since a reader of the card could not find them.

    Args:
        rows: What `result_row` returns.
        revisions: Commits of problem sets on the Hub.
    """
    found = []
    for row in rows:
        if Path(row["problems"]).exists():
            continue
        source = find_source(row["problems"])
        found.append(
            EvalResult(
                task_type="text-generation",
                task_name="Reasoning",
                dataset_type=str(source.id),
                dataset_name=str(source.id).split("/")[-1],
                dataset_config=source.configuration,
                dataset_split=row["split"],
                dataset_revision=revisions.get(row["problems"]),
                metric_type="accuracy",
                metric_name="pass@1",
                metric_value=row["accuracy"],
                metric_args=_spread(row) | {"problems": row["n"], "samples": row["samples"]},
            )
        )
    return found


def card_metadata(model: str, rows: Sequence[dict[str, Any]], revisions: Mapping[str, str]) -> str:
    """Return the YAML that holds the rows of one model in its card's header; see `eval_results`."""
    return (
        ModelCardData(model_name=Path(split_revision(model)[0]).name, eval_results=eval_results(rows, revisions))
        .to_yaml()
        .strip()
        + "\n"
    )


def leaderboard_files(rows: Sequence[dict[str, Any]], sampling: SamplingConfig, revisions: Mapping[str, str]) -> dict[str, str]:
    """Turn the rows of one model into files for the folder `.eval_results` of its repository on the Hub.

    The Hub shows them on the model's page and on the benchmark's leaderboard; see https://huggingface.co/docs/hub/eval-results.
    Only whole benchmarks belong there.

    Args:
        rows: What `result_row` returns, for all problems of the sets' evaluation splits and with no response lost.
        sampling: How the responses were sampled.
        revisions: Commits of problem sets on the Hub.

    Returns:
        YAML by file name; of those sets alone that the Hub keeps a leaderboard of.
    """
    files = {}
    for row in rows:
        benchmark = find_benchmark(row["problems"])
        if benchmark is None or benchmark.leaderboard is None:
            continue
        asked = "greedy" if sampling.temperature == 0 else f"temperature {sampling.temperature}, top-p {sampling.top_p}"
        error = f"standard error {100 * row['accuracy_se']:.2f}"
        if "ci95" in _spread(row):
            error = "95 % interval {:.2f} to {:.2f}".format(*(100 * end for end in row["accuracy_ci95"]))
        entry = EvalResultEntry(
            dataset_id=benchmark.problems,
            task_id=benchmark.leaderboard,
            value=round(100 * row["accuracy"], 2),
            dataset_revision=revisions.get(row["problems"]),
            notes=f"pass@1, mean of {row['samples']} samples, {error}, {asked}, at most {sampling.max_new_tokens} tokens",
        )
        name = f"{benchmark.problems.split('/')[-1].lower()}.yaml"
        files[name] = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, width=1000)
    return files


def _spread(row: dict[str, Any]) -> dict[str, Any]:
    """The standard error, or the 95 % interval where all are right or all are wrong, which an error of 0 would hide."""
    return {"standard_error": row["accuracy_se"]} if row["accuracy_se"] > 0 else {"ci95": row["accuracy_ci95"]}
