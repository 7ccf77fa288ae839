"""A pruned checkpoint is recovered: what it is trained on, its loss, its zeros, its provenance, and a run that is killed."""

import copy
import dataclasses
import json
import random
import signal
import time
from itertools import islice

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainingArguments

from optimum_ssgr import CalibrationConfig, PruningConfig, RecoveryConfig, SSGRPruner, recover
from optimum_ssgr.calibration.dataset import CalibrationSet
from optimum_ssgr.calibration.select import describe_origin
from optimum_ssgr.errors import ConfigError, DataError
from optimum_ssgr.evaluation.traces import calibrated_on
from optimum_ssgr.formats import EvaluationRow, Provenance
from optimum_ssgr.reasoner.tasks import tasks, write_solution
from optimum_ssgr.records import CalibrationSequence, GradedRollout, Rollout, Verdict
from optimum_ssgr.recovery.recover import read_provenance
from optimum_ssgr.recovery.traces import choose_traces
from optimum_ssgr.recovery.train import WHOLE, _Trainer, collate

from .. import processes
from ..processes import started


CONFIG = RecoveryConfig(epochs=1, learning_rate=1e-3, batch_size=8)


@pytest.fixture(scope="module")
def calibration(reasoner):
    """A set whose rollouts are solutions as the reasoner was trained to write them, and a wrong one of every problem."""
    model, tokenizer = reasoner
    graded = []
    for task in islice(tasks("train", 0, ("sum", "chain")), 32):
        conversation = [{"role": "user", "content": task.problem.question}]
        prompt = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
        for sample in (0, 1):
            text = "".join(piece for piece, _ in write_solution(task, random.Random(sample))) + tokenizer.eos_token
            response = tokenizer(text).input_ids
            rollout = Rollout(task.problem.id, sample, tuple(prompt), response, True)
            graded.append(GradedRollout(task.problem, rollout, Verdict(task.problem.answer, sample == 0, True), text))
    first = graded[0].rollout
    selected = [CalibrationSequence(first.prompt_ids, first.response_ids, "self", first.problem_id, 0)]
    asked = {"problems": {"source": "tiny-reasoner:sum,chain", "split": None}}
    origin = describe_origin(model, tokenizer, asked)
    return CalibrationSet.build(selected, graded, origin, CalibrationConfig(strategy="self"))


@pytest.fixture(scope="module")
def workspace(reasoner, calibration, make_once):
    """A folder with the pruned model, `sparse`, and the calibration set, `set`."""

    def fill(folder):
        pruner = SSGRPruner(copy.deepcopy(reasoner[0]), reasoner[1])
        pruner.prune(config=PruningConfig(method="magnitude", sparsity=0.6))
        pruner.save_pretrained(folder / "sparse")
        calibration.save_to_disk(folder / "set")

    return make_once("recovery", fill)


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_the_checkpoint_is_better_and_its_zeros_are_the_same(workspace, calibration, tmp_path):
    report = recover(str(workspace / "sparse"), calibration, tmp_path / "out", CONFIG, exclude=["tiny-reasoner"])
    before, after = weights(workspace / "sparse"), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    trained = {name for name in before if name.endswith("proj.weight")}
    for name, tensor in before.items():
        if name in trained:
            assert torch.equal(tensor == 0, after[name] == 0) and not torch.equal(tensor, after[name])
        else:
            assert torch.equal(tensor, after[name])
    assert report.zeros == sum(int((before[name] == 0).sum()) for name in trained)
    done = report.recovery
    left_out = done.excluded["exact"] + done.excluded["ngram"]
    assert (done.traces, done.problems, done.steps) == (29 - left_out, 29 - left_out, 4)
    assert done.held_out["traces"] == 3
    assert done.held_out["trace_nll_rise"] < -0.02
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

    provenance = Provenance.from_file(tmp_path / "out" / "ssgr_config.json")
    assert provenance.recovery == done
    assert provenance.pruning == read_provenance(str(workspace / "sparse")).pruning
    card = (tmp_path / "out" / "README.md").read_text()
    assert "## Recovery" in card and f"{done.traces} right traces" in card and "`tiny-reasoner` were left out" in card
    assert "optimum-cli ssgr recover sparse recovered" in card and "--learning-rate 0.001" in card
    # What it was trained on is not held out from it.
    known = {item.problem.id for item in calibration.graded_rollouts()}
    assert calibrated_on(str(tmp_path / "out"), calibration) == known - set(done.held_out_problems)


