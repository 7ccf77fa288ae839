"""Problems from a Hub data set, a local file, a list or the embedded reasoner."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..errors import DataError
from ..reasoner import NAME as EMBEDDED
from ..reasoner.tasks import SPLITS, tasks
from ..records import Problem


logger = logging.get_logger(__name__)
QUESTION_COLUMNS = ("problem", "question", "prompt")
ANSWER_COLUMNS = ("answer", "final_answer", "expected_answer")
CHOICE = re.compile(r"\(?[A-J]\)?|\\text\{\(?[A-J]\)?\}")  # the answer of a multiple-choice problem
FILE_FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}


def load_problems(
    source: str | Path | Iterable[Problem | Mapping[str, Any]],
    *,
    split: str | None = None,
    limit: int | None = None,
    question_column: str | None = None,
    answer_column: str | None = None,
    seed: int = 0,
    revision: str | None = None,
    token: str | bool | None = None,
) -> list[Problem]:
    """Load problems that have a question and a final answer.

    Rows without either are left out, and so is a question that came before; both are logged.

    Args:
        source: Hub id of a data set, path of a JSON, JSON Lines, Parquet or CSV file, `tiny-reasoner` for the embedded
            reasoner's own problems, or the problems themselves.
        split: Split to read; `train` by default.
        limit: Most problems to return.
        question_column: Column of the question; found by its usual names when None.
        answer_column: Column of the final answer; found by its usual names when None.
        seed: Seed of the embedded reasoner's problems.
        revision: Revision of the Hub data set.
        token: Hub token.

    Returns:
        Problems with unique ids.

    Raises:
        DataError: The source cannot be read, lacks a column or holds no problem.
    """
    if limit is not None and limit < 1:
        raise DataError(f"the number of problems must be at least 1, not {limit}.")
    if source == EMBEDDED:
        if split not in (None, *SPLITS):
            raise DataError(f"{EMBEDDED} has the splits {', '.join(SPLITS)}, not '{split}'.")
        return [task.problem for task in islice(tasks(split or "train", seed), limit or 256)]
    if isinstance(source, str | Path):
        rows: Iterable[Any] = _load_rows(source, split or "train", revision, token)
        _check_columns(source, rows.column_names, question_column, answer_column)
    else:
        rows = source
    found: dict[str, Problem] = {}
    incomplete = repeated = 0
    for row in rows:
        if limit is not None and len(found) == limit:
            break
        problem = row if isinstance(row, Problem) else _as_problem(row, question_column, answer_column)
        if problem is None:
            incomplete += 1
        elif problem.id in found:
            repeated += 1
        else:
            found[problem.id] = problem
    if incomplete or repeated:
        logger.warning(f"left out {incomplete} rows without question or answer and {repeated} repeated questions.")
    if not found:
        raise DataError("there are no problems with a question and an answer in the data.")
    return list(found.values())


def _load_rows(source: str | Path, split: str, revision: str | None, token: str | bool | None) -> Any:
    from datasets import load_dataset

    path = Path(source)
    try:
        if path.suffix in FILE_FORMATS:
            if not path.is_file():
                raise DataError(f"there is no file {path}.")
            if path.stat().st_size == 0:
                raise DataError(f"{path} is empty.")
            return load_dataset(FILE_FORMATS[path.suffix], data_files=str(path), split="train")
        return load_dataset(str(source), split=split, revision=revision, token=token)
    except DataError:
        raise
    except Exception as error:  # the libraries below raise many kinds; all of them mean that the data cannot be read
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"cannot read problems from '{source}': {reason[0]}") from error


def _pick_column(columns: Iterable[str], named: str | None, usual: tuple[str, ...]) -> str | None:
    wanted = (named,) if named else usual
    return next((column for column in wanted if column in columns), None)


def _check_columns(source: str | Path, columns: list[str], question: str | None, answer: str | None) -> None:
    for kind, named, usual in (("question", question, QUESTION_COLUMNS), ("answer", answer, ANSWER_COLUMNS)):
        if _pick_column(columns, named, usual) is None:
            raise DataError(
                f"'{source}' has no {kind} column named {named or ' or '.join(usual)}; its columns are "
                f"{', '.join(columns)}. Name it with {kind}_column."
            )


def _as_problem(row: Mapping[str, Any], question_column: str | None, answer_column: str | None) -> Problem | None:
    question_name = _pick_column(row, question_column, QUESTION_COLUMNS)
    answer_name = _pick_column(row, answer_column, ANSWER_COLUMNS)
    question = str(row[question_name]).strip() if question_name and row[question_name] is not None else ""
    answer = str(row[answer_name]).strip() if answer_name and row[answer_name] is not None else ""
    answer = answer.rsplit("####")[-1].strip()  # GSM8K writes its final answers behind this mark
    if not question or not answer:
        return None
    kind = "choice" if CHOICE.fullmatch(answer) else "math"
    return Problem(hashlib.sha256(question.encode()).hexdigest()[:16], question, answer, answer_kind=kind)
