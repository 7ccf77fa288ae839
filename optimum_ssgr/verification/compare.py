r"""Are two final answers equal?

Most pairs are decided by their text or as decimal numbers. The others are read as LaTeX and compared by math-verify, which may
take any amount of time and memory on hostile text; `workers.py` holds it in bounds.
"""

import re
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from itertools import accumulate
from typing import Any


MAX_LENGTH = 1000  # characters; final answers are far shorter, and longer ones are compared as text only
MAX_NESTING = 40  # brackets within brackets; the time to parse them grows fast, so deeper ones are compared as text only
DECIMAL_TOLERANCE = 5e-6  # relative; a decimal may stand for a number that it is when rounded to six significant digits

_NUMBER = re.compile(r"[-+]?(?:[1-9]\d{0,2}(?:[, ]\d{3})+|\d*)(?:\.\d*)?(?:[eE][-+]?\d{1,4})?")
_LETTER = re.compile(r"[\s*]*\(?([A-J])(?:[).:*](?!\d).*)?", re.DOTALL | re.IGNORECASE)
_LETTERS = re.compile(r"[^\W\d_](?:[^\W\d_]|['-])*")
_IN_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\s*\{([^{}]*)\}")
_IMAGINARY = re.compile(r"(?<![a-zA-Z\\])i(?![a-zA-Z])")
_UNIT = re.compile(
    r"(?<=[\d})!])\s*(?:"
    r"\\?%|°|\^\s*\{?\s*\\circ\s*\}?|\\degree"
    r"|\\(?:text|mathrm|mbox)\s*\{[^{}]+\}(?:\^\{?\d\}?)?"
    r"|(?<=\s)(?:[a-z]{3,}(?: [a-z]{3,})*|cm|mm|km|kg|ft)(?:\^\{?\d\}?)?"
    r")$"
)


def is_equal(answer: str, expected: str, kind: str = "math") -> bool:
    """Compare two final answers.

    In mathematics, a unit or a percent sign that only one of the two has does not matter, nor does a variable that only one of
    them sets equal to its value, and a decimal may be rounded to six significant digits.

    Args:
        answer: What the model answered.
        expected: The problem's answer.
        kind: `Problem.answer_kind`.
    """
    verdict = compare_quickly(answer, expected, kind)
    return compare_mathematics(answer, expected) if verdict is None else verdict


def compare_quickly(answer: str, expected: str, kind: str = "math") -> bool | None:
    """Compare two final answers by what can be seen at once; None when it takes mathematics.

    Args:
        answer: What the model answered.
        expected: The problem's answer.
        kind: `Problem.answer_kind`.
    """
    if _squeeze(answer) == _squeeze(expected):
        return bool(answer.strip())
    if kind == "exact":
        return False
    if kind == "choice":
        letter = _choice(answer)
        return letter is not None and letter == _choice(expected)
    if max(len(answer), len(expected)) > MAX_LENGTH:
        return False
    answer, expected = _tidy(answer), _tidy(expected)
    if not answer or not expected:
        return False
    for ours, theirs in _without_lone_unit(answer, expected):
        if _squeeze(ours) == _squeeze(theirs) or (_number(ours) is not None and _number(ours) == _number(theirs)):
            return True
    if _number(answer) is not None and _number(expected) is not None:
        return False
    if _words(answer) and _words(expected):
        return _is_same_word(answer, expected)
    if (_is_set(answer) and _is_tuple(expected)) or (_is_tuple(answer) and _is_set(expected)):
        return False  # math-verify takes {1, 2} for the pair or the interval (1, 2)
    return False if max(_nesting(answer), _nesting(expected)) > MAX_NESTING else None


def compare_mathematics(answer: str, expected: str) -> bool:
    """Compare two final answers by math-verify; may take any amount of time and memory.

    Args:
        answer: What the model answered.
        expected: The problem's answer.
    """
    try:
        return any(_is_same(*pair) for pair in _without_lone_unit(_tidy(answer), _tidy(expected)))
    except Exception:  # parsers and solvers raise many kinds on text that is not mathematics; such text equals nothing
        return False


