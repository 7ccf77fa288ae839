"""What a column shows: one model's response, whole or still being written."""

from dataclasses import dataclass

from ..verification.answer import THINK_END, THINK_START


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

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens a second after the first one; None before the second one."""
        if self.first_token_seconds is None or self.tokens < 2 or self.seconds <= self.first_token_seconds:
            return None
        return (self.tokens - 1) / (self.seconds - self.first_token_seconds)

    @property
    def thinks(self) -> bool:
        """Whether the thinking was opened and not yet closed."""
        return self.text.lstrip().startswith(THINK_START) and THINK_END not in self.text

    @property
    def thinking(self) -> str:
        """The thinking, without its tags."""
        if self.thinks:
            return _without_partial_tag(self.text.lstrip().removeprefix(THINK_START)).strip()
        return self.text.rsplit(THINK_END, 1)[0].replace(THINK_START, "").strip() if THINK_END in self.text else ""

    @property
    def final(self) -> str:
        """What stands after the thinking."""
        if self.thinks or THINK_START.startswith(self.text.strip()):
            return ""
        return self.text.rsplit(THINK_END, 1)[-1].strip()


def _without_partial_tag(text: str) -> str:
    """Leave out the beginning of a closing tag, which would flash up."""
    for length in range(len(THINK_END) - 1, 0, -1):
        if text.endswith(THINK_END[:length]):
            return text[:-length]
    return text
