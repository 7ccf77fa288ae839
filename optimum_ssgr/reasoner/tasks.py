"""Graded problems for the tiny reasoner, each with the written steps that solve it.

Five families, difficulty 1 (easy) to 10 (hard). A step is short enough for a small model to get right most of the time, and
the number of steps grows with the difficulty, so that a few wrong steps in a hundred make hard problems really hard.
"""

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..records import Problem


LETTERS = "abcdefghijklmnopqrstuvwxyz"
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: (a + b) % 10,
    "minus": lambda a, b: (a - b) % 10,
    "times": lambda a, b: (a * b) % 10,
    "max": max,
    "min": min,
}
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Step:
    """One line of a solution: `given` follows from what was written before, `result` is what the line works out."""

    given: str
    result: str
    mistake: str


@dataclass(frozen=True)
class Task:
    """A problem together with the steps that solve it."""

    problem: Problem
    steps: tuple[Step, ...]


def _other_digit(digit: int, rng: random.Random) -> int:
    return (digit + rng.randrange(1, 10)) % 10


# A step begins with the words of the question that it uses: copying is the first thing a small model learns, and everything
# else then stands close at hand.


def _chain(difficulty: int, rng: random.Random) -> tuple[str, list[Step], str]:
    """A running value changed step by step."""
    value = rng.randrange(10)
    lines, steps = [f"Follow the steps from {value}, keep the last digit."], []
    for label in LETTERS[: 2 + 3 * difficulty // 2]:
        name, operand = rng.choice(list(OPERATIONS)), rng.randrange(10)
        result = OPERATIONS[name](value, operand)
        lines.append(f"{label} {name} {operand}")
        steps.append(Step(f"{lines[-1]} on {value} is", f" {result}", f" {_other_digit(result, rng)}"))
        value = result
    return "\n".join(lines), steps, str(value)


def _variables(difficulty: int, rng: random.Random) -> tuple[str, list[Step], str]:
    """Variables defined by earlier ones, so that every step looks two values up."""
    values: dict[str, int] = {}
    lines, steps = [], []
    for label in LETTERS[: 2 + difficulty]:
        if len(values) < 2:
            result = rng.randrange(10)
            lines.append(f"{label} = {result}")
            given = f"{lines[-1]}; {label} is"
        else:
            name, left, right = rng.choice(list(OPERATIONS)), rng.choice(list(values)), rng.choice(list(values))
            result = OPERATIONS[name](values[left], values[right])
            lines.append(f"{label} = {left} {name} {right}")
            given = f"{lines[-1]}; {left} is {values[left]}; {right} is {values[right]}; {label} is"
        steps.append(Step(given, f" {result}", f" {_other_digit(result, rng)}"))
        values[label] = result
    return "\n".join([f"Find {label}, keep the last digit.", *lines]), steps, str(values[label])


def _sum(difficulty: int, rng: random.Random) -> tuple[str, list[Step], str]:
    """Long addition, one column of digits after the other, carrying."""
    lines, steps, digits, carry = ["Add the columns, write the digits, ones first."], [], "", 0
    for label in LETTERS[: 1 + 5 * difficulty // 4]:
        a, b = rng.randrange(10), rng.randrange(10)
        lines.append(f"{label} {a} {b}")
        given = f"{lines[-1]} carry {carry} is"
        carry, digit = divmod(a + b + carry, 10)
        steps.append(Step(given, f" {digit} carry {carry}", f" {_other_digit(digit, rng)} carry {carry}"))
        digits += str(digit)
    return "\n".join(lines), steps, f"{digits}{carry}"


def _walk(difficulty: int, rng: random.Random) -> tuple[str, list[Step], str]:
    """A walk along arrows, each step looked up in the question."""
    nodes = list(LETTERS[: 4 + difficulty])
    targets = dict(zip(nodes, rng.sample(nodes, len(nodes)), strict=True))
    here, count, steps = rng.choice(nodes), 1 + 4 * difficulty // 5, []
    lines = [f"Follow the arrows from {here} for {count} steps.", *(f"{node} {target}" for node, target in targets.items())]
    for left in reversed(range(count)):
        there = targets[here]
        mistake = rng.choice([node for node in nodes if node != there])
        steps.append(Step(here, f" {there}, {left} left", f" {mistake}, {left} left"))
        here = there
    return "\n".join(lines), steps, here


def _count(difficulty: int, rng: random.Random) -> tuple[str, list[Step], str]:
    """How often a digit occurs in a labelled list."""
    wanted = rng.randrange(10)
    count, lines, steps = 0, [f"Count the digit {wanted}."], []
    for label in LETTERS[: 4 + 3 * difficulty // 2]:
        item = wanted if rng.random() < 0.4 else rng.randrange(10)
        lines.append(f"{label} {item}")
        seen = "yes" if item == wanted else "no"
        count += item == wanted
        wrong = count - 1 if item == wanted else count + 1
        steps.append(Step(f"{lines[-1]} {seen}", f" {count}", f" {wrong}"))
    return "\n".join(lines), steps, str(count)


FAMILIES = {"chain": _chain, "variables": _variables, "sum": _sum, "walk": _walk, "count": _count}


def make_task(family: str, difficulty: int, rng: random.Random) -> Task:
    """Make one problem with its solution.

    Args:
        family: One of `FAMILIES`.
        difficulty: 1 (easy) to 10 (hard).
        rng: Source of randomness.
    """
    question, steps, answer = FAMILIES[family](difficulty, rng)
    identity = f"{family}-{difficulty}-{zlib.crc32(question.encode()):08x}"
    problem = Problem(identity, question, answer, difficulty=float(difficulty), source=family, answer_kind="exact", kind=family)
    return Task(problem, tuple(steps))


def split_of(question: str) -> str:
    """Tell which split a question belongs to: its own hash decides, so splits never share a question."""
    return {0: "test", 1: "dev"}.get(zlib.crc32(question.encode()) % 10, "train")


def tasks(split: str, seed: int, families: tuple[str, ...] = tuple(FAMILIES), hardest: int = 10) -> Iterator[Task]:
    """Yield endless tasks of one split, families and difficulties evenly mixed, none twice.

    Args:
        split: One of `SPLITS`.
        seed: Seed of the stream.
        families: Families to draw from.
        hardest: Highest difficulty to draw.
    """
    rng = random.Random(f"{split}-{seed}")
    seen: set[str] = set()
    while True:
        task = make_task(rng.choice(families), rng.randint(1, hardest), rng)
        if task.problem.id not in seen and split_of(task.problem.question) == split:
            seen.add(task.problem.id)
            yield task


def write_solution(task: Task, rng: random.Random, check_rate: float = 0.06, slip_rate: float = 0.03) -> list[tuple[str, bool]]:
    """Write the solution as a reasoning model would: some steps checked again, some slips noticed and put right.

    Args:
        task: The task to solve.
        rng: Source of randomness.
        check_rate: Share of steps that are checked again.
        slip_rate: Share of steps that first go wrong.

    Returns:
        Pieces of text and whether to learn each. A slip itself is not learnt, only how to notice and correct it.
    """
    pieces: list[tuple[str, bool]] = []
    for step in task.steps:
        if rng.random() < slip_rate:
            pieces += [(step.given, True), (step.mistake, False), (f"\nWait, {step.given}{step.result}\n", True)]
        else:
            pieces.append((f"{step.given}{step.result}\n", True))
            if rng.random() < check_rate:
                pieces.append((f"Check {step.given}{step.result}\n", True))
    pieces.append((f"</think>\nThe answer is \\boxed{{{task.problem.answer}}}.", True))
    return pieces
