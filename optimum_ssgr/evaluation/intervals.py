"""Means over problems and seeds with 95 % intervals that also hold for few of them, and for shares near 0 and 1."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from typing_extensions import Self


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_NONE = 1e-20
"""Below any variance of shares that differ, and above what rounding makes of equal ones."""


@dataclass(frozen=True)
class Estimate:
    """A mean and how far it can be trusted.

    Args:
        mean: The mean.
        error: Its standard error; NaN for a single problem, which says nothing about it.
        interval: Its 95 % interval, which need not be symmetric.
    """

    mean: float
    error: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Variance:
    """The variance of a mean over problems and seeds, estimated in two parts.

    Args:
        over_problems: Squared standard error of the mean of the problems' means over seeds; NaN for a single problem.
        problems: Number of problems.
        over_seeds: Squared standard error of the mean of the seeds' means over problems; 0 for a single seed, where nothing
            is known of other seeds and the interval is one over problems alone.
        seeds: Number of seeds.
    """

    over_problems: float
    problems: int
    over_seeds: float
    seeds: int

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        """Estimate it from one number per seed and problem, float [seeds, problems]."""
        seeds, problems = values.shape
        over_problems = float(values.mean(axis=0).var(ddof=1)) / problems if problems > 1 else math.nan
        over_seeds = float(values.mean(axis=1).var(ddof=1)) / seeds if seeds > 1 else 0.0
        return cls(over_problems, problems, over_seeds, seeds)

    @property
    def total(self) -> float:
        """The sum of the parts. Chance within problems and seeds counts in both, so this errs on the side of caution."""
        return self.over_problems + self.over_seeds

    @property
    def freedom(self) -> float:
        """Effective degrees of freedom of the sum (Satterthwaite, 1946): the larger the part of few seeds, the fewer."""
        if self.total < _NONE:
            return self.problems - 1
        over_seeds = 0.0
        if self.seeds > 1:
            # Of few seeds the variance is often far too small by chance, and would count for nothing just then. How much more
            # it has to count for intervals to hold the truth is what benchmarks/coverage.py shows.
            over_seeds = (1 + 8 / (self.seeds - 1) ** 2) * self.over_seeds
        squares = self.over_problems**2 / (self.problems - 1) + over_seeds**2 / max(self.seeds - 1, 1)
        return max((self.over_problems + over_seeds) ** 2 / squares, 1.0)


def student_quantile(freedom: float) -> float:
    """Return the bound that Student's t stays within, on both sides, 95 times in 100.

    With t = sqrt(f) tan(a) the density is proportional to cos(a) ** (f - 1) on a bounded interval, where Gauss-Legendre
    quadrature is exact to rounding. The distribution function is concave there, so that Newton's method climbs to the solution
    from the normal distribution's, which lies below it.

    Args:
        freedom: Degrees of freedom, 1 or more; need not be whole.
    """
    freedom = min(freedom, 1e6)
    scale = 2 * math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    angle = math.atan(1.9599 / math.sqrt(freedom))
    for _ in range(50):
        inside = scale * angle / 2 * float(_WEIGHTS @ np.cos(angle / 2 * (_NODES + 1)) ** (freedom - 1))
        step = (0.95 - inside) / (scale * math.cos(angle) ** (freedom - 1))
        angle += step
        if abs(step) < 1e-12 * angle:
            break
    return math.sqrt(freedom) * math.tan(angle)


def estimate_share(scores: np.ndarray) -> Estimate:
    """Estimate the share of problems that is solved.

    Args:
        scores: Share of right responses by seed and problem, between 0 and 1, float [seeds, problems].
    """
    return share_estimate(float(scores.mean()), Variance.of(scores))


def share_estimate(share: float, variance: Variance) -> Estimate:
    """Put an interval around a share: Wilson's (1927), with Student's t and an effective number of responses.

    That is the number of independent responses whose share would have this variance. Where all are right or all are wrong there
    is no variance to tell it; then every problem counts as one response, however many there are.

    Args:
        share: The share, between 0 and 1.
        variance: Its variance.
    """
    if variance.problems < 2:
        return Estimate(share, math.nan, (0.0, 1.0))
    number = share * (1 - share) / variance.total if variance.total > _NONE else variance.problems
    square = student_quantile(variance.freedom) ** 2 / number
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(square * share * (1 - share) + square**2 / 4) / (1 + square)
    return Estimate(share, math.sqrt(variance.total), (max(centre - half, 0.0), min(centre + half, 1.0)))


def estimate_difference(differences: np.ndarray) -> Estimate:
    """Estimate a difference between two shares of the same problems.

    Args:
        differences: Share of right responses of one model minus that of the other, float [seeds, problems].
    """
    return difference_estimate(float(differences.mean()), Variance.of(differences))


def difference_estimate(difference: float, variance: Variance) -> Estimate:
    """Put an interval around a paired difference, by Student's t.

    The variance over problems is at least that of as many problems of which each model alone solves one: models that never
    differ on a few problems can still differ on others.

    Args:
        difference: The difference, between -1 and 1.
        variance: Its variance.
    """
    problems = variance.problems
    if problems < 2:
        return Estimate(difference, math.nan, (-1.0, 1.0))
    least = replace(variance, over_problems=max(variance.over_problems, 2 / problems / (problems - 1)))
    half = student_quantile(least.freedom) * math.sqrt(least.total)
    return Estimate(difference, math.sqrt(variance.total), (max(difference - half, -1.0), min(difference + half, 1.0)))


def format_share(share: float, error: float | None, interval: Sequence[float] | None, unit: str = "%", sign: str = "+-") -> str:
    """Write a share in percent with its standard error, or with its interval where the error would read as none.

    Args:
        share: The share.
        error: Its standard error; NaN or None where it is not known.
        interval: Its 95 % interval; None where it is not known.
        unit: What stands behind every number.
        sign: What stands before the error.
    """
    shown, spread = (f"{100 * value:.1f}" for value in (share, math.nan if error is None else error))
    if spread not in ("0.0", "nan"):
        return f"{shown}{unit} {sign} {spread}{unit}"
    if interval is None:
        return f"{shown}{unit}"
    low, high = (f"{100 * end:.1f}{unit}" for end in interval)
    return f"{shown}{unit} ({low} to {high})"


def format_difference(difference: float, interval: Sequence[float]) -> str:
    """Write a difference between shares in points with its 95 % interval."""
    low, high = (100 * end for end in interval)
    return f"{100 * difference:+.1f} ({low:+.1f} to {high:+.1f})"
