import dataclasses
import math
from itertools import combinations

import numpy as np
import pytest

from optimum_ssgr.errors import DataError
from optimum_ssgr.evaluation.metrics import (
    clustered_mean,
    interval,
    is_loop,
    mean_over_seeds,
    paired_difference,
    pass_at_k,
    summarize,
)
from optimum_ssgr.records import GradedRollout, Problem, Rollout, Verdict


def test_one_sample_a_problem_gives_the_usual_standard_error():
    values = [1, 0, 1, 1, 0, 1, 0, 1]
    mean, error = clustered_mean(values, [str(n) for n in range(8)])
    assert mean == pytest.approx(5 / 8)
    assert error == pytest.approx(np.std(values, ddof=1) / math.sqrt(8))


def test_samples_of_one_problem_are_not_independent():
    """Repeating every value changes neither the mean nor its error."""
    once = clustered_mean([1, 0, 1, 1], list("abcd"))
    assert clustered_mean([1, 0, 1, 1] * 5, list("abcd") * 5) == pytest.approx(once)


def test_standard_error_covers_the_truth_as_often_as_it_should():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        rates = rng.beta(2, 2, size=50)
        values = rng.random((50, 4)) < rates[:, None]
        mean, error = clustered_mean(values.flatten(), np.repeat(np.arange(50), 4).astype(str))
        hits += abs(mean - 0.5) < 1.96 * error
    assert 0.92 < hits / 1000 < 0.97


def test_error_over_seeds_is_cautious():
    """It covers the truth at least as often as claimed when problems and seeds both vary."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(1000):
        rates = np.clip(0.5 + 0.2 * rng.standard_normal(100)[None] + 0.03 * rng.standard_normal(3)[:, None], 0, 1)
        mean, error = mean_over_seeds((rng.random((3, 100)) < rates).astype(float))
        hits += abs(mean - 0.5) < 1.96 * error
    assert hits / 1000 > 0.94


@pytest.mark.parametrize(
    "ids, expected",
    [
        ([1, 2, 3] * 20, True),
        ([9, 8, 7, *[5] * 40], True),
        ([*range(100), *[1, 2, 3, 4, 5] * 12], True),
        (list(range(40)) * 3, True),
        (list(range(40)) * 2, False),  # twice is not over and over
        ([*[1, 2, 3] * 20, 4], False),  # it came out of the loop
        (list(range(200)), False),
        ([1, 1, 1, 1], False),  # too short to tell
        ([], False),
    ],
)
def test_loops(ids, expected):
    assert is_loop(ids) is expected


def item(problem, sample, correct, thought=True, finished=True, ids=(0,)):
    rollout = Rollout(problem, sample, (0,), tuple(ids), finished)
    return GradedRollout(Problem(problem, "q", "a"), rollout, Verdict(None, correct, thought), "")


def test_pairing_removes_what_two_models_share():
    ours = [item(str(n), 0, n % 2 == 0) for n in range(40)]
    worse = [item(str(n), 0, n % 2 == 0 and n != 4) for n in range(40)]
    difference, error = paired_difference(ours, worse)
    differences = np.eye(40)[4]
    assert difference == pytest.approx(1 / 40)
    assert error == pytest.approx(differences.std(ddof=1) / math.sqrt(40))
    assert paired_difference(ours, ours) == (0, 0)


@pytest.mark.slow
def test_paired_interval_covers_the_truth_as_often_as_it_should():
    """Two models that share the difficulty of the problems, the second 0.1 worse; 4 samples each."""
    rng = np.random.default_rng(2)
    hits = widths = unpaired = 0
    for _ in range(400):
        rates = rng.beta(1, 1, size=(60, 1)) * 0.8 + 0.1
        right = [rng.random((60, 4)) < rate for rate in (rates, rates - 0.1)]
        ours, theirs = (
            [item(str(n), sample, bool(row[sample])) for n, row in enumerate(of_model) for sample in range(4)]
            for of_model in right
        )
        low, high = interval(*paired_difference(ours, theirs))
        hits += low < 0.1 < high
        widths += high - low
        unpaired += 2 * 1.96 * math.hypot(*(clustered_mean(x.flatten(), np.repeat(np.arange(60), 4))[1] for x in right))
    assert 0.92 < hits / 400 < 0.975
    assert widths < 0.75 * unpaired


def test_only_what_both_answered_is_compared():
    ours = [item("a", 0, True), item("b", 0, True), item("c", 0, False)]
    difference, error = paired_difference(ours, [item("c", 0, True), item("a", 0, True)])
    assert (difference, error) == (-0.5, pytest.approx(0.5))
    with pytest.raises(DataError, match="not asked the same problems"):
        paired_difference(ours, [item("d", 0, True)])


def test_pass_at_k_counts_the_choices_with_a_right_sample():
    """Against every choice of k of n samples, counted one by one."""
    verdicts = {"a": [1, 0, 0, 1, 0], "b": [0, 0, 0, 0, 0], "c": [1, 1, 1, 1, 1], "d": [0, 0, 1, 0, 0]}
    graded = [item(name, n, bool(right)) for name, found in verdicts.items() for n, right in enumerate(found)]
    for k in range(1, 6):
        chances = [np.mean([any(choice) for choice in combinations(found, k)]) for found in verdicts.values()]
        value, error = pass_at_k(graded, k)
        assert value == pytest.approx(np.mean(chances))
        assert error == pytest.approx(np.std(chances, ddof=1) / 2)
    assert pass_at_k(graded, 1)[0] == pytest.approx(summarize(graded)["accuracy"])
    for k in (0, 6):
        with pytest.raises(DataError, match="needs at least"):
            pass_at_k(graded, k)


def test_pass_at_k_is_unbiased():
    """A problem solved with chance p is solved by the best of k with chance 1 - (1 - p)^k, however few samples there are."""
    rng = np.random.default_rng(3)
    graded = [item(str(n), sample, rng.random() < 0.3) for n in range(6000) for sample in range(4)]
    value, error = pass_at_k(graded, 3)
    assert abs(value - (1 - 0.7**3)) < 3 * error
    assert error < 0.01


def test_summary():
    summary = summarize(
        [
            item("a", 0, True, True, True, range(10)),
            item("a", 1, False, True, True, range(20)),
            item("b", 0, False, False, False, [1, 2] * 50),
            item("b", 1, False, True, True, range(30)),
        ]
    )
    assert summary == {
        "problems": 2,
        "samples": 4,
        "accuracy": 0.25,
        "accuracy_se": pytest.approx(0.25),  # the problems' means are 0.5 and 0
        "mean_tokens": 40.0,
        "median_tokens": 25.0,
        "p95_tokens": pytest.approx(30 + 0.85 * 70),  # between the two longest, 30 and 100
        "truncated": 0.25,
        "missing_think_end": 0.25,
        "looping": 0.25,
        "unreadable": 3,  # of these no answer is known, and one was cut
        "timed_out": 0,
    }


def test_verdicts_that_timed_out_are_counted():
    late = dataclasses.replace(item("a", 0, False), verdict=Verdict("x", False, True, timed_out=True))
    summary = summarize([late, item("a", 1, True)])
    assert (summary["timed_out"], summary["unreadable"], summary["accuracy"]) == (1, 1, 0.5)
