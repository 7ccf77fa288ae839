"""What the results of all cells say together: rows over seeds, and differences paired by problem."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from typing_extensions import Self

from ..evaluation.intervals import Variance, estimate_difference, estimate_share
from ..evaluation.kinds import summarize_kinds
from ..evaluation.traces import summarize_nll
from .cells import Cell, bands_of


AVERAGED = ("mean_tokens", "median_tokens", "p95_tokens", "truncated", "missing_think_end", "looping")


@dataclass(frozen=True)
class StudyReport:
    """The outcome of a study, as it stands in `report.json`.

    Args:
        settings: What was studied.
        dense: Numbers of the dense model: `text_perplexity`, and in `sets` a summary by problem set.
        rows: Numbers of every method, target, calibration and problem set, over all seeds.
        differences: Differences in problems solved, paired by problem and seed.
        reconstruction: Error of the hidden states by layer.
        prediction: How well the rise of trace perplexity predicts accuracy: Spearman's rank correlation of the two by problem
            set, over `cells` pruned models; None where it was not measured.
    """

    settings: dict[str, Any]
    dense: dict[str, Any]
    rows: list[dict[str, Any]]
    differences: list[dict[str, Any]]
    reconstruction: list[dict[str, Any]]
    prediction: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a report from `to_dict` output."""
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values})


def make_report(settings: Mapping[str, Any], dense: Mapping[str, Any], results: Mapping[Cell, Any]) -> StudyReport:
    """Put the results of all cells together.

    Args:
        settings: What was studied, with `strategies`, `methods`, `targets` and `bands`.
        dense: Result of the dense model; each of its `sets` may also hold the `kinds` of the problems.
        results: Results of the cells; each has `sets` with a `summary` and `correct` (the share of right samples by problem,
            in the same order everywhere), `errors` by layer, `sparsity`, `text_perplexity`, `calibration` and
            `trace_nll` (nats per token of each of the dense model's traces).

    Returns:
        The report. Errors and 95 % intervals are over problems and seeds, or over problems alone where there is one seed; see
        `evaluation.intervals`.
    """
    groups: dict[tuple[str, str, str | None], list[Any]] = {}
    for cell, result in results.items():
        groups.setdefault((cell.method, cell.target, cell.calibration), []).append(result)
    scores = {
        (*key, name): np.array([result["sets"][name]["correct"] for result in found])
        for key, found in groups.items()
        for name in dense["sets"]
    }
    base = {name: np.array(of_set["correct"]) for name, of_set in dense["sets"].items()}
    kinds = {name: of_set.get("kinds", ()) for name, of_set in dense["sets"].items()}
    return StudyReport(
        settings=dict(settings),
        dense={
            "text_perplexity": dense["text_perplexity"],
            **summarize_nll(dense["trace_nll"]),
            "sets": {
                name: of_set["summary"] | _accuracy(base[name][None], kinds[name]) for name, of_set in dense["sets"].items()
            },
        },
        rows=[
            _row(key, name, found, scores[(*key, name)], base[name], kinds[name]) | _trace_nll(found, dense["trace_nll"])
            for key, found in groups.items()
            for name in dense["sets"]
        ],
        differences=list(_differences(settings, scores)),
        reconstruction=[_reconstruction(key, found) for key, found in groups.items()],
        prediction={
            "cells": len(results),
            "spearman": {
                name: rank_correlation(
                    [float(np.mean(result["trace_nll"])) for result in results.values()],
                    [float(np.mean(result["sets"][name]["correct"])) for result in results.values()],
                )
                for name in dense["sets"]
            },
        },
    )


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation, with the mean rank for equals; None where either does not vary."""
    ranks = []
    for values in (first, second):
        ordered = np.sort(values)
        ranks.append(np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right"))  # twice the mean
    if min(map(np.ptp, ranks), default=0) == 0:
        return None
    return float(np.corrcoef(ranks)[0, 1])


def _trace_nll(results: Sequence[Any], dense: Sequence[float]) -> dict[str, Any]:
    """Negative log-likelihood of the dense model's traces, and its rise, paired by trace and seed."""
    nll = np.array([result["trace_nll"] for result in results])
    found = {}
    for name, values in (("trace_nll", nll), ("trace_nll_rise", nll - np.array(dense))):
        found |= {name: float(values.mean()), f"{name}_se": Variance.of(values).total ** 0.5}
    return {"traces": len(dense)} | found


