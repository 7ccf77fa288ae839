"""Engines that a command starts itself: what they are told, that they are asked, and that nothing of them is left behind."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from time import monotonic, sleep

import pytest
from transformers import LlamaConfig

from optimum_ssgr.config import EngineConfig, SamplingConfig
from optimum_ssgr.errors import ConfigError, ModelError
from optimum_ssgr.reasoner import WEIGHTS
from optimum_ssgr.rollouts import managed
from optimum_ssgr.rollouts.addresses import check_engine
from optimum_ssgr.rollouts.choose import open_engine
from optimum_ssgr.rollouts.launch import Parallelism, choose_parallelism, sequence_length

from ..processes import ssgr, started
from .stub_vllm import alive_in, starts_of, write_executable
from .test_server import assert_exactly_one_each, requests


@pytest.fixture
def start(tmp_path, reasoner, monkeypatch):
    """Opens an engine whose executable is a stub; nothing of it may be left when a test is over."""
    monkeypatch.setattr(managed, "PROBES_TO_DEATH", 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # where logs go

    def make(name="vllm", max_new_tokens=50, arguments="", request_seeds=True, **options):
        executable = write_executable(tmp_path, name, **options)
        sampling = SamplingConfig(temperature=0.7, top_p=0.9, max_new_tokens=max_new_tokens)
        return open_engine(EngineConfig(name, str(executable), arguments, request_seeds), *reasoner, sampling, 8)

    yield make
    assert alive_in(tmp_path) == []


def logs_in(folder):
    return list(folder.glob("*.log"))


def wait_until_gone(folder):
    """Processes end a moment after who wanted them; far less than the minute that this waits at most."""
    deadline = monotonic() + 60
    while alive_in(folder) and monotonic() < deadline:
        sleep(0.05)
    return alive_in(folder) == []


# ------------------------------------------------------------------------------------------------------- what it is told


def test_a_server_is_started_asked_and_stopped(start, tmp_path, monkeypatch):
    secrets = {"HF_TOKEN": "hf_secret", "VLLM_API_KEY": "sk-secret"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    with start() as engine:
        engine.check(requests())
        assert starts_of(tmp_path) == []  # all may be in the journal
        for _ in range(2):
            assert_exactly_one_each(list(engine.generate(requests())), requests())
        (noted,) = starts_of(tmp_path)
        assert len(alive_in(tmp_path)) == 3
    assert alive_in(tmp_path) == []
    assert logs_in(tmp_path) == []
    flags = noted["flags"]
    assert (flags["model"], flags["host"], flags["dtype"]) == (str(WEIGHTS), "127.0.0.1", "float32")
    assert flags["max_model_len"] == 1024  # the model's context
    assert flags["served_model_name"].startswith("tiny-reasoner-")
    assert noted["offline"] == "1"  # it has this process's environment
    assert not [part for part in noted["arguments"] for secret in secrets.values() if secret in part]


def test_nothing_to_ask_starts_nothing(start, tmp_path):
    with start() as engine:
        assert list(engine.generate([])) == []
    assert starts_of(tmp_path) == []


def test_on_a_processor_no_prompt_is_read_in_two_steps(start, tmp_path, monkeypatch):
    """Which vLLM 0.32 would die of, where requests have seeds."""
    monkeypatch.setattr(managed, "gpu_memory", list)
    with start() as engine:
        list(engine.generate(requests(1)))
    others = starts_of(tmp_path)[0]["others"]
    assert "--no-enable-chunked-prefill" in others
    assert int(others[others.index("--max-num-batched-tokens") + 1]) >= 1024
    assert others[others.index("--max-num-seqs") + 1] == "256"


def test_gpus_beyond_those_that_hold_the_model_get_copies(start, tmp_path, monkeypatch):
    monkeypatch.setattr(managed, "gpu_memory", lambda: [80_000_000_000] * 4)
    with start(arguments="--gpu-memory-utilization '0.8' --dtype float16") as engine:
        list(engine.generate(requests(1)))
    noted = starts_of(tmp_path)[0]
    spread = {
        flag: noted["others"][noted["others"].index(flag) + 1] for flag in ("--tensor-parallel-size", "--data-parallel-size")
    }
    assert spread == {"--tensor-parallel-size": "1", "--data-parallel-size": "4"}
    assert "--no-enable-chunked-prefill" not in noted["others"]
    assert noted["arguments"][-4:] == ["--gpu-memory-utilization", "0.8", "--dtype", "float16"]
    assert noted["flags"]["dtype"] == "float16"  # what is given wins


def test_sglang_has_flags_of_its_own(start, tmp_path):
    with start("sglang") as engine:
        assert_exactly_one_each(list(engine.generate(requests())), requests())
    noted = starts_of(tmp_path)[0]
    assert (noted["flags"]["model_path"], noted["flags"]["context_length"]) == (str(WEIGHTS), 1024)
    assert {"--tp-size", "--dp-size", "--enable-metrics"} <= set(noted["others"])


@pytest.mark.parametrize(
    ("weight_bytes", "heads", "gpus", "expected"),
    [
        (15e9, 28, 0, Parallelism(1, 1)),
        (15e9, 28, 1, Parallelism(1, 1)),
        (15e9, 28, 8, Parallelism(1, 8)),
        (140e9, 64, 8, Parallelism(4, 2)),
        (140e9, 28, 6, Parallelism(2, 3)),  # of 6 GPUs, 3 cannot share 28 heads, and nothing fits: as many as can
        (900e9, 64, 8, Parallelism(8, 1)),
    ],
)
def test_a_model_is_spread_over_as_few_gpus_as_hold_it(weight_bytes, heads, gpus, expected):
    assert choose_parallelism(int(weight_bytes), heads, [80_000_000_000] * gpus) == expected


def test_the_longest_sequence_leaves_room_for_somewhat_longer_ones_within_the_context():
    class Model:
        config = LlamaConfig(max_position_embeddings=5000)

    assert [sequence_length(Model, longest) for longest in (1, 1023, 1024, 4500, 5000)] == [1024, 1024, 2048, 5000, 5000]


def test_longer_requests_get_a_server_that_takes_them(start, tmp_path, monkeypatch):
    monkeypatch.setattr(managed, "sequence_length", lambda model, longest: longest)
    longer = [request for request in requests(3) if request.problem_id != "0"]
    longer = [type(request)(f"long {request.problem_id}", 0, request.prompt_ids * 5, request.seed) for request in longer]
    with start() as engine:
        for asked in (requests(), longer, requests()):
            assert_exactly_one_each(list(engine.generate(asked)), asked)
    assert [noted["flags"]["max_model_len"] for noted in starts_of(tmp_path)] == [54, 70]
    assert [noted["alive_then"] for noted in starts_of(tmp_path)] == [[], []]  # one at a time


# --------------------------------------------------------------------------------------------------- what can go wrong


def test_what_is_not_installed_is_said_at_once():
    with pytest.raises(ConfigError, match="there is no command '/no/such/vllm' to start; install vllm, or name its executable"):
        check_engine(EngineConfig("vllm", "/no/such/vllm"), 64)


def test_a_server_that_does_not_start_is_named_with_its_log(start, tmp_path):
    """With the error that ended it; vLLM names another one in a warning, wherever few files may be open."""
    said = "(APIServer pid=7) WARNING This can cause errors like `OSError: too many`.\nValueError: no room for\nINFO bye"
    with start(fails=said) as engine, pytest.raises(ModelError) as caught:
        engine.generate(requests())
    (log,) = logs_in(tmp_path)
    assert str(caught.value) == f"vllm ended before it was ready (ValueError: no room for); its log is {log}."
    assert "INFO bye" in log.read_text()


def test_a_server_of_another_model_on_the_port_is_not_asked(start, tmp_path):
    with (
        start(serves="other/model") as engine,
        pytest.raises(ModelError, match=r"another server answers at .*, with other/model"),
    ):
        engine.generate(requests())
    assert len(logs_in(tmp_path)) == 1


def test_an_engine_that_dies_is_started_again_for_what_is_missing(start, tmp_path, caplog):
    with start(dies_after=(5, 1000)) as engine:
        assert_exactly_one_each(list(engine.generate(requests(30))), requests(30))
    assert [noted["alive_then"] for noted in starts_of(tmp_path)] == [[], []]
    (log,) = logs_in(tmp_path)  # of the one that died
    assert "vllm answers nothing any more (RuntimeError: the stub's engine was killed); it is started again" in caplog.text
    assert str(log) in caplog.text


def test_a_killed_server_is_started_again(start, tmp_path, caplog):
    found = []
    with start(gate=None) as engine:
        for rollout in engine.generate(requests(40)):
            found.append(rollout)
            if len(found) == 5:
                os.kill(starts_of(tmp_path)[0]["pid"], signal.SIGKILL)
    assert_exactly_one_each(found, requests(40))
    assert "vllm answers nothing any more (it said nothing); it is started again" in caplog.text
    assert [noted["alive_then"] for noted in starts_of(tmp_path)] == [[], []]


def test_an_engine_that_dies_twice_is_given_up_in_one_sentence(start, tmp_path):
    found = []
    with start(dies_after=(5, 5)) as engine, pytest.raises(ModelError) as caught:
        for rollout in engine.generate(requests(40)):
            found.append(rollout)
    message = str(caught.value)
    assert message.startswith(
        "vllm answers nothing any more (RuntimeError: the stub's engine was killed), for the second time; see"
    )
    assert any(str(log) in message for log in logs_in(tmp_path)) and "\n" not in message
    assert 5 <= len(found) < 40
    assert_exactly_one_each(found, [request for request in requests(40) if request.problem_id in {r.problem_id for r in found}])


def test_an_engine_that_dies_of_seeds_is_found_out_before_the_work(start, tmp_path):
    with (
        start(seeds="deadly") as engine,
        pytest.raises(ModelError, match=r"fails when many carry seeds .*--request-seeds off.* vllm, .*\.log, says last"),
    ):
        list(engine.generate(requests()))
    with start(seeds="deadly", request_seeds=False) as engine:
        found = list(engine.generate(requests()))
    assert len({rollout.problem_id for rollout in found}) == 20


def test_an_error_elsewhere_stops_it(start, tmp_path):
    with pytest.raises(ZeroDivisionError), start() as engine:
        next(engine.generate(requests()))
        raise ZeroDivisionError
    assert len(starts_of(tmp_path)) == 1


PARENT = """
import sys
from optimum_ssgr.rollouts.process import ServerProcess

