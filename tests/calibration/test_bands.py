from itertools import pairwise

import pytest

from optimum_ssgr.calibration.bands import BANDS, difficulty_bands, length_bands
from optimum_ssgr.errors import DataError
from optimum_ssgr.records import GradedRollout, Problem, Rollout, Verdict


def graded(*problems):
    """Problems given as (right, wrong)."""
    return [
        GradedRollout(Problem(str(name), "q", "a"), Rollout(str(name), n, (0,), (0,), True), Verdict(None, n < right, True), "")
        for name, (right, wrong) in enumerate(problems)
        for n in range(right + wrong)
    ]


def traces_in(rollouts, bands):
    rates = {}
    for item in rollouts:
        rates.setdefault(item.problem.id, []).append(item.verdict.correct)
    rates = {name: sum(found) / len(found) for name, found in rates.items()}
    right = [rates[item.problem.id] for item in rollouts if item.verdict.correct]
    return [sum(low <= rate <= high for rate in right) for low, high in bands]


def test_bands_have_equal_shares_where_rates_differ():
    rollouts = graded(*[(right, 20 - right) for right in range(1, 21) for _ in range(3)])
    bands = difficulty_bands(rollouts)
    counts = traces_in(rollouts, bands)
    assert sum(counts) == 3 * sum(range(1, 21))  # no trace is in two bands or none
    assert max(counts) - min(counts) <= 3 * 20
    assert bands[0][1] == 1 and bands[-1][0] == 1 / 20
    assert all(harder[1] < easier[0] for easier, harder in pairwise(bands))


@pytest.mark.parametrize("heavy", [0, 1, 2])
def test_a_rate_that_most_traces_have_is_a_band_of_its_own(heavy):
    problems = [(8, 0), (5, 3), (2, 6)]
    rollouts = graded(*problems, *[problems[heavy]] * 50)
    bands = difficulty_bands(rollouts)
    assert bands == [(1, 1), (5 / 8, 5 / 8), (2 / 8, 2 / 8)]


def test_too_few_rates_are_refused():
    with pytest.raises(DataError, match="problems of 2 different pass rates"):
        difficulty_bands(graded((4, 0), (2, 2), (0, 4)))


def test_length_bands_cover_everything_once():
    bands = length_bands()
    assert (bands[0][0], bands[-1][1], len(bands)) == (0, 100, BANDS)
    assert all(first[1] == second[0] for first, second in pairwise(bands))
