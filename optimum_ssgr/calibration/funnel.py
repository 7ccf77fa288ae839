"""The funnel: how many of what was generated came through each stage of the selection, in all and by kind of problem."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import fmean

from ..config import CalibrationConfig
from ..records import UNKNOWN_KIND, CalibrationSequence, GradedRollout
from .strategies import WIDENED
from .windows import compute_length_bounds, compute_pass_rates, select_by_length, select_by_pass_rate


def count_funnel(
    graded: Sequence[GradedRollout], chosen: Sequence[CalibrationSequence], config: CalibrationConfig
) -> dict[str, int]:
    """Count what came through.

    Args:
        graded: All rollouts; empty when the strategy needs none.
        chosen: What was selected.
        config: Strategy and windows.

    Returns:
        `problems`, `rollouts`, `generated_tokens`, `finished`, `correct`, `timed_out` if any verdict did and, when the strategy
        has windows, `in_difficulty_window`, `in_length_window` and `widened`, the sequences from outside the windows (all of
        them left out without rollouts), then `sequences` and `tokens`.
    """
    counts: dict[str, int] = {}
    if graded:
        rates = compute_pass_rates(graded)
        correct = [item for item in graded if item.verdict.correct]
        counts = {
            "problems": len({item.problem.id for item in graded}),
            "rollouts": len(graded),
            "generated_tokens": sum(len(item.rollout.response_ids) for item in graded),
            "finished": sum(item.rollout.finished for item in graded),
            "correct": len(correct),
        }
        if timed_out := sum(item.verdict.timed_out for item in graded):
            counts["timed_out"] = timed_out
        if config.strategy in ("ssgr", "mix"):
            hard = select_by_pass_rate(correct, rates, config.pass_rate)
            moderate = select_by_length(hard, compute_length_bounds(hard, config.length_window)) if hard else []
            counts["in_difficulty_window"] = len(hard)
            counts["in_length_window"] = len(moderate)
            counts["widened"] = sum(WIDENED in sequence.selected_by for sequence in chosen)
    return counts | {"sequences": len(chosen), "tokens": sum(sequence.num_tokens for sequence in chosen)}


def count_kinds(
    graded: Sequence[GradedRollout], chosen: Sequence[CalibrationSequence]
) -> dict[str, dict[str, float | None]] | None:
    """Count by kind what there was to select from, and what was selected.

    Args:
        graded: All rollouts; empty when the strategy needs none.
        chosen: What was selected.

    Returns:
        By the name of the kind `problems`, `correct` (correct traces), `pass_rate` (mean over its problems; None when no
        verdict on them was reached), `pool_share` and `selected_share`: its shares of the tokens, prompts included, of all
        correct traces and of the selected sequences that belong to problems. None when the problems are of fewer than two
        kinds.
    """
    kinds = {item.problem.id: item.problem.kind or UNKNOWN_KIND for item in graded}
    problems = Counter(kinds.values())
    if len(problems) < 2:
        return None
    correct: Counter[str] = Counter()
    pool: Counter[str] = Counter()
    for item in graded:
        if item.verdict.correct:
            correct[kinds[item.problem.id]] += 1
            pool[kinds[item.problem.id]] += len(item.rollout.prompt_ids) + len(item.rollout.response_ids)
    selected: Counter[str] = Counter()
    for sequence in chosen:
        if sequence.problem_id in kinds:
            selected[kinds[sequence.problem_id]] += sequence.num_tokens
    rates: dict[str, list[float]] = defaultdict(list)
    for problem_id, rate in compute_pass_rates(graded).items():
        rates[kinds[problem_id]].append(rate)
    return {
        name: {
            "problems": problems[name],
            "correct": correct[name],
            "pass_rate": fmean(rates[name]) if rates[name] else None,
            "pool_share": pool[name] / max(pool.total(), 1),
            "selected_share": selected[name] / max(selected.total(), 1),
        }
        for name in sorted(problems)
    }
