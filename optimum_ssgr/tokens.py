"""What ties token ids to a model: the tokenizer that they mean something to, their hash, and the context they must fit."""

import hashlib
from collections.abc import Sequence

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from .errors import ConfigError


def renders(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether a tokenizer renders conversations: by a chat template, or by code of its own, as Mistral's does."""
    by_code = type(tokenizer).apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template
    return by_code or bool(tokenizer.chat_template)


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
    """Return how many tokens a model takes, with YaRN as many as it stretches them to; None when its config does not say."""
    config = config.get_text_config()
    context, rotary = getattr(config, "max_position_embeddings", None), getattr(config, "rope_parameters", None) or {}
    if context is not None and rotary.get("rope_type") == "yarn":
        stretched = (rotary.get("factor") or 1) * (rotary.get("original_max_position_embeddings") or context)
        return max(context, int(stretched))
    return context


def rotary_switch(config: PretrainedConfig) -> int | None:
    """Return the longest sequence that LongRoPE turns by its short factors; a longer one gets others from its first token on.

    transformers decides for all rows of a batch at once, by the longest: rows on either side must not be run together. None
    for models without LongRoPE.
    """
    rotary = getattr(config.get_text_config(), "rope_parameters", None) or {}
    return rotary.get("original_max_position_embeddings") if rotary.get("rope_type") == "longrope" else None


def check_context(config: PretrainedConfig, longest: int, what: str) -> None:
    """Refuse what is longer than the model's context.

    Raises:
        ConfigError: It is too long.
    """
    context = context_of(config)
    if context is not None and longest > context:
        raise ConfigError(f"{what} has {longest} tokens but the model's context holds {context}.")
