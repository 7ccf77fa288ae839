"""The engine against a real vLLM: `make test-vllm`. Not collected with the other tests; takes many minutes on two cores.

VLLM_COMMAND names the executable. The embedded reasoner is small enough for any machine, and right often enough for mistakes in
prompts, token ids or weights to show.
"""

import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest

from optimum_ssgr.calibration.dataset import CalibrationSet
from optimum_ssgr.checkpoints.load import load_model
from optimum_ssgr.config import EngineConfig, SamplingConfig
from optimum_ssgr.errors import ConfigError, ModelError
from optimum_ssgr.problems.load import load_problems
from optimum_ssgr.rollouts.choose import open_engine
from optimum_ssgr.rollouts.local import LocalEngine
from optimum_ssgr.rollouts.prompts import encode_prompts
from optimum_ssgr.rollouts.sample import make_requests
from optimum_ssgr.rollouts.server import ServerEngine


COMMAND = os.environ["VLLM_COMMAND"]
ARGUMENTS = os.environ.get("VLLM_ARGUMENTS", "--enforce-eager")
ENGINE = ["--engine", "vllm", "--engine-command", COMMAND, f"--engine-args={ARGUMENTS}"]
ASKED = ["--problems", "tiny-reasoner", "--max-new-tokens", "300"]
SAMPLED = SamplingConfig(temperature=0.8, top_p=1.0, max_new_tokens=300)


@pytest.fixture(scope="module", autouse=True)
def environment():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "2"}.items():
            patch.setenv(name, value)
        version = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
        model = next(
            (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), "?"
        )
        print(f"\nvLLM {version}, {os.cpu_count()} cores, {model}, {platform.system()}")
        yield


@pytest.fixture(scope="module")
def asked(reasoner):
    problems = load_problems("tiny-reasoner", limit=24)
    return make_requests(problems, encode_prompts(reasoner[1], problems), range(2), 0)


def open_vllm(reasoner, sampling=SAMPLED, arguments=ARGUMENTS, **options):
    return open_engine(EngineConfig("vllm", COMMAND, arguments, **options), *reasoner, sampling, 16)


@pytest.fixture(scope="module")
def engine(reasoner, asked):
    """One server for several tests."""
    with open_vllm(reasoner) as opened:
        list(opened.generate(asked[:1]))
        yield opened
    assert engine_processes() == []


def engine_processes():
    """All processes of vLLM that run."""
    found = []
    for process in psutil.process_iter(["pid", "name", "cmdline", "status"]):
        words = [process.info["name"] or "", *(process.info["cmdline"] or [])]
        is_ours = any(word == COMMAND or word.startswith("VLLM::") for word in words)
        if is_ours and process.info["status"] != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
            found.append(process.pid)
    return found


def wait_until_gone():
    deadline = monotonic() + 60
    while engine_processes() and monotonic() < deadline:
        sleep(0.2)
    return engine_processes() == []


def by_request(rollouts):
    return {(rollout.problem_id, rollout.sample): rollout for rollout in rollouts}


# ---------------------------------------------------------------------------------------------------------- one server


def test_every_request_is_answered_from_the_prompt_that_was_sent(engine, asked):
    found = by_request(engine.generate(asked))
    assert found.keys() == {(request.problem_id, request.sample) for request in asked}  # prompt ids are compared on the way
    assert any(rollout.finished for rollout in found.values())


def test_token_ids_spell_what_our_tokenizer_makes_of_their_text(engine, reasoner, asked):
    tokenizer = reasoner[1]
    found = [list(rollout.response_ids) for rollout in engine.generate(asked)]
    again = [tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False) for ids in found]
    same = sum(ids == other for ids, other in zip(found, again, strict=True))
    print(f"\n{same} of {len(found)} sampled responses are tokenized again to the ids that vLLM returned")
    assert all(tokenizer.decode(ids) == tokenizer.decode(other) for ids, other in zip(found, again, strict=True))


def test_one_seed_gives_one_response(engine, asked):
    first, second = (by_request(engine.generate(asked)) for _ in range(2))
    same = sum(first[key].response_ids == second[key].response_ids for key in first)
    print(f"\n{same} of {len(first)} sampled responses are the same the second time")
    assert same > 0.5 * len(first)
    assert len({rollout.response_ids for rollout in first.values()}) > 24  # two samples of a problem differ


def test_a_name_that_it_does_not_have_is_refused(engine, reasoner, asked):
    url = engine._client.endpoints[0].url
    wrong = ServerEngine([url], "no/such", reasoner[1], SAMPLED, sole=False)
    with pytest.raises(ModelError, match=r"serves tiny-reasoner-.*, but not no/such"):
        wrong.check(asked)


def test_killing_its_engine_in_mid_run_loses_nothing(engine, reasoner, caplog):
    problems = load_problems("tiny-reasoner", limit=24)
    asked = make_requests(problems, encode_prompts(reasoner[1], problems), range(16), 0)
    found = []
    for rollout in engine.generate(asked):
        found.append(rollout)
        if len(found) == 1:
            children = psutil.Process(engine._process._keeper.pid).children(recursive=True)
            core = next(process for process in children if "EngineCore" in " ".join([process.name(), *process.cmdline()]))
            core.kill()
    assert by_request(found).keys() == {(request.problem_id, request.sample) for request in asked}
    assert len(found) == len(asked)
    assert "it is started again" in caplog.text
    print("\n" + next(line for line in caplog.text.splitlines() if "it is started again" in line)[-300:])


