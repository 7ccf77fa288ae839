"""Work on disk that survives an interruption: a folder with one owner, a fingerprint of the run, files that are there whole."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from .errors import OutputError


FINGERPRINT = "fingerprint.json"


def journal_of(output: Path) -> Path:
    """Return the folder beside an output that keeps what is finished until all is done."""
    return output.with_name(f"{output.name}.journal")


@contextmanager
def locked_folder(folder: str | Path) -> Iterator[Path]:
    """Make a folder and keep other processes out of it.

    Raises:
        OutputError: The folder cannot be written, or another process is using it.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock", blocking=False)
        lock.acquire()
    except Timeout:
        raise OutputError(f"another process is writing into {folder}; wait for it or choose another folder.") from None
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}.") from None
    try:
        yield folder
    finally:
        lock.release()


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


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name and rename it, so that it is there whole or not at all.

    Raises:
        OutputError: The disk is full or the file cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write {path}: {reason}; make room and run the same command again to go on.") from error
    finally:
        partial.unlink(missing_ok=True)
