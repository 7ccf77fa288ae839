"""Which engine generates: the model in this process, or servers that have it."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..config import SamplingConfig
from ..errors import ConfigError
from .engine import Engine
from .local import LocalEngine
from .server import ServerEngine


IN_PROCESS = "transformers"


def choose_engine(
    engine: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sampling: SamplingConfig, batch_size: int
) -> Engine:
    """Make the engine that a name stands for.

    Args:
        engine: `transformers`, or the addresses of OpenAI-compatible servers, separated by commas.
        model: The model; without weights when servers generate.
        tokenizer: Its tokenizer.
        sampling: How to sample.
        batch_size: Most responses in the making at a time; with servers, at each of them.

    Raises:
        ConfigError: There is no engine of that name.
    """
    if engine == IN_PROCESS:
        return LocalEngine(model, sampling, batch_size)
    endpoints = [address.strip() for address in engine.split(",") if address.strip()]
    if not endpoints or not all(address.startswith(("http://", "https://")) for address in endpoints):
        raise ConfigError(f"the engine must be {IN_PROCESS} or addresses such as http://localhost:8000/v1, not '{engine}'.")
    return ServerEngine(endpoints, model.config._name_or_path, tokenizer, sampling, concurrency=batch_size)
