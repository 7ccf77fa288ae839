"""General text that is on any machine with Python: the documentation inside its standard library."""

import ast
import os
import re
import sysconfig
import zlib
from functools import cache
from pathlib import Path
from pydoc_data import topics


@cache
def documents(split: str) -> tuple[str, ...]:
    """Read the docstrings and help topics of the running Python's standard library.

    Args:
        split: `"train"` or `"test"`; a document's own hash decides which it belongs to.

    Returns:
        Documents of at least 60 printable ASCII characters, without duplicates, in a fixed order.
    """
    held_out = split == "test"
    return tuple(text for text in _every_document() if (zlib.crc32(text.encode()) % 20 == 0) == held_out)


@cache
def _every_document() -> list[str]:
    library = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__"}
    paths: list[Path] = []
    for folder, below, names in os.walk(library):
        below[:] = set(below) - skipped  # not even looked into: packages are many
        paths += [Path(folder, name) for name in names if name.endswith(".py")]
    texts = [text for path in sorted(paths) for text in _docstrings(path)] + list(topics.topics.values())
    cleaned = dict.fromkeys(re.sub(r"[^\x20-\x7e\n]", "", text) for text in texts)
    return [text for text in cleaned if len(text) >= 60]


def _docstrings(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return []  # the library ships a few files that are broken on purpose
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes: list[ast.AST] = [tree]
    for node in nodes:  # breadth first, as `ast.walk`, but for the expressions, which hold no docstrings
        for name in ("body", "handlers", "cases", "orelse", "finalbody"):
            below = getattr(node, name, None)
            nodes += below if isinstance(below, list) else []
    return [ast.get_docstring(node) or "" for node in nodes if isinstance(node, kinds)]
