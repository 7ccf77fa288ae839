"""What an evaluation leaves: a row of numbers per model and problem set, every sample, and metadata for a model card."""

import platform
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from huggingface_hub import EvalResult, ModelCardData

from ..problems.sources import find_source
from ..records import GradedRollout
from .metrics import interval, is_loop, paired_difference, pass_at_k, summarize


SAMPLES = pyarrow.schema(
    {
        "model": pyarrow.string(),
        "problems": pyarrow.string(),
        "problem_id": pyarrow.string(),
        "problem": pyarrow.string(),
        "answer": pyarrow.string(),
        "sample": pyarrow.int32(),
        "response": pyarrow.string(),
        "num_tokens": pyarrow.int32(),
        "extracted_answer": pyarrow.string(),
        "correct": pyarrow.bool_(),
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
        returns, `pass_at_k` with its standard error for k = 1, 2, 4, ..., and with a baseline `difference`, `difference_se`
        and `difference_ci95`.
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
        "pass_at_k": {str(k): {"value": value, "se": error} for k, (value, error) in chances.items()},
    }
    if baseline is not None:
        difference, error = paired_difference(graded, baseline)
        row |= {"difference": difference, "difference_se": error, "difference_ci95": list(interval(difference, error))}
    return row


def versions() -> dict[str, str]:
    """Say which versions of what decides the numbers are installed."""
    names = ("optimum-ssgr", "torch", "transformers", "math-verify")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def samples_table(model: str, problems: str, graded: Sequence[GradedRollout]) -> pyarrow.Table:
    """Lay out every sample of one model on one problem set, one row each, with the columns of `SAMPLES`."""
    columns = {
        "model": [model] * len(graded),
        "problems": [problems] * len(graded),
        "problem_id": [item.problem.id for item in graded],
        "problem": [item.problem.question for item in graded],
        "answer": [item.problem.answer for item in graded],
        "sample": [item.rollout.sample for item in graded],
        "response": [item.text for item in graded],
        "num_tokens": [len(item.rollout.response_ids) for item in graded],
        "extracted_answer": [item.verdict.answer for item in graded],
        "correct": [item.verdict.correct for item in graded],
        "finished": [item.rollout.finished for item in graded],
        "thought": [item.verdict.thought for item in graded],
        "looping": [is_loop(item.rollout.response_ids) for item in graded],
    }
    return pyarrow.table(columns, schema=SAMPLES)


def write_samples(tables: Sequence[pyarrow.Table], path: Path) -> None:
    """Write the samples of several models and problem sets as one Parquet file."""
    pyarrow.parquet.write_table(pyarrow.concat_tables(tables), path)


def eval_results(rows: Sequence[dict[str, Any]]) -> list[EvalResult]:
    """Turn the rows of one model into results for its card's `model-index`: accuracy with its standard error, in percent.

    Problems from a file are left out, since a reader of the card could not find them.
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
                metric_type="accuracy",
                metric_name=f"pass@1, mean of {row['samples']} samples, {row['n']} problems",
                metric_value=f"{100 * row['accuracy']:.1f} ± {100 * row['accuracy_se']:.1f}",
            )
        )
    return found


def card_metadata(model: str, rows: Sequence[dict[str, Any]]) -> str:
    """Return the YAML that holds the rows of one model in its card's header."""
    return ModelCardData(model_name=Path(model).name, eval_results=eval_results(rows)).to_yaml().strip() + "\n"
