"""Which engine generates: the model in this process, or servers that have it."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..compat import model_name
from ..config import IN_PROCESS, SamplingConfig
from .addresses import server_addresses
from .ends import end_token_ids
from .engine import Engine
from .local import LocalEngine
from .server import ServerEngine


def choose_engine(
    engine: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sampling: SamplingConfig,
    batch_size: int,
    sole: bool = True,
) -> Engine:
    """Make the engine that a name stands for.

    Args:
        engine: `transformers`, or the addresses of OpenAI-compatible servers, separated by commas.
        model: The model; without weights when servers generate.
        tokenizer: Its tokenizer.
        sampling: How to sample.
        batch_size: Most responses in the making at a time; with servers, at each of them.
        sole: Whether no other model is asked of the same servers, see `ServerEngine`.

    Raises:
        ConfigError: There is no engine of that name, or the batch is empty.
        ModelError: No token is known to end a response.
    """
    name = model_name(model)
    ends = end_token_ids(model.generation_config, tokenizer, name)
    if engine == IN_PROCESS:
        return LocalEngine(model, sampling, batch_size, ends)
    return ServerEngine(server_addresses(engine), name, tokenizer, sampling, ends, concurrency=batch_size, sole=sole)
