"""The two tables of a calibration set: the selected sequences, and the rollouts they were chosen from."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from datasets import Dataset, Features, List, Value

from ..errors import DataError
from ..records import CalibrationSequence, GradedRollout


CALIBRATION_FEATURES = Features(
    {
        "problem_id": Value("string"),
        "problem": Value("string"),
        "answer": Value("string"),
        "kind": Value("string"),
        "sample": Value("int32"),
        "prompt_ids": List(Value("int32")),
        "response_ids": List(Value("int32")),
        "token_weights": List(Value("float32")),
        "response": Value("string"),
        "num_tokens": Value("int32"),
        "correct": Value("bool"),
        "pass_rate": Value("float32"),
        "selected_by": Value("string"),
    }
)
ROLLOUT_FEATURES = Features(
    {
        "problem_id": Value("string"),
        "problem": Value("string"),
        "answer": Value("string"),
        "answer_kind": Value("string"),
        "kind": Value("string"),
        "sample": Value("int32"),
        "prompt_ids": List(Value("int32")),
        "response_ids": List(Value("int32")),
        "response": Value("string"),
        "num_tokens": Value("int32"),
        "extracted_answer": Value("string"),
        "correct": Value("bool"),
        "finished": Value("bool"),
        "thought": Value("bool"),
        "pass_rate": Value("float32"),
        "damage": Value("float64"),
    }
)


def make_calibration_table(
    sequences: Sequence[CalibrationSequence], graded: Sequence[GradedRollout], rates: Mapping[str, float]
) -> Dataset:
    """Lay out the selected sequences; what is known of their rollouts stands beside them."""
    known = {(item.problem.id, item.rollout.sample): item for item in graded}
    items = [known.get((sequence.problem_id, sequence.sample)) for sequence in sequences]
    columns = {
        "problem_id": [sequence.problem_id for sequence in sequences],
        "problem": [item and item.problem.question for item in items],
        "answer": [item and item.problem.answer for item in items],
        "kind": [item and item.problem.kind for item in items],
        "sample": [sequence.sample for sequence in sequences],
        "prompt_ids": [np.asarray(sequence.prompt_ids, np.int32) for sequence in sequences],
        "response_ids": [np.asarray(sequence.response_ids, np.int32) for sequence in sequences],
        "token_weights": [
            None if sequence.token_weights is None else np.asarray(sequence.token_weights, np.float32) for sequence in sequences
        ],
        "response": [item and item.text for item in items],
        "num_tokens": [len(sequence.input_ids) for sequence in sequences],
        "correct": [item and _correct(item) for item in items],
        "pass_rate": [item and rates.get(item.problem.id) for item in items],
        "selected_by": [sequence.selected_by for sequence in sequences],
    }
    return _table(columns, CALIBRATION_FEATURES)


def make_rollouts_table(graded: Sequence[GradedRollout], rates: Mapping[str, float]) -> Dataset:
    """Lay out everything that was generated."""
    columns = {
        "problem_id": [item.problem.id for item in graded],
        "problem": [item.problem.question for item in graded],
        "answer": [item.problem.answer for item in graded],
        "answer_kind": [item.problem.answer_kind for item in graded],
        "kind": [item.problem.kind for item in graded],
        "sample": [item.rollout.sample for item in graded],
        "prompt_ids": [np.asarray(item.rollout.prompt_ids, np.int32) for item in graded],
        "response_ids": [np.asarray(item.rollout.response_ids, np.int32) for item in graded],
        "response": [item.text for item in graded],
        "num_tokens": [len(item.rollout.response_ids) for item in graded],
        "extracted_answer": [item.verdict.answer for item in graded],
        "correct": [_correct(item) for item in graded],
        "finished": [item.rollout.finished for item in graded],
        "thought": [item.verdict.thought for item in graded],
        "pass_rate": [rates.get(item.problem.id) for item in graded],
        "damage": [item.damage for item in graded],
    }
    return _table(columns, ROLLOUT_FEATURES)


def read_table(path: Path, features: Features) -> Dataset:
    """Read a Parquet file.

    Raises:
        FileNotFoundError: There is none.
        DataError: It is damaged, or lacks a column.
    """
    try:
        table = pyarrow.parquet.read_table(path)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (pyarrow.ArrowException, OSError) as error:  # Arrow says OSError of pages that cannot be decompressed
        raise DataError(f"{path} is damaged or cannot be read ({error}); build the calibration set again.") from None
    missing = set(features) - set(table.column_names)
    if missing:
        raise DataError(f"{path} lacks the columns {', '.join(sorted(missing))}.")
    return Dataset(table.select(list(features)).cast(features.arrow_schema))


def read_token_ids(dataset: Dataset) -> list[list[int]]:
    """Return the token ids of every sequence, prompt and response together."""
    return [row["prompt_ids"] + row["response_ids"] for row in dataset]


def read_token_weights(dataset: Dataset) -> list[list[float]] | None:
    """Return how much every token counts; None when all count once."""
    weights = dataset["token_weights"]
    if not any(of for of in weights):
        return None
    return [of or [1.0] * row["num_tokens"] for of, row in zip(weights, dataset, strict=True)]


def hash_rollouts(rollouts: Dataset | None) -> str | None:
    """Hash every value of every rollout, so that none can be changed, left out or added; None without rollouts."""
    if rollouts is None:
        return None
    digest = hashlib.sha256()
    for row in rollouts:
        digest.update((json.dumps(row, sort_keys=True) + "\n").encode())
    return digest.hexdigest()


def _correct(item: GradedRollout) -> bool | None:
    """Whether a rollout is right; None, so that the table leaves it open, when its verdict timed out."""
    return None if item.verdict.timed_out else item.verdict.correct


def _table(columns: dict[str, list[Any]], features: Features) -> Dataset:
    # Arrow takes arrays of token ids as they are; lists of lists of Python numbers would take nine times the memory.
    return Dataset(pyarrow.table(columns, schema=features.arrow_schema))
