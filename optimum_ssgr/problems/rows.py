"""The rows of files and data sets: the columns that are wanted alone, with texts and numbers exactly as they are written.

The readers of the library datasets guess types, which loses answers: integers beyond 64 bits become floats, `007` becomes 7,
and `None` is taken for a missing value. They also download whatever stands beside a problem, such as gigabytes of traces.
"""

import gzip
import io
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from huggingface_hub import HfFileSystem, constants
from tqdm.auto import tqdm

from ..errors import DataError


FILE_FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}
ON_HUB = "hf://"


@dataclass
class Rows:
    """Rows as they were read.

    Args:
        wanted: Columns to keep.
        columns: Names of all columns that there are, in their order.
        rows: Texts, numbers and what holds them, by the names of those columns that are wanted.
    """

    wanted: Collection[str]
    columns: dict[str, None] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def is_wanted(self, column: str) -> bool:
        """Note a column, and tell whether it is to be kept."""
        self.columns[column] = None
        return column in self.wanted

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep what is wanted of rows."""
        for row in rows:
            self.rows.append({column: value for column, value in row.items() if self.is_wanted(column)})


def read_file(path: Path, wanted: Collection[str]) -> Rows:
    """Read a JSON, JSON Lines, Parquet or CSV file.

    Raises:
        DataError: There is no such file, or it is empty.
        Exception: It cannot be read; the libraries raise many kinds.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty.")
    found = Rows(wanted)
    _read_into(found, str(path), None, ",")
    return found


def read_data_set(
    source: str,
    configuration: str | None,
    split: str,
    wanted: Collection[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
) -> tuple[Rows, str]:
    """Read a split of a data set on the Hub, or of a folder that is laid out as one.

    Args:
        source: Its id or folder.
        configuration: Its configuration; None for the only one or the default one.
        split: The split, or a part of it such as `train[:100]`, for which the data set is downloaded as a whole.
        wanted: Columns to keep. Of Parquet files on the Hub only these are downloaded, and everything else is streamed.
        revision: Revision of the data set.
        token: Hub token.

    Returns:
        The rows, and what the library datasets takes for the hash of the data: for a data set on the Hub its commit.

    Raises:
        DataError: There is no such split.
        Exception: It cannot be read; the libraries raise many kinds.
    """
    from datasets import load_dataset_builder

    found, is_local = Rows(wanted), Path(source).exists()
    # a cache of its own: where a card names configurations, datasets takes old rows for those of a changed file
    with TemporaryDirectory() as cache:
        place = cache if is_local else None
        builder = load_dataset_builder(source, configuration, revision=revision, token=token, cache_dir=place)
        files = {str(name): list(paths) for name, paths in (builder.config.data_files or {}).items()}
        is_part = "[" in split or "+" in split
        if is_part or (constants.HF_HUB_OFFLINE and not is_local):  # then it is in the cache, if anywhere
            builder.download_and_prepare()
            _add_data_set(found, builder.as_dataset(split=split, in_memory=is_local))
        elif files and split not in files:
            raise DataError(f"'{source}' has no split '{split}'; it has {', '.join(files)}.")
        elif files and all(_format_of(path) for path in files[split]) and not getattr(builder.config, "field", None):
            for path in tqdm(files[split], "read problems", unit="file", delay=2):
                _read_into(found, path, token, getattr(builder.config, "sep", ","))
        else:
            _add_data_set(found, builder.as_streaming_dataset(split=split))
        return found, builder.hash


def _add_data_set(found: Rows, data: Any) -> None:
    """Read what only the library datasets can."""
    names = data.column_names
    found.add(data if names is None else data.select_columns([name for name in names if found.is_wanted(name)]))


def _format_of(path: str) -> str | None:
    return FILE_FORMATS.get(Path(path.removesuffix(".gz")).suffix)


def _read_into(found: Rows, path: str, token: str | bool | None, separator: str) -> None:
    """Read a file on the disk or the Hub."""
    readers: dict[str, Callable[[Rows, BinaryIO], None]] = {
        "json": _read_json,
        "parquet": _read_parquet,
        "csv": lambda rows, file: _read_csv(rows, file, separator),
    }
    kind = _format_of(path)
    with _open(path, token, streams=kind != "parquet") as raw, _decompressed(path, raw) as file:
        readers[kind](found, file)


def _open(path: str, token: str | bool | None, streams: bool) -> AbstractContextManager[BinaryIO]:
    if not path.startswith(ON_HUB):
        return open(path, "rb")
    # From a Parquet file a few pieces are read, and nothing around them; the others from beginning to end.
    return HfFileSystem(token=token).open(path, "rb", **({"block_size": 0} if streams else {"cache_type": "none"}))


def _decompressed(path: str, file: BinaryIO) -> AbstractContextManager[BinaryIO]:
    return gzip.open(file) if path.endswith(".gz") else nullcontext(file)


def _read_json(found: Rows, file: BinaryIO) -> None:
    """Read one object a line, or a list of them; numbers stay as they are written."""
    lines = io.TextIOWrapper(file, encoding="utf-8-sig")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = _parse(line)
        except json.JSONDecodeError as error:
            if found.rows or line.lstrip()[0] not in "[{":
                raise ValueError(f"line {number} is not JSON ({error.msg})") from None
            value = _parse(line + lines.read())  # written over several lines
        rows = value if isinstance(value, list) else [value]
        if not all(isinstance(row, Mapping) for row in rows):
            raise ValueError(f"line {number} holds something else than objects with names and values")
        found.add(rows)


def _parse(text: str) -> Any:
    keep_number = {"parse_int": str, "parse_float": str}
    return json.loads(text, **keep_number, parse_constant=lambda name: None if name == "NaN" else name)


def _read_csv(found: Rows, file: BinaryIO, separator: str) -> None:
    """Read every field as text."""
    import pandas

    options = {"dtype": str, "na_filter": False, "index_col": False, "encoding": "utf-8-sig"}
    table = pandas.read_csv(file, sep=separator, usecols=found.is_wanted, **options)
    found.add(table.to_dict("records"))


def _read_parquet(found: Rows, file: BinaryIO) -> None:
    from pyarrow.parquet import ParquetFile

    table = ParquetFile(file, pre_buffer=True)
    kept = [name for name in table.schema_arrow.names if found.is_wanted(name)]
    for batch in table.iter_batches(columns=kept):
        found.add(batch.to_pylist())
