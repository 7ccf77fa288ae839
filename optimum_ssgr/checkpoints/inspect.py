"""Read the sparsity of a checkpoint from its safetensors files, slice by slice, without building the model."""

import json
import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

from ..errors import DataError
from ..hub.client import limited_silence
from ..hub.failures import hub_error
from ..hub.names import split_revision
from ..reasoner import NAME as EMBEDDED
from ..reasoner import WEIGHTS


INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
# Tightest first: what keeps to 1:4 also keeps to 2:8, what keeps to either also keeps to 2:4, and that to 3:4 and 6:8.
PATTERNS = ((1, 4), (2, 8), (2, 4), (4, 8), (8, 16), (16, 32), (3, 4), (6, 8))
SLICE_BYTES = 64 * 2**20
_FLOAT_BYTES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}  # narrower floats are quantized weights
_GROUP_ROWS = max(m for _, m in PATTERNS)  # whole groups of every pattern fit into as many rows
_IN_BLOCK = re.compile(r"\.\d+\.")
_BLOCK = re.compile(r"(.*?)\.(\d+)\.")  # the outermost list and the number in it
_TOWER = re.compile(r"(^|[._])(vision|visual|image|audio|speech)([._]|$)")
_ROUTER = re.compile(r"\.(gate|router|shared_expert_gate)\.(.*\.)?weight$")


