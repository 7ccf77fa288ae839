"""A checkpoint made out of the original's files: pruned matrices take the place of theirs, everything else is carried over."""

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import Any

import httpx2
import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import safe_open
from transformers.utils import logging

from ..errors import DataError, OutputError
from ..formats import CALIBRATION_FOLDER, CARD_FILE, PROVENANCE_FILE
from ..pruning.memory import release_pages
from .inspect import INDEX, SINGLE, checkpoint_files, fetch_weights
from .tensor_files import FLOATS, StoredTensor, bytes_of, read_header, same_bytes, write_tensors


logger = logging.get_logger(__name__)

CONFIG = "config.json"
# Weights, in this or another format, or what may be a pickle: a copy of the dense model has no place beside the sparse one.
_WEIGHTS = (
    *(".safetensors", ".index.json", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".gguf"),
    *(".ggml", ".onnx", ".onnx_data", ".h5", ".msgpack", ".tflite", ".ot", ".mlmodel", ".engine", ".pdparams", ".llamafile"),
)
_PICKLED = (b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))  # torch.save writes zip archives
_OWN = (CARD_FILE, PROVENANCE_FILE, "adapter_config.json")  # the last would have transformers look for an adapter's weights
_NAMES = {dtype: name for name, dtype in FLOATS.items()}


def fetch_source(source: str, revision: str | None, token: str | bool | None, trust_remote_code: bool) -> Path:
    """Fetch from the Hub all of a model that is carried over; what is in the cache already is not fetched again.

    Args:
        source: Hub id.
        revision: Branch, tag or commit.
        token: Hub token.
        trust_remote_code: Whether to fetch code, too.

    Returns:
        The folder in the cache.

    Raises:
        DataError: The index is damaged or leads elsewhere.
    """
    folder = fetch_weights(source, revision, token)
    at_commit: dict[str, Any] = {"revision": folder.name, "token": token}
    try:
        names = carried_names(HfApi().list_repo_files(source, **at_commit), trust_remote_code)
        snapshot_download(source, **at_commit, allow_patterns=list(map(escape, names)))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx2.ConnectError, httpx2.TimeoutException):
        logger.warning(f"The Hub cannot be reached; of {source} only those files are carried over that are in the cache.")
    return folder


def carried_names(names: Collection[str], trust_remote_code: bool) -> list[str]:
    """Return which of a model's files belong to what is made of it: all but weights, hidden files and what may be a pickle.

    A folder with weights in it is this model in another format, or another model, and is left out with all that it holds.

    Args:
        names: Paths of the model's files within its folder.
        trust_remote_code: Whether code may come along.
    """
    weights = {name for name in names if name.lower().endswith(_WEIGHTS)}
    folders = {CALIBRATION_FOLDER} | {name.partition("/")[0] for name in weights if "/" in name}
    unwanted = () if trust_remote_code else (".py",)
    return [
        name
        for name in names
        if name not in weights
        and name not in _OWN
        and not name.endswith(unwanted)
        and not any(part.startswith(".") for part in name.split("/"))
        and not ("/" in name and name.partition("/")[0] in folders)
    ]


def carry_files(source: Path, target: Path, trust_remote_code: bool, leave_out: Sequence[str] = ()) -> None:
    """Copy what `carried_names` names, such as configs, tokenizer and processor files and licences, but for pickles.

    Args:
        source: Folder of the original.
        target: Folder of the checkpoint.
        trust_remote_code: Whether code may come along; where it may not, no config refers to it afterwards.
        leave_out: Names of files and folders that are written anew.
    """
    names = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
    for name in carried_names(names, trust_remote_code):
        path = source / name
        if not {name, name.partition("/")[0]}.isdisjoint(leave_out) or _may_be_pickle(path) or not _is_inside(path, source):
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)
        if path.suffix == ".json" and not trust_remote_code:
            _edit_json(target / name, lambda values: values.pop("auto_map", None))


def set_dtype(folder: Path, dtype: torch.dtype) -> None:
    """Note in a checkpoint's config that its weights are of another type than the original's."""
    name = str(dtype).removeprefix("torch.")

    def change(values: dict) -> None:
        for key, value in values.items():
            if key in ("dtype", "torch_dtype") and value is not None:
                values[key] = name
            elif isinstance(value, dict):
                change(value)

    def change_all(values: dict) -> None:
        change(values)
        if "torch_dtype" not in values:
            values["dtype"] = name

    _edit_json(folder / CONFIG, change_all)


