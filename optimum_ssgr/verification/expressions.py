"""Are two values equal that math-verify read?

Numbers are compared exactly where both are exact, and never by an absolute tolerance, so that tiny and huge ones keep their
difference. Expressions with variables are compared by their values at points. What is not decided here, math-verify decides.
"""

import random
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any

from latex2sympy2_extended import is_expr_of_only_symbols
from math_verify import verify
from sympy import (
    Add,
    Eq,
    Expr,
    Float,
    Function,
    ImmutableMatrix,
    Integer,
    Interval,
    MatrixBase,
    MatrixExpr,
    Mul,
    Poly,
    Pow,
    Rational,
    S,
    Symbol,
    Tuple,
    Union,
    preorder_traversal,
)
from sympy.core.relational import GreaterThan, LessThan, StrictGreaterThan, StrictLessThan
from sympy.logic.boolalg import And
from sympy.sets import FiniteSet

from .decimals import DIGITS, is_rounded


TOLERANCE = Decimal("5e-6")  # relative; of an expression that a decimal of enough digits is a part of
PRECISION = 200  # digits in which exact numbers are told apart when their difference is no fraction
EXACT = Decimal("1e-100")  # relative; of values at points that are no fractions
POINTS = 16  # at which expressions with variables are compared
ENOUGH = 4  # of them, where both have a value

_REVERSED = {GreaterThan: LessThan, StrictGreaterThan: StrictLessThan}


def is_same(ours: Any, theirs: Any) -> bool:
    """Compare two values; may take any amount of time and memory.

    Args:
        ours: What the answer was read as.
        theirs: What the expected answer was read as.
    """
    same = _compare(ours, theirs)
    return verify(theirs, ours, allow_set_relation_comp=True, timeout_seconds=None) if same is None else same


def is_decimal_of(decimal: Decimal, value: Any) -> bool:
    """Tell whether a decimal number is a value rounded, or cut, to its digits."""
    number = _evaluate(value) if isinstance(value, Expr) and not value.free_symbols else None
    return number is not None and is_rounded(decimal, number)


def _compare(ours: Any, theirs: Any) -> bool | None:
    """Compare two values as far as is done here; None leaves them to math-verify."""
    if isinstance(ours, Eq) or isinstance(theirs, Eq):
        return _compare_equations(ours, theirs)
    if isinstance(ours, And) and isinstance(theirs, And):
        return _are_same_in_some_order(ours.args, theirs.args) or None
    if isinstance(ours, (*_REVERSED, *_REVERSED.values())) and isinstance(theirs, (*_REVERSED, *_REVERSED.values())):
        return _compare_inequalities(ours, theirs)
    if isinstance(ours, Interval) and isinstance(theirs, Interval):
        open_ends = [(value.left_open, value.right_open) for value in (ours, theirs)]
        return open_ends[0] == open_ends[1] and _are_same((ours.start, ours.end), (theirs.start, theirs.end))
    if isinstance(ours, Union) and isinstance(theirs, Union):
        return _are_same_in_some_order(ours.args, theirs.args) or None
    if isinstance(ours, FiniteSet) and isinstance(theirs, FiniteSet):
        return _are_same_in_some_order(ours.args, theirs.args)
    if _is_list(ours) and _is_list(theirs):
        if isinstance(ours, FiniteSet) or isinstance(theirs, FiniteSet):  # which was sorted; math-verify knows its order
            return None if _are_same_in_some_order(_parts(ours), _parts(theirs)) else False
        return _are_same(_parts(ours), _parts(theirs))
    if isinstance(ours, (MatrixBase, MatrixExpr)) and isinstance(theirs, (MatrixBase, MatrixExpr)):
        ours, theirs = (ImmutableMatrix(value.doit()) for value in (ours, theirs))
        return ours.shape == theirs.shape and _are_same(list(ours), list(theirs))
    if isinstance(ours, Expr) and isinstance(theirs, Expr):
        return _compare_expressions(ours, theirs)
    return None


def _is_list(value: Any) -> bool:
    """Whether a value is a sequence of parts; two numbers in round brackets are read as an open interval."""
    return isinstance(value, (Tuple, FiniteSet)) or (isinstance(value, Interval) and bool(value.is_open))


