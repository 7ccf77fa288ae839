"""How far a pruned model's hidden states are from the dense model's, layer by layer, on the same tokens."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from ..records import GradedRollout


def reference_sequences(graded: Sequence[GradedRollout], most_tokens: int) -> list[list[int]]:
    """Take correct responses of the dense model, prompts included, while they hold no more than so many tokens.

    Args:
        graded: Responses of the dense model.
        most_tokens: Tokens at most, but always one response.
    """
    sequences: list[list[int]] = []
    for item in graded:
        ids = [*item.rollout.prompt_ids, *item.rollout.response_ids]
        if item.verdict.correct and (not sequences or sum(map(len, sequences)) + len(ids) <= most_tokens):
            sequences.append(ids)
    return sequences


@torch.inference_mode()
def hidden_states(model: PreTrainedModel, sequence: Sequence[int]) -> torch.Tensor:
    """Return what every decoder layer hands on, float [layers, tokens, hidden]; the last one behind the final norm."""
    device = model.get_input_embeddings().weight.device
    output = model(torch.tensor([list(sequence)], device=device), output_hidden_states=True, use_cache=False)
    return torch.stack([states[0].cpu() for states in output.hidden_states[1:]])


def relative_errors(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], reference: Sequence[torch.Tensor]
) -> list[float]:
    """Measure the squared difference from the dense model's hidden states, as a share of their squared size.

    Args:
        model: The pruned model.
        sequences: Token ids.
        reference: The dense model's hidden states on each, from `hidden_states`.

    Returns:
        One number per decoder layer; 0 for the dense model itself.
    """
    difference = size = 0.0
    for sequence, dense in zip(sequences, reference, strict=True):
        difference += (hidden_states(model, sequence) - dense).double().square().sum(dim=(1, 2))
        size += dense.double().square().sum(dim=(1, 2))
    return (difference / size).tolist()
