"""Files and hub data sets -> rows: dictionaries from column to value, each with the line it began in.

Every fault of a file becomes a DataError that names file, line and column, the text there, what was expected and what
to do. Nothing is repaired or left out on the quiet, except a byte order mark and blank lines.

Does not: know what columns mean (`formats`), split (`splits`), run data set scripts, hold less than all rows in memory.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from neuralbot import hub
from neuralbot.data.strict_json import (
    ROW_LIMIT_BYTES,
    Row,
    fail,
    parse,
    place,
    row_of_line,
    rows_of_array,
    rows_of_object,
    skip_blanks,
    too_large,
)
from neuralbot.errors import DataError

_CHUNK_BYTES = 2**20
_BOMB_BYTES, _BOMB_RATIO = 64 * 2**20, 100  # compressed text beyond both is no data set


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a json, jsonl, csv, tsv, txt or parquet file, or a .gz of the text ones; by its extension.

    json: a list of objects, an object with one list, or an object a line. txt: column "text", a row for each line
    that is not blank. Raises DataError.
    """
    reader = _reader(path)
    try:
        rows: list[dict[str, Any]] = list(reader(path))
    except (OSError, EOFError, zlib.error) as error:
        fail(path, f"cannot be read: {error}", "check its permissions, and that the file is complete")
    if not rows:
        fail(path, "has no rows: 0 usable of 0", "give a file with at least one row")
    return rows


