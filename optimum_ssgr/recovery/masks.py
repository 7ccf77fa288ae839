"""The zeros of a pruned model, and a callback of transformers' Trainer that keeps them."""

from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..checkpoints.places import pruned_parameters
from ..errors import ConfigError, ModelError


def find_zeros(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Find the zeros of a model's prunable weights: those of the linear layers and fused experts of its decoder blocks.

    Returns:
        By the name of the parameter, bool of its shape; of a parameter that is sharded (FSDP 2), of the shape of the part that
        is here.

    Raises:
        ConfigError: The model has adapters, or its parameters are cut up without regard to their shape (FSDP 1, ZeRO 3).
        ModelError: There are no zeros.
    """
    if hasattr(model, "peft_config"):
        raise ConfigError(
            "the model has adapters, whose product would fill the zeros when it is merged; train the weights themselves."
        )
    zeros = {name: _here(parameter) == 0 for name, parameter in _parameters(model, pruned_parameters(model)).items()}
    if not any(bool(mask.any()) for mask in zeros.values()):
        raise ModelError("the model has no zeros to keep; prune it first.")
    return zeros


@torch.no_grad()
def keep_zeros(model: PreTrainedModel, zeros: dict[str, torch.Tensor]) -> None:
    """Set weights to zero again.

    Args:
        model: The model.
        zeros: What `find_zeros` returned.
    """
    for name, parameter in _parameters(model, list(zeros)).items():
        _here(parameter).masked_fill_(zeros[name], 0)


class SparsityCallback(TrainerCallback):
    """Keeps the zeros of a pruned model while transformers' Trainer, or one of TRL's, trains it.

    `Trainer(model, ..., callbacks=[SparsityCallback()])` is all there is to it. The zeros are those that the prunable weights
    have when training begins or goes on. They are set again after every step of the optimizer, so that every forward pass sees
    them, also with gradient accumulation, under DDP and with FSDP 2. Adapters (LoRA), FSDP 1 and ZeRO 3 are refused in a
    sentence when training begins.
    """

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel,
        **others: Any,
    ) -> None:
        """Find the zeros."""
        self.zeros = find_zeros(model)

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel,
        **others: Any,
    ) -> None:
        """Set the zeros again."""
        keep_zeros(model, self.zeros)


def _parameters(model: PreTrainedModel, names: list[str]) -> dict[str, torch.nn.Parameter]:
    found = {name: model.get_parameter(name) for name in names}
    for name, parameter in found.items():
        if parameter.ndim < 2:
            raise ConfigError(
                f"{name} is cut up without regard to its shape, as by FSDP 1 and ZeRO 3; use DDP or FSDP 2 to keep zeros."
            )
    return found


def _here(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return the values of a parameter, or the part of them that this process holds; writing there writes to the model."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter.data
