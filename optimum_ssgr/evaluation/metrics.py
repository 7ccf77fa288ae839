"""Numbers about responses: accuracy with its standard error, pass@k, lengths, truncation and verbatim loops."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..errors import DataError
from ..records import GradedRollout


NORMAL_95 = 1.96
"""Standard errors on either side of a mean that hold the truth 95 times in 100."""


def clustered_mean(values: Sequence[float], clusters: Sequence[str]) -> tuple[float, float]:
    """Mean with a standard error that treats values of one cluster as dependent.

    Args:
        values: One number per sample.
        clusters: Cluster of each sample, such as its problem.

    Returns:
        Mean over samples and its cluster-robust standard error, with the G / (G - 1) correction for G clusters; the error is
        NaN for a single cluster.
    """
    data = np.asarray(values, dtype=np.float64)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    groups = int(index.max()) + 1
    average = float(data.mean())
    if groups < 2:
        return average, math.nan
    residuals = np.bincount(index, weights=data - average)
    return average, math.sqrt(groups / (groups - 1) * float((residuals**2).sum())) / len(data)


def interval(mean: float, error: float) -> tuple[float, float]:
    """Return the 95 % confidence interval around a mean with a standard error, by the normal distribution."""
    return mean - NORMAL_95 * error, mean + NORMAL_95 * error


def pass_at_k(graded: Sequence[GradedRollout], k: int) -> tuple[float, float]:
    """Chance that at least one of k samples is right, estimated without bias from n >= k samples of every problem.

    For a problem with c right samples of n it is 1 - C(n - c, k) / C(n, k) (Chen et al., arXiv 2107.03374, equation 1); for
    k = 1 that is the share of right samples.

    Args:
        graded: Responses to one or more problems, at least k to each.
        k: Number of samples to choose the best of.

    Returns:
        Mean over problems and its standard error.

    Raises:
        DataError: A problem has fewer than k samples.
    """
    samples = Counter(item.problem.id for item in graded)
    right = Counter(item.problem.id for item in graded if item.verdict.correct)
    fewest = min(samples.values())
    if not 1 <= k <= fewest:
        raise DataError(f"pass@{k} needs at least {k} samples of every problem, and one has {fewest}.")
    chances = [1 - math.comb(n - right[problem], k) / math.comb(n, k) for problem, n in samples.items()]
    return clustered_mean(chances, list(samples))


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


def summarize(graded: Sequence[GradedRollout]) -> dict[str, float | int]:
    """Summarize graded responses.

    Args:
        graded: Responses to one or more problems, any number of samples each.

    Returns:
        `problems`, `samples`, `accuracy` with `accuracy_se` (clustered by problem), `mean_tokens`, `median_tokens`,
        `p95_tokens` (the 95th percentile), the shares `truncated`, `missing_think_end` (of the responses that think; None
        when there is none) and `looping`, and the numbers `unreadable` (finished without an answer that can be read) and
        `timed_out` (it could not be found out whether the answer is right); neither counts as right.
    """
    accuracy, error = clustered_mean([item.verdict.correct for item in graded], [item.problem.id for item in graded])
    lengths = [len(item.rollout.response_ids) for item in graded]
    closed = [item.verdict.thought for item in graded if item.verdict.thought is not None]
    return {
        "problems": len({item.problem.id for item in graded}),
        "samples": len(graded),
        "accuracy": accuracy,
        "accuracy_se": error,
        "mean_tokens": float(np.mean(lengths)),
        "median_tokens": float(np.median(lengths)),
        "p95_tokens": float(np.percentile(lengths, 95)),
        "truncated": sum(not item.rollout.finished for item in graded) / len(graded),
        "missing_think_end": closed.count(False) / len(closed) if closed else None,
        "looping": sum(is_loop(item.rollout.response_ids) for item in graded) / len(graded),
        "unreadable": sum(item.is_unreadable for item in graded),
        "timed_out": sum(item.verdict.timed_out for item in graded),
    }


def paired_difference(graded: Sequence[GradedRollout], baseline: Sequence[GradedRollout]) -> tuple[float, float]:
    """Difference in accuracy of two models on the same problems and samples, with its clustered standard error.

    Args:
        graded: Responses of one model.
        baseline: Responses of the other; what only one of the two answered, since a server lost the other's, is left out.

    Returns:
        Mean of (model - baseline) and its standard error, clustered by problem; pairing removes what the models share.

    Raises:
        DataError: The two have no problem and sample in common.
    """
    theirs = {(item.problem.id, item.rollout.sample): item.verdict.correct for item in baseline}
    keys = [(item.problem.id, item.rollout.sample) for item in graded]
    pairs = [(key, item) for key, item in zip(keys, graded, strict=True) if key in theirs]
    if not pairs:
        raise DataError("the two models were not asked the same problems, so they cannot be compared.")
    differences = [int(item.verdict.correct) - int(theirs[key]) for key, item in pairs]
    return clustered_mean(differences, [item.problem.id for _, item in pairs])


def mean_over_seeds(values: np.ndarray) -> tuple[float, float]:
    """Mean of an experiment repeated with several seeds on the same problems, with a standard error.

    Args:
        values: One number per seed and problem, float [seeds, problems].

    Returns:
        The mean, and the root of the sum of two squared standard errors: over problems (of their means over seeds) and over
        seeds (of their means over problems). The two overlap, so this errs on the side of caution.
    """
    over_problems = values.mean(axis=0).std(ddof=1) / math.sqrt(values.shape[1])
    over_seeds = values.mean(axis=1).std(ddof=1) / math.sqrt(values.shape[0]) if len(values) > 1 else 0.0
    return float(values.mean()), math.hypot(over_problems, over_seeds)
