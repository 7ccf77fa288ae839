"""Read the sparsity of a checkpoint from its safetensors files, one tensor at a time, without building the model."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..errors import DataError


PATTERNS = ((1, 4), (2, 4), (2, 8), (4, 8), (8, 16), (16, 32))
_IN_BLOCK = re.compile(r"\.\d+\.")


@dataclass(frozen=True)
class TensorSparsity:
    """The sparsity of one weight matrix.

    Args:
        name: Name of the tensor.
        shape: Its shape.
        zeros: Entries that are zero.
        pattern: Tightest known N:M pattern its rows keep to, or None.
    """

    name: str
    shape: tuple[int, ...]
    zeros: int
    pattern: str | None

    @property
    def weights(self) -> int:
        """Number of entries."""
        return int(torch.Size(self.shape).numel())


def find_pattern(matrix: torch.Tensor) -> str | None:
    """Return the tightest of the known N:M patterns that every row keeps to, or None.

    Args:
        matrix: [out, in].
    """
    kept = matrix != 0
    for n, m in PATTERNS:
        if matrix.shape[1] % m == 0 and bool((kept.unflatten(1, (-1, m)).sum(-1) <= n).all()):
            return f"{n}:{m}"
    return None


def checkpoint_files(folder: str | Path) -> list[Path]:
    """List the safetensors files of a checkpoint.

    Raises:
        DataError: There are none; other weight formats are not read because loading them can run code.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise DataError(f"there are no safetensors files in {folder}.")
    return files


def inspect_checkpoint(folder: str | Path) -> Iterator[TensorSparsity]:
    """Yield the sparsity of every tensor of a checkpoint; only matrices of numbered blocks are checked for patterns.

    Args:
        folder: Folder with safetensors files.

    Raises:
        DataError: The folder holds no safetensors files, or a damaged one.
    """
    for path in checkpoint_files(folder):
        try:
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  (not a dict)
                    tensor = tensors.get_tensor(name)
                    matrix = tensor.ndim == 2 and _IN_BLOCK.search(name) is not None
                    pattern = find_pattern(tensor) if matrix else None
                    yield TensorSparsity(name, tuple(tensor.shape), int((tensor == 0).sum()), pattern)
        except SafetensorError as error:
            raise DataError(f"{path} is damaged ({error}); download or save it again.") from None


def is_block_matrix(tensor: TensorSparsity) -> bool:
    """Tell whether a tensor is a weight matrix of a numbered block, which is where pruning happens."""
    return len(tensor.shape) == 2 and _IN_BLOCK.search(tensor.name) is not None
