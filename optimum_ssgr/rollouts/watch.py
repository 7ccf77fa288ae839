"""Say in time that a model does not think, though it is a model that can."""

from collections.abc import Callable

from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..config import PromptConfig
from ..records import Rollout
from ..thinking import choose_style, is_told, split_thinking, thinking_part


logger = logging.get_logger(__name__)

FIRST = 50
"""So many finished responses are looked at."""
FEW = 0.1
"""Share of them that think below which it is said."""


def watch_thinking(tokenizer: PreTrainedTokenizerBase, prompting: PromptConfig | None = None) -> Callable[[Rollout], None]:
    """Return what takes rollouts one by one, and warns when hardly any of the first finished ones thinks.

    Nothing is said of a model whose chat template, system message and settings know nothing of thinking.

    Args:
        tokenizer: The model's tokenizer.
        prompting: How the model is addressed.
    """
    prompting = prompting or PromptConfig()
    style = choose_style(tokenizer, prompting.thinking, prompting.system)
    if not is_told(tokenizer, style, prompting.system):
        return lambda rollout: None
    thinks: list[bool] = []

    def look(rollout: Rollout) -> None:
        if not rollout.finished or len(thinks) == FIRST:
            return
        prompt, response = (
            tokenizer.decode(list(ids), skip_special_tokens=False) for ids in (rollout.prompt_ids, rollout.response_ids)
        )
        _, thought = split_thinking(prompt, response, style)
        thinks.append(thought is False or bool(thinking_part(response, style)))
        if len(thinks) == FIRST and sum(thinks) < FEW * FIRST:
            logger.warning(
                f"of the first {FIRST} finished responses {sum(thinks)} think, though the model can; switch thinking on with "
                "--template-kwargs or --system, or name the delimiters with --thinking (PromptConfig in Python)."
            )

    return look
