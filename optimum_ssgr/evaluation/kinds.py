"""Accuracy by kind of problem, and of the worst kind, which a mean hides."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..records import UNKNOWN_KIND
from .intervals import estimate_share


def summarize_kinds(scores: np.ndarray, kinds: Sequence[str | None]) -> dict[str, Any]:
    """Summarize accuracy by kind.

    The lowest of several estimates is low by chance, too: the fewer problems there are of each kind, and the more kinds, the
    further the worst kind's accuracy lies below that of the kind which is truly worst. Its standard error is that of a kind
    named beforehand, which knows nothing of this.

    Args:
        scores: Share of right responses by seed and problem, between 0 and 1, float [seeds, problems].
        kinds: Kind of each problem, in the same order.

    Returns:
        `kinds`, by the kind's name its `problems`, `accuracy`, `accuracy_se` (None of a single problem) and `accuracy_ci95`,
        and of the kind with the lowest accuracy its name `worst_kind`, `worst_kind_accuracy` and `worst_kind_accuracy_se`.
        Nothing when there are fewer than two kinds.
    """
    of_problem = np.array([kind or UNKNOWN_KIND for kind in kinds])
    names = sorted(set(of_problem.tolist()))
    if len(names) < 2:
        return {}
    found = {}
    for name in names:
        of_kind = scores[:, of_problem == name]
        accuracy = estimate_share(of_kind)
        found[name] = {
            "problems": of_kind.shape[1],
            "accuracy": accuracy.mean,
            "accuracy_se": None if math.isnan(accuracy.error) else accuracy.error,  # JSON has no NaN
            "accuracy_ci95": list(accuracy.interval),
        }
    worst = min(found, key=lambda name: found[name]["accuracy"])
    return {
        "kinds": found,
        "worst_kind": worst,
        "worst_kind_accuracy": found[worst]["accuracy"],
        "worst_kind_accuracy_se": found[worst]["accuracy_se"],
    }
