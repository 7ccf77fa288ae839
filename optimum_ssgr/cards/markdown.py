"""Foreign text in Markdown: names, ids and texts from elsewhere appear as they are and mean nothing."""

import json
import math
import re
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..likelihood import format_rise


_PACKAGED = Path(__file__).parents[1] / "hub_cards"
TEMPLATES = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "hub_cards"
_BACKTICKS_DO = re.compile(r"[^`|\\]+")
_MEANS_SOMETHING = re.compile(r"""[!"#$&'*;<>?@[\\\]^`{|}~]|(?<![^\W_])_|_(?![^\W_])""")  # underscores within a word do not


def plain(value: object) -> str:
    """Write a text so that it is shown as it is, on one line.

    What could mean something becomes a numeric character reference, which never has a meaning in Markdown or HTML (CommonMark
    0.31, section 2.5), nor in a table (GitHub Flavored Markdown 0.29, section 4.10).
    """
    return _MEANS_SOMETHING.sub(lambda found: f"&#{ord(found[0])};", _one_line(value))


def code(value: object) -> str:
    """Write a text as code, on one line, in a table or outside of one."""
    text = _one_line(value)
    return f"`{text}`" if _BACKTICKS_DO.fullmatch(text) else f"<code>{plain(text)}</code>"


def percent(share: float, digits: int = 1) -> str:
    """Write a share as a percentage."""
    return f"{100 * share:.{digits}f} %"


def solved(row: Mapping[str, Any]) -> str:
    """Write accuracy with its standard error, or with its 95 % interval where the error would read as none."""
    share, error = percent(row["accuracy"]), percent(math.nan if row["accuracy_se"] is None else row["accuracy_se"])
    if error not in (percent(0), percent(math.nan)):
        return f"{share} +- {error}"
    ends = row.get("accuracy_ci95")  # what earlier versions measured has none
    return f"{share} ({' to '.join(map(percent, ends))})" if ends else share


@cache
def environment() -> Environment:
    """Return the environment that renders the templates, and keeps them compiled; a value that is missing is an error."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    # A text in Python code; JSON's strings are Python's, too.
    made.filters |= {
        "plain": plain,
        "code": code,
        "percent": percent,
        "solved": solved,
        "risen": partial(format_rise, sign="±"),
        "count": "{:,}".format,
        "literal": json.dumps,
    }
    return made


def _one_line(value: object) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(value)).split())
