"""Which columns of a data set hold question, answer and kind, and what is in them."""

import reprlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from numbers import Number
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..records import Problem
from .sources import Source


QUESTION_COLUMNS = ("problem", "question", "prompt")
ANSWER_COLUMNS = ("answer", "final_answer", "expected_answer")
KIND_COLUMNS = ("problem_type", "subject", "source", "kind", "category")
MOST_KINDS = 100
"""A column that nobody named and that holds more different texts than this names no kinds; it may hold links or titles."""


def possible_columns(known: Source, kind: str | None) -> tuple[str, ...]:
    """Name the columns that may be read."""
    question = (known.question,) if known.question else QUESTION_COLUMNS
    answer = (known.answer,) if known.answer else ANSWER_COLUMNS
    return (*question, *answer, *known.wrong_options, *((kind,) if kind else _usual_kind_columns(known)))


def _usual_kind_columns(known: Source) -> tuple[str, ...]:
    return (known.kind, *KIND_COLUMNS) if known.kind else KIND_COLUMNS


def guess_kind_column(rows: Sequence[Problem | Mapping[str, Any]], known: Source) -> str | None:
    """Find a column that sorts the problems: of texts, and not a different one for each; None where there is none."""
    rows = [row for row in rows if not isinstance(row, Problem)]
    for column in _usual_kind_columns(known):
        found = [value for row in rows if (value := row.get(column)) is not None]
        if found and all(isinstance(value, str) for value in found) and len(set(found)) <= MOST_KINDS:
            return column
    return None


def settle_columns(source: str | Path, columns: Collection[str], known: Source, kind_column: str | None) -> Source:
    """Decide which columns hold question and answer, the same ones in all rows."""
    picked = {}
    usual = (("question", known.question, QUESTION_COLUMNS), ("answer", known.answer, ANSWER_COLUMNS))
    usual += (("kind", kind_column, KIND_COLUMNS),) if kind_column else ()
    for role, named, names in usual:
        picked[role] = pick_column(columns, named, names)
        if picked[role] is None:
            raise DataError(
                f"'{source}' has no {role} column named {named or ' or '.join(names)}; its columns are "
                f"{', '.join(columns)}. Name it with {role}_column."
            )
    for column in known.wrong_options:
        if column not in columns:
            raise DataError(f"'{source}' has no column {column}; its columns are {', '.join(columns)}.")
    return replace(known, **picked)


def pick_column(columns: Collection[str], named: str | None, usual: tuple[str, ...]) -> str | None:
    """Return the named column, or the first usual one, if it is there; None if not. A field is there if its column is."""
    wanted = (named,) if named else usual
    return next((column for column in wanted if column in columns or column.partition(".")[0] in columns), None)


def read_cell(row: Mapping[str, Any], column: str | None) -> str:
    """Read a text or a number, also one in a list by itself or in a chat of one message by the user; empty when missing.

    Raises:
        DataError: The column holds something else, or is to hold fields and does not.
    """
    held = value = None if column is None else _field(row, column)
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
        if isinstance(value, Mapping) and value.get("role") == "user":
            value = value.get("content")
    if value is None or value != value:  # NaN stands for what a table lacks
        return ""
    if not isinstance(value, str | Number):
        raise DataError(
            f"the column {column} holds {reprlib.repr(held)}, which is neither a text nor a number; make a column of such, or "
            "name another one with question_column, answer_column or kind_column, or a field of it as in column.field."
        )
    return str(value).strip()


def _field(row: Mapping[str, Any], column: str) -> Any:
    """Return what a column holds, or a field within it as in `reward_model.ground_truth`; None when it is missing."""
    if column in row:
        return row[column]
    value: Any = row
    for name in column.split("."):
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise DataError(f"{column} cannot be read: there is {reprlib.repr(value)} where fields such as {name} should be.")
        value = value.get(name)
    return value