def _parts(value: Any) -> Sequence[Any]:
    return (value.start, value.end) if isinstance(value, Interval) else value.args


def _are_same(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    return len(ours) == len(theirs) and all(map(is_same, ours, theirs))


def _are_same_in_some_order(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    left = list(theirs)
    for value in ours:
        match = next((index for index, other in enumerate(left) if is_same(value, other)), None)
        if match is None:
            return False
        del left[match]
    return not left


def _compare_equations(ours: Any, theirs: Any) -> bool | None:
    """Equations are the same when one is a multiple of the other; a variable set equal to a value may stand for the value."""
    if not isinstance(ours, Eq):
        ours, theirs = theirs, ours
    if not isinstance(theirs, Eq):
        if isinstance(theirs, (LessThan, StrictLessThan, GreaterThan, StrictGreaterThan, And)):
            return None
        named = is_expr_of_only_symbols(ours.lhs) or isinstance(ours.lhs, Function)
        return (named or is_same(ours.lhs, ours.rhs)) and is_same(ours.rhs, theirs)
    if str(ours.lhs) == str(theirs.lhs):
        return is_same(ours.rhs, theirs.rhs)
    if all(isinstance(side, Expr) for side in (*ours.args, *theirs.args)):
        return _proportion(ours.lhs - ours.rhs, theirs.lhs - theirs.rhs) is not None or None
    return None


def _compare_inequalities(ours: Any, theirs: Any) -> bool | None:
    """Inequalities are the same when one is a positive multiple of the other."""
    (ours, strict), (theirs, as_strict) = map(_as_less, (ours, theirs))
    factor = _proportion(ours, theirs)
    if factor is not None:
        return strict == as_strict and bool(factor > 0)
    linear = all(
        value.free_symbols and Poly(_without_decimals(value), *value.free_symbols).is_linear for value in (ours, theirs)
    )
    return False if linear else None


def _as_less(relation: Any) -> tuple[Expr, bool]:
    """An expression that the inequality says is below zero, and whether zero itself is out."""
    difference = relation.lhs - relation.rhs
    below = type(relation) in _REVERSED.values()
    return difference if below else -difference, isinstance(relation, (StrictLessThan, StrictGreaterThan))


def _proportion(ours: Expr, theirs: Expr) -> Expr | None:
    """By what an expression is a multiple of another one; None when it is not."""
    ours, theirs = _without_decimals(ours), _without_decimals(theirs)
    ratios = [our / their for our, their in _values_at_points(ours, theirs) if their != 0]
    same = len(ratios) >= ENOUGH and all(_is_near(*pair, EXACT) for pair in pairwise(ratios))
    return ratios[0] if same and ratios[0] != 0 and ratios[0].is_extended_real else None


def _compare_expressions(ours: Expr, theirs: Expr) -> bool | None:
    words = any(isinstance(value, Symbol) and len(value.name) > 1 for value in (ours, theirs))
    if words and _names(ours) != _names(theirs):
        return None
    decimals = [_as_decimal(value) for value in (ours, theirs)]
    long = any(_is_long(number) for value in (ours, theirs) for number in value.atoms(Float))
    ours, theirs = (_without_decimals(value).doit() for value in (ours, theirs))
    if not ours.free_symbols and not theirs.free_symbols:
        same = _compare_numbers(ours, theirs)
        if same or same is None or not long:
            return same
        if any(decimals):
            return any(
                decimal is not None and number is not None and is_rounded(decimal, number)
                for decimal, number in zip(decimals, map(_evaluate, (theirs, ours)), strict=True)
            )
        return _is_near(ours.evalf(30), theirs.evalf(30), TOLERANCE)
    tolerance, same = TOLERANCE if long else EXACT, 0
    for pair in _values_at_points(ours, theirs):
        if not _is_near(*pair, tolerance):
            return False
        same += 1
    return True if same >= ENOUGH else None


def _names(value: Expr) -> set[str]:
    return {symbol.name for symbol in value.free_symbols}


def _as_decimal(value: Expr) -> Decimal | None:
    """A value that was written as a decimal number, or as one times a power of ten."""
    sign = 1
    factors = value.args if isinstance(value, Mul) else (value,)
    if Integer(-1) in factors:
        sign, factors = -1, [factor for factor in factors if factor != -1]
    floats = [factor for factor in factors if isinstance(factor, Float)]
    powers = [factor for factor in factors if isinstance(factor, Pow) and factor.base == 10 and factor.exp.is_Integer]
    if len(floats) != 1 or len(floats) + len(powers) != len(factors):
        return None
    return sign * _read(floats[0]).scaleb(sum(int(power.exp) for power in powers))


def _read(number: Float) -> Decimal:
    return Decimal(repr(float(number)))  # the shortest that gives this number, so as it was written


def _is_long(number: Float) -> bool:
    return len(_read(number).as_tuple().digits) >= DIGITS


def _without_decimals(value: Expr) -> Expr:
    return value.xreplace({number: Rational(str(_read(number))) for number in value.atoms(Float)})


def _compare_numbers(ours: Expr, theirs: Expr) -> bool | None:
    """Compare two exact numbers; None when their values cannot be found."""
    if S.NaN in (ours, theirs) or S.ComplexInfinity in (ours, theirs):
        return False
    if ours == theirs:
        return True
    if not (ours.is_finite is not False and theirs.is_finite is not False):
        return False
    if ours.is_Rational and theirs.is_Rational:
        return False
    difference = (ours - theirs).doit()
    if difference.is_Rational:
        return difference == 0
    sizes = [abs(term.evalf(30)) for value in (ours, theirs) for term in Add.make_args(value)]  # which may cancel
    gap = abs(difference.evalf(30, maxn=PRECISION + 50))
    if not all(size.is_Float or size.is_Rational for size in (*sizes, gap)):
        return None
    return bool(gap <= max(sizes) * Float(10) ** -PRECISION)


def _evaluate(value: Expr) -> Decimal | None:
    number = value.doit().evalf(40)
    return Decimal(str(number)) if number.is_Float or number.is_Integer else None


def _is_near(ours: Expr, theirs: Expr, tolerance: Decimal) -> bool:
    if tolerance == EXACT and ours.is_Rational and theirs.is_Rational:
        return ours == theirs
    return bool(abs(ours - theirs) <= Float(str(tolerance)) * max(abs(ours), abs(theirs)))


def _values_at_points(ours: Expr, theirs: Expr) -> Iterator[tuple[Expr, Expr]]:
    """The values of two expressions at the same points, of both signs, where no root is taken of a negative number.

    So a variable is positive where a root asks for it, and of any sign elsewhere: the root of x^2 is not x, but 1/sqrt(n) is
    sqrt(1/n).
    """
    names = sorted(_names(ours) | _names(theirs))
    rng = random.Random(0)
    for index in range(POINTS):
        size = 3 if index % 2 else 20
        point = {name: Rational(rng.randint(1, 997 * size), 997) for name in names}
        if index >= POINTS / 2:
            point = {name: value * rng.choice((-1, 1)) for name, value in point.items()}
            if len(names) == 1:
                point = {name: -abs(value) for name, value in point.items()}
        values = [_value_at(expression, point) for expression in (ours, theirs)]
        if None not in values:
            yield values[0], values[1]


def _value_at(expression: Expr, point: dict[str, Rational]) -> Expr | None:
    """The value of an expression at a point; None where it has none, or takes a root of a negative number there."""
    values = {symbol: point[symbol.name] for symbol in expression.free_symbols}
    for node in preorder_traversal(expression):
        is_root = isinstance(node, Pow) and node.free_symbols and not node.exp.xreplace(values).is_integer
        if is_root and node.base.xreplace(values).is_negative:
            return None
    value = expression.xreplace(values).doit()
    if value.is_Rational:
        return value
    value = value.evalf(120, maxn=PRECISION)
    real, imaginary = value.as_real_imag()
    known = all(part.is_Float or part.is_Rational for part in (real, imaginary))
    return value if known and value.is_finite is not False else None
