"""Perplexity on general text."""

import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..calibration.text import encode_documents
from ..likelihood import response_nll
from ..tokens import check_context


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
    nats = response_nll(model, [((), window) for window in windows.tolist()])
    return math.exp(sum(nats) / len(windows) / (length - 1))
