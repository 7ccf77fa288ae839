"""Pairs of answers, decided by mathematics and the conventions that `is_equal` states."""

import pytest

from optimum_ssgr.verification.compare import MAX_LENGTH, compare_quickly, is_equal


EQUAL = r"""
42 == 42.0
1,234 == 1234
1 234 == 1234
1{,}234{,}567 == 1234567
10\,000 == 10000
\$5 == 5
.5 == 0.5
\frac{1}{2} == 0.5
\frac12 == 1/2
\dfrac{3}{4} == \frac{3}{4}
\tfrac{6}{8} == \frac34
-\frac{1}{2} == \frac{-1}{2}
1\frac{1}{2} == \frac{3}{2}
0.125 == \frac18
0.333333 == \frac13
\frac{22}{7} == 3.142857
50\% == 0.5
50\% == 50
12.5\% == 12.5
50\% == \frac12
0.5\% == 0.005
25 percent == 25\%
5\text{ cm} == 5
5 == 5\text{ cm}^2
5 \mathrm{~km} == 5
12 apples == 12
18 dollars == \$18
45^\circ == 45
45^{\circ} == 45
\frac{\pi}{2}\text{ cm} == \frac{\pi}{2}
90° == 90
3\sqrt2\text{ m} == 3\sqrt{2}
\{1,2\} == \{2,1\}
2,1 == 1,2
1, 2, 3 == \{3,2,1\}
1 \text{ and } 2 == 1,2
1 or 2 == 2,1
\pm 2 == 2,-2
\{\frac12\} == \{0.5\}
\emptyset == \{\}
[1,2) == [1, 2)
(-\infty, 3] == (-\infty,3]
\left[0,\frac12\right] == [0,0.5]
(0,1)\cup(2,3) == (2,3)\cup(0,1)
x\in[1,2] == [1,2]
1\le x\le 2 == [1,2]
x>3 == (3,\infty)
(1,2) == \left( 1, 2 \right)
(1,\frac12) == (1,0.5)
(1,2,3) == (1, 2, 3)
1,2 == (1,2)
\begin{pmatrix}1&2\\3&4\end{pmatrix} == \begin{bmatrix}1&2\\3&4\end{bmatrix}
\begin{pmatrix}1\\\frac12\end{pmatrix} == \begin{pmatrix}1\\0.5\end{pmatrix}
\sqrt{8} == 2\sqrt{2}
\frac{1}{\sqrt{2}} == \frac{\sqrt2}{2}
\sqrt{3+2\sqrt2} == 1+\sqrt2
\sqrt[3]{27} == 3
2^{10} == 1024
3\times 10^4 == 30000
10! == 3628800
\binom{5}{2} == 10
2+3 == 5
x=5 == 5
5 == x=5
x = 5 == x=5.0
x=1, x=2 == 1,2
y=2x+1 == y = 1 + 2x
2x+y=1 == y=1-2x
x+1 == 1+x
(x+1)^2 == x^2+2x+1
\frac{x^2-1}{x-1} == x+1
2\sin x\cos x == \sin(2x)
\ln(e^2) == 2
\log_2 8 == 3
e^{i\pi} == -1
3+4i == 4i+3
(1+i)^2 == 2i
\pi r^2 == r^2\pi
2\pi == 6.283185
2.71828 == e
\text{Yes} == yes
\text{even} == even
\textbf{Monday} == \text{Monday}
\text{no solution} == No solution
\infty == infinity
x<3 == 3>x
\frac{a}{b} == a/b
a^{-1} == \frac1a
|x| == \sqrt{x^2}
\lfloor 2.5\rfloor == 2
1.5e3 == 1500
\frac{3}{4}. == 0.75
$\frac{1}{2}$ == \frac12
2\cdot 3\cdot 7 == 42
100\text{ degrees} == 100
3:2 == 3:2
123_8 == 123_{8}
1011_2 == 1011_{2}
\text{A and B} == \text{A and B}
\cot x == \frac{\cos x}{\sin x}
\tan\frac{\pi}{4} == 1
\arcsin 1 == \frac{\pi}{2}
\left|-3\right| == 3
5\!000 == 5000
\frac{2}{3}\pi == \frac{2\pi}{3}
10^{-3} == 0.001
\sqrt{5}-1 == -1+\sqrt5
x^2 + y^2 = 4 == x^2+y^2-4=0
(a-b)(a+b) == a^2-b^2
f(x)=x+1 == x+1
n(n+1)/2 == \frac{n(n+1)}{2}
4:30 == 4:30
3:2 == \frac{3}{2}
2(x+3) == 2x+6
6 \text{ or } 7 == 7, 6
\left\{1, 2\right\} == \{1,2\}
\frac{\sqrt{3}}{3} == \frac{1}{\sqrt{3}}
"""

