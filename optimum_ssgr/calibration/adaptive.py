"""Ask for rollouts where they matter: stop at problems that are decided, and when enough was found."""

import random
from collections.abc import Iterator, Sequence
from math import ceil, exp, floor, lgamma

from ..config import CalibrationConfig
from ..records import GradedRollout, Problem
from .selection import meets_budget
from .strategies import WIDENED, Sources, select


ROUNDS = 4
"""The samples of a problem are asked for in so many rounds, each after the verdicts of the one before."""
WAVES = 8
"""The problems are asked in so many waves; after each it is seen whether the budget is met."""
DOUBT = 0.05
"""A problem is decided when the chance that more samples change what it is falls below this."""


def chance_in_window(correct: int, wrong: int, samples: int, window: tuple[float, float]) -> float:
    """Return the probability that a problem's pass rate will lie in a window once all samples are drawn.

    The pass rate is given Jeffreys' prior, Beta(1/2, 1/2), so that the samples to come are beta-binomial.

    Args:
        correct: Correct samples so far.
        wrong: Wrong samples so far.
        samples: Samples in all.
        window: Lowest and highest pass rate.
    """
    left = samples - correct - wrong
    fewest, most = ceil(window[0] * samples - 1e-9), floor(window[1] * samples + 1e-9)
    a, b = correct + 0.5, wrong + 0.5
    return sum(
        exp(_log_choose(left, more) + _log_beta(a + more, b + left - more) - _log_beta(a, b))
        for more in range(left + 1)
        if fewest <= correct + more <= most
    )


def is_decided(correct: int, wrong: int, config: CalibrationConfig) -> bool:
    """Tell whether more samples of a problem are not worth drawing.

    Either it is challenging and has given as many correct traces as may be selected from it, or it is not; and the share of
    correct samples so far already says the same as the chance that more of them would change it.
    """
    inside = config.pass_rate[0] <= correct / (correct + wrong) <= config.pass_rate[1]
    chance = chance_in_window(correct, wrong, config.samples_per_problem, config.pass_rate)
    if inside:
        return chance > 1 - DOUBT and correct >= config.max_per_problem
    return chance < DOUBT


def rounds(config: CalibrationConfig) -> list[range]:
    """Divide the numbers of a problem's samples into rounds."""
    size = ceil(config.samples_per_problem / ROUNDS)
    return [range(start, min(start + size, config.samples_per_problem)) for start in range(0, config.samples_per_problem, size)]


def waves(problems: Sequence[Problem], seed: int) -> Iterator[list[Problem]]:
    """Divide the problems into waves, in a seeded order."""
    ordered = sorted(problems, key=lambda problem: problem.id)
    random.Random(seed).shuffle(ordered)
    size = ceil(len(ordered) / WAVES)
    yield from (ordered[start : start + size] for start in range(0, len(ordered), size))


def is_enough(graded: Sequence[GradedRollout], config: CalibrationConfig) -> bool:
    """Tell whether the strategy's own windows, without widening them, meet the budget."""
    if not any(item.verdict.correct for item in graded):
        return False
    chosen = select(Sources(graded), config)
    return meets_budget(chosen, config) and not any(WIDENED in sequence.selected_by for sequence in chosen)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
