"""`ssgr evaluate` as a user types it: killed and given again, presets, perplexity, what it leaves."""

import json
import os
import shutil
import signal
import sys
import time

import pyarrow.parquet
import pytest
import torch
from optimum.commands.optimum_cli import main

from optimum_ssgr.evaluation.output import is_whole_benchmark
from optimum_ssgr.reasoner import WEIGHTS

from ..problems.local_copy import write_gsm8k
from ..processes import ssgr, started
from ..rollouts.stub_server import StubServer


COMMAND = [
    *("evaluate", "-m", "tiny-reasoner", "--problems", "tiny-reasoner:walk", "tiny-reasoner:sum", "--num-problems", "8"),
    *("--samples", "2", "--max-new-tokens", "200", "--batch-size", "4", "--output", "out"),
]


@pytest.fixture(scope="module")
def run(cli):
    def run(folder, *arguments):
        done = cli(*arguments, cwd=folder)
        assert done.code == 0, done.err
        return done.out

    return run


def rollouts(folder):
    return {path.parent.name: path.read_bytes() for path in folder.glob("out.journal/*/rollouts.jsonl")}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, run):
    folder = tmp_path_factory.mktemp("whole")
    run(folder, *COMMAND)
    return folder


@pytest.mark.slow
def test_killed_and_run_again_generates_only_what_is_missing(tmp_path, uninterrupted, run):
    """Killed in the second set; what is kept of both stays as it is."""
    with started(ssgr, *COMMAND, cwd=tmp_path) as running:
        while sum(found.count(b"\n") for found in rollouts(tmp_path).values()) < 18:
            assert running.process.is_alive(), running.err.read_text()
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
    kept = {name: found[: found.rfind(b"\n") + 1] for name, found in rollouts(tmp_path).items()}
    assert len(kept) == 2
    assert 18 <= sum(found.count(b"\n") for found in kept.values()) < 32
    assert not (tmp_path / "out").exists()

    # A journal that cannot grow shows what the second run appends: reading stops at the tail that is copied aside.
    (tmp_path / "watch").mkdir()
    for folder in (tmp_path / "out.journal").iterdir():
        os.link(folder / "rollouts.jsonl", tmp_path / "watch" / folder.name)
    run(tmp_path, *COMMAND)
    for name, before in kept.items():
        after = (tmp_path / "watch" / name).read_bytes()
        assert after.startswith(before)
        assert after.count(b"\n") == 16
    assert not (tmp_path / "out.journal").exists()
    for name in ("results.json", "samples.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (uninterrupted / "out" / name).read_bytes()


@pytest.mark.slow
def test_rows_samples_and_cards(uninterrupted):
    out = uninterrupted / "out"
    results = json.loads((out / "results.json").read_text())
    rows = results["rows"]
    assert [(row["model"], row["problems"], row["n"], row["samples"]) for row in rows] == [
        ("tiny-reasoner", "tiny-reasoner:walk", 8, 2),
        ("tiny-reasoner", "tiny-reasoner:sum", 8, 2),
    ]
    samples = pyarrow.parquet.read_table(out / "samples.parquet").to_pylist()
    for row in rows:
        own = [sample for sample in samples if sample["problems"] == row["problems"]]
        assert len(own) == 16
        assert sum(sample["correct"] for sample in own) / 16 == row["accuracy"] == row["pass_at_k"]["1"]["value"]
        assert sum(sample["num_tokens"] for sample in own) / 16 == pytest.approx(row["mean_tokens"])
        assert all("</think>" in sample["response"] for sample in own if sample["thought"])
    assert "model-index:" in (out / "cards" / "tiny-reasoner.yaml").read_text()
    assert json.loads((out / "speed.json").read_text())["tokens_per_second"]["tiny-reasoner"] > 0


@pytest.mark.slow
def test_too_little_gpu_memory_is_one_sentence(tmp_path, monkeypatch, capsys):
    def allocate(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of")

    monkeypatch.setattr("optimum_ssgr.evaluation.compare.perplexity", allocate)
    monkeypatch.chdir(tmp_path)
    text = ["--text", "tiny-reasoner", "--text-length", "160"]
    short = ["--problems", "tiny-reasoner", "--num-problems", "2", "--max-new-tokens", "20"]
    monkeypatch.setattr(sys, "argv", ["optimum-cli", "ssgr", "evaluate", "-m", "tiny-reasoner", *short, *text])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "evaluate: error: the GPU has too little memory for this; " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_two_models_on_two_servers(tmp_path, run):
    """Each is asked all of its problems where it is served, under the name that the command gives it."""
    shutil.copytree(WEIGHTS, tmp_path / "sparse", ignore=shutil.ignore_patterns("*.safetensors"))
    servers = [StubServer(served=(name,)) for name in ("sparse", "tiny-reasoner")]
    try:
        models = ["-m", "sparse", "--baseline", "tiny-reasoner", "--engine", ",".join(server.url for server in servers)]
        asked = ["--problems", "tiny-reasoner:sum", "--num-problems", "6", "--max-new-tokens", "20"]
        lines = run(tmp_path, "evaluate", *models, *asked).splitlines()
    finally:
        for server in servers:
            server.stop()
    assert [line.split()[0] for line in lines] == ["model", "tiny-reasoner", "sparse"]
    assert [[body["model"] for body in server.bodies] for server in servers] == [["sparse"] * 6, ["tiny-reasoner"] * 6]
    prompts = [{tuple(body["prompt"]) for body in server.bodies} for server in servers]
    assert prompts[0] == prompts[1]


@pytest.mark.slow
def test_a_leaderboard_takes_whole_benchmarks_alone(tmp_path, run):
    write_gsm8k(tmp_path)
    command = ["evaluate", "-m", "tiny-reasoner", "--problems", "openai/gsm8k", "--instruction", "", "--max-new-tokens", "8"]
    run(tmp_path, *command, "--output", "test")
    run(tmp_path, *command, "--output", "train", "--split", "train")
    assert (tmp_path / "test" / "eval_results" / "tiny-reasoner" / "gsm8k.yaml").is_file()
    assert not (tmp_path / "train" / "eval_results").exists()


def test_a_benchmark_lost_no_response():
    row = {"problems": "openai/gsm8k", "split": "test", "responses": 8, "samples": 2}
    assert is_whole_benchmark(row, 4, False)
    assert not is_whole_benchmark(row | {"responses": 7}, 4, False)
    assert not is_whole_benchmark(row, 5, False)  # all responses to a problem lost
    assert not is_whole_benchmark(row, 4, True)
    assert is_whole_benchmark(row | {"problems": "Idavidrein/gpqa", "split": "train"}, 4, False)


@pytest.mark.slow
def test_perplexity_beside_the_numbers(tmp_path, run):
    text = ["--text", "tiny-reasoner", "--text-length", "160"]
    short = ["--problems", "tiny-reasoner:sum", "--num-problems", "2", "--max-new-tokens", "20"]
    names, values = (line.split() for line in run(tmp_path, "evaluate", "-m", "tiny-reasoner", *short, *text).splitlines())
    assert names[-3:] == ["text", "ppl", "tokens/s"]
    assert 10 < float(values[-2]) < 13  # the model's card says 11.3 for all of it
