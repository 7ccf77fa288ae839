"""Finished blocks on disk, so that a run that was cut off goes on where it stopped."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import OutputError
from ..journal import FINGERPRINT, locked_folder, write_whole
from .distributed import rank
from .solve import LayerReport


class Journal:
    """A folder with one safetensors file per finished block.

    Args:
        folder: The folder; use `open_journal` to make and lock it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, index: int) -> Path:
        """Return the file of a block."""
        return self.folder / f"block-{index:05d}.safetensors"

    def write(self, index: int, name: str, block: nn.Module, dense_hash: str, reports: list[LayerReport]) -> None:
        """Keep a finished block: all of its tensors, and how it came about.

        Raises:
            OutputError: The disk is full.
        """
        tensors = {f"{name}.{key}": tensor.cpu().contiguous() for key, tensor in block.state_dict().items()}
        about = {"dense": dense_hash, "layers": [asdict(report) for report in reports]}
        # Beside the tensors, because the order of entries in a safetensors header is not always the same; and before them,
        # because a block counts as finished once its tensors are there.
        write_whole(self.path(index).with_suffix(".json"), lambda partial: partial.write_text(json.dumps(about) + "\n"))
        write_whole(self.path(index), lambda partial: save_file(tensors, partial, {"format": "pt"}))

    def read(self, index: int) -> "tuple[str, list[LayerReport], dict[str, torch.Tensor]] | None":
        """Return a finished block's dense hash, its reports and its tensors by name; None when it is not finished.

        Raises:
            OutputError: The file is damaged.
        """
        path = self.path(index)
        if not path.exists():
            return None
        try:
            about = json.loads(path.with_suffix(".json").read_text())
            tensors = load_file(path)
        except (SafetensorError, json.JSONDecodeError, FileNotFoundError):
            raise OutputError(f"{path} is damaged; remove it and run the same command again to prune its block anew.") from None
        reports = [LayerReport(**{**layer, "shape": tuple(layer["shape"])}) for layer in about["layers"]]
        return about["dense"], reports, tensors

    def blocks(self) -> list[Path]:
        """Return the files of the finished blocks, in order."""
        return sorted(self.folder.glob("block-*.safetensors"))

    def activations(self) -> Path:
        """Make an empty folder for activations that do not fit in memory."""
        folder = self.folder / f"activations-{rank()}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def remove(self) -> None:
        """Delete the journal, once its blocks are safe elsewhere."""
        shutil.rmtree(self.folder)


@contextmanager
def open_journal(folder: str | Path) -> Iterator[Journal]:
    """Make or open a journal and keep other processes out; one without a finished block is open to any run.

    Raises:
        OutputError: The folder cannot be written, or another process is using it.
    """
    with locked_folder(folder) as locked:
        journal = Journal(locked)
        if not journal.blocks():
            (locked / FINGERPRINT).unlink(missing_ok=True)
        yield journal


def hash_block(block: nn.Module) -> str:
    """Hash the bytes of a block's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(block.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
