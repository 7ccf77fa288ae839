import pytest

from optimum_ssgr.problems.boxed import last_boxed


@pytest.mark.parametrize(
    "text, expected",
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{ x_{1} + \{y\} }", r"x_{1} + \{y\}"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{}", ""),
        (r"\boxed{a \boxed{1} b}", "1"),
        (r"\boxed{2 \boxed{1}", "1"),
        (r"} \boxed{1} {", "1"),
        (r"\boxed{1} \boxed{2} { \boxed{", "2"),
        ("42", None),
        (r"\boxed{", None),
        ("", None),
    ],
)
def test_last_boxed(text, expected):
    assert last_boxed(text) == expected
