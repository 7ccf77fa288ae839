"""Names of what is on the Hub; imports nothing heavy."""

import os
import re


_WITH_REVISION = re.compile(r"([A-Za-z0-9][\w.-]*(?:/[\w.-]+)?)@(.+)")


def split_revision(name: str) -> tuple[str, str | None]:
    """Split `ID@REVISION` into its parts.

    Args:
        name: Name of a model or data set: Hub id, or path on this machine, which may have an @ in it.

    Returns:
        The name without the revision, and the revision: a branch, tag or commit; None where none is named.
    """
    found = None if os.path.exists(name) else _WITH_REVISION.fullmatch(name)
    return (found[1], found[2]) if found else (name, None)
