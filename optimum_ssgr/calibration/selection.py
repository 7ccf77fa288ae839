"""Difficulty, length and budget: the parts that strategies are made of."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import mean

import numpy as np

from ..records import CalibrationSequence, GradedRollout


def pass_rates(graded: Iterable[GradedRollout]) -> dict[str, float]:
    """Return the share of correct rollouts by problem id; difficulty is one minus this share."""
    verdicts: dict[str, list[bool]] = defaultdict(list)
    for item in graded:
        verdicts[item.problem.id].append(item.verdict.correct)
    return {problem_id: mean(correct) for problem_id, correct in verdicts.items()}


def length_bounds(graded: Sequence[GradedRollout], percentiles: tuple[float, float]) -> tuple[float, float]:
    """Return the lengths, in tokens, at two percentiles of the responses' lengths."""
    lengths = [len(item.rollout.response_ids) for item in graded]
    low, high = np.percentile(lengths, percentiles)
    return float(low), float(high)


def seeded_order(graded: Iterable[GradedRollout], seed: int) -> list[GradedRollout]:
    """Shuffle by a seed, whatever order the rollouts come in."""
    ordered = sorted(graded, key=lambda item: (item.problem.id, item.rollout.sample))
    random.Random(seed).shuffle(ordered)
    return ordered


def at_most_per_problem(sequences: Iterable[CalibrationSequence], most: int) -> Iterable[CalibrationSequence]:
    """Drop sequences of a problem that has given `most` already."""
    taken: Counter[str | None] = Counter()
    for sequence in sequences:
        if taken[sequence.problem_id] < most:
            taken[sequence.problem_id] += 1
            yield sequence


def within_budget(
    sequences: Iterable[CalibrationSequence], num_sequences: int | None, num_tokens: int | None
) -> list[CalibrationSequence]:
    """Take sequences until either budget is met; the last one is cut so that the tokens are met exactly."""
    chosen: list[CalibrationSequence] = []
    left = num_tokens
    for sequence in sequences:
        if len(chosen) == num_sequences or left == 0:
            break
        if left is not None:
            response = max(0, left - len(sequence.prompt_ids))
            sequence = replace(sequence, prompt_ids=sequence.prompt_ids[:left], response_ids=sequence.response_ids[:response])
            left -= len(sequence.input_ids)
        chosen.append(sequence)
    return chosen
