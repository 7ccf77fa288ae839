r"""One notation for final answers: LaTeX as math-verify reads it.

Models and data sets write the same answer as LaTeX with and without braces, as plain text, with Markdown around it and with
separators between thousands. Everything here changes the notation and never the value.
"""

import re
import unicodedata


MAX_DEPTH = 40  # arguments within arguments; deeper ones are left as they are

_ARGUMENTS = {"frac": 2, "binom": 2, "sqrt": 1, "exp": 1}  # of those commands that are written without braces
_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|sqrt"
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_FRACTIONS = (
    *(("ONE HALF", 1, 2), ("ONE THIRD", 1, 3), ("TWO THIRDS", 2, 3), ("ONE QUARTER", 1, 4), ("THREE QUARTERS", 3, 4)),
    *(("ONE FIFTH", 1, 5), ("TWO FIFTHS", 2, 5), ("THREE FIFTHS", 3, 5), ("FOUR FIFTHS", 4, 5), ("ONE SIXTH", 1, 6)),
    *(("FIVE SIXTHS", 5, 6), ("ONE EIGHTH", 1, 8), ("THREE EIGHTHS", 3, 8), ("FIVE EIGHTHS", 5, 8), ("SEVEN EIGHTHS", 7, 8)),
)
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("\N{MINUS SIGN}\N{EN DASH}\N{HYPHEN}\N{NON-BREAKING HYPHEN}", "-"),
        **dict.fromkeys("\N{NO-BREAK SPACE}\N{THIN SPACE}\N{NARROW NO-BREAK SPACE}", " "),
        **dict.fromkeys("£€¥$", ""),
        "\N{FULLWIDTH COMMA}": ",",
        "\N{MULTIPLICATION SIGN}": r"\times ",
        "\N{MIDDLE DOT}": r"\cdot ",
        "\N{DOT OPERATOR}": r"\cdot ",
        "\N{DIVISION SIGN}": "/",
        "\N{SQUARE ROOT}": r"\sqrt ",
        "\N{DEGREE SIGN}": r"^\circ ",
        "\N{GREEK SMALL LETTER PI}": r"\pi ",
        "\N{INFINITY}": r"\infty ",
        "\N{LESS-THAN OR EQUAL TO}": r"\le ",
        "\N{GREATER-THAN OR EQUAL TO}": r"\ge ",
        "\N{NOT EQUAL TO}": r"\ne ",
        "\N{PLUS-MINUS SIGN}": r"\pm ",
        "\N{ALMOST EQUAL TO}": r"\approx ",
        "\N{HORIZONTAL ELLIPSIS}": r"\ldots ",
        "\N{UNION}": r"\cup ",
        "\N{INTERSECTION}": r"\cap ",
        "\N{ELEMENT OF}": r"\in ",
        "\N{EMPTY SET}": r"\emptyset ",
        **{unicodedata.lookup(f"VULGAR FRACTION {name}"): rf"\frac{{{above}}}{{{below}}}" for name, above, below in _FRACTIONS},
    }
)
_AROUND = re.compile(
    r"\*\*((?:(?!\*\*).)+)\*\*|__(.+)__|\*([^*].*)\*|_([^_].*)_|`+(?!`)(.+?)`+|\\\((.+)\\\)|\\\[(.+)\\\]|\{([^{}]+)\}"
    r"|\\(?:mathbf|boldsymbol|bm|mathit|underline|displaystyle)\s*\{([^{}]+)\}|\\(?:text|textbf|mathrm|mbox)\s*\{\s*([-+\d\\(\[.][^{}]*)\}",
    re.DOTALL,
)
_SPACING = re.compile(
    r"(?P<row>(?:\\\\\s*)+)|(?P<nothing>(?<=\d)\\,(?=\d{3}(?!\d))|\\!\s*|\\[()\[\]])|(?P<space>\\[,;:>]|\\(?=\s)|~)"
)
_SPACES = {"row": r"\\ ", "nothing": "", "space": " "}
_BOLD = re.compile(r"(?<![\w)\]}])\*\*(?=\S)([^*]+)(?<=\S)\*\*(?![\w(\\])")
_LOOKS = re.compile(
    r"\\(?:left|right)\s*\.|\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|limits|large|Large|huge)(?![a-zA-Z])"
    r"|\\(?:text)?color\s*\{[^{}]*\}|\\text\s*\{[.\s]*\}"
)

