"""The commands that start vLLM and SGLang, as they follow from the model, the requests and the devices."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from transformers import PreTrainedModel

from ..compat import model_commit, model_name
from ..config import EngineConfig
from ..reasoner import NAME as EMBEDDED
from ..reasoner import WEIGHTS
from ..tokens import context_of


STEP = 1024
"""The longest sequence is rounded up to multiples of this, so that somewhat longer requests need no other server."""
SEQUENCES = 256
"""Sequences at a time on a processor: as many as vLLM's own `generate` takes there, of which its server takes half."""
SHARE_FOR_WEIGHTS = 0.6
"""A model fits on GPUs when its weights take no more of their memory: keys and values need the rest."""


@dataclass(frozen=True)
class Parallelism:
    """How a model is spread over GPUs.

    Args:
        tensor: GPUs that share one copy of the model.
        data: Copies.
    """

    tensor: int = 1
    data: int = 1


def gpu_memory() -> list[int]:
    """Return the memory of every visible GPU, in bytes."""
    return [torch.cuda.get_device_properties(device).total_memory for device in range(torch.cuda.device_count())]


def choose_parallelism(weight_bytes: int, heads: int, memory: Sequence[int]) -> Parallelism:
    """Spread a model over as few GPUs as hold it, and use the others for further copies.

    Args:
        weight_bytes: Size of its weights.
        heads: Its attention heads, which must be divisible by the number of GPUs that share a copy.
        memory: Memory of every GPU, in bytes.
    """
    if not memory:
        return Parallelism()
    gpus = len(memory)
    sizes = [size for size in range(1, gpus + 1) if gpus % size == 0 and heads % size == 0]
    fitting = [size for size in sizes if weight_bytes <= SHARE_FOR_WEIGHTS * size * min(memory)]
    tensor = (fitting or sizes[-1:])[0]
    return Parallelism(tensor, gpus // tensor)


def sequence_length(model: PreTrainedModel, longest: int) -> int:
    """Return how long the sequences are that a server must take, for a longest one, in tokens."""
    rounded = STEP * ceil((longest + 1) / STEP)  # SGLang wants one more than it uses
    context = context_of(model.config)
    return rounded if context is None else max(longest, min(rounded, context))


def server_command(
    engine: EngineConfig,
    executable: str,
    model: PreTrainedModel,
    served_name: str,
    port: int,
    length: int,
    memory: Sequence[int],
    trust_remote_code: bool = False,
) -> list[str]:
    """Return the command that starts a server.

    Args:
        engine: Which one, and further flags, which win.
        executable: Its path.
        model: The model, whose weights are not looked at.
        served_name: The name that requests will give.
        port: Port on loopback to listen on.
        length: Longest sequence, in tokens.
        memory: Memory of every GPU, in bytes; none on a machine without GPU.
        trust_remote_code: Whether code from the checkpoint may run.
    """
    name, commit = model_name(model), model_commit(model)
    source = str(WEIGHTS) if name == EMBEDDED else name
    text = model.config.get_text_config()
    weight_bytes = model.num_parameters() * model.dtype.itemsize
    parallel = choose_parallelism(weight_bytes, getattr(text, "num_attention_heads", None) or 1, memory)
    shared = {
        "--host": "127.0.0.1",
        "--port": port,
        "--served-model-name": served_name,
        "--dtype": str(model.dtype).removeprefix("torch."),
    }
    if commit:
        shared["--revision"] = commit
    if engine.name == "vllm":
        own = {"--max-model-len": length, "--tensor-parallel-size": parallel.tensor, "--data-parallel-size": parallel.data}
        if commit:
            own["--tokenizer-revision"] = commit
        if not memory:
            own |= {"--max-num-batched-tokens": max(length, 8 * STEP), "--max-num-seqs": SEQUENCES}
        first, switches = ["serve", source], [] if memory else ["--no-enable-chunked-prefill"]
    else:
        own = {"--context-length": length, "--tp-size": parallel.tensor, "--dp-size": parallel.data}
        first, switches = ["serve", "--model-path", source], ["--enable-metrics"]
    if trust_remote_code:
        switches.append("--trust-remote-code")
    flags = [str(part) for pair in (shared | own).items() for part in pair]
    return [executable, *first, *flags, *switches, *shlex.split(engine.arguments)]
