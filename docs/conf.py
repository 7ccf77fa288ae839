"""How Sphinx builds the site: `make docs`. Nothing is fetched from elsewhere, when it is built or when it is read.

The sources are the repository's Markdown files where they are, so that the same links work on GitHub and in the site. The API
reference is made from the docstrings.
"""

import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx

from optimum_ssgr import __version__


project = "optimum-ssgr"
version = release = __version__
html_title = "optimum-ssgr"
root_doc = "README"
# Every path is relative to the repository, where `sphinx-build -c docs .` reads.
include_patterns = ["*.md", "docs/**.md", "benchmarks/*.md", "optimum_ssgr/**/README.md", "spaces/**.md", "tests/**/README.md"]
# Whole folders that Sphinx need not walk, those of tools and of packages among them, which hold tens of thousands of files.
exclude_patterns = [".*", "demo", "dist", "site", "**/__pycache__"]
suppress_warnings = ["toc.not_included"]  # a folder's README is reached from where it is spoken of

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_heading_anchors = 4  # named as on GitHub
highlight_language = "text"
default_role = "code"  # the docstrings write code as Markdown does
napoleon_numpy_docstring = False
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_copy_source = False
html_css_files = ["site.css"]
html_static_path = ["static"]

CONTENTS = """
```{toctree}
:hidden:
:caption: Start

docs/getting-started
docs/what-to-expect
docs/glossary
```

```{toctree}
:hidden:
:caption: Guide

docs/calibration
docs/servers
docs/pruning
docs/recovery
docs/large-models
docs/evaluation
docs/running-a-study
docs/hub
docs/chat
docs/guarantees
```

```{toctree}
:hidden:
:caption: Measured

docs/models
docs/study
benchmarks/RESULTS
```

```{toctree}
:hidden:
:caption: API

docs/api/pruner
docs/api/recovery
docs/api/configs
docs/api/problems
docs/api/engines
docs/api/calibration
docs/api/strategies
docs/api/solvers
docs/api/evaluation
docs/api/study
docs/api/formats
```

```{toctree}
:hidden:
:caption: Project

CHANGELOG
CONTRIBUTING
```
"""
"""The side bar, in the order in which the data flows."""


def setup(app: Sphinx) -> None:
    """Connect what Sphinx does not do by itself."""
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", escape_markup, priority=100)  # before napoleon
    app.connect("autodoc-process-signature", name_factories)
    app.connect("build-finished", add_index)


def add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the side bar's contents into the front page, whose file GitHub shows without them."""
    if docname == root_doc:
        source[0] += CONTENTS


def escape_markup(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Take the formulae of docstrings for text: outside of code, bars, stars and underscores are no markup in them."""
    for number, line in enumerate(lines):
        parts = re.split("(`[^`]*`)", line)
        lines[number] = "".join(part if part.startswith("`") else re.sub(r"([|*]|_\b)", r"\\\1", part) for part in parts)
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]  # an empty comment: napoleon takes what stands before a colon in the first line for a type


def name_factories(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Write the defaults that dataclasses make afresh as Python, so that the signature is laid out as all others are."""
    return signature and signature.replace("<factory>", "..."), returns


def add_index(app: Sphinx, exception: Exception | None) -> None:
    """Let the front page be found under the name that servers look for."""
    if exception is None:
        shutil.copyfile(Path(app.outdir) / f"{root_doc}.html", Path(app.outdir) / "index.html")
