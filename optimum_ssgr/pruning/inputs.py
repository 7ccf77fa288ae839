"""What a model is pruned with: token sequences and their weights, from a calibration set or any data set."""

from dataclasses import dataclass
from typing import Any, Protocol

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..config import PruningConfig
from ..errors import ConfigError, DataError
from ..formats import Manifest
from ..tokens import check_context, tokenizer_hash


@dataclass(frozen=True)
class PruningInputs:
    """What to calibrate on.

    Args:
        sequences: Token ids of every sequence; none for a method that needs no calibration.
        token_weights: How much every token counts; None when all count once.
        manifest: How the calibration set came about; None for tokens without a manifest.
        prompts: How many of each sequence's first tokens are its prompt; None when that is not known, or does not matter.
    """

    sequences: list[list[int]]
    token_weights: list[list[float]] | None = None
    manifest: Manifest | None = None
    prompts: list[int] | None = None


class TokenSet(Protocol):
    """What is read of a calibration set; pruning knows nothing else of it."""

    manifest: Manifest

    @property
    def sequences(self) -> list[list[int]]:
        """Token ids of every sequence."""

    @property
    def token_weights(self) -> list[list[float]] | None:
        """How much every token counts; None when all count once."""

    @property
    def prompts(self) -> list[int]:
        """How many of each sequence's first tokens are its prompt."""


def read_inputs(
    calibration: TokenSet | Dataset | None,
    config: PruningConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> PruningInputs:
    """Read what to calibrate on, and see whether it fits the model.

    Args:
        calibration: A calibration set, or a data set with a column `input_ids` and perhaps `token_weights` and
            `attention_mask`, whose tokens of mask 0 are left out; None for a method that needs neither.
        config: What it is for.
        model: The model to prune; its config is looked at.
        tokenizer: Its tokenizer.

    Raises:
        ConfigError: The method needs a calibration set, or a sequence is longer than the model's context.
        DataError: The set was made with another tokenizer, or a data set lacks a column or has columns of unequal lengths.
    """
    if not config.needs_calibration:
        return PruningInputs([])
    if calibration is None:
        raise ConfigError(f"{config.calibrated} needs a calibration set.")
    if isinstance(calibration, Dataset):
        return _read_dataset(calibration, model)
    check_fits(calibration, model, tokenizer)
    prompts = calibration.prompts if "blocks" in config.refine else None
    return PruningInputs(calibration.sequences, calibration.token_weights, calibration.manifest, prompts)


def check_fits(calibration: TokenSet, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a calibration set that was not made for a model's tokenizer and context.

    Raises:
        DataError: It was made with another tokenizer.
        ConfigError: One of its sequences is too long.
    """
    if calibration.manifest.tokenizer_hash != tokenizer_hash(tokenizer):
        raise DataError(
            f"the calibration set was made with the tokenizer of {calibration.manifest.model}, which is another one "
            "than this model's; build it again with this model."
        )
    _check_lengths(calibration.sequences, model)


def _read_dataset(data: Dataset, model: PreTrainedModel) -> PruningInputs:
    if "input_ids" not in data.column_names:
        raise DataError("the calibration data set has no column input_ids.")
    sequences = _without_padding(data, "input_ids")
    _check_lengths(sequences, model)
    weighted = "token_weights" in data.column_names
    return PruningInputs(sequences, _without_padding(data, "token_weights") if weighted else None)


def _check_lengths(sequences: list[list[int]], model: PreTrainedModel) -> None:
    check_context(model.config, max(map(len, sequences), default=0), "the longest calibration sequence")


def _without_padding(data: Dataset, name: str) -> list[list[Any]]:
    """Return a column of a data set with one value per token, without those of padding."""
    data = data.with_format(None)  # Python numbers, in whatever format the user wants them
    rows = list(data[name])
    if "attention_mask" not in data.column_names:
        return rows
    masks = list(data["attention_mask"])
    if [len(row) for row in rows] != [len(mask) for mask in masks]:
        raise DataError(f"the columns {name} and attention_mask of the calibration data set differ in length.")
    return [[value for value, seen in zip(row, mask, strict=True) if seen] for row, mask in zip(rows, masks, strict=True)]
