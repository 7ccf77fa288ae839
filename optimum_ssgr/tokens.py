"""What ties token ids to a model: the tokenizer that they mean something to, their hash, and the context they must fit."""

import hashlib
from collections.abc import Sequence

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from .errors import ConfigError


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash what a tokenizer does, so that token ids can be told to belong to it."""
    vocabulary = "\n".join(f"{index}\t{token}" for token, index in sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(vocabulary.encode()).hexdigest()


def content_hash(sequences: Sequence[Sequence[int]], token_weights: Sequence[Sequence[float]] | None = None) -> str:
    """Hash token ids and their weights, so that two sets are the same exactly when their hashes are."""
    digest = hashlib.sha256()
    for values in (*sequences, *(token_weights or ())):
        digest.update((",".join(map(str, values)) + "\n").encode())
    return digest.hexdigest()


def context_of(config: PretrainedConfig) -> int | None:
    """Return how many tokens a model takes, or None when its config does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def check_context(config: PretrainedConfig, longest: int, what: str) -> None:
    """Refuse what is longer than the model's context.

    Raises:
        ConfigError: It is too long.
    """
    context = context_of(config)
    if context is not None and longest > context:
        raise ConfigError(f"{what} has {longest} tokens but the model's context holds {context}.")
