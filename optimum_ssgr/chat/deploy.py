"""The folder of a Space: what `spaces/comparison/` holds, the settings, and the package that serves it."""

import json
import shutil
from pathlib import Path

from ..cards.markdown import TEMPLATES
from ..output import new_folder
from .settings import ChatSettings


PACKAGE = Path(__file__).parents[1]
_PACKAGED = PACKAGE / "spaces" / "comparison"
SOURCE = _PACKAGED if _PACKAGED.is_dir() else PACKAGE.parent / "spaces" / "comparison"


def write_space(folder: str | Path, settings: ChatSettings) -> Path:
    """Write all files of a Space, ready to upload.

    Args:
        folder: Where to write; must be new or empty.
        settings: What the page shows; the models' names must mean the same on the Hub as here.

    Returns:
        The folder, with `app.py`, `README.md`, `requirements.txt`, `settings.json` and `optimum_ssgr/`.

    Raises:
        OutputError: The folder is in use or cannot be written.
    """
    with new_folder(folder) as partial:
        ignored = shutil.ignore_patterns("__pycache__", "spaces")
        shutil.copytree(SOURCE, partial, dirs_exist_ok=True, ignore=ignored)
        shutil.copytree(PACKAGE, partial / PACKAGE.name, ignore=ignored)
        shutil.copytree(TEMPLATES, partial / PACKAGE.name / TEMPLATES.name, dirs_exist_ok=True)
        (partial / "settings.json").write_text(json.dumps(settings.to_dict(), indent=2) + "\n")
    return Path(folder)
