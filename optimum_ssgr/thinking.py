"""How reasoning models delimit their thinking: one table, and what it makes of a tokenizer and of a response."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ThinkingStyle:
    """The delimiters of a family of models.

    Args:
        name: What it is called in settings.
        opening: What opens the thinking, written by the chat template or by the model.
        closing: What closes it; the final part stands behind the last one.
        final: What opens and closes the final part, where a model marks it as well; neither is shown or read.
        between: What stands between two messages within one response.
        tokens: What the vocabulary of such a model has; `opening` and `closing` when empty.
    """

    name: str
    opening: str
    closing: str
    final: tuple[str, str] = ("", "")
    between: str = ""
    tokens: tuple[str, ...] = ()


_TABLE = (
    ThinkingStyle(
        "gpt-oss",
        "<|channel|>analysis<|message|>",
        "<|channel|>final<|message|>",
        final=("<|channel|>final<|message|>", "<|return|>"),
        between="<|end|><|start|>assistant",
        tokens=("<|channel|>", "<|message|>", "<|start|>"),
    ),
    ThinkingStyle("gemma", "<|channel>thought", "<channel|>", tokens=("<|channel>", "<channel|>")),
    ThinkingStyle(
        "kimi-k3",
        "<|open|>think<|sep|>",
        "<|close|>think<|sep|>",
        final=("<|open|>response<|sep|>", "<|close|>response<|sep|>"),
        tokens=("<|open|>", "<|close|>", "<|sep|>"),
    ),
    ThinkingStyle(
        "cohere", "<|START_THINKING|>", "<|END_THINKING|>", final=("<|START_RESPONSE|>", "<|END_RESPONSE|>")
    ),  # Command A Reasoning
    ThinkingStyle(
        "openthinker",
        "<|begin_of_thought|>",
        "<|end_of_thought|>",
        final=("<|begin_of_solution|>", "<|end_of_solution|>"),
    ),  # and Sky-T1
    ThinkingStyle("granite", "Here is my thought process:", "Here is my response:"),  # 3.2: plain sentences
    ThinkingStyle("mistral", "[THINK]", "[/THINK]"),  # Magistral, Ministral, Mistral Small 4
    ThinkingStyle("seed", "<seed:think>", "</seed:think>"),
    ThinkingStyle("minimax", "<mm:think>", "</mm:think>"),  # M3; its predecessors write <think>
    ThinkingStyle("kimi-vl", "◁think▷", "◁/think▷"),
    ThinkingStyle("marin", "<|start_think|>", "<|end_think|>"),
    ThinkingStyle("exaone", "<thought>", "</thought>"),  # EXAONE-Deep
    ThinkingStyle("think", "<think>", "</think>"),  # nearly everybody; last, since others keep these tokens without using them
)
STYLES = {style.name: style for style in _TABLE}
THINK = STYLES["think"]


def make_style(thinking: Sequence[str]) -> ThinkingStyle:
    """Return a style by its name, or one of two delimiters of one's own.

    Args:
        thinking: A name of `STYLES`, or what opens and what closes the thinking; `config.PromptConfig` checks it.
    """
    return STYLES[thinking[0]] if len(thinking) == 1 else ThinkingStyle("own", *thinking)


def detect_style(tokenizer: "PreTrainedTokenizerBase", system: str | None = None) -> ThinkingStyle | None:
    """Find out how a model delimits its thinking: its chat template says so, or else its vocabulary.

    Args:
        tokenizer: The model's tokenizer.
        system: The system message, which may ask for delimiters that the template knows nothing of.

    Returns:
        None when nothing tells.
    """
    for style in _TABLE:
        if is_told(tokenizer, style, system):
            return style
    vocabulary = tokenizer.get_vocab()
    for style in _TABLE:
        if all(token in vocabulary for token in style.tokens or (style.opening, style.closing)):
            return style
    return None


def is_told(tokenizer: "PreTrainedTokenizerBase", style: ThinkingStyle, system: str | None = None) -> bool:
    """Tell whether a delimiter of a style stands in a tokenizer's chat template or in the system message."""
    told = f"{template_text(tokenizer)}\n{system or ''}"
    return style.opening in told or style.closing in told


def choose_style(
    tokenizer: "PreTrainedTokenizerBase", thinking: Sequence[str] | None = None, system: str | None = None
) -> ThinkingStyle:
    """Return the style that is asked for, or else the one that is detected, or else `<think>`.

    Args:
        tokenizer: The model's tokenizer.
        thinking: What `make_style` takes; None to detect it.
        system: See `detect_style`.
    """
    return make_style(thinking) if thinking else detect_style(tokenizer, system) or THINK


def recognize_style(text: str) -> ThinkingStyle:
    """Tell the style from a response alone, for servers whose tokenizer is not here; `<think>` when nothing tells."""
    start = text.lstrip()
    for style in _TABLE:
        is_closed = style.closing in text and not style.closing[0].isalpha()  # a plain sentence is anybody's
        if start.startswith(style.opening) or is_closed:
            return style
    return THINK


def template_text(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the source of a tokenizer's chat template, of all of them if it has several; empty without any."""
    template = getattr(tokenizer, "chat_template", None) or ""
    return "\n".join(template.values()) if isinstance(template, dict) else template


def split_thinking(prompt: str, response: str, style: ThinkingStyle = THINK) -> tuple[str | None, bool | None]:
    """Separate the final text from the thinking.

    Args:
        prompt: Text the model was given; a template may open the thinking for it.
        response: Text the model wrote, special tokens included.
        style: How the model delimits its thinking.

    Returns:
        The text after the thinking, of several thoughts after the last, or None when the thinking was never closed, or was
        opened again and then not closed; and whether it was closed, or None when it was not even opened.
    """
    opened = style.opening in response or opens_thinking(prompt, style)  # elsewhere the question speaks of it
    before, closed, _ = response.rpartition(style.closing)
    if closed and not is_open(response, style):
        # some write the closing delimiter only, and gpt-oss its final channel without having thought
        return final_part(response, style), True if opened or before.strip() else None
    return (None, False) if opened else (final_part(response, style), None)


def is_open(text: str, style: ThinkingStyle) -> bool:
    """Tell whether a thought was opened in a text and not closed since."""
    return text.rfind(style.opening) > text.rfind(style.closing)


def opens_thinking(prompt: str, style: ThinkingStyle) -> bool:
    """Tell whether a prompt ends with the opening delimiter."""
    return prompt.rstrip().endswith(style.opening)


def final_part(response: str, style: ThinkingStyle) -> str:
    """Return what stands after the thinking, without the marks around it; all of it when no thinking was closed."""
    text = response.rpartition(style.closing)[2]
    opening, closing = style.final
    if opening:
        text = text.rpartition(opening)[2].partition(closing)[0]
    return text


def thinking_part(response: str, style: ThinkingStyle) -> str:
    """Return the thinking without its delimiters, whether it was closed or not; empty when there is none.

    Of several thoughts it is all from the first to the last, with what stands between them.
    """
    before, closed, _ = response.rpartition(style.closing)
    if is_open(response, style) and (closed or response.lstrip().startswith(style.opening)):
        before = response
    for mark in filter(None, (style.between, style.closing)):
        before = before.replace(mark, "\n")
    return before.replace(style.opening, "").strip()
