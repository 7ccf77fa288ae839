"""Bands of difficulty and of length, to ask which traces are the best to calibrate on."""

from collections import Counter
from collections.abc import Sequence

from ..errors import DataError
from ..records import GradedRollout
from .windows import compute_pass_rates


BANDS = 3
"""Bands that traces are cut into; each has about as many correct traces as the others."""


def difficulty_bands(graded: Sequence[GradedRollout]) -> list[tuple[float, float]]:
    """Cut the correct traces into bands by the pass rate of their problem, the easiest band first.

    Pass rates come in steps, and traces of one pass rate stay together: a band is filled until it has its share of those that
    are left, so a pass rate that most traces have is a band of its own.

    Args:
        graded: All rollouts.

    Returns:
        Lowest and highest pass rate of every band, for `CalibrationConfig.pass_rate`; no two overlap.

    Raises:
        DataError: There are fewer pass rates than bands.
    """
    rates = compute_pass_rates(graded)
    traces = Counter(rates[item.problem.id] for item in graded if item.verdict.correct)
    if len(traces) < BANDS:
        raise DataError(
            f"the correct traces come from problems of {len(traces)} different pass rates, which cannot be cut into {BANDS} "
            "bands of difficulty; ask more problems, or more samples of each."
        )
    waiting = sorted(traces, reverse=True)
    bands = []
    for later in reversed(range(BANDS)):
        share = sum(traces[rate] for rate in waiting) / (later + 1)
        band = [waiting.pop(0)]
        while len(waiting) > later and (later == 0 or sum(traces[rate] for rate in band) + traces[waiting[0]] / 2 < share):
            band.append(waiting.pop(0))
        bands.append((band[-1], band[0]))
    return bands


def length_bands() -> list[tuple[float, float]]:
    """Return percentiles that cut traces into bands by length, the shortest first, for `CalibrationConfig.length_window`."""
    return [(100 * band / BANDS, 100 * (band + 1) / BANDS) for band in range(BANDS)]
