"""From problems to prompts: token ids by the model's own chat template, with thinking switched on."""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils import is_mistral_common_available, logging

from ..compat import find_file
from ..config import PromptConfig
from ..errors import ConfigError, ModelError
from ..records import Problem
from ..thinking import choose_style, detect_style, template_text
from ..tokens import context_of, renders


logger = logging.get_logger(__name__)

SWITCHES = {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}
"""By which chat templates switch thinking on: Qwen3, Gemma 4, EXAONE 4, Nemotron; DeepSeek-V3.1, Granite; Mistral Small 4."""
OFF = {"reasoning_effort": "none"}
"""What the usual prompt is rendered with where thinking is off; others are on with lower values, as gpt-oss."""

MISTRALS_OWN = "tekken.json"
"""A tokenizer that has no chat template, since code renders conversations for it."""


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


def check_renders(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that renders no conversations, and say what is missing.

    Raises:
        ModelError: It has no chat template, or is one of Mistral's own without the package that renders for it.
    """
    if renders(tokenizer):
        return
    name, missing = tokenizer.name_or_path, not is_mistral_common_available()
    with suppress(OSError, ValueError):  # there is no such model, or no Hub
        if missing and name and find_file(name, MISTRALS_OWN, revision=None, token=None):
            raise ModelError(
                f"{name} has no chat template, but a tokenizer of Mistral's own ({MISTRALS_OWN}), whose conversations the "
                "package mistral-common renders; install it with: pip install --upgrade mistral-common"
            )
    raise ModelError(
        f"the tokenizer of {name or 'the model'} has no chat template; use an instruction-tuned or reasoning model."
    )


def resolve_prompting(tokenizer: PreTrainedTokenizerBase, prompting: PromptConfig) -> PromptConfig:
    """Decide what the settings leave open: whether thinking has to be switched on, and how it is delimited.

    A variable of `SWITCHES` is set when the template renders another prompt with it, that is when it has thinking off.

    Args:
        tokenizer: The model's tokenizer.
        prompting: Settings; those that were resolved before stay as they are.

    Returns:
        Settings whose `thinking` is None only when nothing tells how the model delimits it.
    """
    switch = _find_switch(tokenizer, prompting)
    if switch:
        on, off = (json.dumps(value).strip('"') for value in (SWITCHES[switch], OFF.get(switch, False)))
        logger.warning_once(
            f"the chat template of {tokenizer.name_or_path} has thinking switched off, so it is rendered with {switch}={on}; "
            f"--template-kwargs {switch}={off} leaves it off (template_kwargs of PromptConfig in Python)."
        )
        prompting = dataclasses.replace(prompting, template_kwargs={**prompting.template_kwargs, switch: SWITCHES[switch]})
    found = None if prompting.thinking else detect_style(tokenizer, prompting.system)
    return dataclasses.replace(prompting, thinking=(found.name,)) if found else prompting


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    instruction: str = "",
    prompting: PromptConfig | None = None,
) -> dict[str, tuple[int, ...]]:
    """Render every question with the chat template.

    Args:
        tokenizer: Tokenizer with a chat template.
        problems: Problems to ask.
        instruction: Text appended to every question after a blank line, such as how to mark the final answer; a problem with
            an instruction of its own takes that.
        prompting: System message and variables of the template; what `resolve_prompting` makes of the defaults when None.

    Returns:
        Prompt token ids by problem id.

    Raises:
        ModelError: The tokenizer has no chat template or cannot render with it.
        ConfigError: The template has no such variable.
    """
    check_renders(tokenizer)
    prompting = resolve_prompting(tokenizer, prompting or PromptConfig())
    unknown = [name for name in prompting.template_kwargs if not _names(tokenizer, name)]
    if unknown and template_text(tokenizer):  # Mistral's own tokenizers show none
        raise ConfigError(
            f"the chat template of {tokenizer.name_or_path} has no variable {unknown[0]}, so setting it would change nothing."
        )
    conversations = [prompting.messages(("user", _ask(problem, instruction))) for problem in problems]
    try:
        rendered = tokenizer.apply_chat_template(
            conversations, add_generation_prompt=True, return_dict=False, **prompting.template_kwargs
        )
    except Exception as error:  # templates raise whatever jinja2 raises
        raise ModelError(f"the model's chat template cannot render a question ({error}).") from error
    if rendered:
        _warn_of_closed_thought(tokenizer, rendered[0], prompting)
    return {problem.id: tuple(ids) for problem, ids in zip(problems, rendered, strict=True)}


def _ask(problem: Problem, instruction: str) -> str:
    wanted = instruction if problem.instruction is None else problem.instruction
    return f"{problem.question}\n\n{wanted}" if wanted else problem.question


def _names(tokenizer: PreTrainedTokenizerBase, variable: str) -> bool:
    return re.search(rf"\b{re.escape(variable)}\b", template_text(tokenizer)) is not None


def _find_switch(tokenizer: PreTrainedTokenizerBase, prompting: PromptConfig) -> str | None:
    """The variable that switches a template's thinking on; None when it is on, has no such variable, or one was set."""
    given = prompting.template_kwargs
    candidates = [name for name in SWITCHES if name not in given and _names(tokenizer, name)]
    if not candidates or any(isinstance(given.get(name), bool) for name in SWITCHES):
        return None
    messages = prompting.messages(("user", "Is it so?"))

    def render(**more: Any) -> str:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **{**given, **more})

    def is_off(name: str) -> bool:
        return render(**{name: SWITCHES[name]}) != usual and (name not in OFF or render(**{name: OFF[name]}) == usual)

    try:
        usual = render()
        return next(filter(is_off, candidates), None)
    except Exception:  # templates raise whatever jinja2 raises; whoever renders the questions is told
        return None


def _warn_of_closed_thought(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], prompting: PromptConfig) -> None:
    style = choose_style(tokenizer, prompting.thinking)
    if tokenizer.decode(list(prompt), skip_special_tokens=False).rstrip().endswith(style.closing):
        logger.warning_once(
            f"the chat template of {tokenizer.name_or_path} ends the prompt with a closed thought ({style.closing}), so the "
            "model will not think; see --template-kwargs, as in enable_thinking=true."
        )