def read_config(folder: Path) -> dict:
    """Return what is in a checkpoint's `config.json`.

    Raises:
        DataError: There is none, or it cannot be read.
    """
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if isinstance(values, dict):
            return values
    except (OSError, ValueError):
        pass
    raise DataError(f"{folder / CONFIG} is missing or damaged; download or save the checkpoint again.")


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return what the headers say of every stored tensor of a checkpoint.

    Raises:
        DataError: There are no safetensors files, or some are missing.
        ModelError: A file is damaged.
    """
    found: dict[str, StoredTensor] = {}
    for path in checkpoint_files(folder):
        found |= read_header(path)[0]
    return found


def carry_weights(
    stored: Mapping[str, StoredTensor],
    target: Path,
    wanted: Mapping[str, StoredTensor],
    pruned: Collection[str],
    read_pruned: Callable[[str], torch.Tensor],
    blocks: Sequence[Path] = (),
) -> None:
    """Write every tensor that the original stores, one at a time, and compare with the original what was written.

    Args:
        stored: What the original stores by name.
        target: Folder of the checkpoint.
        wanted: What to write by name: the same, in another type where that was asked for.
        pruned: Names of the stored tensors that are pruned, or a part of what is.
        read_pruned: Returns one of these, of any type.
        blocks: Files with pruned blocks. One that holds just what is wanted is linked, so that it takes no space again.

    Raises:
        OutputError: What was written is not what was wanted, or what was not pruned is not the original's.
    """
    linked = {path: names for path in blocks if _holds(names := read_header(path)[0], wanted)}
    done = {name for names in linked.values() for name in names}
    rest: dict[Path, dict[str, StoredTensor]] = {}
    for name, tensor in stored.items():
        if name not in done:
            rest.setdefault(tensor.path, {})[name] = wanted[name]

    def read(name: str) -> Iterable[bytes | memoryview]:
        if name in pruned:
            tensor = read_pruned(name)
        elif wanted[name].dtype == stored[name].dtype:
            return stored[name].pieces()
        else:
            with safe_open(stored[name].path, framework="pt") as file:
                tensor = file.get_tensor(name)
        if tuple(tensor.shape) != wanted[name].shape:
            raise OutputError(f"cannot store {name} as the original does: its shape is {tuple(tensor.shape)}.")
        return _bytes_released(tensor, FLOATS[wanted[name].dtype])

    count = len(linked) + len(rest)
    names = [SINGLE] if count == 1 else [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    placed: dict[str, str] = {}
    for name, path in zip(names, (*linked, *rest), strict=True):
        if path in linked:
            _link(path, target / name)
        else:
            write_tensors(target / name, rest[path], read, read_header(path)[1])
        placed |= dict.fromkeys(linked[path] if path in linked else rest[path], name)
    if count > 1:
        index = {"metadata": {"total_size": sum(tensor.size for tensor in wanted.values())}, "weight_map": placed}
        (target / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    _compare(stored, stored_tensors(target), wanted, pruned)


def _bytes_released(tensor: torch.Tensor, dtype: torch.dtype) -> Iterator[memoryview]:
    """Yield the bytes of a tensor in some type; where it lies in a file, it is not held on to."""
    yield bytes_of(tensor.to(dtype))
    release_pages(tensor)


def _compare(
    stored: Mapping[str, StoredTensor],
    written: Mapping[str, StoredTensor],
    wanted: Mapping[str, StoredTensor],
    pruned: Collection[str],
) -> None:
    """Compare what was written with the original.

    Raises:
        OutputError: A tensor is missing or was added, is of another type or shape, or was changed though it was not pruned.
    """
    for name in sorted(stored.keys() ^ written.keys()):
        raise OutputError(f"the saved checkpoint {'lacks' if name in stored else 'adds'} {name}, unlike the original.")
    for name, tensor in written.items():
        if (tensor.dtype, tensor.shape) != (wanted[name].dtype, wanted[name].shape):
            raise OutputError(f"the saved checkpoint holds {name} in another type or shape than the original.")
        same = name in pruned or tensor.dtype != stored[name].dtype or same_bytes(tensor, stored[name])
        if not same:
            raise OutputError(f"the saved checkpoint holds other values of {name} than the original, though it was not pruned.")


def cast_all(
    stored: Mapping[str, StoredTensor], dtype: torch.dtype, in_float32: Callable[[str], bool]
) -> dict[str, StoredTensor]:
    """Return what stored tensors are once their floats are of another type.

    Args:
        stored: What is stored by name.
        dtype: The type.
        in_float32: Tells which tensors stay in float32.
    """
    return {
        name: tensor.cast("F32" if in_float32(name) else _NAMES[dtype]) if tensor.dtype in FLOATS else tensor
        for name, tensor in stored.items()
    }


def _holds(names: Mapping[str, StoredTensor], wanted: Mapping[str, StoredTensor]) -> bool:
    return all(
        name in wanted and (tensor.dtype, tensor.shape) == (wanted[name].dtype, wanted[name].shape)
        for name, tensor in names.items()
    )


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy(source, target)


def _may_be_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4).startswith(_PICKLED)


def _is_inside(path: Path, folder: Path) -> bool:
    """Tell whether a file is in a folder, or in the cache of the Hub for it: a link must not lead to what else is there."""
    place, folder = path.resolve(), folder.absolute()
    cache = folder.parent.parent / "blobs" if folder.parent.name == "snapshots" else folder
    return place.is_relative_to(folder.resolve()) or place.is_relative_to(cache.resolve())


def _edit_json(path: Path, change: Callable[[dict], object]) -> None:
    """Change a JSON file; one that is not changed, or is not an object, keeps its bytes."""
    with suppress(ValueError):
        text = path.read_text(encoding="utf-8")
        values = json.loads(text)
        if isinstance(values, dict):
            change(values)
            if values != json.loads(text):
                path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
