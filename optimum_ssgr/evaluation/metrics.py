"""Numbers about responses: accuracy with its interval, pass@k, lengths, truncation and verbatim loops."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import DataError
from ..records import GradedRollout
from .intervals import Estimate, estimate_difference, estimate_share
from .kinds import summarize_kinds


def problem_means(graded: Sequence[GradedRollout], values: Sequence[float]) -> np.ndarray:
    """Return the mean of a number over the responses to each problem.

    Args:
        graded: Responses to one or more problems, any number of samples each.
        values: The number, one per response.

    Returns:
        float [1, problems]: one seed, problems in the order of their first response.
    """
    of: dict[str, list[float]] = {}
    for item, value in zip(graded, values, strict=True):
        of.setdefault(item.problem.id, []).append(value)
    return np.array([[float(np.mean(found)) for found in of.values()]])


def pass_at_k(graded: Sequence[GradedRollout], k: int) -> Estimate:
    """Chance that at least one of k samples is right, estimated without bias from n >= k samples of every problem.

    For a problem with c right samples of n it is 1 - C(n - c, k) / C(n, k) (Chen et al., arXiv 2107.03374, equation 1); for
    k = 1 that is the share of right samples, so that pass@1 is the accuracy that `summarize` returns.

    Args:
        graded: Responses to one or more problems, at least k to each.
        k: Number of samples to choose the best of.

    Returns:
        Mean over problems.

    Raises:
        DataError: A problem has fewer than k samples.
    """
    samples = Counter(item.problem.id for item in graded)
    right = Counter(item.problem.id for item in graded if item.verdict.correct)
    fewest = min(samples.values())
    if not 1 <= k <= fewest:
        raise DataError(f"pass@{k} needs at least {k} samples of every problem, and one has {fewest}.")
    chances = [
        (math.comb(n, k) - math.comb(n - right[problem], k)) / math.comb(n, k) for problem, n in samples.items()
    ]  # in whole numbers, so that for k = 1 it is the accuracy bit for bit
    return estimate_share(np.array([chances]))


def is_loop(token_ids: Sequence[int], least: int = 32) -> bool:
    """Tell whether a response ends in the same words over and over.

    Args:
        token_ids: The response.
        least: Fewest tokens that must repeat what stood one period before.

    Returns:
        True when the tail repeats some period at least three times and at least `least` tokens of it are repetition.
    """
    ids = np.asarray(token_ids)
    for period in range(1, len(ids) // 3 + 1):
        needed = max(2 * period, least)
        if needed + period > len(ids):
            continue
        if ids[-1] == ids[-1 - period] and np.array_equal(ids[-needed:], ids[-needed - period : -period]):
            return True
    return False


def summarize(graded: Sequence[GradedRollout]) -> dict[str, Any]:
    """Summarize graded responses.

    Args:
        graded: Responses to one or more problems, any number of samples each.

    Returns:
        `problems`, `samples` (responses in all), `accuracy` (pass@1: the share of right responses to a problem, as a mean over
        the problems that have any) with `accuracy_se` and `accuracy_ci95`; of all responses `mean_tokens`, `median_tokens`,
        `p95_tokens` (the 95th percentile), and the shares `truncated`, `missing_think_end` (of the responses that think; None
        when there is none) and `looping`, and the numbers `unreadable` (finished without an answer that can be read) and
        `timed_out` (it could not be found out whether the answer is right); neither counts as right. Where the problems are of
        several kinds, also what `kinds.summarize_kinds` returns.
    """
    scores = problem_means(graded, [item.verdict.correct for item in graded])
    kinds = list({item.problem.id: item.problem.kind for item in graded}.values())  # in the order of the scores
    accuracy = estimate_share(scores)
    lengths = [len(item.rollout.response_ids) for item in graded]
    closed = [item.verdict.thought for item in graded if item.verdict.thought is not None]
    return {
        "problems": len({item.problem.id for item in graded}),
        "samples": len(graded),
        "accuracy": accuracy.mean,
        "accuracy_se": accuracy.error,
        "accuracy_ci95": list(accuracy.interval),
        "mean_tokens": float(np.mean(lengths)),
        "median_tokens": float(np.median(lengths)),
        "p95_tokens": float(np.percentile(lengths, 95)),
        "truncated": sum(not item.rollout.finished for item in graded) / len(graded),
        "missing_think_end": closed.count(False) / len(closed) if closed else None,
        "looping": sum(is_loop(item.rollout.response_ids) for item in graded) / len(graded),
        "unreadable": sum(item.is_unreadable for item in graded),
        "timed_out": sum(item.verdict.timed_out for item in graded),
        **summarize_kinds(scores, kinds),
    }


def paired_difference(graded: Sequence[GradedRollout], baseline: Sequence[GradedRollout]) -> Estimate:
    """Difference in accuracy of two models on the same problems and samples.

    Args:
        graded: Responses of one model.
        baseline: Responses of the other; what only one of the two answered, since a server lost the other's, is left out.

    Returns:
        Mean over problems of (model - baseline); pairing removes what the models share.

    Raises:
        DataError: The two have no problem and sample in common.
    """
    theirs = {(item.problem.id, item.rollout.sample): item.verdict.correct for item in baseline}
    ours = [item for item in graded if (item.problem.id, item.rollout.sample) in theirs]
    if not ours:
        raise DataError("the two models were not asked the same problems, so they cannot be compared.")
    differences = [int(item.verdict.correct) - int(theirs[item.problem.id, item.rollout.sample]) for item in ours]
    return estimate_difference(problem_means(ours, differences))
