"""Names of models and data sets: which of them are on the Hub, and what a card may call the others."""

import re
from collections.abc import Mapping
from pathlib import Path


_ID = r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)?"
_COMMIT = r"[0-9a-f]{40}"


def hub_id(name: str, commit: str | None) -> str | None:
    """Return a name if it is that of a repository on the Hub, which it is when it was loaded from a commit."""
    return name if commit and re.fullmatch(_COMMIT, commit) and re.fullmatch(_ID, name) else None


def pinned(source: str | Mapping[str, str] | None) -> tuple[str, str] | None:
    """Return id and commit of a repository on the Hub.

    Args:
        source: `ID@COMMIT`, with a configuration as `ID:CONFIGURATION@COMMIT`, or a mapping with `id` and `commit`.

    Returns:
        None for what is not on the Hub or names no commit.
    """
    if isinstance(source, Mapping):
        source = f"{source.get('id')}@{source.get('commit')}"
    found = re.fullmatch(rf"({_ID})(?::[A-Za-z0-9._-]+)?@({_COMMIT})", source or "")
    return (found[1], found[2]) if found else None


def public_name(name: str) -> str:
    """Return what others may know of a name: all of a Hub id, and of a path only its end."""
    return name if re.fullmatch(rf"{_ID}(?::[A-Za-z0-9._-]+)?", name) else Path(name).name or name
