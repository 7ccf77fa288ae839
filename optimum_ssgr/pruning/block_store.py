"""Finished blocks on disk, so that a run that was cut off goes on where it stopped."""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import OutputError
from ..files import locked_folder, write_whole
from ..resume import FINGERPRINT
from .distributed import rank
from .memory import discard_changes
from .report import LayerReport


HASHED_BYTES = 2**24  # read at a time


class BlockStore:
    """A folder with one safetensors file per finished block.

    Args:
        folder: The folder; use `open_block_store` to make and lock it.
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
        record = {"dense": dense_hash, "layers": [asdict(report) for report in reports]}

        def write(partial: Path) -> None:
            save_file(tensors, partial, {"format": "pt"})
            record["sha256"] = _hash_file(partial)
            # Apart from the tensors, because the order of entries in a safetensors header is not always the same; and before
            # they have their name, because a block counts as finished once its tensors are there.
            write_whole(self.path(index).with_suffix(".json"), lambda file: file.write_text(json.dumps(record) + "\n"))

        write_whole(self.path(index), write)

    def read(self, index: int) -> "tuple[str, list[LayerReport], dict[str, torch.Tensor]] | None":
        """Return a finished block's dense hash, its reports and its tensors by name; None when it is not finished.

        Raises:
            OutputError: The file is damaged.
        """
        path = self.path(index)
        if not path.exists():
            return None
        damaged = OutputError(f"{path} is damaged; remove it and run the same command again to prune its block anew.")
        try:
            record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            dense, whole = record["dense"], record["sha256"]
            reports = [LayerReport.from_dict(layer) for layer in record["layers"]]
            if _hash_file(path) != whole:
                raise damaged
            return dense, reports, load_file(path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            raise damaged from None

    def map(self, index: int, name: str, block: nn.Module) -> None:
        """Have a finished block that is in memory use its file, so that it takes none until it is looked at.

        Only on Linux, where the file can be removed all the same. Who has kept a tensor of the block from before finds the
        dense weights in it, where these lie in a file.
        """
        on_cpu = all(tensor.device.type == "cpu" for tensor in block.state_dict().values())
        if on_cpu and sys.platform == "linux" and self.path(index).exists():  # another machine of a job may not have it
            tensors, replaced = load_file(self.path(index)), list(block.state_dict().values())
            block.load_state_dict({key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items()}, assign=True)
            discard_changes(replaced)

    def blocks(self) -> list[Path]:
        """Return the files of the finished blocks, in order."""
        return sorted(self.folder.glob("block-*.safetensors"))

    def make_activation_folder(self) -> Path:
        """Make an empty folder for activations that do not fit in memory."""
        folder = self.folder / f"activations-{rank()}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def remove(self) -> None:
        """Delete the journal, once its blocks are safe elsewhere."""
        shutil.rmtree(self.folder)


@contextmanager
def open_block_store(folder: str | Path) -> Iterator[BlockStore]:
    """Make or open a journal and keep other processes out; one without a finished block is open to any run.

    Raises:
        OutputError: The folder cannot be written, or another process is using it.
    """
    with locked_folder(folder) as locked:
        journal = BlockStore(locked)
        if not journal.blocks():
            (locked / FINGERPRINT).unlink(missing_ok=True)
        yield journal


def load_block(name: str, block: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give a block the tensors that `BlockStore.read` returned, which have its name before theirs."""
    block.load_state_dict({key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items()})


def hash_block(block: nn.Module) -> str:
    """Hash the bytes of a block's tensors."""
    return hash_tensors(sorted(block.state_dict().items()))


def hash_tensors(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Hash the names and bytes of some tensors, one at a time."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(HASHED_BYTES):
            digest.update(piece)
    return digest.hexdigest()
