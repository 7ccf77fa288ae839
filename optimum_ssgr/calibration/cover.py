"""Traces of every kind of problem, those more often that are hard for the model, or that pruning damages."""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..config import CalibrationConfig
from ..records import CalibrationSequence, GradedRollout
from .windows import limit_per_problem, to_sequence


FLOOR = 0.05
"""Share of the tokens that every kind of problem has at least; less when there are more kinds than that allows."""
LEAST_WEIGHT = 0.02
"""Added to a problem's difficulty, so that traces of problems that are always solved can be drawn, too."""


def order_by_kind(
    correct: Sequence[GradedRollout], rates: Mapping[str, float], config: CalibrationConfig, selected_by: str
) -> Iterator[CalibrationSequence]:
    """Yield correct traces so that, wherever it is stopped, every kind of problem has about its share of the tokens.

    Inside a kind, traces are drawn one after the other, each with a probability in proportion to its weight.

    Args:
        correct: Correct rollouts, in any order.
        rates: Pass rate by problem id.
        config: Whether damage is the weight, or difficulty; traces of one problem at most; seed.
        selected_by: What the sequences say they were selected by.
    """
    kinds: dict[str, list[GradedRollout]] = defaultdict(list)
    for item in sorted(correct, key=lambda item: (item.problem.id, item.rollout.sample)):
        kinds[item.problem.kind or ""].append(item)
    weigh = weigh_by_damage if config.damage else weigh_by_difficulty
    weights = {kind: weigh(items, rates) for kind, items in kinds.items()}
    sizes = {kind: sum(weights[kind]) if config.damage else len(kinds[kind]) for kind in kinds}
    shares = share_tokens(sizes, dict(config.kind_shares))
    streams: dict[str, Iterator[CalibrationSequence]] = {}
    for kind in sorted(kinds):
        drawn = _draw(kinds[kind], weights[kind], f"{config.seed}-{kind}")
        streams[kind] = limit_per_problem((to_sequence(item, selected_by) for item in drawn), config.max_per_problem)
    tokens = dict.fromkeys(streams, 0)
    while streams:
        # the kind that is furthest behind its share; at first, when none has a token, the largest
        behind = min(streams, key=lambda kind: (tokens[kind] / shares[kind], -shares[kind], kind))
        sequence = next(streams[behind], None)
        if sequence is None:
            del streams[behind]
            continue
        tokens[behind] += sequence.num_tokens
        yield sequence


def share_tokens(sizes: Mapping[str, float], given: Mapping[str, float]) -> dict[str, float]:
    """Divide the tokens among kinds of problems: a floor for each, and what is left in proportion to a size.

    Args:
        sizes: A size by kind, such as the number of its correct traces, or their damage.
        given: Shares that are asked for, by kind; the others divide what these leave.

    Returns:
        Shares by kind, which are positive and add up to 1.
    """
    asked = {kind: given[kind] for kind in sizes if kind in given}
    others = {kind: size for kind, size in sizes.items() if kind not in asked}
    left = max(0.0, 1 - sum(asked.values()))
    floor = min(FLOOR, 1 / max(1, len(others)))
    total = sum(others.values())
    proportion = {kind: size / total if total else 1 / len(others) for kind, size in others.items()}
    shares = asked | {kind: left * (floor + (1 - len(others) * floor) * share) for kind, share in proportion.items()}
    whole = sum(shares.values())
    # a kind that is left without a share comes last, behind all that have one
    return {kind: max(share / whole, 1e-9) for kind, share in shares.items()}


def weigh_by_difficulty(items: Sequence[GradedRollout], rates: Mapping[str, float]) -> list[float]:
    """Weigh traces by the square root of their problems' difficulty: preferred, and never alone."""
    return [float(np.sqrt(1 - rates[item.problem.id] + LEAST_WEIGHT)) for item in items]


def weigh_by_damage(items: Sequence[GradedRollout], rates: Mapping[str, float]) -> list[float]:
    """Weigh traces by the damage that pruning did to them; all alike where it did none."""
    damage = [max(0.0, item.damage or 0.0) for item in items]
    return damage if any(damage) else [LEAST_WEIGHT] * len(items)


def _draw(items: Sequence[GradedRollout], weights: Sequence[float], seed: str) -> Iterator[GradedRollout]:
    """Draw without replacement, with probabilities in proportion to the weights.

    Each waits for an exponential time of its weight's rate, and the first to come is drawn first (Efraimidis and Spirakis,
    "Weighted random sampling with a reservoir", 2006), so that weights of zero come last.
    """
    rng = random.Random(seed)
    waits = [(rng.expovariate(1.0) / weight if weight else float("inf"), place) for place, weight in enumerate(weights)]
    yield from (items[place] for _, place in sorted(waits))
