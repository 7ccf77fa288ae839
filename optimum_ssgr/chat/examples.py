"""Example problems with known answers, by difficulty."""

from collections.abc import Sequence
from itertools import islice

from ..reasoner import NAME as EMBEDDED
from ..reasoner.tasks import tasks
from ..records import Problem
from .compared_models import ComparedModel


LEVELS = ("easy", "medium", "hard")
PER_LEVEL = 6
_DIFFICULTIES = {"easy": range(1, 4), "medium": range(4, 8), "hard": range(8, 11)}  # of the tiny reasoner's tasks
_BOX = "Put the final answer in \\boxed{}."
_MATHEMATICS = {
    "easy": (
        ("A shirt costs 40 dollars and is reduced by 15 %. How many dollars does it cost now?", "34"),
        ("What is the greatest common divisor of 84 and 126?", "42"),
        ("Solve $3x - 7 = 2x + 5$ for $x$.", "12"),
        ("A train covers 180 km in 2.5 hours. What is its average speed in km/h?", "72"),
    ),
    "medium": (
        ("How many positive divisors does 360 have?", "24"),
        ("What is the sum of all integers from 1 to 200 that are divisible by 7?", "2842"),
        ("Two dice are rolled. What is the probability that their sum is a prime number?", "\\frac{5}{12}"),
        ("Find the remainder when $7^{100}$ is divided by 13.", "9"),
    ),
    "hard": (
        ("How many ways are there to tile a 2 by 10 rectangle with dominoes?", "89"),
        ("Find the number of ordered pairs of positive integers $(a, b)$ with $\\frac1a + \\frac1b = \\frac1{12}$.", "15"),
        ("What is the smallest positive integer $n$ such that $n!$ ends in exactly 100 zeros?", "405"),
        ("Evaluate $\\sum_{k=1}^{\\infty} \\frac{k}{3^k}$.", "\\frac{3}{4}"),
    ),
}


def choose_examples(models: Sequence[ComparedModel]) -> dict[str, list[Problem]]:
    """Return problems by level that suit the models: held-out tasks for the tiny reasoner, mathematics for others."""
    if all(model.base_model == EMBEDDED for model in models):
        return _tasks()
    return {
        level: [
            Problem(f"{level}-{number}", f"{question}\n{_BOX}", answer) for number, (question, answer) in enumerate(entries)
        ]
        for level, entries in _MATHEMATICS.items()
    }


def _tasks() -> dict[str, list[Problem]]:
    """Take test problems of every level, of all families in turn."""
    found: dict[str, list[Problem]] = {level: [] for level in LEVELS}
    for task in islice(tasks("test", seed=0), 400):
        level = next(level for level, range_ in _DIFFICULTIES.items() if task.problem.difficulty in range_)
        if len(found[level]) < PER_LEVEL and task.problem.source not in {problem.source for problem in found[level][-4:]}:
            found[level].append(task.problem)
    return found