# ------------------------------------------------------------------------------------------------------ servers of their own


@pytest.mark.parametrize("is_sparse", [False, True])
def test_greedy_responses_are_those_of_transformers(reasoner, asked, tmp_path, cli, is_sparse):
    if is_sparse:
        pruned = cli("prune", "sparse", "-m", "tiny-reasoner", "--method", "magnitude", "--pattern", "2:4", cwd=tmp_path)
        assert pruned.code == 0, pruned.err
    model = load_model(str(tmp_path / "sparse")) if is_sparse else reasoner
    sampling = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=300)
    greedy = [request for request in asked if request.sample == 0]
    with open_vllm(model, sampling) as engine:
        found = by_request(engine.generate(greedy))
    expected = by_request(LocalEngine(model[0], sampling).generate(greedy))
    same = sum(found[key].response_ids == expected[key].response_ids for key in expected)
    kind = "2:4" if is_sparse else "dense"
    print(f"\n{kind}: {same} of {len(expected)} greedy responses are those of transformers, token by token")
    assert same >= 0.9 * len(expected)


def test_without_seeds_samples_travel_together(reasoner, asked):
    with open_vllm(reasoner, request_seeds=False) as engine:
        found = by_request(engine.generate(asked))
    assert found.keys() == {(request.problem_id, request.sample) for request in asked}
    assert len({rollout.response_ids for rollout in found.values()}) > 24


def test_dying_of_seeds_is_found_out_before_the_work(reasoner, asked):
    """It dies when it reads a prompt in two steps; should a later version survive that, the managed engine may let it."""
    split = f"{ARGUMENTS} --enable-chunked-prefill --max-num-batched-tokens 64 --max-num-seqs 64"
    refused = pytest.raises(ModelError, match=r"fails when many carry seeds .*--request-seeds off")
    with open_vllm(reasoner, arguments=split) as engine, refused as caught:
        list(engine.generate(asked))
    print(f"\n{caught.value}")


def test_what_is_too_long_is_refused(reasoner, asked):
    refused = pytest.raises(ConfigError, match="exceed the 128 tokens that")
    with open_vllm(reasoner, arguments=f"{ARGUMENTS} --max-model-len 128") as engine, refused:
        list(engine.generate(asked))


def test_a_flag_that_it_does_not_know_is_told(reasoner, asked):
    refused = pytest.raises(ModelError, match=r"vllm ended before it was ready .*no-such-flag")
    with open_vllm(reasoner, arguments="--no-such-flag") as engine, refused:
        engine.generate(asked)


# ------------------------------------------------------------------------------------------------------------- commands


def test_calibrate_prune_and_evaluate_both_models(tmp_path, cli):
    few = ["--num-problems", "16", "--samples-per-problem", "4"]
    made = cli("calibrate", "set", "-m", "tiny-reasoner", *ASKED, *few, "--num-tokens", "3000", *ENGINE, cwd=tmp_path)
    assert made.code == 0, made.err
    calibration = CalibrationSet.load_from_disk(tmp_path / "set")
    assert calibration.manifest.engine == "vllm"
    assert calibration.manifest.counts["correct"] > 0.6 * calibration.manifest.counts["rollouts"]
    pruned = ["--calibration", "set", "--method", "wanda", "--sparsity", "0.7"]
    assert cli("prune", "sparse", "-m", "tiny-reasoner", *pruned, cwd=tmp_path).code == 0
    measured = ["--num-problems", "32", "--temperature", "0", "--output"]
    models = ["-m", "sparse", "--baseline", "tiny-reasoner"]
    by_vllm = cli("evaluate", *models, *ASKED, *measured, "by-vllm", *ENGINE, cwd=tmp_path)
    assert by_vllm.code == 0, by_vllm.err
    assert cli("evaluate", *models, *ASKED, *measured, "here", cwd=tmp_path).code == 0
    accuracies = [
        {row["model"]: row["accuracy"] for row in json.loads((tmp_path / name / "results.json").read_text())["rows"]}
        for name in ("by-vllm", "here")
    ]
    print(f"\naccuracy by vLLM {accuracies[0]}, in process {accuracies[1]}")
    assert accuracies[0]["sparse"] < accuracies[0]["tiny-reasoner"]  # it has the sparse weights
    for model, accuracy in accuracies[1].items():
        assert abs(accuracies[0][model] - accuracy) <= 0.1
    assert wait_until_gone()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_command_leaves_no_process_and_goes_on(tmp_path, cli, number):
    command = ["calibrate", "out", "-m", "tiny-reasoner", *ASKED, "--num-problems", "64", "--num-tokens", "2000", *ENGINE]
    program = [sys.executable, "-c", "from optimum.commands.optimum_cli import main; main()", "ssgr", *command]
    listen = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    with subprocess.Popen(program, cwd=tmp_path, stderr=subprocess.DEVNULL, preexec_fn=listen) as process:
        journal = tmp_path / "out.journal" / "rollouts.jsonl"
        while process.poll() is None and not (journal.exists() and len(journal.read_bytes().splitlines()) > 5):
            sleep(0.1)
        assert process.poll() is None
        process.send_signal(number)
    kept = len(journal.read_bytes().splitlines())
    assert wait_until_gone()
    done = cli(*command, cwd=tmp_path)
    assert done.code == 0, done.err
    assert 5 < kept < CalibrationSet.load_from_disk(tmp_path / "out").manifest.counts["rollouts"]
