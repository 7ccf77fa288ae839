"""The tables of a comparison, as they are printed."""

import dataclasses

from optimum_ssgr.evaluation.compare import Comparison, ModelResult
from optimum_ssgr.evaluation.config import EvaluationConfig
from optimum_ssgr.evaluation.output import format_kinds, format_table
from optimum_ssgr.evaluation.results import result_row

from .test_metrics import graded_from


def compared(kinds):
    """Two models on four problems of some kinds, and the second on one less."""
    of_model = {"dense": [[1], [1], [1], [0]], "sparse": [[1], [0], [1]]}
    results = {}
    for name, answers in of_model.items():
        graded = [
            dataclasses.replace(item, problem=dataclasses.replace(item.problem, kind=kind))
            for item, kind in zip(graded_from(answers), kinds[: len(answers)], strict=True)
        ]
        results[name] = ModelResult({}, {"set": graded}, perplexity=None, trace_nll=None, speed=None)
    config = EvaluationConfig(models=("dense", "sparse"), problems=("set",))
    rows = [result_row(name, "set", "test", result.graded["set"]) for name, result in results.items()]
    return Comparison(config, {"set": []}, results, rows)


def test_the_worst_kind_stands_beside_the_mean_and_each_kind_below():
    comparison = compared(["sum", "sum", "walk", "turn"])
    heads, dense, sparse = format_table(comparison).splitlines()
    assert len(heads) == len(dense) == len(sparse) and "pass@1" in heads
    assert " turn 0.0% (0.0% to 100.0%) " in dense and " sum 50.0% +- 50.0% " in sparse
    [table] = format_kinds(comparison)
    lines = table.splitlines()
    assert lines[0].split() == ["set:", "kind", "n", "dense", "sparse"] and len(set(map(len, lines))) == 1
    assert [line.split()[:2] for line in lines[1:]] == [["sum", "2"], ["turn", "1"], ["walk", "1"]]
    assert lines[1].endswith("50.0% +- 50.0%") and lines[2].endswith(" -")  # whose response was lost


def test_problems_of_one_kind_have_no_table():
    assert format_kinds(compared([None] * 4)) == []
    of_one = compared(["sum"] * 4)
    assert format_kinds(of_one) == [] and "sum" not in format_table(of_one)