def _squeeze(text: str) -> str:
    return "".join(text.split())


def _tidy(text: str) -> str:
    """Remove what only changes the looks: dollar signs, thin spaces, sizes of brackets, a full stop."""
    text = text.replace("\\$", "").replace("$", "").replace("{,}", ",").replace("\\!", "").replace("\N{MINUS SIGN}", "-")
    text = re.sub(r"(?<=\d)\\,(?=\d{3})", "", text)
    text = re.sub(r"\\[,;:]|\\(?=\s)|~", " ", text)
    text = re.sub(r"\\(?:left|right)(?![a-zA-Z])", "", text)
    return " ".join(text.split()).removesuffix(".").strip()


def _number(text: str) -> Decimal | None:
    try:
        return Decimal(text.replace(",", "").replace(" ", "")) if _NUMBER.fullmatch(text) else None
    except InvalidOperation:  # a sign or a point alone
        return None


def _choice(text: str) -> str | None:
    letter = _LETTER.fullmatch(_IN_TEXT.sub(r"\1", text).strip())
    return letter[1].upper() if letter else None


def _words(text: str) -> str | None:
    """Return the letters of a text of letters only, whether or not it is set as text."""
    inner = _IN_TEXT.fullmatch(text)
    words = _squeeze(inner[1] if inner else text)
    return words if _LETTERS.fullmatch(words) else None


def _is_same_word(answer: str, expected: str) -> bool:
    """Compare words by their letters' order and products of variables, such as xy, by their letters' case."""
    ours, theirs = _words(answer) or "", _words(expected) or ""
    if max(len(ours), len(theirs)) >= 4 or _IN_TEXT.fullmatch(answer) or _IN_TEXT.fullmatch(expected):
        return ours.casefold() == theirs.casefold()
    return sorted(ours) == sorted(theirs)


def _is_set(text: str) -> bool:
    return text.startswith("\\{") and text.endswith("\\}")


def _is_tuple(text: str) -> bool:
    return text[0] in "([" and text[-1] in ")]"


def _nesting(text: str) -> int:
    return max(accumulate((character in "([{") - (character in ")]}") for character in text))


def _without_lone_unit(answer: str, expected: str) -> list[tuple[str, str]]:
    """The pair as it is and, when only one of the two has a unit, the pair without it."""
    bare = _UNIT.sub("", answer), _UNIT.sub("", expected)
    lone = (bare[0] == answer) != (bare[1] == expected)
    return [(answer, expected), bare] if lone else [(answer, expected)]


def _is_same(answer: str, expected: str) -> bool:
    from math_verify import verify
    from sympy.core.random import seed

    seed(0)  # sympy tries numbers at random; the same pair must always get the same verdict
    ours, theirs = _parse(answer), _parse(expected)
    same = verify(theirs, ours, allow_set_relation_comp=True, timeout_seconds=None)
    return same and _is_near(ours[0], theirs[0])


@lru_cache(maxsize=256)  # many samples answer the same problem
def _parse(text: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    config = LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)
    # Units are dealt with above: math-verify would take the t of 2t for one.
    config = replace(config, normalization_config=replace(config.normalization_config, units=False, boxed="last"))
    if "_" not in text:  # where it is no index, i is the imaginary unit, which is written I here
        text = _IMAGINARY.sub("I", text)
    return parse(f"\\boxed{{{text}}}", [config], parsing_timeout=None)


def _is_near(answer: Any, expected: Any) -> bool:
    """Hold decimals to a relative tolerance: math-verify rounds both to six places, so all tiny numbers are equal there."""
    from sympy import Expr, Float

    if not all(isinstance(value, Expr) for value in (answer, expected)) or not (answer.has(Float) or expected.has(Float)):
        return True
    ours, theirs = answer.doit().evalf(), expected.doit().evalf()
    if not (ours.is_number and theirs.is_number):
        return True
    return bool(abs(ours - theirs) <= DECIMAL_TOLERANCE * max(abs(ours), abs(theirs)))
