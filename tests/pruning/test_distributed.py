"""Several processes, and models that accelerate has spread out: the result of one process with everything in memory."""

import json
import os
import runpy
import signal
import socket
import sys
import threading
from contextlib import ExitStack
from multiprocessing import connection
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from safetensors.torch import load_file

from optimum_ssgr.config import PruningConfig
from optimum_ssgr.damage import measure_damage
from optimum_ssgr.errors import ModelError
from optimum_ssgr.pruning import watch
from optimum_ssgr.pruning.block_store import hash_tensors
from optimum_ssgr.pruning.distributed import barrier, start_processes
from optimum_ssgr.pruning.inputs import PruningInputs
from optimum_ssgr.pruning.layerwise import prune_layerwise
from optimum_ssgr.pruning.weights import ResidentWeights
from optimum_ssgr.records import GradedRollout, Problem, Rollout, Verdict

from ..models import random_model
from ..processes import started
from .test_layerwise import random_sequences


SEQUENCES = random_sequences((60, 40, 55, 30, 48, 52, 31, 44, 20))
# Model, method, whether to run every block once, and what to refine, for each number of processes.
CASES = {
    2: [
        ("qwen3", "sparsegpt", True, ()),
        ("llama", "alps", True, ()),
        ("qwen3 moe", "sparsegpt", True, ()),
        ("llama", "wanda", True, ("swaps", "blocks")),
    ],
    4: [("qwen3", "sparsegpt", False, ()), ("llama", "wanda", True, ())],
}
# Prunes with the others of a torchrun job; argv: number of processes, folder for the outcomes.
SCRIPT = """
import sys
from safetensors.torch import save_file
from optimum_ssgr.config import PruningConfig
from optimum_ssgr.pruning.distributed import rank, start_processes
from optimum_ssgr.pruning.layerwise import prune_layerwise
from tests.models import random_model
from tests.pruning.test_distributed import CASES, SEQUENCES
processes, folder = sys.argv[1:]
start_processes()
for number, (name, method, sequential, refine) in enumerate(CASES[int(processes)]):
    model = random_model(name)
    config = PruningConfig(method=method, sparsity=0.5, true_sequential=sequential, refine=refine)
    reports = prune_layerwise(model, SEQUENCES, config)
    tokens = {report.tokens for report in reports if "experts" not in report.name}
    assert tokens == {sum(map(len, SEQUENCES))}, tokens
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    save_file(tensors, f"{folder}/{number}-{rank()}.safetensors")
"""


def damage(folder):
    """Measure what pruning does to nine traces of a random model."""
    rollouts = [
        GradedRollout(
            Problem(str(number), "", "1"), Rollout(str(number), 0, ids[:5], ids[5:], True), Verdict("1", True, True), ""
        )
        for number, ids in enumerate(map(tuple, SEQUENCES))
    ]
    config = PruningConfig(method="wanda", sparsity=0.6)
    measured = measure_damage(random_model("llama"), rollouts, PruningInputs(SEQUENCES), config, folder / "damage")
    return [item.damage for item in measured]


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """Folders with what jobs of several processes ended with, by how many they are."""
    return {processes: launch(tmp_path_factory.mktemp("job"), SCRIPTS[processes], processes) for processes in CASES}


def launch(folder, script, processes):
    """Run a script in several processes of a job, and return the folder; as with torchrun, one that fails ends the others."""
    (folder / "job.py").write_text(script)
    port = free_port()
    with ExitStack() as all_of_them:
        jobs = [
            all_of_them.enter_context(started(run_rank, rank, processes, port, folder, cwd=Path(__file__).parents[2]))
            for rank in range(processes)
        ]
        waiting = {job.process.sentinel: job for job in jobs}
        while waiting:
            for ended in connection.wait(list(waiting)):
                job = waiting.pop(ended)
                assert job.wait() == 0, job.err.read_text()
    return folder


