"""Calibration strategies: each turns the same sources into an endless-enough stream of sequences, best first."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..config import CalibrationConfig
from ..errors import DataError
from ..records import CalibrationSequence, GradedRollout
from .cover import order_by_kind
from .windows import (
    IN_PAIRS,
    compute_length_bounds,
    compute_pass_rates,
    cut_to_budget,
    limit_per_problem,
    select_by_length,
    select_by_pass_rate,
    shuffle,
    take_pairs,
    to_sequence,
)


@dataclass(frozen=True)
class Sources:
    """What strategies select from.

    Args:
        rollouts: All rollouts of all problems, graded, in any order.
        prompts: Prompt token ids by problem id.
        text_ids: General text, tokenized.
        opening: Tokens put before every window of text, such as the beginning-of-text token.
    """

    rollouts: Sequence[GradedRollout] = ()
    prompts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    text_ids: Sequence[int] = ()
    opening: tuple[int, ...] = ()


WIDENED = "any"
"""Part of `selected_by` when the strategy's own windows gave too few."""


def select_ssgr(sources: Sources, config: CalibrationConfig) -> Iterator[CalibrationSequence]:
    """Yield correct, challenging, moderately long traces (SSGR, arXiv 2511.18864).

    Moderate is measured among the correct traces of challenging problems, which are longer than those of easy ones. When the
    windows give too few, they widen in this order, and `selected_by` says so: any problem that is sometimes solved;
    any correct trace of moderate length; any correct trace.
    """
    rates, correct = compute_pass_rates(sources.rollouts), _keep_correct(sources.rollouts)
    challenging = select_by_pass_rate(correct, rates, config.pass_rate)
    bounds = compute_length_bounds(challenging or correct, config.length_window)
    moderate = select_by_length(correct, bounds)
    steps = (
        ("ssgr", select_by_length(challenging, bounds)),
        (f"ssgr: {WIDENED} pass rate below 1", [item for item in moderate if rates[item.problem.id] < 1]),
        (f"ssgr: {WIDENED} pass rate", moderate),
        (f"ssgr: {WIDENED} pass rate and length", correct),
    )

    def widening() -> Iterator[CalibrationSequence]:
        seen: set[tuple[str, int]] = set()  # each step holds what the one before it held
        for name, items in steps:
            yield from (to_sequence(item, name) for item in shuffle(items, config.seed) if _key(item) not in seen)
            seen |= {_key(item) for item in items}

    yield from limit_per_problem(widening(), config.max_per_problem)


def select_cover(sources: Sources, config: CalibrationConfig) -> Iterator[CalibrationSequence]:
    """Yield correct traces of every kind of problem, the hard or the damaged ones more often, see `cover.order_by_kind`.

    That a mixture of kinds keeps more abilities than the best single one is measured in arXiv 2606.03328.
    """
    correct = _keep_correct(sources.rollouts)
    if config.damage and any(item.damage is None for item in correct):
        raise DataError(
            "the damage of some correct rollouts was not measured; `ssgr prune --damage` measures it, and keeps it with them."
        )
    name = "cover: damage" if config.damage else "cover"
    yield from order_by_kind(correct, compute_pass_rates(sources.rollouts), config, name)


def select_self(sources: Sources, config: CalibrationConfig) -> Iterator[CalibrationSequence]:
    """Yield correct self-generated traces at random."""
    yield from _select_at_random(_keep_correct(sources.rollouts), "self", config)


def select_rac(sources: Sources, config: CalibrationConfig) -> Iterator[CalibrationSequence]:
    """Yield self-generated traces at random, right or wrong (RAC, arXiv 2509.12464)."""
    yield from _select_at_random(sources.rollouts, "rac", config)


def select_resp(sources: Sources, config: CalibrationConfig) -> Iterator[CalibrationSequence]:
    """Yield the traces of `rac` with the prompt's tokens counting nothing (RESP, arXiv 2512.02185).

    Of RESP this is the calibration alone: its gradient-based importance and its regeneration of traces while sparsity grows
    belong to structured pruning and are not implemented.
    """
    for item in _select_at_random(sources.rollouts, "resp", config):
        yield _weight_response(item, 1.0)


