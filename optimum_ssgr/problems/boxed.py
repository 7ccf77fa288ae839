r"""What a `\boxed{}` holds: final answers in solutions and in responses."""

import re


_BRACES = re.compile(r"\\boxed\{|[{}]")


def last_boxed(text: str) -> str | None:
    r"""Return what the last complete `\boxed{}` holds, its braces balanced, or None; in time linear in the text."""
    open_braces: list[int | None] = []  # where a box begins; None for any other brace
    last: tuple[int, int] | None = None
    for brace in _BRACES.finditer(text):
        if brace[0] != "}":
            open_braces.append(brace.end() if len(brace[0]) > 1 else None)
        elif open_braces and (start := open_braces.pop()) is not None and (last is None or start > last[0]):
            last = start, brace.start()
    return text[slice(*last)].strip() if last else None
