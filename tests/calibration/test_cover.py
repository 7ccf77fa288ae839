"""The strategy `cover`: every kind of problem has its share of the tokens, and inside a kind weights decide."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from optimum_ssgr.calibration.cover import FLOOR, share_tokens
from optimum_ssgr.calibration.strategies import Sources, select
from optimum_ssgr.config import CalibrationConfig
from optimum_ssgr.errors import ConfigError, DataError
from optimum_ssgr.records import GradedRollout, Problem, Rollout, Verdict


def rollout(kind, number, sample, correct=True, length=40, damage=None):
    name = f"{kind}-{number}"
    made = Rollout(name, sample, (7, 8, 9), tuple(range(length)), finished=True)
    return GradedRollout(Problem(name, "q", "a", kind=kind), made, Verdict("a", correct, True), "text", damage)


def pool(sizes, **changes):
    """So many problems of each kind, with four correct traces and four wrong ones each."""
    return [
        rollout(kind, number, sample, sample < 4, **changes)
        for kind, size in sizes.items()
        for number in range(size)
        for sample in range(8)
    ]


def cover(items, **settings):
    settings = {"num_sequences": None, "num_tokens": 4300} | settings
    return select(Sources(items), CalibrationConfig(strategy="cover", **settings))


def shares(chosen):
    tokens = Counter()
    for sequence in chosen:
        tokens[sequence.problem_id.rpartition("-")[0]] += len(sequence.input_ids)
    return {kind: count / sum(tokens.values()) for kind, count in tokens.items()}


def test_every_kind_has_the_floor_and_its_part_of_what_is_left():
    chosen = cover(pool({"a": 160, "b": 32, "c": 8}))
    assert sum(len(sequence.input_ids) for sequence in chosen) == 4300
    expected = {kind: FLOOR + (1 - 3 * FLOOR) * size / 200 for kind, size in {"a": 160, "b": 32, "c": 8}.items()}
    assert shares(chosen) == pytest.approx(expected, abs=2 * 43 / 4300)  # to a trace of each of the others


def test_no_kind_with_correct_traces_goes_without_tokens():
    sizes = {f"kind {number}": 2 + 7 * (number == 0) for number in range(30)}  # more kinds than floors fit in
    assert set(shares(cover(pool(sizes), max_per_problem=1))) == set(sizes)
    only_wrong = [rollout("never solved", 0, sample, correct=False) for sample in range(8)]
    assert set(shares(cover([*pool({"a": 60}), *only_wrong]))) == {"a"}


def test_a_kind_that_is_used_up_leaves_the_rest_to_the_others():
    chosen = cover(pool({"small": 1, "large": 60}), max_per_problem=2)
    assert Counter(sequence.problem_id.rpartition("-")[0] for sequence in chosen)["small"] == 2
    assert sum(len(sequence.input_ids) for sequence in chosen) == 4300


def test_shares_that_are_asked_for_are_kept_and_the_others_divide_the_rest():
    chosen = cover(pool({"a": 60, "b": 60, "c": 60}), kind_shares=(("a", 0.6),))
    assert shares(chosen) == pytest.approx({"a": 0.6, "b": 0.2, "c": 0.2}, abs=2 * 43 / 4300)
    assert share_tokens({"a": 1, "b": 3}, {}) == pytest.approx({"a": 0.05 + 0.9 / 4, "b": 0.05 + 0.9 * 3 / 4})
    assert sum(share_tokens({"a": 0, "b": 0}, {}).values()) == pytest.approx(1)


def test_selection_is_a_function_of_the_rollouts_and_the_seed_alone():
    items = pool({"a": 40, "b": 20})
    expected = cover(items, seed=1)
    for seed in range(3):
        assert cover(random.Random(seed).sample(items, len(items)), seed=1) == expected
    assert cover(items, seed=2) != expected


def test_difficult_problems_are_drawn_more_often_than_easy_ones():
    """Against the first draw's exact chances: the square root of the difficulty, with a little added."""
    hard = [rollout("a", number, sample, sample < 1) for number in range(5) for sample in range(2)]  # pass rate 1/2
    easy = [rollout("a", number, 0) for number in range(5, 10)]
    first = [cover([*hard, *easy], seed=seed, num_tokens=43)[0].problem_id for seed in range(800)]
    share = sum(int(name.rpartition("-")[2]) < 5 for name in first) / 800
    expected = 0.52**0.5 / (0.52**0.5 + 0.02**0.5)
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 800) ** 0.5)


def test_traces_are_drawn_in_proportion_to_their_damage_and_kinds_by_the_sum_of_it():
    little = [rollout("a", number, 0, damage=1.0) for number in range(20)]
    much = [rollout("a", number, 0, damage=9.0) for number in range(20, 40)]
    none = [rollout("b", number, 0, damage=-3.0) for number in range(20)]
    first = [cover([*little, *much], damage=True, seed=seed, num_tokens=43)[0].problem_id for seed in range(800)]
    share = sum(int(name.rpartition("-")[2]) >= 20 for name in first) / 800
    assert share == pytest.approx(0.9, abs=4 * (0.9 * 0.1 / 800) ** 0.5)
    chosen = cover([*little, *much, *none], damage=True, num_tokens=860)
    assert shares(chosen) == pytest.approx({"a": 0.95, "b": 0.05}, abs=43 / 860)
    assert {sequence.selected_by for sequence in chosen} == {"cover: damage"}


def test_damage_must_have_been_measured_and_belongs_to_cover():
    items = pool({"a": 10}, damage=1.0)
    with pytest.raises(DataError, match="prune --damage"):
        cover([*items, replace(items[0], problem=replace(items[0].problem, id="z"), damage=None)], damage=True)
    with pytest.raises(ConfigError, match="strategy self"):
        CalibrationConfig(strategy="self", damage=True)