def run_rank(rank, processes, port, folder):
    """Run the script of a job as one of its processes."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= address | {"WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    script = str(folder / "job.py")
    sys.argv = [script, str(processes), str(folder)]
    runpy.run_path(script, run_name="__main__")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "processes, number", [(number, place) for number, of in CASES.items() for place, case in enumerate(of) if not case[3]]
)
def test_processes_end_with_the_masks_of_one(pruned, processes, number):
    name, method, true_sequential, _ = CASES[processes][number]
    alone = random_model(name)
    prune_layerwise(alone, SEQUENCES, PruningConfig(method=method, sparsity=0.5, true_sequential=true_sequential))
    first, *others = (load_file(pruned[processes] / f"{number}-{rank}.safetensors") for rank in range(processes))
    for other in others:
        assert all(torch.equal(first[key], other[key]) for key in first)  # bit for bit the same in all processes
    ids = torch.tensor(SEQUENCES[0])[None]
    expected, dense = alone(ids).logits, random_model(name)(ids).logits
    zeros = {key: tensor == 0 for key, tensor in alone.state_dict().items()}
    alone.load_state_dict(first)
    logits = alone(ids).logits
    different = sum(int(((first[key] == 0) != pruned).sum()) for key, pruned in zeros.items())
    if method == "alps":
        # Sums in another order decide a near-tie otherwise, and ALPS goes on from there: on this model a change of the Hessians
        # by 1e-7 moves 400 of 18,000 zeros. So the masks are nearly the same, and as good.
        assert different < 0.05 * sum(int(pruned.sum()) for pruned in zeros.values())
        assert float((logits - dense).norm()) == pytest.approx(float((expected - dense).norm()), rel=0.1)
    else:
        assert different <= 2
        torch.testing.assert_close(logits, expected, rtol=0.05, atol=0.05)


@pytest.mark.slow
def test_processes_refine_together(pruned):
    """One of them has fewer sequences to fit to, and none that is held out."""
    number, (name, method, true_sequential, refine) = next((n, case) for n, case in enumerate(CASES[2]) if case[3])
    first, second = (load_file(pruned[2] / f"{number}-{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    off = []
    for chosen in ((), refine):
        alone = random_model(name)
        config = PruningConfig(method=method, sparsity=0.5, true_sequential=true_sequential, refine=chosen)
        prune_layerwise(alone, SEQUENCES, config)
        off.append(distance(alone))
    alone.load_state_dict(first)
    assert distance(alone) < off[1] + 0.3 * (off[0] - off[1])  # nearly as close to the dense model as one process comes


def distance(model):
    """How far the logits are from the dense model's."""
    ids = torch.tensor(random_sequences((60, 50), seed=7)[0])[None]
    return float((model(ids).logits - random_model("llama")(ids).logits).norm())


# Prunes three times with the others, writing down what it reports and factorizes; the second time, no Hessian will do for
# process 1, and the third, its own key projection is broken. The fourth time, there is a sequence for one of them alone.
FACTORIZING = """
import dataclasses, json, pathlib
import torch
from optimum_ssgr.errors import ConfigError, NumericalError
from optimum_ssgr.pruning import solve
from tests.pruning.test_distributed import damage
factorize, factorized = solve.factorize, []
def stubborn(hessian, damping):
    if len(hessian) == 32 and damping < least:
        raise torch.linalg.LinAlgError("not enough")
    factorized.append(len(hessian))
    return factorize(hessian, damping)
solve.factorize = stubborn
least = 0.02
reports = prune_layerwise(random_model("mixtral"), SEQUENCES, PruningConfig(sparsity=0.5))
found = {"reports": [dataclasses.asdict(report) for report in reports], "factorized": list(factorized)}
least = 1.0 if rank() == 1 else 0.0
reports = prune_layerwise(random_model("mixtral"), SEQUENCES, PruningConfig(sparsity=0.5))
found["resisted"] = [report.name for report in reports if report.resisted]
model = random_model("mixtral")
if rank() == 1:
    model.model.layers[0].self_attn.k_proj.weight.data[0, 0] = torch.nan
try:
    prune_layerwise(model, SEQUENCES, PruningConfig(sparsity=0.5))
except NumericalError as error:
    found["error"] = str(error)
try:
    prune_layerwise(random_model("llama"), SEQUENCES[:1], PruningConfig(method="wanda"))
except ConfigError as error:
    found["refusal"] = str(error)
found["damage"] = damage(pathlib.Path(folder))
pathlib.Path(folder, f"{rank()}.json").write_text(json.dumps(found))
"""


SCRIPTS = {2: SCRIPT + FACTORIZING, 4: SCRIPT}


@pytest.mark.slow
def test_each_matrix_is_solved_by_one_process_and_what_fails_in_one_fails_in_all(pruned):
    first, second = (json.loads((pruned[2] / f"{rank}.json").read_text()) for rank in range(2))
    assert first["reports"] == second["reports"]
    assert {(report["shape"][1], report["method"], report["damping"]) for report in first["reports"]} == {
        (32, "sparsegpt", 0.02),
        (64, "sparsegpt", 0.01),
    }
    # In each of two blocks: q/k/v in both, o in the first, half of four experts in either, with 32 inputs, then 64.
    assert first["factorized"] == 2 * [32, 32, 32, 32, 64, 64]
    assert second["factorized"] == 2 * [32, 32, 32, 64, 64]
    label = "model.layers.0.self_attn.q_proj.weight/self_attn.k_proj.weight/self_attn.v_proj.weight"
    assert first["resisted"] == second["resisted"]
    attention = [name.removeprefix("model.layers.0.") for name in first["resisted"] if "layers.0.self_attn" in name]
    assert attention == ["self_attn.k_proj.weight"]  # process 0 has the others
    assert second["error"].startswith(f"the weights of {label} are not finite")
    assert first["error"] == f"another process could not prune {label}; its own error says why."
    for found in (first, second):
        assert found["refusal"] == "1 calibration sequences cannot be split over 2 processes; start fewer."


@pytest.mark.slow
def test_damage_is_that_of_one_process(pruned, tmp_path):
    first, second = (json.loads((pruned[2] / f"{rank}.json").read_text())["damage"] for rank in range(2))
    assert first == second == pytest.approx(damage(tmp_path), rel=1e-3, abs=1e-3)


