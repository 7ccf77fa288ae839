"""Select again from rollouts that were generated before."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..config import CalibrationConfig
from ..errors import DataError
from ..tokens import tokenizer_hash
from .build import build_set, encode_text
from .dataset import CalibrationSet
from .strategies import Sources


logger = logging.get_logger(__name__)


def reselect(
    earlier: CalibrationSet,
    config: CalibrationConfig,
    tokenizer: PreTrainedTokenizerBase | None = None,
    documents: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
) -> CalibrationSet:
    """Make another calibration set from the rollouts of one, without generating anything.

    Args:
        earlier: A set with rollouts.
        config: What to select; how the rollouts were sampled is taken from the earlier set.
        tokenizer: The model's tokenizer, for the strategies that take text.
        documents: General text for them.
        about: Further provenance for the manifest, such as where the text comes from.

    Raises:
        DataError: The set has no rollouts, the tokenizer is another model's, or nothing qualifies.
    """
    graded = earlier.graded_rollouts()
    origin, first = _origins(earlier)
    sampled = CalibrationConfig.from_dict(first["calibration"])
    if sampled.adaptive:
        logger.warning("the rollouts were sampled adaptively: challenging problems have more of them than others.")
    config = dataclasses.replace(
        config,
        adaptive=False,
        **{name: getattr(sampled, name) for name in ("samples_per_problem", "temperature", "top_p", "max_new_tokens")},
    )
    sources = Sources()
    if config.needs_text:
        if tokenizer is None or tokenizer_hash(tokenizer) != earlier.manifest["tokenizer_hash"]:
            raise DataError(f"the strategy {config.strategy} needs the tokenizer that the rollouts were made with.")
        sources = encode_text(tokenizer, documents, config)
    prompts = {item.problem.id: item.rollout.prompt_ids for item in graded}
    sources = dataclasses.replace(sources, rollouts=graded, prompts=prompts)
    return build_set(sources, config, origin | {"reselected_from": first} | (about or {}), graded)


def _origins(earlier: CalibrationSet) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a set shares with those selected from it, and what is true of that alone which the rollouts were made for."""
    alone = ("calibration", "content_hash", "hub", "text")
    shared = {key: value for key, value in earlier.manifest.items() if key not in (*alone, "counts", "reselected_from")}
    own = {key: earlier.manifest[key] for key in alone if key in earlier.manifest}
    return shared, earlier.manifest.get("reselected_from", own)
