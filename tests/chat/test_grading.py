import pytest

from optimum_ssgr.chat.answers import Answer
from optimum_ssgr.chat.grading import grade
from optimum_ssgr.records import Problem


HALF = Problem("p", "?", "\\frac{1}{2}")


@pytest.mark.parametrize(
    ("text", "finish", "correct"),
    [
        ("<think>\n1/3</think>\\boxed{0.5}", "stop", True),
        ("<think>\n\\boxed{0.5}</think>\\boxed{0.4}", "stop", False),
        ("<think>\n\\boxed{0.5}", "length", False),  # never got out of its thinking
        ("<think>\n</think>\\boxed{0.5} and", "length", False),  # truncated
        ("<think>\n</think>no box", "stop", False),
        ("\\boxed{0.5}", "stop", True),
        ("\\boxed{0.5}", "stopped", None),
        ("\\boxed{0.5}", "time", None),
        ("\\boxed{0.5}", "error", None),
    ],
)
def test_verdicts(text, finish, correct):
    assert grade([Answer(text, finish=finish)], HALF)[0].correct is correct


def test_without_a_known_answer_there_is_no_verdict():
    assert grade([Answer("\\boxed{1}", finish="stop")], None)[0].correct is None


@pytest.mark.slow
def test_mathematics_decides_what_text_cannot():
    square = Problem("p", "?", "x^2+2x+1")
    verdicts = grade([Answer(f"\\boxed{{{found}}}", finish="stop") for found in ("(x+1)^2", "x^2+1")], square)
    assert [answer.correct for answer in verdicts] == [True, False]


@pytest.mark.slow
def test_what_cannot_be_compared_in_time_gets_no_verdict():
    (answer,) = grade([Answer("\\boxed{9^{9^{9^9}}}", finish="stop")], Problem("p", "?", "x+5"))
    assert answer.correct is None


@pytest.mark.parametrize(
    ("text", "thinks", "thinking", "final"),
    [
        ("", False, "", ""),
        ("<thi", False, "", ""),
        ("<think>\nHm </thin", True, "Hm", ""),
        ("<think>\nHm</think>\nSo 4", False, "Hm", "So 4"),
        ("Hm</think>So 4", False, "Hm", "So 4"),
        ("So 4", False, "", "So 4"),
        ("[THI", False, "", ""),
        ("[THINK]Hm[/THI", True, "Hm", ""),
        ("[THINK]Hm[/THINK]So 4", False, "Hm", "So 4"),
        ("<|channel|>analysis<|message|>Hm<|end|><|start|>assi", True, "Hm", ""),
        ("<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>So 4", False, "Hm", "So 4"),
        ("Here is my response: there is none, so 4", False, "", "Here is my response: there is none, so 4"),
    ],
)
def test_thinking_is_told_from_the_answer(text, thinks, thinking, final):
    answer = Answer(text)
    assert (answer.thinks, answer.thinking, answer.final) == (thinks, thinking, final)


def test_speed_counts_tokens_after_the_first():
    assert Answer("x", 11, first_token_seconds=1.0, seconds=3.0).tokens_per_second == 5.0
    assert Answer("x", 1, first_token_seconds=1.0, seconds=3.0).tokens_per_second is None