_MATRIX = re.compile(r"\\begin\s*\{(?:[pbB]?(?:small)?matrix\*?|array)\}(?:\s*\[[a-z]\])?(?:\s*\{[lcr|@\s]*\})?")
_MATRIX_END = re.compile(r"\s*(?:\\\\\s*)*\\end\s*\{(?:[pbB]?(?:small)?matrix\*?|array)\}")
_IN_BRACKETS = re.compile(r"(?:\(|\[|\\\{)\s*(\\begin\{pmatrix\}[^()\[\]]*?\\end\{pmatrix\})\s*(?:\)|\]|\\\})")
_IN_BARS = re.compile(r"(?:\||\\vert)\s*\\begin\{pmatrix\}([^|]*?)\\end\{pmatrix\}\s*(?:\||\\vert)")
_TRANSPOSE = (
    r"\s*\^\s*(?:\{\s*)?"
    r"(?:\\(?:top|intercal)(?![a-zA-Z])|\\(?:mathrm|mathsf|text|rm|sf)\s*\{?\s*T\s*\}?|T(?![a-zA-Z]))(?:\s*\})?"
)
_MATRIX_TRANSPOSED = re.compile(rf"(?<=\\end\{{pmatrix\}}){_TRANSPOSE}")
_ROW_TRANSPOSED = re.compile(rf"[(\[]([^()\[\]]+,[^()\[\]]+)[)\]]{_TRANSPOSE}")
_NESTED_LISTS = re.compile(r"\[\s*(\[[^\[\]]+\](?:\s*,\s*\[[^\[\]]+\])*)\s*\]")

_REPEATING = re.compile(
    r"(?<![\d.])(\d*)\.(\d*?)(?:\{?\\(?:overline|bar)\s*(?:\{\s*(\d+)\s*\}|(\d))\}?|\((\d+)\)"
    r"|\\dot\s*\{?(\d)\}?(?:(\d*)\\dot\s*\{?(\d)\}?)?|((\d)\10\10|(\d{2,})\11)(?:\.\.\.|\s*\\[lc]?dots))(?![\d(])"
)
_ORDINAL = re.compile(
    r"(?<=\d)\s*(?:\^\s*\{?\s*(?:\\(?:text|textrm|mathrm|mbox)\s*\{\s*)?(?:th|st|nd|rd)\s*\}?\s*\}?"
    r"|\\(?:text|textrm|mathrm|mbox|textsuperscript)\s*\{\s*(?:th|st|nd|rd)\s*\}|(?:th|(?<=1)st|(?<=2)nd|(?<=3)rd)$)"
)
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?: \d{3})+(?! ?[\d/])")
_COMMAS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?=\s*\\(?:pi|sqrt|frac|times|cdot)(?![a-zA-Z]))")
_SCIENTIFIC = re.compile(r"(?<![a-zA-Z\\\d.])(\d+\.?\d*|\.\d+)[eE]([-+]?\d{1,4})(?![\da-zA-Z.])")
_MIXED = re.compile(r"(?<![\d.^_/}a-zA-Z)])(\d+) (\d+) ?/ ?(\d+)(?![\d.])")


def tidy(text: str) -> str:
    r"""Bring a final answer into one notation.

    Args:
        text: The answer as it was written, of a length that allows for several passes.
    """
    text = unwrap(text.replace("\\$", "$"))
    text = _translate(text)
    text = re.sub(r"(?<!\\)\\\\(?=begin|end|d?frac|sqrt|text|pi|cdot|times|left|right)", r"\\", text)  # escaped twice
    text = text.replace("{,}", ",")
    text = _SPACING.sub(lambda match: _SPACES[match.lastgroup], text)
    text = _LOOKS.sub("", text)
    text = _BOLD.sub(r"\1", " ".join(text.split()).removesuffix("\\\\"))
    text = _write_matrices(text)
    text = re.sub(r"^(?:\\(?:approx|simeq)(?![a-zA-Z])|=)\s*", "", text)
    text = unwrap(re.sub(r"(?<!\.)[.,;]$", "", text))
    text = _write_numbers(text)
    text = _write_functions(text)
    text = re.sub(r"(?<!\\end\{pmatrix\})\^\{T\}", "^{(T)}", _brace(text))  # a power, which the parser takes for a transpose
    return _split_signs(" ".join(text.split()))


