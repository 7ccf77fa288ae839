"""The two tables of a calibration set: the selected sequences, and the rollouts they were chosen from."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow
from datasets import Dataset, Features, List, Value

from ..records import CalibrationSequence, GradedRollout, Problem, Rollout, Verdict
from ..stored import StoredText, TokenIds
from .batches import TOKENS_IN_BATCH, hash_batches, iterate_batches, keep_batches


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
        "num_tokens": [sequence.num_tokens for sequence in sequences],
        "correct": [item and _correct(item) for item in items],
        "pass_rate": [item and rates.get(item.problem.id) for item in items],
        "selected_by": [sequence.selected_by for sequence in sequences],
    }
    # Arrow takes arrays of token ids as they are; lists of lists of Python numbers would take nine times the memory.
    return Dataset(pyarrow.table(columns, schema=CALIBRATION_FEATURES.arrow_schema))


def make_rollouts_table(graded: Sequence[GradedRollout], rates: Mapping[str, float]) -> Dataset:
    """Lay out everything that was generated, a batch at a time."""
    return keep_batches((_lay_out(items, rates) for items in _split(graded)), ROLLOUT_FEATURES)


def read_rollouts(rollouts: Dataset) -> list[GradedRollout]:
    """Return the rollouts of a table as they were graded; token ids and texts stay in the table until they are looked at."""
    problems: dict[Problem, Problem] = {}
    prompts: dict[bytes, tuple[int, ...]] = {}
    graded = []
    for batch in iterate_batches(rollouts):
        prompt_ids, response_ids, response = (batch[name] for name in ("prompt_ids", "response_ids", "response"))
        known = batch.drop_columns(["prompt_ids", "response_ids", "response"]).to_pylist()
        for index, (row, length) in enumerate(zip(known, response_ids.value_lengths().to_pylist(), strict=True)):
            problem = Problem(
                row["problem_id"], row["problem"], row["answer"], answer_kind=row["answer_kind"], kind=row["kind"]
            )
            prompt = _read_ids(prompt_ids, index)
            graded.append(
                GradedRollout(
                    problems.setdefault(problem, problem),  # the samples of a problem share it and its prompt
                    Rollout(
                        row["problem_id"],
                        row["sample"],
                        prompts.setdefault(prompt.tobytes(), tuple(prompt.tolist())),
                        TokenIds(partial(_read_ids, response_ids, index), length),
                        row["finished"],
                    ),
                    Verdict(row["extracted_answer"], bool(row["correct"]), row["thought"], timed_out=row["correct"] is None),
                    StoredText(partial(_read_text, response, index)),
                    row["damage"],
                )
            )
    return graded


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
    return None if rollouts is None else hash_batches(iterate_batches(rollouts))


def _split(graded: Iterable[GradedRollout]) -> Iterator[list[GradedRollout]]:
    """Cut rollouts into lists whose responses have about `TOKENS_IN_BATCH` tokens together."""
    items: list[GradedRollout] = []
    tokens = 0
    for item in graded:
        items.append(item)
        tokens += len(item.rollout.response_ids)
        if tokens >= TOKENS_IN_BATCH:
            yield items
            items, tokens = [], 0
    if items:
        yield items


def _lay_out(graded: Sequence[GradedRollout], rates: Mapping[str, float]) -> pyarrow.RecordBatch:
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
    return pyarrow.RecordBatch.from_pydict(columns, ROLLOUT_FEATURES.arrow_schema)


def _read_ids(lists: pyarrow.ListArray, index: int) -> np.ndarray:
    """Look at one list of token ids, int32 [tokens], without copying it."""
    return lists[index].values.to_numpy()


def _read_text(texts: pyarrow.StringArray, index: int) -> str:
    return texts[index].as_py()


def _correct(item: GradedRollout) -> bool | None:
    """Whether a rollout is right; None, so that the table leaves it open, when its verdict timed out."""
    return None if item.verdict.timed_out else item.verdict.correct
