"""General text, from a file, the Hub or the embedded reasoner's own."""

from pathlib import Path

from ..errors import DataError
from ..hub.client import limited_silence
from ..reasoner import NAME as EMBEDDED
from ..reasoner.text import documents
from .rows import FILE_FORMATS


@limited_silence()
def load_documents(
    source: str | Path,
    num_characters: int,
    *,
    column: str = "text",
    split: str = "train",
    revision: str | None = None,
    token: str | bool | None = None,
) -> list[str]:
    """Read documents until there are enough; a Hub data set is streamed, so that only its beginning is downloaded.

    Args:
        source: Path of a text, JSON, JSON Lines, Parquet or CSV file, Hub id of a data set such as `allenai/c4`, with
            the name of a configuration after a colon if it has several (`allenai/c4:en`), or `tiny-reasoner` for the text that
            the embedded model was trained on.
        num_characters: Stop when the documents hold this many.
        column: Column of the text.
        split: Split to read.
        revision: Revision of the Hub data set.
        token: Hub token.

    Raises:
        DataError: The source cannot be read, lacks the column or is empty.
    """
    path = Path(source)
    if source == EMBEDDED:
        return list(documents(split))
    if path.suffix == ".txt":
        return [_read_text(path)]
    from datasets import load_dataset

    found: list[str] = []
    try:
        if path.suffix in FILE_FORMATS:
            rows = load_dataset(FILE_FORMATS[path.suffix], data_files=str(path), split="train", streaming=True)
        else:
            name, _, configuration = str(source).partition(":")
            rows = load_dataset(name, configuration or None, split=split, revision=revision, token=token, streaming=True)
        characters = 0
        for row in rows:
            if column not in row:
                raise DataError(f"'{source}' has no column {column}; its columns are {', '.join(row)}.")
            found.append(row[column])
            characters += len(found[-1])
            if characters >= num_characters:
                break
    except DataError:
        raise
    except Exception as error:  # the library raises many kinds; all of them mean that the data cannot be read
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"cannot read text from '{source}': {reason[0]}") from error
    if not found:
        raise DataError(f"'{source}' holds no text.")
    return found


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"there is no file {path}.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text.") from None