@pytest.mark.parametrize("distillation", [0.0, 0.3])
def test_the_loss_is_that_of_responses_alone(reasoner, calibration, tmp_path, distillation):
    student, teacher = copy.deepcopy(reasoner[0]).double(), copy.deepcopy(reasoner[0]).double()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(1.1)
    some = [item.rollout for item in calibration.graded_rollouts()[:6:2]]
    pairs = [(rollout.prompt_ids, rollout.response_ids) for rollout in some]
    arguments = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    trainer = _Trainer(
        student, arguments, train_dataset=pairs, teacher=teacher if distillation else None, distillation=distillation
    )
    batch = collate(pairs)
    count = sum(map(len, (response for _, response in pairs)))
    assert int((batch["labels"] != -100).sum()) == count
    loss = trainer.compute_loss(student, batch, num_items_in_batch=count)

    expected = 0.0
    for prompt, response in pairs:
        ids = torch.tensor([[*prompt, *response]])
        says, wanted = (model(ids).logits[0].log_softmax(-1) for model in (student, teacher))
        for place in range(len(prompt), ids.shape[1]):
            of_trace = -says[place - 1, ids[0, place]]
            of_teacher = (wanted[place - 1].exp() * (wanted[place - 1] - says[place - 1])).sum()
            expected += (1 - distillation) * of_trace + distillation * of_teacher
    torch.testing.assert_close(loss.double(), expected / count, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(workspace, tmp_path, cli):
    given = [workspace / "sparse", "--calibration", workspace / "set", "--learning-rate", "1e-3", "--batch-size", "2"]
    arguments = ["recover", given[0], "out", *given[1:], "--epochs", "1", "--gradient-accumulation", "2", "--quiet"]
    with started(processes.ssgr, *arguments, cwd=tmp_path) as running:
        journal = tmp_path / "out.journal"
        while not list(journal.glob(f"*/{WHOLE}")) and running.process.is_alive():
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
    [*_, newest] = sorted(journal.glob(f"*/{WHOLE}"))
    begun = newest.parent.with_name("checkpoint-99")  # as if the kill had come while it was written
    begun.mkdir()
    (begun / "model.safetensors").write_bytes(b"cut")

    done = cli(*arguments[:-1], "--seed", "1", cwd=tmp_path)
    assert done.code == 1
    assert "out.journal holds the beginning of another run: settings was" in done.err.splitlines()[-1]
    for name in ("out", "whole"):
        done = cli("recover", given[0], name, *arguments[3:], cwd=tmp_path)
        assert done.code == 0, done.err
        assert f"checkpoint written to {name}, reloaded and checked" in done.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]
    resumed, whole = weights(tmp_path / "out"), weights(tmp_path / "whole")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_dry_run(workspace, tmp_path, cli):
    done = cli("recover", workspace / "sparse", "out", "--calibration", workspace / "set", "--dry-run", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "29 right traces" in done.out and "held out     3 traces of other problems" in done.out
    assert not list(tmp_path.iterdir())


def test_several_processes_are_refused(workspace, tmp_path, cli):
    done = cli("recover", workspace / "sparse", "out", "--calibration", workspace / "set", cwd=tmp_path, WORLD_SIZE="2")
    assert done.code == 2
    assert "recover runs in one process" in done.err


def test_traces_are_right_ones_of_problems_that_are_not_held_out(calibration):
    traces = choose_traces(calibration, CONFIG)
    assert all(item.verdict.correct for item in traces.train + traces.held_out)
    trained, held_out = ({item.problem.id for item in some} for some in (traces.train, traces.held_out))
    assert trained.isdisjoint(held_out)
    few = choose_traces(calibration, dataclasses.replace(CONFIG, num_traces=5))
    assert [item.problem for item in few.train] == [item.problem for item in traces.train[:5]]
    other = choose_traces(calibration, dataclasses.replace(CONFIG, seed=1))
    assert [item.problem for item in other.train] != [item.problem for item in traces.train]


def test_problems_of_evaluations_are_refused(workspace, calibration, tmp_path):
    def of(**asked):
        return dataclasses.replace(calibration, manifest=dataclasses.replace(calibration.manifest, problems=asked))

    for asked in (
        {"source": "tiny-reasoner", "split": "test"},
        {"source": "openai/gsm8k", "split": "test"},
        {"source": "HuggingFaceH4/MATH-500"},
        {"sets": [{"source": "openai/gsm8k"}, {"source": "yentinglin/aime_2025", "split": "train"}]},
    ):
        with pytest.raises(DataError, match="which evaluation uses; take another split"):
            choose_traces(of(**asked), CONFIG)
    choose_traces(of(source="openai/gsm8k"), CONFIG)
    numbers = {"accuracy": 0, "accuracy_se": 0, "mean_tokens": 0, "median_tokens": 0, "p95_tokens": 0, "truncated": 0}
    measured = {"problems": 9, "samples": 9, "missing_think_end": None, "looping": 0} | numbers
    evaluated = EvaluationRow(model="sparse", source="own.jsonl", **measured)
    with pytest.raises(DataError, match=r"problems of own\.jsonl, split train"):
        choose_traces(of(source="own.jsonl"), CONFIG, evaluation=[evaluated])

    taken = {item.problem.id: item.problem for item in calibration.graded_rollouts()}
    questions = [problem.question for problem in list(taken.values())[:3]]
    (tmp_path / "evaluation.jsonl").write_text("".join(json.dumps({"problem": q, "answer": "1"}) + "\n" for q in questions))
    traces = choose_traces(calibration, CONFIG, exclude=[str(tmp_path / "evaluation.jsonl")])
    assert not {item.problem.question for item in traces.train + traces.held_out} & set(questions)
    assert traces.excluded["exact"] == 3

    with pytest.raises(DataError, match="holds no rollouts to train on"):
        choose_traces(calibration.without_rollouts(), CONFIG)
    with pytest.raises(DataError, match=r"no ssgr_config\.json"):
        recover("tiny-reasoner", calibration, tmp_path / "out")


@pytest.mark.parametrize(
    "values", [{"epochs": 0}, {"learning_rate": 0}, {"batch_size": 3, "gradient_accumulation": 2}, {"distillation": 2}]
)
def test_settings_are_checked(values):
    with pytest.raises(ConfigError):
        RecoveryConfig(**values)


@pytest.mark.slow
def test_a_bfloat16_checkpoint_is_trained_in_float32_and_stays_bfloat16(workspace, calibration, reasoner, tmp_path):
    pruner = SSGRPruner.from_pretrained("tiny-reasoner", dtype="bfloat16")
    pruner.prune(config=PruningConfig(method="magnitude", pattern="6:8"))
    pruner.save_pretrained(tmp_path / "sparse")
    config = dataclasses.replace(CONFIG, num_traces=8)
    recover(str(tmp_path / "sparse"), calibration, tmp_path / "out", config, teacher="tiny-reasoner")
    before, after = weights(tmp_path / "sparse"), weights(tmp_path / "out")
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    assert all(not after[name][tensor == 0].any() for name, tensor in before.items() if name.endswith("proj.weight"))
    assert any(not torch.equal(after[name], tensor) for name, tensor in before.items())
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
