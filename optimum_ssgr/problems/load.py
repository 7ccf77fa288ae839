"""Problems from a Hub data set, a local file, a list or the embedded reasoner."""

import hashlib
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from transformers.utils import logging

from ..errors import DataError
from ..hub.client import limited_silence
from ..reasoner import NAME as EMBEDDED
from ..reasoner.tasks import FAMILIES, SPLITS, tasks
from ..records import Problem
from .boxed import last_boxed
from .columns import (
    ANSWER_COLUMNS,
    QUESTION_COLUMNS,
    guess_kind_column,
    pick_column,
    possible_columns,
    read_cell,
    settle_columns,
)
from .procedural import generate_problems
from .rows import FILE_FORMATS, Rows, read_data_set, read_file
from .sources import REASONING_GYM, Source, find_source, is_endless


logger = logging.get_logger(__name__)
ENDLESS_LIMIT = 256
"""So many are made of endless problems when nobody says how many."""
CHOICE = re.compile(r"\(?[A-J]\)?|\\text\{\(?[A-J]\)?\}")  # the answer of a multiple-choice problem
ProblemSource = str | Path | Iterable[Problem | Mapping[str, Any]]
"""What `load_problems` takes."""


def load_problems(
    source: ProblemSource,
    *,
    split: str | None = None,
    evaluation: bool = False,
    limit: int | None = None,
    question_column: str | None = None,
    answer_column: str | None = None,
    kind_column: str | None = None,
    seed: int = 0,
    revision: str | None = None,
    token: str | bool | None = None,
) -> list[Problem]:
    """Load problems that have a question and a final answer.

    Rows without either are left out, and so is a question that came before; both are logged. The data sets of
    `problems/sources.py` need no further arguments.

    Args:
        source: Hub id of a data set, with the name of a configuration after a colon if it has several
            (`openai/gsm8k:main`), path of a JSON, JSON Lines, Parquet or CSV file, `tiny-reasoner` for the embedded
            reasoner's own problems or some families of them (`tiny-reasoner:chain,sum`), generators of the package
            reasoning-gym (`reasoning-gym:gcd,chain_sum(min_terms=3)`), or the problems themselves.
        split: Split to read; a known data set's own when None, else `train`.
        evaluation: When `split` is None, take the split that the data set is evaluated on, if one is known.
        limit: Most problems to return; they are drawn from all of them, see `draw_problems`. Of endless problems, how many are
            made: 256 when None.
        question_column: Column of the question, or a field within one as in `extra_info.question`; found by its usual names
            when None.
        answer_column: Column of the final answer, or a field within one; found by its usual names when None. Every problem has
            one answer: a list of several is refused.
        kind_column: Column of what sort of problem it is (`Problem.kind`), or a field within one. When None, the first of the
            usual names that is there and holds texts, at most 100 different ones; without such a column, problems have no kind.
        seed: Seed of the draw, of endless problems, and of the order of multiple-choice options.
        revision: Revision of the Hub data set.
        token: Hub token.

    Returns:
        Problems with unique ids; those of a Hub data set name it, its configuration and its commit as their `source`.

    Raises:
        DataError: The source cannot be read, lacks a column, has a question, an answer or a named kind that is neither text nor
            number, or holds no problem.
    """
    if limit is not None and limit < 1:
        raise DataError(f"the number of problems must be at least 1, not {limit}.")
    if isinstance(source, str) and is_endless(source):
        name, _, parts = source.partition(":")
        make = generate_problems if name == REASONING_GYM else _embedded
        return make(parts, split or ("test" if evaluation else "train"), seed, limit or ENDLESS_LIMIT)
    known, origin = Source(), None
    if isinstance(source, str) and not _is_file(source):
        known = find_source(source)
    if answer_column not in (None, known.answer):
        known = replace(known, solved=False, wrong_options=(), answer_kind="math")
    known = replace(known, question=question_column or known.question, answer=answer_column or known.answer)
    if isinstance(source, str | Path):
        split = split or (evaluation and known.evaluation_split) or known.split
        found, origin = _read_rows(source, known, kind_column, split, revision, token)
        known, rows = settle_columns(source, found.columns, known, kind_column), found.rows
    else:
        rows = list(source)
    known = replace(known, kind=kind_column or guess_kind_column(rows, known))
    return draw_problems(read_problems(rows, known, seed, origin), limit, seed)


def draw_problems(problems: Sequence[Problem], count: int | None, seed: int) -> list[Problem]:
    """Draw some of the problems at random.

    Args:
        problems: Problems with unique ids.
        count: How many; all of them, in their order, when None or when there are no more.
        seed: Seed of the order that they are drawn in, which does not depend on the order they come in. A larger count only
            adds to what a smaller one gives.
    """
    if count is None or count >= len(problems):
        return list(problems)
    ordered = sorted(problems, key=lambda problem: problem.id)
    random.Random(seed).shuffle(ordered)
    return ordered[:count]


def usual_instruction(source: ProblemSource | None) -> str:
    """Return what is usually appended to the questions of a data set or file; nothing to problems that are given themselves."""
    return find_source(str(source)).instruction if isinstance(source, str | Path) else ""


