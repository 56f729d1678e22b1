"""Files -> rows: dictionaries from column to value, each with the line it began in.

Every fault of a file becomes a DataError that names file, line and column, the text there, what was expected and what
to do. Nothing is repaired or left out on the quiet, except a byte order mark and blank lines.

Does not: know what columns mean (`formats`), split (`splits`), hold less than all rows in memory.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from neuralbot.data.bad_rows import BadRows
from neuralbot.data.strict_json import (
    ROW_LIMIT_BYTES,
    Row,
    fail,
    fault,
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
    """All of `rows`; the first bad row stops."""
    return list(rows(path, BadRows()))


def rows(path: Path, bad: BadRows) -> Iterator[Row]:
    """The rows of a json, jsonl, csv, tsv, txt or parquet file, or of a .gz of the text ones; by its extension.

    json: a list of objects, an object with one list, or an object a line. txt: column "text", a row for each line
    that is not blank. Rows that cannot be used go to `bad`. Raises DataError where the rows behind a fault are lost
    too, and for a file without rows.
    """
    reader, before, row = _reader(path), len(bad.found), None
    try:
        for row in reader(path, bad):
            yield row
    except (OSError, EOFError, zlib.error) as error:
        fail(path, f"cannot be read: {error}", "check its permissions, and that the file is complete")
    if row is None:
        unusable = bad.found[before:]
        first = f"; the first: {unusable[0].problem}" if unusable else ""
        fail(path, f"has no rows: 0 usable of {len(unusable)}{first}", "give a file with at least one row")


def _reader(path: Path) -> Callable[[Path, BadRows], Iterator[Row]]:
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


def _lines(path: Path, bad: BadRows) -> Iterator[tuple[int, str]]:
    """(line number, text with its line end), without a byte order mark. Lines too long or no text go to `bad`."""
    size = 0
    with _open(path) as stream:
        for number, raw in enumerate(iter(lambda: stream.readline(ROW_LIMIT_BYTES + 1), b""), start=1):
            size += len(raw)
            _refuse_bomb(path, size)
            try:
                if len(raw) > ROW_LIMIT_BYTES:
                    too_large(f"{path}:{number}", raw[:400].decode("utf-8", errors="replace"))
                text = _decoded(path, number, raw)
            except DataError as error:
                bad.add(error, raw.decode("utf-8", errors="replace"))
                while len(raw) > ROW_LIMIT_BYTES and not raw.endswith(b"\n"):
                    raw = stream.readline(ROW_LIMIT_BYTES + 1) or b"\n"
            else:
                yield number, text


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


def _jsonl(path: Path, bad: BadRows) -> Iterator[Row]:
    for number, line in _lines(path, bad):
        if not line.strip():
            continue
        try:
            row = row_of_line(path, number, line)
        except DataError as error:
            bad.add(error, line)
        else:
            yield row


def _json(path: Path, bad: BadRows) -> Iterator[Row]:
    text = _text(path)
    start = skip_blanks(text, 0)
    if start == len(text):
        return iter(())
    if text[start] == "[":
        return rows_of_array(path, text, start, bad)
    value, end = parse(path, text, start)
    if skip_blanks(text, end) < len(text):
        return _jsonl(path, bad)  # a .json file with an object on each line is common
    if not isinstance(value, dict):
        fail(f"{path}:{place(text, start)}", "is not a list of objects", "expected [{...}, ...]", text[start:])
    return rows_of_object(path, value, bad)


def _txt(path: Path, bad: BadRows) -> Iterator[Row]:
    for number, line in _lines(path, bad):
        if line.strip():
            yield _numbered({"text": line.rstrip("\r\n")}, number)


def _csv(path: Path, bad: BadRows) -> Iterator[Row]:
    return _table(path, ",", bad)


def _tsv(path: Path, bad: BadRows) -> Iterator[Row]:
    return _table(path, "\t", bad)


def _table(path: Path, delimiter: str, bad: BadRows) -> Iterator[Row]:
    records = _records(path, delimiter)
    line, header = next(records, (0, []))
    names = [name.strip() for name in header]
    doubles = sorted({name for name in names if name and names.count(name) > 1})
    if doubles:
        fail(f"{path}:{line}", f"the column {doubles[0]!r} stands twice in the header", "rename or remove one of them")
    for line, cells in records:
        if len(cells) == len(names):
            # a column without a name is the row number that pandas writes
            yield _numbered({name: cell for name, cell in zip(names, cells, strict=True) if name}, line)
            continue
        what = f"the row has {len(cells)} cells, the header has {len(names)} ({', '.join(names)})"
        then = "add or remove cells; a cell with the separator, a quote or a line break needs double quotes"
        bad.add(fault(f"{path}:{line}", what, then, delimiter.join(cells)), delimiter.join(cells))


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line it began in, cells) of each record that is not blank."""
    line, size = 1, 0

    def fed() -> Iterator[str]:
        nonlocal size
        for _, text in _lines(path, BadRows()):  # a line that is left out may be one of a longer row
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


def _parquet(path: Path, bad: BadRows) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from (Row(record) for record in batch.to_pylist())
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        fail(path, f"is not a usable parquet file: {error}", "write it again, or give json or csv")


def _numbered(values: dict[str, Any], line: int) -> Row:
    row = Row(values)
    row.line = line
    return row


_READERS: dict[str, Callable[[Path, BadRows], Iterator[Row]]] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
    ".txt": _txt,
    ".parquet": _parquet,
}
