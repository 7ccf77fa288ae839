r"""Are two final answers equal?

Both are brought into one notation (`notation.py`). Most pairs are then decided by their text or as decimal numbers. The others
are read by math-verify and compared as expressions (`expressions.py`), which may take any amount of time and memory on hostile
text; `workers.py` holds it in bounds.
"""

import re
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
from typing import Any

from ..problems.procedural import is_right
from ..problems.sources import REASONING_GYM
from .decimals import is_same_decimal, read_decimal
from .letter import read_letter
from .notation import tidy


MAX_LENGTH = 1000  # characters; final answers are far shorter, and longer ones are compared as text only
MAX_NESTING = 40  # brackets within brackets; the time to parse them grows fast, so deeper ones are compared as text only

_LETTERS = re.compile(r"[^\W\d_](?:[^\W\d_]|['-])*")
_IN_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\s*\{([^{}]*)\}")
_IMAGINARY = re.compile(r"(?<![a-zA-Z\\])i(?![a-zA-Z])")
_TIME = re.compile(r"\d{1,2}:0\d")
_UNIT = re.compile(
    r"(?<=[\d})!])\s*(?:"
    r"\\?%|\^\s*\{?\s*\\circ\s*\}?|\\degree"
    r"|(?:\\(?:text|textrm|mathrm|mbox)\s*\{(?:[^{}]|\{[^{}]*\})+\}(?:\^\{?-?\d\}?)?(?:\s*(?:\\cdot|/)\s*|\s+)?)+(?<![\s/])"
    r"|(?<=\s)(?:[a-z]{3,}(?: [a-z]{3,})*|cm|mm|km|kg|ft|m/s|km/h|kJ|Hz|Pa|[JNWVCK](?![a-zA-Z]))(?:\^\{?-?\d\}?)?"
    r")$"
)
_SAME_UNITS = {"%": "percent", "circ": "degrees", "degree": "degrees"}


def is_equal(answer: str, expected: str, kind: str = "math") -> bool:
    """Compare two final answers.

    In mathematics, a unit or a percent sign that only one of the two has does not matter, nor does a variable that only one of
    them sets equal to its value, and a decimal of at least six significant digits may be rounded or cut. All else is exact.

    Args:
        answer: What the model answered.
        expected: The problem's answer.
        kind: `Problem.answer_kind`.
    """
    verdict = compare_quickly(answer, expected, kind)
    return compare_slowly(answer, expected, kind) if verdict is None else verdict


def compare_quickly(answer: str, expected: str, kind: str = "math") -> bool | None:
    """Compare two final answers by what can be seen at once; None when it takes mathematics or a generator's scorer.

    Args:
        answer: What the model answered.
        expected: The problem's answer.
        kind: `Problem.answer_kind`.
    """
    if answer.split() == expected.split():
        return bool(answer.strip())
    if kind == "exact":
        return _squeeze(answer) == _squeeze(expected)
    if is_scored(kind):
        return None
    if kind == "choice":
        letter = read_letter(answer)
        return letter is not None and letter == read_letter(expected)
    if max(len(answer), len(expected)) > MAX_LENGTH or max(_nesting(answer), _nesting(expected)) > MAX_NESTING:
        return False
    answer, expected = tidy(answer), tidy(expected)
    if not answer or not expected:
        return False
    for ours, theirs in _with_and_without_unit(answer, expected):
        if _squeeze_mathematics(ours) == _squeeze_mathematics(theirs) or is_same_decimal(ours, theirs):
            return True
    if is_same_decimal(answer, expected) is False:
        return False
    if _words(answer) and _words(expected):
        return _is_same_word(answer, expected)
    if (_is_set(answer) and _is_tuple(expected)) or (_is_tuple(answer) and _is_set(expected)):
        return False  # math-verify takes {1, 2} for the pair or the interval (1, 2)
    if _TIME.fullmatch(answer) or _TIME.fullmatch(expected):
        return False  # nor is 12:00 a ratio
    return False if max(_nesting(answer), _nesting(expected)) > MAX_NESTING else None