# Runs the command; the push lasts until the other processes are through, as does an upload of hours.
COMMAND = """
import os, pathlib, sys, time
from datetime import timedelta
import torch
from optimum.commands.optimum_cli import main
from optimum_ssgr.commands import prune
folder = pathlib.Path(__file__).parent
def push(args):
    others = [folder / f"through-{rank}" for rank in range(1, int(os.environ["WORLD_SIZE"]))]
    until = time.monotonic() + 60
    while not all(path.exists() for path in others):
        assert time.monotonic() < until, "the others wait for the push"
    folder.joinpath("pushed").touch()
prune.push_output = push
sys.argv = ["optimum-cli", "ssgr", "prune", str(folder / "out"), "--model", "tiny-reasoner", "--method", "magnitude"]
main()
folder.joinpath("through-" + os.environ["RANK"]).touch()
waits = torch.distributed.group.WORLD._get_backend(torch.device("cpu")).options._timeout
assert waits > timedelta(days=1), waits
"""


@pytest.mark.slow
def test_the_command_ends_well_without_calibration(tmp_path):
    """Magnitude pruning exchanges nothing, so the processes must be kept in step for the journal's and the output's sake.

    They may wait for as long as saving takes, and are not kept for the push.
    """
    launch(tmp_path, COMMAND, 3)
    assert (tmp_path / "out" / "model.safetensors").exists()
    through = [f"through-{rank}" for rank in range(3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.py", "out", "pushed", *through]


@pytest.mark.parametrize("true_sequential", [True, False])
@pytest.mark.parametrize("spread", ["whole model", "one block"])
def test_weights_offloaded_to_the_cpu_are_pruned_where_they_are(true_sequential, spread):
    resident, offloaded = random_model("llama"), random_model("llama")
    if spread == "whole model":
        cpu_offload(offloaded, execution_device="cpu")
    else:
        cpu_offload(offloaded.model.layers[1], execution_device="cpu")
    config = PruningConfig(sparsity=0.5, true_sequential=true_sequential)
    hashed = [hash_tensors(sorted(ResidentWeights().outside(model))) for model in (resident, offloaded)]
    assert hashed[0] == hashed[1]  # the journal's fingerprint sees offloaded weights too
    prune_layerwise(resident, SEQUENCES, config)
    prune_layerwise(offloaded, SEQUENCES, config)
    assert all(parameter.is_meta for parameter in offloaded.model.layers[1].parameters())
    ids = torch.tensor(SEQUENCES[0])[None]
    assert torch.equal(offloaded(ids).logits, resident(ids).logits)


@pytest.mark.parametrize("method", ["sparsegpt", "magnitude"])
def test_weights_offloaded_to_disk_are_refused(tmp_path, method):
    model = random_model("llama")
    names = ["model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head"]
    device_map = dict.fromkeys(names, "cpu") | {"model.layers.1": "disk"}
    model = dispatch_model(model, device_map, main_device="cpu", offload_dir=tmp_path)
    with pytest.raises(ModelError, match="offloaded to disk, where they cannot be pruned; use streaming"):
        prune_layerwise(model, SEQUENCES, PruningConfig(method=method))
    assert model.model.layers[0].mlp.up_proj.weight.all()


def fail(way, fails, rank, port):
    """Join a job of two processes, one of which fails while the other waits where nobody will ever call it."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank)}
    watch.BEAT, watch.SILENCE = 0.2, 2.0
    with watch.watch_others(start_processes(), rank, 2):
        barrier()
        if rank != fails:
            threading.Event().wait()
        if way == "raises":
            raise ModelError("the weights are damaged.")
        os.kill(os.getpid(), signal.SIGKILL if way == "is killed" else signal.SIGSTOP)


SENTENCES = {
    "raises": "error: process {rank} of this job has failed: the weights are damaged; this process ends, too",
    "is killed": "error: process {rank} of this job has not been heard of for",
    "is stopped": "error: process {rank} of this job has not been heard of for",
}


@pytest.mark.slow
@pytest.mark.parametrize("fails", [0, 1])
@pytest.mark.parametrize("way", SENTENCES)
def test_where_one_process_fails_the_others_end(tmp_path, way, fails):
    """Without a launcher that would end them: each process is on its own, as on another machine."""
    port = free_port()
    with ExitStack() as both:
        jobs = [both.enter_context(started(fail, way, fails, rank, port, cwd=tmp_path)) for rank in range(2)]
        assert jobs[1 - fails].wait() == 1
        errors = jobs[1 - fails].err.read_text()
    gone = "error: the process of this job that the others meet at "  # the first process holds what they meet at
    told = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(told) == 1
    assert told[0].startswith(SENTENCES[way].format(rank=fails)) or (fails == 0 and told[0].startswith(gone))


def test_a_process_that_is_alone_is_not_watched():
    with pytest.raises(ValueError, match="mine"), watch.watch_others(None, 0, 1):
        raise ValueError("mine")
