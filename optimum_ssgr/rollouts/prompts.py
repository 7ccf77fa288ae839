"""From problems to prompts: token ids by the model's own chat template."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ..errors import ModelError
from ..records import Problem


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], instruction: str = ""
) -> dict[str, tuple[int, ...]]:
    """Render every question with the chat template.

    Args:
        tokenizer: Tokenizer with a chat template.
        problems: Problems to ask.
        instruction: Text appended to every question after a blank line, such as how to mark the final answer.

    Returns:
        Prompt token ids by problem id.

    Raises:
        ModelError: The tokenizer has no chat template or cannot render with it.
    """
    if not tokenizer.chat_template:
        raise ModelError("the model's tokenizer has no chat template; use an instruction-tuned or reasoning model.")
    suffix = f"\n\n{instruction}" if instruction else ""
    conversations = [[{"role": "user", "content": problem.question + suffix}] for problem in problems]
    try:
        rendered = tokenizer.apply_chat_template(conversations, add_generation_prompt=True, return_dict=False)
    except Exception as error:  # templates raise whatever jinja2 raises
        raise ModelError(f"the model's chat template cannot render a question ({error}).") from error
    return {problem.id: tuple(ids) for problem, ids in zip(problems, rendered, strict=True)}