def common_instruction(problems: Iterable[Problem], instruction: str | None) -> str | None:
    """Return the text that was appended to all questions; None when it differs, or is not known.

    Args:
        problems: The problems.
        instruction: What those take that have none of their own.
    """
    found = {instruction if problem.instruction is None else problem.instruction for problem in problems} or {instruction}
    return found.pop() if len(found) == 1 else None


def sources_of(problems: Iterable[Problem]) -> list[str]:
    """Say where problems come from, each place once."""
    return sorted({problem.source for problem in problems if problem.source})


def read_problems(
    rows: Iterable[Problem | Mapping[str, Any]],
    source: Source,
    seed: int = 0,
    origin: str | None = None,
) -> list[Problem]:
    """Read the problems off the rows of a data set.

    Args:
        rows: Rows, or problems to pass through.
        source: How to read a row.
        seed: Seed of the order of multiple-choice options.
        origin: `Problem.source` of the problems.

    Raises:
        DataError: There is no row with a question and a final answer, or one where they are neither text nor number.
    """
    found: dict[str, Problem] = {}
    incomplete = repeated = 0
    for row in rows:
        problem = row if isinstance(row, Problem) else as_problem(row, source, seed, origin)
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


def as_problem(row: Mapping[str, Any], source: Source, seed: int = 0, origin: str | None = None) -> Problem | None:
    """Read one problem, or None from a row that lacks the question or the final answer.

    The options of a multiple choice are shuffled, lettered and put below the question; the answer is the letter. Their order
    depends on the seed and the question, not on the other rows.
    """
    question = read_cell(row, pick_column(row, source.question, QUESTION_COLUMNS))
    answer = final_answer(read_cell(row, pick_column(row, source.answer, ANSWER_COLUMNS)), source.solved)
    wrong = [read_cell(row, column) for column in source.wrong_options]
    if not question or not answer or not all(wrong):
        return None
    if wrong:
        options = [answer, *wrong]
        random.Random(f"{seed}-{question}").shuffle(options)
        answer = ascii_uppercase[options.index(answer)]
        lettered = (f"{letter}) {option}" for letter, option in zip(ascii_uppercase, options, strict=False))
        question = "\n".join((question, "", *lettered))
    name = hashlib.sha256(question.encode()).hexdigest()[:16]
    compared = "choice" if source.answer_kind == "math" and CHOICE.fullmatch(answer) else source.answer_kind
    return Problem(name, question, answer, source=origin, answer_kind=compared, kind=read_cell(row, source.kind) or None)


def final_answer(text: str, solved: bool = False) -> str:
    r"""Return the final answer that a text holds: what stands behind the last `####`, in the last `\boxed{}`, or all of it.

    Args:
        text: An answer as data sets give it.
        solved: Whether the text is a worked solution, which is no answer by itself: unmarked, it gives an empty text.
    """
    if "####" in text:  # how GSM8K marks its final answers
        return text.rsplit("####", 1)[1].strip()
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    return "" if solved else text.strip()


def _embedded(families: str, split: str, seed: int, limit: int) -> list[Problem]:
    """Make problems of the embedded reasoner, of some families or all."""
    if split not in SPLITS:
        raise DataError(f"{EMBEDDED} has the splits {', '.join(SPLITS)}, not '{split}'.")
    chosen = tuple(families.split(",")) if families else tuple(FAMILIES)
    if not set(chosen) <= set(FAMILIES):
        raise DataError(f"the families of {EMBEDDED} are {', '.join(FAMILIES)}, not '{families}'.")
    return [task.problem for task in islice(tasks(split, seed, chosen), limit)]


def _is_file(source: str | Path) -> bool:
    return Path(source).suffix in FILE_FORMATS


@limited_silence()
def _read_rows(
    source: str | Path, known: Source, kind: str | None, split: str, revision: str | None, token: str | bool | None
) -> tuple[Rows, str | None]:
    """Return the rows of a file or a data set, and for one on the Hub where they come from."""
    wanted = {name for column in possible_columns(known, kind) for name in (column, column.partition(".")[0])}
    try:
        if _is_file(source):
            return read_file(Path(source), wanted), None
        name = known.id or str(source)
        rows, hashed = read_data_set(name, known.configuration, split, wanted, revision=revision, token=token)
        return rows, None if Path(name).exists() else _origin(known, hashed)
    except DataError:
        raise
    except Exception as error:  # the libraries below raise many kinds; all of them mean that the data cannot be read
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        if "config name is missing" in reason[0].lower() and len(reason) > 1:  # the next line lists the configurations
            raise DataError(f"'{source}' has several configurations; name one behind a colon. {reason[1]}") from error
        raise DataError(f"cannot read problems from '{source}': {reason[0]}") from error


def _origin(known: Source, commit: str | None) -> str:
    """Name a Hub data set, its configuration and its commit, which datasets takes for the hash of what it builds."""
    name = f"{known.id}:{known.configuration}" if known.configuration else str(known.id)
    return f"{name}@{commit}" if commit and re.fullmatch("[0-9a-f]{40}", commit) else name
