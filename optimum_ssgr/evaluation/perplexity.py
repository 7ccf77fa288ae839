"""Perplexity on general text."""

import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..calibration.text import encode_documents
from ..tokens import check_context


BATCH_TOKENS = 5120
"""Tokens of text run together: with a large vocabulary their logits take much memory."""


def windows_of(
    tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], length: int, most: int | None = None
) -> torch.Tensor:
    """Cut documents into windows of equal length, each opened by the beginning-of-text token if the tokenizer has one.

    Args:
        tokenizer: The model's tokenizer.
        documents: General text, joined by line ends.
        length: Tokens in a window.
        most: Windows to return at most; None for all.

    Returns:
        Token ids, int64 [windows, length].

    Raises:
        DataError: The text does not fill one window.
    """
    ids, opening = encode_documents(tokenizer, documents, length)
    width = length - len(opening)
    count = min(len(ids) // width, most or len(ids))
    return torch.tensor([[*opening, *ids[start * width : (start + 1) * width]] for start in range(count)])


@torch.inference_mode()
def perplexity(model: PreTrainedModel, windows: torch.Tensor) -> float:
    """Return the perplexity of a model on windows of text.

    Args:
        model: Causal language model.
        windows: Token ids, int64 [windows, positions]; the first token of each is only context.

    Raises:
        ConfigError: The windows are longer than the model's context.
    """
    length = windows.shape[1]
    check_context(model.config, length, "a window of text")
    device = model.get_input_embeddings().weight.device
    losses = [
        model(chunk.to(device), labels=chunk.to(device)).loss.double().item() * len(chunk)
        for chunk in windows.split(max(1, BATCH_TOKENS // length))
    ]
    return math.exp(sum(losses) / len(windows))