def unwrap(text: str) -> str:
    """Remove the Markdown, dollar signs, math delimiters and fonts around all of a text.

    Args:
        text: An answer, or a response that may be nothing else.
    """
    while True:
        text = text.strip()
        inner = text[1:-1] if len(text) > 2 and text[0] == text[-1] == "$" else text
        match = _AROUND.fullmatch(inner)
        if match:
            content = next(group for group in match.groups() if group is not None)
            inner = content if _is_balanced(content) else inner
        if inner == text:
            return text
        text = inner


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _translate(text: str) -> str:
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", lambda match: f"^{{{match[0].translate(_SUPERSCRIPTS)}}}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda match: f"_{{{match[0].translate(_SUBSCRIPTS)}}}", text)
    return text.translate(_SIGNS)


def _split_signs(text: str) -> str:
    """Write both values where a sign of both kinds stands within an expression, which the parser does not read."""
    before, sign, after = text.partition("\\pm")
    if not sign or "," in text or "\\pm" in after or not (_is_open(before) or "=" in before):
        return text
    return ", ".join(text.replace("\\pm", first).replace("\\mp", second) for first, second in ("+-", "-+"))


def _is_open(text: str) -> bool:
    return sum(text.count(bracket) for bracket in "([{") > sum(text.count(bracket) for bracket in ")]}")


def _write_matrices(text: str) -> str:
    """Write matrices as `pmatrix`, with one separator between rows; a determinant stays one."""
    if "\\begin" in text:
        text = re.sub(r"\\(?:cr|tabularnewline|newline)(?![a-zA-Z])", r"\\\\ ", text)
        text = re.sub(r"\\\\ ?\[[-\d.]+ ?[a-z]{2}\]", r"\\\\ ", text)
        text = text.replace("\\hline", "")
        text = _MATRIX_END.sub(r" \\end{pmatrix}", _MATRIX.sub(r"\\begin{pmatrix} ", text))
        text = _IN_BRACKETS.sub(r"\1", _IN_BARS.sub(r"\\begin{vmatrix}\1\\end{vmatrix}", text))
        text = _MATRIX_TRANSPOSED.sub("^{T}", text)
    if match := _ROW_TRANSPOSED.fullmatch(text):
        return r"\begin{pmatrix} " + r" \\ ".join(match[1].split(",")) + r" \end{pmatrix}"
    if match := _NESTED_LISTS.fullmatch(text):
        rows = re.findall(r"\[([^\[\]]+)\]", match[1])
        return r"\begin{pmatrix} " + r" \\ ".join(row.replace(",", " & ") for row in rows) + r" \end{pmatrix}"
    return text


