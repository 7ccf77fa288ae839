r"""What the model answered: the last `\boxed{}` after the thinking."""

import re

from ..problems.boxed import last_boxed


THINK_START, THINK_END = "<think>", "</think>"
_STATED_LETTER = re.compile(
    r"(?i:\banswer(?: is)?:?)\s+(?:\*\*)?\(?([A-J])\)?(?=\*\*|[.,:;]|\s*$)"  # The answer is B.
    r"|\*\*\(?([A-J])\)?[.:]?\*\*",  # **B**
    re.MULTILINE,
)


def split_thinking(prompt: str, response: str) -> tuple[str | None, bool | None]:
    """Separate the final text from the thinking.

    Args:
        prompt: Text the model was given; a template may open the thinking for it.
        response: Text the model wrote.

    Returns:
        The text after the thinking, or None when the thinking was never closed; and whether it was closed, or None when it was
        not even opened.
    """
    if THINK_END in response:
        return response.rsplit(THINK_END, 1)[1], True
    opened = THINK_START in response or prompt.rstrip().endswith(THINK_START)  # elsewhere the question speaks of it
    return (None, False) if opened else (response, None)


def find_answer(text: str, kind: str) -> str | None:
    r"""Find the final answer in the text after the thinking.

    Args:
        text: What `split_thinking` returned.
        kind: `Problem.answer_kind`.

    Returns:
        What the last `\boxed{}` holds. Where nothing is boxed, a multiple-choice problem may be answered by a letter in the
        text, as in `The answer is B.` or `**B**`; the last one counts. Else None.
    """
    boxed = last_boxed(text)
    if boxed is not None or kind != "choice":
        return boxed
    letters = [first or second for first, second in _STATED_LETTER.findall(text)]
    return letters[-1] if letters else None
