"""Which engine generates: the model in this process, servers that have it, or one that is started for it."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..compat import model_name
from ..config import EngineConfig, SamplingConfig
from .addresses import server_addresses
from .ends import end_token_ids
from .engine import Engine
from .local import LocalEngine
from .managed import ManagedEngine
from .server import ServerEngine


@contextmanager
def open_engine(
    engine: EngineConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sampling: SamplingConfig,
    batch_size: int,
    sole: bool = True,
    trust_remote_code: bool = False,
) -> Iterator[Engine]:
    """Give the engine that settings stand for; a server that it starts is stopped at the end.

    Args:
        engine: Where to generate.
        model: The model; without weights when servers generate.
        tokenizer: Its tokenizer.
        sampling: How to sample.
        batch_size: Most responses in the making at a time; with servers, at each of them to begin with, see `ServerEngine`.
        sole: Whether no other model is asked of the same servers, see `ServerEngine`.
        trust_remote_code: Whether code from the checkpoint may run in a server that is started.

    Raises:
        ConfigError: There is no engine of that name, or the batch is empty.
        ModelError: No token is known to end a response.
    """
    name = model_name(model)
    ends = end_token_ids(model.generation_config, tokenizer, name)
    if engine.in_process:
        yield LocalEngine(model, sampling, batch_size, ends)
    elif engine.is_managed:
        managed = ManagedEngine(engine, model, tokenizer, sampling, ends, batch_size, trust_remote_code)
        try:
            yield managed
        finally:
            managed.stop()
    else:
        addresses, seeds = server_addresses(engine.name), engine.request_seeds
        yield ServerEngine(addresses, name, tokenizer, sampling, ends, concurrency=batch_size, sole=sole, request_seeds=seeds)
