"""The study: which cells there are, and what their results say together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from ..config import PruningConfig
from ..evaluation.metrics import interval, mean_over_seeds


SWEEPS = {"difficulty": ("easiest", "middle", "hardest"), "length": ("shortest", "middle", "longest")}
"""Names of the bands of every sweep, in order."""

AVERAGED = ("mean_tokens", "median_tokens", "p95_tokens", "truncated", "missing_think_end", "looping")


@dataclass(frozen=True)
class Cell:
    """One pruned model of the study.

    Args:
        method: Pruning method.
        target: Sparsity such as `0.5`, or N:M pattern such as `2:4`.
        calibration: Strategy, or band of a sweep such as `length:shortest`; None for a method without calibration.
        seed: Seed of the rollouts and of the selection.
    """

    method: str
    target: str
    calibration: str | None
    seed: int

    @property
    def name(self) -> str:
        """A name for files."""
        return f"{self.method}-{self.target}-{self.calibration or 'none'}-{self.seed}".replace(":", "_")

    @property
    def pruning(self) -> PruningConfig:
        """The settings of pruning."""
        return pruning_of(self.method, self.target)


def pruning_of(method: str, target: str) -> PruningConfig:
    """Return the settings of pruning to a sparsity or a pattern.

    Raises:
        ConfigError: The method is unknown, or the target is out of range.
    """
    if ":" in target:
        return PruningConfig(method=method, pattern=target)
    return PruningConfig(method=method, sparsity=float(target))


def bands_of(sweeps: Sequence[str]) -> list[str]:
    """Return the names of all bands of some sweeps."""
    return [f"{sweep}:{band}" for sweep in sweeps for band in SWEEPS[sweep]]


def study_cells(
    strategies: Sequence[str], methods: Sequence[str], targets: Sequence[str], seeds: Sequence[int], sweeps: Sequence[str]
) -> Iterator[Cell]:
    """Yield the cells: every method, target, strategy and seed; one cell a target where nothing is calibrated on.

    Sweeps are made with the first method that needs calibration. All of a seed comes before the next one.
    """
    swept = next((method for method in methods if pruning_of(method, "0.5").needs_calibration), None)
    for seed in seeds:
        for method in methods:
            names = [*strategies, *(bands_of(sweeps) if method == swept else [])]
            if not pruning_of(method, "0.5").needs_calibration:
                names = [None] if seed == seeds[0] else []
            for target in targets:
                yield from (Cell(method, target, name, seed) for name in names)


def make_report(settings: Mapping[str, Any], dense: Mapping[str, Any], results: Mapping[Cell, Any]) -> dict[str, Any]:
    """Put the results of all cells together.

    Args:
        settings: What was studied, with `strategies`, `methods`, `targets` and `sweeps`.
        dense: Result of the dense model.
        results: Results of the cells; each has `sets` with a `summary` and `correct` (the share of right samples by problem,
            in the same order everywhere), `errors` by layer, `sparsity`, `text_perplexity` and `calibration`.

    Returns:
        `settings`, `dense`, `rows` (one per method, target, calibration and problem set), `differences` (paired by problem)
        and `reconstruction` (by layer). Errors are standard errors over problems and seeds, see `mean_over_seeds`.
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
    return {
        "settings": dict(settings),
        "dense": {
            "text_perplexity": dense["text_perplexity"],
            "sets": {name: of_set["summary"] for name, of_set in dense["sets"].items()},
        },
        "rows": [
            _row(key, name, found, scores[(*key, name)], base[name]) for key, found in groups.items() for name in dense["sets"]
        ],
        "differences": list(_differences(settings, scores)),
        "reconstruction": [_reconstruction(key, found) for key, found in groups.items()],
    }


def _row(
    key: tuple[str, str, str | None], problems: str, results: Sequence[Any], scores: np.ndarray, dense: np.ndarray
) -> dict[str, Any]:
    """Numbers of one method, target and calibration on one problem set, over all seeds."""
    accuracy, error = mean_over_seeds(scores)
    from_dense, error_from_dense = mean_over_seeds(scores - dense)
    summaries = [result["sets"][problems]["summary"] for result in results]
    row = dict(zip(("method", "target", "calibration"), key, strict=True)) | {
        "problems": problems,
        "n": scores.shape[1],
        "samples": summaries[0]["samples"] // summaries[0]["problems"],
        "seeds": len(scores),
        "sparsity": _mean([result["sparsity"] for result in results]),
        "accuracy": accuracy,
        "accuracy_se": error,
        "accuracy_by_seed": scores.mean(axis=1).tolist(),
        "minus_dense": from_dense,
        "minus_dense_ci95": list(interval(from_dense, error_from_dense)),
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
    """Compare the first strategy (`ssgr`, if it is there) with the others, these with `text`, and the bands of a sweep."""
    strategies = sorted(settings["strategies"], key=lambda name: (name != "ssgr", name == "text"))
    pairs = [(strategies[0], other) for other in strategies[1:]]
    pairs += [(name, "text") for name in strategies[1:-1] if "text" in strategies]
    for sweep in settings["sweeps"]:
        pairs += [(later, earlier) for earlier, later in combinations(bands_of([sweep]), 2)]
    for method, target, problems in dict.fromkeys((key[0], key[1], key[3]) for key in scores):
        for first, second in pairs:
            found = [scores.get((method, target, name, problems)) for name in (first, second)]
            if found[0] is None or found[1] is None:
                continue
            difference, error = mean_over_seeds(found[0] - found[1])
            yield {
                "method": method,
                "target": target,
                "problems": problems,
                "first": first,
                "second": second,
                "difference": difference,
                "se": error,
                "ci95": list(interval(difference, error)),
            }


def _reconstruction(key: tuple[str, str, str | None], results: Sequence[Any]) -> dict[str, Any]:
    errors = np.array([result["errors"] for result in results])
    named = dict(zip(("method", "target", "calibration"), key, strict=True))
    return named | {"errors": errors.mean(axis=0).tolist(), "se": [_error(of_layer) for of_layer in errors.T]}


def _mean(values: Sequence[float | None]) -> float | None:
    return None if any(value is None for value in values) else float(np.mean(values))


def _error(values: Sequence[float | None]) -> float | None:
    """Standard error of a mean over seeds; 0 for a single seed, which says nothing about it."""
    if any(value is None for value in values):
        return None
    return float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
