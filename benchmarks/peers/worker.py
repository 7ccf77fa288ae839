"""Measure one contender once, in a process of its own: `python -m peers.worker TASK`, TASK a `Task` as JSON.

The clock runs, and memory is watched, while the model is pruned: not while libraries are imported, the model is loaded or its
quality is judged. A short forward pass before that pays for what PyTorch sets up at first use. A streamed model is not loaded
before, so its time holds the reading and writing of all blocks, and its added memory holds the weights that it holds.
"""

import ctypes
import dataclasses
import gc
import importlib.metadata
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from .setting import Task, read, realised_sparsity, relative_error


JOURNAL = "journal"


def memory(field: str) -> int:
    """Return a field of Linux's record of this process in bytes: `VmRSS` now, `VmHWM` at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}; this benchmark needs Linux.")


def reset_peak() -> int:
    """Give freed memory back to the system, forget the peak so far, and return what is left."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def make_contender(task: Task, calibration: torch.Tensor) -> tuple[str, Callable[[Qwen2ForCausalLM], None]]:
    """Import a contender and set it up; return its package, for the version, and what prunes a model."""
    if task.contender in ("sparsegpt", "wanda"):
        from . import originals

        prune = getattr(originals, task.contender)(task.repo, task.pattern)
        return "transformers", lambda model: prune(model, calibration)
    if task.contender == "llm-compressor":
        from . import llm_compressor

        target = task.pattern.replace("50%", "0.5")
        return "llmcompressor", llm_compressor.contender(task.method, target, calibration.tolist(), task.batch)
    from optimum_ssgr.config import PruningConfig
    from optimum_ssgr.pruning.layerwise import prune_layerwise

    share = {"pattern": "2:4"} if task.pattern == "2:4" else {"sparsity": 0.5}
    config = PruningConfig(method=task.method, **share, true_sequential=task.variant == "one pass")
    sequences = calibration.tolist()
    if task.variant == "streamed":
        return "transformers", lambda model: prune_streamed(model, task.folder, sequences, config)
    return "transformers", lambda model: prune_layerwise(model, sequences, config)


def prune_streamed(model: Qwen2ForCausalLM, folder: str, sequences: list[list[int]], config: Any) -> None:
    """Prune a model on the meta device from its files; pruned blocks go to a journal beside them."""
    from optimum_ssgr.checkpoints.streaming import StreamedWeights
    from optimum_ssgr.pruning.activations import ActivationStore
    from optimum_ssgr.pruning.block_store import open_block_store
    from optimum_ssgr.pruning.layerwise import prune_layerwise
    from optimum_ssgr.pruning.memory import map_large_tensors

    map_large_tensors()  # as `ssgr prune --streaming` does
    shutil.rmtree(Path(folder) / JOURNAL, ignore_errors=True)
    with open_block_store(Path(folder) / JOURNAL) as journal:
        weights, store = (
            StreamedWeights(Path(folder), model, torch.device("cpu")),
            ActivationStore(journal.make_activation_folder()),
        )
        prune_layerwise(model, sequences, config, journal=journal, weights=weights, store=store)


def load_skeleton(folder: str) -> Qwen2ForCausalLM:
    """Load the model without its weights, but with what it computes for itself, such as rotary frequencies."""
    with init_empty_weights(include_buffers=False):
        model = Qwen2ForCausalLM(Qwen2Config.from_pretrained(folder))
    return model.to(model.config.dtype).eval()


def load_pruned(folder: str) -> Qwen2ForCausalLM:
    """Load the model with the blocks of the journal, to judge their quality."""
    model = Qwen2ForCausalLM.from_pretrained(folder, dtype="auto").eval()
    for path in sorted((Path(folder) / JOURNAL).glob("block-*.safetensors")):
        model.load_state_dict(load_file(path), strict=False)
    return model


def main() -> None:
    """Load the model, prune it, and write time, memory and quality."""
    task = Task(**json.loads(sys.argv[1]))
    torch.set_num_threads(task.threads)
    calibration = read(task.folder, "calibration")
    package, prune = make_contender(task, calibration)
    if task.variant == "streamed":
        model = load_skeleton(task.folder)
    else:
        model = Qwen2ForCausalLM.from_pretrained(task.folder, dtype="auto").eval()
        with torch.no_grad():
            model(calibration[:1, :8])
    before = reset_peak()
    began, began_processing = time.perf_counter(), time.process_time()
    prune(model)
    seconds, processed = time.perf_counter() - began, time.process_time() - began_processing
    peak = memory("VmHWM")
    if task.variant == "streamed":
        model = load_pruned(task.folder)
    result = {
        **dataclasses.asdict(task),
        "seconds": seconds,
        "cpu_seconds": processed,
        "added": peak - before,
        "peak": peak,
        "sparsity": realised_sparsity(model),
        "error": relative_error(model, task.folder),
        "dtype": str(model.dtype).removeprefix("torch."),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", package)},
    }
    Path(task.result).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
