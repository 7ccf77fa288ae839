"""Are the known answers of the mathematical examples right? Each is worked out again."""

from fractions import Fraction
from itertools import product
from math import comb, factorial, gcd

import pytest

from optimum_ssgr.chat.compared_models import ComparedModel
from optimum_ssgr.chat.examples import LEVELS, choose_examples
from optimum_ssgr.verification.compare import is_equal


def zeros_of(number):
    digits = str(factorial(number))
    return len(digits) - len(digits.rstrip("0"))


WORKED_OUT = {
    "shirt": 40 * Fraction(85, 100),
    "greatest common divisor": gcd(84, 126),
    "Solve": next(x for x in range(100) if 3 * x - 7 == 2 * x + 5),
    "train": Fraction(180) / Fraction(5, 2),
    "positive divisors": sum(360 % d == 0 for d in range(1, 361)),
    "divisible by 7": sum(n for n in range(1, 201) if n % 7 == 0),
    "dice": Fraction(sum(a + b in (2, 3, 5, 7, 11) for a, b in product(range(1, 7), repeat=2)), 36),
    "remainder": pow(7, 100, 13),
    "dominoes": sum(comb(10 - pairs, pairs) for pairs in range(6)),
    "ordered pairs": sum(Fraction(1, a) + Fraction(1, b) == Fraction(1, 12) for a, b in product(range(1, 200), repeat=2)),
    "zeros": next(n for n in range(1, 1000) if zeros_of(n) == 100),
    "infty": (sum(Fraction(k, 3**k) for k in range(1, 60))).limit_denominator(100),
}


def test_known_answers_of_mathematics():
    problems = [problem for level in choose_examples([ComparedModel("org/model")]).values() for problem in level]
    assert len(problems) == len(WORKED_OUT)
    for problem in problems:
        value = next(value for words, value in WORKED_OUT.items() if words in problem.question)
        fraction = Fraction(value)
        assert is_equal(f"\\frac{{{fraction.numerator}}}{{{fraction.denominator}}}", problem.answer), problem.question


@pytest.mark.parametrize("level", LEVELS)
def test_the_reasoner_is_asked_held_out_tasks_of_the_level(level):
    from optimum_ssgr.reasoner.tasks import split_of

    problems = choose_examples([ComparedModel("tiny-reasoner")])
    assert all(split_of(problem.question) == "test" for problem in problems[level])
    means = [sum(problem.difficulty for problem in problems[name]) / len(problems[name]) for name in LEVELS]
    assert means == sorted(means)