def _row(
    key: tuple[str, str, str | None],
    problems: str,
    results: Sequence[Any],
    scores: np.ndarray,
    dense: np.ndarray,
    kinds: Sequence[str | None],
) -> dict[str, Any]:
    """Numbers of one method, target and calibration on one problem set, over all seeds."""
    from_dense = estimate_difference(scores - dense)
    summaries = [result["sets"][problems]["summary"] for result in results]
    row = dict(zip(("method", "target", "calibration"), key, strict=True)) | {
        "problems": problems,
        "n": scores.shape[1],
        "samples": summaries[0]["samples"] // summaries[0]["problems"],
        "seeds": len(scores),
        "sparsity": _mean([result["sparsity"] for result in results]),
        **_accuracy(scores, kinds),
        "accuracy_by_seed": scores.mean(axis=1).tolist(),
        "minus_dense": from_dense.mean,
        "minus_dense_se": from_dense.error,
        "minus_dense_ci95": list(from_dense.interval),
    }
    for name in AVERAGED:
        values = [summary[name] for summary in summaries]
        row |= {name: _mean(values), f"{name}_se": _error(values)}
    row["text_perplexity"] = _mean([result["text_perplexity"] for result in results])
    made = [result["calibration"] for result in results if result["calibration"]]
    return row | ({"calibrated_on": {name: _mean([of[name] for of in made]) for name in made[0]}} if made else {})


def _differences(
    settings: Mapping[str, Any], scores: Mapping[tuple[str, str, str | None, str], np.ndarray]
) -> Iterator[dict[str, Any]]:
    """Compare the first strategy (`ssgr`, if it is there) with the others, these with `text`, and the bands."""
    strategies = sorted(settings["strategies"], key=lambda name: (name != "ssgr", name == "text"))
    pairs = [(strategies[0], other) for other in strategies[1:]]
    pairs += [(name, "text") for name in strategies[1:-1] if "text" in strategies]
    for quantity in settings["bands"]:
        pairs += [(later, earlier) for earlier, later in combinations(bands_of([quantity]), 2)]
    for method, target, problems in dict.fromkeys((key[0], key[1], key[3]) for key in scores):
        for first, second in pairs:
            found = [scores.get((method, target, name, problems)) for name in (first, second)]
            if found[0] is None or found[1] is None:
                continue
            difference = estimate_difference(found[0] - found[1])
            yield {
                "method": method,
                "target": target,
                "problems": problems,
                "first": first,
                "second": second,
                "difference": difference.mean,
                "se": difference.error,
                "ci95": list(difference.interval),
            }


def _reconstruction(key: tuple[str, str, str | None], results: Sequence[Any]) -> dict[str, Any]:
    errors = np.array([result["errors"] for result in results])
    named = dict(zip(("method", "target", "calibration"), key, strict=True))
    found = {"errors": errors.mean(axis=0).tolist(), "se": [_error(of_layer) for of_layer in errors.T]}
    return named | {"seeds": len(errors)} | found


def _accuracy(scores: np.ndarray, kinds: Sequence[str | None]) -> dict[str, Any]:
    estimate = estimate_share(scores)
    found = {"accuracy": estimate.mean, "accuracy_se": estimate.error, "accuracy_ci95": list(estimate.interval)}
    return found | summarize_kinds(scores, kinds)


def _mean(values: Sequence[float | None]) -> float | None:
    return None if any(value is None for value in values) else float(np.mean(values))


def _error(values: Sequence[float | None]) -> float | None:
    """Standard error of a mean over seeds; None for a single seed, which says nothing about it."""
    if len(values) < 2 or any(value is None for value in values):
        return None
    return float(np.std(values, ddof=1)) / len(values) ** 0.5
