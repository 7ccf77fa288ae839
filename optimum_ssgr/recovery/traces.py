"""Which traces a pruned model may be trained on: right ones of the dense model, of no problem that an evaluation uses."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..calibration.dataset import CalibrationSet
from ..config import RecoveryConfig
from ..errors import DataError
from ..evaluation.benchmarks import find_benchmark
from ..evaluation.traces import FEW_TRACES, hold_out
from ..formats import EvaluationRow, Manifest
from ..problems.load import load_problems
from ..problems.options import ProblemOptions
from ..problems.overlap import remove_overlap
from ..problems.sources import find_source, is_endless
from ..records import GradedRollout


HELD_OUT_SHARE = 10
"""One problem in so many is held out at most."""


@dataclass(frozen=True)
class RecoveryTraces:
    """What to train on, and what to measure by.

    Args:
        train: Right traces, in the order of their draw.
        held_out: Right traces of other problems, one of each; none where there are too few.
        excluded: Which evaluation sets were compared with, and how many problems were left out; None without any.
    """

    train: list[GradedRollout]
    held_out: list[GradedRollout]
    excluded: dict[str, Any] | None


def choose_traces(
    calibration: CalibrationSet,
    config: RecoveryConfig,
    exclude: Sequence[str] = (),
    evaluation: Iterable[EvaluationRow] = (),
) -> RecoveryTraces:
    """Choose right traces of the dense model to train on, and hold some problems out.

    Args:
        calibration: A set with rollouts of the dense model.
        config: Number of traces, and the seed of their draw.
        exclude: Evaluation sets whose problems are left out, named as for `load_problems`; read in the split for evaluation.
        evaluation: What the pruned model was evaluated on.

    Raises:
        DataError: There are no rollouts, they answer problems of an evaluation, or no right one is left.
    """
    if calibration.rollouts is None:
        raise DataError("the calibration set holds no rollouts to train on; name one that was made with some.")
    check_not_evaluated(calibration.manifest, evaluation)
    right = [item for item in calibration.graded_rollouts() if item.verdict.correct]
    excluded = None
    if exclude:
        problems = list({item.problem.id: item.problem for item in right}.values())
        others = [problem for name in exclude for problem in load_problems(name, evaluation=True, seed=config.seed)]
        kept, removed = remove_overlap(problems, others)
        names = {problem.id for problem in kept}
        right = [item for item in right if item.problem.id in names]
        excluded = {"sets": list(exclude), **removed}
    problems = {item.problem.id for item in right}
    held_out = hold_out(calibration, min(FEW_TRACES, len(problems) // HELD_OUT_SHARE))
    held_out = [item for item in held_out if item.problem.id in problems]
    if len(held_out) < 2:  # of a single one there is no standard error
        held_out = []
    apart = {item.problem.id for item in held_out}
    train = sorted((item for item in right if item.problem.id not in apart), key=_key)
    random.Random(config.seed).shuffle(train)
    if not train:
        raise DataError("no right trace is left to train on; make a calibration set of more problems.")
    return RecoveryTraces(train[: config.num_traces], held_out, excluded)


def check_not_evaluated(manifest: Manifest, evaluation: Iterable[EvaluationRow]) -> None:
    """Refuse traces of a split that models are evaluated on, or that the pruned model was evaluated on.

    Raises:
        DataError: They are.
    """
    asked = manifest.problems or {}
    evaluated = ProblemOptions().evaluation_split
    measured = {(row.source, row.split or evaluated(row.source)) for row in evaluation}
    for one in asked.get("sets", [asked]):
        if "source" not in one:
            continue
        name = one["source"]
        split = one.get("split") or find_source(name).split
        of_evaluation = split == evaluated(name) and _is_for_evaluation(name)
        if of_evaluation or (name, split) in measured:
            raise DataError(f"the traces answer problems of {name}, split {split}, which evaluation uses; take another split.")


def _is_for_evaluation(name: str) -> bool:
    """Tell whether a set has a split that is for evaluation alone."""
    return is_endless(name) or bool(find_source(name).evaluation_split) or find_benchmark(name.partition(":")[0]) is not None


def _key(item: GradedRollout) -> tuple[str, int]:
    return item.problem.id, item.rollout.sample
