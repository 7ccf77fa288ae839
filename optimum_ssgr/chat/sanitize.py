r"""Text of models and users as Markdown that can do no harm.

Whatever could open HTML, an image, a link or code is written as an entity; in code and mathematics, which are kept, everything
but letters and digits is. So nothing depends on whether the browser's Markdown cuts the text where we do. Mathematics stands
between private characters that no text contains.
"""

import re


INLINE, DISPLAY = ("\ue000", "\ue001"), ("\ue002", "\ue003")
DELIMITERS = [
    {"left": DISPLAY[0], "right": DISPLAY[1], "display": True},
    {"left": INLINE[0], "right": INLINE[1], "display": False},
]
MAX_FORMULA = 2000  # characters; what is longer is shown as text, since typesetting it could freeze the page
MAX_NESTING = 30

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ue000-\uf8ff\ufeff]")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[^\n`]*\n(.*?)(?:^ {0,3}\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_PARTS = re.compile(
    r"(?<!`)(?P<ticks>`{1,2})(?!`)(?P<code>[^\n]+?)(?<!`)(?P=ticks)(?!`)"
    r"|\$\$(?P<dollars>.{1,2000}?)\$\$|\\\[(?P<square>.{1,2000}?)\\\]|\\\((?P<round>.{1,2000}?)\\\)"
    r"|(?<![\\$\w])\$(?=[^\s$])(?P<dollar>[^\n$]*?[^\s\\$])\$(?![\d$])"
    r"|\\boxed(?P<boxed>)\{",
    re.DOTALL,
)
_UNFINISHED = re.compile(r"(?:\$\$|\\\[|\\\(|\\boxed\{)(?:(?!\n\n).){0,2000}\Z", re.DOTALL)
_ACTIVE = re.compile(r"\\(?P<escaped>[!-/:-@\[-`{-~])|[&<>\[\]`~\\$@]|(?<=:)//|(?<=www)\.", re.IGNORECASE)
_FORBIDDEN = re.compile(r"\\(?:href|url|includegraphics|html\w*|[gex]?def|let|futurelet|\w*newcommand)(?![A-Za-z])")


def sanitize(text: str, finished: bool = True) -> str:
    r"""Write text of a model or a user as harmless Markdown; a bare `\boxed{}` becomes mathematics.

    Args:
        text: The text, which may be cut anywhere.
        finished: Whether it is whole; if not, a formula still being written is held back.
    """
    text = _UNSEEN.sub("", text.replace("\r\n", "\n"))
    written, place = [], 0
    for fence in _FENCE.finditer(text):
        code = _entities(fence[2].rstrip())
        written += [_outside_fences(text[place : fence.start()], True), f"\n\n<pre><code>{code}</code></pre>\n\n"]
        place = fence.end()
    return "".join(written) + _outside_fences(text[place:], finished)


def _outside_fences(text: str, finished: bool) -> str:
    written, place = [], 0
    while part := _PARTS.search(text, place):
        end = part.end() if part["boxed"] is None else _closing_brace(text, part.end())
        if end is None:
            break
        written += [_plain(text[place : part.start()]), _kept(part, text[part.start() : end])]
        place = end
    rest = text[place:]
    if not finished and (formula := _UNFINISHED.search(rest)):
        rest = rest[: formula.start()] + "…"
    return "".join(written) + _plain(rest)


def _kept(part: re.Match[str], whole: str) -> str:
    """Write code or a formula."""
    if part["code"]:
        return _code(part["code"].strip())
    standing_apart = part["dollars"] or part["square"]
    formula = standing_apart or part["round"] or part["dollar"] or whole
    if _nesting(formula) > MAX_NESTING or _FORBIDDEN.search(formula):
        return _code(formula)
    left, right = DISPLAY if standing_apart else INLINE
    return left + _entities(" ".join(formula.split())) + right


def _plain(text: str) -> str:
    return _ACTIVE.sub(lambda active: _entities(active["escaped"] or active[0]), text)


def _code(code: str) -> str:
    return f"<code>{_entities(' '.join(code.split()))}</code>"


def _entities(text: str) -> str:
    """Write everything but letters, digits and blanks as entities."""
    return "".join(character if character.isalnum() or character == " " else f"&#{ord(character)};" for character in text)


def _closing_brace(text: str, start: int) -> int | None:
    """Return the end of a group whose opening brace stands just before `start`; None when it stays open."""
    depth = 1
    for place in range(start, min(len(text), start + MAX_FORMULA)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    return None


def _nesting(formula: str) -> int:
    depth = deepest = 0
    for character in formula:
        depth += {"{": 1, "}": -1}.get(character, 0)
        deepest = max(deepest, depth)
    return deepest