def _write_numbers(text: str) -> str:
    """Write repeating decimals and mixed numbers as fractions, and numbers without what separates or orders them."""
    text = _REPEATING.sub(_as_fraction, text)
    text = re.sub(r"(?<=\d)(?:\.\.\.|\s*\\[lc]?dots)$", "", text)
    text = _ORDINAL.sub("", text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = _THOUSANDS.sub(lambda match: match[0].replace(" ", ""), text)
    text = re.sub(r"(?<!\\)\{[1-9]\d{0,2}(?:,\d{3})+\}", lambda match: match[0].replace(",", ""), text)
    text = _COMMAS.sub(lambda match: match[0].replace(",", ""), text)
    return _SCIENTIFIC.sub(r"\1\\times 10^{\2}", text)


def _as_fraction(match: re.Match[str]) -> str:
    """The fraction that a repeating decimal is: 0.1(6) is (16 - 1)/90."""
    whole, fixed, over, over_digit, bracketed, first, middle, last, _, thrice, twice = match.groups()
    dotted = first + (middle or "") + (last or "") if first else None
    block = over or over_digit or bracketed or dotted or thrice or twice
    scale = 10 ** len(fixed)
    above = int(whole + fixed + block) - int((whole + fixed) or 0)
    return rf"\frac{{{above}}}{{{scale * (10 ** len(block) - 1)}}}"


def _write_functions(text: str) -> str:
    """Write plain-text mathematics as LaTeX."""
    text = re.sub(rf"\\(?:operatorname|mathrm|text)\s*\{{\s*({_FUNCTIONS}|pi)\s*\}}(?!$)", r"\\\1 ", text)
    text = re.sub(r"(?<![a-zA-Z\\])a(?=(?:sin|cos|tan)\s*\()", "arc", text)
    text = re.sub(rf"(?<![a-zA-Z\\])({_FUNCTIONS})(?=\s*[(\d^_\\]|\s+[a-z]\b)", r"\\\1", text)
    text = re.sub(r"(?<![a-zA-Z\\])pi(?![a-zA-Z])", r"\\pi ", text)
    text = re.sub(r"(?<![a-zA-Z\\])(?:oo|infinity|inf)(?![a-zA-Z])", r"\\infty ", text)
    text = re.sub(r"(?<![a-zA-Z\\])abs\s*\(([^()]*)\)", r"|\1|", text)
    text = re.sub(r"(?<![a-zA-Z\\])(floor|ceil)\s*\(([^()]*)\)", r"\\l\1 \2 \\r\1", text)
    text = text.replace("\\varnothing", "\\emptyset")
    text = re.sub(r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup ", text)
    text = (
        text.replace("**", "^")
        .replace("*", r"\cdot ")
        .replace("<=", r"\le ")
        .replace(">=", r"\ge ")
        .replace(" != ", r"\ne ")
        .replace("!=", "! =")
    )
    text = re.sub(r"\\[dtc]frac(?![a-zA-Z])", r"\\frac", text)
    text = re.sub(r"\\[dt]binom(?![a-zA-Z])", r"\\binom", text)
    text = re.sub(r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}", r"\\frac{\1}{\2}", text)
    return re.sub(r"\{([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}", r"\\binom{\1}{\2}", text)


def _brace(text: str, depth: int = 0) -> str:
    r"""Put braces around the arguments of roots, fractions, powers and `\exp`, which becomes a power of e."""
    if depth > MAX_DEPTH:
        return text
    written, position = [], 0
    while match := re.compile(r"\\(frac|binom|sqrt|exp)(?![a-zA-Z])\s*|\^\s*").search(text, position):
        written.append(text[position : match.start()])
        name, position = match[1], match.end()
        if name == "exp" and text[position : position + 1] == "^":  # a power of the function, which is left to the parser
            written.append(match[0])
            continue
        written.append("e^" if name == "exp" else match[0].rstrip())
        if name == "sqrt" and (index := re.compile(r"\[[^\[\]]*\]\s*").match(text, position)):
            written.append(index[0].strip())
            position = index.end()
        for left in reversed(range(_ARGUMENTS.get(name, 1))):
            argument, position = _read_argument(text, position, whole_number=left == 0)
            written.append(f"{{{_brace(argument, depth + 1)}}}" if argument else "")
    return "".join(written) + text[position:]


def _read_argument(text: str, position: int, whole_number: bool) -> tuple[str, int]:
    """Read one argument, and say where it ends: a group, a number, a command with its own arguments, or a letter."""
    while text[position : position + 1] == " ":
        position += 1
    if text[position : position + 1] in ("{", "("):
        end = _find_end(text, position)
        return (text[position + 1 : end - 1], end) if end else ("", position)
    number = re.compile(r"[-+]?\d+" if whole_number else r"\d").match(text, position)
    if number:
        return number[0], number.end()
    command = re.compile(r"-?\\[a-zA-Z]+").match(text, position)
    if command:
        end = command.end()
        while text[end : end + 1] == "{" and (closed := _find_end(text, end)):
            end = closed
        if (name := command[0].lstrip("-\\")) in _ARGUMENTS and end == command.end():
            for left in reversed(range(_ARGUMENTS[name])):
                end = _read_argument(text, end, whole_number=whole_number and left == 0)[1]
        return text[position:end], end
    end = position + 2 if re.compile("-[a-zA-Z]").match(text, position) else position + 1
    return text[position:end], end


def _find_end(text: str, position: int) -> int:
    """Where the group that opens at a position ends; 0 when it never does."""
    depth = 0
    for end in range(position, len(text)):
        depth += (text[end] in "({") - (text[end] in ")}")
        if depth == 0:
            return end + 1
    return 0
