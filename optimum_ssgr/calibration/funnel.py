"""The funnel: how many of what was generated came through each stage of the selection."""

from collections.abc import Sequence

from ..config import CalibrationConfig
from ..records import CalibrationSequence, GradedRollout
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
