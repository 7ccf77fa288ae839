"""Folders that appear whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from .errors import OutputError


def check_unused(folder: str | Path) -> Path:
    """Refuse a folder that already holds something or cannot be made, so that nothing is overwritten and no work is lost.

    Raises:
        OutputError: The folder is in use, a file has its name, or its place is not writable.
    """
    folder = Path(folder)
    if folder.name in ("", ".."):
        raise OutputError(f"choose a new folder to write to; '{folder}' cannot appear as a whole.")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; choose a folder to write to.")
    if folder.is_dir() and any(folder.iterdir()):
        raise OutputError(f"the output folder {folder} is not empty; choose another or remove it.")
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise OutputError(f"cannot write {folder}: {existing} is not a folder that you may write to.")
    return folder


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside the wanted one, renamed to it at the end; an error leaves nothing behind.

    Raises:
        OutputError: The folder is in use or cannot be written.
    """
    folder = check_unused(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"cannot write {folder}: {getattr(error, 'strerror', None) or error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