@dataclass(frozen=True)
class TensorSparsity:
    """The sparsity of one tensor.

    Args:
        name: Name of the tensor.
        shape: Its shape.
        zeros: Entries that are zero; None when the tensor is quantized or holds integers, where a zero says nothing.
        patterns: Known N:M patterns it keeps to along its inputs, tightest first.
    """

    name: str
    shape: tuple[int, ...]
    zeros: int | None
    patterns: tuple[str, ...] = ()

    @property
    def weights(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def pattern(self) -> str | None:
        """Tightest known pattern, or None."""
        return self.patterns[0] if self.patterns else None


def find_checkpoint(source: str) -> Path:
    """Find the folder of a checkpoint; of one on the Hub, only the weights, their index and the config are fetched.

    Args:
        source: Local folder, Hub id (`ID` or `ID@REVISION`), or `tiny-reasoner` for the embedded model.

    Raises:
        DataError: It is neither a folder nor can it be fetched, or its index leads elsewhere.
    """
    if source == EMBEDDED:
        return WEIGHTS
    if Path(source).is_dir():
        return Path(source)
    try:
        return fetch_weights(*split_revision(source), beside=["config.json"])
    except DataError:
        raise
    except Exception as error:  # the libraries below raise many kinds; all of them mean that nothing can be fetched
        first, *_ = [*str(error.__cause__ or error).strip().splitlines(), type(error).__name__]
        reason = hub_error(error, source) or first
    raise DataError(f"there is no folder {source}, and it cannot be fetched from the Hub: {reason}")


@limited_silence()
def fetch_weights(
    source: str, revision: str | None = None, token: str | bool | None = None, beside: Sequence[str] = ()
) -> Path:
    """Fetch from the Hub the weights that transformers would load: not other copies of them, such as `original/`.

    Args:
        source: Hub id.
        revision: Branch, tag or commit.
        token: Hub token.
        beside: What else to fetch.

    Returns:
        The folder in the cache.

    Raises:
        DataError: The index is damaged or leads elsewhere.
    """
    fetch = partial(snapshot_download, source, token=token)
    folder = Path(fetch(revision=revision, allow_patterns=[INDEX, SINGLE, *beside]))
    if (folder / INDEX).is_file() and not (folder / SINGLE).is_file():
        # the folder is named after the commit, which the revision may have left meanwhile
        fetch(revision=folder.name, allow_patterns=sorted(set(read_index(folder / INDEX).values())))
    return folder


def checkpoint_files(folder: str | Path) -> dict[Path, set[str]]:
    """List the safetensors files that transformers would load: the single one, or those the index names; else all there are.

    Returns:
        For every file the names of the tensors that the index places in it.

    Raises:
        DataError: There are none (other weight formats are not read because loading them can run code), the index cannot be
            read, or a file it names is missing.
    """
    folder = Path(folder)
    files: dict[Path, set[str]] = {}
    if (folder / SINGLE).is_file():
        files = {folder / SINGLE: set()}
    elif (folder / INDEX).is_file():
        for name, file in sorted(read_index(folder / INDEX).items(), key=itemgetter(1)):
            files.setdefault(folder / file, set()).add(name)
    else:
        files = {path: set() for path in sorted(folder.glob("*.safetensors"))}
    if not files:
        raise DataError(f"there are no safetensors files in {folder}.")
    for path in files:
        if not path.is_file():
            raise DataError(f"{folder / INDEX} names {path.name}, which is missing; download or save the checkpoint again.")
    return files


def read_index(index: Path) -> dict[str, str]:
    """Return the file of every tensor, by the index of a sharded checkpoint.

    Raises:
        DataError: The index cannot be read, or names something other than safetensors files in its folder: whoever wrote it
            must not choose what else is read from this machine, nor have a pickle loaded.
    """
    try:
        placed = {str(name): str(file) for name, file in json.loads(index.read_text())["weight_map"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{index} is damaged; download or save it again.") from None
    for file in placed.values():
        if not file.endswith(".safetensors") or "\\" in file or PurePosixPath(file).is_absolute() or ".." in file.split("/"):
            raise DataError(
                f"{index} names {file!r}, which is not a safetensors file in its folder; do not use this checkpoint."
            )
    return placed


def inspect_checkpoint(folder: str | Path, slice_bytes: int = SLICE_BYTES) -> Iterator[TensorSparsity]:
    """Yield the sparsity of every tensor of a checkpoint; only what may be a matrix of a block is checked for patterns.

    Args:
        folder: Folder with safetensors files.
        slice_bytes: Most bytes of a tensor to read at a time; at least 32 rows of a matrix are read.

    Raises:
        DataError: The folder holds no safetensors files, or a damaged one, or they are not what the index says.
    """
    for path, expected in checkpoint_files(folder).items():
        try:
            with safe_open(path, framework="pt") as tensors:
                names = list(tensors.keys())
                for name in sorted(expected.difference(names)):
                    raise DataError(
                        f"{Path(folder) / INDEX} places {name} in {path.name}, which lacks it; download or save it again."
                    )
                for name in names:
                    yield _inspect(name, tensors.get_slice(name), slice_bytes)
        except SafetensorError as error:
            raise DataError(f"{path} is damaged ({error}); download or save it again.") from None


def count_layers(folder: str | Path) -> int | None:
    """Return how many blocks the language model of a checkpoint has, by its `config.json`; None where that does not tell.

    Raises:
        DataError: The config cannot be read.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        text = next((config[key] for key in ("text_config", "thinker_config", "llm_config") if key in config), config)
        return next((int(text[key]) for key in ("num_hidden_layers", "n_layer", "num_layers") if key in text), None)
    except (OSError, ValueError, TypeError):
        raise DataError(f"{path} is damaged; download or save it again.") from None


def in_language_model(tensors: Collection[TensorSparsity], layers: int | None) -> list[TensorSparsity]:
    """Return the tensors of numbered blocks, without those of vision and audio towers.

    As `pruning.blocks.find_blocks` does, the blocks are told by their number; by their names where no list of blocks has as
    many or no number is known.

    Args:
        tensors: Tensors of a checkpoint.
        layers: How many blocks the language model has; None when that is not known.
    """
    lists: dict[str, set[int]] = {}
    for tensor in tensors:
        if found := _BLOCK.match(tensor.name):
            lists.setdefault(found[1], set()).add(int(found[2]))
    lists = {name: numbers for name, numbers in lists.items() if not _TOWER.search(name)} or lists
    kept = {name: numbers for name, numbers in lists.items() if len(numbers) == layers}
    if not kept and layers is not None:  # some store what predicts further tokens as blocks after the last
        shortened = {name: {number for number in numbers if number < layers} for name, numbers in lists.items()}
        kept = {name: numbers for name, numbers in shortened.items() if len(numbers) == layers}
    kept = kept or lists
    return [tensor for tensor in tensors if (found := _BLOCK.match(tensor.name)) and int(found[2]) in kept.get(found[1], ())]


def block_matrices(tensors: Collection[TensorSparsity], layers: int | None = None) -> list[TensorSparsity]:
    """Return the weight matrices of the language model's blocks, which is where pruning happens; fused experts count as one.

    Embeddings, the output head, routers between experts, biases, convolutions over single channels and quantized tensors
    are left out, and so are vision towers.
    """
    mixes = any(".experts." in tensor.name for tensor in tensors)
    found = [tensor for tensor in tensors if tensor.zeros is not None and _may_be_matrix(tensor.name, tensor.shape)]
    return in_language_model([tensor for tensor in found if not (mixes and _ROUTER.search(tensor.name))], layers)


def quantized_matrices(tensors: Collection[TensorSparsity], layers: int | None = None) -> list[TensorSparsity]:
    """Return the quantized or packed tensors of the language model's blocks, whose sparsity cannot be told."""
    packed = [tensor for tensor in tensors if tensor.zeros is None and len(tensor.shape) > 1]
    return in_language_model(packed, layers)


def common_pattern(matrices: Collection[TensorSparsity]) -> str | None:
    """Return the tightest known pattern that every one of the matrices keeps to, or None."""
    shared = set.intersection(*(set(matrix.patterns) for matrix in matrices)) if matrices else set()
    return next((f"{n}:{m}" for n, m in PATTERNS if f"{n}:{m}" in shared), None)


def _may_be_matrix(name: str, shape: Sequence[int]) -> bool:
    """Tell whether a tensor can be the weight of a linear layer or the fused weights of experts, by name and shape."""
    if not _IN_BLOCK.search(name) or 0 in shape:
        return False
    return (len(shape) == 2 and name.endswith(".weight")) or (len(shape) == 3 and shape[1] > 1 and shape[2] > 1)


def _inspect(name: str, stored: Any, slice_bytes: int) -> TensorSparsity:
    """Count and check one tensor.

    The pattern may run along the last dimension, as in linear layers [out, in] and experts [experts, out, in], or along the
    one before it, as in layers that are stored transposed: GPT-2's Conv1D and the experts of GPT-OSS.
    """
    shape = tuple(stored.get_shape())
    if stored.get_dtype() not in _FLOAT_BYTES:
        return TensorSparsity(name, shape, None)
    matrix = _may_be_matrix(name, shape)
    held = {along: [(n, m) for n, m in PATTERNS if matrix and shape[along] % m == 0] for along in (-1, -2)}
    zeros = 0
    for piece in _pieces(stored, shape, _FLOAT_BYTES[stored.get_dtype()], slice_bytes):
        kept = piece != 0
        count = int(kept.count_nonzero())
        zeros += kept.numel() - count
        for along, patterns in held.items():
            possible = [(n, m) for n, m in patterns if count * m <= n * kept.numel()]
            most = _most_kept(kept, along) if possible else {}
            held[along] = [(n, m) for n, m in possible if most[m] <= n]
    return TensorSparsity(name, shape, zeros, tuple(f"{n}:{m}" for n, m in PATTERNS if any((n, m) in held[a] for a in held)))


def _most_kept(kept: torch.Tensor, along: int) -> dict[int, int]:
    """Return the most entries kept in a group of 2, 4, 8 and so on consecutive ones along a dimension, by size of the group."""
    counts = kept.view(torch.uint8).movedim(along, -1)
    most: dict[int, int] = {}
    size = 1
    while size < _GROUP_ROWS and counts.shape[-1] % 2 == 0:
        counts, size = counts[..., ::2] + counts[..., 1::2], 2 * size
        most[size] = int(counts.max())
    return most


def _pieces(stored: Any, shape: tuple[int, ...], item_bytes: int, slice_bytes: int) -> Iterator[torch.Tensor]:
    """Read a tensor in pieces of bounded size that cut no group of rows apart."""
    if not shape:
        yield stored[...]
    elif len(shape) == 3 and shape[1] > 1 and shape[2] > 1:
        for rows in _row_ranges(shape[1], shape[2] * item_bytes, slice_bytes):
            for matrix in range(shape[0]):
                yield stored[matrix, rows]
    else:
        for rows in _row_ranges(shape[0], math.prod(shape[1:]) * item_bytes, slice_bytes):
            yield stored[rows]


def _row_ranges(rows: int, row_bytes: int, slice_bytes: int) -> Iterator[slice]:
    groups = max(1, slice_bytes // max(1, row_bytes * _GROUP_ROWS))
    for start in range(0, rows, groups * _GROUP_ROWS):
        yield slice(start, min(rows, start + groups * _GROUP_ROWS))
