"""Intervals, against tables, worked examples and simulations whose truth is known."""

import json
import math

import numpy as np
import pytest

from optimum_ssgr.evaluation.intervals import (
    Variance,
    difference_estimate,
    estimate_difference,
    estimate_share,
    format_share,
    share_estimate,
    student_quantile,
)


# Fisher and Yates, Statistical Tables, table III, two-sided 5 %.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 7: 2.365, 10: 2.228, 14: 2.145, 29: 2.045, 60: 2.000, 120: 1.980}


@pytest.mark.parametrize(("freedom", "expected"), STUDENT.items())
def test_student_quantile_of_the_tables(freedom, expected):
    assert student_quantile(freedom) == pytest.approx(expected, abs=5.1e-4)


def test_student_quantile_where_it_has_a_closed_form():
    """One degree is Cauchy's, two have an algebraic inverse, infinitely many are normal; in between it only falls."""
    assert student_quantile(1) == pytest.approx(math.tan(0.475 * math.pi), rel=1e-10)
    assert student_quantile(2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)), rel=1e-10)
    assert student_quantile(math.inf) == pytest.approx(1.9599640, abs=1e-5)
    between = [student_quantile(freedom) for freedom in np.geomspace(1, 1e7, 200)]
    assert between == sorted(between, reverse=True)


@pytest.mark.parametrize(
    ("right", "problems", "exact"),
    # Clopper and Pearson's exact ends, from 0.025 = P(X >= right) and P(X <= right).
    [
        (0, 30, (0, 0.1157)),
        (30, 30, (0.8843, 1)),
        (1, 30, (0.0008, 0.1722)),
        (2, 100, (0.0024, 0.0704)),
        (99, 100, (0.9455, 0.9997)),
    ],
)
def test_shares_near_none_and_all(right, problems, exact):
    """Never without width, within 0 and 1, on the mean's side of both, and about as long as the exact interval."""
    found = estimate_share(np.array([[1.0] * right + [0.0] * (problems - right)]))
    low, high = found.interval
    assert 0 <= low <= found.mean <= high <= 1
    assert low == pytest.approx(exact[0], abs=0.012)
    assert high == pytest.approx(exact[1], abs=0.012)
    assert high - low > 0.8 * (exact[1] - exact[0])


def test_samples_and_seeds_of_a_few_problems_do_not_pass_for_many_problems():
    """All wrong, however often; and answers that are the same in every seed."""
    once = estimate_share(np.zeros((1, 30))).interval
    assert estimate_share(np.zeros((5, 30))).interval == once
    answers = np.array([[1.0, 0, 1, 1, 0, 1, 1, 1]])
    single, fivefold = estimate_share(answers), estimate_share(np.repeat(answers, 5, axis=0))
    assert (fivefold.mean, fivefold.error) == pytest.approx((single.mean, single.error))
    assert fivefold.interval == pytest.approx(single.interval)
    thirds = estimate_share(np.full((1, 30), 1 / 3))  # no variance to be had, but for rounding
    assert thirds.interval[0] < 0.2 < 0.5 < thirds.interval[1]


def test_a_single_problem_says_nothing():
    share, difference = estimate_share(np.array([[1.0]])), estimate_difference(np.array([[-1.0]]))
    assert math.isnan(share.error) and share.interval == (0, 1)
    assert math.isnan(difference.error) and difference.interval == (-1, 1)
    json.dumps([share.interval, difference.interval], allow_nan=False)


def test_models_that_never_differ_on_a_few_problems_can_differ_on_others():
    found = estimate_difference(np.zeros((1, 30)))
    assert (found.mean, found.error) == (0, 0)
    # As if two of the 30 differences were +1 and -1.
    half = STUDENT[29] * np.std([*[0] * 28, 1, -1], ddof=1) / math.sqrt(30)
    assert found.interval == pytest.approx((-half, half), rel=1e-3)
    assert estimate_difference(np.ones((1, 30))).interval[1] == 1


def test_many_problems_and_one_seed_give_the_usual_interval():
    rng = np.random.default_rng(0)
    differences = rng.integers(-1, 2, size=(1, 4000)).astype(float)
    half = 1.96 * differences.std(ddof=1) / math.sqrt(4000)
    found = estimate_difference(differences)
    assert found.interval == pytest.approx((found.mean - half, found.mean + half), rel=2e-3)
    rights = (rng.random((1, 4000)) < 0.6).astype(float)
    half = 1.96 * rights.std(ddof=1) / math.sqrt(4000)
    found = estimate_share(rights)
    assert found.interval == pytest.approx((found.mean - half, found.mean + half), rel=2e-3)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_where_the_seeds_decide_the_interval_is_students(seeds):
    """With a great many problems all that is left is a mean of so many numbers, one per seed."""
    by_seed = np.array([0.41, 0.47, 0.52, 0.44, 0.49])[:seeds]
    error = by_seed.std(ddof=1) / math.sqrt(seeds)
    found = difference_estimate(float(by_seed.mean()), Variance(1e-12, 10**7, error**2, seeds))
    half = STUDENT[seeds - 1] * error
    assert found.interval == pytest.approx((by_seed.mean() - half, by_seed.mean() + half), abs=1e-3)
    many = Variance(1e-6, 400, 1e-12, seeds)
    assert many.freedom == pytest.approx(399, rel=1e-3)


