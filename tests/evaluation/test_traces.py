"""Held-out traces: which they are, what is measured on them, and where it is shown."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from optimum_ssgr import CalibrationConfig, CalibrationSet, PruningConfig, SSGRPruner
from optimum_ssgr.cards.evaluation import attach_evaluation, evaluation_rows
from optimum_ssgr.checkpoints.load import load_model
from optimum_ssgr.errors import ConfigError, DataError
from optimum_ssgr.evaluation.config import EvaluationConfig
from optimum_ssgr.evaluation.traces import calibrated_on, draw_held_out, hold_out, read_held_out, summarize_nll, trace_nll
from optimum_ssgr.problems.load import load_problems

from ..test_likelihood import naive


CONFIG = CalibrationConfig(
    strategy="self", num_sequences=None, num_tokens=300, samples_per_problem=2, max_new_tokens=160, max_per_problem=2
)


@pytest.fixture(scope="module")
def folder(make_once):
    """A calibration set `set`, and a checkpoint `sparse` that was pruned with it."""

    def fill(folder):
        pruner = SSGRPruner.from_pretrained("tiny-reasoner")
        problems = load_problems("tiny-reasoner:sum", limit=12, seed=3)
        calibration = pruner.build_calibration(problems, CONFIG, output_dir=folder / "set")
        pruner.prune(calibration, PruningConfig(method="wanda", sparsity=0.5))
        pruner.save_pretrained(folder / "sparse")

    return make_once("traces", fill)


@pytest.fixture(scope="module")
def calibration(folder):
    return CalibrationSet.load(folder / "set")


def rollout_of(item):
    return item.problem.id, item.rollout.sample


def test_one_of_each_problem_whatever_the_order():
    candidates = [(problem, sample) for problem in "abcdef" for sample in range(5)]
    drawn = draw_held_out(candidates, 4, seed=1)
    assert len({problem for problem, _ in drawn}) == len(drawn) == 4
    assert draw_held_out(candidates[::-1], 4, seed=1) == drawn
    assert draw_held_out(candidates, 99, seed=1)[:4] == drawn
    assert any(draw_held_out(candidates, 4, seed=seed) != drawn for seed in range(2, 6))


@pytest.mark.slow
def test_nothing_that_was_selected_is_held_out(calibration):
    selected, rows = set(calibration.dataset["problem_id"]), list(calibration.rollouts)
    right = {row["problem_id"] for row in rows if row["correct"]}
    assert selected and right - selected
    traces = hold_out(calibration, 99)
    assert {item.problem.id for item in traces} == right - selected
    known = {(row["problem_id"], row["sample"]): row for row in rows}
    for item in traces:
        row = known[rollout_of(item)]
        assert row["correct"] and row["finished"]
        assert list(item.rollout.response_ids) == row["response_ids"]
    other = traces[0].problem.id
    assert {item.problem.id for item in hold_out(calibration, 99, without=[other])} == right - selected - {other}


def test_what_a_model_was_calibrated_on(folder, calibration, tmp_path):
    another = dataclasses.replace(calibration, manifest=dataclasses.replace(calibration.manifest, content_hash="0" * 64))
    assert calibrated_on("tiny-reasoner", another) == set()
    sparse = str(folder / "sparse")
    assert calibrated_on(sparse, calibration) == set()  # the set's own, which are left out anyway
    assert calibrated_on(sparse, another) is None
    kept = tmp_path / "kept"
    kept.mkdir()
    provenance = json.loads((folder / "sparse" / "ssgr_config.json").read_text())
    (kept / "ssgr_config.json").write_text(json.dumps(provenance | {"calibration_folder": "calibration"}))
    shutil.copytree(folder / "set", kept / "calibration")
    assert calibrated_on(str(kept), another) == set(calibration.dataset["problem_id"])


def test_measured_before_and_after_pruning(folder, calibration, reasoner):
    model, _ = reasoner
    sparse, _ = load_model(str(folder / "sparse"))
    traces = hold_out(calibration, 64)
    pairs = [(item.rollout.prompt_ids, item.rollout.response_ids) for item in traces]
    lengths = np.array([len(response) for _, response in pairs])
    dense, pruned = (np.array(naive(of, pairs)) / lengths for of in (model, sparse))
    assert trace_nll(model, traces) == pytest.approx(dense, rel=1e-4)
    held_out = json.loads((folder / "sparse" / "ssgr_config.json").read_text())["held_out"]
    rise = pruned - dense
    assert held_out == {
        "traces": len(traces),
        "trace_nll": pytest.approx(pruned.mean(), rel=1e-4),
        "trace_nll_se": pytest.approx(pruned.std(ddof=1) / len(traces) ** 0.5, rel=1e-4),
        "trace_nll_rise": pytest.approx(rise.mean(), rel=1e-3),
        "trace_nll_rise_se": pytest.approx(rise.std(ddof=1) / len(traces) ** 0.5, rel=1e-3),
    }
    shown = f"{rise.mean():+.3f} ± {rise.std(ddof=1) / len(traces) ** 0.5:.3f} nats per token on {len(traces)} held-out traces"
    assert shown in (folder / "sparse" / "README.md").read_text()


def test_of_one_trace_there_is_no_error():
    assert summarize_nll([0.5], [0.25]) == {
        "traces": 1,
        "trace_nll": 0.5,
        "trace_nll_se": None,
        "trace_nll_rise": 0.25,
        "trace_nll_rise_se": None,
    }


def test_evaluate_compares_with_the_baseline_and_puts_it_on_the_card(folder, calibration, cli, tmp_path):
    shutil.copytree(folder / "sparse", tmp_path / "sparse")
    models = ["-m", "sparse", "--baseline", "tiny-reasoner", "--traces", folder / "set"]
    asked = ["--problems", "tiny-reasoner:sum", "--num-problems", "2", "--max-new-tokens", "4"]
    done = cli("evaluate", *models, *asked, "--output", "results", cwd=tmp_path)
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "results" / "results.json").read_text())
    dense, sparse = record["rows"]
    held_out = json.loads((folder / "sparse" / "ssgr_config.json").read_text())["held_out"]
    assert {name: sparse[name] for name in held_out} == pytest.approx(held_out, rel=1e-3)
    assert "trace_nll_rise" not in dense
    assert sparse["trace_nll"] - dense["trace_nll"] == pytest.approx(sparse["trace_nll_rise"])
    assert f"{sparse['trace_nll']:.3f} ({sparse['trace_nll_rise']:+.3f} +- " in done.out
    rows = evaluation_rows(tmp_path / "results", tmp_path / "sparse")
    assert [row.trace_nll_rise for row in rows] == [None, sparse["trace_nll_rise"]]
    attach_evaluation(tmp_path / "sparse", rows)
    assert f"{sparse['trace_nll_rise']:+.3f} ± " in (tmp_path / "sparse" / "README.md").read_text()
    # Another model's traces say nothing of this one's dense model.
    path = tmp_path / "results" / "results.json"
    path.write_text(json.dumps(record | {"traces": record["traces"] | {"model": "another"}}))
    assert {row.trace_nll for row in evaluation_rows(tmp_path / "results", tmp_path / "sparse")} == {None}


def test_what_cannot_be_measured_is_refused(folder, calibration, tmp_path):
    loading = EvaluationConfig(models=("m",), problems=("p",)).loading
    calibration.without_rollouts().save_to_disk(tmp_path / "bare")
    with pytest.raises(DataError, match="holds no rollouts to take traces from"):
        read_held_out(str(tmp_path / "bare"), ["tiny-reasoner"], loading, 0)
    with pytest.raises(ConfigError, match="--traces needs the model in this process"):
        EvaluationConfig(models=("m",), problems=("p",), traces="set", engine="http://host:8000/v1")
