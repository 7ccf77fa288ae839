r"""What the model answered: the last `\boxed{}` after the thinking."""

import re

from ..problems.boxed import closing_boxes
from .letter import find_letter, read_letter
from .notation import unwrap


ANSWER_START, ANSWER_END = "<answer>", "</answer>"
MAX_BARE_LENGTH = 200  # characters of a response that is nothing but an answer
MAX_STATEMENT = 300  # characters of the last line in which an answer is stated
MAX_END_MARKS = 4

_END_MARK = re.compile(r"<(?!/?answer>)[/|\uff5c]?[A-Za-z_][\w\u2581:.-]{0,40}[|\uff5c]?>\Z")  # as <|im_end|>
_SET_AS_TEXT = re.compile(r"\\(?:[a-zA-Z]*text[a-zA-Z]*|mathrm|mbox|operatorname)\s*\{[^{}]*\}|\\[a-zA-Z]+")
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_PROSE = re.compile(r"[^\W\d_]{3,}|is|it|to|of|in|so|be|we|an|at|by|my|if|on|no|do|me", re.IGNORECASE)
_MATHEMATICS = re.compile(r"arc\w+|sinh?|cosh?|tanh?|cot|sec|csc|ln|log|exp|sqrt|abs|inf|infinity|and|mod", re.IGNORECASE)
_STATED = re.compile(
    r".*\b(?:answer|result|solution)\b(?: to [^:=]{1,80}?| of [^:=]{1,80}?)?(?:\*\*|__)?\s*(?::|=|\bis\b:?|\bare\b:?)"
    r"[\s*_]*(.*\S)\s*",
    re.IGNORECASE,
)
_WITH_UNIT = re.compile(r"[-+]?\d[\d.,/ ]*(?: [^\W\d_]+){1,2}")


def find_answer(text: str, kind: str) -> str | None:
    r"""Find the final answer in the text after the thinking.

    Where the text holds `<answer>...</answer>`, only what stands in the last one is read; one that the text begins with need
    not be closed, since servers leave out what they stop at. Then the first of these counts:

    1. for a multiple choice, the letter that the boxes of the closing sentence agree on;
    2. for a multiple choice, the letter that is stated in the text, by the order that `letter.py` writes down;
    3. what the boxes of the closing sentence hold, as `last_boxed` reads them;
    4. all of `<answer>...</answer>`, or of a response that is nothing but an answer, such as `42`, `**x = 5**` or `12 apples`;
    5. such an answer that the last line states, as in "So the final answer is 42.".

    Args:
        text: What `thinking.split_thinking` returned.
        kind: `Problem.answer_kind`.

    Returns:
        The answer, or None when there is none that can be read.
    """
    text = _without_end_marks(text)
    if text.lstrip().startswith(ANSWER_START) and ANSWER_END not in text:
        text += ANSWER_END
    marked = text.rpartition(ANSWER_END)[0].rpartition(ANSWER_START) if ANSWER_END in text else ("", "", "")
    text = marked[2] if marked[1] else text.removesuffix(ANSWER_END)
    boxes = closing_boxes(text)
    if kind == "choice":
        letters = {letter for letter in map(read_letter, boxes) if letter}
        letter = letters.pop() if len(letters) == 1 else find_letter(text)
        if letter:
            return letter
    if boxes:
        return ", ".join(boxes) or None  # an empty box is no answer
    if "\\boxed" in text or "\\fbox" in text:
        return None
    if marked[1]:
        return text.strip() or None
    if kind == "choice":
        return None
    return _read_bare(text) or _read_stated(text)


def _without_end_marks(text: str) -> str:
    """Remove the special tokens that end a response."""
    text = text.rstrip()
    for _ in range(MAX_END_MARKS):
        text = text[:-50] + _END_MARK.sub("", text[-50:]).rstrip()
    return text


def _read_stated(text: str) -> str | None:
    """Read what the last line says the answer is, if it is an answer and no prose."""
    last = text.rstrip().rpartition("\n")[2][-MAX_STATEMENT:]
    stated = _STATED.fullmatch(last)
    return _read_bare(stated[1]) if stated else None


def _read_bare(text: str) -> str | None:
    """Read a response of one line that holds no prose: mathematics, a number with its unit, or one word."""
    text = text.strip()
    if len(text) > MAX_BARE_LENGTH:
        return None
    text = unwrap(text).rstrip(".").rstrip()
    text = unwrap(text)
    if "\n" in text or not any(character.isalnum() for character in text):
        return None
    words = _WORD.findall(_SET_AS_TEXT.sub(" ", text))
    prose = [word for word in words if _PROSE.fullmatch(word) and not _MATHEMATICS.fullmatch(word)]
    return text if not prose or _WORD.fullmatch(text) or _WITH_UNIT.fullmatch(text) else None
