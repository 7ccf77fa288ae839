"""A folder that work goes on in after an interruption: where it is, and which run it belongs to."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import OutputError
from .files import write_whole


FINGERPRINT = "fingerprint.json"


def journal_folder(output: Path) -> Path:
    """Return the folder beside an output that keeps what is finished until all is done."""
    return output.with_name(f"{output.name}.journal")


def check_fingerprint(folder: Path, fingerprint: Mapping[str, Any]) -> None:
    """Note what decides a run's results, or compare it with what decided those that are in the folder.

    Raises:
        OutputError: The folder belongs to another run.
    """
    path = folder / FINGERPRINT
    present = json.loads(json.dumps(fingerprint))
    if not path.exists():
        write_whole(path, lambda partial: partial.write_text(json.dumps(present, indent=2) + "\n"))
        return
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        earlier = None
    if not isinstance(earlier, dict) or not earlier:
        raise OutputError(f"{path} is damaged; remove {folder} to start anew.")
    for key in sorted({*earlier, *present}):
        if earlier.get(key) != present.get(key):
            raise OutputError(
                f"{folder} holds the beginning of another run: {key} was {earlier.get(key)} and is now "
                f"{present.get(key)}; repeat that run to finish it, or remove the folder to start anew."
            )
