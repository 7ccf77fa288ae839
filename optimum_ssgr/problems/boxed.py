r"""What a `\boxed{}` holds: final answers in solutions and in responses."""

_MARK = "\\boxed{"


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
