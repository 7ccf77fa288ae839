r"""What a `\boxed{}` holds: final answers in solutions and in responses."""

import re


_TOKENS = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BARE = re.compile(
    r"\\(?:boxed|fbox)\s*(-?\d+(?:[.,]\d+)*|-?\\(?!boxed|fbox)[a-zA-Z]+(?:\{[^{}]*\})*|[a-zA-Z](?=[$.,;\s]*(?:\\[)\]]|$)))"
)
_BETWEEN = 100  # most characters between two boxes of one answer
_SENTENCE_END = re.compile(r"[.!?]['\")*]*(?:\s|$)|\n\s*\n")
_SEPARATOR = re.compile(r"[,;&]|\b(?:and|or)\b")
_SPACING = re.compile(r"(?:\s|\$|\\[()\[\],;: ]|\\q?quad|\*|~)*")
_CORRECTION = re.compile(
    r"^(?:\s|\$|\\[()\[\]])*(?:=|\\(?:approx|implies|Rightarrow|to)\b)"
    r"|\b(?i:no|not|wait|but|instead|rather|actually|so|hence|thus|therefore|then|which|because|since|simplif\w*|i\.e)\b"
)


def last_boxed(text: str) -> str | None:
    r"""Return what the last `\boxed{}` holds, or None; in time linear in the text.

    Several boxes in one closing sentence are one answer, joined by commas; a box that is repeated counts once. A last box that is
    never closed is no answer.

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
    boxes, complete = _find_boxes(text)
    if not complete:
        return []
    boxes = [box for box in boxes if text[slice(*box[1])].strip()] or boxes
    chosen = boxes[-1:]
    for box in reversed(boxes[:-1]):
        if not _is_one_answer(text[box[0][1] : chosen[-1][0][0]]):
            break
        chosen.append(box)
    return list(dict.fromkeys(text[slice(*inner)].strip() for _, inner in reversed(chosen)))


def _find_boxes(text: str) -> tuple[list[tuple[tuple[int, int], tuple[int, int]]], bool]:
    """Where boxes and what they hold begin and end, innermost ones alone, in their order; and whether the last one is closed."""
    groups: list[tuple[int, int] | None] = []  # where a box and its content begin; None for any other brace
    boxes: list[tuple[tuple[int, int], tuple[int, int]]] = []
    last = -1
    for token in _TOKENS.finditer(text):
        start, end = token.span()
        if token[0] == "}":
            box = groups.pop() if groups else None
            if box and (not boxes or box[0] > boxes[-1][0][0]):  # holds no other box
                boxes.append(((box[0], end), (box[1], start)))
        elif token[0][-1] == "{" and token[0] != "\\{":
            groups.append((start, end) if len(token[0]) > 1 else None)
            last = start if len(token[0]) > 1 else last
        elif token[0] in ("\\b", "\\f") and (bare := _BARE.match(text, start)):
            boxes.append((bare.span(), bare.span(1)))
            last = start
    return boxes, last < 0 or bool(boxes and boxes[-1][0][0] == last)


def _is_one_answer(between: str) -> bool:
    """Whether what stands between two boxes makes them parts of one answer."""
    if len(between) > _BETWEEN or _SENTENCE_END.search(between) or _CORRECTION.search(between):
        return False
    return bool(_SPACING.fullmatch(between) or _SEPARATOR.search(between))
