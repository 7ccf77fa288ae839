"""The commands as a user types them: mistakes, dry runs, interrupted work, and one chain of commands by `optimum-cli`."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from optimum_ssgr.reasoner import WEIGHTS

from .. import processes
from ..processes import started


OPTIMUM_CLI = Path(sys.executable).with_name("optimum-cli")
PROBLEMS = '{"problem": "Count the digit 3.\\na 3\\nb 4\\nc 3\\nd 3", "answer": "3"}\n'
MODEL = ["-m", "tiny-reasoner"]


def ssgr(*arguments, cwd):
    """Run a command by the installed `optimum-cli`, in a process of its own."""
    command = [OPTIMUM_CLI, "ssgr", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "problems.jsonl").write_text(PROBLEMS)
    (folder / "wrong.jsonl").write_text(PROBLEMS.replace('"3"', '"nothing"'))
    (folder / "columns.jsonl").write_text('{"text": "a"}\n')
    (folder / "empty.jsonl").write_text("")
    (folder / "long.jsonl").write_text(json.dumps({"problem": "a 3\n" * 600, "answer": "3"}) + "\n")
    (folder / "text.txt").write_text("Some text that is too short.")
    (folder / "used").mkdir()
    (folder / "used" / "precious").write_text("x")
    shutil.copytree(WEIGHTS, folder / "weightless", ignore=shutil.ignore_patterns("*.safetensors"))
    bare = shutil.copytree(WEIGHTS, folder / "bare")
    (bare / "chat_template.jinja").unlink()
    return folder


CALIBRATE = ["calibrate", "out", *MODEL, "--max-new-tokens", "60", "--samples-per-problem", "2"]
PRUNE = ["prune", "out", *MODEL, "--method", "magnitude"]
ASK = ["--problems", "tiny-reasoner", "--num-problems", "2", "--max-new-tokens", "20"]
TO_DEVICES = ["--streaming", "--device-map", "auto"]
MISTAKES = {
    "missing column": ([*CALIBRATE, "--problems", "columns.jsonl"], 1, "has no question column"),
    "empty data": ([*CALIBRATE, "--problems", "empty.jsonl"], 1, "empty.jsonl is empty"),
    "no such file": ([*CALIBRATE, "--problems", "none.jsonl"], 1, "there is no file none.jsonl"),
    "unknown data set": ([*CALIBRATE, "--problems", "no/such"], 1, "cannot read problems from 'no/such'"),
    "unknown strategy": ([*CALIBRATE, "--problems", "problems.jsonl", "--strategy", "best"], 2, "unknown strategy 'best'"),
    "no problems": (CALIBRATE, 2, "the strategy cover needs --problems"),
    "no such text": ([*CALIBRATE, "--strategy", "text", "--text", "none.txt"], 1, "there is no file none.txt"),
    "no text column": (
        [*CALIBRATE, "--strategy", "text", "--text", "problems.jsonl"],
        1,
        "has no column text; its columns are",
    ),
    "text and problems to exclude": (
        [*CALIBRATE, "--strategy", "text", "--text", "text.txt", "--exclude", "problems.jsonl"],
        2,
        "--exclude compares problems, and the strategy text has none",
    ),
    "no such data set to exclude": (
        [*CALIBRATE, "--problems", "problems.jsonl", "--exclude", "problems.jsonl", "none.jsonl"],
        1,
        "there is no file none.jsonl",
    ),
    "no text": ([*CALIBRATE, "--strategy", "text"], 2, "the strategy text needs --text"),
    "short text": (
        [*CALIBRATE, "--strategy", "text", "--text", "text.txt", "--text-length", "500"],
        1,
        "less than one window of 499",
    ),
    "short text in a mixture": (
        [*CALIBRATE, "--problems", "problems.jsonl", "--strategy", "mix", "--text", "text.txt", "--text-length", "500"],
        1,
        "less than one window of 499",
    ),
    "prompt too long": ([*CALIBRATE, "--problems", "long.jsonl"], 2, "the model's context holds 1024"),
    "response too long": (
        [*CALIBRATE, "--problems", "problems.jsonl", "--max-new-tokens", "1020"],
        2,
        "set max_new_tokens to",
    ),
    "no chat template": (
        ["calibrate", "out", "-m", "bare", "--problems", "problems.jsonl", "--max-new-tokens", "60"],
        1,
        "no chat template",
    ),
    "output in use": (["calibrate", "used", *MODEL, "--problems", "problems.jsonl"], 1, "used is not empty"),
    "prompt too long to calibrate on": (
        [*CALIBRATE, "--problems", "long.jsonl", "--strategy", "prompts"],
        2,
        "the model's context holds 1024",
    ),
    "prompt too long, seen before": (
        [*CALIBRATE, "--problems", "long.jsonl", "--dry-run"],
        2,
        "the model's context holds 1024",
    ),
    "no chat template, seen before": (
        ["prune", "out", "-m", "bare", "--problems", "problems.jsonl", "--max-new-tokens", "60", "--dry-run"],
        1,
        "no chat template",
    ),
    "no name": (["calibrate", ".", *MODEL, "--problems", "problems.jsonl"], 1, "choose a new folder to write to"),
    "unknown dtype": ([*PRUNE, "--dtype", "foo"], 2, "unknown dtype 'foo'"),
    "no such device": ([*PRUNE, "--device-map", "cuda:7"], 1, "cannot load the model 'tiny-reasoner'"),
    "no such device, seen before": ([*PRUNE, "--device-map", "cuda:7", "--dry-run"], 2, "there is no device 'cuda:7' here"),
    "streaming to devices": (
        [*PRUNE, *TO_DEVICES],
        1,
        "a streamed model computes on one device, such as cuda or cpu, not 'auto'",
    ),
    "streaming to devices, seen before": (
        [*PRUNE, *TO_DEVICES, "--dry-run"],
        1,
        "a streamed model computes on one device, such as cuda or cpu, not 'auto'",
    ),
    "a file for a calibration set": (["prune", "out", *MODEL, "--calibration", "problems.jsonl"], 1, "not a calibration set"),
    "unknown method": (["prune", "out", *MODEL, "--method", "magic"], 2, "unknown method 'magic'"),
    "sparsity 1.2": ([*PRUNE, "--sparsity", "1.2"], 2, "sparsity must be at least 0 and below 1, not 1.2"),
    "not a number": ([*PRUNE, "--sparsity", "half"], 2, "argument --sparsity: invalid float value: 'half'"),
    "sparsity and pattern": ([*PRUNE, "--sparsity", "0.5", "--pattern", "2:4"], 2, "not both"),
    "pattern that does not divide": ([*PRUNE, "--pattern", "2:5"], 2, "2:5 does not divide the 192 inputs"),
    "no calibration": (["prune", "out", *MODEL], 2, "needs --calibration, or --problems"),
    "not a calibration set": (["prune", "out", *MODEL, "--calibration", "used"], 1, "used is not a calibration set"),
    "prune into used": (["prune", "used", *MODEL, "--method", "magnitude"], 1, "used is not empty"),
    "no such model": (["prune", "out", "-m", "no/such", "--method", "magnitude"], 1, "cannot load the model 'no/such'"),
    "no such model, seen before anything is read": (
        ["calibrate", "out", "-m", "no/such", "--problems", "none.jsonl"],
        1,
        "cannot load the model 'no/such'",
    ),
    "no chat template, seen before anything is read": (
        ["evaluate", *MODEL, "--baseline", "bare", "--problems", "none.jsonl"],
        1,
        "no chat template",
    ),
    "a pattern that does not divide, seen before anything is read": (
        ["prune", "out", *MODEL, "--problems", "none.jsonl", "--pattern", "2:5"],
        2,
        "2:5 does not divide the 192 inputs",
    ),
    "a pattern that does not divide, seen by a dry run": (
        [*PRUNE, "--pattern", "2:5", "--streaming", "--dry-run"],
        2,
        "2:5 does not divide the 192 inputs of model.layers.0.self_attn.q_proj.weight; choose a group size that does, or",
    ),
    "no such checkpoint": (["inspect", "no/such"], 1, "there is no folder no/such, and it cannot be fetched from the Hub"),
    "no weights": (["inspect", "used"], 1, "there are no safetensors files in used"),
    "no samples": (["evaluate", *MODEL, "--problems", "problems.jsonl", "--samples", "0"], 2, "samples must be at least 1"),
    "nothing to evaluate on": (["evaluate", *MODEL], 2, "name what to evaluate on with --problems or --benchmark"),
    "no engine": (
        [*CALIBRATE, "--problems", "no/such", "--engine", "vlm"],
        2,
        "the engine must be transformers, vllm, sglang or addresses",
    ),
    "no address of an API": (
        ["evaluate", *MODEL, "--problems", "no/such", "--engine", "http://host:8000"],
        2,
        "an engine's address must look like http://host:8000/v1",
    ),
    "no batch": (["evaluate", *MODEL, "--problems", "no/such", "--batch-size", "0"], 2, "batch_size must be at least 1, not 0"),
    "no batch to prune with": (
        ["prune", "out", *MODEL, "--problems", "no/such", "--batch-size", "0"],
        2,
        "batch_size must be at least 1, not 0",
    ),
    "text longer than the context, seen before the weights are missed": (
        ["evaluate", "-m", "weightless", *ASK, "--text", "text.txt"],
        2,
        "a window of text has 2048 tokens but the model's context holds 1024",
    ),
    "short text, seen before the weights are missed": (
        ["evaluate", "-m", "weightless", *ASK, "--text", "text.txt", "--text-length", "500"],
        1,
        "less than one window of 499",
    ),
    "no window of text": (
        ["evaluate", *MODEL, "--problems", "no/such", "--text", "text.txt", "--text-length", "1"],
        2,
        "text_length must be at least 2, not 1",
    ),
    "unknown strategy to select by": (["select", "no/such", "out", "--strategy", "best"], 2, "unknown strategy 'best'"),
    "no text to select from": (["select", "no/such", "out", "--strategy", "mix"], 2, "the strategy mix needs --text"),
    "unknown benchmark": (
        ["evaluate", *MODEL, "--benchmark", "math"],
        2,
        "unknown benchmark 'math'; choose among math500, aime24",
    ),
    "evaluate into used": (
        ["evaluate", *MODEL, "--problems", "problems.jsonl", "--output", "used"],
        1,
        "used is not empty",
    ),
    "unknown family": (["evaluate", *MODEL, "--problems", "tiny-reasoner:nim"], 1, "the families of tiny-reasoner are chain,"),
    "few problems": (["demo", "out", "--num-problems", "1"], 2, "num_problems must be at least 2"),
    "demo into used": (["demo", "used"], 1, "used is not empty"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_sentence(workspace, name, cli):
    arguments, code, message = MISTAKES[name]
    before = sorted(workspace.rglob("*"))
    done = cli(*arguments, cwd=workspace)
    assert done.code == code, done.err
    last = done.err.strip().splitlines()[-1]
    assert message in last
    assert "error: " in last
    assert "Traceback" not in done.err
    assert done.out == ""
    assert sorted(workspace.rglob("*")) == before


@pytest.mark.slow
def test_rollouts_that_give_nothing_are_kept_for_other_settings(workspace, cli):
    done = cli(*CALIBRATE, "--problems", "wrong.jsonl", cwd=workspace)
    assert done.code == 1
    assert "not one rollout is correct" in done.err.splitlines()[-1]
    assert not (workspace / "out").exists()
    rac = cli(*CALIBRATE, "--problems", "wrong.jsonl", "--strategy", "rac", cwd=workspace)
    assert rac.code == 0, rac.err
    assert "generate: 100%" in rac.err
    assert not (workspace / "out.journal").exists()
    shutil.rmtree(workspace / "out")


def test_debug_shows_the_traceback(workspace, cli):
    done = cli(*CALIBRATE, "--problems", "empty.jsonl", cwd=workspace, SSGR_DEBUG="1")
    assert "Traceback" in done.err


@pytest.mark.slow
def test_calibrate_prune_inspect_evaluate(tmp_path, cli):
    many = ["--problems", "tiny-reasoner", "--num-problems", "24", "--max-new-tokens", "400", "--strategy", "ssgr"]
    done = ssgr(
        "calibrate", "set", *MODEL, *many, "--samples-per-problem", "4", "--num-tokens", "2000", "--quiet", cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    funnel = dict(line.rsplit(maxsplit=1) for line in done.stdout.replace(",", "").splitlines()[:-2])
    assert [int(funnel[name]) for name in ("problems", "rollouts", "tokens")] == [24, 96, 2000]
    stages = ("rollouts", "finished", "correct", "in difficulty window", "in length window")
    assert sorted((int(funnel[name]) for name in stages), reverse=True) == [int(funnel[name]) for name in stages]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]

    select = ["select", "set", "pairs", "--strategy", "obc", "--num-tokens", "1000", "--quiet"]
    with started(processes.ssgr, *select, cwd=tmp_path) as running:
        assert (running.wait(), running.err.read_text()) == (0, "")
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("set", "pairs")]
    assert manifests[1]["reselected_from"]["content_hash"] == manifests[0]["content_hash"]
    assert 500 < manifests[1]["counts"]["tokens"] <= 1000  # pairs are kept whole

    done = cli("prune", "model", *MODEL, "--calibration", "set", "--pattern", "2:4", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "checkpoint written to model, reloaded and checked" in done.out
    assert "(50.00%;" in done.out

    done = cli("inspect", "model", cwd=tmp_path)
    table, expectation = done.out.split("\n\n")
    lines = table.splitlines()
    assert len(lines) == 29
    assert all(line.endswith("2:4") for line in lines[:-1])
    assert "(50.00%;" in lines[-1]
    assert expectation.startswith("All 28 matrices are 2:4. ")
    assert re.search(r"^- PyTorch \(faster\): .*", expectation, re.M)

    sampling = ["--temperature", "0", "--max-new-tokens", "200", "--split", "dev", "--num-problems", "10"]
    models = ["-m", "tiny-reasoner", "model"]
    baseline = ["--baseline", "tiny-reasoner", "--output", "results"]
    done = cli("evaluate", *models, "--problems", "tiny-reasoner", *sampling, *baseline, cwd=tmp_path)
    assert done.code == 0, done.err
    assert [line.split()[0] for line in done.out.splitlines()[:3]] == ["model", "tiny-reasoner", "model"]
    results = json.loads((tmp_path / "results" / "results.json").read_text())["rows"]
    assert [row["n"] for row in results] == [10, 10]
    assert results[1]["difference"] == pytest.approx(results[1]["accuracy"] - results[0]["accuracy"])


@pytest.mark.slow
def test_inspect_tells_who_gains_from_6_8(tmp_path, cli):
    done = cli("prune", "model", *MODEL, "--method", "magnitude", "--pattern", "6:8", cwd=tmp_path)
    assert "(25.00%;" in done.out, done.err
    done = cli("inspect", "model", cwd=tmp_path)
    assert done.out.count(" 25.00%  6:8\n") == 28
    told = " ".join(done.out.partition("\n\n")[2].split())
    assert told.startswith("All 28 matrices are 6:8. The files are as large as the dense model's")
    assert "- SlideSparse (faster): " in told and "[https://arxiv.org/abs/2603.05232, checked 20" in told
    assert "PyTorch" not in told


@pytest.mark.slow
def test_other_strategies_select_from_rollouts_that_were_sampled_adaptively(tmp_path, cli):
    few = ["--problems", "tiny-reasoner", "--num-problems", "8", "--samples-per-problem", "2", "--max-new-tokens", "120"]
    done = cli("calibrate", "set", *MODEL, *few, "--num-sequences", "4", "--adaptive", cwd=tmp_path)
    assert done.code == 0, done.err
    done = cli("select", "set", "random", "--strategy", "rac", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "sampled adaptively: challenging problems have more of them" in done.err
    manifest = json.loads((tmp_path / "random" / "manifest.json").read_text())
    assert manifest["calibration"]["strategy"] == "rac"
    assert manifest["calibration"]["adaptive"] is False


def test_excluded_problems_are_left_out_and_counted(tmp_path, cli):
    story = "a train leaves the station at noon and drives east for three hours at sixty miles an hour"
    questions = ["Add 2 and 3.", "Add 2 and 4.", f"Listen: {story}. How far?", "Add 2 and 5.", "Add 2 and 6."]
    files = {
        "problems.jsonl": questions,
        "first.jsonl": ["add 2 AND 3", f"Yesterday {story}; when does it arrive?"],
        "second.jsonl": ["Add 2 and 5!"],
        "all.jsonl": questions,
    }
    for name, asked in files.items():
        (tmp_path / name).write_text("".join(json.dumps({"problem": text, "answer": "5"}) + "\n" for text in asked))
    prompts = ["--problems", "problems.jsonl", "--strategy", "prompts", "--num-sequences", "9"]
    exclude = ["--exclude", "first.jsonl", "--exclude", "second.jsonl"]
    done = cli("calibrate", "set", *MODEL, *prompts, *exclude, cwd=tmp_path)
    assert done.code == 0, done.err
    counted = "left out 3 of 5 problems that are in first.jsonl, second.jsonl: 2 in whole, 1 in part"
    assert done.out.splitlines()[0] == counted
    assert json.loads((tmp_path / "set" / "manifest.json").read_text())["counts"]["sequences"] == 2

    wanda = ["--method", "wanda", "--sparsity", "0.5", "--dry-run"]
    done = cli("prune", "out", *MODEL, *wanda, *prompts, "--exclude", "first.jsonl", "second.jsonl", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == counted

    done = cli("calibrate", "none", *MODEL, *prompts, "--exclude", "all.jsonl", cwd=tmp_path)
    assert (done.code, "every problem is also in the evaluation sets" in done.err) == (1, True)


def test_inspect_of_scattered_zeros_names_nobody_who_looks_for_a_pattern(tmp_path, cli):
    weights = load_file(WEIGHTS / "model.safetensors")
    save_file({name: weight.masked_fill(weight < 0, 0) for name, weight in weights.items()}, tmp_path / "model.safetensors")
    done = cli("inspect", ".", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    text = " ".join(done.out.split("\n\n")[1].split())
    assert text.startswith("The zeros are unstructured. The files are as large as the dense model's")
    assert "- Core ML (" in text and "2:4" not in text
    assert "The files are as large as the dense model's" in text


def test_prune_builds_its_own_calibration(tmp_path, cli):
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 200)
    text = ["--strategy", "text", "--text", "text.txt", "--text-length", "100", "--num-sequences", "8"]
    done = cli("prune", "out", *MODEL, "--method", "wanda", "--sparsity", "0.4", *text, cwd=tmp_path)
    assert done.code == 0, done.err
    provenance = json.loads((tmp_path / "out" / "ssgr_config.json").read_text())
    assert provenance["calibration"]["counts"]["sequences"] == 8
    assert provenance["calibration"]["calibration"]["strategy"] == "text"


@pytest.fixture(scope="module")
def calibration(tmp_path_factory, cli):
    folder = tmp_path_factory.mktemp("calibration")
    (folder / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 200)
    text = ["--strategy", "text", "--text", "text.txt", "--text-length", "100", "--num-sequences", "8"]
    done = cli("calibrate", "set", *MODEL, *text, cwd=folder)
    assert done.code == 0, done.err
    return folder / "set"


def test_a_calibration_set_that_does_not_fit_is_refused_before_weights_are_loaded(tmp_path, calibration, cli):
    model, foreign = shutil.copytree(WEIGHTS, tmp_path / "model"), shutil.copytree(calibration, tmp_path / "foreign")
    (model / "model.safetensors").unlink()
    manifest = json.loads((foreign / "manifest.json").read_text())
    (foreign / "manifest.json").write_text(json.dumps(manifest | {"tokenizer_hash": "0", "model": "other/model"}))
    done = cli("prune", "out", "-m", "model", "--calibration", "foreign", cwd=tmp_path)
    assert (done.code, "was made with the tokenizer of other/model" in done.err) == (1, True), done.err

    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    done = cli("prune", "out", "-m", "model", "--calibration", calibration, cwd=tmp_path)
    assert (done.code, "the longest calibration sequence has 100 tokens" in done.err) == (2, True), done.err


def weights_in(folder):
    return {key: tensor for path in folder.glob("*.safetensors") for key, tensor in load_file(path).items()}


@pytest.mark.slow
def test_streamed_and_resident_runs_write_the_same_weights(tmp_path, calibration, cli):
    for name, flags in {"resident": ["--no-true-sequential"], "streamed": ["--streaming", "--activation-gb", "0"]}.items():
        done = cli("prune", name, *MODEL, "--calibration", calibration, *flags, cwd=tmp_path)
        assert done.code == 0, done.err
    resident, streamed = weights_in(tmp_path / "resident"), weights_in(tmp_path / "streamed")
    assert resident.keys() == streamed.keys()
    assert all(torch.equal(resident[key], streamed[key]) for key in resident)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resident", "streamed"]


@pytest.mark.slow
def test_torchrun_writes_one_checkpoint(tmp_path, calibration, cli):
    arguments = ["ssgr", "prune", "out", *MODEL, "--calibration", calibration, "--method", "wanda", "--pattern", "2:4"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "--module", "optimum.commands.optimum_cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checkpoint written to out, reloaded and checked") == 1
    alone = cli("prune", "alone", *arguments[3:], cwd=tmp_path)
    assert alone.code == 0, alone.err
    together, single = weights_in(tmp_path / "out"), weights_in(tmp_path / "alone")
    different = sum(int(((together[key] == 0) != (single[key] == 0)).sum()) for key in single)
    assert different <= 4  # sums in another order may decide a near-tie otherwise
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "out"]


@pytest.mark.slow
def test_an_interrupted_prune_goes_on(tmp_path, calibration, cli):
    arguments = ["prune", "out", *MODEL, "--calibration", calibration, "--method", "alps", "--sparsity", "0.6"]
    with started(processes.ssgr, *arguments, cwd=tmp_path) as running:
        while not (tmp_path / "out.journal" / "block-00000.safetensors").exists() and running.process.is_alive():
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        assert running.wait() == 130
        rest = running.err.read_text()
    assert "finished rollouts and blocks are kept in out.journal. Run the same command to go on." in rest
    assert [path.name for path in tmp_path.iterdir()] == ["out.journal"]

    done = cli(*arguments[:-1], "0.5", cwd=tmp_path)
    assert done.code == 1
    assert "out.journal holds the beginning of another run: pruning was" in done.err.splitlines()[-1]

    for name in ("out", "whole"):
        done = cli("prune", name, *arguments[2:], cwd=tmp_path)
        assert done.code == 0, done.err
    resumed, whole = weights_in(tmp_path / "out"), weights_in(tmp_path / "whole")
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


@pytest.mark.slow
def test_a_dry_run_predicts_less_memory_for_streaming(workspace, calibration, cli):
    memory = []
    for flags in (["--device-map", "balanced"], ["--streaming"]):
        done = cli("prune", "new", *MODEL, "--calibration", calibration, *flags, "--dry-run", cwd=workspace)
        assert done.code == 0, done.err
        total, libraries = re.search(r"memory +([\d.]+) GB at most, ([\d.]+) GB", done.out).groups()
        memory.append(float(total) - float(libraries))
    assert memory[1] <= memory[0] + 0.011  # printed to hundredths
    assert not (workspace / "new").exists()


@pytest.mark.slow
def test_a_full_disk_keeps_the_finished_blocks(tmp_path, cli):
    """A limit on the size of files stands for the disk: each block fits, the whole checkpoint does not."""
    with started(processes.ssgr, *PRUNE, "--sparsity", "0.5", cwd=tmp_path, file_size=2_000_000) as running:
        assert running.wait() == 1
        assert "error: cannot write out: " in running.err.read_text().splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["out.journal"]
    assert len(list((tmp_path / "out.journal").glob("block-*.safetensors"))) == 4

    assert cli(*PRUNE, "--sparsity", "0.5", cwd=tmp_path).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_truncated_checkpoint_is_refused(tmp_path, cli):
    folder = shutil.copytree(WEIGHTS, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1_000_000])
    done = cli("prune", "out", "-m", "cut", "--method", "magnitude", cwd=tmp_path)
    assert done.code == 1
    assert "error: cannot load the model 'cut'" in done.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([*CALIBRATE, "--problems", "problems.jsonl"], "rollouts     2, at most 120 tokens"),
        (
            ["prune", "out", *MODEL, "--problems", "problems.jsonl", "--max-new-tokens", "60"],
            "prunes       28 linear layers in 4 blocks, 1,622,016 weights",
        ),
        (["demo", "out"], "evaluates    128 responses a cell: tiny-reasoner (128)"),
    ],
)
def test_dry_runs_write_nothing(workspace, arguments, expected, cli):
    before = sorted(workspace.rglob("*"))
    done = cli(*arguments, "--dry-run", cwd=workspace)
    assert done.code == 0, done.err
    assert expected in done.out
    assert sorted(workspace.rglob("*")) == before


@pytest.mark.slow
def test_an_interrupted_calibration_goes_on(tmp_path, cli):
    """Interrupted once a rollout is finished; then the same command generates what is missing."""
    problems = ["--problems", "tiny-reasoner", "--num-problems", "20", "--samples-per-problem", "4"]
    arguments = ["calibrate", "out", *MODEL, *problems, "--max-new-tokens", "400", "--num-tokens", "1000"]
    rollouts = tmp_path / "out.journal" / "rollouts.jsonl"
    with started(processes.ssgr, *arguments, cwd=tmp_path) as running:
        while not (rollouts.exists() and rollouts.read_bytes().count(b"\n")) and running.process.is_alive():
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        assert running.wait() == 130
        rest = running.err.read_text()
    assert "interrupted; finished rollouts are kept in out.journal. Run the same command to go on." in rest
    assert "Traceback" not in rest
    assert [path.name for path in tmp_path.iterdir()] == ["out.journal"]
    done = cli(*arguments, cwd=tmp_path)
    assert done.code == 0, done.err
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
