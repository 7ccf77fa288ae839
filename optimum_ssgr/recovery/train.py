"""Fine-tuning of a pruned model by transformers' Trainer: its loss, and checkpoints that an interrupted run goes on from."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import sort_checkpoints

from ..checkpoints.places import pruned_parameters
from ..config import RecoveryConfig
from ..records import GradedRollout
from .masks import SparsityCallback


IGNORED = -100
SAVES = 10
"""Checkpoints in a run; two are kept at a time."""
WHOLE = "whole"
"""In the folder of a checkpoint once all of it is written."""


def train(
    model: PreTrainedModel,
    traces: Sequence[GradedRollout],
    config: RecoveryConfig,
    folder: Path,
    teacher: PreTrainedModel | None = None,
) -> int:
    """Train the prunable weights of a model in place; its zeros stay, and embeddings, norms and biases are left alone.

    On a CPU, a run that was interrupted ends with the same bits when it goes on.

    Args:
        model: The pruned model, in float32.
        traces: What to train on.
        config: Epochs, learning rate, traces in a step and seed.
        folder: Where checkpoints are kept; the newest whole one is gone on from.
        teacher: Dense model whose scores are to be met, too.

    Returns:
        Steps that the optimizer took in all.
    """
    wanted = set(pruned_parameters(model))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)
    examples = [(item.rollout.prompt_ids, item.rollout.response_ids) for item in traces]
    steps = max(1, round(config.epochs * -(-len(examples) // config.batch_size)))
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=config.batch_size // config.gradient_accumulation,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=steps // 20,
        weight_decay=0.0,
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        seed=config.seed,
        save_steps=-(-steps // SAVES),
        save_total_limit=2,
        logging_steps=max(1, steps // 50),
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
    )
    trainer = _Trainer(
        model,
        arguments,
        data_collator=collate,
        train_dataset=examples,
        callbacks=[SparsityCallback(), _MarkWhole()],
        teacher=teacher,
        distillation=config.distillation,
    )
    for printing in (PrinterCallback, ProgressCallback):  # standard output is for results
        trainer.remove_callback(printing)
    trainer.add_callback(_LossInBar())
    trainer.train(resume_from_checkpoint=_newest_whole(folder))
    return trainer.state.global_step


def collate(examples: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[str, torch.Tensor]:
    """Put prompts and responses side by side, padded on the right; only tokens of responses are labels."""
    rows = [torch.tensor([*prompt, *response]) for prompt, response in examples]
    labels = [torch.tensor([*([IGNORED] * len(prompt)), *response]) for prompt, response in examples]
    return {
        "input_ids": pad_sequence(rows, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


class _Trainer(Trainer):
    """Trainer with the loss of recovery, which is a mean over all tokens of responses that a step of the optimizer sees.

    Args:
        teacher: Dense model to learn from; None for its traces alone.
        distillation: Weight of what it says, against that of its traces.
        others: What Trainer takes.
    """

    def __init__(self, *args: Any, teacher: PreTrainedModel | None, distillation: float, **others: Any) -> None:
        super().__init__(*args, **others)
        self.model_accepts_loss_kwargs = True  # so that the tokens of all parts of a step are counted
        self.teacher = None if teacher is None else teacher.to(self.args.device).eval()
        self.distillation = distillation

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Return the cross-entropy of the traces, and with a teacher its mean with the divergence from what that says."""
        targets = inputs.pop("labels")[:, 1:]
        seen = targets != IGNORED
        scores = model(**inputs, use_cache=False).logits[:, :-1][seen].float()
        loss = cross_entropy(scores, targets[seen], reduction="sum")
        if self.teacher is not None:
            with torch.no_grad():
                wanted = self.teacher(**inputs, use_cache=False).logits[:, :-1][seen].float()
            divergence = kl_div(log_softmax(scores, -1), log_softmax(wanted, -1), log_target=True, reduction="sum")
            loss = (1 - self.distillation) * loss + self.distillation * divergence
        return loss / torch.as_tensor(num_items_in_batch).sum()  # of all GPUs that this process drives


class _LossInBar(ProgressCallback):
    """Shows the loss beside the progress bar."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any],
        **others: Any,
    ) -> None:
        if "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.4f}")


class _MarkWhole(TrainerCallback):
    """Marks a checkpoint once all of it is written, so that none is gone on from that a kill has cut."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()


def _newest_whole(folder: Path) -> str | None:
    """Return the newest checkpoint that is whole, and remove those that are not."""
    whole = None
    for checkpoint in sort_checkpoints(str(folder)):
        if (Path(checkpoint) / WHOLE).exists():
            whole = checkpoint
        else:
            shutil.rmtree(checkpoint)
    return whole
