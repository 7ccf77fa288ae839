"""A program that uses the package finds itself as it was: environment, registries, clients, handlers, levels and threads."""

import json
import subprocess
import sys

import pytest

from tests.hub_server import HubServer


# What a program may have loaded itself; what these libraries do to their host when they are imported is theirs.
PROGRAM = """
import json, logging, os, signal, sys, threading

import accelerate, datasets, gradio, huggingface_hub, safetensors.torch, torch, transformers
import matplotlib, matplotlib.pyplot, tqdm.auto
from huggingface_hub.utils import _http
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

matplotlib.use("svg")
torch.set_num_threads(1)
torch.manual_seed(7)
transformers.logging.set_verbosity_error()
huggingface_hub.set_client_factory(make := lambda: _http.default_client_factory())

def levels():
    loggers = {"": logging.getLogger(), **logging.root.manager.loggerDict}
    known = ("transformers", "huggingface_hub", "datasets", "torch", "accelerate", "matplotlib")
    return {
        name: (logger.level, logger.disabled, logger.propagate, len(logger.handlers), len(logger.filters))
        for name, logger in loggers.items()
        if isinstance(logger, logging.Logger) and name.split(".")[0] in ("", *known)
    }

def state():
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "experts": sorted(ALL_EXPERTS_FUNCTIONS.keys()),
        "factory": _http._GLOBAL_CLIENT_FACTORY is make,
        "hooks": [hook.__qualname__ for hook in huggingface_hub.get_session().event_hooks["request"]],
        "client": id(huggingface_hub.get_session()),
        "backend": matplotlib.get_backend(),
        "style": {name: str(value) for name, value in matplotlib.rcParams.items()},
        "figures": matplotlib.pyplot.get_fignums(),
        "levels": levels(),
        "logging off": logging.root.manager.disable,
        "verbosity": [transformers.logging.get_verbosity(), datasets.logging.get_verbosity()],
        "signals": {number.name: str(signal.getsignal(number)) for number in signal.valid_signals() if hasattr(number, "name")},
        "grad": [torch.is_grad_enabled(), torch.is_inference_mode_enabled()],
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "dtype": str(torch.get_default_dtype()),
        "deterministic": [torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark],
        "precision": torch.get_float32_matmul_precision(),
        "random": torch.random.get_rng_state().sum().item(),
        "hooks on import": len(sys.meta_path),
        "recursion": sys.getrecursionlimit(),
        "own threads": sorted(thread.name for thread in threading.enumerate()),
    }

# Once before, since what the libraries make when they are first used is theirs, too.
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
model.generate(torch.tensor([[1]]), max_new_tokens=1, do_sample=False)
list(tqdm.auto.tqdm([1]))
seen = {"before": state()}

import optimum_ssgr
seen["imported"] = state()

from optimum_ssgr import CalibrationConfig, PruningConfig, SSGRPruner, load_problems
pruner = SSGRPruner.from_pretrained("tiny-reasoner")
config = CalibrationConfig(strategy="resp", num_sequences=1, num_tokens=None, samples_per_problem=2, max_new_tokens=24)
calibration = pruner.build_calibration(load_problems("tiny-reasoner", split="train", limit=2), config, output_dir="calibration")
seen["calibrated"] = state()

pruner.prune(calibration, PruningConfig(method="sparsegpt", sparsity=0.5))
seen["pruned"] = state()

pruner.push_to_hub("alice/sparse", private=True)
seen["pushed"] = state()

from optimum_ssgr.chat.page import open_page
from optimum_ssgr.chat.settings import ChatSettings
open_page(ChatSettings(models=("one", "two"), engine="http://127.0.0.1:9/v1", votes="votes.jsonl"))
seen["page opened"] = state()
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """The state of a program before and after every step."""
    from optimum_ssgr.reasoner import WEIGHTS

    folder = tmp_path_factory.mktemp("program")
    with HubServer() as hub:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(WEIGHTS)],
            env=hub.environment(folder / "home") | {"OMP_NUM_THREADS": "1"},
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert hub.repo("alice/sparse").private
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("step", ["imported", "calibrated", "pruned", "pushed", "page opened"])
def test_the_host_is_left_as_found(states, step):
    before, after = flatten(states["before"]), flatten(states[step])
    assert {name: (value, after.get(name)) for name, value in before.items() if after.get(name) != value} == {}
    assert {name for name in after.keys() - before.keys() if not name.startswith("levels: ")} == set()  # of new loggers


def flatten(state):
    """One entry per setting, so that a failure names what changed."""
    parts = {f"{name}: {key}": value for name, held in state.items() if isinstance(held, dict) for key, value in held.items()}
    return parts | {name: held for name, held in state.items() if not isinstance(held, dict)}
