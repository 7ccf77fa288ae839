"""Is the answer in a column right?"""

from contextlib import closing
from dataclasses import replace

from ..records import Problem
from ..verification.answer import find_answer
from ..verification.compare import MAX_LENGTH, compare_quickly
from ..verification.workers import compare_all
from .answers import Answer


def grade(answers: list[Answer], problem: Problem | None) -> list[Answer]:
    """Verify answers as evaluation does; a truncated one is never right.

    One that was stopped, failed, or cannot be compared in the time and memory set aside gets no verdict.

    Args:
        answers: Finished answers to one question.
        problem: The question with its known answer; None leaves the answers without a verdict.
    """
    if problem is None:
        return answers
    return [
        replace(answer, correct=_is_right(answer, problem)) if answer.finish in ("stop", "length") else answer
        for answer in answers
    ]


def _is_right(answer: Answer, problem: Problem) -> bool | None:
    found = find_answer(answer.final, problem.answer_kind)
    if answer.finish != "stop" or answer.thinks or found is None:
        return False
    verdict = compare_quickly(found, problem.answer, problem.answer_kind)
    if verdict is None:  # it takes mathematics, which hostile text could keep busy: a process with limits does it
        with closing(compare_all([(found[:MAX_LENGTH], problem.answer, problem.answer_kind)])) as compared:
            verdict = next(iter(compared))
    return verdict
