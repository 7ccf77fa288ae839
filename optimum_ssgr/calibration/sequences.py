"""Read the sequences to prune a model with, from whatever they are given as."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..config import PruningConfig
from ..errors import ConfigError, DataError
from ..tokens import check_context, tokenizer_hash
from .dataset import CalibrationSet


def read_sequences(
    calibration: CalibrationSet | Dataset | str | Path | None,
    config: PruningConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[list[list[int]], list[list[float]] | None, dict[str, Any] | None]:
    """Read what to calibrate on.

    Args:
        calibration: See `SSGRPruner.prune`.
        config: What it is for.
        model: The model to prune; its config is looked at.
        tokenizer: Its tokenizer.

    Returns:
        Token ids of every sequence, none for a method that needs no calibration; their weights, and the manifest of a
        calibration set, each None where there is none.

    Raises:
        ConfigError: The method needs a calibration set, or a sequence is longer than the model's context.
        DataError: The set was made with another tokenizer, or a data set lacks a column or has columns of unequal lengths.
    """
    if not config.needs_calibration:
        return [], None, None
    if calibration is None:
        asking = f"the allocation {config.allocation}" if config.method == "magnitude" else f"the method {config.method}"
        raise ConfigError(f"{asking} needs a calibration set.")
    if isinstance(calibration, Dataset):
        if "input_ids" not in calibration.column_names:
            raise DataError("the calibration data set has no column input_ids.")
        sequences = _without_padding(calibration, "input_ids")
        _check_lengths(sequences, model)
        weighted = "token_weights" in calibration.column_names
        return sequences, _without_padding(calibration, "token_weights") if weighted else None, None
    loaded = calibration if isinstance(calibration, CalibrationSet) else CalibrationSet.load(calibration)
    check_fits(loaded, model, tokenizer)
    return loaded.sequences, loaded.token_weights, loaded.manifest


def check_fits(made: CalibrationSet, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a calibration set that was not made for a model's tokenizer and context.

    Raises:
        DataError: It was made with another tokenizer.
        ConfigError: One of its sequences is too long.
    """
    if made.manifest.get("tokenizer_hash") != tokenizer_hash(tokenizer):
        raise DataError(
            f"the calibration set was made with the tokenizer of {made.manifest.get('model')}, which is another one "
            "than this model's; build it again with this model."
        )
    _check_lengths(made.sequences, model)


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
