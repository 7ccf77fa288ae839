"""Safetensors files, read and written one tensor at a time, so that a file may be larger than memory."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..errors import ModelError


FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
"""What safetensors calls floats; narrower ones are quantized weights."""
_PIECE = 2**24  # bytes read at a time
_LARGEST_HEADER = 100 * 2**20  # as in safetensors itself


@dataclass(frozen=True)
class StoredTensor:
    """What the header of a file says of a tensor.

    Args:
        path: The file.
        dtype: Type of the entries as safetensors calls it, such as BF16.
        shape: Its shape.
        begin: Where its bytes begin in the file.
        end: Where they end.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.end - self.begin

    def cast(self, dtype: str) -> "StoredTensor":
        """Return what it would be with floats of another type; where it is then stored is not known yet."""
        return replace(self, dtype=dtype, end=self.begin + math.prod(self.shape) * FLOATS[dtype].itemsize)

    def pieces(self) -> Iterator[bytes]:
        """Read the bytes, a piece at a time."""
        with self.path.open("rb") as file:
            file.seek(self.begin)
            left = self.size
            while left:
                piece = file.read(min(_PIECE, left))
                if not piece:
                    raise ModelError(f"{self.path} is damaged (it ends too early); download it again.")
                left -= len(piece)
                yield piece


def read_header(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Read what is in a safetensors file.

    Returns:
        What the header says of each tensor by name, and what else whoever wrote the file noted in it.

    Raises:
        ModelError: The file is damaged.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _LARGEST_HEADER:
                raise ValueError
            header = json.loads(file.read(length))
        metadata, start = header.pop("__metadata__", {}), 8 + length
        tensors = {
            name: StoredTensor(path, said["dtype"], tuple(said["shape"]), *(start + offset for offset in said["data_offsets"]))
            for name, said in header.items()
        }
        if max((tensor.end for tensor in tensors.values()), default=start) != path.stat().st_size:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{path} is damaged (what it holds is not what its header says); download it again.") from None
    return tensors, metadata


def write_tensors(
    path: Path,
    tensors: Mapping[str, StoredTensor],
    read: Callable[[str], Iterable[bytes | memoryview]],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file.

    Args:
        path: The file.
        tensors: What its tensors are by name; only type, shape and size matter.
        read: Returns the bytes of one of them, a piece at a time.
        metadata: What else to note in the header.
    """
    # the widest first, as safetensors does, so that each begins at a multiple of the size of its entries
    names = sorted(tensors, key=lambda name: (-_item_bits(tensors[name]), name))
    header: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    begin = 0
    for name in names:
        end = begin + tensors[name].size
        header[name] = {"dtype": tensors[name].dtype, "shape": tensors[name].shape, "data_offsets": (begin, end)}
        begin = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name in names:
            for piece in read(name):
                file.write(piece)


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a tensor as they are stored."""
    return memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def same_bytes(one: StoredTensor, other: StoredTensor) -> bool:
    """Compare what is stored of two tensors."""
    if one.size != other.size:
        return False
    return all(piece == its for piece, its in zip(one.pieces(), other.pieces(), strict=True))


def _item_bits(tensor: StoredTensor) -> int:
    count = math.prod(tensor.shape)
    return 8 * tensor.size // count if count else 0