def test_both_parts_of_the_error_are_counted():
    rng = np.random.default_rng(5)
    values = rng.random((3, 40))
    over_problems, over_seeds = values.mean(axis=0).std(ddof=1) / 40**0.5, values.mean(axis=1).std(ddof=1) / 3**0.5
    assert estimate_share(values).error == pytest.approx(math.hypot(over_problems, over_seeds))
    assert share_estimate(float(values.mean()), Variance.of(values)) == estimate_share(values)


def simulate(rng, seeds, problems, rate, deviation, gap=None, repeats=600):
    """How often the interval holds the truth, and one by the normal quantile does.

    Seeds have rates of their own, and half of the verdicts are decided by how hard the problem is, which all seeds and both
    models share.
    """

    def rates(mean):
        both = mean * (1 - mean) / deviation**2 - 1 if deviation else None
        return rng.beta(mean * both, (1 - mean) * both, (seeds, 1)) if both else np.full((seeds, 1), mean)

    def verdicts(mean, hurdles):
        shared = rng.random((seeds, problems)) < 0.5
        return (np.where(shared, hurdles, rng.random((seeds, problems))) < rates(mean)).astype(float)

    held = normal = 0
    for _ in range(repeats):
        hurdles = rng.random(problems)
        if gap is None:
            truth, found = rate, estimate_share(verdicts(rate, hurdles))
        else:
            truth, found = gap, estimate_difference(verdicts(rate, hurdles) - verdicts(rate - gap, hurdles))
        held += found.interval[0] <= truth <= found.interval[1]
        normal += abs(found.mean - truth) <= 1.96 * found.error
    return held / repeats, normal / repeats


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_over_seeds_hold_the_truth(seeds):
    """Where seeds differ, the case that the normal quantile fails: about 95 times in 100, and never much less.

    The bounds leave room for the chance of 600 repeats, whose standard error is 0.9 points.
    """
    rng = np.random.default_rng(seeds)
    rows = [(problems, rate, gap) for problems in (200, 1000) for rate, gap in ((0.5, None), (0.8, None), (0.7, 0.1))]
    found = np.array([simulate(rng, seeds, problems, rate, 0.05, gap) for problems, rate, gap in rows])
    assert found[:, 0].min() > 0.90
    assert 0.93 < found[:, 0].mean() < 0.975
    assert found[:, 1].min() < {2: 0.82, 3: 0.88, 5: 0.93}[seeds]


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_intervals_hold_the_truth_where_seeds_do_not_differ(seeds):
    """Over problems alone; with several seeds, of which nothing is known before, they are on the side of caution."""
    rng = np.random.default_rng(10 + seeds)
    rows = [
        (problems, rate, gap) for problems in (30, 200) for rate, gap in ((0.03, None), (0.5, None), (0.97, None), (0.9, 0.05))
    ]
    found = [simulate(rng, seeds, problems, rate, 0, gap)[0] for problems, rate, gap in rows]
    assert min(found) > 0.925
    if seeds == 1:
        assert np.mean(found) < 0.975


@pytest.mark.parametrize(
    ("share", "error", "interval", "shown"),
    [
        (0.8301, 0.0151, (0.8, 0.86), "83.0% +- 1.5%"),
        (0.0, 0.0, (0.0, 0.1224), "0.0% (0.0% to 12.2%)"),
        (1.0, 0.0, (0.8776, 1.0), "100.0% (87.8% to 100.0%)"),
        (0.0001, 0.0001, (0.0, 0.004), "0.0% (0.0% to 0.4%)"),  # would read as no error, too
        (1.0, math.nan, (0.0, 1.0), "100.0% (0.0% to 100.0%)"),
        (0.5, 0.0, None, "50.0%"),  # of earlier versions
    ],
)
def test_no_share_is_shown_without_its_error(share, error, interval, shown):
    assert format_share(share, error, interval) == shown


def test_an_error_without_unit():
    assert format_share(0.831, 0.0151, (0.8, 0.86), unit="", sign="±") == "83.1 ± 1.5"
