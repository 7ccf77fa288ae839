"""Build a calibration set out of what its strategy selects from."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from .. import __version__
from ..config import CalibrationConfig
from ..errors import DataError
from ..records import GradedRollout
from ..tokens import tokenizer_hash
from .dataset import CalibrationSet
from .selection import meets_budget
from .strategies import Sources, select
from .text import encode_documents


logger = logging.get_logger(__name__)


def describe_origin(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Say which model, tokenizer and versions a calibration set comes from."""
    return {
        "model": model.config._name_or_path,
        "model_commit": getattr(model.config, "_commit_hash", None),
        "dtype": str(model.dtype).removeprefix("torch."),
        "tokenizer_hash": tokenizer_hash(tokenizer),
        "versions": {
            "optimum-ssgr": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "datasets": datasets.__version__,
        },
    }


def encode_text(tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], config: CalibrationConfig) -> Sources:
    """Tokenize general text for the strategies that take windows of it.

    Raises:
        DataError: There is no text, or less than one window; found here, before a mixture generates its traces.
    """
    if not any(document.strip() for document in documents):
        raise DataError(f"the strategy {config.strategy} needs general text, and there is none.")
    ids, opening = encode_documents(tokenizer, documents, config.text_length)
    return Sources(text_ids=ids, opening=opening)


def build_set(
    sources: Sources, config: CalibrationConfig, origin: Mapping[str, Any], graded: Sequence[GradedRollout] = ()
) -> CalibrationSet:
    """Select sequences, and say when they are not what was asked for.

    Args:
        sources: What the strategy selects from.
        config: Strategy, windows, budgets and seed.
        origin: Provenance for the manifest.
        graded: Rollouts to publish beside the selection.

    Raises:
        DataError: Nothing qualifies.
    """
    chosen = select(sources, config)
    if not meets_budget(chosen, config):
        tokens = sum(len(sequence.input_ids) for sequence in chosen)
        logger.warning(f"only {len(chosen)} sequences ({tokens} tokens) qualify, fewer than asked for.")
    built = CalibrationSet.build(chosen, graded, {**origin, "calibration": config.to_dict()}, config)
    widened = built.manifest["counts"].get("widened")
    if widened:
        logger.warning(f"{widened} of {len(chosen)} sequences lie outside the windows; see selected_by.")
    return built
