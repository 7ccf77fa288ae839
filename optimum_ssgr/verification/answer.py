r"""What the model answered: the last `\boxed{}` after the thinking."""

THINK_START, THINK_END = "<think>", "</think>"


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
