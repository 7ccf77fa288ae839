r"""What a `\boxed{}` holds: final answers in solutions and in responses."""

import re
from typing import NamedTuple


_TOKENS = re.compile(r"(\\{1,3}(?:boxed|fbox)\s*\{)|\\.|[{}]", re.DOTALL)
_BARE = re.compile(
    r"\\(?:boxed|fbox)\s*(-?\d+(?:[.,]\d+)*|-?\\(?!boxed|fbox)[a-zA-Z]+(?:\{[^{}]*\})*|[a-zA-Z](?=[$.,;)\\]|\s*$))"
)
_BETWEEN = 100  # most characters between two boxes of one answer
_SENTENCE_END = re.compile(r"[.!?]['\")*]*(?:\s|$)|\n\s*\n")
_SEPARATOR = re.compile(r"[,;&]|\b(?:and|or)\b")
_SPACING = re.compile(r"(?:\s|\$|\\[()\[\],;: ]|\\q?quad|\*|~)*")
_CORRECTION = re.compile(
    r"^(?:\s|\$|\\[()\[\]])*(?:=|\\(?:approx|implies|Rightarrow|to)\b)"
    r"|\b(?i:no|not|wait|but|instead|rather|actually|so|hence|thus|therefore|then|which|because|since|simplif\w*|i\.e)\b"
)


class _Box(NamedTuple):
    start: int
    end: int
    content: str


def last_boxed(text: str) -> str | None:
    r"""Return what the last `\boxed{}` holds, or None; in time linear in the text.

    Several boxes in one closing sentence are one answer, joined by commas; a box that is repeated counts once. A last box
    that is never closed is no answer.

    Args:
        text: A solution or a response.
    """
    boxes = closing_boxes(text)
    return ", ".join(boxes) if boxes else None


def closing_boxes(text: str) -> list[str]:
    r"""Return what the boxes of the closing sentence hold, each once; none when the last box is never closed.

    `\fbox{7}` and the brace-less `\boxed 7` are boxes too, and an empty box counts only where no other is.

    Args:
        text: A solution or a response.
    """
    boxes = _find_boxes(text)
    boxes = [box for box in boxes if box.content] or boxes
    closing = boxes[-1:]
    for box in reversed(boxes[:-1]):
        if not _is_one_answer(text[box.end : closing[-1].start]):
            break
        closing.append(box)
    return list(dict.fromkeys(box.content for box in reversed(closing)))


def _find_boxes(text: str) -> list[_Box]:
    """The boxes that hold no other box, in their order; none when the last one is never closed."""
    groups: list[tuple[int, int] | None] = []  # where a box and its content begin; None for any other brace
    boxes: list[_Box] = []
    last = -1  # where the last box begins
    for token in _TOKENS.finditer(text):
        start, end = token.span()
        if token[0] == "}":
            opened = groups.pop() if groups else None
            if opened and (not boxes or opened[0] > boxes[-1].start):
                boxes.append(_Box(opened[0], end, text[opened[1] : start].strip()))
        elif token[0] == "{":
            groups.append(None)
        elif token[1]:
            groups.append((start, end))
            last = start
        elif token[0] in ("\\b", "\\f") and (bare := _BARE.match(text, start)):
            boxes.append(_Box(start, bare.end(), bare[1]))
            last = start
    return boxes if boxes and boxes[-1].start == last else []


def _is_one_answer(between: str) -> bool:
    """Whether what stands between two boxes makes them parts of one answer."""
    if len(between) > _BETWEEN or _SENTENCE_END.search(between) or _CORRECTION.search(between):
        return False
    return bool(_SPACING.fullmatch(between) or _SEPARATOR.search(between))
