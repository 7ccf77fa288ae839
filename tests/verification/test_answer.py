import pytest

from optimum_ssgr.records import Problem, Rollout
from optimum_ssgr.verification.answer import split_thinking
from optimum_ssgr.verification.verify import grade, is_equal


@pytest.mark.parametrize(
    "prompt, response, expected",
    [
        ("q<think>\n", r"a\boxed{1}</think>b", ("b", True)),
        ("q<think>\n", r"a\boxed{1}", (None, False)),  # opened by the template, never closed
        ("q", r"<think>a\boxed{1}", (None, False)),
        ("q", r"<think>a</think>b", ("b", True)),
        ("q", r"\boxed{1}", (r"\boxed{1}", False)),  # a model that does not think
        ("<think>old</think>q", r"\boxed{1}", (r"\boxed{1}", False)),
        ("q<think>\n", "a</think>b</think>c", ("c", True)),
    ],
)
def test_only_what_follows_the_thinking_counts(prompt, response, expected):
    assert split_thinking(prompt, response) == expected


@pytest.mark.parametrize(
    "answer, expected, equal",
    [
        ("42", "42", True),
        ("42.0", "42", True),
        ("1,234", "1234", True),
        ("$5", "5", True),
        (r"\frac{1}{2}", r"\frac {1}{2}", True),
        ("x + 1", "x+1", True),
        ("NaN", "nan", False),
        ("inf", "Infinity", False),
        ("43", "42", False),
        ("", "42", False),
        ("a", "b", False),
        ("1e400000000", "1", False),
    ],
)
def test_equality(answer, expected, equal):
    assert is_equal(answer, expected) is equal


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
