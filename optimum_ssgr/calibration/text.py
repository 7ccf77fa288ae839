"""General text for the strategies `text` and `mix`: how much of it is read, what a seed draws of it, and its tokens."""

import random
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ..config import CalibrationConfig
from ..errors import DataError


TextSource = str | Path | Sequence[str]
"""What `load_documents` takes, or the documents themselves."""


DRAWN_FROM = 16
"""So many times the text that a set takes is read, so that sets of different seeds have little in common."""


def characters_for(config: CalibrationConfig) -> int:
    """Return how many characters to read, from which `draw_documents` draws those of a calibration set."""
    return DRAWN_FROM * _characters_taken(config)


def draw_documents(documents: Sequence[str], config: CalibrationConfig) -> list[str]:
    """Draw documents for a calibration set, in an order that the seed gives, until there is enough text.

    Args:
        documents: General text.
        config: Budget and seed.
    """
    ordered = list(documents)
    random.Random(config.seed).shuffle(ordered)
    missing = _characters_taken(config)
    drawn: list[str] = []
    for document in ordered:
        if missing <= 0:
            break
        drawn.append(document)
        missing -= len(document)
    return drawn


def _characters_taken(config: CalibrationConfig) -> int:
    """How many characters a calibration set is made of: eight a token, which is enough for any tokenizer.

    However small the budget, they fill a window; the last sequence is cut to the budget.
    """
    budgets = [config.num_tokens, config.num_sequences and config.num_sequences * config.text_length]
    return 8 * max(config.text_length, min(budget for budget in budgets if budget))


def encode_documents(
    tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], length: int
) -> tuple[list[int], tuple[int, ...]]:
    """Tokenize general text that is cut into windows.

    Args:
        tokenizer: The model's tokenizer.
        documents: The text, joined by line ends.
        length: Tokens in a window.

    Returns:
        Token ids of the text; and what opens every window, the beginning-of-text token if the tokenizer has one.

    Raises:
        DataError: The text does not fill one window.
    """
    ids = tokenizer("\n".join(documents), add_special_tokens=False).input_ids
    opening = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
    width = length - len(opening)
    if len(ids) < width:
        raise DataError(f"the text has {len(ids)} tokens, less than one window of {width}.")
    return ids, opening