def load_hub(
    name: str,
    config: str | None,
    split: str,
    revision: str | None,
    cache_dir: str | None,
    token: str | None,
    streaming: bool,
    *,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """The rows (the first `limit`) of one split of a hub data set, or of a local folder in that layout.

    Data set scripts are never run: only json, csv, parquet and text files are read. Raises DataError.
    """
    import datasets

    with _hub_errors(name, config, split, revision, token):
        place, commit = _at(name, revision, token)
        loaded = datasets.load_dataset(
            place, config, split=split, revision=commit, cache_dir=cache_dir, token=token, streaming=streaming
        )
        rows: list[dict[str, Any]] = [Row(row) for row in (loaded if limit is None else loaded.take(limit))]
    if not rows:
        raise DataError(f"the data set {name}, split {split!r}, has no rows; choose another split or data set")
    return rows


def hub_splits(
    name: str, config: str | None, revision: str | None, token: str | None, cache_dir: str | None = None
) -> list[str]:
    """The names of the splits that a hub data set or local folder has. Raises DataError."""
    import datasets

    with _hub_errors(name, config, revision=revision, token=token):
        place, commit = _at(name, revision, token)
        where: dict[str, Any] = {"revision": commit, "cache_dir": cache_dir, "token": token}
        try:
            builder = datasets.load_dataset_builder(place, config, **where)
        except ValueError as error:
            _refuse_config(name, config, datasets.get_dataset_config_names(place, **where), error)
        if commit and builder.hash != commit:  # offline, `datasets` takes the copy that was made last
            raise DataError(
                f"the data set {name} is in the cache at another revision than {revision or 'main'!r}: unset "
                "HF_HUB_OFFLINE to download this one"
            )
        return [str(split) for split in datasets.get_dataset_split_names(place, config, **where)]


def _refuse_config(name: str, config: str | None, known: list[str], error: ValueError) -> NoReturn:
    """Raise a DataError that lists the configurations if `config` is none of them, else `error`."""
    if config in known or hub.is_offline():  # offline they cannot be listed
        raise error
    what = f"no configuration {config!r}" if config else "several configurations"
    raise DataError(
        f"the data set {name} has {what}: set data.dataset_config_name to one of {', '.join(known)}"
    ) from error


def _at(name: str, revision: str | None, token: str | None) -> tuple[str, str | None]:
    """Today's name and the commit of a data set of the hub; of a folder, itself and None."""
    return (name, None) if Path(name).is_dir() else hub.find("dataset", name, revision=revision, token=token)


@contextlib.contextmanager
def _hub_errors(
    name: str, config: str | None, split: str = "", revision: str | None = None, token: str | None = None
) -> Iterator[None]:
    """Turns what the `datasets` library raises into a DataError with a next step."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    with hub.in_plain_words("dataset", name, revision, DataError):
        try:
            yield
        except (DatasetsError, OSError, ValueError, RuntimeError, LookupError) as error:
            if isinstance(error, DatasetNotFoundError) and (told := hub.refused_access("dataset", name, token)):
                raise told from error  # `datasets` has lost it on the way
            what = f"the data set {name}{f' ({config})' if config else ''}{f', split {split!r},' if split else ''}"
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{what} cannot be loaded: {reason[:600]}; check data.dataset_name and data.dataset_config_name, or "
                "give files with data.train_file"
            ) from error


def _reader(path: Path) -> Callable[[Path], Iterator[Row]]:
    if path.is_dir():
        fail(path, "is a folder", "name a file in it, or give the folder as data.dataset_name")
    if not path.exists():
        fail(path, "does not exist", f"check the path; it was looked for from {Path.cwd()}")
    if not path.is_file():
        fail(path, "is not a regular file", "copy its content to a file first")
    packed = path.suffix.lower() == ".gz"
    suffix = (Path(path.stem).suffix if packed else path.suffix).lower()
    if suffix not in _READERS or (packed and suffix == ".parquet"):
        known = ", ".join(_READERS)
        fail(path, f"has the extension {path.suffix!r}", f"expected one of {known}, or .gz of the text ones")
    return _READERS[suffix]


# Bytes and lines


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _refuse_bomb(path: Path, size: int) -> None:
    if path.suffix.lower() == ".gz" and size > _BOMB_BYTES and size > _BOMB_RATIO * path.stat().st_size:
        what = f"unpacks to more than {_BOMB_RATIO} times its size"
        fail(path, what, "if this is meant, unpack it and give the unpacked file")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, text with its line end); decoded strictly, held to the row limit, without a byte order mark."""
    size = 0
    with _open(path) as stream:
        for number, raw in enumerate(iter(lambda: stream.readline(ROW_LIMIT_BYTES + 1), b""), start=1):
            size += len(raw)
            _refuse_bomb(path, size)
            if len(raw) > ROW_LIMIT_BYTES:
                too_large(f"{path}:{number}", raw[:400].decode("utf-8", errors="replace"))
            yield number, _decoded(path, number, raw)


def _text(path: Path) -> str:
    parts: list[bytes] = []
    size = 0
    with _open(path) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            size += len(chunk)
            _refuse_bomb(path, size)
            parts.append(chunk)
    return _decoded(path, 1, b"".join(parts))


def _decoded(path: Path, number: int, raw: bytes) -> str:
    """Bytes that begin at line `number` as text. Raises DataError at the first byte that is not UTF-8, or NUL."""
    if number == 1:
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            fail(f"{path}:1:1", "the file is UTF-16, not UTF-8", "save it as UTF-8: `iconv -f UTF-16 -t UTF-8`")
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8")
        where = f"{path}:{place(before, len(before), number)}"
        excerpt = raw[raw.rfind(b"\n", 0, error.start) + 1 :][:400].decode("utf-8", errors="replace").split("\n", 1)[0]
        what = f"byte 0x{raw[error.start]:02x} is not UTF-8"
        fail(where, what, "save the file as UTF-8, for instance with `iconv -f WINDOWS-1252 -t UTF-8`", excerpt)
    if (nul := text.find("\x00")) >= 0:
        where = f"{path}:{place(text, nul, number)}"
        fail(where, "a NUL character", "take it out, text has none", text[max(nul - 40, 0) : nul + 40])
    return text


# One reader for each kind of file


def _jsonl(path: Path) -> Iterator[Row]:
    return (row_of_line(path, number, line) for number, line in _lines(path) if line.strip())


def _json(path: Path) -> Iterator[Row]:
    text = _text(path)
    start = skip_blanks(text, 0)
    if start == len(text):
        return iter(())
    if text[start] == "[":
        return rows_of_array(path, text, start)
    value, end = parse(path, text, start)
    if skip_blanks(text, end) < len(text):
        return _jsonl(path)  # a .json file with an object on each line is common
    if not isinstance(value, dict):
        fail(f"{path}:{place(text, start)}", "is not a list of objects", "expected [{...}, ...]", text[start:])
    return rows_of_object(path, value)


def _txt(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        if line.strip():
            yield _numbered({"text": line.rstrip("\r\n")}, number)


def _csv(path: Path) -> Iterator[Row]:
    return _table(path, ",")


def _tsv(path: Path) -> Iterator[Row]:
    return _table(path, "\t")


def _table(path: Path, delimiter: str) -> Iterator[Row]:
    records = _records(path, delimiter)
    line, header = next(records, (0, []))
    names = [name.strip() for name in header]
    doubles = sorted({name for name in names if name and names.count(name) > 1})
    if doubles:
        fail(f"{path}:{line}", f"the column {doubles[0]!r} stands twice in the header", "rename or remove one of them")
    for line, cells in records:
        if len(cells) != len(names):
            what = f"the row has {len(cells)} cells, the header has {len(names)} ({', '.join(names)})"
            then = "add or remove cells; a cell with the separator, a quote or a line break needs double quotes"
            fail(f"{path}:{line}", what, then, delimiter.join(cells))
        # a column without a name is the row number that pandas writes
        yield _numbered({name: cell for name, cell in zip(names, cells, strict=True) if name}, line)


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line it began in, cells) of each record that is not blank."""
    line, size = 1, 0

    def fed() -> Iterator[str]:
        nonlocal size
        for _, text in _lines(path):
            size += len(text)
            if size > ROW_LIMIT_BYTES:  # an open quote takes in all lines to the end
                too_large(f"{path}:{line}", text)
            yield text

    # the library's own limit is for the whole process and would refuse long articles; it is only ever raised
    csv.field_size_limit(max(csv.field_size_limit(), ROW_LIMIT_BYTES))
    reader = csv.reader(fed(), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line, size = reader.line_num + 1, 0
    except csv.Error as error:
        then = "check the quotes: a cell with a quote is written in double quotes, with the quote doubled"
        fail(f"{path}:{line}", f"invalid table: {error}, in the row that begins here", then)


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from (Row(record) for record in batch.to_pylist())
    except pyarrow.ArrowException as error:
        fail(path, f"is not a usable parquet file: {error}", "write it again, or give json or csv")


def _numbered(values: dict[str, Any], line: int) -> Row:
    row = Row(values)
    row.line = line
    return row


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
    ".txt": _txt,
    ".parquet": _parquet,
}
