"""Perplexity on general text."""

import math

import torch
from transformers import PreTrainedModel


@torch.inference_mode()
def perplexity(model: PreTrainedModel, windows: torch.Tensor, batch_size: int = 32) -> float:
    """Return the perplexity of a model on windows of text.

    Args:
        model: Causal language model.
        windows: Token ids, int64 [windows, positions]; the first token of each is only context.
        batch_size: Windows run together.
    """
    device = model.get_input_embeddings().weight.device
    losses = [
        model(chunk.to(device), labels=chunk.to(device)).loss.double().item() * len(chunk)
        for chunk in windows.split(batch_size)
    ]
    return math.exp(sum(losses) / len(windows))
