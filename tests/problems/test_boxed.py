import pytest

from optimum_ssgr.problems.boxed import last_boxed


@pytest.mark.parametrize(
    "text, expected",
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{ x_{1} + \{y\} }", r"x_{1} + \{y\}"),
        (r"\boxed{1}, \boxed{2} and \boxed{3}", "1, 2, 3"),  # one answer in one sentence
        (r"$x=\boxed{1}$ or $x=\boxed{2}$", "1, 2"),
        (r"\boxed{1}, so \boxed{1}", "1"),
        (r"\boxed{2} and \boxed{2}", "2"),
        (r"\boxed{1}. Also \boxed{2}", "2"),
        (r"\boxed{\frac42} = \boxed{2}", "2"),
        (r"\boxed{1} and \boxed{2", None),  # the last one is never closed
        (r"\boxed 2", "2"),
        (r"\boxed {2}", "2"),
        (r"\boxed12", "12"),
        (r"\boxed\pi", r"\pi"),
        (r"$\boxed x$ is it", "x"),
        (r"\fbox{2}", "2"),
        (r"\\boxed{2}", "2"),  # escaped twice
        (r"a \\ \boxed{2}", "2"),
        (r"\boxed{2} in \boxed{}", "2"),
        (r"\boxed{2} as a \boxed answer", "2"),
        (r"\boxed{\left\{1\right.}", r"\left\{1\right."),
        (r"\boxed{}", ""),
        (r"\boxed{a \boxed{1} b}", "1"),
        (r"\boxed{2 \boxed{1}", "1"),  # the last one is closed
        (r"} \boxed{1} {", "1"),
        (r"\boxed{1} \boxed{2} { \boxed{", None),
        ("42", None),
        (r"\boxed{", None),
        ("", None),
    ],
)
def test_last_boxed(text, expected):
    assert last_boxed(text) == expected
