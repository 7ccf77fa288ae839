"""Tables that may be larger than memory, in record batches: kept in memory or in a mapped file, read from Parquet, hashed."""

import hashlib
import mmap
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any
from uuid import uuid4
from weakref import WeakSet

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from datasets import Dataset, Features, config

from ..errors import DataError, OutputError


MOST_IN_MEMORY = 2**28
"""Bytes of a table that are kept in memory; what is larger goes into a file."""
TOKENS_IN_BATCH = 2**22
"""Tokens in a record batch or a row group, about: 16 MB of ids and as much of text."""
_MAPPED: WeakSet[mmap.mmap] = WeakSet()


def keep_batches(batches: Iterable[pyarrow.RecordBatch], features: Features) -> Dataset:
    """Make a data set of record batches, in memory when they are few.

    When they are many, they are written to a file without a name among the caches of `datasets` (HF_DATASETS_CACHE) and mapped,
    so that they take no memory that others could not have; it goes when the data set goes, or the process.

    Args:
        batches: Rows with the columns of `features`, taken one at a time.
        features: Columns and types.

    Raises:
        OutputError: The file cannot be written.
    """
    kept: list[pyarrow.RecordBatch] = []
    size, left = 0, iter(batches)
    for batch in left:
        kept.append(batch)
        size += batch.nbytes
        if size > MOST_IN_MEMORY:
            table = _map_batches(chain(kept, left), features.arrow_schema)
            break
    else:
        table = pyarrow.Table.from_batches(kept, features.arrow_schema)
    return Dataset(table, fingerprint=uuid4().hex)  # or datasets would hash all of it for one


def iterate_batches(dataset: Dataset) -> Iterator[pyarrow.RecordBatch]:
    """Yield the rows of a table in batches of about `TOKENS_IN_BATCH`; where one ends depends on the rows alone.

    Args:
        dataset: A table with a column `num_tokens`.
    """
    tokens = pyarrow.compute.sum(dataset.data.column("num_tokens")).as_py() or 1
    rows = max(1, TOKENS_IN_BATCH * len(dataset) // tokens)
    for table in dataset.with_format("arrow").iter(batch_size=rows):
        yield from table.combine_chunks().to_batches()
        _release_pages()


def write_parquet(dataset: Dataset, path: Path) -> None:
    """Write a table with a column `num_tokens` as Parquet, in row groups that can be read one at a time."""
    with pyarrow.parquet.ParquetWriter(path, dataset.data.schema) as writer:
        for batch in iterate_batches(dataset):
            writer.write_batch(batch)


def read_parquet(path: Path, features: Features) -> Dataset:
    """Read a Parquet file, one row group at a time.

    Raises:
        FileNotFoundError: There is none.
        DataError: It is damaged, or lacks a column.
    """
    with _telling_damage(path), pyarrow.parquet.ParquetFile(path) as file:
        missing = set(features) - set(file.schema_arrow.names)
        if missing:
            raise DataError(f"{path} lacks the columns {', '.join(sorted(missing))}.")

        def batches() -> Iterator[pyarrow.RecordBatch]:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, list(features)).select(list(features))
                yield from table.cast(features.arrow_schema).to_batches()

        return keep_batches(batches(), features)


def hash_batches(batches: Iterable[pyarrow.RecordBatch]) -> str:
    """Hash every value of every row, whatever batches they come in; no value and none at all differ.

    Of every column it hashes how many values it has, which of them are missing, the values and, where they are texts or lists,
    their lengths; so two tables are the same exactly when all that is hashed is.
    """
    digests: dict[str, Any] = defaultdict(hashlib.sha256)
    counts: Counter[str] = Counter()
    for batch in batches:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            _hash_column(name, column, digests, counts)
    parts = {name: digest.hexdigest() for name, digest in digests.items()}
    return hashlib.sha256(repr((sorted(counts.items()), sorted(parts.items()))).encode()).hexdigest()


def _hash_column(name: str, column: pyarrow.Array, digests: dict[str, Any], counts: Counter[str]) -> None:
    """Add a piece of a column to what is hashed of it; `counts` says how many values came before."""
    if column.null_count:
        missing = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
        digests[f"{name} missing"].update((missing + counts[name]).astype("<i8"))
    counts[name] += len(column)
    column = column.drop_null()
    if pyarrow.types.is_list(column.type):
        digests[f"{name} lengths"].update(column.value_lengths().to_numpy().astype("<i4"))
        _hash_column(f"{name} values", column.flatten(), digests, counts)
    elif pyarrow.types.is_string(column.type):
        digests[f"{name} lengths"].update(pyarrow.compute.binary_length(column).to_numpy().astype("<i4"))
        _, offsets, text = column.buffers()
        if text is not None:
            ends = np.frombuffer(offsets, np.int32)[[column.offset, column.offset + len(column)]]
            digests[f"{name} values"].update(memoryview(text)[slice(*ends)])
    else:
        digests[f"{name} values"].update(column.to_numpy(zero_copy_only=False))


def _map_batches(batches: Iterator[pyarrow.RecordBatch], schema: pyarrow.Schema) -> pyarrow.Table:
    """Write record batches to a file without a name, and map it."""
    folder = Path(config.HF_DATASETS_CACHE)
    with _open_without_name(folder) as file:
        writer = pyarrow.ipc.new_file(file, schema)
        for batch in batches:  # an error of reading is none of writing
            with _telling_no_room(folder):
                writer.write_batch(batch)
            _release_pages()
        with _telling_no_room(folder):
            writer.close()
            file.flush()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _MAPPED.add(mapped)
    return pyarrow.ipc.open_file(pyarrow.py_buffer(mapped)).read_all()


def _open_without_name(folder: Path) -> IO[bytes]:
    with _telling_no_room(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)


def _release_pages() -> None:
    """Tell the system that what was read of mapped files need not count as this process's memory; it stays readable."""
    for mapped in _MAPPED if hasattr(mmap, "MADV_DONTNEED") else ():
        mapped.madvise(mmap.MADV_DONTNEED)


@contextmanager
def _telling_no_room(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write into {folder}: {error.strerror or error}; make room, or name another folder in HF_DATASETS_CACHE."
        ) from error


@contextmanager
def _telling_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (pyarrow.ArrowException, OSError) as error:  # Arrow says OSError of pages that cannot be decompressed
        raise DataError(f"{path} is damaged or cannot be read ({error}); build the calibration set again.") from None
