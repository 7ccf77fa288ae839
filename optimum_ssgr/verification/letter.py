r"""Which letter answers a multiple-choice question, where no box says so.

What counts, the first that there is:

1. the last statement that names the answer: `Answer: B`, `The correct option is (B)`, `The answer is B because ...`;
2. the last statement about a letter: `Option B is correct.`, `I choose B.`, `Therefore, B.`;
3. a last line that is a letter and nothing else: `**B**`, `(B)`;
4. the one letter that is set in bold or begins a line, as in `B) 5 cm`; several of them are the list of the options.

`A` and `I` before another word are an article and a pronoun, and two letters in a row (`A and B`) are no answer.
"""

import re


_FONT = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|boldsymbol|bm|mbox|operatorname)\s{0,3}\{([^{}]{0,200})\}"
)
_MARKS = re.compile(r"\*|__|(?<!\w)'|'(?!\w)|\\[()!]|[$`\"\u2018\u2019\u201c\u201d]")
_LABEL = r"(?:(?:the\s)?(?:(?:final|correct|best|right)\s)?(?:answer(?:\s?:|\sis:?)|option:?|choice:?|letter:?|answer)\s{0,9})"
_WHOLE = re.compile(
    rf"{_LABEL}{{0,2}}[(\[*]?([A-J])(?:[)\].:*](?!\d)(.*)|\s+[-\u2013\u2014]\s+\S.*|,?\s+because\s.*)?",
    re.DOTALL | re.IGNORECASE,
)
_OTHER = re.compile(r"\W*(?:and|or)?\W*[A-J]\W*", re.IGNORECASE)

_AT_END = r"(?=\s{0,3}(?:[.;!)\]}](?!\d)|$))"
_ONE = r"""  # and no second one after it
    (?! [)\]]?\s{0,3} (?: (?:and|or|&|/|\+)\s{0,3}[(\[]?[A-J]\b | ,\s{0,3}\(?[A-J]\)?\s{0,3}(?:,|and\b|or\b|\.|$) ) )
"""
_LETTER = rf"""
    (?i:(?:option|choice|letter)\s{{1,3}})?
    (?: [(\[]([A-Ja-j])[)\]]
      | ([A-J])(?= \s{{0,3}}(?:[.,:;!)\]}}](?!\d)|$) | \s{{1,3}}[-\u2013\u2014]\s )
      | ([a-j]){_AT_END}
      | ([AI])(?=\s{{1,3}}(?:because|since|as|for|due)\b)
      | ([B-HJ])(?=\s{{1,3}}[^\W_])
    ){_ONE}
"""
_NAMED = re.compile(
    rf"""
    (?i: \b(?: answers? | ans\.? | (?:option|choice)(?=\s?:)
             | (?:correct|right|best|chosen|final)\s(?:option|choice|letter|statement|one) ) )
    (?: [^.:;!?\n]{{0,60}}?
        (?i: \s(?:is|would\sbe|should\sbe|must\sbe|has\sto\sbe)\b
             (?:,?\s(?:therefore|thus|then|hence|clearly|indeed|likely|most\slikely|simply))?,?
             \s{{0,9}}:?\s{{0,9}} (?:not\s[(\[]?[A-J][)\]]?,?\sbut\s(?:rather\s)?)? )
      | (?i:\s(?:choice|option|letter))?\s{{0,9}}[:=>\u2013\u2014\u2192-]{{1,2}}\s{{0,9}}
      | [ \t]{{0,9}}\n\s{{0,9}}
    )
    {_LETTER}
    """,
    re.MULTILINE | re.VERBOSE,
)
_ABOUT = re.compile(
    rf"""
    (?:\b(?i:option|choice|answer)\s{{1,3}})?[(\[]?\b([A-J])[)\]]?
        \s(?i:is\s(?:the\s)?(?:correct|right|best|answer)(?:\s(?:answer|option|choice))?)
        (?=\s{{0,3}}(?:[.,;!]|$|because\b|since\b))
    | (?i:\b(?:choose|pick|select|go\swith|therefore|thus|hence|so|it\sis|it's|answer),?)\s{{1,3}}(?i:option\s|choice\s)?
        [(\[]?([A-J])\b[)\]]?{_AT_END}
    | (?<!\bnot\s)(?<!\bthan\s)\b(?i:option|choice)\s{{1,3}}[(\[]?([A-Ja-j])\b[)\]]?
        (?:{_AT_END}|(?=\s(?i:is\s(?:correct|right)\b)))
    """,
    re.MULTILINE | re.VERBOSE,
)
_ALONE = re.compile(r"[\s*_$`(\[]*([A-J])[\s*_$`)\].]*", re.IGNORECASE)
_BOLD = re.compile(r"\*\*\s{0,3}(?i:option\s|choice\s)?[(\[]?([A-J])(?:[)\].:](?!\d)[^*\n]{0,200}|)\*\*")
_LINE = re.compile(r"^[ \t>*-]{0,9}(?i:option\s|choice\s)?[(\[]?([A-J])[)\].:]+(?![\w.])", re.MULTILINE)


def read_letter(text: str) -> str | None:
    r"""Read a text that is nothing but a letter, with the text of its option or not: `B`, `\text{(B)}`, `Option B`, `B: 5 cm`.

    Args:
        text: What a box holds, or an expected answer.

    Returns:
        The letter in upper case; None when the text is anything else.
    """
    whole = _WHOLE.fullmatch(_MARKS.sub("", _FONT.sub(r"\1", text)).strip())
    if whole is None or (whole[2] and _OTHER.fullmatch(whole[2])):
        return None
    return whole[1].upper()


def find_letter(text: str) -> str | None:
    """Find the letter that a response states, in time linear in its length.

    Args:
        text: The response after its thinking.

    Returns:
        The letter in upper case, by the order that this module writes down; None when no letter is stated.
    """
    plain = _MARKS.sub("", _FONT.sub(r"\1", text))
    for statement in (_NAMED, _ABOUT):
        stated = [letter for match in statement.finditer(plain) for letter in match.groups() if letter]
        if stated:
            return stated[-1].upper()
    alone = _ALONE.fullmatch(text.rstrip()[-100:].rsplit("\n", 1)[-1])
    if alone:
        return alone[1].upper()
    shown = set(_BOLD.findall(text)) | set(_LINE.findall(plain))
    return shown.pop() if len(shown) == 1 else None
