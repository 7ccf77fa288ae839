"""Adaptive sampling: when a problem is decided, and that what is asked depends on verdicts alone."""

import random
from contextlib import nullcontext

import pytest

from optimum_ssgr.calibration.generate import (
    chance_in_window,
    generate_rollouts,
    is_decided,
    split_into_rounds,
    split_into_waves,
    windows_meet_budget,
)
from optimum_ssgr.calibration.strategies import Sources, select
from optimum_ssgr.config import CalibrationConfig
from optimum_ssgr.errors import ConfigError
from optimum_ssgr.records import Problem, Rollout
from optimum_ssgr.rollouts.prompts import encode_prompts


CONFIG = CalibrationConfig(strategy="ssgr", num_sequences=12, samples_per_problem=16, adaptive=True, max_new_tokens=50)


def test_the_chance_is_that_of_simulated_problems():
    """Problems with a pass rate drawn from the prior, kept when they begin as observed."""
    rng = random.Random(0)
    kept, inside = {}, {}
    for _ in range(60_000):
        rate = rng.betavariate(0.5, 0.5)
        drawn = [rng.random() < rate for _ in range(16)]
        begun = sum(drawn[:6])
        kept[begun] = kept.get(begun, 0) + 1
        inside[begun] = inside.get(begun, 0) + (0.2 <= sum(drawn) / 16 <= 0.8)
    for begun, count in kept.items():
        expected = chance_in_window(begun, 6 - begun, 16, (0.2, 0.8))
        error = (expected * (1 - expected) / count) ** 0.5
        assert abs(inside[begun] / count - expected) < 4 * error + 1e-9


def test_what_is_certain_is_certain():
    assert chance_in_window(4, 4, 16, (0.2, 0.8)) == pytest.approx(1)  # 4 to 12 of 16 lie inside, whatever comes
    assert chance_in_window(13, 0, 16, (0.2, 0.8)) == 0
    assert chance_in_window(0, 13, 16, (0.2, 0.8)) == 0


@pytest.mark.parametrize("samples", [4, 8, 16, 64])
def test_a_decided_problem_is_on_the_side_its_rate_so_far_says(samples):
    config = CalibrationConfig(strategy="ssgr", samples_per_problem=samples, adaptive=True)
    for correct in range(samples + 1):
        for wrong in range(samples + 1 - correct):
            if correct + wrong and is_decided(correct, wrong, config):
                inside = 0.2 <= correct / (correct + wrong) <= 0.8
                chance = chance_in_window(correct, wrong, samples, (0.2, 0.8))
                assert chance > 0.95 if inside else chance < 0.05
    assert not is_decided(1, 0, config)
    assert is_decided(samples, 0, config)


def test_rounds_and_waves_cover_everything_once():
    for samples in (1, 3, 4, 8, 16, 17):
        numbers = [number for part in split_into_rounds(CalibrationConfig(samples_per_problem=samples)) for number in part]
        assert numbers == list(range(samples))
    problems = [Problem(str(n), "q", "a") for n in range(53)]
    parts = list(split_into_waves(problems, 0))
    assert sorted(p.id for part in parts for p in part) == sorted(p.id for p in problems)
    assert list(split_into_waves(problems[::-1], 0)) == parts != list(split_into_waves(problems, 1))


class ScriptedEngine:
    """Answers each problem right with the probability in its name, and notes what it was asked."""

    def __init__(self, tokenizer, reverse=False):
        self.tokenizer, self.reverse, self.asked = tokenizer, reverse, []

    def check(self, requests):
        pass

    def generate(self, requests):
        for request in reversed(requests) if self.reverse else requests:
            self.asked.append((request.problem_id, request.sample))
            rng = random.Random(request.seed)
            right = rng.random() < float(request.problem_id.split("/")[0])
            text = "a 1\n" * rng.randrange(1, 6) + f"</think>\n\\boxed{{{int(right)}}}<|end|>"
            ids = self.tokenizer(text, add_special_tokens=False).input_ids
            yield Rollout(request.problem_id, request.sample, request.prompt_ids, tuple(ids), True)


@pytest.fixture(scope="module")
def problems():
    rates = [0.0] * 40 + [1.0] * 120 + [0.5] * 60 + [0.3] * 20 + [0.9] * 40
    return [Problem(f"{rate}/{n}", f"Question {n}.", "1", answer_kind="exact") for n, rate in enumerate(rates)]


def generate(reasoner, problems, config, **engine):
    tokenizer = reasoner[1]
    used = ScriptedEngine(tokenizer, **engine)
    return used, generate_rollouts(used, tokenizer, problems, encode_prompts(tokenizer, problems), config, nullcontext())


@pytest.mark.slow
def test_decided_problems_are_left_alone(reasoner, problems):
    large = CalibrationConfig(strategy="ssgr", num_sequences=1000, samples_per_problem=16, adaptive=True)
    engine, graded = generate(reasoner, problems, large)
    asked = {problem.id: 0 for problem in problems}
    for name, _ in engine.asked:
        asked[name] += 1
    assert len(engine.asked) == len(set(engine.asked)) == len(graded)
    assert max(count for name, count in asked.items() if name.startswith(("0.0", "1.0"))) <= 8
    assert sum(asked.values()) < 0.75 * 16 * len(problems)
    # Hardly any problem is on another side of the window than with all samples.
    _, everything = generate(reasoner, problems, CalibrationConfig(strategy="ssgr", num_sequences=1000, samples_per_problem=16))
    assert len(everything) == 16 * len(problems)
    sides = []
    for items in (graded, everything):
        correct = {}
        for item in items:
            correct.setdefault(item.problem.id, []).append(item.verdict.correct)
        sides.append({name: 0.2 <= sum(found) / len(found) <= 0.8 for name, found in correct.items()})
    assert sum(sides[0][name] != sides[1][name] for name in sides[0]) <= 0.03 * len(problems)


def test_asking_stops_when_the_budget_is_met(reasoner, problems):
    engine, graded = generate(reasoner, problems, CONFIG)
    assert windows_meet_budget(graded, CONFIG)
    assert len({name for name, _ in engine.asked}) <= len(problems) / 4
    assert {sequence.selected_by for sequence in select(Sources(graded), CONFIG)} == {"ssgr"}


def test_what_is_asked_depends_on_verdicts_alone(reasoner, problems):
    first, graded = generate(reasoner, problems, CONFIG)
    second, again = generate(reasoner, problems[::-1], CONFIG, reverse=True)
    assert set(first.asked) == set(second.asked)
    assert graded == again


def test_only_strategies_that_look_for_challenging_problems():
    with pytest.raises(ConfigError, match="which the strategy self does not select by"):
        CalibrationConfig(strategy="self", adaptive=True)
