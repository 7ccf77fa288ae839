r"""What the model answered: the last `\boxed{}` after the thinking."""

THINK_START, THINK_END = "<think>", "</think>"
_MARK = "\\boxed{"


def split_thinking(prompt: str, response: str) -> tuple[str | None, bool]:
    """Separate the final text from the thinking.

    Args:
        prompt: Text the model was given; a template may open the thinking for it.
        response: Text the model wrote.

    Returns:
        The text after the thinking, or None when the thinking was never closed; and whether `</think>` was written.
    """
    if THINK_END in response:
        return response.rsplit(THINK_END, 1)[1], True
    opened = THINK_START in response or prompt.rfind(THINK_START) > prompt.rfind(THINK_END)
    return (None if opened else response), False


def last_boxed(text: str) -> str | None:
    r"""Return what the last complete `\boxed{}` holds, its braces balanced, or None."""
    end = len(text)
    while (start := text.rfind(_MARK, 0, end)) != -1:
        depth = 1
        for position in range(start + len(_MARK), len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[start + len(_MARK) : position].strip()
        end = start
    return None
