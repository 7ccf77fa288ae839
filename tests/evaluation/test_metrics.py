import dataclasses
import functools
import json
import math
import random
from itertools import combinations

import numpy as np
import pytest

from optimum_ssgr.errors import DataError
from optimum_ssgr.evaluation.kinds import summarize_kinds
from optimum_ssgr.evaluation.metrics import is_loop, paired_difference, pass_at_k, summarize
from optimum_ssgr.evaluation.results import result_row
from optimum_ssgr.records import GradedRollout, Problem, Rollout, Verdict


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


known_item = functools.cache(item)  # of which simulations need many, and never change one


def graded_from(answers):
    """One item per verdict: rows are problems, columns samples."""
    return [known_item(str(n), sample, bool(right)) for n, row in enumerate(answers) for sample, right in enumerate(row)]


def test_one_sample_a_problem_gives_the_usual_standard_error():
    values = [1, 0, 1, 1, 0, 1, 0, 1]
    summary = summarize(graded_from([[value] for value in values]))
    assert summary["accuracy"] == pytest.approx(5 / 8)
    assert summary["accuracy_se"] == pytest.approx(np.std(values, ddof=1) / math.sqrt(8))


def test_samples_of_one_problem_are_not_independent():
    """Repeating every value changes neither the mean nor its error."""
    once, fivefold = (summarize(graded_from([[value] * times for value in [1, 0, 1, 1]])) for times in (1, 5))
    for name in ("accuracy", "accuracy_se", "accuracy_ci95"):
        assert fivefold[name] == pytest.approx(once[name])


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_should():
    """Problems of every difficulty, 4 samples each."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(500):
        rates = rng.beta(2, 2, size=(50, 1))
        low, high = summarize(graded_from(rng.random((50, 4)) < rates))["accuracy_ci95"]
        hits += low < 0.5 < high
    assert 0.925 < hits / 500 < 0.975


def test_pass_at_1_is_one_number_where_responses_were_lost():
    """By hand: of a all 4 are there and right, of b one of 4, wrong, of c two, one of them right."""
    graded = [*(item("a", n, True) for n in range(4)), item("b", 2, False), item("c", 0, True), item("c", 3, False)]
    row = result_row("model", "set", "test", graded)
    assert row["accuracy"] == row["pass_at_k"]["1"]["value"] == 0.5  # (1 + 0 + 1/2) / 3, and not 5 / 7
    assert row["accuracy_se"] == row["pass_at_k"]["1"]["se"] == pytest.approx(0.5 / math.sqrt(3))
    assert row["accuracy_ci95"] == row["pass_at_k"]["1"]["ci95"]
    assert (row["n"], row["samples"], row["responses"]) == (3, 4, 7)


def test_pass_at_1_is_one_number_to_the_last_bit():
    rng = np.random.default_rng(4)
    for _ in range(200):
        graded = [item(str(n), k, rng.random() < 0.6) for n in range(7) for k in range(rng.integers(1, 12))]
        row = result_row("model", "set", "test", graded)
        one = row["pass_at_k"]["1"]
        assert (row["accuracy"], row["accuracy_se"], row["accuracy_ci95"]) == (one["value"], one["se"], one["ci95"])


def test_none_of_thirty_is_not_without_error():
    row = result_row("model", "set", "test", graded_from([[0]] * 30), baseline=graded_from([[0]] * 30))
    assert row["accuracy"] == row["difference"] == 0
    assert row["accuracy_ci95"] == pytest.approx([0, 0.1157], abs=0.01)  # the exact one, by Clopper and Pearson
    low, high = row["difference_ci95"]
    assert low == -high and 0.05 < high < 0.15


def test_pairing_removes_what_two_models_share():
    ours = [item(str(n), 0, n % 2 == 0) for n in range(40)]
    worse = [item(str(n), 0, n % 2 == 0 and n != 4) for n in range(40)]
    found = paired_difference(ours, worse)
    differences = np.eye(40)[4]
    assert found.mean == pytest.approx(1 / 40)
    assert found.error == pytest.approx(differences.std(ddof=1) / math.sqrt(40))
    same = paired_difference(ours, ours)
    assert (same.mean, same.error) == (0, 0)
    assert same.interval[0] < 0 < same.interval[1]


@pytest.mark.slow
def test_paired_interval_covers_the_truth_as_often_as_it_should():
    """Two models that share the difficulty of the problems, the second 0.1 worse; 4 samples each."""
    rng = np.random.default_rng(2)
    hits = widths = unpaired = 0
    for _ in range(400):
        rates = rng.beta(1, 1, size=(60, 1)) * 0.8 + 0.1
        ours, theirs = (graded_from(rng.random((60, 4)) < rate) for rate in (rates, rates - 0.1))
        low, high = paired_difference(ours, theirs).interval
        hits += low < 0.1 < high
        widths += high - low
        unpaired += 2 * 1.96 * math.hypot(*(summarize(of)["accuracy_se"] for of in (ours, theirs)))
    assert 0.92 < hits / 400 < 0.98
    assert widths < 0.75 * unpaired


def test_only_what_both_answered_is_compared():
    ours = [item("a", 0, True), item("b", 0, True), item("c", 0, False)]
    found = paired_difference(ours, [item("c", 0, True), item("a", 0, True)])
    assert (found.mean, found.error) == (-0.5, pytest.approx(0.5))
    with pytest.raises(DataError, match="not asked the same problems"):
        paired_difference(ours, [item("d", 0, True)])


def test_every_problem_counts_once_in_a_difference_too():
    """Of a four samples are there of both models and differ, of b one, which does not."""
    ours = [*(item("a", n, True) for n in range(4)), item("b", 0, True)]
    theirs = [*(item("a", n, False) for n in range(4)), item("b", 0, True), item("b", 1, False)]
    assert paired_difference(ours, theirs).mean == 0.5


def test_pass_at_k_counts_the_choices_with_a_right_sample():
    """Against every choice of k of n samples, counted one by one."""
    verdicts = {"a": [1, 0, 0, 1, 0], "b": [0, 0, 0, 0, 0], "c": [1, 1, 1, 1, 1], "d": [0, 0, 1, 0, 0]}
    graded = [item(name, n, bool(right)) for name, found in verdicts.items() for n, right in enumerate(found)]
    for k in range(1, 6):
        chances = [np.mean([any(choice) for choice in combinations(found, k)]) for found in verdicts.values()]
        found = pass_at_k(graded, k)
        assert found.mean == pytest.approx(np.mean(chances))
        assert found.error == pytest.approx(np.std(chances, ddof=1) / 2)
    assert pass_at_k(graded, 1).mean == summarize(graded)["accuracy"]
    for k in (0, 6):
        with pytest.raises(DataError, match="needs at least"):
            pass_at_k(graded, k)


def test_pass_at_k_is_unbiased():
    """A problem solved with chance p is solved by the best of k with chance 1 - (1 - p)^k, however few samples there are."""
    rng = np.random.default_rng(3)
    graded = [item(str(n), sample, rng.random() < 0.3) for n in range(6000) for sample in range(4)]
    found = pass_at_k(graded, 3)
    assert abs(found.mean - (1 - 0.7**3)) < 3 * found.error
    assert found.error < 0.01


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
        "accuracy_ci95": pytest.approx([0.0, 1.0], abs=0.02),  # two problems say next to nothing
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


def test_accuracy_by_kind_and_the_worst_kind():
    """Each kind has the numbers of its own problems alone, and every problem counts once, however many samples it has."""
    of = {"sum": [[1, 1], [1, 0], [1, 1]], "walk": [[0, 0], [1, 0]], None: [[1, 1]]}
    graded = [
        dataclasses.replace(one, problem=Problem(f"{kind}{one.problem.id}", "q", "a", kind=kind))
        for kind, answers in of.items()
        for one in graded_from(answers)
    ]
    random.Random(0).shuffle(graded)
    summary = summarize(graded)
    alone = {kind or "unknown": summarize(graded_from(answers)) for kind, answers in of.items()}
    for kind, found in summary["kinds"].items():
        error = None if kind == "unknown" else pytest.approx(alone[kind]["accuracy_se"])
        assert found == {
            "problems": len(of.get(kind, [0])),
            "accuracy": pytest.approx(alone[kind]["accuracy"]),
            "accuracy_se": error,
            "accuracy_ci95": pytest.approx(alone[kind]["accuracy_ci95"]),
        }
    assert list(summary["kinds"]) == ["sum", "unknown", "walk"]
    assert (summary["worst_kind"], summary["worst_kind_accuracy"]) == ("walk", 0.25)
    assert summary["worst_kind_accuracy_se"] == pytest.approx(0.25)  # the problems' means are 0 and 0.5
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_problems_of_one_kind_have_no_worst_one():
    graded = [dataclasses.replace(one, problem=dataclasses.replace(one.problem, kind="sum")) for one in graded_from([[1], [0]])]
    assert "kinds" not in summarize(graded) and "worst_kind" not in summarize(graded)


def test_the_worst_of_equal_kinds_is_low_by_chance():
    """What the documentation says of it: far below the truth where there are many kinds of few problems, less so otherwise."""
    rng = np.random.default_rng(0)
    few, many = (
        np.mean([worst(rng.random((1, 10 * size)) < 0.8, np.repeat([*"abcdefghij"], size)) for _ in range(100)])
        for size in (10, 200)
    )
    assert few < 0.65 and 0.73 < many < 0.78


def worst(scores, kinds):
    return summarize_kinds(scores.astype(float), kinds.tolist())["worst_kind_accuracy"]
