"""Build a calibration set: generate, verify, select."""

import hashlib
from collections.abc import Sequence
from typing import Any

import datasets
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..config import CalibrationConfig
from ..errors import ConfigError, DataError
from ..records import GradedRollout, Problem
from ..rollouts.local import LocalEngine
from ..rollouts.prompts import encode_prompts
from ..rollouts.sample import make_requests, sample_rollouts
from ..verification.verify import grade_all
from . import strategies
from .dataset import CalibrationSet
from .selection import within_budget


logger = logging.get_logger(__name__)


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash what a tokenizer does, so that token ids can be told to belong to it."""
    vocabulary = "\n".join(f"{index}\t{token}" for token, index in sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(vocabulary.encode()).hexdigest()


def generate_rollouts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    config: CalibrationConfig,
    batch_size: int = 64,
    instruction: str = "",
) -> list[GradedRollout]:
    """Let the model answer every problem several times, and verify the answers.

    Raises:
        ModelError: There is no chat template, or the model cannot be batched.
        ConfigError: A prompt and the longest response exceed the model's context.
        DataError: There are no problems.
    """
    encoded = encode_prompts(tokenizer, problems, instruction)
    requests = make_requests(problems, encoded, config.samples_per_problem, config.seed)
    rollouts = sample_rollouts(LocalEngine(model, config.sampling, batch_size), requests)
    return grade_all({problem.id: problem for problem in problems}, rollouts, tokenizer)


def describe_origin(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: CalibrationConfig) -> dict[str, Any]:
    """Say which model, tokenizer, settings and versions a calibration set comes from."""
    return {
        "model": model.config._name_or_path,
        "model_commit": getattr(model.config, "_commit_hash", None),
        "dtype": str(model.dtype).removeprefix("torch."),
        "tokenizer_hash": tokenizer_hash(tokenizer),
        "calibration": config.to_dict(),
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "datasets": datasets.__version__,
        },
    }


def select_calibration(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    graded: Sequence[GradedRollout],
    config: CalibrationConfig,
) -> CalibrationSet:
    """Select among rollouts that were generated before.

    Raises:
        DataError: No rollout qualifies.
    """
    chosen = strategies.select(graded, config)
    widened = sum(sequence.selected_by != config.strategy for sequence in chosen)
    if widened:
        logger.warning(f"{widened} of {len(chosen)} sequences lie outside the windows; see selected_by.")
    _warn_if_short(len(chosen), sum(len(sequence.input_ids) for sequence in chosen), config)
    return CalibrationSet.build(chosen, graded, describe_origin(model, tokenizer, config))


def select_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    config: CalibrationConfig,
    instruction: str = "",
) -> CalibrationSet:
    """Calibrate on the questions alone."""
    stream = strategies.prompts(encode_prompts(tokenizer, problems, instruction), config)
    chosen = within_budget(stream, config.num_sequences, config.num_tokens)
    return CalibrationSet.build(chosen, [], describe_origin(model, tokenizer, config))


def select_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], config: CalibrationConfig
) -> CalibrationSet:
    """Calibrate on windows of general text.

    Raises:
        DataError: There is no text, or less than a window.
        ConfigError: A window is longer than the model's context.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and config.text_length > context:
        raise ConfigError(f"text_length {config.text_length} exceeds the model's context of {context} tokens.")
    if not any(document.strip() for document in documents):
        raise DataError("the strategy text needs general text, and there is none.")
    token_ids = tokenizer("\n".join(documents), add_special_tokens=False).input_ids
    opening = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
    chosen = within_budget(strategies.text(token_ids, opening, config), config.num_sequences, config.num_tokens)
    _warn_if_short(len(chosen), sum(len(sequence.input_ids) for sequence in chosen), config)
    return CalibrationSet.build(chosen, [], describe_origin(model, tokenizer, config))


def _warn_if_short(sequences: int, tokens: int, config: CalibrationConfig) -> None:
    enough = sequences == config.num_sequences or tokens == config.num_tokens
    if not enough:
        logger.warning(f"only {sequences} sequences ({tokens} tokens) qualify, fewer than asked for.")
