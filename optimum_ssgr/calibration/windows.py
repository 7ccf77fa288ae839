"""Windows of difficulty and length, order and budget: the parts that strategies are made of."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import mean

import numpy as np

from ..config import CalibrationConfig
from ..records import CalibrationSequence, GradedRollout


IN_PAIRS = ("obc",)
"""Strategies whose sequences come in pairs, which are kept whole."""


def compute_pass_rates(graded: Iterable[GradedRollout]) -> dict[str, float]:
    """Return the share of correct rollouts by problem id; difficulty is one minus this share.

    Rollouts whose verdict timed out do not count; a problem that has no others is left out.
    """
    verdicts: dict[str, list[bool]] = defaultdict(list)
    for item in graded:
        if not item.verdict.timed_out:
            verdicts[item.problem.id].append(item.verdict.correct)
    return {problem_id: mean(correct) for problem_id, correct in verdicts.items()}


def select_by_pass_rate(
    correct: Sequence[GradedRollout], rates: Mapping[str, float], window: tuple[float, float]
) -> list[GradedRollout]:
    """Return the correct rollouts of problems whose pass rate lies in the window, its ends included."""
    return [item for item in correct if window[0] <= rates[item.problem.id] <= window[1]]


def compute_length_bounds(graded: Sequence[GradedRollout], percentiles: tuple[float, float]) -> tuple[float, float]:
    """Return the lengths, in tokens, at two percentiles of the responses' lengths."""
    lengths = [len(item.rollout.response_ids) for item in graded]
    low, high = np.percentile(lengths, percentiles)
    return float(low), float(high)


def select_by_length(graded: Sequence[GradedRollout], bounds: tuple[float, float]) -> list[GradedRollout]:
    """Return the rollouts whose responses have a length within the bounds, in tokens, its ends included."""
    return [item for item in graded if bounds[0] <= len(item.rollout.response_ids) <= bounds[1]]


def shuffle(graded: Iterable[GradedRollout], seed: int) -> list[GradedRollout]:
    """Shuffle by a seed, whatever order the rollouts come in."""
    ordered = sorted(graded, key=lambda item: (item.problem.id, item.rollout.sample))
    random.Random(seed).shuffle(ordered)
    return ordered


def to_sequence(item: GradedRollout, selected_by: str) -> CalibrationSequence:
    """Make a sequence of a rollout, prompt and response exactly as they are."""
    rollout = item.rollout
    return CalibrationSequence(rollout.prompt_ids, rollout.response_ids, selected_by, rollout.problem_id, rollout.sample)


def limit_per_problem(sequences: Iterable[CalibrationSequence], most: int) -> Iterator[CalibrationSequence]:
    """Drop sequences of a problem that has given `most` already."""
    taken: Counter[str | None] = Counter()
    for sequence in sequences:
        if taken[sequence.problem_id] < most:
            taken[sequence.problem_id] += 1
            yield sequence


def take_pairs(
    sequences: Iterable[CalibrationSequence], num_sequences: int | None, num_tokens: int | None
) -> list[CalibrationSequence]:
    """Take sequences two by two, each pair whole or not at all: those that no longer fit into the budget are left out."""
    chosen: list[CalibrationSequence] = []
    left = math.inf if num_tokens is None else num_tokens
    one_by_one = iter(sequences)
    for pair in zip(one_by_one, one_by_one, strict=True):
        if num_sequences is not None and len(chosen) + 2 > num_sequences:
            break
        size = sum(sequence.num_tokens for sequence in pair)
        if size <= left:
            chosen += pair
            left -= size
    return chosen


def cut_to_budget(
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
            sequence = replace(
                sequence,
                prompt_ids=sequence.prompt_ids[:left],
                response_ids=sequence.response_ids[:response],
                token_weights=sequence.token_weights and sequence.token_weights[:left],
            )
            left -= sequence.num_tokens
        chosen.append(sequence)
    return chosen


def meets_budget(lengths: Sequence[int], config: CalibrationConfig) -> bool:
    """Tell whether as much was chosen as was asked for; of pairs, whether one more like the longest would be too much.

    Args:
        lengths: Tokens in each sequence that was chosen, in order.
        config: Strategy and budgets.
    """
    if config.strategy not in IN_PAIRS:
        return len(lengths) == config.num_sequences or sum(lengths) == config.num_tokens
    if config.num_sequences is not None and len(lengths) + 2 > config.num_sequences:
        return True
    longest = max(map(sum, zip(lengths[::2], lengths[1::2], strict=True)), default=0)
    return config.num_tokens is not None and sum(lengths) + longest > config.num_tokens
