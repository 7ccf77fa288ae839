import pytest

from optimum_ssgr.records import Problem, Rollout
from optimum_ssgr.verification import verify
from optimum_ssgr.verification.verify import grade, grade_all


class Words:
    """Stands for a tokenizer whose ids are words."""

    words = ("q<think>", "x", "</think>", r"\boxed{7}", r"\boxed{8}")

    def decode(self, ids, skip_special_tokens):
        assert skip_special_tokens is False
        return " ".join(self.words[index] for index in ids)


@pytest.mark.parametrize(
    "response, finished, correct, answer",
    [
        ((1, 2, 3), True, True, "7"),
        ((1, 2, 4), True, False, "8"),
        ((1, 2, 3), False, False, "7"),  # truncated is never right
        ((1, 3), True, False, None),  # never stopped thinking
        ((3, 2), True, False, None),  # answered while thinking only
    ],
)
def test_verdict(response, finished, correct, answer):
    verdict = grade(Problem("p", "q", "7"), Rollout("p", 0, (0,), response, finished), Words()).verdict
    assert (verdict.correct, verdict.answer) == (correct, answer)
    assert verdict.thought == (2 in response)


class Texts:
    """Stands for a tokenizer whose ids are whole texts."""

    def __init__(self, texts):
        self.texts = texts

    def decode(self, ids, skip_special_tokens):
        return "".join(self.texts[index] for index in ids)


def graded(problem, *answers, finished=True):
    rollouts = [Rollout(problem.id, sample, (), (sample,), finished) for sample in range(len(answers))]
    return [item.verdict for item in grade_all({problem.id: problem}, rollouts, Texts(answers))]


def test_mathematics_counts():
    problem = Problem("p", "q", r"\frac{1}{2}")
    verdicts = graded(problem, r"\boxed{0.5}", r"\boxed{\sin\frac{\pi}{6}}", r"\boxed{\frac{1}{3}}", r"\frac12", r"\boxed{0.5")
    assert [verdict.correct for verdict in verdicts] == [True, True, False, True, False]
    assert not graded(problem, r"\boxed{\frac{2}{4}}", finished=False)[0].correct


def test_a_response_that_is_nothing_but_an_answer_is_one():
    problem = Problem("p", "q", "42")
    verdicts = graded(problem, "<think>a</think>\n\n**42**<|im_end|>", "42</s>", "It is 42.", "print(42)")
    assert [(verdict.answer, verdict.correct) for verdict in verdicts] == [
        ("42", True),
        ("42", True),
        (None, False),
        (None, False),
    ]


def test_choices_may_be_stated_without_a_box():
    verdicts = graded(
        Problem("p", "q", "B", answer_kind="choice"), "<think>A</think>The answer is B.", "**C**", r"\boxed{\text{(B)}}"
    )
    assert [(verdict.answer, verdict.correct) for verdict in verdicts] == [("B", True), ("C", False), ("B", True)]


def test_exact_answers_are_no_numbers():
    verdicts = graded(Problem("p", "q", "07", answer_kind="exact"), r"\boxed{0 7}", r"\boxed{7}")
    assert [verdict.correct for verdict in verdicts] == [True, False]


def test_rollouts_are_ordered_by_problem_and_sample():
    problems = {name: Problem(name, "q", answer) for name, answer in (("a", "1"), ("b", "2"))}
    rollouts = [Rollout(name, sample, (), (sample,), True) for sample in (1, 0) for name in ("b", "a")]
    graded = grade_all(problems, rollouts, Texts([r"\boxed{1}", r"\boxed{2}"]))
    assert [(item.problem.id, item.rollout.sample, item.verdict.correct) for item in graded] == [
        ("a", 0, True),
        ("a", 1, False),
        ("b", 0, False),
        ("b", 1, True),
    ]


def test_what_cannot_be_compared_is_wrong_and_told_once(monkeypatch):
    told = []
    monkeypatch.setattr(verify.logger, "warning", told.append)
    problem = Problem("p", "q", "x+5")
    verdicts = graded(problem, *[r"\boxed{9^{9^{9^9}}}"] * 3, r"\boxed{5+x}", r"\boxed{x+5}", r"\boxed{8^{9^{9^9}}}")
    assert [verdict.correct for verdict in verdicts] == [False, False, False, True, True, False]
    assert len(told) == 1
    assert told[0].startswith("2 of 4 different answers")
