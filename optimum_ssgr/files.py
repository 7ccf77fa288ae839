"""Files and folders that appear whole or not at all, and folders with one owner."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from .errors import OutputError


ONLY_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Errors of the system that nobody meets who only reads."""


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

    What goes wrong inside, but not while something is written there, is raised as it is.

    Raises:
        OutputError: The folder is in use, another process is writing it, or it cannot be written.
    """
    folder = check_unused(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    lock = FileLock(folder.with_name(f".{folder.name}.lock"), blocking=False)
    from_elsewhere: Exception | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with lock:
            try:
                check_unused(folder)  # another process may have finished meanwhile
                shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
                partial.mkdir()
                try:
                    yield partial
                except (OSError, SafetensorError) as error:
                    from_elsewhere = None if _is_about_writing(error, partial) else error
                    raise
                if folder.exists():
                    folder.rmdir()
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
                Path(lock.lock_file).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        if error is from_elsewhere:
            raise
        if isinstance(error, Timeout):
            raise OutputError(f"another process is writing {folder}; wait for it or choose another folder.") from None
        raise OutputError(f"cannot write {folder}: {getattr(error, 'strerror', None) or error}.") from error


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name and rename it, so that it is there whole or not at all.

    Raises:
        OutputError: The disk is full or the file cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    from_elsewhere: Exception | None = None
    try:
        try:
            write(partial)
        except (OSError, SafetensorError) as error:
            from_elsewhere = None if _is_about_writing(error, partial) else error
            raise
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        if error is from_elsewhere:
            raise
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write {path}: {reason}; make room and run the same command again to go on.") from error
    finally:
        partial.unlink(missing_ok=True)


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


def _is_about_writing(error: Exception, place: Path) -> bool:
    """Tell whether an error comes from writing at a place: it names what is there, or says what only writing can meet."""
    if isinstance(error, SafetensorError):
        return str(error).startswith("Error while serializing")
    if isinstance(error, shutil.Error):  # of a whole tree: holds texts
        return any(f"[Errno {number}]" in str(error) for number in ONLY_WRITING)
    named = [name for name in (error.filename, error.filename2) if isinstance(name, str | os.PathLike)]
    return error.errno in ONLY_WRITING or any(Path(name).absolute().is_relative_to(place.absolute()) for name in named)
