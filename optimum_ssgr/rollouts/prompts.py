"""From problems to prompts: token ids by the model's own chat template."""

from collections.abc import Iterable, Sequence

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from ..errors import ConfigError, ModelError
from ..records import Problem
from ..tokens import context_of, renders


def check_lengths(config: PretrainedConfig, prompts: Iterable[Sequence[int]], max_new_tokens: int) -> None:
    """Refuse prompts that do not fit the model's context together with the longest response.

    Args:
        config: The model's config.
        prompts: Prompt token ids.
        max_new_tokens: Longest response.

    Raises:
        ConfigError: A prompt, or it and the longest response, exceeds the context.
    """
    context, longest = context_of(config), max(map(len, prompts), default=0)
    if context is not None and longest >= context:
        raise ConfigError(
            f"the longest prompt has {longest} tokens but the model's context holds {context}; remove that problem."
        )
    if context is not None and longest + max_new_tokens > context:
        raise ConfigError(
            f"the longest prompt ({longest} tokens) and max_new_tokens ({max_new_tokens}) exceed the model's context of "
            f"{context} tokens; set max_new_tokens to {context - longest} or less."
        )


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], instruction: str = ""
) -> dict[str, tuple[int, ...]]:
    """Render every question with the chat template.

    Args:
        tokenizer: Tokenizer with a chat template.
        problems: Problems to ask.
        instruction: Text appended to every question after a blank line, such as how to mark the final answer; a problem with
            an instruction of its own takes that.

    Returns:
        Prompt token ids by problem id.

    Raises:
        ModelError: The tokenizer has no chat template or cannot render with it.
    """
    if not renders(tokenizer):
        raise ModelError("the model's tokenizer has no chat template; use an instruction-tuned or reasoning model.")
    conversations = [[{"role": "user", "content": _ask(problem, instruction)}] for problem in problems]
    try:
        rendered = tokenizer.apply_chat_template(conversations, add_generation_prompt=True, return_dict=False)
    except Exception as error:  # templates raise whatever jinja2 raises
        raise ModelError(f"the model's chat template cannot render a question ({error}).") from error
    return {problem.id: tuple(ids) for problem, ids in zip(problems, rendered, strict=True)}


def _ask(problem: Problem, instruction: str) -> str:
    wanted = instruction if problem.instruction is None else problem.instruction
    return f"{problem.question}\n\n{wanted}" if wanted else problem.question
