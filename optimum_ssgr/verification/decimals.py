"""Decimal numbers: how they are written, and which of them stand for a number that they only approximate."""

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction


DIGITS = 6  # significant ones; a decimal that has them may be another number, rounded or cut

_DECIMAL = re.compile(
    r"([-+]?(?:[1-9]\d{0,2}(?:[, ]\d{3})+|\d*)(?:\.\d*)?)"
    r"(?:[eE]([-+]?\d{1,4})|\s*(?:\\times|\\cdot|x)\s*10\s*\^\s*(?:\{\s*([-+]?\d{1,4})\s*\}|([-+]?\d{1,4})))?"
)


def read_decimal(text: str) -> Decimal | None:
    r"""Read a decimal number, such as 1,234.5 or `6.02\times 10^{23}`; None when a text is anything else."""
    number = _DECIMAL.fullmatch(text)
    if number is None:
        return None
    mantissa, *exponents = number.groups(default="")
    try:
        return Decimal(f"{mantissa.replace(',', '').replace(' ', '')}e{''.join(exponents) or '0'}")
    except InvalidOperation:  # a sign or a point alone
        return None


def is_rounded(decimal: Decimal, number: Decimal) -> bool:
    """Tell whether a decimal of at least six significant digits is a number rounded, or cut, to its digits.

    Args:
        decimal: A number that was written with a decimal point.
        number: The number it may stand for, to more digits.
    """
    if not decimal.is_finite() or not number.is_finite() or len(decimal.as_tuple().digits) < DIGITS:
        return False
    unit = Fraction(10) ** decimal.as_tuple().exponent
    excess = abs(Fraction(number)) - abs(Fraction(decimal))
    return decimal.is_signed() == number.is_signed() and -unit / 2 <= excess < unit


def is_same_decimal(ours: str, theirs: str) -> bool | None:
    """Compare two texts as decimal numbers; None unless both are some."""
    values = read_decimal(ours), read_decimal(theirs)
    if values[0] is None or values[1] is None:
        return None
    if values[0] == values[1]:
        return True
    return any(
        "." in text and is_rounded(value, other) for text, value, other in ((ours, *values), (theirs, *reversed(values)))
    )