UNEQUAL = r"""
43 == 42
1,2 == 12
1_2 == 12
0,123 == 123
(1,234) == 1235
\frac12 == \frac13
0.33 == \frac13
0.3333 == \frac13
0.5 == 0.50001
1.0000001 == 1
10^{-7} == 0.0000002
10^{20} == 10^{20}+1
\frac{1}{10^{20}} == 0
99999.9 == 10^5
10^{100} == 10^{100}+1
(1,2) == \{1,2\}
(2,1) == (1,2)
\{1,2\} == \{1,2,3\}
\{1\} == 1,2
[1,2) == (1,2]
[1,2] == (1,2)
(1,2,3) == (1,2)
\begin{pmatrix}1&2\\3&4\end{pmatrix} == \begin{pmatrix}1&3\\2&4\end{pmatrix}
5\text{ cm} == 5\text{ m}
5\text{ cm} == 6
2t == 2
2m == 2
3c == 3
5\text{ cm} == 5\text{ cm}^2
50\% == 5
50\% == \frac14
45^\circ == 46
listen == silent
\text{listen} == \text{silent}
\text{no} == on
\text{odd} == \text{even}
yes == no
y=5 == x=5
x=5 == x=-5
x+1 == x-1
\sqrt{x^2} == x
\sqrt{2} == 1.41
\pi == 3.14
\pi == \frac{22}{7}
\infty == -\infty
x<3 == x\le 3
x<3 == x>3
3+4i == 3-4i
-5 == 5
\sqrt{-4} == 2
2^{3^2} == 64
NaN == nan
x == y
X == x
\text{A} == \text{B}
a == A
\frac{1}{0} == \frac{2}{0}
0/0 == 1
\infty-\infty == 0
garbage [5] == 5
5 or 6 == 5
5, 6 == 5
5 == 5,6
2 pi == 2
12 inches == 12 feet
3:2 == 2:3
x=5 or x=6 == x=5
\pm 2 == 2
(0,1) == 0
1.5 == 15
1000000007 == 1000000009
e == 2.7
\sin x == \cos x
x^2 == 2x
x^2 == x^3
\frac{1}{x} == x
\begin{pmatrix}1\\2\end{pmatrix} == \begin{pmatrix}1&2\end{pmatrix}
\text{Tuesday} == \text{Thursday}
10^{10} == 10^9
\frac{10^{30}+1}{10^{30}} == 1
. == 0
\text{} == 5
- == 5
5 \text{ or } 6  == 5
123456789012345678901 == 123456789012345678902
0.1234567 == 0.1234568
"""

# Equal in mathematics, or taken for equal by most people, but not recognised: right answers that count as wrong.
KNOWN_MISSES = r"""
7 \pmod{12} == 7
\begin{pmatrix}1&2\end{pmatrix} == (1,2)
45^\circ == \frac{\pi}{4}
200\text{ cm} == 2\text{ m}
5\text{ cm} == 5\text{ centimeters}
\ln 2 == log(2)
\ln(xy) == \ln x + \ln y
\text{no solution} == \emptyset
\text{two} == 2
abcd == dcba
"""

# Different, but taken for equal: wrong answers that count as right.
KNOWN_MISTAKES = r"""
1,2,2 == 1,2
123_8 == 123
3X == 3x
"""


def pairs(table):
    return [tuple(line.split(" == ")) for line in table.strip().splitlines()]


def test_the_tables_are_long_enough():
    assert len(pairs(EQUAL)) + len(pairs(UNEQUAL)) >= 200


@pytest.mark.parametrize("answer, expected", pairs(EQUAL))
def test_equal(answer, expected):
    assert is_equal(answer, expected)
    assert is_equal(expected, answer)


@pytest.mark.parametrize("answer, expected", pairs(UNEQUAL))
def test_unequal(answer, expected):
    assert not is_equal(answer, expected)
    assert not is_equal(expected, answer)


@pytest.mark.parametrize("answer, expected", pairs(KNOWN_MISSES))
def test_known_misses(answer, expected):
    assert not is_equal(answer, expected)


@pytest.mark.parametrize("answer, expected", pairs(KNOWN_MISTAKES))
def test_known_mistakes(answer, expected):
    assert is_equal(answer, expected)


@pytest.mark.parametrize("answer", ["", " ", ".", "$", "\\", "{", "}", "\\frac", "\x00", "\ud800"])
def test_what_is_no_answer_equals_nothing(answer):
    assert not is_equal(answer, "5")
    assert not is_equal("", answer)


@pytest.mark.parametrize(
    "answer, expected, equal",
    [
        ("B", "B", True),
        ("(B)", "B", True),
        ("B", "(B)", True),
        (r"\text{(B)}", "B", True),
        (r"\textbf{(B)}\ 12", "B", True),
        ("B.", "B", True),
        ("**B**", "B", True),
        ("B) 5 cm", "B", True),
        ("b", "B", True),
        ("C", "B", False),
        ("A and B", "B", False),
        ("AB", "B", False),
        ("B(2)", "B", False),
        ("B.5", "B", False),
        ("K", "B", False),
        ("12", "B", False),
        ("", "B", False),
    ],
)
def test_choices(answer, expected, equal):
    assert is_equal(answer, expected, "choice") is equal


@pytest.mark.parametrize(
    "answer, expected, equal",
    [("7", "7", True), (" 0 7 ", "07", True), ("07", "7", False), ("7.0", "7", False), ("", "", False)],
)
def test_exact(answer, expected, equal):
    assert is_equal(answer, expected, "exact") is equal


def test_what_is_too_long_or_too_deep_is_compared_as_text():
    long = "+".join("1" * MAX_LENGTH)
    deep = "(" * 100 + "1" + ")" * 100
    for text in (long, deep):
        assert compare_quickly(text, "500") is False
        assert compare_quickly(f" {text} ", text) is True


def test_a_minus_sign_is_a_hyphen():
    assert is_equal("\N{MINUS SIGN}7", "-7")


def test_numbers_and_words_need_no_mathematics():
    for answer, expected in [("1,234.50", "1234.5"), ("42", "43"), ("5 cm", "5"), (r"\text{Yes}", "yes"), ("left", "right")]:
        assert compare_quickly(answer, expected) is not None