def is_scored(kind: str) -> bool:
    """Tell whether answers of a kind are compared by the scorer of the generator that made the problem."""
    return kind.startswith(f"{REASONING_GYM}:")


def compare_slowly(answer: str, expected: str, kind: str = "math") -> bool | None:
    """Compare two final answers by what may take any amount of time and memory.

    Args:
        answer: What the model answered.
        expected: The problem's answer.
        kind: `Problem.answer_kind`.

    Returns:
        None where a problem that is to be scored cannot be made again.
    """
    return is_right(answer, expected, kind) if is_scored(kind) else compare_mathematics(answer, expected)


def compare_mathematics(answer: str, expected: str) -> bool:
    """Compare two final answers by math-verify; may take any amount of time and memory.

    Args:
        answer: What the model answered.
        expected: The problem's answer.
    """
    try:
        return any(_is_same(*pair) for pair in _with_and_without_unit(tidy(answer), tidy(expected)))
    except Exception:  # parsers and solvers raise many kinds on text that is not mathematics; such text equals nothing
        return False


def _squeeze(text: str) -> str:
    return "".join(text.split())


def _squeeze_mathematics(text: str) -> str:
    """Remove white space that says nothing (1 2 is not 12), and what sets letters as text."""
    text = _IN_TEXT.sub(r"\1", text).removesuffix(".")
    return re.sub(r"\s+(?!\d)|(?<!\d)\s+", "", text)


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
    return text.startswith("\\{") and text.endswith("\\}") and 0 not in _depths(text)[1:-1]


def _is_tuple(text: str) -> bool:
    return text[0] in "([" and text[-1] in ")]" and 0 not in _depths(text)[:-1]


def _nesting(text: str) -> int:
    return max(_depths(text), default=0)


def _depths(text: str) -> list[int]:
    return list(accumulate((character in "([{") - (character in ")]}") for character in text))


def _with_and_without_unit(answer: str, expected: str) -> list[tuple[str, str]]:
    """The pair as it is and, when only one of the two has a unit or both have the same, the pair without it."""
    bare = _UNIT.sub("", answer), _UNIT.sub("", expected)
    units = _unit(answer[len(bare[0]) :]), _unit(expected[len(bare[1]) :])
    if not any(units) or (all(units) and units[0] != units[1]):
        return [(answer, expected)]
    parts = [rf"\frac{{{number}}}{{100}}" if unit == "percent" else number for number, unit in zip(bare, units, strict=True)]
    return [(answer, expected), bare, (parts[0], parts[1])]


def _unit(text: str) -> str:
    """The letters and digits of a unit, however it is set."""
    text = re.sub(r"\\(?:text|textrm|mathrm|mbox|cdot)", "", text)
    name = "".join(re.findall(r"[a-zA-Z\d%/]+", text))
    return _SAME_UNITS.get(name, name)


def _is_same(answer: str, expected: str) -> bool:
    from sympy.core.random import seed

    from .expressions import is_decimal_of, is_same

    seed(0)  # sympy tries numbers at random; the same pair must always get the same verdict
    read = _parse(answer)[:1], _parse(expected)[:1]
    for text, values in ((answer, read[1]), (expected, read[0])):
        decimal = read_decimal(text) if "." in text else None
        if decimal is not None and any(is_decimal_of(decimal, value) for value in values):
            return True
    return any(is_same(ours, theirs) for ours in read[0] for theirs in read[1])


@lru_cache(maxsize=256)  # many samples answer the same problem
def _parse(text: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    config = LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)
    # Units are dealt with above: math-verify would take the t of 2t for one.
    config = replace(config, normalization_config=replace(config.normalization_config, units=False, boxed="last"))
    if "_" not in text:  # where it is no index, i is the imaginary unit, which is written I here
        text = _IMAGINARY.sub("I", text)
    return parse(f"\\boxed{{{text}}}", [config], parsing_timeout=None)
