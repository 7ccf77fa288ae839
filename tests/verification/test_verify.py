from functools import partial

import pytest

from optimum_ssgr.records import Problem, Rollout
from optimum_ssgr.verification import verify
from optimum_ssgr.verification.verify import grade, grade_all


class Words:
    """Stands for a tokenizer whose ids are words."""

    words = ("q<think>", "x", "</think>", r"\boxed{7}", r"\boxed{8}")

    def get_vocab(self):
        return {word: index for index, word in enumerate(self.words)}

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

    def get_vocab(self):
        return {}

    def decode(self, ids, skip_special_tokens):
        return "".join(self.texts[index] for index in ids)


def graded(problem, *answers, finished=True):
    rollouts = [Rollout(problem.id, sample, (), (sample,), finished) for sample in range(len(answers))]
    return [item.verdict for item in grade_all({problem.id: problem}, rollouts, Texts(answers))]


@pytest.mark.slow
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


@pytest.mark.slow
def test_what_cannot_be_compared_is_counted_apart_and_told_once(monkeypatch):
    told = []
    monkeypatch.setattr(verify.logger, "warning", told.append)
    monkeypatch.setattr(verify, "compare_all", partial(verify.compare_all, seconds=1))
    problem = Problem("p", "q", "x+5")
    verdicts = graded(problem, *[r"\boxed{9^{9^{9^9}}}"] * 3, r"\boxed{5+x}", r"\boxed{x+5}", r"\boxed{8^{9^{9^9}}}")
    assert [verdict.correct for verdict in verdicts] == [False, False, False, True, True, False]
    assert [verdict.timed_out for verdict in verdicts] == [True, True, True, False, False, True]
    assert len(told) == 1
    assert told[0].startswith("2 of 4 different answers")
    assert not any(verdict.timed_out for verdict in graded(problem, r"\boxed{9^{9^{9^9}}}", finished=False))


def test_what_took_too_long_among_others_is_tried_again_alone(monkeypatch):
    passes = []

    def compare(pairs, processes):
        passes.append((processes, list(pairs)))
        yield from [None if processes is None and pair == ("2x", "x+x") else pair == ("2x", "x+x") for pair in pairs]

    monkeypatch.setattr(verify, "compare_all", compare)
    verdicts = graded(Problem("p", "q", "x+x"), r"\boxed{2x}", r"\boxed{3x}")
    assert passes == [(None, [("2x", "x+x"), ("3x", "x+x")]), (1, [("2x", "x+x")])]
    assert [(verdict.correct, verdict.timed_out) for verdict in verdicts] == [(True, False), (False, False)]


@pytest.mark.parametrize(("silent", "is_told"), [(5, False), (6, True)])
def test_many_responses_without_an_answer_are_told_with_the_remedy(monkeypatch, silent, is_told):
    told = []
    monkeypatch.setattr(verify.logger, "warning", told.append)
    problem = Problem("p", "q", "7")
    texts = [r"so it is \boxed{7}"] * (100 - silent) + ["I do not know, it may be many things."] * silent
    cut = [Rollout("p", 1000 + sample, (), (0,), False) for sample in range(50)]  # says nothing, being unfinished
    rollouts = [Rollout("p", sample, (), (sample,), True) for sample in range(100)] + cut
    verify.warn_of_unreadable(grade_all({"p": problem}, rollouts, Texts(texts)), "org/model")
    assert len(told) == is_told
    if is_told:
        assert told[0].startswith("6 of 100 finished responses of org/model state no answer")
        assert "--instruction" in told[0]


def test_nothing_finished_is_nothing_to_tell(monkeypatch):
    monkeypatch.setattr(verify.logger, "warning", pytest.fail)
    verify.warn_of_unreadable([], "org/model")
    rollout = Rollout("p", 0, (), (0,), False)
    verify.warn_of_unreadable(grade_all({"p": Problem("p", "q", "7")}, [rollout], Texts(["no"])), "org/model")