server = ServerProcess("vllm", sys.argv[1:])
server.wait_until(lambda: b"ready" in server.log.read_bytes())
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_one_that_wanted_it(tmp_path, number):
    """Also where that one can do nothing any more, and the server's child is deaf to all but SIGKILL."""
    command = [str(write_executable(tmp_path, says="ready")), "serve", "m", "--port", "0", "--served-model-name", "m"]
    program = [sys.executable, "-c", PARENT, *command]
    with subprocess.Popen(program, stdin=-1, stdout=-1, stderr=-3, env=os.environ | {"TMPDIR": str(tmp_path)}) as parent:
        assert parent.stdout.readline() == b"ready\n"
        (noted,) = starts_of(tmp_path)
        assert len(alive_in(tmp_path)) == 3
        parent.send_signal(number)
    assert wait_until_gone(tmp_path), noted


# -------------------------------------------------------------------------------------------------------- in the commands


ASKED = ["--problems", "tiny-reasoner", "--num-problems", "4", "--max-new-tokens", "50"]
SELECTED = ["--samples-per-problem", "2", "--strategy", "rac", "--num-sequences", "4"]


@pytest.fixture
def managed_cli(tmp_path, cli, monkeypatch):
    """Runs a command with a stub for its engine."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def run(*arguments, **options):
        executable = write_executable(tmp_path, **options)
        return cli(*arguments, "--engine", "vllm", "--engine-command", executable, cwd=tmp_path)

    yield run
    assert alive_in(tmp_path) == []


@pytest.mark.slow
def test_calibrate_starts_and_stops_it(managed_cli, tmp_path):
    done = managed_cli("calibrate", "out", "-m", "tiny-reasoner", *ASKED, *SELECTED, dies_after=(3, 1000))
    assert done.code == 0, done.err
    assert '"engine": "vllm"' in (tmp_path / "out" / "manifest.json").read_text()
    assert len(starts_of(tmp_path)) == 2
    again = managed_cli("calibrate", "again", "-m", "tiny-reasoner", *ASKED, *SELECTED, "--dry-run")
    assert again.code == 0 and len(starts_of(tmp_path)) == 2


@pytest.mark.slow
def test_prune_loads_the_weights_when_the_engine_is_gone(managed_cli, tmp_path, monkeypatch):
    seen = []

    def load(*arguments, **options):
        seen.append((len(starts_of(tmp_path)), alive_in(tmp_path)))
        return original(*arguments, **options)

    from optimum_ssgr import pruner

    original = pruner.load_model
    monkeypatch.setattr(pruner, "load_model", load)
    pruned = ["--method", "wanda", "--no-damage"]
    done = managed_cli("prune", "out", "-m", "tiny-reasoner", *ASKED, *SELECTED, *pruned)
    assert done.code == 0, done.err
    assert seen == [(1, [])]
    assert (tmp_path / "out" / "calibration" / "manifest.json").exists()


@pytest.mark.slow
def test_evaluate_has_one_model_after_the_other(managed_cli, tmp_path):
    shutil.copytree(WEIGHTS, tmp_path / "sparse")
    done = managed_cli("evaluate", "-m", "sparse", "--baseline", "tiny-reasoner", *ASKED)
    assert done.code == 0, done.err
    starts = starts_of(tmp_path)
    assert [noted["flags"]["model"] for noted in starts] == [str(WEIGHTS), "sparse"]
    assert [noted["alive_then"] for noted in starts] == [[], []]


@pytest.mark.slow
def test_a_study_generates_its_rollouts_with_it(tmp_path):
    from optimum_ssgr.calibration.dataset import CalibrationSet
    from optimum_ssgr.config import CalibrationConfig
    from optimum_ssgr.problems.options import ProblemOptions
    from optimum_ssgr.study.config import StudyConfig
    from optimum_ssgr.study.inputs import read_inputs
    from optimum_ssgr.study.steps import make_calibration_sets

    config = StudyConfig(
        "tiny-reasoner",
        "tiny-reasoner",
        CalibrationConfig(num_tokens=100, num_sequences=None, samples_per_problem=2, max_new_tokens=50),
        SamplingConfig(max_new_tokens=50),
        strategies=("rac",),
        engine=EngineConfig("vllm", str(write_executable(tmp_path))),
        num_evaluation_problems=2,
        reading=ProblemOptions(limit=4),
    )
    inputs = read_inputs(config, tmp_path / "journal")
    make_calibration_sets(inputs, 0)
    assert len(starts_of(tmp_path)) == 1
    assert alive_in(tmp_path) == []
    assert sum(CalibrationSet.load_from_disk(inputs.calibration_set(0, "rac")).dataset["num_tokens"]) == 100


def ssgr_with_temporary_files(folder, *arguments):
    """Run a command whose temporary files are in a folder."""
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    ssgr(*arguments)


@pytest.mark.slow
def test_an_interrupted_command_leaves_no_process_and_goes_on(tmp_path, cli):
    """The rollouts of 4 of 8 problems are kept; the stub says nothing to the others."""
    executable = write_executable(tmp_path, faults=[None] * 4 + ["hang"] * 100)
    command = ["calibrate", "out", "-m", "tiny-reasoner", *ASKED, *SELECTED, "--engine", "vllm", "--engine-command", executable]
    with started(ssgr_with_temporary_files, tmp_path, *command, cwd=tmp_path) as running:
        journal, deadline = tmp_path / "out.journal" / "rollouts.jsonl", monotonic() + 120
        while running.process.is_alive() and monotonic() < deadline:
            if journal.exists() and len(journal.read_text().splitlines()) == 4:
                break
            sleep(0.05)
        running.send_signal(signal.SIGINT)
        code, err = running.wait(), running.err.read_text()
    assert wait_until_gone(tmp_path)
    assert code == 130, err
    assert "Run the same command to go on." in err
    write_executable(tmp_path)
    done = cli(*command, cwd=tmp_path)
    assert done.code == 0, done.err
    assert len(starts_of(tmp_path)) == 2
