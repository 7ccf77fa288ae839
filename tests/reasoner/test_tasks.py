import random
import re
from itertools import islice

import pytest

from optimum_ssgr.reasoner.tasks import FAMILIES, make_task, tasks, write_solution
from optimum_ssgr.reasoner.text import documents


def solve(family, question):
    """Work the answer out from the question alone, by other means than the tasks' own."""
    lines = question.split("\n")
    words = [line.split() for line in lines[1:]]
    apply = {
        "add": lambda a, b: (a + b) % 10,
        "minus": lambda a, b: (a - b + 10) % 10,
        "times": lambda a, b: a * b % 10,
        "max": lambda a, b: sorted((a, b))[1],
        "min": lambda a, b: sorted((a, b))[0],
    }
    if family == "chain":
        value = int(re.search(r"from (\d)", lines[0])[1])
        for _, name, operand in words:
            value = apply[name](value, int(operand))
        return str(value)
    if family == "variables":
        values = {}
        for label, _, first, *rest in words:
            values[label] = apply[rest[0]](values[first], values[rest[1]]) if rest else int(first)
        return str(values[re.search(r"Find (\w)", lines[0])[1]])
    if family == "sum":
        first, second = (int("".join(word[place] for word in words)[::-1]) for place in (1, 2))
        return str(first + second).zfill(len(words) + 1)[::-1]
    if family == "walk":
        here, steps = re.search(r"from (\w) for (\d+) steps", lines[0]).groups()
        arrows = dict(words)
        for _ in range(int(steps)):
            here = arrows[here]
        return here
    wanted = re.search(r"digit (\d)", lines[0])[1]
    return str(sum(word[1] == wanted for word in words))


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_right(family):
    rng = random.Random(0)
    for difficulty in range(1, 11):
        for _ in range(20):
            task = make_task(family, difficulty, rng)
            assert solve(family, task.problem.question) == task.problem.answer
            assert task.problem.difficulty == difficulty


@pytest.mark.parametrize("family", FAMILIES)
def test_harder_problems_take_more_steps(family):
    steps = [len(make_task(family, difficulty, random.Random(1)).steps) for difficulty in (1, 4, 7, 10)]
    assert steps == sorted(set(steps))


@pytest.mark.slow
def test_splits_share_no_question():
    questions = {s: {t.problem.question for t in islice(tasks(s, 0), 2000)} for s in ("train", "dev", "test")}
    assert all(len(found) == 2000 for found in questions.values())
    assert not questions["train"] & questions["test"]
    assert not questions["train"] & questions["dev"]
    assert not questions["dev"] & questions["test"]


def test_slips_are_corrected_and_not_learnt():
    task = make_task("chain", 10, random.Random(0))
    pieces = write_solution(task, random.Random(0), check_rate=0.0, slip_rate=1.0)
    learnt = "".join(text for text, learn in pieces if learn)
    slips = [text for text, learn in pieces if not learn]
    assert slips == [step.mistake for step in task.steps]
    assert all(step.mistake != step.result for step in task.steps)
    assert all(f"Wait, {step.given}{step.result}\n" in learnt for step in task.steps)
    plain = "".join(text for text, _ in write_solution(task, random.Random(0), 0.0, 0.0))
    assert "Wait" not in plain
    assert plain.endswith(f"</think>\nThe answer is \\boxed{{{task.problem.answer}}}.")


@pytest.mark.slow
def test_general_text_is_split_by_document():
    train, test = documents("train"), documents("test")
    assert not set(train) & set(test)
    assert len(train) > 10 * len(test) > 1000
    assert documents("train") == train
