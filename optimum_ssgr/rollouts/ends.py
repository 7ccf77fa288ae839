"""Which tokens end a response: those of the generation config and those of the tokenizer, which need not agree."""

from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from ..errors import ModelError


logger = logging.get_logger(__name__)

_ANSWER = "Yes"  # an assistant's turn of one plain word


def end_token_ids(
    generation_config: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase | None, model: str
) -> frozenset[int]:
    """Return the tokens that end a response: every one that either side names.

    A model was trained to end its turn as its chat template does, but it is the generation config that transformers stops by:
    where that names another token, every response would run to its limit.

    Args:
        generation_config: The model's; None when it is not known.
        tokenizer: Its tokenizer, for the end of a sequence and that of an assistant's turn; None when it is not known.
        model: Name of the model.

    Raises:
        ModelError: Neither names any.
    """
    configured = _as_set(generation_config.eos_token_id if generation_config else None)
    written = set() if tokenizer is None else _as_set(tokenizer.eos_token_id) | _turn_end(tokenizer)
    if not configured | written:
        raise ModelError(
            f"neither the generation config nor the tokenizer of {model} names an end-of-sequence token, so no response would "
            "end; name it in one of them."
        )
    if configured and written - configured:
        logger.warning_once(
            f"the generation config of {model} ends a response at the tokens {_named(configured, tokenizer)}, its tokenizer at "
            f"{_named(written, tokenizer)}; any of them ends one here."
        )
    return frozenset(configured | written)


def _as_set(ids: int | list[int] | None) -> set[int]:
    return set() if ids is None else {ids} if isinstance(ids, int) else set(ids)


def _turn_end(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The special token that the chat template puts behind what the assistant says; empty when there is none."""
    if not tokenizer.chat_template:
        return set()
    conversation = [{"role": "user", "content": "Is it so?"}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = tokenizer.apply_chat_template(conversation, tokenize=False)
    except Exception:  # templates raise whatever jinja2 raises
        return set()
    before, _, behind = text.rpartition(_ANSWER)
    ids = tokenizer.encode(behind.lstrip(), add_special_tokens=False) if before else []
    added = tokenizer.added_tokens_decoder.get(ids[0]) if ids else None
    return {ids[0]} if added is not None and added.special else set()


def _named(ids: set[int], tokenizer: PreTrainedTokenizerBase | None) -> str:
    if tokenizer is None:
        return ", ".join(map(str, sorted(ids)))
    return ", ".join(f"{id} ({tokenizer.convert_ids_to_tokens(id)})" for id in sorted(ids))
