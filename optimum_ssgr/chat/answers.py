"""What a column shows: one model's response, whole or still being written."""

from dataclasses import dataclass

from ..thinking import STYLES, ThinkingStyle, final_part, is_open, recognize_style, thinking_part


@dataclass(frozen=True)
class Answer:
    """One response as it stands; times are seconds since the question was asked.

    Args:
        text: Everything written so far, thinking tags included.
        tokens: Number of tokens written.
        first_token_seconds: When the first token came; None before.
        thinking_seconds: When the thinking was closed; None before.
        seconds: Time taken so far.
        finish: `stop` when the model ended by itself, `length` at the token limit, `stopped` by the user, `time` at the time
            limit, `error` when the model failed; None while it writes.
        error: What went wrong, in a sentence.
        rambling: Whether it ends in the same words over and over.
        correct: Whether the final answer is right; None when that is not known.
        style: How the model delimits its thinking; told from the text when None.
    """

    text: str = ""
    tokens: int = 0
    first_token_seconds: float | None = None
    thinking_seconds: float | None = None
    seconds: float = 0.0
    finish: str | None = None
    error: str | None = None
    rambling: bool = False
    correct: bool | None = None
    style: ThinkingStyle | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens a second after the first one; None before the second one."""
        if self.first_token_seconds is None or self.tokens < 2 or self.seconds <= self.first_token_seconds:
            return None
        return (self.tokens - 1) / (self.seconds - self.first_token_seconds)

    @property
    def thinks(self) -> bool:
        """Whether the thinking was opened and not yet closed."""
        style = self._style
        return self.text.lstrip().startswith(style.opening) and is_open(self.text, style)

    @property
    def thinking(self) -> str:
        """The thinking, without its delimiters."""
        style = self._style
        return thinking_part(_without_partial_end(self.text, style) if self.thinks else self.text, style)

    @property
    def final(self) -> str:
        """What stands after the thinking."""
        styles = (self.style,) if self.style else STYLES.values()
        is_opening = any(style.opening.startswith(self.text.strip()) for style in styles)
        return "" if self.thinks or is_opening else final_part(self.text, self._style).strip()

    @property
    def _style(self) -> ThinkingStyle:
        return self.style or recognize_style(self.text)


def _without_partial_end(text: str, style: ThinkingStyle) -> str:
    """Leave out the beginning of what closes the thinking, which would flash up."""
    end = style.between + style.closing
    for length in range(len(end) - 1, 0, -1):
        if text.endswith(end[:length]):
            return text[:-length]
    return text
