"""A thousand generated answers: none may crash the comparison, hang it, or differ from itself."""

import random
import string

import pytest

from optimum_ssgr.verification.answer import find_answer
from optimum_ssgr.verification.compare import compare_quickly
from optimum_ssgr.verification.workers import compare_all


COUNT = 1000


def words(text):
    return text.split()


ANSWERS = words(r"""
    42  -7  1,234  0.125  50\%  \frac{1}{2}  -\frac{3}{4}  2\sqrt{3}  \frac{\sqrt{3}}{2}  \pi  x+1  x^2-1  (1,2)  [0,1)
    \{1,2,3\}  (-\infty,3]  x=5  y=2x+1  45^\circ  5\text{~cm}  \text{even}  3+4i  \begin{pmatrix}1&2\\3&4\end{pmatrix}
    2^{10}  \binom{5}{2}  \log_2{8}  e^{2}  \sin{x}  x>3  1,2  B
""")
LATEX = words(r"""
    \frac \sqrt \left \right \text{ \boxed{ \begin{pmatrix} \end{pmatrix} \\ \infty \cup \int \sum_{n=1}^{9} \lim_{x\to0} \pm
    \cdot \le \in \{ \} ^{ _{ </think> 1e9 \! \% \mathbb{R} \overline{ !! 9^{9^{9^9}}
""")
PIECES = [*string.ascii_letters, *string.digits, *string.punctuation, " ", *LATEX]
FORMS = words(r"""
    %s+%s  %s-%s  %s\cdot%s  \frac{%s}{%s}  {%s}^{%s}  \sqrt[%s]{%s}  (%s,%s)  [%s,%s)  \{%s,%s\}  %s=%s  %s<%s  \log_{%s}(%s)
    |%s|+|%s|  \sin(%s)\cos(%s)  \binom{%s}{%s}  \begin{pmatrix}%s&%s\end{pmatrix}  \int_0^{%s}%sdx  (%s)!+%s
""")
ATOMS = words(r"x y n \pi e i 0 1 2 12 0.25 \infty")


def mutated(rng, text):
    """The right answer with up to three pieces put in, taken out or doubled."""
    for _ in range(rng.randint(1, 3)):
        start = rng.randint(0, len(text))
        end = start + rng.randint(0, 2)
        middle = rng.choice((rng.choice(PIECES), "", text[start:end] * 2))
        text = text[:start] + middle + text[end:]
    return text


def expression(rng, _, depth=2):
    """Well-formed LaTeX."""
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(ATOMS)
    return rng.choice(FORMS) % (expression(rng, _, depth - 1), expression(rng, _, depth - 1))


def noise(rng, _):
    """Pieces of LaTeX, bytes or characters of any kind, in any order."""
    length = rng.choice((1, 3, 10, 30))
    kind = rng.randrange(3)
    if kind == 0:
        return "".join(rng.choices(PIECES, k=length))
    if kind == 1:
        return rng.randbytes(length).decode("latin-1")
    return "".join(chr(rng.randrange(0x110000)) for _ in range(length))  # lone surrogates included


@pytest.mark.slow
def test_generated_answers_are_compared_within_bounds():
    rng = random.Random(0)
    makers = rng.choices((mutated, expression, noise), weights=(25, 5, 70), k=COUNT)
    pairs = [(maker(rng, expected), expected) for maker, expected in zip(makers, rng.choices(ANSWERS, k=COUNT), strict=True)]
    hard = []
    for answer, expected in pairs:
        find_answer(f"\\boxed{{{answer}}} {answer}", "choice")
        for kind in ("exact", "choice"):
            assert isinstance(compare_quickly(answer, expected, kind), bool)
        assert compare_quickly(answer, answer) is bool(answer.strip())
        verdict = compare_quickly(answer, expected)
        assert verdict in (True, False, None)
        assert compare_quickly(expected, answer) is verdict
        if verdict is None:
            hard.append((answer, expected))
    assert len(hard) > COUNT / 2  # most of them do reach the parser
    verdicts = list(compare_all(hard, seconds=1))
    assert len(verdicts) == len(hard)
    assert set(verdicts) <= {True, False, None}
    assert 0 < verdicts.count(True) < COUNT / 10  # only mutations that change the looks alone are right
    assert verdicts.count(None) < COUNT / 50