def select_obc(sources: Sources, config: CalibrationConfig) -> Iterator[CalibrationSequence]:
    """Yield pairs of one right and one wrong trace of problems with both (OBC-Prune, arXiv 2609.17890).

    A pair is kept whole or left out, so that a budget is not always filled to the token.

    The right one is of median length (the shorter of the middle two), the wrong one the longest. Prompts count nothing, and
    the tokens of a pair's traces are weighted so that both count the same in total. The pairs are the paper's; its own token
    weights were not at hand, so these weights are ours.
    """
    outcomes: dict[str, dict[bool, list[GradedRollout]]] = defaultdict(lambda: {True: [], False: []})
    for item in sources.rollouts:
        if not item.verdict.timed_out:
            outcomes[item.problem.id][item.verdict.correct].append(item)
    mixed = sorted(name for name, found in outcomes.items() if found[True] and found[False])
    if not mixed:
        raise DataError("no problem has both right and wrong rollouts, so the strategy obc finds no pairs; sample more.")
    random.Random(config.seed).shuffle(mixed)
    for name in mixed:
        right, wrong = (sorted(outcomes[name][correct], key=_by_length) for correct in (True, False))
        pair = right[(len(right) - 1) // 2], wrong[-1]
        middle = sum(len(item.rollout.response_ids) for item in pair) / 2
        for item in pair:
            yield _weight_response(to_sequence(item, "obc"), middle / len(item.rollout.response_ids))


def select_prompts(sources: Sources, config: CalibrationConfig) -> Iterator[CalibrationSequence]:
    """Yield the questions alone, in a seeded order."""
    order = sorted(sources.prompts)
    random.Random(config.seed).shuffle(order)
    yield from (CalibrationSequence(sources.prompts[problem_id], (), "prompts", problem_id) for problem_id in order)


def select_text(sources: Sources, config: CalibrationConfig) -> Iterator[CalibrationSequence]:
    """Yield windows of general text, none overlapping, in a seeded order."""
    width = config.text_length - len(sources.opening)
    starts = list(range(0, len(sources.text_ids) - width + 1, width))
    random.Random(config.seed).shuffle(starts)
    for start in starts:
        yield CalibrationSequence((), sources.opening + tuple(sources.text_ids[start : start + width]), "text")


def select_mix(sources: Sources, config: CalibrationConfig) -> Iterator[CalibrationSequence]:
    """Yield the traces of `ssgr` and windows of general text by turns, so that the text has its share of the tokens.

    Such mixtures are compared in arXiv 2510.10618 and 2606.03328.
    """
    streams = {False: select_ssgr(sources, config), True: select_text(sources, config)}
    tokens = {False: 0, True: 0}
    while True:
        text_is_behind = tokens[True] * (1 - config.text_share) < tokens[False] * config.text_share
        sequence = next(streams[text_is_behind], None)
        if sequence is None:
            return
        tokens[text_is_behind] += sequence.num_tokens
        yield sequence


STRATEGIES: dict[str, Callable[[Sources, CalibrationConfig], Iterator[CalibrationSequence]]] = {
    "ssgr": select_ssgr,
    "cover": select_cover,
    "self": select_self,
    "rac": select_rac,
    "resp": select_resp,
    "obc": select_obc,
    "mix": select_mix,
    "prompts": select_prompts,
    "text": select_text,
}


def select(sources: Sources, config: CalibrationConfig) -> list[CalibrationSequence]:
    """Select calibration sequences: a pure function of the sources, not of their order.

    Args:
        sources: Rollouts, prompts or text, whatever the strategy takes.
        config: Strategy, windows, budgets and seed.

    Raises:
        DataError: Nothing qualifies.
    """
    take = take_pairs if config.strategy in IN_PAIRS else cut_to_budget
    chosen = take(STRATEGIES[config.strategy](sources, config), config.num_sequences, config.num_tokens)
    if not chosen and config.strategy in IN_PAIRS:
        raise DataError(f"no pair of the strategy {config.strategy} fits into the budget; raise it.")
    if not chosen:
        raise DataError(f"the strategy {config.strategy} has nothing to select from; ask more problems.")
    return chosen


def _select_at_random(items: Iterable[GradedRollout], name: str, config: CalibrationConfig) -> Iterator[CalibrationSequence]:
    ordered = (to_sequence(item, name) for item in shuffle(items, config.seed))
    return limit_per_problem(ordered, config.max_per_problem)


def _weight_response(sequence: CalibrationSequence, weight: float) -> CalibrationSequence:
    """Weight the response's tokens, and the prompt's with nothing."""
    weights = (0.0,) * len(sequence.prompt_ids) + (weight,) * len(sequence.response_ids)
    return CalibrationSequence(
        sequence.prompt_ids, sequence.response_ids, sequence.selected_by, sequence.problem_id, sequence.sample, weights
    )


def _keep_correct(graded: Iterable[GradedRollout]) -> list[GradedRollout]:
    correct = [item for item in graded if item.verdict.correct]
    if not correct:
        raise DataError(
            "not one rollout is correct, so there is nothing to select; check the answers, raise max_new_tokens "
            "or take easier problems."
        )
    return correct


def _key(item: GradedRollout) -> tuple[str, int]:
    return item.problem.id, item.rollout.sample


def _by_length(item: GradedRollout) -> tuple[int, int]:
    return len(item.rollout.response_ids), item.rollout.sample
