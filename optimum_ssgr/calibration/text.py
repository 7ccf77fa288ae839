"""General text for the strategies `text` and `mix`: how much of it is read, and its tokens."""

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ..config import CalibrationConfig
from ..errors import DataError


TextSource = str | Path | Sequence[str]
"""What `load_documents` takes, or the documents themselves."""


def characters_for(config: CalibrationConfig) -> int:
    """Return how many characters to read for a calibration set: eight a token, which leaves windows to choose from.

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
