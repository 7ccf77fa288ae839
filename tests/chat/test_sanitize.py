import html
import re

import pytest

from optimum_ssgr.chat.sanitize import DISPLAY, INLINE, sanitize

from .stub_chat import HOSTILE


TAGS = re.compile(r"</?(?:code|pre)>")


def seen(markdown):
    """The characters that are left when tags of code and entities are read."""
    return html.unescape(TAGS.sub("", markdown))


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE,
        "<img src=x onerror=alert(1)>",
        "![a](http://192.0.2.1/x.png)",
        "[a](javascript:alert(1)) [b][c]\n\n[c]: javascript:alert(1)",
        "`a` ``<b>`` ```<c>``` \\`<d>\\`",
        "```\n<e>\n~~~\n<f>\n```\n<g>",
        "~~~\n<h>\n```\n<i>",
        "|a|b|\n|-|-|\n|`x|<j>`|\n|$y|[k](javascript:1)$|",
        "$<l>$ $$<m>$$ \\(<n>\\) \\[<o>\\] \\boxed{<p>}",
        "&lt;q&gt; &#60;r&#62; <!-- s --> <![CDATA[ t ]]>",
    ],
)
def test_nothing_active_is_left(text):
    markdown = sanitize(text)
    assert not set("<>[]`~\\$@") & set(TAGS.sub("", markdown))
    assert "://" not in markdown and "www." not in markdown


def test_every_prefix_of_a_stream_is_harmless():
    for end in range(len(HOSTILE)):
        markdown = sanitize(HOSTILE[:end], finished=False)
        assert not set("<>[]`~\\$@") & set(TAGS.sub("", markdown))


def test_text_code_and_mathematics_are_kept():
    assert seen(sanitize("a < b && c[0] *is* it")) == "a < b && c[0] *is* it"
    assert sanitize("x `a|<b>` y").count("<code>") == 1
    assert seen(sanitize("x `a|<b>` y")) == "x a|<b> y"
    assert seen(sanitize("```python\nif a < b:\n    go()\n```")).strip() == "if a < b:\n    go()"
    assert seen(sanitize(r"so \(a_1 < b\) is")) == f"so {INLINE[0]}a_1 < b{INLINE[1]} is"
    assert seen(sanitize(r"\[x^2\]")) == f"{DISPLAY[0]}x^2{DISPLAY[1]}"
    assert seen(sanitize(r"It is \boxed{\frac{1}{2}}.")) == f"It is {INLINE[0]}\\boxed{{\\frac{{1}}{{2}}}}{INLINE[1]}."


def test_dollars_are_no_mathematics():
    assert seen(sanitize("from $5 to $6")) == "from $5 to $6"


def test_an_open_formula_is_held_back_until_it_closes():
    assert sanitize(r"so \(x", finished=False) == "so …"
    assert sanitize(r"so \boxed{4", finished=False) == "so …"
    assert seen(sanitize(r"so \boxed{4")) == r"so \boxed{4"


def test_formulas_that_load_or_define_or_nest_without_end_are_shown_as_code():
    for formula in (r"\href{javascript:x}{y}", r"\includegraphics{a.png}", r"\def\a{\a\a}\a", "{" * 40 + "x" + "}" * 40):
        assert sanitize(f"${formula}$").startswith("<code>")
    assert INLINE[0] not in sanitize("\\(" + "x" * 3000 + "\\)")


def test_private_and_reversing_characters_vanish():
    assert sanitize("a\ue000b\u202ec\x00d") == "abcd"
