import pytest

from optimum_ssgr.thinking import split_thinking
from optimum_ssgr.verification.answer import find_answer


@pytest.mark.parametrize(
    "prompt, response, expected",
    [
        ("q<think>\n", r"a\boxed{1}</think>b", ("b", True)),
        ("q<think>\n", r"a\boxed{1}", (None, False)),  # opened by the template, never closed
        ("q", r"<think>a\boxed{1}", (None, False)),
        ("q", r"<think>a</think>b", ("b", True)),
        ("q", r"\boxed{1}", (r"\boxed{1}", None)),  # a model that does not think
        ("<think>old</think>q", r"\boxed{1}", (r"\boxed{1}", None)),
        ("what does <think> mean?", r"\boxed{1}", (r"\boxed{1}", None)),
        ("q<think>\n", "a</think>b</think>c", ("c", True)),
    ],
)
def test_only_what_follows_the_thinking_counts(prompt, response, expected):
    assert split_thinking(prompt, response) == expected


@pytest.mark.parametrize(
    "text, kind, expected",
    [
        (r"\boxed{B}", "choice", "B"),
        (r"**A**, no, \boxed{B}", "choice", "B"),
        (r"\boxed{B} **A**", "choice", "B"),
        ("The answer is B.", "choice", "B"),
        ("The answer is (C)", "choice", "C"),
        ("The answer is **D**, as shown", "choice", "D"),
        ("Answer: B\nbecause it is red", "choice", "B"),
        ("**B**", "choice", "B"),
        ("**(B).**", "choice", "B"),
        ("The answer is A. No, the answer is B.", "choice", "B"),
        ("The answer is a number", "choice", None),
        ("The answer is A number", "choice", None),
        ("The answer is K.", "choice", None),
        ("B", "choice", "B"),
        ("**B**", "math", "B"),  # nothing but an answer
        ("The answer is 5.", "math", "5"),
        (r"\boxed{5}", "exact", "5"),
    ],
)
def test_letters_may_be_stated_without_a_box(text, kind, expected):
    assert find_answer(text, kind) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("2 + 3 = 5\n\nSo, the final answer is 5.", "5"),
        ("**Final Answer:** 1,234", "1,234"),
        ("The answer to the problem is: $\\frac{1}{2}$.", "$\\frac{1}{2}$"),
        ("The answer is 12 apples.", "12 apples"),
        ("The result of 2 * 1 is 2.", "2"),
        ("The answer is 3, no, the answer is 4.", "4"),
        ("Answer = -7", "-7"),
        ("The answer is 5.\nLet me check that again.", None),  # not what it ends with
        ("The answer is indeed 4.", None),  # prose
        ("The answer is not 4, since it is odd.", None),
        ("I found the answer, which is hard.", None),
        ("There are 1 chicken in total.", None),
        (r"The answer is \boxed{6}, so 5 is wrong. The answer is 7.", "6"),  # a box counts first
        (r"The answer is 7. \boxed{", None),  # a box that never closes is no answer
    ],
)
def test_what_the_last_line_states_is_an_answer_where_there_is_no_box(text, expected):
    found = find_answer(text, "math")
    assert (found and found.strip("$")) == (expected and expected.strip("$"))


@pytest.mark.parametrize(
    "text, expected",
    [
        (r"\boxed{E} Answer: D. B is correct. <answer>C</answer>", "C"),  # what is marked as the answer, alone
        (r"A is correct. **B** Answer: D \boxed{C}", "C"),  # a box with a letter
        (r"Answer: D. A is correct. **B** \boxed{5}", "D"),  # a statement that names the answer; the box holds mathematics
        ("Answer: D. No, the answer is C. A is correct.", "C"),  # the last of them
        ("B is correct.\n\n**A**", "B"),  # a statement about a letter
        ("A) red\nB) blue\n\n**B**", "B"),  # a last line that is a letter
        ("It is **B) blue**, as A is red.", "B"),  # the only letter in bold
        ("**A)** red **B)** blue", None),  # the list of the options
        (r"**A)** red **B)** blue \boxed{5}", "5"),  # no letter: what the box holds, which is wrong
    ],
)
def test_the_first_in_the_written_order_of_precedence_counts(text, expected):
    assert find_answer(text, "choice") == expected


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 300_000,
        "{" * 1_000_000,
        "**A " * 300_000,
        "answer is " * 100_000,
        "answer to " * 100_000 + "is",
        " " * 1_000_000,
        "answer" + " " * 300_000,
    ],
)
def test_megabytes_are_read_in_linear_time(text):
    assert find_answer(text, "choice") is None
    assert find_answer(text + r"\boxed{5}", "math") == "5"
