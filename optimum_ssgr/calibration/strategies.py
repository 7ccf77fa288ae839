"""Calibration strategies: each turns rollouts, prompts or text into an endless-enough stream of sequences, best first."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..config import CalibrationConfig
from ..errors import DataError
from ..records import CalibrationSequence, GradedRollout
from .selection import at_most_per_problem, length_bounds, pass_rates, seeded_order, within_budget


def _sequence(item: GradedRollout, selected_by: str) -> CalibrationSequence:
    rollout = item.rollout
    return CalibrationSequence(rollout.prompt_ids, rollout.response_ids, selected_by, rollout.problem_id, rollout.sample)


def _correct(graded: Iterable[GradedRollout]) -> list[GradedRollout]:
    correct = [item for item in graded if item.verdict.correct]
    if not correct:
        raise DataError(
            "not one rollout is correct, so there is nothing to select; check the answers, raise max_new_tokens "
            "or take easier problems."
        )
    return correct


def ssgr(graded: Sequence[GradedRollout], config: CalibrationConfig) -> Iterator[CalibrationSequence]:
    """Yield correct, challenging, moderately long traces (SSGR, arXiv 2511.18864).

    Moderate is measured among the correct traces of challenging problems, which are longer than those of easy ones. When the
    windows give too few, they widen in this order, and `selected_by` says so: any problem that is sometimes solved;
    any correct trace of moderate length; any correct trace.
    """
    correct, rates = _correct(graded), pass_rates(graded)
    lowest, highest = config.pass_rate
    challenging = [item for item in correct if lowest <= rates[item.problem.id] <= highest]
    shortest, longest = length_bounds(challenging or correct, config.length_window)

    def moderate(item: GradedRollout) -> bool:
        return shortest <= len(item.rollout.response_ids) <= longest

    rules = (
        ("ssgr", lambda item: moderate(item) and lowest <= rates[item.problem.id] <= highest),
        ("ssgr: any pass rate below 1", lambda item: moderate(item) and rates[item.problem.id] < 1),
        ("ssgr: any pass rate", moderate),
        ("ssgr: any pass rate and length", lambda item: True),
    )
    waiting = seeded_order(correct, config.seed)
    for name, accepts in rules:
        yield from (_sequence(item, name) for item in waiting if accepts(item))
        waiting = [item for item in waiting if not accepts(item)]


def self_generated(graded: Sequence[GradedRollout], config: CalibrationConfig) -> Iterator[CalibrationSequence]:
    """Yield correct self-generated traces at random."""
    yield from (_sequence(item, "self") for item in seeded_order(_correct(graded), config.seed))


def rac(graded: Sequence[GradedRollout], config: CalibrationConfig) -> Iterator[CalibrationSequence]:
    """Yield self-generated traces at random, right or wrong (RAC, arXiv 2509.12464)."""
    yield from (_sequence(item, "rac") for item in seeded_order(graded, config.seed))


def prompts(encoded: Mapping[str, tuple[int, ...]], config: CalibrationConfig) -> Iterator[CalibrationSequence]:
    """Yield the questions alone, in a seeded order."""
    order = sorted(encoded)
    random.Random(config.seed).shuffle(order)
    yield from (CalibrationSequence(encoded[problem_id], (), "prompts", problem_id) for problem_id in order)


def text(token_ids: Sequence[int], opening: tuple[int, ...], config: CalibrationConfig) -> Iterator[CalibrationSequence]:
    """Yield windows of general text, none overlapping, in a seeded order.

    Args:
        token_ids: The text, tokenized.
        opening: Tokens put before every window, such as the beginning-of-text token.
        config: Length of a window, opening included, and seed.
    """
    width = config.text_length - len(opening)
    starts = list(range(0, len(token_ids) - width + 1, width))
    if not starts:
        raise DataError(f"the text has {len(token_ids)} tokens, less than one window of {width}.")
    random.Random(config.seed).shuffle(starts)
    for start in starts:
        yield CalibrationSequence((), opening + tuple(token_ids[start : start + width]), "text")


ROLLOUT_STRATEGIES = {"ssgr": ssgr, "self": self_generated, "rac": rac}


def select(graded: Sequence[GradedRollout], config: CalibrationConfig) -> list[CalibrationSequence]:
    """Select calibration sequences among rollouts: a pure function of what they are, not of their order.

    Args:
        graded: All rollouts of all problems, graded.
        config: Strategy, windows, budgets and seed.

    Raises:
        DataError: No rollout is correct and the strategy needs correct ones.
    """
    stream = ROLLOUT_STRATEGIES[config.strategy](graded, config)
    limited = at_most_per_problem(stream, config.max_per_problem)
    return within_budget(limited, config.num_sequences, config.num_tokens)
